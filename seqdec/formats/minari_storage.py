"""One episode as Minari stores it: an array for each leaf of its spaces, and what else is known of it.

    HDF5            groups by key, of a Tuple by _index_0, _index_1, ...; numbers [T+1, ...] or [T, ...]
    Arrow, Parquet  structs by key, of a Tuple by 0, 1, ...; flat lists; T+1 rows, the last one padded
    images          one JPEG file a step, where the data set says jpeg_encoding, else numbers

What these files declare is checked before it is read, see `guard`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from gymnasium.spaces import Box, Dict, Text, Tuple

from seqdec import storage
from seqdec.data.episode import Metadata
from seqdec.errors import DataError
from seqdec.formats.arrays import is_image, known_values, opened_image, plain
from seqdec.formats.guard import hdf5_array, hdf5_member, place_of, reading, refuse_swollen, words_of
from seqdec.spaces.leaves import num_entries
from seqdec.spaces.space import MAX_TEXT, children, quote
from seqdec.spaces.spec import EnvironmentSpec

ENDS = ("rewards", "terminations", "truncations")
_NAMES = ("observations", "actions", *ENDS)
_MAX_NAME = 100  # characters in the name of a metadatum
_BATCH_ROWS = 1024
_FREE_BYTES = 2**25  # what a table may take up, however well it is packed: constant columns shrink to nothing
_PIECE_BYTES = 2**28


def hdf5_episode(file: h5py.File, index: int, spec: EnvironmentSpec, is_jpeg: bool) -> dict[str, np.ndarray]:
    """Return an episode's arrays: of each leaf of observation and action by its name, and of `ENDS`."""
    with reading(Path(file.filename)):
        group = hdf5_member(file, f"episode_{index}")
        if not isinstance(group, h5py.Group):
            raise DataError(f"{place_of(group)} is no group")
        return {
            **_hdf5_leaves(group, "observations", spec.observation_space, "observation", is_jpeg),
            **_hdf5_leaves(group, "actions", spec.action_space, "action", is_jpeg),
            **{name: _numbers(hdf5_array(group, name)) for name in ENDS},
        }


def hdf5_metadata(file: h5py.File, index: int) -> Metadata:
    """Return what the attributes of an episode's group say of it: numbers, texts and truth values."""
    values = {}
    with reading(Path(file.filename)):
        group = hdf5_member(file, f"episode_{index}")
        for name in group.attrs:
            kind = group.attrs.get_id(name)
            is_known = kind.dtype.kind in "biufSU" or h5py.check_string_dtype(kind.dtype) is not None
            if kind.shape == () and is_known:
                value = group.attrs[name]
                values[name] = value.item() if isinstance(value, np.generic) else value
    return _plain(values)


def table_episode(
    folder: Path, index: int, data_format: str, spec: EnvironmentSpec, is_jpeg: bool
) -> dict[str, np.ndarray]:
    """Return an episode's arrays as `hdf5_episode` does, of Arrow or Parquet files."""
    episode = storage.path_inside(folder, str(index))
    parts = sorted(episode.glob(f"part-*.{data_format}"), key=lambda path: (len(path.name), path.name))
    if not parts:
        raise DataError(f"{episode} has no part-0.{data_format}")
    read = partial(_table_leaf, is_jpeg=is_jpeg, stored=sum(path.stat().st_size for path in parts))
    batches: list[pa.RecordBatch] = []
    for path in parts:
        with reading(path):
            batches += _batches(storage.path_inside(episode, path.name), data_format)
    if not batches:
        raise DataError("it has no steps")
    with reading(parts[0]):
        table = pa.Table.from_batches(batches)
        twice = next((name for name in _NAMES if table.column_names.count(name) != 1), None)
        if twice is not None:
            raise DataError(f"{twice} is missing from its columns; it has {words_of(table.column_names)}")
        columns = {name: plain(table.column(name)) for name in _NAMES}
        # Observations have one row more than the rest: the others' last row is padding.
        return {
            **_table_leaves(columns["observations"], spec.observation_space, "observation", read),
            **_table_leaves(columns["actions"][:-1], spec.action_space, "action", read),
            **{name: known_values(columns[name][:-1], name) for name in ENDS},
        }


def table_metadata(folder: Path, index: int) -> Metadata:
    """Return what an episode's metadata.json says of it; what is nested is named with slashes, as in HDF5."""
    path = storage.path_inside(storage.path_inside(folder, str(index)), "metadata.json")
    return _plain(_flat(storage.read_json(path), "")) if path.is_file() else {}


def _plain(values: dict[str, object]) -> Metadata:
    """Leave out what is no scalar, what Minari counts itself, and names or texts too long to be worth a column."""
    kept: dict[str, bool | int | float | str | None] = {}
    for name, value in values.items():
        is_counted = name in ("id", "total_steps")
        if not isinstance(name, str) or is_counted or not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
            continue
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, str) and len(value) <= MAX_TEXT:
            kept[name] = value.encode(errors="replace").decode()  # lone surrogates are no text to Arrow
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            kept[name] = str(value)
        elif isinstance(value, bool | int | float):
            kept[name] = value
    return kept


def _flat(values: dict[str, object], prefix: str) -> dict[str, object]:
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _hdf5_leaves(
    group: h5py.Group, key: str, space: gymnasium.Space, name: str, is_jpeg: bool
) -> dict[str, np.ndarray]:
    if not isinstance(space, Dict | Tuple):
        return {name: _hdf5_leaf(hdf5_array(group, key), space, is_jpeg)}
    inner = hdf5_member(group, key)
    if not isinstance(inner, h5py.Group):
        raise DataError(f"{place_of(inner)} is an array, the declared space is a {type(space).__name__}")
    arrays = {}
    for part, child in children(space):
        stored_as = f"_index_{part}" if isinstance(space, Tuple) else part
        arrays |= _hdf5_leaves(inner, stored_as, child, f"{name}.{part}", is_jpeg)
    return arrays


def _hdf5_leaf(data: h5py.Dataset, leaf: gymnasium.Space, is_jpeg: bool) -> np.ndarray:
    if isinstance(leaf, Text):
        if h5py.check_string_dtype(data.dtype) is None or data.ndim != 1:
            raise DataError(f"{place_of(data)} has type {quote(data.dtype)}, expected one text per step")
        return np.array([text.decode() for text in _pieces(data)], dtype=object)
    if is_jpeg and _is_image(leaf) and data.ndim <= 2 and _is_bytes(data):
        pieces = _pieces(data)
        stored = data.id.get_storage_size() if data.ndim == 2 else sum(map(len, pieces))
        return _images([bytes(piece) for piece in pieces], leaf, place_of(data), stored)
    return _numbers(data)


def _numbers(data: h5py.Dataset) -> np.ndarray:
    if data.dtype.kind not in "biuf":
        raise DataError(f"{place_of(data)} has type {quote(data.dtype)}, expected numbers")
    return np.atleast_1d(data[()])


def _is_bytes(data: h5py.Dataset) -> bool:
    """Say whether rows are bytes: uint8 of one length, or of a length each."""
    return data.dtype == np.uint8 if data.ndim == 2 else h5py.check_vlen_dtype(data.dtype) == np.uint8


def _pieces(data: h5py.Dataset) -> list:
    """Return rows of bytes of any length; all rows may point to the same bytes, so few are read at a time."""
    if data.dtype.kind != "O":
        return list(data[()])
    size = data.file.id.get_filesize()
    pieces, num_bytes, step = [], 0, max(16, _PIECE_BYTES // size)
    for first in range(0, len(data), step):
        pieces += list(data[first : first + step])
        num_bytes += sum(map(len, pieces[first:]))
        if num_bytes > size:
            raise DataError(f"{place_of(data)} holds more than the {size} bytes of its file: it is not read")
    return pieces


def _is_image(leaf: gymnasium.Space) -> bool:
    """Say whether Minari writes a space's values as JPEG files, if it does so at all."""
    if not isinstance(leaf, Box) or leaf.dtype != np.uint8 or len(leaf.shape) not in (2, 3):
        return False
    return min(leaf.shape[:2]) >= 32 and bool((leaf.low == 0).all() and (leaf.high == 255).all())


def _images(contents: Sequence[bytes], leaf: gymnasium.Space, place: str, stored: int) -> np.ndarray:
    """Return [T, *shape] uint8 of JPEG files."""
    refuse_swollen(place, len(contents) * num_entries(leaf), stored, _FREE_BYTES)
    shape = tuple(leaf.shape or ())
    images = np.empty((len(contents), *shape), np.uint8)
    for step, content in enumerate(contents):
        with opened_image(content, f"{place}: image {step}", ("JPEG",)) as image:
            size = [image.height, image.width, len(image.getbands())]
            if size != list((*shape, 1)[:3]):  # only an image of the declared size is unpacked
                raise DataError(f"{place}: image {step} has shape {size}, the declared space has {list(shape)}")
            images[step] = np.asarray(image).reshape(shape)
    return images


def _batches(path: Path, data_format: str) -> Iterator[pa.RecordBatch]:
    """Yield a table of Arrow or Parquet in parts, until they take up more than the file can hold."""
    size = path.stat().st_size
    num_bytes = 0
    for batch in _parquet_batches(path, size) if data_format == "parquet" else _arrow_batches(path):
        batch.validate(full=True)
        num_bytes += batch.nbytes
        refuse_swollen(str(path), num_bytes, size, _FREE_BYTES)
        yield batch


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as mapped:
        reader = pa.ipc.open_file(mapped)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def _parquet_batches(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    with pyarrow.parquet.ParquetFile(path) as file:
        # Reading what a damaged file says of a column can end the process; scanning it first, which takes little
        # memory however much is declared, raises instead.
        file.scan_contents()
        metadata = file.metadata
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                num_values = metadata.row_group(group).column(column).num_values
                refuse_swollen(str(path), max(num_values, metadata.num_rows), size, _FREE_BYTES)
        yield from file.iter_batches(_BATCH_ROWS, columns=list(_NAMES))


def _table_leaves(
    column: pa.Array, space: gymnasium.Space, name: str, read: Callable[[pa.Array, gymnasium.Space, str], np.ndarray]
) -> dict[str, np.ndarray]:
    if not isinstance(space, Dict | Tuple):
        return {name: read(column, space, name)}
    if not isinstance(column, pa.StructArray):
        raise DataError(f"{name} has type {quote(column.type)}, the declared space is a {type(space).__name__}")
    if column.null_count:
        raise DataError(f"{name} has {column.null_count} empty entries")
    arrays = {}
    for key, child in children(space):
        index = column.type.get_field_index(key)
        if index < 0:
            raise DataError(f"{name} has no {quote(key)}; it has {words_of([field.name for field in column.type])}")
        arrays |= _table_leaves(column.field(index), child, f"{name}.{key}", read)
    return arrays


def _table_leaf(column: pa.Array, leaf: gymnasium.Space, name: str, *, is_jpeg: bool, stored: int) -> np.ndarray:
    kind = column.type
    if isinstance(leaf, Text):
        if not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
            raise DataError(f"{name} has type {quote(kind)}, expected one text per step")
        return column.to_numpy(zero_copy_only=False)  # None where one is not known
    if is_image(kind):
        if not is_jpeg or not _is_image(leaf):
            raise DataError(f"{name} has type {quote(kind)}, expected numbers")
        return _images(column.to_pylist(), leaf, name, stored)
    values = known_values(column, name)
    # lists are flat whatever the shape is
    return values.reshape(len(values), *leaf.shape) if leaf.shape and values[:1].size == num_entries(leaf) else values
