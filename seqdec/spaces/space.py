"""Spaces as plain data and in words: Box, Discrete, MultiDiscrete, MultiBinary, Text, and Dict and Tuple of these.

`_KINDS` names the readers and the fields of all but Dict and Tuple. Nothing here believes a file: declared sizes have
limits, and whatever else is wrong is a `DataError`.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeGuard

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.spaces.text import alphanumeric

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
        return _container(
            type(space).__name__, {key: supported(child, f"{name}.{key}") for key, child in inner.items()}
        )
    if isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary | Text):
        if math.prod(space.shape or ()) < 1:
            raise UsageError(f"the {name} space {describe_space(space)} has no entries: give it at least one")
        return space
    if space.dtype is not None and space.dtype.kind == "U":  # such as MiniGrid's missions
        return Text(MAX_TEXT)
    raise UsageError(_unsupported(type(space).__name__, name))


def children(space: Dict | Tuple) -> list[tuple[str, gymnasium.Space]]:
    """Return the spaces inside a Dict or Tuple by key or index, in their order."""
    pairs = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
    return [(str(key), child) for key, child in pairs]


def space_to_json(space: gymnasium.Space) -> dict[str, object]:
    """Return a space as plain JSON; infinite bounds become "inf" and "-inf", equal ones a single number."""
    space = supported(space, "given")
    if isinstance(space, Dict | Tuple):
        inner = {key: space_to_json(child) for key, child in children(space)}
        return {"type": type(space).__name__, "subspaces": inner if isinstance(space, Dict) else list(inner.values())}
    kind = next(kind for kind in _KINDS if isinstance(space, kind))
    value = {"type": kind.__name__, **{key: _plain(key, getattr(space, key)) for key in _KINDS[kind][1]}}
    if isinstance(space, Text) and space.character_set != alphanumeric:
        value["charset"] = "".join(sorted(space.character_set))
    return value


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
    word, inner = value["type"], value.get("subspaces")
    if word not in ("Dict", "Tuple"):
        read = next((read for kind, (read, _) in _KINDS.items() if kind.__name__ == word), None)
        if read is None:
            raise DataError(_unsupported(quote(word)[1:-1], name))
        return read(value, name)
    if not isinstance(inner, Mapping if word == "Dict" else list) or not 1 <= len(inner) <= MAX_ENTRIES:
        expected = "an object" if word == "Dict" else "a list"
        raise DataError(f"the {name} space is a {word} of {kind_of(inner)}: expected {expected} that is not empty")
    pairs = inner.items() if isinstance(inner, Mapping) else enumerate(inner)
    return _container(word, {str(key): space_from_json(entry, f"{name}.{key}", depth + 1) for key, entry in pairs})


def describe_space(space: gymnasium.Space) -> str:
    """Return a space in a few words: "Box(11)", "Box(3) in [-1, 1]", "Dict(a: Discrete(2), b: Text)"."""
    if isinstance(space, Dict):
        return f"Dict({', '.join(f'{quote(key)[1:-1]}: {describe_space(child)}' for key, child in children(space))})"
    if isinstance(space, Tuple):
        return f"Tuple({', '.join(describe_space(child) for _, child in children(space))})"
    if isinstance(space, Discrete | MultiDiscrete):
        size = space.n if isinstance(space, Discrete) else space.nvec.tolist()
        start = f", start={np.asarray(space.start).tolist()}" if np.any(space.start) else ""
        return f"{type(space).__name__}({size}{start})"
    if isinstance(space, MultiBinary):
        return f"MultiBinary({'x'.join(map(str, space.shape))})"
    return _words_of_box(space) if isinstance(space, Box) else type(space).__name__


def spaces_agree(expected: gymnasium.Space, space: gymnasium.Space, *, with_bounds: bool) -> bool:
    """Say whether kind, shape and count are the same; float32 and float64 are, and so are all texts."""
    if isinstance(expected, Dict | Tuple):
        if not isinstance(space, Dict if isinstance(expected, Dict) else Tuple):
            return False
        ours, theirs = dict(children(expected)), dict(children(space))
        return ours.keys() == theirs.keys() and all(
            spaces_agree(child, theirs[key], with_bounds=with_bounds) for key, child in ours.items()
        )
    if isinstance(expected, Text):
        return isinstance(space, Text)
    if not isinstance(expected, Box) or not isinstance(space, Box):
        return describe_space(expected) == describe_space(space)
    traits = [(box.shape, box.dtype == np.uint8, np.issubdtype(box.dtype, np.floating)) for box in (expected, space)]
    if traits[0] != traits[1] or not with_bounds:
        return traits[0] == traits[1]
    return np.allclose(expected.low, space.low, rtol=1e-5) and np.allclose(expected.high, space.high, rtol=1e-5)


def zero_of(space: gymnasium.Space) -> np.ndarray | dict | tuple | str:
    """Return zero, or the nearest number of a Box, or the least whole number, as an environment would give it."""
    if isinstance(space, Dict):
        return {key: zero_of(child) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(zero_of(child) for child in space.spaces)
    if isinstance(space, Text):
        return ""
    if isinstance(space, Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    return np.full(space.shape or (), whole_limits(space)[0], space.dtype)


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


def _container(word: str, spaces: Mapping[str, gymnasium.Space]) -> Dict | Tuple:
    # Gymnasium would sort a plain dict
    return Dict(OrderedDict(spaces)) if word == "Dict" else Tuple(tuple(spaces.values()))


def _whole_numbers(entry: object, key: str, name: str, low: int = -(2**53), high: int = 2**53) -> np.ndarray:
    """Return the whole number, or the array of these, that a space's JSON holds under a key."""
    try:
        numbers = np.array(entry)
    except ValueError:
        numbers = np.zeros(0)
    is_whole = numbers.dtype.kind == "i" and 1 <= numbers.size <= MAX_ENTRIES
    if not is_whole or (numbers < low).any() or (numbers > high).any():
        raise DataError(f"the {name} space has {key} = {quote(entry)}: expected whole numbers from {low} to {high}")
    return numbers


def _whole_number(entry: object, key: str, name: str, low: int = -(2**53), high: int = 2**53) -> int:
    if isinstance(entry, list):
        raise DataError(f"the {name} space has a list as {key}: expected a whole number")
    return int(_whole_numbers(entry, key, name, low, high))


def _shape(value: object, name: str) -> list[int]:
    if not isinstance(value, list) or not all(is_int(size) and size >= 1 for size in value):
        raise DataError(f"the {name} space has shape {quote(value)}: expected whole numbers from 1 on")
    if math.prod(value) > MAX_ENTRIES:
        raise DataError(f"the {name} space has shape {quote(value)}: at most {MAX_ENTRIES} entries are supported")
    return value


def _discrete(value: Mapping[str, object], name: str) -> Discrete:
    n = _whole_number(value.get("n"), "n", name, 1, MAX_ENTRIES)
    return Discrete(n, start=_whole_number(value.get("start", 0), "start", name))


def _multi_discrete(value: Mapping[str, object], name: str) -> MultiDiscrete:
    counts = _whole_numbers(value.get("nvec"), "nvec", name, 1, MAX_ENTRIES)
    start = _whole_numbers(value.get("start", np.zeros_like(counts).tolist()), "start", name)
    if start.shape != counts.shape:
        raise DataError(f"the {name} space has nvec of shape {list(counts.shape)} and start of {list(start.shape)}")
    return MultiDiscrete(counts, start=start)


def _multi_binary(value: Mapping[str, object], name: str) -> MultiBinary:
    n = value.get("n")
    sizes = _shape([n] if is_int(n) else n, name)
    return MultiBinary(n if is_int(n) else sizes)


def _text(value: Mapping[str, object], name: str) -> Text:
    longest = _whole_number(value.get("max_length"), "max_length", name, 1, np.iinfo(np.int64).max)
    shortest = _whole_number(value.get("min_length", 0), "min_length", name, 0, longest)
    letters = value.get("charset", alphanumeric)
    if not isinstance(letters, str | frozenset):
        raise DataError(f"the {name} space has {kind_of(letters)} as charset: expected a text of its characters")
    return Text(min(longest, MAX_TEXT), min_length=min(shortest, MAX_TEXT), charset="".join(sorted(set(letters))))


def _box(value: Mapping[str, object], name: str) -> Box:
    shape = tuple(_shape(value.get("shape"), name))
    if value.get("dtype", "float32") not in _DTYPES:
        raise DataError(f"the {name} space has dtype {quote(value.get('dtype'))}: expected one of {', '.join(_DTYPES)}")
    dtype = np.dtype(str(value.get("dtype", "float32")))
    low, high = (_bounds(value.get(side), shape, dtype, f"{name} space's {side}") for side in ("low", "high"))
    if (low > high).any():
        raise DataError(f"the {name} space has a low bound above its high bound")
    return Box(low, high, shape=shape, dtype=dtype.type)


def _plain(key: str, value: object) -> object:
    if key not in ("low", "high"):
        return str(value) if key == "dtype" else np.asarray(value).tolist()
    bounds = np.asarray(value).astype(object)
    is_one = bounds.size and (bounds == bounds.flat[0]).all()
    words = np.vectorize({math.inf: "inf", -math.inf: "-inf"}.get, otypes=[object])
    return words(bounds.flat[0], bounds.flat[0]).item() if is_one else words(bounds, bounds).tolist()


def _bounds(value: object, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    """Read bounds: one number for all entries, or nested lists of the space's shape."""
    try:
        entries = np.array(value, dtype=object)
        entries = np.broadcast_to(entries, shape) if entries.ndim == 0 else entries
    except (ValueError, RecursionError):
        entries = np.zeros(0, dtype=object)
    if entries.shape != shape:
        raise DataError(f"the {name} is {kind_of(value)} that does not have {'x'.join(map(str, shape))} entries")
    if not all(bound in ("inf", "-inf") or isinstance(bound, int | float) for bound in entries.flat):
        raise DataError(f"the {name} holds something that is no number")
    try:
        bounds = np.array([float(bound) for bound in entries.flat]).reshape(shape)
    except OverflowError as error:
        raise DataError(f"the {name} holds a number beyond all floats") from error
    if np.isnan(bounds).any():
        raise DataError(f"the {name} holds nan")
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            return bounds.astype(dtype)
    low, high = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if (bounds < low).any() or (bounds > high).any():
        raise DataError(f"the {name} does not fit {dtype}")
    # A float of 2**63 - 1 is 2**63: come back inside before the cast.
    return np.array([min(max(int(bound), low), high) for bound in bounds.flat], dtype=dtype).reshape(shape)


def _words_of_box(space: Box) -> str:
    shape = "x".join(map(str, space.shape)) or "scalar"
    words = f"Box({shape})" if np.issubdtype(space.dtype, np.floating) else f"Box({shape}) {space.dtype}"
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return words
    if (low == low[0]).all() and (high == high[0]).all():
        return f"{words} in [{low[0]:g}, {high[0]:g}]"
    low, high = (np.array2string(bounds, precision=4, threshold=6, edgeitems=2) for bounds in (low, high))
    return f"{words} in {low} to {high}"


_KINDS = {
    Discrete: (_discrete, ("n", "start")),
    MultiDiscrete: (_multi_discrete, ("nvec", "start")),
    MultiBinary: (_multi_binary, ("n",)),
    Text: (_text, ("max_length", "min_length")),
    Box: (_box, ("dtype", "shape", "low", "high")),
}
