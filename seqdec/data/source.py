"""Episodes that are yet to be read: a source, and how it becomes a data set or a data folder."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box

from seqdec import storage
from seqdec.data.arrow import from_rows, write_rows
from seqdec.data.check import MAX_MAGNITUDE, check
from seqdec.data.dataset import load_folder
from seqdec.data.episode import Row, RowValue
from seqdec.data.masks import first_missing
from seqdec.errors import DataError, UsageError
from seqdec.spaces.space import quote
from seqdec.spaces.spec import EnvironmentSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Episodes that are yet to be read: nothing but what they are is known of them so far.

    Attributes:
        spec: the environment they come from.
        read: begins at the first episode every time it is called; yields one row an episode, as `Episode.to_row`
            gives them, and raises `DataError` for what is wrong with the file.
        identity: what the rows depend on, as JSON: the kind of source, its name, its options, and size and time of
            change of each file. Two sources of one identity have the same rows.
        num_episodes: how many there are, where that is known beforehand.

    Example:
        >>> source = Source(spec, read=lambda: map(Episode.to_row, episodes), identity={"kind": "memory"})
    """

    spec: EnvironmentSpec
    read: Callable[[], Iterator[Row]]
    identity: Mapping[str, object]
    num_episodes: int | None = None


def file_identity(paths: Iterable[Path]) -> list[list[object]]:
    """Return name, size and time of change of files, for a `Source.identity`."""
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(paths)]


def drop_nonfinite(rows: Iterable[Row], spec: EnvironmentSpec) -> Iterator[Row]:
    """Leave out the episodes that hold nan, an infinity or a number too large to train on, and say how many."""
    num_rows = num_dropped = 0
    for row in rows:
        num_rows += 1
        if first_missing(row, spec) is None and all(_is_usable(value) for value in row.values()):
            yield row
        else:
            num_dropped += 1
    if num_dropped == num_rows > 0:
        raise DataError(f"all {num_dropped} episodes hold nan or an infinity: nothing is left")
    if num_dropped:
        logger.warning("dropped %d of %d episodes that hold nan or an infinity", num_dropped, num_rows)


def clipped(rows: Iterable[Row], spec: EnvironmentSpec) -> Iterator[Row]:
    """Bring actions that leave the action space back to its bounds."""
    boxes = {name: leaf for name, leaf in spec.action_leaves.items() if isinstance(leaf, Box)}
    for row in rows:
        yield {**row, **{name: np.clip(row[name], box.low, box.high) for name, box in boxes.items()}}  # pyright: ignore


OnNonfinite = Literal["refuse", "drop-episode"]
IDENTITY = "source.json"


def read(
    source: Source, *, on_nonfinite: OnNonfinite = "refuse", clip_actions: bool = False, folder: Path | None = None
) -> Dataset:
    """Return a source's episodes as a data set: in memory, or mapped from a folder that they are written to."""
    if folder is not None:
        convert(source, folder, on_nonfinite=on_nonfinite, clip_actions=clip_actions)
        return load_folder(folder)
    dataset = from_rows(_rows_of(source, on_nonfinite, clip_actions), source.spec)
    check(dataset, warns=True)
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
    with storage.await_lock(folder):
        if os.path.lexists(folder):
            if not (folder / "dataset_info.json").is_file():
                raise UsageError(f"{folder} exists already and is no data set: choose another folder", option="output")
            if _is_of(folder, identity, may_be_damaged=replace):
                return False
            if not replace:
                holds = "exists already and holds something else (another source, or other options)"
                advice = "choose another folder, or give replace=True"
                raise UsageError(f"{folder} {holds}: {advice}", option="replace")
        rows = _rows_of(source, on_nonfinite, clip_actions)
        with storage.publish(folder, replace=replace) as target:
            write_rows(_counted(rows, progress) if progress else rows, source.spec, target)
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
        raise DataError(f"{error}, or make it again with replace=True", option="replace") from error


def _rows_of(source: Source, on_nonfinite: OnNonfinite, clip_actions: bool) -> Iterable[Row]:
    if on_nonfinite not in ("refuse", "drop-episode"):
        raise UsageError(f"on_nonfinite is {quote(on_nonfinite)}: expected 'refuse' or 'drop-episode'")
    rows = clipped(source.read(), source.spec) if clip_actions else source.read()
    return drop_nonfinite(rows, source.spec) if on_nonfinite == "drop-episode" else rows


def _counted(rows: Iterable[Row], progress: Callable[[int], None]) -> Iterator[Row]:
    for row in rows:
        yield row
        progress(1)


def _is_usable(value: RowValue) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return True
    return bool((np.abs(value) <= MAX_MAGNITUDE).all())
