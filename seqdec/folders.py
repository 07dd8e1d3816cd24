"""Which folder a word on the command line means, and what cannot work about it.

Told before anything heavy is imported, so that nobody waits for a model only to learn of a wrong --output.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from seqdec.errors import DataError, StorageError, UsageError, suggest

RUN_FILES = ("config.json", "metrics.jsonl", "checkpoints", "policy")

logger = logging.getLogger(__name__)


def run_folder(output: str, data: Sequence[str]) -> Path:
    """Return --output, or runs/ and the name of the data."""
    return Path(output or f"runs/{Path(data[0].removeprefix('minari:')).name}")


def check_run_folder(folder: Path, *, resume: bool) -> None:
    """Refuse, before anything heavy, a run folder that cannot be written or that something is in.

    Raises:
        UsageError: A file is in the way, or the folder holds a run or other files.
        StorageError: It cannot be written.
    """
    check_writable(folder)
    names = sorted(name for name in os.listdir(folder) if not name.startswith(".")) if folder.is_dir() else []
    if resume or names in ([], ["config.json"]):  # a run that was refused before its first step left its config
        return
    if not set(names) & set(RUN_FILES):
        raise UsageError(f"{folder} is not empty (it has {names[0]!r}). Choose another --output")
    checkpoints = folder / "checkpoints"
    steps = sorted(checkpoints.glob("step-*/manifest.json")) if checkpoints.is_dir() else []
    where = f"step {int(steps[-1].parent.name.removeprefix('step-'))}" if steps else "no checkpoint yet"
    raise UsageError(f"{folder} already holds a run ({where}). Use --resume or another --output")


def check_new_folder(name: str) -> Path:
    """Return the folder for a new data set, unless something is there or it cannot be made."""
    folder = Path(name)
    check_writable(folder)
    if os.path.lexists(folder):
        raise UsageError(f"{folder} exists already: choose another --output, or see `seqdec data show {folder}`")
    return folder


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written in, without making it."""
    nearest = folder
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not os.path.isdir(nearest):
        raise UsageError(f"{nearest} is a file: choose another --output")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write in {nearest}: no permission, or read-only. Choose another --output")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}. Choose another --output") from error


def find_policy(folder: Path) -> tuple[Path, Path]:
    """Return the policy folder that a run folder or policy folder stands for, and where its report goes."""
    if folder.is_file():
        raise UsageError(f"'{folder}' is a file: give a run or policy folder")
    if not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UsageError(f"no folder '{folder}'{suggest(folder.name, siblings)} (give a run or policy folder)")
    if (folder / "policy").is_dir():
        return folder / "policy", folder
    if (folder / "policy.json").exists() or (folder / "codecs.safetensors").exists():
        is_of_run = folder.name == "policy" and (folder.parent / "config.json").exists()
        return folder, folder.parent if is_of_run else Path("runs") / f"{folder.resolve().name}-report"

    from seqdec import storage

    saved = storage.published(folder / "checkpoints", "step-") if (folder / "checkpoints").is_dir() else []
    if not saved:
        raise DataError(f"{folder} holds no policy (no policy/, no policy.json, no checkpoint): train one first")
    logger.warning("%s is not trained to its end: using %s", folder, saved[-1].name)
    return saved[-1] / "policy", folder


def default_data_folder(name: str) -> str:
    """Return data/hopper-medium-v0 for minari:mujoco/hopper/medium-v0."""
    parts = Path(name.removeprefix("minari:")).parts[-2:]
    return "data/" + "-".join(part.replace(":", "-") for part in parts if part != os.sep)
