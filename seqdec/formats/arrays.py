"""The values of a file as arrays: Arrow's nested lists, encoded images and lines of JSON, each read in one place.

Null is NaN, or None among texts, as in what `leaves.split` reads. A column whose values are all null has no shape of
its own: [n] NaN, which goes with any other.
"""

import io
import json
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pyarrow as pa
from PIL import Image

from seqdec import storage
from seqdec.errors import DataError
from seqdec.formats.guard import reading, unpacked
from seqdec.spaces.leaves import leaf_kind, num_entries, split
from seqdec.spaces.space import MAX_ENTRIES, describe_space, quote
from seqdec.spaces.spec import EnvironmentSpec

# Formats that Pillow decodes by itself: for others it calls programs.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_DAMAGES = (
    *(OSError, ValueError, SyntaxError, EOFError, zlib.error, struct.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
MAX_LINE = 2**28  # bytes: little that is packed may hold an endless line
StepOf = Callable[[int], int]
NO_REWARDS = "%s has no rewards: they are taken for 0; train what asks for no return, such as behaviour cloning"


def step_values(array: pa.Array | pa.ChunkedArray, column: str, first: int = 0) -> np.ndarray:
    """Return a column's values: [n], or [n, ...] of lists and images.

    Args:
        array: the values of n neighbouring steps.
        column: its name, and
        first: the step of the first value, for the sentence that says what is wrong.

    Raises:
        DataError: lists or images of different sizes, or of something else than numbers.
    """
    return _values(plain(array), quote(column), lambda index: first + index)


def known_values(array: pa.Array | pa.ChunkedArray, column: str) -> np.ndarray:
    """Return a column's values like `step_values`, where none of them may be null."""
    inner = plain(array)
    num_null = inner.null_count
    while is_list(inner.type):
        inner = plain(inner.flatten())
        num_null += inner.null_count
    if num_null:
        raise DataError(f"{column} has {num_null} empty entries")
    return step_values(array, column)


def joined(pieces: Sequence[np.ndarray], column: str) -> np.ndarray:
    """Return neighbouring values of one column as one array; their number types may differ, their sizes may not."""
    if len(pieces) == 1:
        return pieces[0]
    like = next((piece for piece in pieces if not is_unknown(piece)), pieces[0])
    num_steps, filled = 0, []
    for piece in pieces:
        if is_unknown(piece):
            piece = np.full((len(piece), *like.shape[1:]), None if like.dtype == object else np.nan)
        elif piece.shape[1:] != like.shape[1:]:
            sizes = [_size(values.shape[1:]) for values in (piece, like)]
            raise DataError(f"column {quote(column)} has {sizes[0]} at step {num_steps}, {sizes[1]} before it")
        elif (piece.dtype == object) != (like.dtype == object):
            raise DataError(f"column {quote(column)} turns from texts to numbers or back at step {num_steps}")
        filled.append(piece)
        num_steps += len(piece)
    return np.concatenate(filled)


def is_unknown(values: np.ndarray) -> bool:
    """Say whether nothing is known but that these values are null."""
    return values.ndim == 1 and values.dtype.kind == "f" and bool(np.isnan(values).all())


def steps_of(arrays: Mapping[str, np.ndarray], spec: EnvironmentSpec) -> dict[str, np.ndarray]:
    """Return the arrays of an episode, as a file has them, as `make_row` takes them.

    Args:
        arrays: each leaf of the observation [T+1, ...], of the action [T, ...], and "reward" [T].
        spec: the environment that the episode comes from.

    Raises:
        DataError: an array has not the shape that it must have.
    """
    steps = {"reward": per_step(arrays["reward"], "rewards")}
    for name, leaf in {**spec.observation_leaves, **spec.action_leaves}.items():
        steps |= leaf_values(arrays[name], leaf, name)
    return steps


def per_step(values: np.ndarray, name: str) -> np.ndarray:
    """Return one number a step: [T] of [T] or [T, 1]."""
    values = values[:, 0] if values.shape[1:] == (1,) else values
    if values.ndim != 1:
        raise DataError(f"{name} have shape {list(values.shape[1:])}, expected one number per step")
    if values.dtype.kind not in "biuf":
        kind = "text" if values.dtype == object else quote(values.dtype)
        raise DataError(f"{name} have type {kind}, expected numbers")
    return values


def leaf_values(values: np.ndarray, leaf: gymnasium.Space, name: str) -> dict[str, np.ndarray]:
    """Return the values of a leaf in its type and shape, and "missing.NAME" where some are null or NaN.

    A list fits any shape of as many entries; nested lists fit a shape that begins with theirs and goes on with ones.

    Raises:
        DataError: they are not what the space expects, with both sides.
    """
    shape, sizes, is_text = leaf.shape or (), values.shape[1:], leaf_kind(leaf) == "text"
    if is_unknown(values):
        values, sizes = np.full((len(values), *shape), None if is_text else np.nan), shape
    if (values.dtype == object) != is_text or (is_text and values.ndim > 1):
        kind = "texts" if values.dtype == object else "numbers"
        raise DataError(f"{name} holds {kind}, the space is {describe_space(leaf)}")
    is_list_of_all = len(sizes) <= 1 or sizes == shape[: len(sizes)]
    if not is_text and (not is_list_of_all or math.prod(sizes) != num_entries(leaf)):
        raise DataError(f"{name} has {_size(sizes)}, the space is {describe_space(leaf)}")
    return split(leaf, values if is_text else values.reshape(len(values), *shape), name)


def is_image(kind: pa.DataType) -> bool:
    """Say whether a type holds encoded images: bytes, or bytes and a path as in `datasets.Image`."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_list(kind: pa.DataType) -> bool:
    """Say whether a type is one of Arrow's lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def plain(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return an array without what `datasets`, pandas or a table put around it."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array


@contextmanager
def opened_image(entry: object, where: str, formats: tuple[str, ...] = IMAGE_FORMATS) -> Iterator[Image.Image]:
    """Open an encoded image to look at its size before its pixels are unpacked.

    Args:
        entry: bytes, or a dict with them under "bytes", as `datasets.Image` has it.
        where: what it is, for the sentence that says what is wrong.
        formats: those that it may be in.

    Raises:
        DataError: there are no bytes, or they are damaged, of another format, or of more than 8 bits a pixel.
    """
    content = entry.get("bytes") if isinstance(entry, dict) else entry
    if not isinstance(content, bytes):
        raise DataError(f"{where} names an image file without its bytes: save the data with the images in it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=formats) as image:
                if image.mode.startswith(("I", "F")):
                    raise DataError(f"{where} has more than 8 bits a pixel: depth maps are not read; leave it out")
                yield image
    except DataError:
        raise
    except _DAMAGES as error:
        reason = quote(" ".join(str(error).split())[:120])[1:-1]
        raise DataError(f"{where} is damaged or no {', '.join(formats)} image ({reason})") from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the objects of a file with one JSON object a line, each after the number of its bytes.

    Raises:
        DataError: with the line, or the file that cannot be read.
    """
    with reading(path), unpacked(path) as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_LINE), b""), 1):
            if len(line) == MAX_LINE:
                raise DataError(f"{path}, line {number} has {MAX_LINE} bytes or more: it is not read")
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig"), object_pairs_hook=storage.unique)
            except (ValueError, RecursionError) as error:
                reason = "nested too deep" if isinstance(error, RecursionError) else quote(error)[1:-1]
                instead = storage.stand_in(line)
                hint = f"it is {instead}" if instead else "write one object a line"
                raise DataError(f"{path}, line {number} is no JSON ({reason}): {hint}") from error
            if not isinstance(value, dict):
                raise DataError(f"{path}, line {number} is a JSON {type(value).__name__}: write one object a line")
            yield len(line), value


def _values(array: pa.Array, column: str, step_of: StepOf) -> np.ndarray:
    """Read entries; `step_of` tells the step that an entry belongs to."""
    array = plain(array)
    kind = array.type
    if is_list(kind) or is_image(kind):
        if array.null_count:
            return _spread_values(array, column, step_of)
        return (_list_values if is_list(kind) else _image_values)(array, column, step_of)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return np.array(array.to_pylist(), dtype=object)
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if pa.types.is_decimal(kind):
        array = array.cast(pa.float64(), safe=False)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"column {column} holds {quote(kind)}: expected numbers, truth values, texts, images or lists")
    if array.null_count:
        array = array.cast(pa.int8()) if pa.types.is_boolean(kind) else array
        array = array.cast(pa.float64(), safe=False)
    return array.to_numpy(zero_copy_only=False)


def _spread_values(array: pa.Array, column: str, step_of: StepOf) -> np.ndarray:
    """Read lists or images with NaN, or None, in the place of those that are null."""
    places = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
    known = _values(array.drop_null(), column, lambda index: step_of(int(places[index])))
    values = np.full((len(array), *known.shape[1:]), None if known.dtype == object else np.nan)
    values[places] = known
    return values


def _list_values(array: pa.Array, column: str, step_of: StepOf) -> np.ndarray:
    if len(array) == 0:
        return np.zeros(0)
    sizes = array.value_lengths().to_numpy(zero_copy_only=False)
    size = int(sizes[0])
    wrong = np.flatnonzero(sizes != size)
    if len(wrong):
        step = step_of(int(wrong[0]))
        raise DataError(f"column {column} has {_size((int(sizes[wrong[0]]),))} at step {step}, {size} before it")
    if size == 0:
        raise DataError(f"column {column} has no entries at step {step_of(0)}")
    inner = _values(array.flatten(), column, lambda index: step_of(index // size))
    return inner.reshape(len(array), size, *inner.shape[1:])


def _image_values(array: pa.Array, column: str, step_of: StepOf) -> np.ndarray:
    images: list[np.ndarray] = []
    for index, entry in enumerate(array.to_pylist()):
        where = f"column {column} at step {step_of(index)}"
        with opened_image(entry, where) as image:
            if image.width * image.height * len(image.getbands()) > MAX_ENTRIES:
                raise DataError(f"{where} is an image of {image.width}x{image.height}: too large, scale it down")
            mode = "L" if image.mode in ("1", "L") else image.mode if image.mode == "RGBA" else "RGB"
            images.append(np.asarray(image if image.mode == mode else image.convert(mode)))
        if images[-1].shape != images[0].shape:
            size, before = _size(images[-1].shape), _size(images[0].shape)
            raise DataError(f"column {column} has {size} at step {step_of(index)}, {before} before it")
    return np.stack(images) if images else np.zeros(0)


def _size(shape: tuple[int, ...]) -> str:
    if len(shape) > 1:
        return f"shape {list(shape)}"
    return f"{shape[0]} entries" if shape and shape[0] != 1 else "1 entry"
