"""Spaces as plain data and in words: Box, Discrete, MultiDiscrete, MultiBinary, Text, and Dict and Tuple of these.

Nothing here believes a file: declared sizes have limits, and whatever else is wrong is a `DataError`.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TypeGuard

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from seqdec.errors import DataError, UsageError

MAX_ENTRIES = 1_000_000
MAX_DEPTH = 16
MAX_TEXT = 100_000  # characters
SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict and Tuple of these"
_DTYPES = [
    *("float16", "float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool"),
]


def supported(space: gymnasium.Space, name: str) -> gymnasium.Space:
    """Return a space in terms of the supported kinds; any space of texts becomes Text.

    Args:
        space: the space as an environment has it.
        name: whose it is ("observation"), for the sentence that says what is wrong.

    Raises:
        UsageError: it is of another kind, or there is nothing in it.
    """
    if isinstance(space, Dict | Tuple):
        inner = dict(children(space))
        if not inner:
            raise UsageError(f"the {name} space {type(space).__name__} is empty: give it at least one entry")
        if isinstance(space, Dict) and not all(isinstance(key, str) for key in space.spaces):
            raise UsageError(f"the {name} space has keys that are no texts ({', '.join(inner)}): name its entries")
        found = {key: supported(child, f"{name}.{key}") for key, child in inner.items()}
        return Dict(OrderedDict(found)) if isinstance(space, Dict) else Tuple(found.values())
    if isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary | Text):
        if math.prod(space.shape or ()) < 1:
            raise UsageError(f"the {name} space {describe_space(space)} has no entries: give it at least one")
        return space
    if space.dtype is not None and space.dtype.kind == "U":  # such as MiniGrid's missions
        return Text(MAX_TEXT)
    raise UsageError(_unsupported(type(space).__name__, name))


def children(space: Dict | Tuple) -> list[tuple[str, gymnasium.Space]]:
    """Return the spaces inside a Dict or Tuple by key or index, in their order."""
    if isinstance(space, Dict):
        return [(str(key), child) for key, child in space.spaces.items()]
    return [(str(index), child) for index, child in enumerate(space.spaces)]


def space_to_json(space: gymnasium.Space) -> dict[str, object]:
    """Return a space as plain JSON; infinite bounds become "inf" and "-inf", equal ones a single number."""
    space = supported(space, "given")
    if isinstance(space, Dict):
        return {"type": "Dict", "subspaces": {key: space_to_json(child) for key, child in children(space)}}
    if isinstance(space, Tuple):
        return {"type": "Tuple", "subspaces": [space_to_json(child) for _, child in children(space)]}
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, MultiBinary):
        return {"type": "MultiBinary", "n": list(space.n) if isinstance(space.n, tuple) else int(space.n)}
    if isinstance(space, Text):
        return {"type": "Text", "max_length": int(space.max_length), "min_length": int(space.min_length)}
    assert isinstance(space, Box)
    low, high = _bounds_to_json(space.low), _bounds_to_json(space.high)
    return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), "low": low, "high": high}


def space_from_json(value: object, name: str = "given", depth: int = 0) -> gymnasium.Space:
    """Read a space; `name` ("observation", "action") is for the sentence that says what is wrong.

    Minari's own space JSON reads the same, once parsed.

    Raises:
        DataError: not a supported space, or declared sizes that nothing real has.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise DataError(f"the {name} space is {kind_of(value)} without a type: expected one of {SUPPORTED}")
    if depth > MAX_DEPTH:
        raise DataError(f"the {name} space is nested more than {MAX_DEPTH} deep")
    kind = value["type"]
    if kind in ("Dict", "Tuple"):
        return _container_from_json(value, name, depth)
    if kind == "Discrete":
        n, start = value.get("n"), value.get("start", 0)
        if not is_int(n) or not 1 <= n <= MAX_ENTRIES:
            raise DataError(f"the {name} space is Discrete(n={quote(n)}): expected 1 to {MAX_ENTRIES} values")
        if not is_int(start) or abs(start) > 2**53:
            raise DataError(f"the {name} space starts at {quote(start)}: expected a whole number")
        return Discrete(n, start=start)
    if kind == "MultiDiscrete":
        counts = _whole_numbers(value.get("nvec"), name, "nvec")
        start = _whole_numbers(value.get("start", np.zeros_like(counts).tolist()), name, "start", low=-(2**53))
        if start.shape != counts.shape or counts.max() > MAX_ENTRIES:
            raise DataError(f"the {name} space is MultiDiscrete of {quote(value.get('nvec'))}: too large or misshapen")
        return MultiDiscrete(counts, start=start)
    if kind == "MultiBinary":
        n = value.get("n")
        sizes = _shape([n] if is_int(n) else n, name)
        return MultiBinary(n if is_int(n) else sizes)
    if kind == "Text":
        longest, shortest = value.get("max_length"), value.get("min_length", 0)
        if not is_int(longest) or longest < 1 or not is_int(shortest) or not 0 <= shortest <= longest:
            raise DataError(f"the {name} space is Text of at most {quote(longest)} characters: expected 1 or more")
        return Text(min(longest, MAX_TEXT), min_length=min(shortest, MAX_TEXT))
    if kind == "Box":
        return _box_from_json(value, name)
    raise DataError(_unsupported(quote(kind)[1:-1], name))


def describe_space(space: gymnasium.Space) -> str:
    """Return a space in a few words: "Box(11)", "Box(3) in [-1, 1]", "Dict(a: Discrete(2), b: Text)"."""
    if isinstance(space, Dict):
        return f"Dict({', '.join(f'{quote(key)[1:-1]}: {describe_space(child)}' for key, child in children(space))})"
    if isinstance(space, Tuple):
        return f"Tuple({', '.join(describe_space(child) for _, child in children(space))})"
    if isinstance(space, Discrete):
        return f"Discrete({space.n})" if space.start == 0 else f"Discrete({space.n}, start={space.start})"
    if isinstance(space, MultiDiscrete):
        start = f", start={space.start.tolist()}" if space.start.any() else ""
        return f"MultiDiscrete({space.nvec.tolist()}{start})"
    if isinstance(space, MultiBinary):
        return f"MultiBinary({'x'.join(map(str, space.shape))})"
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
    """Say whether kind, shape and count are the same; float32 and float64 are, and so are all texts."""
    if isinstance(expected, Dict | Tuple):
        if type(expected) is not type(found) or not isinstance(found, Dict | Tuple):
            return False
        ours, theirs = dict(children(expected)), dict(children(found))
        return ours.keys() == theirs.keys() and all(
            spaces_agree(child, theirs[key], with_bounds=with_bounds) for key, child in ours.items()
        )
    if isinstance(expected, Discrete) and isinstance(found, Discrete):
        return (expected.n, expected.start) == (found.n, found.start)
    if isinstance(expected, MultiDiscrete) and isinstance(found, MultiDiscrete):
        return np.array_equal(expected.nvec, found.nvec) and np.array_equal(expected.start, found.start)
    if isinstance(expected, MultiBinary) and isinstance(found, MultiBinary):
        return expected.shape == found.shape
    if isinstance(expected, Text):
        return isinstance(found, Text)
    if not isinstance(expected, Box) or not isinstance(found, Box) or expected.shape != found.shape:
        return False
    kinds = [np.issubdtype(space.dtype, np.floating) for space in (expected, found)]
    if kinds[0] != kinds[1] or (not kinds[0] and (expected.dtype == np.uint8) != (found.dtype == np.uint8)):
        return False
    if not with_bounds:
        return True
    return np.allclose(expected.low, found.low, rtol=1e-5) and np.allclose(expected.high, found.high, rtol=1e-5)


def zero_of(space: gymnasium.Space) -> np.ndarray | dict | tuple | str:
    """Return zero, or what is nearest to it in the space, as an environment would give it."""
    if isinstance(space, Dict):
        return {key: zero_of(child) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(zero_of(child) for child in space.spaces)
    if isinstance(space, Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    if isinstance(space, MultiDiscrete):
        return space.start.astype(space.dtype)
    if isinstance(space, MultiBinary):
        return np.zeros(space.shape, space.dtype)
    return np.asarray(space.start) if isinstance(space, Discrete) else ""


def quote(text: object) -> str:
    """Return foreign text in quotes, at most 200 characters, with whatever steers a terminal escaped."""
    words = text if isinstance(text, str) else str(text)
    return repr(words if len(words) <= 200 else words[:200] + "...")


def whole_limits(space: gymnasium.Space) -> tuple[np.ndarray | int, np.ndarray | int]:
    """Return the least and the largest whole number of a Discrete, MultiDiscrete or MultiBinary space."""
    if isinstance(space, Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def kind_of(value: object) -> str:
    """Return what a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def is_int(value: object) -> TypeGuard[int]:
    """Say whether a JSON value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _unsupported(kind: str, name: str) -> str:
    return f"{kind} {name}s are not supported. Supported: {SUPPORTED}. See docs/data.md"


def _container_from_json(value: Mapping[str, object], name: str, depth: int) -> Dict | Tuple:
    inner = value.get("subspaces")
    if value["type"] == "Dict":
        if not isinstance(inner, Mapping) or not inner or len(inner) > MAX_ENTRIES:
            raise DataError(f"the {name} space is a Dict of {kind_of(inner)}: expected an object that is not empty")
        found = {str(key): space_from_json(entry, f"{name}.{key}", depth + 1) for key, entry in inner.items()}
        return Dict(OrderedDict(found))  # Gymnasium would sort a plain dict
    if not isinstance(inner, Sequence) or isinstance(inner, str) or not inner:
        raise DataError(f"the {name} space is a Tuple of {kind_of(inner)}: expected a list that is not empty")
    return Tuple([space_from_json(entry, f"{name}.{index}", depth + 1) for index, entry in enumerate(inner)])


def _shape(value: object, name: str) -> list[int]:
    if not isinstance(value, list) or not all(is_int(size) and size >= 1 for size in value):
        raise DataError(f"the {name} space has shape {quote(value)}: expected whole numbers from 1 on")
    if math.prod(value) > MAX_ENTRIES:
        raise DataError(f"the {name} space has shape {quote(value)}: at most {MAX_ENTRIES} entries are supported")
    return value


def _whole_numbers(value: object, name: str, key: str, low: int = 1) -> np.ndarray:
    try:
        found = np.array(value)
    except ValueError:
        found = np.zeros(0)
    is_whole = found.dtype.kind == "i" and 1 <= found.size <= MAX_ENTRIES
    if not is_whole or (found < low).any() or (np.abs(found) > 2**53).any():
        raise DataError(f"the {name} space has {key} = {quote(value)}: expected whole numbers from {low} on")
    return found


def _box_from_json(value: Mapping[str, object], name: str) -> Box:
    shape = tuple(_shape(value.get("shape"), name))
    if value.get("dtype", "float32") not in _DTYPES:
        raise DataError(f"the {name} space has dtype {quote(value.get('dtype'))}: expected one of {', '.join(_DTYPES)}")
    dtype = np.dtype(str(value.get("dtype", "float32")))
    low, high = (_bounds(value.get(side), shape, dtype, f"{name} space's {side}") for side in ("low", "high"))
    if (low > high).any():
        raise DataError(f"the {name} space has a low bound above its high bound")
    return Box(low, high, shape=shape, dtype=dtype.type)


def _bounds_to_json(bounds: np.ndarray) -> object:
    if bounds.size and (bounds == bounds.flat[0]).all():
        return _bound_to_json(bounds.flat[0].item())
    return np.vectorize(_bound_to_json, otypes=[object])(bounds.astype(object)).tolist()


def _bound_to_json(bound: float | int | bool) -> float | int | str:
    if isinstance(bound, float) and math.isinf(bound):
        return "inf" if bound > 0 else "-inf"
    return bound


def _bounds(value: object, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    """Read bounds: one number for all entries, or nested lists of the space's shape."""
    try:
        found = np.array(value, dtype=object)
        found = np.broadcast_to(found, shape) if found.ndim == 0 else found
    except (ValueError, RecursionError):
        found = np.zeros(0, dtype=object)
    if found.shape != shape:
        raise DataError(f"the {name} is {kind_of(value)} that does not have {'x'.join(map(str, shape))} entries")
    entries = found.reshape(-1).tolist()
    if not all(bound in ("inf", "-inf") or isinstance(bound, int | float) for bound in entries):
        raise DataError(f"the {name} holds something that is no number")
    try:
        with np.errstate(over="ignore"):
            bounds = np.array([float(bound) for bound in entries]).reshape(shape)
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
    whole = [min(max(int(bound), low), high) for bound in bounds.reshape(-1).tolist()]
    return np.array(whole, dtype=dtype).reshape(bounds.shape)
