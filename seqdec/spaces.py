"""Spaces as plain data and in words: Box vectors and Discrete, the kinds that are supported yet.

Nothing here believes a file: declared sizes have limits, and whatever else is wrong is a `DataError`.
"""

import math
from collections.abc import Mapping
from typing import TypeGuard

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from seqdec.errors import DataError, UsageError

MAX_ENTRIES = 1_000_000


def space_to_json(space: gymnasium.Space) -> dict[str, object]:
    """Return a Box vector or a Discrete space as plain JSON; infinite bounds become "inf" and "-inf"."""
    check_supported(space, "these")
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    assert isinstance(space, Box)
    low, high = ([_bound_to_json(bound) for bound in bounds.tolist()] for bounds in (space.low, space.high))
    return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), "low": low, "high": high}


def space_from_json(value: object, name: str = "these") -> Box | Discrete:
    """Read a space; `name` ("observation", "action") is for the sentence that says what is wrong.

    Minari's own space JSON reads the same, once parsed.

    Raises:
        DataError: not a supported space, or declared sizes that nothing real has.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise DataError(f"the {name} space is {kind_of(value)} without a type: expected Box or Discrete")
    if value["type"] == "Discrete":
        n, start = value.get("n"), value.get("start", 0)
        if not is_int(n) or not 1 <= n <= MAX_ENTRIES:
            raise DataError(f"the {name} space is Discrete(n={quote(n)}): expected 1 to {MAX_ENTRIES} values")
        if not is_int(start) or abs(start) > 2**53:
            raise DataError(f"the {name} space starts at {quote(start)}: expected a whole number")
        return Discrete(n, start=start)
    if value["type"] != "Box":
        raise DataError(_unsupported(quote(value["type"])[1:-1], name))
    shape = value.get("shape")
    if not isinstance(shape, list) or not all(is_int(size) and size >= 1 for size in shape):
        raise DataError(f"the {name} space has shape {quote(shape)}: expected whole numbers from 1 on")
    if math.prod(shape) > MAX_ENTRIES:
        raise DataError(f"the {name} space has shape {quote(shape)}: at most {MAX_ENTRIES} entries are supported")
    if len(shape) != 1:
        raise DataError(_unsupported(f"Box of shape {quote(shape)}", name))
    dtypes = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool"]
    if value.get("dtype", "float32") not in dtypes:
        raise DataError(f"the {name} space has dtype {quote(value.get('dtype'))}: expected one of {', '.join(dtypes)}")
    dtype = np.dtype(str(value.get("dtype", "float32")))
    low, high = (_bounds(value.get(side), shape[0], dtype, f"{name} space's {side}") for side in ("low", "high"))
    if (low > high).any():
        raise DataError(f"the {name} space has a low bound above its high bound")
    return Box(low, high, dtype=dtype.type)


def describe_space(space: gymnasium.Space) -> str:
    """Return a space in a few words: "Box(11)", "Box(3) in [-1, 1]", "Discrete(2)"."""
    if isinstance(space, Discrete):
        return f"Discrete({space.n})" if space.start == 0 else f"Discrete({space.n}, start={space.start})"
    if not isinstance(space, Box):
        return type(space).__name__
    kind = "" if np.issubdtype(space.dtype, np.floating) else f" {space.dtype}"
    shape = "x".join(map(str, space.shape)) or "scalar"
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return f"Box({shape}){kind}"
    if (low == low[0]).all() and (high == high[0]).all():
        return f"Box({shape}){kind} in [{low[0]:g}, {high[0]:g}]"
    low, high = (np.array2string(bounds, precision=4, threshold=6, edgeitems=2) for bounds in (low, high))
    return f"Box({shape}){kind} in {low} to {high}"


def spaces_agree(expected: gymnasium.Space, found: gymnasium.Space, *, with_bounds: bool) -> bool:
    """Say whether kind, shape and count are the same; float32 and float64 are."""
    if isinstance(expected, Discrete) and isinstance(found, Discrete):
        return (expected.n, expected.start) == (found.n, found.start)
    if not isinstance(expected, Box) or not isinstance(found, Box) or expected.shape != found.shape:
        return False
    if np.issubdtype(expected.dtype, np.floating) != np.issubdtype(found.dtype, np.floating):
        return False
    if not with_bounds:
        return True
    return np.allclose(expected.low, found.low, rtol=1e-5) and np.allclose(expected.high, found.high, rtol=1e-5)


def check_supported(space: gymnasium.Space, name: str) -> None:
    """Refuse a space of another kind; `name` says whose it is ("observation")."""
    if isinstance(space, Discrete):
        return
    if not isinstance(space, Box):
        raise UsageError(_unsupported(type(space).__name__, name))
    if len(space.shape) != 1:
        raise UsageError(_unsupported(f"Box of shape {list(space.shape)}", name))


def zero_of(space: gymnasium.Space) -> np.ndarray:
    """Return zero, or what is nearest to it in the space."""
    if isinstance(space, Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    return np.asarray(space.start if isinstance(space, Discrete) else 0)


def quote(text: object) -> str:
    """Return foreign text in quotes, at most 200 characters, with whatever steers a terminal escaped."""
    words = text if isinstance(text, str) else str(text)
    return repr(words if len(words) <= 200 else words[:200] + "...")


def kind_of(value: object) -> str:
    """Return what a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def is_int(value: object) -> TypeGuard[int]:
    """Say whether a JSON value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _unsupported(kind: str, name: str) -> str:
    return f"{kind} {name}s are not supported yet: Box vectors and Discrete are"


def _bound_to_json(bound: float | int | bool) -> float | int | str:
    if isinstance(bound, float) and math.isinf(bound):
        return "inf" if bound > 0 else "-inf"
    return bound


def _bounds(value: object, size: int, dtype: np.dtype, name: str) -> np.ndarray:
    if not isinstance(value, list) or len(value) != size:
        raise DataError(f"the {name} is {kind_of(value)} that does not have {size} entries")
    if not all(bound in ("inf", "-inf") or isinstance(bound, int | float) for bound in value):
        raise DataError(f"the {name} holds something that is no number")
    try:
        with np.errstate(over="ignore"):
            bounds = np.array([float(bound) for bound in value])
            if np.isnan(bounds).any():
                raise DataError(f"the {name} holds nan")
            if not np.issubdtype(dtype, np.floating):
                return _whole_bounds(bounds, dtype, name)
            return bounds.astype(dtype)
    except OverflowError as error:
        raise DataError(f"the {name} holds a number beyond all floats") from error


def _whole_bounds(bounds: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    low, high = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if (bounds < low).any() or (bounds > high).any():
        raise DataError(f"the {name} does not fit {dtype}")
    # A float of 2**63 - 1 is 2**63: come back inside before the cast.
    return np.array([min(max(int(bound), low), high) for bound in bounds]).astype(dtype)
