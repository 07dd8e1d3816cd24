"""Episodes at rest: a `datasets.Dataset` with one row an episode.

    observation  [T, dim] float32 | [T] int64     final       the observation after the last step
    action       [T, dim] float32 | [T] int64     terminated, truncated, text
    reward       [T] float32                      info.description: the EnvironmentSpec as JSON

The Arrow buffers are the arrays: `column` hands out all timesteps of all episodes without copying them.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import datasets
import gymnasium
import numpy as np
import pyarrow as pa
from datasets import Array2D, Dataset, DatasetInfo, Features, List, Value
from datasets.features.features import Array2DExtensionType
from datasets.table import InMemoryTable, MemoryMappedTable, Table, concat_tables
from gymnasium.spaces import Box, Discrete

from seqdec import storage
from seqdec.environment import EnvironmentSpec
from seqdec.episode import Episode, RowValue
from seqdec.errors import DataError, UsageError, suggest
from seqdec.spaces import describe_space, quote

MAX_CHUNK_TIMESTEPS = 1_000_000
# Squares and sums of larger numbers leave float32.
MAX_MAGNITUDE = 1e18

logger = logging.getLogger(__name__)
Row = Mapping[str, RowValue]


def from_episodes(episodes: Iterable[Episode], spec: EnvironmentSpec) -> Dataset:
    """Return a data set of these episodes, checked against the spec; an iterator is read as it comes."""
    dataset = from_rows((_row_of(episode) for episode in episodes), spec)
    check(dataset)
    return dataset


def from_rows(rows: Iterable[Row], spec: EnvironmentSpec) -> Dataset:
    """Return a data set of rows as `Episode.to_row` gives them; their values are not checked yet."""
    features = _features(spec)
    widest = max(_dim(space) for space in (spec.observation_space, spec.action_space))
    limit = max(1, min(MAX_CHUNK_TIMESTEPS, 2**30 // widest))  # Arrow counts a chunk's entries in 31 bits
    tables, waiting, num_waiting = [], [], 0
    for index, row in enumerate(rows):
        num_steps = np.size(row["reward"])
        _check_shapes(row, spec, index)
        if waiting and num_waiting + num_steps > limit:
            tables.append(_table(waiting, features, spec))
            waiting, num_waiting = [], 0
        waiting.append(row)
        num_waiting += num_steps
    if waiting:
        tables.append(_table(waiting, features, spec))
    if not tables:
        raise DataError("there are no episodes: give at least one")
    return _dataset(InMemoryTable(pa.concat_tables(tables)), spec)


def environment_of(dataset: Dataset) -> EnvironmentSpec:
    """Return the spec of the environment that a data set was recorded in."""
    try:
        value = json.loads(dataset.info.description)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "the data set does not describe its environment: make it with seqdec.sources, which keeps the "
            "environment as JSON in info.description"
        ) from error
    return EnvironmentSpec.from_json(value)


def column(dataset: Dataset, name: str) -> list[np.ndarray]:
    """Return the timesteps of all episodes, one array an Arrow chunk: [timesteps, dim] or [timesteps].

    Not a copy, but a view of the data set's memory, unless episodes were selected out of order.
    """
    return [_flat(chunk) for chunk in _chunks(dataset, name)]


def lengths(dataset: Dataset) -> np.ndarray:
    """Return the number of timesteps of each episode: [episodes] int64."""
    found = [chunk.value_lengths().to_numpy().astype(np.int64) for chunk in _chunks(dataset, "reward")]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def returns(dataset: Dataset) -> np.ndarray:
    """Return the undiscounted return of each episode: [episodes] float64."""
    found = [np.zeros(0)]
    for chunk in _chunks(dataset, "reward"):
        counts = chunk.value_lengths().to_numpy().astype(np.int64)
        found.append(np.add.reduceat(_flat(chunk).astype(np.float64), np.cumsum(counts) - counts))
    return np.concatenate(found)


def num_bytes(dataset: Dataset) -> int:
    """Return what the episodes take up in memory or in the file they are mapped from."""
    return sum(chunk.nbytes for name in dataset.column_names for chunk in _chunks(dataset, name))


def check(dataset: Dataset) -> None:
    """Refuse a data set that cannot be trained on.

    Raises:
        DataError: it is empty, has other columns, arrays of unequal length, entries that are missing, not
            finite or too large, or actions outside their space; with the first offender and how many there are.
    """
    spec = environment_of(dataset)
    expected = _features(spec)
    if dataset.features != expected:
        raise DataError(f"the data set's columns are {dataset.features}, expected {expected}")
    if len(dataset) == 0:
        raise DataError("the data set has no episodes: give at least one")
    _check_complete(dataset)
    _check_lengths(dataset, spec)
    num_episodes = len(dataset)
    for name in ("observation", "action", "reward", "final"):
        first, bad, what = _bad_entries(dataset, name, _is_unusable)
        if bad:
            advice = "" if "large" in what else "; drop such episodes with --on-nonfinite drop-episode"
            raise DataError(f"{first}{what} ({bad} of {num_episodes} episodes are affected){advice}")
    for name, space in (("observation", spec.observation_space), ("action", spec.action_space)):
        if name == "observation" and isinstance(space, Box):
            continue  # environments are lax with the bounds of their observations, and nothing relies on them
        first, bad, what = _bad_entries(dataset, name, lambda values, space=space: _is_outside(values, space))
        if bad:
            advice = "; clip them with --clip-actions" if isinstance(space, Box) else ""
            affected = f"({bad} of {num_episodes} episodes are affected)"
            raise DataError(f"{first}{what}, outside {describe_space(space)} {affected}{advice}")


def drop_nonfinite(dataset: Dataset) -> Dataset:
    """Leave out the episodes that hold nan, an infinity or a number too large to train on."""
    bad: set[int] = set()
    for name in ("observation", "action", "reward", "final"):
        bad |= set(_bad_episodes(dataset, name, _is_unusable)[0].tolist())
    if not bad:
        return dataset
    kept = [index for index in range(len(dataset)) if index not in bad]
    if not kept:
        raise DataError(f"all {len(bad)} episodes hold nan or an infinity: nothing is left")
    logger.warning("dropped %d of %d episodes that hold nan or an infinity", len(bad), len(dataset))
    return _dataset(InMemoryTable(_gathered(dataset.select(kept))), environment_of(dataset))


def save(dataset: Dataset, folder: Path | str, *, replace: bool = False) -> None:
    """Write a data set to a folder, whole or not at all."""
    environment_of(dataset)
    shown = not datasets.are_progress_bars_disabled()
    with storage.publish(Path(folder), replace=replace) as target:
        datasets.disable_progress_bars()
        try:
            dataset.save_to_disk(str(target))
        finally:
            if shown:
                datasets.enable_progress_bars()


def open_folder(folder: Path) -> Dataset:
    """Map the Arrow files that a folder's state names, if their columns are what its environment asks for."""
    state = storage.read_json(storage.inside(folder, "state.json"))
    info = storage.read_json(storage.inside(folder, "dataset_info.json"))
    description, files = info.get("description"), state.get("_data_files")
    if not isinstance(description, str) or not isinstance(files, list) or not files:
        raise DataError(f"{folder} names no Arrow files or no environment: make it again with seqdec data")
    try:
        spec = EnvironmentSpec.from_json(json.loads(description))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / 'dataset_info.json'}: {error}") from error
    expected = _features(spec).arrow_schema
    tables = []
    for entry in files:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise DataError(f"{folder / 'state.json'} names an Arrow file by {quote(name)}: expected a text")
        path = storage.inside(folder, name)
        try:
            table = MemoryMappedTable.from_file(str(path))
            table.table.validate()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: damaged or cut off; make or fetch the data set again") from error
        if not table.schema.equals(expected):
            raise DataError(f"{path} has other columns than its environment's data: make the data set again")
        tables.append(table)
    return _dataset(concat_tables(tables), spec)


def _row_of(episode: Episode) -> Row:
    extra = sorted(episode.steps.keys() - {"observation", "action", "reward"})
    if extra:
        raise UsageError(f"a data set keeps observation, action and reward, not {extra[0]!r}: leave it out")
    return episode.to_row()


def _features(spec: EnvironmentSpec) -> Features:
    def steps(space: gymnasium.Space) -> Array2D | List:
        return Array2D((None, _dim(space)), "float32") if isinstance(space, Box) else List(Value("int64"))

    space = spec.observation_space
    final = List(Value("float32"), length=_dim(space)) if isinstance(space, Box) else Value("int64")
    return Features(
        {
            "observation": steps(spec.observation_space),
            "action": steps(spec.action_space),
            "reward": List(Value("float32")),
            "final": final,
            "terminated": Value("bool"),
            "truncated": Value("bool"),
            "text": Value("string"),
        }
    )


def _dim(space: gymnasium.Space) -> int:
    return math.prod(space.shape or ())


def _dataset(table: Table, spec: EnvironmentSpec) -> Dataset:
    description = json.dumps(spec.to_json(), allow_nan=False)
    return Dataset(table, info=DatasetInfo(description=description, features=_features(spec)))


def _check_shapes(row: Row, spec: EnvironmentSpec, index: int) -> None:
    for name, space in (("observation", spec.observation_space), ("action", spec.action_space)):
        values = row[name]
        assert isinstance(values, np.ndarray)
        kind = np.floating if isinstance(space, Box) else np.integer
        # Whole numbers in a Box are numbers too; a Discrete value with a fraction is not one.
        fits_kind = np.issubdtype(values.dtype, kind) or isinstance(space, Box)
        if values.shape[1:] != space.shape or not fits_kind:
            came = f"shape {list(values.shape[1:])} and type {values.dtype}"
            raise DataError(f"episode {index}: {name}s have {came}, the space is {describe_space(space)}")


def _table(rows: Sequence[Row], features: Features, spec: EnvironmentSpec) -> pa.Table:
    counts = [np.size(row["reward"]) for row in rows]
    arrays = {
        "observation": _steps_array(rows, "observation", spec.observation_space, counts),
        "action": _steps_array(rows, "action", spec.action_space, counts),
        "reward": _nest(counts, pa.array(_joined(rows, "reward", np.float32))),
        "terminated": pa.array([bool(row["terminated"]) for row in rows]),
        "truncated": pa.array([bool(row["truncated"]) for row in rows]),
        "text": pa.array([str(row["text"]) for row in rows], pa.string()),
    }
    if isinstance(spec.observation_space, Box):
        finals = np.stack([row["final"] for row in rows]).astype(np.float32)
        arrays["final"] = pa.FixedSizeListArray.from_arrays(pa.array(finals.reshape(-1)), finals.shape[1])
    else:
        arrays["final"] = pa.array(np.array([row["final"] for row in rows], np.int64))
    schema = features.arrow_schema
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _steps_array(rows: Sequence[Row], name: str, space: gymnasium.Space, counts: Sequence[int]) -> pa.Array:
    if not isinstance(space, Box):
        return _nest(counts, pa.array(_joined(rows, name, np.int64)))
    dim = _dim(space)
    values = pa.array(_joined(rows, name, np.float32).reshape(-1))
    vectors = pa.ListArray.from_arrays(pa.array(np.arange(sum(counts) + 1, dtype=np.int32) * dim), values)
    return pa.ExtensionArray.from_storage(Array2DExtensionType((None, dim), "float32"), _nest(counts, vectors))


def _joined(rows: Sequence[Row], name: str, dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.asarray(row[name]) for row in rows]).astype(dtype, copy=False)


def _nest(counts: Sequence[int], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)), values)


def _chunks(dataset: Dataset, name: str) -> list[pa.Array]:
    if name not in dataset.column_names:
        raise UsageError(f"the data set has no column {name!r}{suggest(name, dataset.column_names)}")
    # Episodes selected out of order are an index over the table: only the gathered table has them in order.
    table = dataset.data.table if dataset._indices is None else _gathered(dataset)
    chunks = table.column(name).chunks
    return [chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in chunks if len(chunk)]


def _gathered(dataset: Dataset) -> pa.Table:
    table = dataset.with_format("arrow")[:]
    assert isinstance(table, pa.Table)
    return table


def _flat(chunk: pa.Array) -> np.ndarray:
    """Return the numbers of a chunk: episodes of vectors, episodes of numbers, vectors or numbers."""
    depth, dim = 0, None
    values = chunk
    while isinstance(values, pa.ListArray | pa.FixedSizeListArray):
        inner, depth = values.flatten(), depth + 1
        if depth == 2 or isinstance(values, pa.FixedSizeListArray):
            dim = len(inner) // max(len(values), 1)
        values = inner
    flat = values.to_numpy(zero_copy_only=True)
    return flat if dim is None else flat.reshape(-1, dim)


def _check_complete(dataset: Dataset) -> None:
    for name in dataset.column_names:
        for chunk in _chunks(dataset, name):
            while chunk.null_count == 0 and isinstance(chunk, pa.ListArray | pa.FixedSizeListArray):
                chunk = chunk.flatten()
            if chunk.null_count:
                raise DataError(f"{name} has {chunk.null_count} empty entries: every step needs one")


def _check_lengths(dataset: Dataset, spec: EnvironmentSpec) -> None:
    expected = lengths(dataset)
    if (expected < 1).any():
        raise DataError(f"episode {int(np.argmin(expected))} has no steps: each needs at least one")
    for name, space in (("observation", spec.observation_space), ("action", spec.action_space)):
        chunks = _chunks(dataset, name)
        found = np.concatenate([chunk.value_lengths().to_numpy() for chunk in chunks])
        wrong = np.flatnonzero(found != expected)
        if len(wrong):
            first = int(wrong[0])
            raise DataError(
                f"episode {first}: {name} has {found[first]} steps, reward has {expected[first]} "
                f"({len(wrong)} of {len(expected)} episodes are affected)"
            )
        for chunk in chunks if isinstance(space, Box) else []:
            if (chunk.flatten().value_lengths().to_numpy() != _dim(space)).any():
                raise DataError(f"{name} has a row that does not have {_dim(space)} entries")


def _is_unusable(values: np.ndarray) -> np.ndarray:
    return ~(np.abs(values) <= MAX_MAGNITUDE) if values.dtype.kind == "f" else np.zeros(values.shape, bool)


def _is_outside(values: np.ndarray, space: gymnasium.Space) -> np.ndarray:
    if isinstance(space, Discrete):
        return (values < space.start) | (values >= space.start + space.n)
    assert isinstance(space, Box)
    # Bounds and actions may have been rounded to float32 separately.
    slack = 1e-6 * np.maximum(1, np.maximum(np.abs(space.low), np.abs(space.high)))
    return (values < space.low - slack) | (values > space.high + slack)


def _bad_entries(dataset: Dataset, name: str, is_bad: Callable[[np.ndarray], np.ndarray]) -> tuple[str, int, str]:
    """Return where the first bad entry is, how many episodes have one, and what it is."""
    episodes, first, what = _bad_episodes(dataset, name, is_bad)
    return first, len(episodes), what


def _bad_episodes(
    dataset: Dataset, name: str, is_bad: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, str, str]:
    found, first, what, num_before = [np.zeros(0, np.int64)], "", "", 0
    for chunk in _chunks(dataset, name):
        values = _flat(chunk)
        bad = is_bad(values)
        rows = np.flatnonzero(bad.any(axis=1) if bad.ndim == 2 else bad)
        ends = np.arange(1, len(chunk) + 1) if name == "final" else np.cumsum(chunk.value_lengths().to_numpy())
        owners = np.searchsorted(ends, rows, side="right")
        if len(rows) and not first:
            row, owner = int(rows[0]), int(owners[0])
            step = row - (int(ends[owner - 1]) if owner else 0)
            entry = int(np.flatnonzero(bad[row])[0]) if bad.ndim == 2 else None
            value = values[row] if entry is None else values[row, entry]
            place = "" if name == "final" else f", step {step}"
            first = f"episode {num_before + owner}{place}: {name}" + ("" if entry is None else f"[{entry}]")
            large = ", too large to train on" if np.isfinite(value) and abs(value) > MAX_MAGNITUDE else ""
            what = f" is {value:g}{large}"
        found.append(num_before + np.unique(owners))
        num_before += len(chunk)
    return np.concatenate(found), first, what
