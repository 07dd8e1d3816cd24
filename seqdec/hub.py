"""Hugging Face's Hub and libraries: is it in reach, one way to download from it, and quiet meanwhile."""

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from seqdec.errors import UsageError, in_words

TIMEOUT = 8.0  # seconds


def hub_host() -> str:
    """Host of the Hub, or of the mirror that HF_ENDPOINT names."""
    return urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname or "huggingface.co"


def is_hub_reachable() -> bool:
    """Try to connect to the Hub; behind a proxy, and where HF_HUB_OFFLINE is set, its client decides by itself."""
    is_offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    if is_offline or any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.create_connection((hub_host(), 443), timeout=TIMEOUT).close()
    except OSError:
        return False
    return True


def cached(repo_id: str, *, repo_type: Literal["model", "dataset"], patterns: Sequence[str]) -> Path | None:
    """Return the folder of a repository as it was downloaded before, or None; `patterns` are the files to look for."""
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            repo_id, repo_type=repo_type, local_files_only=True, allow_patterns=[*patterns]
        )
    except (OSError, ValueError):
        return None
    return Path(folder)


def download(
    repo_id: str, *, repo_type: Literal["model", "dataset"], patterns: Sequence[str], revision: str | None = None
) -> Path:
    """Fetch those files of a repository that are not in the Hub's cache, and return their folder there.

    Raises:
        UsageError: the Hub is out of reach, or refuses.
    """
    import huggingface_hub
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError  # pyright: ignore[reportPrivateImportUsage]

    try:
        if not is_hub_reachable():
            raise LocalEntryNotFoundError("out of reach")
        folder = huggingface_hub.snapshot_download(
            repo_id, repo_type=repo_type, revision=revision, allow_patterns=[*patterns]
        )
    except LocalEntryNotFoundError as error:  # also what its client says where it is told to stay offline
        raise UsageError(f"cannot reach {hub_host()} for {repo_id!r}: pass a local folder") from error
    except (HTTPError, OSError, ValueError) as error:
        reason = repr(in_words(error))[1:-1]
        raise UsageError(f"cannot fetch {repo_id!r} from {hub_host()} ({reason}): pass a local folder") from error
    return Path(folder)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from drawing bars and from telling what it thinks of a model; what matters is checked."""
    import transformers

    verbosity, was_shown = transformers.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's calls into transformers
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if was_shown:
            transformers.utils.logging.enable_progress_bar()
