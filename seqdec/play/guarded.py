"""An environment that cannot end the batch it is in, and that says of every value whether it is known."""

import logging
import math
from collections.abc import Mapping
from functools import cached_property

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from seqdec.data.episode import nonfinite_entry
from seqdec.errors import DataError, in_words
from seqdec.play.candidates import VALID_ACTIONS, acts_in_words, named
from seqdec.play.info import success_of
from seqdec.play.legal import ACTION_MASK, legal_actions, mask_leaves
from seqdec.spaces.leaves import MISSING, leaf_kind, leaf_parts, shape_of_missing, without_nan
from seqdec.spaces.space import children, describe_space, kind_of, quote, whole_limits, zero_of

DEFAULT_MAX_STEPS = 100_000
# Keys of our own, beside whatever an environment has in its infos, options and metadata.
FAILURE, PARK, OPTIONS, UNKNOWN = "seqdec.failure", "seqdec.park", "seqdec.options", "seqdec." + MISSING
Info = dict[str, object]
logger = logging.getLogger(__name__)


class Guarded(gymnasium.Wrapper):
    """One environment of a batch that cannot end the batch.

    An exception, an exit, or an observation that is not finite or not of its space's shape and type ends the episode
    as truncated, with the reason in `info["seqdec.failure"]`. In a leaf whose values may be missing, NaN and None are
    no failure: they become zeros, and `info["seqdec.missing.NAME"]` is a mask of them. Of the environment's own info
    there is what a batch reads (see `info`). After an episode's end the environment is not touched until the next
    reset. A reset with the option "seqdec.park" leaves it as it is.

    Example:
        >>> env = Guarded(gymnasium.make("CartPole-v1"), max_steps=200)
    """

    def __init__(self, env: gymnasium.Env, max_steps: int = DEFAULT_MAX_STEPS, missing: tuple[str, ...] = ()) -> None:
        """Wrap an environment whose episodes are cut after `max_steps` timesteps; `missing` names leaves."""
        super().__init__(env)
        self._max_steps, self._missing = max_steps, missing
        self._acts_in_words = acts_in_words(env.action_space)
        self._observation = zero_of(env.observation_space)
        self._num_steps = 0
        self._is_resting = True
        self._failure = ""

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[object, Info]:
        """Start an episode; the option "seqdec.park" leaves it out, "seqdec.options" has the options of each seed."""
        if options and OPTIONS in options:
            options = options[OPTIONS].get(seed)  # pyright: ignore[reportAttributeAccessIssue]
        if options and options.get(PARK):
            self._is_resting = True
            return self._observation, {}
        self._num_steps, self._is_resting, self._failure = 0, False, ""
        options = None if options is None else dict(options)  # others of the batch are given the same one
        masks: Info = {}
        try:
            observation, info = self.env.reset(seed=seed, options=options)
            self._observation = self._read(self.observation_space, observation, "observation", masks)
            return self._observation, self._said(info, self._observation, is_over=False) | masks
        except (Exception, SystemExit) as error:  # foreign code: whatever it raises is its episode's failure
            self._observation, self._failure = zero_of(self.observation_space), f"reset: {_reason(error)}"
            return self._observation, {FAILURE: self._failure}

    def step(self, action: object) -> tuple[object, float, bool, bool, Info]:
        """Go one timestep on; nothing happens after the episode's end."""
        if self._is_resting:
            return self._observation, 0.0, False, False, {}
        if self._failure:
            return self._fail(self._failure)
        masks: Info = {}
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            observation = self._read(self.observation_space, observation, "observation", masks)
            reward = float(np.asarray(reward).item())
            if not math.isfinite(reward):
                raise DataError(f"reward is {reward}")
            terminated, truncated = bool(terminated), bool(truncated)
            info = self._said(info, observation, is_over=terminated or truncated) | masks
        except (Exception, SystemExit) as error:  # as in reset
            return self._fail(f"step {self._num_steps}: {_reason(error)}")
        self._observation = observation
        self._num_steps += 1
        truncated = truncated or (not terminated and self._num_steps >= self._max_steps)
        self._is_resting = terminated or truncated
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the environment; what it raises then is a warning, for its episodes are played."""
        try:
            self.env.close()
        except (Exception, SystemExit) as error:  # as in reset
            logger.warning("an environment did not close (%s)", in_words(error))

    def _fail(self, failure: str) -> tuple[object, float, bool, bool, Info]:
        self._is_resting = True
        return self._observation, 0.0, False, True, {FAILURE: failure}

    def _said(self, info: object, observation: object, *, is_over: bool) -> Info:
        """Return what is read of an info, in types and shapes that a batch can hold."""
        if not isinstance(info, Mapping):
            raise DataError(f"info is {kind_of(info)}: expected a dict")
        said: Info = {**success_of(info)}
        texts = named(info) if self._acts_in_words else None
        if texts is not None:
            said[VALID_ACTIONS] = texts
        parts = leaf_parts(self.observation_space, observation, "observation") if self._mask_leaves else {}
        shown = tuple(np.asarray(parts[name][0]) for name in self._mask_leaves)
        mask = None if is_over else legal_actions(self.action_space, info, shown)  # at its end it may leave nothing
        return said if mask is None else {**said, ACTION_MASK: mask}

    @cached_property
    def _mask_leaves(self) -> tuple[str, ...]:
        return mask_leaves(self.observation_space, self.action_space)

    def _read(self, space: gymnasium.Space, value: object, name: str, masks: Info) -> object:
        """Return an observation that a batch can hold, and add the masks of what is not known in it."""
        if isinstance(space, Dict | Tuple):
            parts = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, tuple) else {}
            parts = {str(key): part for key, part in parts.items()}
            inner: dict[str, object] = {}
            for key, child in children(space):
                if key not in parts:
                    raise DataError(f"{name} has no {key!r}")
                inner[key] = self._read(child, parts[key], f"{name}.{key}", masks)
            return inner if isinstance(space, Dict) else tuple(inner.values())
        may_miss = name in self._missing
        if value is None and may_miss:
            masks[UNKNOWN + name] = np.ones(shape_of_missing(space), bool)
            return zero_of(space)
        if isinstance(space, Text) and not isinstance(value, str):
            raise DataError(f"{name} is {quote(value)}: expected a text")
        if space.dtype is None or space.shape is None or isinstance(space, Text):
            return value  # a text, or of a kind that `supported` refuses
        values = _numbers(space, value, name)
        values, mask = without_nan(values) if may_miss else (values, None)
        if nonfinite := nonfinite_entry(values[None]):
            raise DataError(f"{name}{nonfinite[1]}")
        if mask is not None:
            is_vector = leaf_kind(space) == "vector"
            masks[UNKNOWN + name] = np.asarray(mask if is_vector else True)
            values = values if is_vector else np.asarray(zero_of(space))
        return _in_type_of(space, values, name)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, DataError) else in_words(error)


def _numbers(space: gymnasium.Space, value: object, name: str) -> np.ndarray:
    """Return numbers in the shape of their space, with NaN for each None among them."""
    try:
        values = np.asarray(value)
        values = values.astype(np.float64) if values.dtype == object and value is not None else values
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is ragged or holds something that is no number") from error
    if values.dtype.kind not in "biuf" or values.shape != space.shape:
        kind = quote(value) if values.ndim == 0 else f"of shape {list(values.shape)} and type {values.dtype}"
        raise DataError(f"{name} is {kind}: expected {describe_space(space)}")
    return values


def _in_type_of(space: gymnasium.Space, values: np.ndarray, name: str) -> np.ndarray:
    """Return values that a batch can hold: it takes numbers of its own kind alone."""
    assert space.dtype is not None
    if isinstance(space, Discrete | MultiDiscrete | MultiBinary):
        low, high = whole_limits(space)
        if ((values < low) | (values > high)).any():
            raise DataError(f"{name} is {values.tolist()}, outside {describe_space(space)}")
    if np.can_cast(values.dtype, space.dtype, "same_kind"):
        return values
    with np.errstate(invalid="ignore"):  # a number that does not fit becomes another one, which the comparison finds
        cast = values.astype(space.dtype)
    if (cast != values).any():
        raise DataError(f"{name} holds {values[cast != values][0]:g}: expected {describe_space(space)}")
    return cast
