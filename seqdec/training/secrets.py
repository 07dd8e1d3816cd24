"""Secrets in settings: what a tracker shows of a run, which may be public, is shown without them."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import overload

HIDDEN = "(hidden)"
LEAST_SECRET = 8  # letters of an environment variable's value: shorter ones stand in other words, too
# whole words of a name: of `max_tokens`, `tokenizer` and `author` nothing is a secret
_WORDS = r"token|secret|passw(?:or)?d|passphrase|credentials?|(?:api|access|private|secret)[_-]?key|signature"
_NAME = rf"[\w-]*(?:{_WORDS}|auth(?:orization)?)(?![a-z])[\w-]*"
_IS_NAME = re.compile(_NAME, re.IGNORECASE)
# user:password@ in an address; name=value in one, or "name": "value" in JSON; keys that say what they are
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_NAMED = re.compile(rf"({_NAME}[\"']?\s*[=:]\s*[\"']?)(?:(?:Bearer|Basic|Token)\s+)?[^\s\"'&,;}}]+", re.IGNORECASE)
_KEY = re.compile(r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abprs]-|AKIA|wandb_v1_)[\w-]{12,}")


@overload
def without_secrets(value: Mapping[str, object]) -> dict[str, object]: ...
@overload
def without_secrets(value: object) -> object: ...
def without_secrets(value: object) -> object:
    """Return settings with the secrets in their texts hidden: by name, by form, or as the environment has them."""
    if isinstance(value, Mapping):
        return {name: HIDDEN if _is_secret(name, item) else without_secrets(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [without_secrets(item) for item in value]
    if not isinstance(value, str):
        return value
    for name, secret in os.environ.items():
        if _IS_NAME.fullmatch(name) and len(secret) >= LEAST_SECRET:
            value = value.replace(secret, HIDDEN)
    return _KEY.sub(HIDDEN, _NAMED.sub(rf"\1{HIDDEN}", _IN_ADDRESS.sub(HIDDEN, value)))


def _is_secret(name: object, value: object) -> bool:
    return isinstance(value, str) and value != "" and _IS_NAME.fullmatch(str(name)) is not None
