"""The values of a table's columns as arrays with one entry a step: numbers, texts, images and lists of numbers.

What is null is NaN, or None among texts, as in what `leaves.split` reads. A column whose values are all null has no
shape of its own: [n] NaN, which goes with any other.
"""

import io
import struct
import zlib
from collections.abc import Sequence

import gymnasium
import numpy as np
import pyarrow as pa

from seqdec.errors import DataError
from seqdec.formats.video import IMAGE_FORMATS
from seqdec.spaces.leaves import leaf_kind, num_entries, split
from seqdec.spaces.space import MAX_ENTRIES, describe_space, quote


def step_values(array: pa.Array, column: str, first: int = 0) -> np.ndarray:
    """Return a column's values: [n], or [n, ...] of lists and images.

    Args:
        array: the values of n neighbouring steps.
        column: its name, and
        first: the step of the first value, for the sentence that says what is wrong.

    Raises:
        DataError: lists or images of different sizes, or of something else than numbers.
    """
    return _values(array, quote(column), np.arange(first, first + len(array)), 1)


def joined(pieces: Sequence[np.ndarray], column: str) -> np.ndarray:
    """Return neighbouring values of one column as one array; their number types may differ, their sizes may not."""
    if len(pieces) == 1:
        return pieces[0]
    known = [piece for piece in pieces if not is_unknown(piece)]
    if not known:
        return np.concatenate(pieces)
    first, num_steps = known[0], 0
    for piece in pieces:
        if not is_unknown(piece) and piece.shape[1:] != first.shape[1:]:
            came, wanted = _size(piece.shape[1:]), _size(first.shape[1:])
            raise DataError(f"column {quote(column)} has {came} at step {num_steps}, {wanted} before it")
        if not is_unknown(piece) and (piece.dtype == object) != (first.dtype == object):
            raise DataError(f"column {quote(column)} turns from texts to numbers or back at step {num_steps}")
        num_steps += len(piece)
    blank = None if first.dtype == object else np.nan
    return np.concatenate(
        [np.full((len(piece), *first.shape[1:]), blank) if is_unknown(piece) else piece for piece in pieces]
    )


def is_unknown(values: np.ndarray) -> bool:
    """Say whether nothing is known but that these values are null."""
    return values.ndim == 1 and values.dtype.kind == "f" and bool(np.isnan(values).all())


def leaf_values(values: np.ndarray, leaf: gymnasium.Space, name: str) -> dict[str, np.ndarray]:
    """Return the values of a leaf in its type and shape, and "missing.NAME" where some are null or NaN.

    Raises:
        DataError: they are not what the space wants, with both sides.
    """
    shape = leaf.shape or ()
    wants_text = leaf_kind(leaf) == "text"
    if is_unknown(values):
        values = np.full((len(values), *shape), None if wants_text else np.nan, dtype=object if wants_text else float)
    if (values.dtype == object) != wants_text or (wants_text and values.ndim > 1):
        came = "texts" if values.dtype == object else "numbers"
        raise DataError(f"{name} holds {came}, the space is {describe_space(leaf)}")
    if wants_text:
        return split(leaf, values, name)
    came = values.shape[1:]
    if values.ndim > 2 and [size for size in came if size > 1] != [size for size in shape if size > 1]:
        raise DataError(f"{name} has shape {list(came)}, the space is {describe_space(leaf)}")
    if num_entries(leaf) * len(values) != values.size:
        raise DataError(f"{name} has {_size(came)}, the space is {describe_space(leaf)}")
    values = values.reshape(len(values), *shape)
    if leaf_kind(leaf) == "image" and values.dtype != np.uint8:
        wrong = np.flatnonzero(((values < 0) | (values > 255)).reshape(len(values), -1).any(axis=1))
        if len(wrong):
            raise DataError(f"{name} leaves 0 to 255 at step {wrong[0]}, the space is {describe_space(leaf)}")
    return split(leaf, values, name)


def is_image(kind: pa.DataType) -> bool:
    """Say whether a type holds encoded images: bytes, or bytes and a path as in `datasets.Image`."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_list(kind: pa.DataType) -> bool:
    """Say whether a type is one of Arrow's lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def plain(array: pa.Array) -> pa.Array:
    """Return an array without what `datasets` or pandas put around it."""
    while isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array


def _values(array: pa.Array, column: str, steps: np.ndarray, width: int) -> np.ndarray:
    """Read entries of which `width` belong to each of `steps`."""
    array = plain(array)
    kind = array.type
    if is_list(kind):
        return _list_values(array, column, steps, width)
    if is_image(kind):
        return _image_values(array, column, steps, width)
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


def _list_values(array: pa.Array, column: str, steps: np.ndarray, width: int) -> np.ndarray:
    num_all, valid = len(array), None
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        steps, width = np.repeat(steps, width)[valid], 1
        array = array.drop_null()
    if len(array) == 0:
        return np.full(num_all, np.nan)
    sizes = array.value_lengths().to_numpy(zero_copy_only=False)
    size = int(sizes[0])
    wrong = np.flatnonzero(sizes != size)
    if len(wrong):
        came = f"{_size((int(sizes[wrong[0]]),))} at step {steps[wrong[0] // width]}, {size} before it"
        raise DataError(f"column {column} has {came}: all of one size are needed")
    if size == 0:
        raise DataError(f"column {column} has no entries at step {steps[0]}")
    inner = _values(array.flatten(), column, steps, width * size)
    values = inner.reshape(len(array), size, *inner.shape[1:])
    return values if valid is None else _spread(values, valid)


def _image_values(array: pa.Array, column: str, steps: np.ndarray, width: int) -> np.ndarray:
    entries = array.to_pylist()
    images: list[np.ndarray] = []
    for index, entry in enumerate(entries):
        if entry is None:
            continue
        image = _decoded(entry, f"column {column} at step {steps[index // width]}")
        if images and image.shape != images[0].shape:
            came, wanted = _size(image.shape), _size(images[0].shape)
            raise DataError(f"column {column} has {came} at step {steps[index // width]}, {wanted} before it")
        images.append(image)
    if not images:
        return np.full(len(entries), np.nan)
    valid = np.array([entry is not None for entry in entries])
    return np.stack(images) if valid.all() else _spread(np.stack(images), valid)


def _spread(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return values with NaN, or None, between them."""
    spread = np.full((len(valid), *values.shape[1:]), None if values.dtype == object else np.nan)
    spread[valid] = values
    return spread


def _decoded(entry: object, where: str) -> np.ndarray:
    from PIL import Image

    data = entry.get("bytes") if isinstance(entry, dict) else entry
    if not isinstance(data, bytes):
        raise DataError(f"{where} names an image file without its bytes: save the table with the images in it")
    try:
        # Only formats that Pillow decodes by itself: others call programs.
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width * image.height * len(image.getbands()) > MAX_ENTRIES:
                raise DataError(f"{where} is an image of {image.width}x{image.height}: too large, scale it down")
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{where} is an image of mode {image.mode}: expected 8 bits a channel")
            if image.mode not in ("L", "RGB", "RGBA"):
                return np.asarray(image.convert("L" if image.mode == "1" else "RGB"))
            return np.asarray(image)
    except DataError:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        zlib.error,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(
            f"{where} is no {', '.join(IMAGE_FORMATS)} image or is damaged ({quote(error)[1:-1]})"
        ) from error


def _size(shape: tuple[int, ...]) -> str:
    if len(shape) > 1:
        return f"shape {list(shape)}"
    return f"{shape[0]} entries" if shape and shape[0] != 1 else "1 entry"
