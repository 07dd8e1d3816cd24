"""Where episodes come from: data sets of others in their own formats, an environment played here, a folder.

    Source -> read     a data set in memory, checked
           -> convert  a data folder, written as it is read; nothing is done for what is there already

Only sources named by an id that is not on this machine reach for the network.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from datasets import Dataset

from seqdec import hdf5_files, lerobot_files, minari_files, storage, table_files
from seqdec.checks import check as check
from seqdec.columns import column as column
from seqdec.columns import environment_of as environment_of
from seqdec.columns import lengths as lengths
from seqdec.columns import returns as returns
from seqdec.description import describe as describe
from seqdec.environment import EnvironmentSpec
from seqdec.errors import DataError, UsageError, suggest
from seqdec.hub import hub_host, is_hub_reachable
from seqdec.recording import record as record
from seqdec.rows import Row, Source, drop_nonfinite, from_rows, open_folder, write_rows
from seqdec.rows import clip_actions as clipped
from seqdec.rows import from_episodes as from_episodes
from seqdec.rows import save as save
from seqdec.sample import scripted_cartpole as scripted_cartpole
from seqdec.spaces import quote
from seqdec.table_columns import Columns

OnNonfinite = Literal["refuse", "drop-episode"]
IDENTITY = "source.json"


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
    source = hdf5_files.source(path, spec, max_episode_steps=max_episode_steps)
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
    source = table_files.source(name, columns, spec, split=split, config=config)
    return read(source, on_nonfinite=on_nonfinite, clip_actions=clip_actions, folder=folder)


def from_lerobot(
    name: str | Path,
    *,
    cameras: lerobot_files.Cameras = "read",
    image_size: tuple[int, int] | None = None,
    episodes: Sequence[int] | None = None,
    on_nonfinite: OnNonfinite = "refuse",
    folder: Path | None = None,
) -> Dataset:
    """Read a LeRobot data set, a folder or a Hub id; see `lerobot_files.source` and `from_minari`."""
    source = lerobot_files.source(name, cameras=cameras, image_size=image_size, episodes=episodes)
    return read(source, on_nonfinite=on_nonfinite, folder=folder)


def minari_source(name: str | Path) -> Source:
    """Return a Minari data set, by id or folder, as episodes that are yet to be read."""
    return minari_files.source(_minari_folder(str(name)))


def read(
    source: Source,
    *,
    on_nonfinite: OnNonfinite = "refuse",
    clip_actions: bool = False,
    folder: Path | None = None,
) -> Dataset:
    """Return a source's episodes as a data set: in memory, or mapped from a folder that they are written to."""
    if folder is not None:
        convert(source, folder, on_nonfinite=on_nonfinite, clip_actions=clip_actions)
        return load(folder)
    dataset = from_rows(_chosen_rows(source, on_nonfinite, clip_actions), source.spec)
    check(dataset)
    return dataset


def convert(
    source: Source,
    folder: Path,
    *,
    on_nonfinite: OnNonfinite = "refuse",
    clip_actions: bool = False,
    replace: bool = False,
    progress: Callable[[int], None] | None = None,
) -> bool:
    """Write a source's episodes to a data folder as they are read, whole or not at all.

    Nothing is done where the folder holds the same source already, read with the same options. Another process that
    is at the same folder is waited for.

    Args:
        source: what to read.
        folder: the data folder.
        on_nonfinite: what becomes of an episode that holds nan or an infinity.
        clip_actions: bring actions that leave the action space back to its bounds instead of refusing them.
        replace: whether a data folder of something else, or one that is damaged, gives way.
        progress: called with the number of episodes that were read since the last call.

    Returns:
        whether anything was written.

    Raises:
        UsageError: the folder is there and holds something else.
        DataError: something is wrong with the data.
    """
    options = {"on_nonfinite": on_nonfinite, "clip_actions": clip_actions}
    identity = {"source": dict(source.identity), "spec": source.spec.to_json(), "options": options}
    with storage.alone(folder):
        if os.path.lexists(folder):
            if not (folder / "dataset_info.json").is_file():
                raise UsageError(f"{folder} exists already and is no data set: choose another --output")
            if _is_of(folder, identity, may_be_damaged=replace):
                return False
            if not replace:
                raise UsageError(
                    f"{folder} exists already and holds something else (another source, or other options): choose "
                    "another --output, or give --replace"
                )
        rows = _chosen_rows(source, on_nonfinite, clip_actions)
        with storage.publish(folder, replace=replace) as target:
            write_rows(_counted(rows, progress), source.spec, target)
            storage.write_json(target / IDENTITY, identity)
    return True


def _is_of(folder: Path, identity: Mapping[str, object], *, may_be_damaged: bool) -> bool:
    if not (folder / IDENTITY).is_file():
        return False
    try:
        storage.verify(folder)
        return storage.read_json(folder / IDENTITY) == json.loads(json.dumps(identity))
    except DataError as error:
        if may_be_damaged:
            return False
        raise DataError(f"{error}, or make it again with --replace") from error


def _chosen_rows(source: Source, on_nonfinite: OnNonfinite, clip_actions: bool) -> Iterable[Row]:
    if on_nonfinite not in ("refuse", "drop-episode"):
        raise UsageError(f"on_nonfinite is {quote(on_nonfinite)}: expected 'refuse' or 'drop-episode'")
    rows: Iterable[Row] = source.read()
    if clip_actions:
        rows = clipped(rows, source.spec)
    return drop_nonfinite(rows, source.spec) if on_nonfinite == "drop-episode" else rows


def _counted(rows: Iterable[Row], progress: Callable[[int], None] | None) -> Iterator[Row]:
    for row in rows:
        yield row
        if progress is not None:
            progress(1)


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
        return hdf5_files.source(place, spec)
    if kind == "table":
        return table_files.source(place, columns or Columns(), spec)
    return lerobot_files.source(place) if kind == "lerobot" else None


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
    storage.verify(folder)
    dataset = open_folder(folder)
    check(dataset)
    return dataset


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
