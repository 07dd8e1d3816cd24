"""Where episodes come from: data sets of others in their own formats, an environment played here, a folder.

    Source -> read     a data set in memory, checked
           -> convert  a data folder, written as it is read; nothing is done for what is there already

Only sources named by an id that is not on this machine reach for the network.
"""

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from seqdec.data.dataset import load_folder
from seqdec.data.source import OnNonfinite, Source, read
from seqdec.errors import DataError, UsageError, suggest
from seqdec.formats import hdf5, lerobot, lerobot_spaces, minari, table
from seqdec.formats.columns import Columns
from seqdec.hub import hub_host, is_hub_reachable
from seqdec.spaces.space import quote
from seqdec.spaces.spec import EnvironmentSpec


def from_minari(
    name: str | Path, *, on_nonfinite: OnNonfinite = "refuse", clip_actions: bool = False, folder: Path | None = None
) -> Dataset:
    """Read a Minari data set: a local folder or an id, which is fetched once if it is not here.

    Args:
        name: a folder, or an id such as "mujoco/hopper/medium-v0" below MINARI_DATASETS_PATH.
        on_nonfinite: what becomes of an episode that holds nan or an infinity.
        clip_actions: bring actions that leave the action space back to its bounds instead of refusing them.
        folder: where to keep the data set, which is then mapped from there and not held in memory.
    """
    return read(minari_source(name), on_nonfinite=on_nonfinite, clip_actions=clip_actions, folder=folder)


def from_hdf5(
    path: str | Path,
    spec: EnvironmentSpec | None = None,
    *,
    max_episode_steps: int | None = None,
    on_nonfinite: OnNonfinite = "refuse",
    clip_actions: bool = False,
    folder: Path | None = None,
) -> Dataset:
    """Read a flat HDF5 file as D4RL has them; see `hdf5_files.source` for what ends an episode and `from_minari`."""
    source = hdf5.source(path, spec, max_episode_steps=max_episode_steps)
    return read(source, on_nonfinite=on_nonfinite, clip_actions=clip_actions, folder=folder)


def from_table(
    name: str | Path | Sequence[Path],
    columns: Columns,
    spec: EnvironmentSpec | None = None,
    *,
    split: str = "train",
    config: str | None = None,
    on_nonfinite: OnNonfinite = "refuse",
    clip_actions: bool = False,
    folder: Path | None = None,
) -> Dataset:
    """Read Parquet, JSON lines, CSV or a data set of the Hub; see `table_files.source` and `from_minari`."""
    source = table.source(name, columns, spec, split=split, config=config)
    return read(source, on_nonfinite=on_nonfinite, clip_actions=clip_actions, folder=folder)


def from_lerobot(
    name: str | Path,
    *,
    cameras: lerobot_spaces.Cameras = "read",
    image_size: tuple[int, int] | None = None,
    episodes: Sequence[int] | None = None,
    on_nonfinite: OnNonfinite = "refuse",
    folder: Path | None = None,
) -> Dataset:
    """Read a LeRobot data set, a folder or a Hub id; see `lerobot_files.source` and `from_minari`."""
    source = lerobot.source(name, cameras=cameras, image_size=image_size, episodes=episodes)
    return read(source, on_nonfinite=on_nonfinite, folder=folder)


def minari_source(name: str | Path) -> Source:
    """Return a Minari data set, by id or folder, as episodes that are yet to be read."""
    return minari.source(_minari_folder(str(name)))


def source_of(name: str, spec: EnvironmentSpec | None = None, columns: Columns | None = None) -> Source | None:
    """Return the source that "minari:ID", "hdf5:FILE", "table:NAME" or "lerobot:NAME" means; None for a plain folder.

    Args:
        name: the word.
        spec: the environment of an HDF5 file or a table; seen in the file by default.
        columns: what is in which column of a table; seqdec's own names by default.
    """
    kind, _, place = name.partition(":")
    if kind == "minari":
        return minari_source(place)
    if kind == "hdf5":
        return hdf5.source(place, spec)
    if kind == "table":
        return table.source(place, columns or Columns(), spec)
    return lerobot.source(place) if kind == "lerobot" else None


def load(folder_or_id: str | Path) -> Dataset:
    """Open a data set: a folder that `save` wrote (memory-mapped), a folder of Minari's, or a word of `source_of`."""
    name = str(folder_or_id)
    source = source_of(name)
    if source is not None:
        return read(source)
    folder = Path(name)
    if not folder.is_dir():
        parent = folder.parent
        siblings = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
        nearest = suggest(folder.name, siblings)
        raise UsageError(f"no folder {quote(name)}{nearest or '; for a Minari data set write minari:ID'}")
    if not (folder / "state.json").exists() and (folder / "data" / "metadata.json").exists():
        return from_minari(name)
    return load_folder(folder)


def _minari_folder(name: str) -> Path:
    """Return the folder that holds metadata.json, fetching an id that is not here."""
    for folder in (Path(name) / "data", Path(name)):
        if (folder / "metadata.json").is_file():
            return folder
    if not re.fullmatch(r"(?:[\w.-]+/)*[\w.-]+-v\d+", name) or ".." in name.split("/"):
        raise UsageError(f"{quote(name)} is neither a folder with a Minari data set nor an id like 'name/set-v0'")
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    folder = root / name / "data"
    if not (folder / "metadata.json").is_file():
        _download(name, folder)
    return folder


def _download(name: str, folder: Path) -> None:
    import minari

    try:
        if not is_hub_reachable():
            raise ConnectionError("out of reach")
        with contextlib.redirect_stdout(sys.stderr):  # Minari prints; a library's output is its caller's
            minari.download_dataset(name, force_download=folder.parent.exists())
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"no Minari data set {quote(name)} in {folder.parents[1]}, and fetching it from {hub_host()} failed "
            f"({type(error).__name__}: {reason}); put it there or set MINARI_DATASETS_PATH"
        ) from error
    if not (folder / "metadata.json").is_file():
        raise DataError(f"Minari fetched {quote(name)}, but {folder / 'metadata.json'} is missing")
