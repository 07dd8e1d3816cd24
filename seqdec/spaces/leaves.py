"""The leaves of a space: what a Dict or Tuple holds, each under the name of a variable of its own.

    observation = Dict(camera=Box(64, 64, 3) uint8, joints=Tuple(Box(7), Discrete(2)))
    observation.camera   observation.joints.0   observation.joints.1

A plain space has one leaf, "observation". Arrays by leaf are what episodes, data sets and batches hold. Where a leaf's
values are not all known, an array "missing.NAME" stands beside it: True for every value, or entry of a vector, that is
not known, with a zero in its place.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple

from seqdec.errors import DataError, UsageError
from seqdec.spaces.space import children, describe_space, supported

LeafKind = Literal["vector", "image", "discrete", "multi_discrete", "text"]
Batch = np.ndarray | Mapping[str, "Batch"] | tuple["Batch", ...]
MISSING = "missing."
LARGE = 2.0**17  # numbers up to here float32 keeps to a hundredth
MAX_LEAVES = 256


def leaves(space: gymnasium.Space, name: str) -> dict[str, gymnasium.Space]:
    """Return the leaf spaces by the names of their variables, in the order of the space.

    Raises:
        UsageError: a kind of space that is not supported, or two leaves of one name.
    """
    pairs = _leaves(supported(space, name), name)
    names = [leaf for leaf, _ in pairs]
    twice = next((leaf for leaf in names if names.count(leaf) > 1), None)
    if twice is not None:
        raise UsageError(f"the {name} space has two entries that would be called {twice!r}: rename one")
    if len(pairs) > MAX_LEAVES:
        raise UsageError(f"the {name} space has {len(pairs)} entries: at most {MAX_LEAVES} are supported")
    return dict(pairs)


def role_of(name: str) -> str:
    """Return what a leaf, or its mask, is part of: "observation" of "observation.camera" and of "missing.observation".

    Columns of a data set have roles too: "final" is the role of "final.camera" and "missing.final.camera".
    """
    return name.removeprefix(MISSING).partition(".")[0]


def leaf_kind(leaf: gymnasium.Space) -> LeafKind:
    """Say how a leaf is read: Box images (uint8, two axes or more) apart from all other Boxes, which are vectors."""
    if isinstance(leaf, Box):
        return "image" if leaf.dtype == np.uint8 and len(leaf.shape) >= 2 else "vector"
    if isinstance(leaf, Discrete):
        return "discrete"
    return "text" if isinstance(leaf, Text) else "multi_discrete"


def num_entries(leaf: gymnasium.Space) -> int:
    """Return how many numbers one value has; a text counts as one."""
    return math.prod(leaf.shape or ())


def leaf_dtype(leaf: gymnasium.Space) -> np.dtype:
    """Return the type that a leaf's values are kept in: float32 (see `as_reals`), uint8 for images, int64, or text."""
    kinds = {"vector": np.float32, "image": np.uint8, "text": object}
    return np.dtype(kinds.get(leaf_kind(leaf), np.int64))


def shape_of_missing(leaf: gymnasium.Space) -> tuple[int, ...]:
    """Return the shape of one value's "missing": a vector's entries can be missing one by one."""
    return tuple(leaf.shape or ()) if leaf_kind(leaf) == "vector" else ()


def split(space: gymnasium.Space, values: Batch, name: str) -> dict[str, np.ndarray]:
    """Return arrays by leaf, [N, ...] each in its leaf's type, of a batch as Gymnasium or Minari nests it.

    NaN in numbers, and None, stand for what is not known: see "missing" above.

    Raises:
        DataError: a part of the batch is not there, or is no number where the leaf wants numbers.
    """
    arrays: dict[str, np.ndarray] = {}
    for leaf, (part, part_space) in leaf_parts(space, values, name).items():
        arrays[leaf], mask = _typed(part, part_space, leaf)
        if mask is not None:
            arrays[MISSING + leaf] = mask
    return arrays


def leaf_parts(space: gymnasium.Space, values: object, name: str) -> dict[str, tuple[object, gymnasium.Space]]:
    """Return the parts of a nested batch by leaf as they are, each with its leaf's space.

    Raises:
        DataError: a part is not there, or has no place in the space.
    """
    if not isinstance(space, Dict | Tuple):
        return {name: (values, space)}
    if isinstance(space, Tuple):
        if not isinstance(values, tuple | list) or len(values) != len(space.spaces):
            raise DataError(f"{name} is no tuple of {len(space.spaces)} parts")
        values = {str(index): part for index, part in enumerate(values)}
    inner, parts = dict(children(space)), values if isinstance(values, Mapping) else {}
    lacking = next((key for key in inner if key not in parts), None)
    if lacking is not None:
        has = ", ".join(map(str, parts)) if isinstance(values, Mapping) else type(values).__name__
        raise DataError(f"{name} has no {lacking!r}; it has {has}")
    unknown = next((key for key in parts if key not in inner), None)
    if unknown is not None:
        raise DataError(f"{name} has {str(unknown)!r}, which its space has not: leave it out, or add it there")
    below = [leaf_parts(child, parts[key], f"{name}.{key}") for key, child in inner.items()]
    return {leaf: part for parts_of_child in below for leaf, part in parts_of_child.items()}


def join(space: gymnasium.Space, arrays: Mapping[str, np.ndarray], name: str) -> Batch:
    """Return arrays by leaf as the nested batch that Gymnasium has: the inverse of `split`, NaN and None included."""
    if isinstance(space, Dict):
        return {key: join(child, arrays, f"{name}.{key}") for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(join(child, arrays, f"{name}.{index}") for index, child in enumerate(space.spaces))
    array, missing = arrays[name], arrays.get(MISSING + name)
    if missing is None or not missing.any():
        return array
    marked = array.copy() if array.dtype.kind in "fO" else array.astype(np.float64)
    marked[missing] = None if array.dtype == object else np.nan
    return marked


def without_nan(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return numbers with a zero for each NaN, and the mask of these in the same shape; None where there is no NaN.

    Here "not known" becomes a mask: NaN stands for it outside of this package only.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype.kind != "f" or math.isfinite(values.sum()):  # a sum is quicker to look at than the values
            return values, None
    mask = np.isnan(values)
    return (np.where(mask, values.dtype.type(0), values), mask) if mask.any() else (values, None)


def as_reals(values: np.ndarray) -> np.ndarray:
    """Return numbers as float32, or as float64 where some are so large that float32 would change them."""
    with np.errstate(over="ignore"):  # too large a number turns infinite and is refused as such
        singles = values.astype(np.float32, copy=False)
    if singles is values or not values.size or values.dtype.itemsize < 4:
        return singles
    is_changed = LARGE <= max(singles.max(), -singles.min()) < np.inf and (singles != values).any()
    return values.astype(np.float64, copy=False) if is_changed else singles


def in_box(box: Box, values: np.ndarray) -> np.ndarray:
    """Return numbers as a Box holds them, in its type: the nearest whole ones where it has these, inside its bounds."""
    if box.dtype.kind == "f":
        return np.clip(values, box.low, box.high).astype(box.dtype, copy=False)
    values = np.rint(values) if values.dtype.kind == "f" else values
    with np.errstate(invalid="ignore"):  # a number beyond the type becomes another one, and is then replaced
        whole = values.astype(box.dtype)
    return np.where(values >= box.high, box.high, np.where(values <= box.low, box.low, whole))


def unstack(batch: Batch, num_rows: int) -> list[Batch]:
    """Return the rows of a nested batch, each nested alike."""
    if isinstance(batch, Mapping):
        columns = {key: unstack(part, num_rows) for key, part in batch.items()}
        return [{key: column[row] for key, column in columns.items()} for row in range(num_rows)]
    if isinstance(batch, tuple):
        return list(zip(*(unstack(part, num_rows) for part in batch), strict=True))
    return list(batch)


def stack(rows: Sequence[object]) -> Batch:
    """Return observations or actions, each nested as an environment gives it, as one nested batch.

    Raises:
        DataError: rows that are not nested alike.
    """
    first = rows[0] if rows else None
    if isinstance(first, Mapping):
        for key in first:
            if not all(isinstance(row, Mapping) and key in row for row in rows):
                raise DataError(f"some steps have {str(key)!r} and others have not")
        return {key: stack([row[key] for row in rows]) for key in first}  # pyright: ignore[reportIndexIssue]
    if isinstance(first, tuple):
        if not all(isinstance(row, tuple) and len(row) == len(first) for row in rows):
            raise DataError(f"some steps are a tuple of {len(first)} and others are not")
        return tuple(stack(column) for column in zip(*rows, strict=True))  # pyright: ignore[reportArgumentType]
    return _array(rows)


def _leaves(space: gymnasium.Space, name: str) -> list[tuple[str, gymnasium.Space]]:
    if not isinstance(space, Dict | Tuple):
        return [(name, space)]
    return [leaf for key, child in children(space) for leaf in _leaves(child, f"{name}.{key}")]


def _typed(values: object, leaf: gymnasium.Space, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    if isinstance(leaf, Text):
        texts = np.asarray(values, dtype=object).reshape(-1)
        mask = np.array([text is None for text in texts], dtype=bool)
        wrong = next((text for text in texts if not isinstance(text, str | None)), None)
        if wrong is not None:
            raise DataError(f"{name} holds {type(wrong).__name__} where a text is expected")
        return np.where(mask, "", texts).astype(object), mask if mask.any() else None
    array = _array(values)
    if array.ndim == 0:
        raise DataError(f"{name} is a single value: expected one a step")
    if array.dtype == object:
        array = _filled(array, leaf, name)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} has type {array.dtype}: only numbers are supported, all of one shape")
    dtype = leaf_dtype(leaf)
    if dtype == np.uint8 and array.dtype != np.uint8:
        outside = array[(array < 0) | (array > 255)]
        if outside.size:
            raise DataError(f"{name} holds {outside[0]:g}: an image of {describe_space(leaf)} has 0 to 255")
    array, mask = without_nan(array)
    if dtype.kind != "f" and array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise DataError(f"{name} has type {array.dtype} with fractions, expected whole numbers")
    if mask is not None and leaf_kind(leaf) != "vector":
        mask = np.asarray(mask.reshape(len(array), -1).any(axis=1))
    # too large a number turns infinite, or the least whole number, and is refused as such
    with np.errstate(over="ignore", invalid="ignore"):
        return as_reals(array) if dtype == np.float32 else array.astype(dtype, copy=False), mask


def _array(values: object) -> np.ndarray:
    """Return values as an array: one of objects where some are None, or not of one shape with the others."""
    if isinstance(values, list | tuple) and any(value is None or isinstance(value, str) for value in values):
        return _objects(values)
    try:
        return np.asarray(values)
    except ValueError:
        return _objects(list(values))  # pyright: ignore[reportArgumentType]


def _objects(values: Sequence[object]) -> np.ndarray:
    array = np.empty(len(values), object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def _filled(array: np.ndarray, leaf: gymnasium.Space, name: str) -> np.ndarray:
    """Return an array of objects, some of them None, as numbers with NaN in their place."""
    unknown = np.full(leaf.shape or (), np.nan)
    try:
        return np.stack([unknown if entry is None else np.asarray(entry, np.float64) for entry in array])
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is ragged or holds something that is no number: all need one shape") from error
