"""Parquet, JSON lines, CSV, TSV and Arrow files as streams of Arrow batches, from the beginning as often as need be.

A file is never held as a whole. JSON and CSV have no types: JSON's are those of each batch, a CSV's columns get theirs
by a pass over all of it, so that a number is one everywhere.
"""

import csv
import io
import itertools
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from seqdec.errors import DataError
from seqdec.formats.arrays import json_lines, plain
from seqdec.formats.guard import (
    AGAIN,
    FREE_TABLE,
    LINES,
    check_columns,
    opened_parquet,
    reading,
    refuse_swollen,
    suffix_of,
    unpacked,
)
from seqdec.spaces.space import quote

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
BLOCK_BYTES = 8 * 2**20
BLOCK_ROWS = 4096
_UNSEEN_BYTES = 2 * 2**20  # what rows may take up before anyone has looked at their size, and how many times
_UNSEEN_RATIO = 64  # the size of their file besides
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of Arrow's stream format
_ARROW_FILE = b"ARROW1"
_NULLS = ("", "#N/A", "N/A", "n/a", "NA", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "None")


@dataclass(frozen=True)
class Block:
    """Some neighbouring rows of a table: of which file, and how many rows of it come before."""

    rows: pa.RecordBatch
    file: str
    first: int


Kinds = Mapping[str, pa.DataType]


@dataclass(frozen=True)
class TableFormat:
    """A format of files: the names of a file's columns, and its rows bit by bit with the columns of some names."""

    names: Callable[[Path], list[str]]
    read: Callable[[Path, Sequence[str], Kinds], Iterator[pa.RecordBatch]]


def place(file: str, row: int) -> str:
    """Say where a row is: files of text have lines from 1 on, the others rows from 0 on."""
    path = Path(file)
    suffix = suffix_of(path)
    if suffix in LINES:
        with unpacked(path) as lines:
            numbers = (number for number, line in enumerate(lines, 1) if line.strip())
            return f"{file}, line {next(itertools.islice(numbers, row, None))}"
    if suffix in _SEPARATORS:
        # A text longer than csv takes, before the row: counting rows is then as near as one gets.
        text = io.TextIOWrapper(unpacked(path), "utf-8-sig", errors="replace", newline="")
        with suppress(csv.Error), text as lines:
            reader = csv.reader(lines, delimiter=_SEPARATORS[suffix])
            numbers = (reader.line_num for entries in reader if entries)
            return f"{file}, line {next(itertools.islice(numbers, row + 1, None))}"
    return f"{file}, row {row}"


def blocks(batches: Iterable[pa.RecordBatch], file: str) -> Iterator[Block]:
    """Yield the rows of one file, or of what stands for one, as blocks."""
    first = 0
    for rows in batches:
        yield Block(rows, file, first)
        first += len(rows)


def read_files(paths: Sequence[Path], names: Sequence[str], kinds: Kinds) -> Iterator[Block]:
    """Yield the rows of files of one format, in blocks; the columns of a CSV are of the `kinds` that are named.

    Raises:
        DataError: a column is not there, or the rows take up more than their file can hold.
    """
    for path in paths:
        form = FORMATS[suffix_of(path)]
        if form is not _LINES:  # where a key that an object lacks is null
            check_columns(path, form.names(path), names)
        num_bytes, stored = 0, path.stat().st_size
        for block in blocks(form.read(path, names, kinds), str(path)):
            num_bytes += block.rows.nbytes
            refuse_swollen(str(path), num_bytes, stored, FREE_TABLE)
            yield block


def column_of(rows: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column of some rows."""
    return plain(rows.column(rows.schema.get_field_index(name)))


def csv_kinds(paths: Sequence[Path], names: Sequence[str]) -> tuple[dict[str, pa.DataType], dict[str, str]]:
    """Return the type that all values of a column have in some CSVs, and where text stands among numbers.

    Arrow alone would take the type from the first rows, and stop at the first value of another one.
    """
    fitting = {name: [pa.int64(), pa.float64(), pa.bool_()] for name in names}
    known, mixed = set[str](), dict[str, str]()
    for block in read_files(paths, names, dict.fromkeys(names, pa.string())):
        for name in names:
            words = pc.utf8_trim_whitespace(column_of(block.rows, name))  # pyright: ignore[reportAttributeAccessIssue]
            kinds, fitting[name] = fitting[name], [kind for kind in fitting[name] if _fits(words, kind)]
            if kinds and not fitting[name]:
                row = bisect_left(range(len(words)), True, key=partial(_is_wrong, words, kinds))
                if name in known or len(_known(words.slice(0, row))):
                    where, word = place(block.file, block.first + row), quote(words[row].as_py())
                    mixed[name] = f"{where}: column {quote(name)} holds {word} where the lines before hold numbers"
            if len(_known(words)):
                known.add(name)
    kinds = {name: fitting[name][0] if fitting[name] else pa.string() for name in names}
    return {name: kind if name in known else pa.null() for name, kind in kinds.items()}, mixed


def _parquet_rows(path: Path, names: Sequence[str], kinds: Kinds) -> Iterator[pa.RecordBatch]:
    num_rows, held, num_held, num_bytes = 0, list[pa.RecordBatch](), 0, 0
    with opened_parquet(path) as file:
        declared, most = file.metadata.num_rows, _rows_at_once(file.metadata, names, path.stat().st_size)
        for batch in file.iter_batches(most, columns=list(names), use_threads=False):
            batch = pa.RecordBatch.from_arrays([plain(column) for column in batch.columns], batch.schema.names)
            held.append(batch)
            num_rows, num_held, num_bytes = num_rows + len(batch), num_held + len(batch), num_bytes + batch.nbytes
            if num_held >= BLOCK_ROWS or num_bytes >= BLOCK_BYTES // 2:
                rows, held, num_held, num_bytes = pa.concat_batches(held), [], 0, 0
                yield rows
        if held:
            yield pa.concat_batches(held)
    if num_rows != declared:
        raise DataError(f"{path}: expected {declared} rows, found {num_rows}; {AGAIN}")


def _rows_at_once(metadata: pyarrow.parquet.FileMetaData, names: Sequence[str], stored: int) -> int:
    """Return how many rows of some columns are unpacked before their size can be looked at.

    A long text that many rows have is stored once: what a group has of texts may be the size of each one of them.
    """
    most = BLOCK_ROWS
    for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
        num_bytes, num_most = 0, 0
        for column in (group.column(index) for index in range(group.num_columns)):
            if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in names):
                num_bytes += column.total_uncompressed_size
                if column.physical_type.endswith("BYTE_ARRAY"):
                    num_most += column.total_uncompressed_size * column.num_values
        usual = BLOCK_BYTES * group.num_rows // max(num_bytes, 1)
        fitting = (_UNSEEN_BYTES + _UNSEEN_RATIO * stored) * group.num_rows // max(num_most, 1)
        most = min(most, max(usual, 1), max(fitting, 1))
    return most


def _arrow_rows(path: Path, names: Sequence[str], kinds: Kinds) -> Iterator[pa.RecordBatch]:
    with _opened_arrow(path) as (_, batches):
        for batch in batches:
            chosen = batch.select(list(names))
            chosen.validate(full=True)
            yield chosen


@contextmanager
def _opened_arrow(path: Path) -> Iterator[tuple[pa.Schema, Iterable[pa.RecordBatch]]]:
    """Open a file in Arrow's stream format, as `datasets` writes it, or in its file format, as Minari does."""
    with reading(path), pa.memory_map(str(path)) as file:
        if file.read(len(_ARROW_FILE)) == _ARROW_FILE:
            reader = pa.ipc.open_file(file)
            yield reader.schema, map(reader.get_batch, range(reader.num_record_batches))
            return
        file.seek(max(0, file.size() - len(_END_OF_STREAM)))
        if file.read() != _END_OF_STREAM:
            raise EOFError("its end is not there")
        file.seek(0)
        reader = pa.ipc.open_stream(file)
        yield reader.schema, reader


def _json_rows(path: Path, names: Sequence[str], kinds: Kinds) -> Iterator[pa.RecordBatch]:
    first = 0
    for rows in _json_objects(path):
        arrays = [_json_column([row.get(name) for row in rows], name, path, first) for name in names]
        yield pa.RecordBatch.from_arrays(arrays, list(names))
        first += len(rows)


def _csv_rows(path: Path, names: Sequence[str], kinds: Kinds) -> Iterator[pa.RecordBatch]:
    with reading(path), _open_csv(path, kinds, names) as reader:
        yield from reader


def _parquet_names(path: Path) -> list[str]:
    with opened_parquet(path) as file:
        return file.schema_arrow.names


def _arrow_names(path: Path) -> list[str]:
    with _opened_arrow(path) as (schema, _):
        return schema.names


def _json_names(path: Path) -> list[str]:
    return list(dict.fromkeys(name for row in next(_json_objects(path), []) for name in row))


def _csv_names(path: Path) -> list[str]:
    with reading(path), _open_csv(path, {}) as reader:
        return reader.schema.names


_PARQUET, _LINES = TableFormat(_parquet_names, _parquet_rows), TableFormat(_json_names, _json_rows)
FORMATS = {
    **dict.fromkeys((".parquet", ".pq"), _PARQUET),
    **dict.fromkeys(LINES, _LINES),
    **dict.fromkeys(_SEPARATORS, TableFormat(_csv_names, _csv_rows)),
    ".arrow": TableFormat(_arrow_names, _arrow_rows),  # of `datasets`: in Arrow's stream format
}


def _json_objects(path: Path) -> Iterator[list[dict[str, object]]]:
    """Yield some objects at a time."""
    rows: list[dict[str, object]] = []
    num_bytes = 0
    for size, row in json_lines(path):
        rows.append(row)
        num_bytes += size
        if num_bytes >= BLOCK_BYTES or len(rows) >= BLOCK_ROWS:
            yield rows
            rows, num_bytes = [], 0
    if rows:
        yield rows


def _json_column(values: Sequence[object], name: str, path: Path, first: int) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        known = next(value for value in values if value is not None)
        for row, value in enumerate(values):
            try:
                pa.array([known, value])
            except (pa.ArrowException, OverflowError, TypeError, ValueError):
                entry, before = (quote(json.dumps(part))[1:-1] for part in (value, known))
                where = place(str(path), first + row)
                raise DataError(f"{where}: column {quote(name)} holds {entry}, unlike {before} before it") from error
        raise DataError(f"{path}: column {quote(name)} holds values of several types ({quote(error)[1:-1]})") from error


def _open_csv(path: Path, kinds: Kinds, names: Sequence[str] = ()) -> pyarrow.csv.CSVStreamingReader:
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict(kinds), include_columns=list(names), null_values=list(_NULLS), strings_can_be_null=False
    )
    read = pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)  # without threads, errors name their row
    parse = pyarrow.csv.ParseOptions(delimiter=_SEPARATORS[suffix_of(path)], newlines_in_values=True)
    return pyarrow.csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert)


def _known(words: pa.Array) -> pa.Array:
    return words.filter(pc.invert(pc.is_in(words, pa.array(_NULLS))))  # pyright: ignore[reportAttributeAccessIssue]


def _fits(words: pa.Array, kind: pa.DataType) -> bool:
    with suppress(pa.ArrowInvalid):
        return _known(words).cast(kind) is not None
    return False


def _is_wrong(words: pa.Array, kinds: Sequence[pa.DataType], row: int) -> bool:
    return not any(_fits(words.slice(0, row + 1), kind) for kind in kinds)
