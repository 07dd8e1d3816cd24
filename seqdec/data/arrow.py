"""Rows, one an episode: how they become a data set, in memory or in a folder, and episodes again.

    Source.read -> rows -> from_rows    a data set in memory
                        -> write_rows   an open folder, as they come
    Episode, dicts of arrays -> from_episodes

What the columns hold is in `schema`, what they must be in `check`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.features.features import Array2DExtensionType
from datasets.table import InMemoryTable, MemoryMappedTable

from seqdec import storage
from seqdec.data.check import check
from seqdec.data.episode import METADATA, Row, RowValue
from seqdec.data.masks import known_rows
from seqdec.data.offsets import with_offsets
from seqdec.data.schema import METADATA_TYPES, Column, columns_of, dataset_of, environment_of, features_of, lengths
from seqdec.errors import DataError, suggest
from seqdec.spaces.leaves import leaf_dtype, leaf_kind, role_of
from seqdec.spaces.space import describe_space, quote
from seqdec.spaces.spec import EnvironmentSpec

CHUNK_BYTES = 128 * 2**20
T = TypeVar("T")


def from_rows(
    rows: Iterable[Row], spec: EnvironmentSpec, numbers: Iterable[int] | None = None, fingerprint: str | None = None
) -> Dataset:
    """Return a data set in memory of rows as `Episode.to_row` gives them; their values are not checked yet.

    Args:
        rows: one an episode.
        spec: the environment they come from.
        numbers: of the episodes, for what is said of them; from 0 on by default.
        fingerprint: of the data set; by default a hash of all that it holds, which takes as long as making it.
    """
    rows, spec = with_offsets(rows, spec)
    tables = list(tables_of(rows, spec, numbers))
    return dataset_of(InMemoryTable(pa.concat_tables(tables)), spec, fingerprint)


def write_rows(rows: Iterable[Row], spec: EnvironmentSpec, folder: Path, *, is_first: bool = True) -> None:
    """Write rows into an open folder as they come, and check them there; memory holds a part of them at a time.

    Where other rows of the same data set were written before, its spec is known and `is_first` False.
    """
    rows, spec = with_offsets(rows, spec) if is_first else (rows, spec)
    write_tables(tables_of(rows, spec), spec, folder)


def write_joined(parts: Sequence[Dataset], folder: Path, *, num_episodes: int) -> None:
    """Write the first episodes of data sets of one environment, as `write_rows` would have written all their rows."""
    spec = environment_of(parts[0])
    # what only some parts know is unknown in the others
    table = pa.concat_tables([part.data.table for part in parts], promote_options="default").slice(0, num_episodes)
    counts = np.concatenate([lengths(part) for part in parts])[:num_episodes]
    groups = _grouped(range(num_episodes), counts.__getitem__, _chunk_limit(spec))
    # Joined with nothing, which copies: a slice alone would be written with what lies around it.
    slices = (pa.concat_tables([table.slice(group[0], len(group)), table.slice(0, 0)]) for group in groups)
    write_tables((part.combine_chunks() for part in slices), spec, folder, warns=True)


def write_tables(tables: Iterable[pa.Table], spec: EnvironmentSpec, folder: Path, *, warns: bool = False) -> None:
    path = folder / "data-00000.arrow"
    tables = iter(tables)
    first = next(tables)
    try:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table)
    except pa.ArrowException as error:
        raise DataError(f"{path} cannot be written: {error}") from error
    dataset = dataset_of(MemoryMappedTable.from_file(str(path)), spec)
    check(dataset, warns=warns)
    dataset.info.write_to_directory(str(folder))
    state = {
        "_data_files": [{"filename": path.name}],
        "_fingerprint": dataset._fingerprint,
        **dict.fromkeys(("_format_columns", "_format_type", "_split")),
        "_format_kwargs": {},
        "_output_all_columns": False,
    }
    storage.write_json(folder / "state.json", state)


def tables_of(rows: Iterable[Row], spec: EnvironmentSpec, numbers: Iterable[int] | None = None) -> Iterator[pa.Table]:
    """Yield rows as tables of bounded size, at least one."""
    metadata: dict[str, pa.DataType] | None = None
    numbered = enumerate(rows) if numbers is None else zip(numbers, rows, strict=True)
    for group in _grouped(_fitting(known_rows(numbered, spec), spec), _num_steps, _chunk_limit(spec)):
        metadata = _metadata_types(group) if metadata is None else metadata
        yield _table(group, metadata, spec)
    if metadata is None:
        raise DataError("there are no episodes: give at least one")


def _grouped(items: Iterable[T], num_steps: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Yield neighbours together, as many as have at most `limit` timesteps in all, and at least one."""
    group: list[T] = []
    num_waiting = 0
    for item in items:
        if group and num_waiting + num_steps(item) > limit:
            yield group
            group, num_waiting = [], 0
        group.append(item)
        num_waiting += num_steps(item)
    if group:
        yield group


def _chunk_limit(spec: EnvironmentSpec) -> int:
    """Return how many timesteps one table holds."""
    of_steps = [column for column in columns_of(spec).values() if column.of_steps]
    width = sum((32 if c.dtype == "string" else np.dtype(c.dtype).itemsize) * (c.size or 1) for c in of_steps)
    return max(1, CHUNK_BYTES // width)


def _num_steps(row: Row) -> int:
    return len(np.asarray(row["reward"]))


def _metadata_types(rows: Sequence[Row]) -> dict[str, pa.DataType]:
    """Return the types of all rows' metadata: of the first row that knows each, text where none does."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(METADATA))
    known = {name: next((row[name] for row in rows if row.get(name) is not None), None) for name in names}
    return {name: _metadata_type(name, value) for name, value in known.items()}


def _metadata_type(name: str, value: RowValue) -> pa.DataType:
    kinds = ((bool | np.bool_, "bool"), (int | np.integer, "int64"), (float | np.floating, "float64"))
    kind = next((word for python, word in kinds if isinstance(value, python)), "string")
    if value is not None and kind == "string" and not isinstance(value, str):
        raise DataError(f"{name} is {type(value).__name__}: metadata are texts, numbers and truth values")
    return METADATA_TYPES[kind]


def _fitting(rows: Iterable[tuple[int, Row]], spec: EnvironmentSpec) -> Iterator[Row]:
    """Yield rows without their numbers, once their arrays are seen to have the spaces' shapes and kinds."""
    for index, row in rows:
        for name, space in {**spec.observation_leaves, **spec.action_leaves}.items():
            if name not in row:
                has = ", ".join(key for key in row if role_of(key) in ("observation", "action"))
                raise DataError(f"episode {index}: {name} is not there{suggest(name, row)}; it has {has}")
            values = row[name]
            assert isinstance(values, np.ndarray)
            # Whole numbers in a Box are numbers too; a Discrete value with a fraction is not one.
            kinds = {"O": "O", "f": "fiu"}.get(leaf_dtype(space).kind, "iu")
            if values.shape[1:] != (space.shape or ()) or values.dtype.kind not in kinds:
                actual = f"shape {list(values.shape[1:])} and type {values.dtype}"
                raise DataError(f"episode {index}: {name}s have {actual}, the space is {describe_space(space)}")
            if leaf_kind(space) == "image" and values.dtype != np.uint8 and (values.min() < 0 or values.max() > 255):
                raise DataError(f"episode {index}: {name} leaves 0 to 255, the space is {describe_space(space)}")
        yield row


def _table(rows: Sequence[Row], metadata: Mapping[str, pa.DataType], spec: EnvironmentSpec) -> pa.Table:
    counts = [_num_steps(row) for row in rows]
    arrays = {name: _array(rows, name, kind, counts) for name, kind in columns_of(spec).items()}
    arrays["terminated"] = pa.array([bool(row["terminated"]) for row in rows])
    arrays["truncated"] = pa.array([bool(row["truncated"]) for row in rows])
    arrays["text"] = _texts([str(row.get("text") or "") for row in rows], "text")
    for name, kind in metadata.items():
        try:
            values = [_plain(row.get(name)) for row in rows]
            if pa.types.is_string(kind):  # also of what was None in every row that the type was chosen by
                arrays[name] = _texts([None if value is None else str(value) for value in values], name)
            else:
                arrays[name] = pa.array(values, kind)
        except (pa.ArrowException, TypeError) as error:
            raise DataError(f"{name} is not of one type in all episodes: {error}") from error
    schema = features_of(spec, pa.schema(list(metadata.items()))).arrow_schema
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _array(rows: Sequence[Row], name: str, kind: Column, counts: Sequence[int]) -> pa.Array:
    is_text = kind.dtype == "string"
    parts = np.concatenate([np.asarray(row[name], object if is_text else None).reshape(-1) for row in rows])
    with np.errstate(over="ignore"):  # too large a number turns infinite and is refused as such
        values = _texts(parts, name) if is_text else pa.array(parts.astype(kind.dtype, copy=False))
    if kind.size is None:
        return _nest(counts, values) if kind.of_steps else values
    if not kind.of_steps:
        return pa.FixedSizeListArray.from_arrays(values, kind.size)
    if len(values) >= 2**31:  # Arrow counts the entries of a list in 31 bits
        raise DataError(f"an episode has {sum(counts)} steps of {kind.size} entries of {name}: cut it in parts")
    vectors = pa.ListArray.from_arrays(pa.array(np.arange(sum(counts) + 1, dtype=np.int32) * kind.size), values)
    return pa.ExtensionArray.from_storage(Array2DExtensionType((None, kind.size), kind.dtype), _nest(counts, vectors))


def _texts(values: Sequence[str | None] | np.ndarray, name: str) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError as error:
        raise DataError(f"{name} holds {quote(error.object)}, which is no text: it has half a character") from error


def _plain(value: RowValue) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _nest(counts: Sequence[int], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)), values)
