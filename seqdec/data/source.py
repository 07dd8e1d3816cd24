"""Episodes that are yet to be read: a source, and how it becomes a data set or a data folder."""

import json
import logging
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box

from seqdec import storage
from seqdec.data.arrow import from_rows, write_rows
from seqdec.data.check import check
from seqdec.data.dataset import load_folder
from seqdec.data.episode import MAX_MAGNITUDE, Row, RowValue
from seqdec.data.masks import first_missing
from seqdec.errors import DataError, UsageError
from seqdec.spaces.space import quote
from seqdec.spaces.spec import EnvironmentSpec

logger = logging.getLogger(__name__)
Attempt = Row | DataError  # an episode, or what is wrong with it
MANY = 100  # damaged episodes, after which the others are not looked at
AGAIN = "make or fetch the data set again"


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
        attempts: as `read`, but an episode that is damaged is yielded as its error, and those after it follow.

    Example:
        >>> source = Source(spec, read=lambda: map(Episode.to_row, episodes), identity={"kind": "memory"})
    """

    spec: EnvironmentSpec
    read: Callable[[], Iterator[Row]]
    identity: Mapping[str, object]
    num_episodes: int | None = None
    attempts: Callable[[], Iterator[Attempt]] | None = None


def source_of_attempts(
    spec: EnvironmentSpec,
    attempts: Callable[[], Iterator[Attempt]],
    identity: Mapping[str, object],
    num_episodes: int | None = None,
) -> Source:
    """Return a source that refuses damaged episodes: the first is named, and how many there are like it."""
    return Source(spec, partial(_refuse_damaged, attempts), identity, num_episodes, attempts)


def pick(source: Source, episodes: Sequence[int]) -> Source:
    """Return the source of some of its episodes, by their numbers from 0 on; they come in its own order.

    Raises:
        UsageError: none is named, one twice, or one that is not there; `read` raises it where nobody knows their count.
    """
    _check_numbers(episodes, source.num_episodes)
    identity = {**source.identity, "episodes": sorted(episodes)}
    return source_of_attempts(source.spec, partial(_picked, source, frozenset(episodes)), identity, len(episodes))


def without_damaged(source: Source) -> Source:
    """Return the source of those episodes that can be read and trained on; what is left out is said at the end."""
    return Source(source.spec, partial(_undamaged, source), {**source.identity, "on_damaged": "drop-episode"})


def read_along(source: Source) -> Iterator[Row]:
    """Yield the rows, and raise the first damage where it is: who uses rows as they come does not wait for the end."""
    for row in _attempts(source):
        if isinstance(row, DataError):
            raise row
        yield row


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


def _clipped(source: Source) -> Iterator[Attempt]:
    """Bring actions that leave the action space back to its bounds."""
    boxes = {name: leaf for name, leaf in source.spec.action_leaves.items() if isinstance(leaf, Box)}
    for row in _attempts(source):
        is_row = not isinstance(row, DataError)
        yield {**row, **{name: np.clip(row[name], box.low, box.high) for name, box in boxes.items()}} if is_row else row  # pyright: ignore


def _attempts(source: Source) -> Iterator[Attempt]:
    return (source.attempts or source.read)()


def _refuse_damaged(attempts: Callable[[], Iterator[Attempt]]) -> Iterator[Row]:
    num_read, errors = 0, list[DataError]()
    try:
        for row in attempts():
            num_read += 1
            if isinstance(row, DataError):
                errors.append(row)
            elif not errors:
                yield row
            if len(errors) == MANY:
                break
    except DataError:  # of the file, which cannot be read any further
        if not errors:
            raise
    if errors:
        first = "the first " if len(errors) == MANY else ""
        advice = f": {AGAIN}, or leave such episodes out with on_damaged='drop-episode'"
        words = f"{errors[0]} ({len(errors)} of {first}{num_read} episodes are affected)"
        option = errors[0].option
        raise DataError(words if option else words + advice, option=option or "on_damaged") from errors[0]


def _undamaged(source: Source) -> Iterator[Row]:
    num_read, errors = 0, list[DataError]()
    for row in _attempts(source):
        try:
            if isinstance(row, DataError):
                raise row
            check(from_rows([row], source.spec, [num_read], fingerprint="row"), [num_read])
        except DataError as error:
            errors.append(error)
        else:
            yield row
        num_read += 1
    if len(errors) == num_read > 0:
        raise DataError(f"all {num_read} episodes are damaged: {errors[0]}")
    if errors:
        logger.warning("dropped %d of %d episodes that are damaged; the first: %s", len(errors), num_read, errors[0])


def _picked(source: Source, episodes: Collection[int]) -> Iterator[Attempt]:
    num_read = 0
    for num_read, row in enumerate(islice(_attempts(source), max(episodes) + 1), 1):
        if num_read - 1 in episodes:
            yield row
    _check_numbers([*episodes], num_read)


def _check_numbers(episodes: Sequence[int], num_episodes: int | None) -> None:
    if not episodes or len(set(episodes)) < len(episodes):
        raise UsageError("no episode is named, or one twice: give each once", option="episodes")
    wrong = next((number for number in sorted(episodes) if not 0 <= number < (num_episodes or math.inf)), None)
    if wrong is not None:
        has = "from 0 on" if num_episodes is None else f"0 to {num_episodes - 1}"
        raise UsageError(f"episodes are numbered {has}, {wrong} was asked for", option="episodes")


OnNonfinite = Literal["refuse", "drop-episode"]  # and what becomes of damaged ones
IDENTITY = "source.json"


def read(
    source: Source,
    *,
    on_damaged: OnNonfinite = "refuse",
    on_nonfinite: OnNonfinite = "refuse",
    clip_actions: bool = False,
    folder: Path | None = None,
) -> Dataset:
    """Return a source's episodes as a data set: in memory, or mapped from a folder that they are written to."""
    if folder is not None:
        convert(source, folder, on_damaged=on_damaged, on_nonfinite=on_nonfinite, clip_actions=clip_actions)
        return load_folder(folder)
    dataset = from_rows(_rows_of(source, on_damaged, on_nonfinite, clip_actions), source.spec)
    check(dataset, warns=True)
    return dataset


def convert(
    source: Source,
    folder: Path,
    *,
    on_damaged: OnNonfinite = "refuse",
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
        on_damaged: what becomes of an episode that cannot be read or trained on, for whatever reason.
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
    options: dict[str, object] = {"on_nonfinite": on_nonfinite, "clip_actions": clip_actions}
    options |= {} if on_damaged == "refuse" else {"on_damaged": on_damaged}
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
        rows = _rows_of(source, on_damaged, on_nonfinite, clip_actions)
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


def _rows_of(source: Source, on_damaged: OnNonfinite, on_nonfinite: OnNonfinite, clip_actions: bool) -> Iterable[Row]:
    for name, value in (("on_damaged", on_damaged), ("on_nonfinite", on_nonfinite)):
        if value not in ("refuse", "drop-episode"):
            raise UsageError(f"{name} is {quote(value)}: expected 'refuse' or 'drop-episode'")
    if clip_actions:
        source = source_of_attempts(source.spec, partial(_clipped, source), source.identity, source.num_episodes)
    rows = _undamaged(source) if on_damaged == "drop-episode" else source.read()
    return drop_nonfinite(rows, source.spec) if on_nonfinite == "drop-episode" else rows


def _counted(rows: Iterable[Row], progress: Callable[[int], None]) -> Iterator[Row]:
    for row in rows:
        yield row
        progress(1)


def _is_usable(value: RowValue) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return True
    return bool((np.abs(value) <= MAX_MAGNITUDE).all())
