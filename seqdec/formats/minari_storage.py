"""The episodes of a Minari data set: an array for each leaf of its spaces, and what else is known of each.

    HDF5            groups by key, of a Tuple by _index_0, _index_1, ...; numbers [T+1, ...] or [T, ...]
    Arrow, Parquet  structs by key, of a Tuple by 0, 1, ...; flat lists; T+1 rows, the last one padded
    images          one JPEG file a step, where the data set says jpeg_encoding, else numbers

What these files declare is checked before it is read, see `guard`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pyarrow as pa
from gymnasium.spaces import Dict, Text, Tuple

from seqdec import storage
from seqdec.data.episode import Metadata
from seqdec.errors import DataError
from seqdec.formats.arrays import is_image, known_values, opened_image, plain
from seqdec.formats.guard import (
    FREE_TABLE,
    checked_array,
    hdf5_array,
    hdf5_member,
    opened_hdf5,
    opened_parquet,
    place_of,
    reading,
    refuse_swollen,
    words_of,
)
from seqdec.formats.table_formats import read_files
from seqdec.spaces.leaves import num_entries
from seqdec.spaces.space import MAX_TEXT, children, quote
from seqdec.spaces.spec import EnvironmentSpec

ENDS = ("rewards", "terminations", "truncations")
_NAMES = ("observations", "actions", *ENDS)
_MAX_NAME = 100  # characters in the name of a metadatum
_PIECE_BYTES = 2**28
Node = h5py.Group | h5py.Dataset | pa.Array


@dataclass(frozen=True)
class Storage:
    """The files of a data set, opened: what an episode says of itself and its arrays, by its index.

    The arrays are each leaf of observation and action by its name, and `ENDS`.
    """

    path: Path
    num_episodes: int
    metadata: Callable[[int], Metadata]
    arrays: Callable[[int], dict[str, np.ndarray]]


@contextmanager
def opened(folder: Path, data_format: str, spec: EnvironmentSpec) -> Iterator[Storage]:
    """Open the files of a data set; `data_format` is hdf5, arrow or parquet."""
    if data_format != "hdf5":
        count = sum(bool(re.fullmatch(r"\d+", path.name)) for path in folder.iterdir())
        arrays = partial(_table_episode, folder, data_format, spec)
        yield Storage(folder, count, partial(_table_metadata, folder), arrays)
        return
    path = storage.path_inside(folder, "main_data.hdf5")
    with opened_hdf5(path) as file:
        count = sum(str(name).startswith("episode_") for name in file)
        yield Storage(path, count, partial(_hdf5_metadata, file), partial(_hdf5_episode, file, spec))


def _hdf5_episode(file: h5py.File, spec: EnvironmentSpec, index: int) -> dict[str, np.ndarray]:
    with reading(Path(file.filename)):
        group = hdf5_member(file, f"episode_{index}")
        return {
            **_leaves(hdf5_member(group, "observations"), spec.observation_space, "observation"),
            **_leaves(hdf5_member(group, "actions"), spec.action_space, "action"),
            **{name: _numbers(hdf5_array(group, name)) for name in ENDS},
        }


def _hdf5_metadata(file: h5py.File, index: int) -> Metadata:
    values = {}
    group = hdf5_member(file, f"episode_{index}")
    for name in group.attrs:
        kind = group.attrs.get_id(name)
        is_known = kind.dtype.kind in "biufSU" or h5py.check_string_dtype(kind.dtype) is not None
        if kind.shape == () and is_known:
            value = group.attrs[name]
            values[name] = value.item() if isinstance(value, np.generic) else value
    return _plain(values)


def _table_episode(folder: Path, data_format: str, spec: EnvironmentSpec, index: int) -> dict[str, np.ndarray]:
    episode = storage.path_inside(folder, str(index))
    parts = sorted(episode.glob(f"part-*.{data_format}"), key=lambda path: (len(path.name), path.name))
    if not parts:
        raise DataError(f"{episode} has no part-0.{data_format}")
    batches = [batch for path in parts for batch in _batches(storage.path_inside(episode, path.name))]
    if not batches:
        raise DataError("it has no steps")
    with reading(parts[0]):
        table = pa.Table.from_batches(batches)
        columns = {name: plain(table.column(name)) for name in _NAMES}
        stored = sum(path.stat().st_size for path in parts)
        # Observations have one row more than the rest: the others' last row is padding.
        return {
            **_leaves(columns["observations"], spec.observation_space, "observation", stored),
            **_leaves(columns["actions"][:-1], spec.action_space, "action", stored),
            **{name: known_values(columns[name][:-1], name) for name in ENDS},
        }


def _table_metadata(folder: Path, index: int) -> Metadata:
    path = storage.path_inside(storage.path_inside(folder, str(index)), "metadata.json")
    return _plain(_flat(storage.read_json(path), "")) if path.is_file() else {}


def _leaves(node: Node, space: gymnasium.Space, name: str, stored: int = 0) -> dict[str, np.ndarray]:
    """Return the leaves of a space by name, read from a node that nests as the space does."""
    if not isinstance(space, Dict | Tuple):
        is_column = isinstance(node, pa.Array)
        return {name: _table_leaf(node, space, name, stored) if is_column else _hdf5_leaf(checked_array(node), space)}
    arrays = {}
    for key, child in children(space):
        if isinstance(node, pa.Array):
            inner = _table_member(node, key, name)
        else:
            inner = hdf5_member(node, f"_index_{key}" if isinstance(space, Tuple) else key)
        arrays |= _leaves(inner, child, f"{name}.{key}", stored)
    return arrays


def _table_member(column: pa.Array, key: str, name: str) -> pa.Array:
    if not isinstance(column, pa.StructArray) or column.null_count:
        raise DataError(f"{name} has type {quote(column.type)} and {column.null_count} empty entries, expected structs")
    index = column.type.get_field_index(key)
    if index < 0:
        raise DataError(f"{name} has no {quote(key)}; it has {words_of([field.name for field in column.type])}")
    return column.field(index)


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


def _hdf5_leaf(data: h5py.Dataset, leaf: gymnasium.Space) -> np.ndarray:
    if isinstance(leaf, Text):
        if h5py.check_string_dtype(data.dtype) is None or data.ndim != 1:
            raise DataError(f"{place_of(data)} has type {quote(data.dtype)}, expected one text per step")
        return np.array([text.decode() for text in _pieces(data)], dtype=object)
    is_bytes = data.dtype == np.uint8 if data.ndim == 2 else h5py.check_vlen_dtype(data.dtype) == np.uint8
    if is_bytes and len(leaf.shape or ()) >= 2:
        contents = [bytes(piece) for piece in _pieces(data)]
        stored = data.id.get_storage_size() if data.ndim == 2 else sum(map(len, contents))
        return _images(contents, leaf, place_of(data), stored)
    return _numbers(data)


def _numbers(data: h5py.Dataset) -> np.ndarray:
    if data.dtype.kind not in "biuf":
        raise DataError(f"{place_of(data)} has type {quote(data.dtype)}, expected numbers")
    return np.atleast_1d(data[()])


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


def _images(contents: Sequence[bytes], leaf: gymnasium.Space, place: str, stored: int) -> np.ndarray:
    """Return [T, *shape] uint8 of JPEG files."""
    refuse_swollen(place, len(contents) * num_entries(leaf), stored, FREE_TABLE)
    shape = tuple(leaf.shape or ())
    images = np.empty((len(contents), *shape), np.uint8)
    for step, content in enumerate(contents):
        with opened_image(content, f"{place}: image {step}", ("JPEG",)) as image:
            size = [image.height, image.width, len(image.getbands())]
            if size != list((*shape, 1)[:3]):  # only an image of the declared size is unpacked
                raise DataError(f"{place}: image {step} has shape {size}, the declared space has {list(shape)}")
            images[step] = np.asarray(image).reshape(shape)
    return images


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield a table of Arrow or Parquet in parts, until they take up more than the file can hold."""
    if path.suffix == ".parquet":
        with opened_parquet(path) as file:
            # Reading what a damaged file says of a column can end the process; scanning it first, which takes little
            # memory however much is declared, raises instead.
            file.scan_contents()
    for block in read_files([path], _NAMES, {}):
        block.rows.validate(full=True)
        yield block.rows


def _table_leaf(column: pa.Array, leaf: gymnasium.Space, name: str, stored: int) -> np.ndarray:
    kind = column.type
    if isinstance(leaf, Text):
        if not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
            raise DataError(f"{name} has type {quote(kind)}, expected one text per step")
        return column.to_numpy(zero_copy_only=False)  # None where one is not known
    return _images(column.to_pylist(), leaf, name, stored) if is_image(kind) else known_values(column, name)
