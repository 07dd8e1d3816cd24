"""Files that others wrote, opened without believing them.

No link is followed, nothing that a file names is imported, made or called, no declared size is believed, and whatever
makes a library stumble over a file is one sentence.
"""

import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

import h5py
import pyarrow.parquet

from seqdec import storage
from seqdec.data.source import AGAIN
from seqdec.errors import DataError, UsageError, suggest
from seqdec.spaces.space import is_int, quote

# Deflate packs at most about 1000 to 1: a file that declares more than it can hold is not read.
_MAX_RATIO = 1100
_FREE_CHUNK = 2**25
FREE_TABLE = 2**25  # bytes that a table may take up, however well it is packed: constant columns shrink to nothing
_HARD_LINK = 0  # H5L_TYPE_HARD of the HDF5 format
PICKLES = {".pkl", ".pickle", ".pk", ".dill", ".joblib", ".pt", ".pth", ".npy", ".npz"}
ZIP = b"PK\x03\x04"
# Tables of text, which may be packed with gzip.
LINES = (".jsonl", ".ndjson", ".json")
TEXTS = (*LINES, ".csv", ".tsv")
_MAX_PICKLE_PROTOCOL = 5
T = TypeVar("T")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes its library raise into a sentence; a pipe or a device is not waited for."""
    storage.check_plain(path)
    try:
        yield
    except (DataError, UsageError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        what = instead_of_data(path) or f"damaged or cut off ({quote(words[:120])[1:-1]})"
        raise DataError(f"{path} cannot be read: {what}; {AGAIN}") from error


@contextmanager
def at(place: object) -> Iterator[None]:
    """Say where in the data an error is."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}", option=error.option) from error


def attempt(make: Callable[[], T], place: object) -> T | DataError:
    """Return what is made of an episode, or where it is and what is wrong with it."""
    try:
        with at(place):
            return make()
    except DataError as error:
        return error


@contextmanager
def opened_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read it; one that is none is a `DataError` that says what it is instead."""
    with reading(path), h5py.File(path, "r") as file:
        yield file


@contextmanager
def opened_parquet(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open a Parquet file, if it is large enough for what it declares.

    Rows that are all equal pack without end, but no real table has only these.
    """
    # Arrow would otherwise keep whole row groups in memory, and those it is past.
    with (
        reading(path),
        pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**16, page_checksum_verification=True) as file,
    ):
        size, metadata = path.stat().st_size, file.metadata
        if metadata.num_rows > _MAX_RATIO * size:
            raise DataError(f"{path} declares {metadata.num_rows} rows: it is too small for them")
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        columns = [group.column(index) for group in groups for index in range(metadata.num_columns)]
        declared = sum(max(column.total_uncompressed_size, column.num_values) for column in columns)
        refuse_swollen(str(path), declared, size, FREE_TABLE)
        yield file


def check_columns(path: Path, has: Sequence[str], names: Sequence[str]) -> None:
    """Raise `DataError` where a file of a table lacks a column."""
    lacking = next((name for name in names if name not in has), None)
    if lacking is not None:
        raise DataError(f"{path} has no column {quote(lacking)}{suggest(lacking, has)}; it has {quote(', '.join(has))}")


def count(value: object, name: str, least: int = 0) -> int:
    """Return a number of things that a file names; whole fractions count as whole."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    if not is_int(value) or not least <= value <= 10**15:
        raise DataError(f"{name} is {quote(value)}, expected a whole number from {least} on")
    return value


def refuse_pickle(path: Path) -> None:
    """Refuse a file that can hold a pickle, by its name or its first bytes, without opening it as one."""
    with reading(path), path.open("rb") as file:
        start = file.read(8)
    named = Path(path.name.lower().removesuffix(".gz")).suffix
    is_npz = start.startswith(ZIP) and named == ".npz"  # which says of each of its arrays whether it is a pickle
    is_torch = start.startswith(ZIP) and not is_npz
    if is_pickled(start) or is_torch or start.startswith(b"\x93NUMPY") or named in PICKLES - {".npz"}:
        raise pickled(path)


def pickled(path: Path | str) -> DataError:
    """Return what is wrong with a file that can hold a pickle."""
    return DataError(
        f"{path} is or can hold a pickle, which runs code when it is opened: it is not read; write its arrays to "
        "an HDF5 file (observations, actions, rewards, terminals, timeouts) or a Minari data set where you trust it"
    )


def suffix_of(path: Path) -> str:
    """Return what a file's name ends in, in lower case: ".csv" of walk.csv, and of walk.csv.gz, a packed text."""
    inner = Path(path.name.lower().removesuffix(".gz")).suffix
    return inner if inner in TEXTS else path.suffix.lower()


def unpacked(path: Path) -> IO[bytes]:
    """Open a file; a packed text is unpacked as it is read."""
    is_packed = path.suffix.lower() == ".gz" and suffix_of(path) in TEXTS
    return gzip.open(path) if is_packed else path.open("rb")  # pyright: ignore[reportReturnType]


def is_pickled(beginning: bytes) -> bool:
    """Say whether a file's first bytes are those of a pickle."""
    return beginning[:1] == b"\x80" and len(beginning) > 1 and beginning[1] <= _MAX_PICKLE_PROTOCOL


def hdf5_member(group: h5py.Group | h5py.Dataset, name: str) -> h5py.Group | h5py.Dataset:
    """Return what a group holds under a name; parts of the name between slashes are groups within groups.

    Raises:
        DataError: nothing is there, or it is a link to elsewhere.
    """
    member = group
    for part in name.split("/"):
        if not isinstance(member, h5py.Group):
            raise DataError(f"{place_of(member)} is an array where a group is expected")
        try:
            link = member.id.links.get_info(part.encode())
        except (KeyError, RuntimeError, ValueError) as error:
            raise DataError(f"{place_of(member)} has no {quote(part)}; it has {words_of(member)}") from error
        if link.type != _HARD_LINK:
            raise DataError(f"{place_of(member, part)} is a link to elsewhere: links are not followed")
        inner = member[part]
        if not isinstance(inner, h5py.Group | h5py.Dataset):
            raise DataError(f"{place_of(member, part)} is neither a group nor an array")
        member = inner
    return member


def hdf5_group(group: h5py.Group, name: str) -> h5py.Group:
    """Return the group of a name."""
    member = hdf5_member(group, name)
    if not isinstance(member, h5py.Group):
        raise DataError(f"{place_of(member)} is an array where a group is expected")
    return member


def hdf5_array(group: h5py.Group | h5py.Dataset, name: str) -> h5py.Dataset:
    """Return the array of a name, as `checked_array` does."""
    return checked_array(hdf5_member(group, name))


def checked_array(data: h5py.Group | h5py.Dataset) -> h5py.Dataset:
    """Return an array that is all in this file and no larger than what is stored of it can be; it is not read yet."""
    if not isinstance(data, h5py.Dataset):
        raise DataError(f"{place_of(data)} is a group where an array is expected; it has {words_of(data)}")
    if data.external or data.is_virtual:
        raise DataError(f"{place_of(data)} keeps its numbers in other files: they are not followed")
    if data.shape is None:
        raise DataError(f"{place_of(data)} is empty")
    num_bytes = math.prod(data.shape) * data.dtype.itemsize
    refuse_swollen(place_of(data), num_bytes, data.id.get_storage_size())
    chunk = math.prod(data.chunks or ()) * data.dtype.itemsize  # is unpacked whole, however little of it is the array's
    if chunk > max(num_bytes, _FREE_CHUNK):
        raise DataError(f"{place_of(data)} has {num_bytes} bytes in chunks of {chunk}: it is not read")
    if _num_packings(data) > 1:
        raise DataError(f"{place_of(data)} is packed more than once: it is not read")
    return data


def _num_packings(data: h5py.Dataset) -> int:
    """Return how many filters of an array's chunks give more bytes than they take."""
    filters = data.id.get_create_plist()
    kinds = [filters.get_filter(index)[0] for index in range(filters.get_nfilters())]
    return sum(kind not in (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32) for kind in kinds)


def refuse_swollen(place: str, num_bytes: int, stored: int, free: int = 4096) -> None:
    """Refuse what takes up more than the bytes that are stored of it can be unpacked to; `free` bytes always pass."""
    if num_bytes > _MAX_RATIO * stored + free:
        raise DataError(f"{place} declares {num_bytes} bytes, {stored} are stored: it is not read")


def place_of(member: h5py.Group | h5py.Dataset, part: str = "") -> str:
    """Return where something is in its HDF5 file, or would be under the name `part`, made inert."""
    return quote(f"{str(member.name).rstrip('/')}/{part}" if part else member.name)[1:-1]


def words_of(names: h5py.Group | list[str]) -> str:
    """Return the names that a file has, the first 20 of them, made inert."""
    shown = [quote(str(name))[1:-1] for _, name in zip(range(21), names, strict=False)]
    return ", ".join(shown[:20] + ["..."] * (len(shown) > 20)) or "nothing"


def instead_of_data(path: Path) -> str | None:
    """Say what is in the place of a file of data, where that shows, without opening it as one."""
    if not path.is_file():
        return "it is a folder" if path.is_dir() else "it is missing"
    try:
        with unpacked(path) as file:
            start = file.read(512)
    except gzip.BadGzipFile:
        return f"it is not packed with gzip, as {path.suffix} says"
    except OSError as error:
        return f"it cannot be opened ({error.strerror})"
    except (EOFError, zlib.error):
        return "it is damaged or cut off"
    if not start.strip():
        return "it is empty"
    packed = start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"BZh"))
    instead = "packed with gzip, zip or the like: unpack it first" if packed else storage.stand_in(start)
    if is_pickled(start):
        instead = "a pickle, which runs code when it is read"
    return f"it is {instead}" if instead else None
