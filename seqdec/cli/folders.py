"""Which folder a word on the command line means, and what cannot work about it.

Told before anything heavy is imported, so that nobody waits for a model only to learn of a wrong --output.
"""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from seqdec.errors import DataError, StorageError, UsageError, suggest_beside

RUN_FILES = ("config.json", "metrics.jsonl", "checkpoints", "policy")
logger = logging.getLogger(__name__)


def run_folder(output: str, data: Sequence[str]) -> Path:
    """Return --output, or runs/ and the name of the data, or of all tasks."""
    tasks = dict.fromkeys(task for task, _ in map(split_task, data) if task)
    return Path(output or f"runs/{'-'.join(tasks) or short_name(split_task(data[0])[1])}")


def short_name(place: str) -> str:
    """Return what a run or data folder is called by default: "hopper-medium-v0" of "minari:mujoco/hopper/medium-v0"."""
    kind = place.partition(":")[0]
    name = name_of(default_data_folder(place) if kind == "minari" else place)
    return Path(name.removesuffix(".gz")).stem if kind in ("hdf5", "npz", "table", "chat") else name


def name_of(place: str) -> str:
    """Return what to call what is made of a data folder or source: "medium-v0" of "minari:hopper/medium-v0"."""
    path = Path(re.sub(r"^(minari|hdf5|npz|table|lerobot|chat):", "", place))
    return path.name if path.name not in ("", "..") else path.resolve().name


def split_task(word: str) -> tuple[str, str]:
    """Return task and place of a word of --data: ("a", "data/x") of "a=data/x", ("", "data/x") of "data/x"."""
    match = re.fullmatch(r"([A-Za-z0-9][\w-]{0,63})=(.+)", word)
    return (match[1], match[2]) if match else ("", word)


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
    manifests = checkpoints.glob("step-*/manifest.json") if checkpoints.is_dir() else []
    names = [path.parent.name.removeprefix("step-") for path in manifests]
    steps = [int(name) for name in names if name.isdecimal()]
    where = f"step {max(steps)}" if steps else "no checkpoint yet"
    raise UsageError(f"{folder} already holds a run ({where}). Use --resume or another --output")


def check_data_folder(name: str, *, again: bool = False) -> Path:
    """Return the folder for a data set, unless it cannot be made, or holds one (but for `again`) or something else."""
    folder = Path(name)
    check_writable(folder)
    is_data = all((folder / name).is_file() for name in ("manifest.json", "dataset_info.json"))
    if os.path.lexists(folder) and not (again and is_data):
        raise UsageError(f"{folder} exists already{'' if is_data else ' and is no data set'}: choose another --output")
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


def check_readable(folder: Path) -> None:
    """Refuse a folder that this user may not look into, which would seem to be empty."""
    if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
        raise StorageError(f"cannot read {folder}: no permission")


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
        raise UsageError(f"no folder '{folder}'{suggest_beside(folder)} (give a run or policy folder)")
    for place in (folder, folder / "policy"):
        check_readable(place)
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
    parts = [part for part in Path(name.removeprefix("minari:")).parts[-2:] if part not in (os.sep, "..")]
    return "data/" + "-".join(part.replace(":", "-") for part in parts or [name_of(name)])
