"""Actions as an actor chose them, checked and in the environment's types, by leaf."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiBinary, Text

from seqdec.errors import NumericsError, UsageError
from seqdec.spaces.leaves import Batch, in_box, leaf_parts, leaves
from seqdec.spaces.space import describe_space, quote, whole_limits, zero_of


def idle_actions(space: gymnasium.Space, num_envs: int) -> dict[str, np.ndarray]:
    """Return a batch of valid actions by leaf, for the rows that nobody plays."""
    return {name: _idle_leaf(leaf, num_envs) for name, leaf in leaves(space, "action").items()}


def checked_actions(chosen: Batch, num_rows: int, space: gymnasium.Space) -> dict[str, np.ndarray]:
    """Return an actor's actions by leaf, [num_rows, ...] in the environment's types; a Box rounds and clips.

    Texts stay as they are, whatever their length and characters: many environments declare Gymnasium's default
    characters, which hold no space, and take sentences.

    Raises:
        NumericsError: an action is nan.
        UsageError: another shape or type, or a whole number outside its space.
    """
    try:
        parts = [
            (name, np.asarray(part, object if isinstance(leaf, Text) else None), leaf)
            for name, (part, leaf) in leaf_parts(space, chosen, "action").items()
        ]
    except ValueError as error:  # of numpy, or a DataError
        raise UsageError(f"the actor gave actions that are not {describe_space(space)}: {error}") from error
    return {name: _checked_leaf(part, num_rows, leaf, name) for name, part, leaf in parts}


def _idle_leaf(leaf: gymnasium.Space, num_envs: int) -> np.ndarray:
    if isinstance(leaf, Text):
        return np.full(num_envs, leaf.characters[:1] * leaf.min_length, object)
    return np.repeat(np.asarray(zero_of(leaf), leaf.dtype)[None], num_envs, axis=0)


def _checked_leaf(actions: np.ndarray, num_rows: int, space: gymnasium.Space, name: str) -> np.ndarray:
    shape = [num_rows, *(space.shape or ())]
    if list(actions.shape) != shape:
        raise UsageError(f"the actor gave {name}s of shape {list(actions.shape)}, expected {shape}")
    if isinstance(space, Text):
        wrong = [action for action in actions if not isinstance(action, str)]
        if wrong:
            raise UsageError(f"the actor gave {name} {quote(wrong[0])}, expected a text")
        return actions
    if actions.dtype.kind not in "biuf":
        raise UsageError(f"the actor gave {name}s of type {actions.dtype}, expected numbers")
    if np.isnan(actions).any():
        raise NumericsError(f"the actor gave an {name} that is nan: the policy's weights or inputs are damaged")
    if isinstance(space, Box):
        return in_box(space, actions)
    low, high = whole_limits(space)
    outside = (actions != np.floor(actions)) | (actions < low) | (actions > high)
    if outside.any():
        raise UsageError(f"the actor gave {name} {actions[outside][0]}, outside {describe_space(space)}")
    return actions.astype(space.dtype if isinstance(space, MultiBinary) else np.int64)
