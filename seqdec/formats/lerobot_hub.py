"""Where the files of a LeRobot data set are: in a folder, where LeRobot records to, or in the Hub's cache.

Only what is in none of these places is fetched, and of links, only those inside the Hub's cache are followed.
"""

import os
import re
from collections.abc import Iterable
from glob import escape
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub.errors import (
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] of its client, httpx or httpx2
    LocalEntryNotFoundError,
)

from seqdec import storage
from seqdec.errors import UsageError
from seqdec.hub import hub_host, is_hub_reachable
from seqdec.spaces.space import quote

META = ["meta/*"]


def locate(name: str) -> tuple[Path, str | None]:
    """Return the folder of a data set, with meta/ in it, and the id whose further files `fetch` may have to get.

    Raises:
        UsageError: neither a folder nor an id, or an id that is not here and cannot be fetched.
    """
    if name and Path(name).is_dir():
        return Path(name), None
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) or ".." in name:
        raise UsageError(f"{quote(name)} is neither a folder with a LeRobot data set nor a Hub id like 'lerobot/pusht'")
    home = os.environ.get("HF_LEROBOT_HOME") or os.path.join(huggingface_hub.constants.HF_HOME, "lerobot")
    recorded = Path(home).expanduser() / name
    if (recorded / "meta" / "info.json").is_file():
        return recorded, None
    cached = _cached(name)
    if cached is not None and any((cached / "meta" / part).exists() for part in ("episodes", "episodes.jsonl")):
        return cached, name
    return _download(name, None, META), name


def fetch(repo_id: str, folder: Path, names: Iterable[str], *, whole: bool) -> None:
    """Fetch those files of a snapshot that are not in the Hub's cache; `whole` asks for all that their folders hold."""
    lacking = [name for name in names if not (folder / name).exists()]
    # One pattern a folder: a data set may have a hundred thousand files, and each is compared with each pattern.
    patterns = {f"{escape(os.path.dirname(name))}/*" if whole else escape(name) for name in lacking}
    if patterns:
        _download(repo_id, folder.name, sorted(patterns))


def member(folder: Path, name: str) -> Path:
    """Return where a file of the data set is. The only links followed are those of the Hub's cache to its own files.

    Raises:
        DataError: the name leads out of the folder, or through another link.
    """
    parts = PurePosixPath(name).parts
    path, snapshot = folder.joinpath(*parts), folder.resolve()
    blobs = snapshot.parent.parent / "blobs"
    if (
        snapshot.parent.name == "snapshots"
        and ".." not in parts
        and path.is_symlink()
        and path.resolve().parent == blobs
    ):
        return path
    return storage.path_inside(folder, name)


def _cached(repo_id: str) -> Path | None:
    try:
        folder = huggingface_hub.snapshot_download(
            repo_id, repo_type="dataset", local_files_only=True, allow_patterns=META
        )
    except (OSError, ValueError):
        return None
    return Path(folder)


def _download(repo_id: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        if not is_hub_reachable():
            raise LocalEntryNotFoundError("out of reach")
        folder = huggingface_hub.snapshot_download(
            repo_id, repo_type="dataset", revision=revision, allow_patterns=patterns
        )
    except LocalEntryNotFoundError as error:  # also what its client says where it is told to stay offline
        raise UsageError(f"cannot reach {hub_host()} for {quote(repo_id)}: pass a local folder") from error
    except (HTTPError, OSError, ValueError) as error:
        reason = quote(" ".join(str(error).split())[:160])[1:-1]
        raise UsageError(
            f"cannot fetch the data set {quote(repo_id)} from {hub_host()} ({type(error).__name__}: {reason}): "
            "pass a local folder"
        ) from error
    return Path(folder)
