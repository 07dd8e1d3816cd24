"""Legal actions: a mask that an environment shows of the values that may be chosen now.

    info["action_mask"], info["legal_actions_mask"], or a leaf of the observation that is called so

A mask is flat, bool [values]: those of every Discrete, MultiDiscrete and MultiBinary leaf of the action, entry by
entry, one after the other. An environment may nest it as its action is. Where no action is chosen among values, these
names mean nothing.
"""

from collections.abc import Mapping
from typing import Final

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from seqdec.errors import DataError
from seqdec.spaces.leaves import leaves, num_entries
from seqdec.spaces.space import children, describe_space, quote

ACTION_MASK: Final = "action_mask"
NAMES = (ACTION_MASK, "legal_actions_mask")  # the second is OpenSpiel's


def counts_of(space: gymnasium.Space) -> list[int]:
    """Return how many values each entry has that is chosen among values."""
    if isinstance(space, Dict | Tuple):
        return [count for _, child in children(space) for count in counts_of(child)]
    if isinstance(space, Discrete):
        return [int(space.n)]
    if isinstance(space, MultiDiscrete):
        return [int(count) for count in space.nvec.reshape(-1)]
    return [2] * num_entries(space) if isinstance(space, MultiBinary) else []


def parts_of(action_leaves: Mapping[str, gymnasium.Space]) -> dict[str, slice]:
    """Return which part of a mask is that of each leaf of the action that is chosen among values."""
    counts = {name: sum(counts_of(leaf)) for name, leaf in action_leaves.items()}
    ends = np.cumsum([*counts.values()]).tolist()
    return {name: slice(end - count, end) for (name, count), end in zip(counts.items(), ends, strict=True) if count}


def mask_leaves(observation_space: gymnasium.Space, action_space: gymnasium.Space) -> tuple[str, ...]:
    """Return the leaves of the observation that are a mask together: they are called so, and have a number a value."""
    shown = leaves(observation_space, "observation")
    names = [name for name in shown if set(name.split(".")) & set(NAMES)]
    num_values = sum(counts_of(action_space))
    return tuple(names) if names and sum(num_entries(shown[name]) for name in names) == num_values else ()


def legal_actions(
    space: gymnasium.Space, info: Mapping[str, object], shown: tuple[np.ndarray, ...] = ()
) -> np.ndarray | None:
    """Return the mask of one environment's actions: what its info and its observation both let it do; None: anything.

    Args:
        space: of the actions.
        info: what the environment says.
        shown: values of the `mask_leaves`.

    Raises:
        DataError: it is no mask of these actions, or leaves nothing to choose.
    """
    name = next((name for name in NAMES if info.get(name) is not None), None)
    counts = counts_of(space)
    if not counts or not (name or shown):
        return None
    mask = np.ones(sum(counts), bool)
    if name:
        mask &= _flat(space, info[name], f"info[{name!r}]")
    if shown:
        mask &= _flat(space, np.concatenate([np.ravel(part) for part in shown]), f"the observation's {ACTION_MASK}")
    if not np.logical_or.reduceat(mask, np.cumsum([0, *counts[:-1]])).all():
        raise DataError(f"{name or ACTION_MASK} leaves no action to choose")
    return mask


def _flat(space: gymnasium.Space, value: object, name: str) -> np.ndarray:
    """Return a mask that may be nested as the action is; what it does not name is legal."""
    num_values = sum(counts_of(space))
    if value is None or num_values == 0:
        return np.ones(num_values, bool)
    if isinstance(space, Dict | Tuple) and isinstance(value, Mapping | tuple):
        inner = value if isinstance(value, Mapping) else dict(enumerate(value))
        inner = {str(key): part for key, part in inner.items()}
        return np.concatenate([_flat(child, inner.get(key), f"{name}.{key}") for key, child in children(space)])
    if isinstance(value, list | tuple) and all(isinstance(part, np.ndarray | list | tuple) for part in value):
        value = np.concatenate([np.ravel(part) for part in value])  # a mask for each entry
    mask = np.asarray(value).reshape(-1)
    if mask.dtype.kind not in "biuf" or len(mask) != num_values or not np.isin(mask, (0, 1)).all():
        raise DataError(f"{name} is {quote(value)}: expected 0 or 1 for each of {num_values} values of {_words(space)}")
    return mask != 0


def _words(space: gymnasium.Space) -> str:
    return "the action" if isinstance(space, Dict | Tuple) else describe_space(space)
