"""The spaces that arrays of steps fit, where no environment says them, and whether they fit one that does."""

import logging
from collections.abc import Mapping, Sequence

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple

from seqdec.errors import DataError
from seqdec.formats.array_files import Array, Window
from seqdec.formats.columns import Roles
from seqdec.formats.infer import Seen, bounded, choices, images, nested, numbers, whole_choices
from seqdec.formats.table_rows import vector
from seqdec.spaces.leaves import leaf_kind
from seqdec.spaces.space import MAX_ENTRIES, describe_space, quote
from seqdec.spaces.spec import EnvironmentSpec

logger = logging.getLogger(__name__)
_Groups = Sequence[Mapping[str, Array]]
_Column = str | tuple[str, ...]


def inferred(groups: _Groups, roles: Roles, discrete: Sequence[str], where: str) -> EnvironmentSpec:
    """Return the spec of the spaces that the arrays of all groups fit.

    Args:
        groups: arrays by name, one group a demonstration.
        roles: which are what.
        discrete: leaves of the action that are choices though kept as floats.
        where: the file, for what is said of it.
    """
    for column in (*roles.observation.values(), *roles.action.values()):
        shape = _shape(groups[0], column)
        if not 1 <= int(np.prod(shape)) <= MAX_ENTRIES:
            raise DataError(f"{_words(column)} have shape {list(shape)}: expected 1 to {MAX_ENTRIES}")
    observed = {}
    for leaf, column in roles.observation.items():
        is_image = isinstance(column, str) and groups[0][column].dtype == np.uint8
        observed[leaf] = (images if is_image else numbers)(_shape(groups[0], column))
    acted = {leaf: _acted(groups, leaf, column, leaf in discrete, where) for leaf, column in roles.action.items()}
    return EnvironmentSpec(nested(observed, "observation"), nested(acted, "action"))


def check_fits(groups: _Groups, roles: Roles, finals: Mapping[str, str], spec: EnvironmentSpec) -> None:
    """Refuse arrays that cannot hold values of an environment's spaces, by shape and kind of number."""
    parts = (("observation", spec.observation_space, spec.observation_leaves, roles.observation),
             ("action", spec.action_space, spec.action_leaves, roles.action))  # fmt: skip
    for role, space, leaves, columns in parts:
        for leaf, column in columns.items():
            after = _after(column, finals) if role == "observation" else None
            for names in (column, after) if after else (column,):
                if leaf not in leaves or len(leaves) > len(columns) or not _fits(groups, names, leaves[leaf]):
                    kinds = ", ".join(dict.fromkeys(str(groups[0][name].dtype) for name in _names(names)))
                    values = f"{kinds} of shape {list(_shape(groups[0], names))}"
                    fits = leaf in leaves and len(leaves) == len(columns)
                    expected = f"the {role} space is {describe_space(leaves[leaf] if fits else space)}"
                    advice = "give the environment of the recording" + ("" if fits else ", and an array for each leaf")
                    raise DataError(f"{_words(names)} hold {values}, {expected}: {advice}")


def _acted(groups: _Groups, leaf: str, column: _Column, is_discrete: bool, where: str) -> gymnasium.Space:
    seen = _seen(groups, leaf, column)
    if is_discrete:
        return whole_choices(seen)
    if any(groups[0][name].dtype.kind == "f" for name in _names(column)):
        space = bounded(seen, _shape(groups[0], column))
        if np.isfinite(space.low).all():
            words = "all actions of %s lie in [-1, 1]: these are taken for the bounds of its action space"
            logger.info(words, where)
        return space
    least, most = int(seen.low.min()), seen.high.max()
    if least < 0 or most >= MAX_ENTRIES:
        limits = f"from {least} to {most:g}, expected 0 to {MAX_ENTRIES - 1}"
        raise DataError(f"{_words(column)} are whole numbers {limits}: give the environment of the recording")
    return choices(np.zeros_like(seen.high), seen.high, leaf)


def _seen(groups: _Groups, leaf: str, column: _Column) -> Seen:
    """Look at all values."""
    seen = Seen(leaf)
    for arrays in groups:
        windows = {name: Window(arrays[name]) for name in _names(column)}
        num_rows, size = arrays[_names(column)[0]].shape[0], min(window.size for window in windows.values())
        for first in range(0, num_rows, size):
            stop = min(first + size, num_rows)
            values = vector(lambda name, first=first, stop=stop: windows[name].rows(first, stop), column)  # noqa: B023
            seen.add(values, ())
    if seen.high.size == 1:  # [N, 1] is one choice a step
        seen.low, seen.high = seen.low.reshape(()), seen.high.reshape(())
    return seen


def _fits(groups: _Groups, column: _Column, space: gymnasium.Space) -> bool:
    shape = _shape(groups[0], column)
    kinds = {groups[0][name].dtype for name in _names(column)}
    if isinstance(space, Box):
        is_image = kinds == {np.dtype(np.uint8)} and len(shape) >= 2
        return shape == space.shape and is_image == (leaf_kind(space) == "image")
    shapes = [(), (1,)] if isinstance(space, Discrete) else [space.shape]
    if isinstance(space, Dict | Tuple | Text) or shape not in shapes:
        return False
    return all(kind.kind in "biu" for kind in kinds) or _seen(groups, "action", column).is_whole


def _shape(arrays: Mapping[str, Array], column: _Column) -> tuple[int, ...]:
    """Return the shape of one step's values: those of several arrays stand side by side."""
    if isinstance(column, str):
        return tuple(arrays[column].shape[1:])
    return (sum(int(np.prod(arrays[name].shape[1:])) for name in column),)


def _after(column: _Column, finals: Mapping[str, str]) -> _Column | None:
    """Return where what is seen after a step stands, if a part of it does."""
    if isinstance(column, str):
        return finals.get(column)
    return tuple(finals.get(name, name) for name in column)


def _names(column: _Column) -> tuple[str, ...]:
    return (column,) if isinstance(column, str) else column


def _words(column: _Column) -> str:
    return quote(", ".join(_names(column)))[1:-1]
