"""Files of arrays, opened: by name, with shape and type, and a slice of rows at a time.

    HDF5   observations, actions, infos/goal, ...          one group: the steps of all episodes
           data/demo_0/obs/object, data/demo_1/..., ...    a group a demonstration
    npz    observations.npy, actions.npy, ...              one group, read forward; no array of objects, so no pickle

No link is followed, and no declared size is believed.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Protocol

import h5py
import numpy as np

from seqdec.errors import DataError
from seqdec.formats.guard import (
    AGAIN,
    ZIP,
    hdf5_array,
    hdf5_group,
    hdf5_member,
    opened_hdf5,
    pickled,
    place_of,
    reading,
    refuse_swollen,
)
from seqdec.spaces.space import quote

BLOCK_ROWS = 65536
BLOCK_BYTES = 2**26
MAX_NAMES, MAX_DEPTH = 4096, 8
DEMOS, DEMO = "data", "demo_"
_SKIPPED = 2**20  # bytes at a time


class Array(Protocol):
    """What is used of an array: its rows by slices."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Group:
    """Arrays that belong together; `array` opens the one of a name and checks it.

    Attributes:
        place: where in the file; "" of a flat one.
        names: of its arrays, with the groups that they are in; links and empty groups are refused when opened.
    """

    place: str
    names: tuple[str, ...]
    array: Callable[[str], Array]


@dataclass(frozen=True)
class ArrayFile:
    """The groups of a file: all steps in a single one, or a demonstration in each."""

    groups: tuple[Group, ...]
    is_npz: bool = False
    has_demos: bool = False


@contextmanager
def opened_arrays(path: Path) -> Iterator[ArrayFile]:
    """Open an HDF5 or npz file, whichever it is."""
    with reading(path), path.open("rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP
    if is_zip:
        with reading(path), zipfile.ZipFile(path) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist()[:MAX_NAMES] if name.endswith(".npy")]
            for name in members:  # whatever of it is read, a file with a pickle in it is none to rely on
                _check_plain(archive, name, path)
            yield ArrayFile((Group("", tuple(members), partial(NpzArray, archive)),), is_npz=True)
        return
    with opened_hdf5(path) as file:
        demos = _demos(file)
        if demos is None:
            yield ArrayFile((Group("", tuple(_names(file)), partial(hdf5_array, file)),))
            return
        names = sorted((str(name) for name in demos if str(name).startswith(DEMO)), key=_number)
        groups = [hdf5_group(demos, name) for name in names]
        places = (Group(f"{DEMOS}/{name}", tuple(_names(group)), partial(hdf5_array, group))
                  for name, group in zip(names, groups, strict=True))  # fmt: skip
        yield ArrayFile(tuple(places), has_demos=True)


class NpzArray:
    """An array of an npz file, whose rows are unpacked as they are asked for; going back begins anew.

    Raises:
        DataError: it is no array, or not all of it is there.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._open = partial(archive.open, f"{name}.npy")
        info = archive.getinfo(f"{name}.npy")
        with self._open() as file:
            self.shape, self.dtype = _header(file, quote(name))
            self._start = file.tell()
        self._width = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=object))
        num_bytes = self._width * (self.shape[0] if self.shape else 1)
        if info.file_size != self._start + num_bytes:
            raise DataError(f"{quote(name)} declares {num_bytes} bytes, {info.file_size - self._start} are there")
        refuse_swollen(quote(name), num_bytes, info.compress_size)
        self._file, self._row = self._open(), 0
        self._skip(self._start)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        if start < self._row:
            self._file.close()
            self._file, self._row = self._open(), 0
            self._skip(self._start)
        self._skip((start - self._row) * self._width)
        content = self._file.read((stop - start) * self._width)
        self._row = stop
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape[1:])

    def _skip(self, num_bytes: int) -> None:
        while num_bytes > 0 and (content := self._file.read(min(num_bytes, _SKIPPED))):
            num_bytes -= len(content)


class Window:
    """The rows of an array that are asked for from the first to the last, of which few are in memory at a time."""

    def __init__(self, data: Array) -> None:
        width = data.dtype.itemsize * int(np.prod(data.shape[1:]))
        self._data = data
        self.size = min(BLOCK_ROWS, max(1, BLOCK_BYTES // max(1, width)))
        self._start, self._block = 0, np.zeros((0, *data.shape[1:]), data.dtype)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return the rows from `start` to before `stop`; `start` is no smaller than in the call before."""
        parts = []
        while start < stop:
            if not self._start <= start < self._start + len(self._block):
                self._start, self._block = start, self._data[start : start + self.size]
            offset = start - self._start
            parts.append(self._block[offset : offset + stop - start])
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _demos(file: h5py.File) -> h5py.Group | None:
    """Return the group of robomimic's demonstrations, where there is one."""
    if DEMOS not in [str(name) for name in file] or "observations" in file:
        return None
    member = hdf5_member(file, DEMOS)
    is_of_demos = isinstance(member, h5py.Group) and any(str(name).startswith(DEMO) for name in member)
    return member if is_of_demos and isinstance(member, h5py.Group) else None


def _names(group: h5py.Group, prefix: str = "", depth: int = MAX_DEPTH) -> list[str]:
    """Return the names of the arrays, links and empty groups in a group, and in the groups in it."""
    names: list[str] = []
    for key in group:
        key = str(key)
        link = group.get(key, getlink=True)
        member = group.get(key) if isinstance(link, h5py.HardLink) else None
        if not isinstance(member, h5py.Group):
            names.append(f"{prefix}{key}")
        elif depth:
            names += _names(member, f"{prefix}{key}/", depth - 1) or [f"{prefix}{key}"]
        if len(names) > MAX_NAMES:
            raise DataError(f"{place_of(group)} holds more than {MAX_NAMES} arrays: it is not read")
    return names


def _number(name: str) -> tuple[int, str]:
    number = name.removeprefix(DEMO)
    return (int(number), "") if number.isdecimal() and len(number) < 20 else (10**20, name)


def _check_plain(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    with archive.open(f"{name}.npy") as file:
        if _header(file, quote(name))[1].hasobject:
            raise pickled(path)


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Read what an .npy file says of itself."""
    if np.lib.format.read_magic(file) != (1, 0):  # later versions are for headers beyond 64 kB
        raise DataError(f"{name} is of an unknown version of npy; {AGAIN}")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if is_fortran and len(shape) > 1:
        raise DataError(f"{name} is kept column by column: save it with numpy.ascontiguousarray")
    return shape, dtype
