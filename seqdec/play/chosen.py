"""Actions as an actor chose them, checked and in the environment's types, by leaf."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, MultiBinary, Tuple

from seqdec.errors import DataError, NumericsError, UsageError
from seqdec.spaces.leaves import MISSING, Batch, leaves, split
from seqdec.spaces.space import describe_space, whole_limits, zero_of

_DAMAGED = "that is nan: the policy's weights or inputs are damaged"


def idle_actions(space: gymnasium.Space, num_envs: int) -> dict[str, np.ndarray]:
    """Return a batch of valid actions by leaf, for the rows that nobody plays."""
    idle = {name: np.asarray(zero_of(leaf), leaf.dtype) for name, leaf in leaves(space, "action").items()}
    return {name: np.repeat(value[None], num_envs, axis=0) for name, value in idle.items()}


def checked_actions(chosen: Batch, num_rows: int, space: gymnasium.Space) -> dict[str, np.ndarray]:
    """Return an actor's actions by leaf, [num_rows, ...] in the environment's types; a Box clips them.

    Raises:
        NumericsError: an action is nan.
        UsageError: another shape or type, or a whole number outside its space.
    """
    if not isinstance(space, Dict | Tuple):
        return {"action": _checked_leaf(np.asarray(chosen), num_rows, space, "action")}
    try:
        by_leaf = split(space, chosen, "action")
    except DataError as error:
        raise UsageError(f"the actor gave actions that are not {describe_space(space)}: {error}") from error
    if any(name.startswith(MISSING) for name in by_leaf):
        raise NumericsError(f"the actor gave an action {_DAMAGED}")
    return {name: _checked_leaf(by_leaf[name], num_rows, leaf, name) for name, leaf in leaves(space, "action").items()}


def _checked_leaf(actions: np.ndarray, num_rows: int, space: gymnasium.Space, name: str) -> np.ndarray:
    assert space.shape is not None
    if actions.shape != (num_rows, *space.shape):
        expected = [num_rows, *space.shape]
        raise UsageError(f"the actor gave {name}s of shape {list(actions.shape)}, expected {expected}")
    if actions.dtype.kind not in "biuf":
        raise UsageError(f"the actor gave {name}s of type {actions.dtype}, expected numbers")
    if np.isnan(actions).any():
        raise NumericsError(f"the actor gave an {name} {_DAMAGED}")
    if isinstance(space, Box):
        return np.clip(actions, space.low, space.high).astype(space.dtype)
    low, high = whole_limits(space)
    outside = (actions != np.floor(actions)) | (actions < low) | (actions > high)
    if outside.any():
        raise UsageError(f"the actor gave {name} {actions[outside][0]}, outside {describe_space(space)}")
    return actions.astype(space.dtype if isinstance(space, MultiBinary) else np.int64)
