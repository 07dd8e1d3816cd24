"""The spaces that values fit, where no environment says them: from one look at all values, or from declared types.

    texts                     Text                whole numbers   observed  0 to 255: Discrete(max + 1), else Box
    encoded images, uint8     image                               acted     Discrete(max - min + 1, start=min)
    truth values              Discrete(2)         numbers         observed  Box without bounds
                                                                  acted     Box(-1, 1) if all are inside, else without

Lists of truth values are MultiBinary, lists of whole numbers MultiDiscrete if acted and a Box if observed; in two axes
or more an image if observed and between 0 and 255. Leaves are nested by the dots in their names.
"""

import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import gymnasium
import numpy as np
import pyarrow as pa
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text

from seqdec.errors import DataError
from seqdec.formats.arrays import is_image, is_list, is_unknown
from seqdec.spaces.leaves import role_of
from seqdec.spaces.space import MAX_ENTRIES, MAX_TEXT, quote

LARGEST_DISCRETE_OBSERVATION = 255
logger = logging.getLogger(__name__)


@dataclass
class Seen:
    """A summary of the values of one leaf so far.

    Example:
        >>> seen = Seen("action")
        >>> seen.add(np.array([3, 1, 2]), ["whole"])
        >>> space_of(seen)
        Discrete(3, start=1)
    """

    name: str
    kinds: set[str] = field(default_factory=set)
    shape: tuple[int, ...] | None = None
    low: np.ndarray = field(default_factory=lambda: np.array(np.inf))
    high: np.ndarray = field(default_factory=lambda: np.array(-np.inf))
    has_gaps: bool = False
    is_whole: bool = True  # all floats among them are

    def add(self, values: np.ndarray, kinds: Collection[str]) -> None:
        """Look at the values of some steps: [n, ...]; the kinds are those of their columns, see `kind_word`.

        Raises:
            DataError: they are of another shape than those before.
        """
        if len(values) == 0:  # an episode without steps, which is refused when it is read
            return
        if is_unknown(values):
            self.has_gaps = True
            return
        shape = values.shape[1:]
        if self.shape not in (None, shape):
            raise DataError(f"{self.name} has shape {list(shape)}, in the episodes before {list(self.shape)}")
        self.shape = shape
        self.kinds.update(kinds)
        if values.dtype == object:
            return
        if values.dtype.kind == "f":
            gaps = np.isnan(values)
            self.has_gaps |= bool(gaps.any())
            self.is_whole &= bool((np.isfinite(values) & (values == np.floor(values)))[~gaps].all())
        self.low = np.fmin(self.low, np.fmin.reduce(values, axis=0))
        self.high = np.fmax(self.high, np.fmax.reduce(values, axis=0))


def kind_word(kind: pa.DataType) -> str:
    """Return "text", "image", "truth", "whole", "float" or "null" of a column's type or of the values in its lists."""
    while is_list(kind) or pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind.value_type
    if is_image(kind):
        return "image"
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_integer(kind):
        return "whole"
    if pa.types.is_null(kind):
        return "null"
    return "float" if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else "text"


def space_of(seen: Seen, *, is_discrete: bool = False) -> gymnasium.Space:
    """Return the space of a leaf, whose name says whether it is acted; choices of whole numbers if `is_discrete`."""
    if is_discrete:
        return whole_choices(seen)
    name, shape = seen.name, seen.shape
    is_action = role_of(name) == "action"
    kinds = seen.kinds - {"null"}
    if shape is None:
        raise DataError(f"{name} is null in all rows: nothing tells its space")
    if "text" in kinds and len(kinds) > 1:
        raise DataError(f"{name} holds texts and numbers: expected one of them")
    if kinds == {"text"}:
        return Text(MAX_TEXT)
    if kinds == {"image"}:
        return images(shape)
    if kinds == {"truth"}:
        return MultiBinary(shape[0] if len(shape) == 1 else shape) if shape else Discrete(2)
    # In pandas, a gap turns whole numbers into floats: the missing action beside a final observation does.
    is_whole = "float" not in kinds or (is_action and seen.has_gaps and seen.is_whole)
    if is_whole and is_action and len(shape) <= 1:
        return choices(seen.low, seen.high, name)
    if is_whole and not is_action:
        is_small = bool((seen.low >= 0).all() and (seen.high <= LARGEST_DISCRETE_OBSERVATION).all())
        if is_small and not shape:
            return choices(np.array(0), seen.high, name)
        if is_small and len(shape) >= 2:
            return images(shape)
    return bounded(seen, shape or (1,)) if is_action else numbers(shape or (1,))


def images(shape: tuple[int, ...]) -> Box:
    """Return the space of images of a shape."""
    return Box(0, 255, shape, np.uint8)


def numbers(shape: tuple[int, ...]) -> Box:
    """Return the space of numbers without bounds."""
    return Box(-np.inf, np.inf, shape, np.float32)


def bounded(seen: Seen, shape: tuple[int, ...]) -> Box:
    """Return the space of actions that are numbers: [-1, 1] where all are inside, else without bounds."""
    if seen.is_whole and len(seen.shape or ()) <= 1:
        said = "holds whole numbers alone, kept as floats: they are taken for continuous"
        logger.warning("%s %s; if they are choices, name it in discrete=[...]", seen.name, said)
    is_inside = bool((seen.low >= -1).all() and (seen.high <= 1).all())
    return Box(-1, 1, shape, np.float32) if is_inside else numbers(shape)


def whole_choices(seen: Seen) -> Discrete | MultiDiscrete:
    """Return the space of the choices that a leaf's values are, whole numbers that may be kept as floats.

    Raises:
        DataError: they are no whole numbers, or in several axes.
    """
    is_number = seen.shape is not None and not seen.kinds & {"text", "image"}
    if not is_number or not seen.is_whole or len(seen.shape or ()) > 1:
        problem = f"{seen.name} holds something else than whole numbers: only these are choices"
        raise DataError(f"{problem}, one or a list of them a step", option="discrete")
    return choices(seen.low, seen.high, seen.name)


def choices(low: np.ndarray, high: np.ndarray, name: str) -> Discrete | MultiDiscrete:
    """Return the space of whole numbers from `low` to `high`, each an array of one number or a vector."""
    counts = high - low + 1
    if (counts > MAX_ENTRIES).any():
        limits = f"{quote(int(low.min()))} to {quote(int(high.max()))}"
        raise DataError(f"{name} holds whole numbers from {limits}: at most {MAX_ENTRIES} values are supported")
    if not counts.shape:
        return Discrete(int(counts), start=int(low))
    return MultiDiscrete(counts.astype(np.int64), start=low.astype(np.int64))


def nested(leaves: Mapping[str, gymnasium.Space], role: str) -> gymnasium.Space:
    """Nest spaces by the dots in their names; below a name that is itself a leaf, the dots stay in the key."""
    if role in leaves:
        return leaves[role]
    names = [name.removeprefix(f"{role}.") for name in leaves if name.startswith(f"{role}.")]
    parts: OrderedDict[str, gymnasium.Space] = OrderedDict()
    for name in names:
        head, _, rest = name.partition(".")
        key = head if rest and head not in names else name
        if key not in parts:
            parts[key] = nested(leaves, f"{role}.{key}")
    return Dict(parts)
