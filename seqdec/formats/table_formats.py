"""Parquet, JSON lines, CSV and Arrow files as streams of Arrow batches, each from its beginning as often as need be.

A file is never held as a whole. JSON and CSV have no types: JSON's are those of each batch, a CSV's columns get theirs
by a pass over all of it, so that a number is one everywhere.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from seqdec import storage
from seqdec.errors import DataError, suggest
from seqdec.formats.guard import opened_parquet, reading
from seqdec.spaces.space import quote

LINES = (".jsonl", ".ndjson", ".json")
BLOCK_BYTES = 8 * 2**20
BLOCK_ROWS = 4096
_AGAIN = "; make or fetch it again"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of Arrow's stream format
_NULLS = ("", "#N/A", "N/A", "n/a", "NA", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "None")
_TRUTH = {"true", "false", "True", "False", "TRUE", "FALSE"}


@dataclass(frozen=True)
class Block:
    """Some neighbouring rows of a table: of which file, and how many rows of it come before."""

    rows: pa.RecordBatch
    file: str
    first: int


def place(file: str, row: int) -> str:
    """Say where a row is: files of text have lines from 1 on, the others rows from 0 on."""
    if file.lower().endswith(LINES):
        with open(file, "rb") as lines:
            numbers = (number for number, line in enumerate(lines, 1) if line.strip())
            return f"{file}, line {next(itertools.islice(numbers, row, None))}"
    if file.lower().endswith(".csv"):
        # A text longer than csv takes, before the row: counting rows is then as near as one gets.
        with suppress(csv.Error), open(file, newline="", encoding="utf-8-sig", errors="replace") as lines:
            reader = csv.reader(lines)
            numbers = (reader.line_num for entries in reader if entries)
            return f"{file}, line {next(itertools.islice(numbers, row + 1, None))}"
    return f"{file}, row {row}"


def parquet_names(path: Path) -> list[str]:
    """Return the names of a Parquet file's columns."""
    with opened_parquet(path, _AGAIN) as file:
        return file.schema_arrow.names


def parquet_blocks(path: Path, names: Sequence[str]) -> Iterator[Block]:
    """Yield the rows of a Parquet file."""
    found = 0
    with opened_parquet(path, _AGAIN) as file:
        _check_names(path, file.schema_arrow.names, names)
        declared = file.metadata.num_rows
        size = sum(file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups))
        fitting = BLOCK_BYTES * max(declared, 1) // max(size, 1)
        for batch in file.iter_batches(max(1, min(BLOCK_ROWS, fitting)), columns=list(names), use_threads=False):
            yield Block(batch, str(path), found)
            found += len(batch)
    if found != declared:
        raise DataError(f"{path}: expected {declared} rows, found {found}; make or fetch it again")


def arrow_names(path: Path) -> list[str]:
    """Return the names of the columns of a file in Arrow's stream format."""
    with reading(path, _AGAIN), pa.memory_map(str(path)) as file:
        return pa.ipc.open_stream(file).schema.names


def arrow_blocks(path: Path, names: Sequence[str]) -> Iterator[Block]:
    """Yield the rows of a file in Arrow's stream format; a stream without its end is cut off."""
    found = 0
    with reading(path, _AGAIN), pa.memory_map(str(path)) as file:
        file.seek(max(0, file.size() - len(_END_OF_STREAM)))
        if file.read() != _END_OF_STREAM:
            raise DataError(f"{path} is cut off: its end is not there; make or fetch it again")
        file.seek(0)
        reader = pa.ipc.open_stream(file)
        _check_names(path, reader.schema.names, names)
        for batch in reader:
            chosen = batch.select(list(names))
            chosen.validate(full=True)
            yield Block(chosen, str(path), found)
            found += len(batch)


def json_names(path: Path) -> list[str]:
    """Return the keys of the first objects of a file of JSON lines."""
    rows, _ = next(_json_rows(path), ([], 0))
    return list(dict.fromkeys(name for row in rows for name in row))


def json_blocks(path: Path, names: Sequence[str]) -> Iterator[Block]:
    """Yield the rows of a file of JSON lines; a key that an object lacks is null, NaN is NaN."""
    for rows, first in _json_rows(path):
        arrays = [_json_column([row.get(name) for row in rows], name, path, first) for name in names]
        yield Block(pa.RecordBatch.from_arrays(arrays, list(names)), str(path), first)


def csv_names(path: Path) -> list[str]:
    """Return the names in the first line of a CSV."""
    with reading(path, _AGAIN), _open_csv(path, {}) as reader:
        return reader.schema.names


def csv_blocks(path: Path, names: Sequence[str], kinds: Mapping[str, pa.DataType]) -> Iterator[Block]:
    """Yield the rows of a CSV in the types that `csv_kinds` found."""
    found = 0
    _check_names(path, csv_names(path), names)
    with reading(path, _AGAIN), _open_csv(path, kinds, names) as reader:
        for batch in reader:
            yield Block(batch, str(path), found)
            found += len(batch)


def csv_kinds(paths: Sequence[Path], names: Sequence[str]) -> tuple[dict[str, pa.DataType], dict[str, str]]:
    """Return the type of each column of some CSVs, and where a column of numbers turns out to hold text as well."""
    kinds: dict[str, pa.DataType] = dict.fromkeys(names, pa.null())
    mixed: dict[str, str] = {}
    for path in paths:
        for block in csv_blocks(path, names, dict.fromkeys(names, pa.string())):
            for column in names:
                values = block.rows.column(block.rows.schema.get_field_index(column))
                before, (kinds[column], wrong) = kinds[column], _widened(kinds[column], values)
                if wrong is not None:
                    words = "truth values" if before == pa.bool_() else "numbers"
                    came = f"{quote(values[wrong].as_py())} where the lines before have {words}"
                    mixed[column] = f"{place(str(path), block.first + wrong)}: column {quote(column)} holds {came}"
    return kinds, mixed


def _check_names(path: Path, has: Sequence[str], names: Sequence[str]) -> None:
    lacking = next((name for name in names if name not in has), None)
    if lacking is not None:
        raise DataError(f"{path} has no column {quote(lacking)}{suggest(lacking, has)}; it has {quote(', '.join(has))}")


def _json_rows(path: Path) -> Iterator[tuple[list[dict[str, object]], int]]:
    """Yield some objects at a time, and how many came before."""
    rows: list[dict[str, object]] = []
    first = size = 0
    with reading(path, _AGAIN), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            rows.append(_json_object(line, f"{path}, line {number}"))
            size += len(line)
            if size >= BLOCK_BYTES or len(rows) >= BLOCK_ROWS:
                yield rows, first
                first, rows, size = first + len(rows), [], 0
    if rows:
        yield rows, first


def _json_object(line: bytes, where: str) -> dict[str, object]:
    try:
        value = json.loads(line.decode("utf-8-sig"), object_pairs_hook=storage.unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else quote(error)[1:-1]
        raise DataError(f"{where} is no JSON ({reason}): write one object a line") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} is a JSON {type(value).__name__}: write one object a line")
    return value


def _json_column(values: Sequence[object], name: str, path: Path, first: int) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        known = next(value for value in values if value is not None)
        for row, value in enumerate(values):
            try:
                pa.array([known, value])
            except (pa.ArrowException, OverflowError, TypeError, ValueError):
                came, before = (quote(json.dumps(entry))[1:-1] for entry in (value, known))
                why = "which is of no one type" if value is known else f"unlike {before} before it"
                where = place(str(path), first + row)
                raise DataError(f"{where}: column {quote(name)} holds {came}, {why}") from error
        raise DataError(f"{path}: column {quote(name)} holds values of several types ({quote(error)[1:-1]})") from error


def _open_csv(
    path: Path, kinds: Mapping[str, pa.DataType], names: Sequence[str] = ()
) -> pyarrow.csv.CSVStreamingReader:
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict(kinds), include_columns=list(names), null_values=list(_NULLS), strings_can_be_null=False
    )
    read = pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)  # without threads, errors name their row
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert)


def _widened(kind: pa.DataType, values: pa.Array) -> tuple[pa.DataType, int | None]:
    """Return the type of a CSV's values so far and these, and the first row that goes with none but text."""
    if kind == pa.string():
        return kind, None
    words = [word.strip() for word in values.to_pylist()]
    rows = [row for row, word in enumerate(words) if word not in _NULLS]
    known = pa.array([words[row] for row in rows], pa.string())
    if not rows:
        return kind, None
    found = next((wider for wider in (pa.int64(), pa.float64(), pa.bool_()) if _holds(wider, known)), pa.string())
    numbers = (pa.int64(), pa.float64())
    if found in numbers and kind in numbers:
        return (found if found == kind else pa.float64()), None
    if found == kind or (kind == pa.null() and found != pa.string()):
        return found, None
    if kind == pa.null() and not _is_number(words[rows[0]]):
        return pa.string(), None
    fits = _TRUTH.__contains__ if kind == pa.bool_() else _is_number
    return pa.string(), next(row for row in rows if not fits(words[row]))


def _holds(kind: pa.DataType, words: pa.Array) -> bool:
    if kind == pa.bool_():
        return set(words.unique().to_pylist()) <= _TRUTH
    try:
        words.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
