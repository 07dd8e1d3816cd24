"""Which environment episodes come from: spaces and origin as plain data. Naming an environment never makes it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeGuard

import gymnasium

from seqdec.errors import DataError, UsageError, in_words, suggest
from seqdec.spaces.leaves import leaf_kind, leaves
from seqdec.spaces.space import (
    MAX_ENTRIES,
    describe_space,
    is_int,
    kind_of,
    quote,
    space_from_json,
    space_to_json,
    supported,
)


@dataclass(frozen=True)
class EnvironmentSpec:
    """Spaces and origin of the environment that episodes were recorded in; plain data, nothing is made.

    Attributes:
        entry_point: as the file has it; only ever compared.
        wrappers: entry points of additional wrappers that the file names; never made.
        reference_returns: the returns of score 0 and score 100.
        requirements: what pip must install for the environment.
        missing: leaves of the observation whose values may be missing ("observation", "observation.camera").

    Example:
        >>> spec = spec_of_env(gymnasium.make("CartPole-v1"))
        >>> spec.action_space
        Discrete(2)
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    id: str | None = None
    kwargs: Mapping[str, object] = field(default_factory=dict)
    max_episode_steps: int | None = None
    entry_point: str | None = None
    wrappers: tuple[str, ...] = ()
    reference_returns: tuple[float, float] | None = None
    requirements: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Bring the spaces to the supported kinds and refuse names that are no leaf of the observation."""
        object.__setattr__(self, "observation_space", supported(self.observation_space, "observation"))
        object.__setattr__(self, "action_space", supported(self.action_space, "action"))
        for name, leaf in self.action_leaves.items():
            if leaf_kind(leaf) in ("image", "text"):
                raise UsageError(f"{name} is {describe_space(leaf)}: images and texts can be observed, not acted")
        observed = self.observation_leaves
        for name in self.missing:
            if name not in observed:
                nearest = suggest(name, observed)
                raise UsageError(f"no leaf of the observation is called {quote(name)}{nearest}")

    @cached_property
    def observation_leaves(self) -> dict[str, gymnasium.Space]:
        """Return the observation's leaf spaces by variable name."""
        return leaves(self.observation_space, "observation")

    @cached_property
    def action_leaves(self) -> dict[str, gymnasium.Space]:
        """Return the action's leaf spaces by variable name."""
        return leaves(self.action_space, "action")

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values; infinite bounds are words."""
        return {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "id": self.id,
            "kwargs": dict(self.kwargs),
            "max_episode_steps": self.max_episode_steps,
            "entry_point": self.entry_point,
            "wrappers": list(self.wrappers),
            "reference_returns": None if self.reference_returns is None else list(self.reference_returns),
            "requirements": list(self.requirements),
            "missing": list(self.missing),
        }

    @staticmethod
    def from_json(value: Mapping[str, object]) -> "EnvironmentSpec":
        """Read what `to_json` wrote.

        Raises:
            DataError: a key is missing, unknown or holds nonsense.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"an environment's description is {kind_of(value)}: expected an object")
        known = set(EnvironmentSpec.__dataclass_fields__)
        for key in value:
            if key not in known:
                raise DataError(f"unknown key {quote(key)} in an environment's description{suggest(str(key), known)}")
        for key in ("observation_space", "action_space"):
            if key not in value:
                raise DataError(f"an environment's description has no {key}")
        try:
            return EnvironmentSpec(
                observation_space=space_from_json(value["observation_space"], "observation"),
                action_space=space_from_json(value["action_space"], "action"),
                id=_word_or_none(value, "id"),
                kwargs=_kwargs(value.get("kwargs", {})),
                max_episode_steps=_step_limit(value.get("max_episode_steps")),
                entry_point=_word_or_none(value, "entry_point"),
                wrappers=_words(value, "wrappers"),
                reference_returns=_reference_returns(value.get("reference_returns")),
                requirements=_words(value, "requirements"),
                missing=_words(value, "missing"),
            )
        except UsageError as error:  # here it is a file that is wrong
            raise DataError(str(error)) from error


def _kwargs(value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise DataError(f"the environment's kwargs are {kind_of(value)}: expected an object")
    try:
        size = len(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the environment's kwargs are no plain JSON: {in_words(error)}") from error
    if size > MAX_ENTRIES:
        raise DataError(f"the environment's kwargs have {size} characters: at most {MAX_ENTRIES} are read")
    return dict(value)


def _step_limit(value: object) -> int | None:
    if value is None or (is_int(value) and 1 <= value <= 10**9):
        return value
    raise DataError(f"max_episode_steps is {quote(value)}: expected a whole number from 1 on, or null")


def _reference_returns(value: object) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(_is_number(entry) for entry in value):
        raise DataError(f"reference_returns is {quote(value)}: expected the returns of score 0 and score 100")
    if value[0] == value[1]:
        raise DataError(f"reference_returns are both {value[0]}: score 0 and score 100 must differ")
    return float(value[0]), float(value[1])


def _words(value: Mapping[str, object], key: str) -> tuple[str, ...]:
    words = value.get(key, [])
    if not isinstance(words, list | tuple) or len(words) > 100:
        raise DataError(f"{key} is {kind_of(words)}: expected a list of at most 100 texts")
    for word in words:
        if not isinstance(word, str) or len(word) > 1000:
            raise DataError(f"{key} holds {quote(word)}: expected texts of at most 1000 characters")
    return tuple(words)


def _word_or_none(value: Mapping[str, object], key: str) -> str | None:
    word = value.get(key)
    if word is None or (isinstance(word, str) and len(word) <= 1000):
        return word
    raise DataError(f"the environment's {key} is {quote(word)}: expected a text of at most 1000 characters")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
