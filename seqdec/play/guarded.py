"""An environment that cannot end the batch it is in."""

import math
from collections.abc import Mapping

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete

from seqdec.errors import DataError, in_words
from seqdec.spaces.leaves import MISSING
from seqdec.spaces.space import (
    children,
    describe_space,
    quote,
    whole_limits,
    zero_of,
)

DEFAULT_MAX_STEPS = 100_000


class Guarded(gymnasium.Wrapper):
    """One environment of a batch that cannot end the batch.

    An exception, or an observation that is not finite or not of its space's shape and type, ends the episode as
    truncated, with what happened in `info["failure"]`. In a leaf whose values may be missing, NaN and None are no
    failure: `info["missing.NAME"]` is True where all of it is, and a batch has a zero there if it cannot hold NaN.
    After an episode's end the environment is not touched until the next reset. A reset with the option "park" only
    says that the end was seen: the row stays still.

    Example:
        >>> env = Guarded(gymnasium.make("CartPole-v1"), max_steps=200)
    """

    def __init__(self, env: gymnasium.Env, max_steps: int = DEFAULT_MAX_STEPS, missing: tuple[str, ...] = ()) -> None:
        """Wrap an environment whose episodes are cut after `max_steps` timesteps; `missing` names leaves."""
        super().__init__(env)
        self._max_steps = max_steps
        self.missing = missing
        self._observation = zero_of(env.observation_space)
        self._num_steps = 0
        self._is_resting = True
        self._failure = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[object, dict[str, object]]:
        """Start an episode, or with the option "park" leave the environment as it is."""
        if options and options.get("park"):
            self._is_resting = True
            return self._observation, {}
        self._num_steps, self._is_resting, self._failure = 0, False, ""
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except Exception as error:  # the environment is foreign code: whatever it raises is its episode's failure
            self._failure = f"reset: {in_words(error)}"
        else:
            self._observation, missing, broken = self._read(observation)
            if not broken:
                return self._observation, {**info, **missing}
            self._failure = f"reset: {broken}"
        self._observation = zero_of(self.observation_space)
        return self._observation, {"failure": self._failure}

    def step(self, action: object) -> tuple[object, float, bool, bool, dict[str, object]]:
        """Go one timestep on; nothing happens after the episode's end."""
        if self._is_resting:
            return self._observation, 0.0, False, False, {}
        if self._failure:
            return self._fail(self._failure)
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            reward = float(reward)
        except Exception as error:  # as in reset
            return self._fail(f"step {self._num_steps}: {in_words(error)}")
        seen, missing, broken = self._read(observation)
        if broken or not math.isfinite(reward):
            return self._fail(f"step {self._num_steps}: {broken or f'reward is {reward}'}")
        self._observation = seen
        self._num_steps += 1
        truncated = truncated or (not terminated and self._num_steps >= self._max_steps)
        self._is_resting = bool(terminated or truncated)
        return seen, reward, bool(terminated), bool(truncated), {**info, **missing}

    def _fail(self, failure: str) -> tuple[object, float, bool, bool, dict[str, object]]:
        self._is_resting = True
        return self._observation, 0.0, False, True, {"failure": failure}

    def _read(self, observation: object) -> tuple[object, dict[str, bool], str]:
        """Return an observation that a batch can hold, which of its leaves are missing, and what is wrong with it."""
        missing: dict[str, bool] = {}
        try:
            return self._read_leaf(self.observation_space, observation, "observation", missing), missing, ""
        except DataError as error:
            return self._observation, {}, str(error)

    def _read_leaf(self, space: gymnasium.Space, value: object, name: str, missing: dict[str, bool]) -> object:
        if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
            parts = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, tuple) else {}
            parts = {str(key): part for key, part in parts.items()}
            read: dict[str, object] = {}
            for key, child in children(space):
                if key not in parts:
                    raise DataError(f"{name} has no {key!r}")
                read[key] = self._read_leaf(child, parts[key], f"{name}.{key}", missing)
            return read if isinstance(space, gymnasium.spaces.Dict) else tuple(read.values())
        may_miss = name in self.missing
        if value is None and may_miss:
            missing[MISSING + name] = True
            return zero_of(space)
        if space.dtype is not None and space.dtype.kind == "U":
            if not isinstance(value, str):
                raise DataError(f"{name} is {quote(value)}: expected a text")
            return value
        if space.dtype is None or space.shape is None:
            return value  # of a kind that is refused elsewhere
        values = _numbers(space, value, name)
        if values.dtype.kind != "f" or np.isfinite(values).all():
            return _in_type_of(space, values, name)
        if not may_miss or np.isinf(values).any():
            raise DataError(f"{name}{_nonfinite(values)}")
        if space.dtype.kind == "f":
            return values
        missing[MISSING + name] = True
        return zero_of(space)


def _numbers(space: gymnasium.Space, value: object, name: str) -> np.ndarray:
    """Return numbers in the shape of their space, with NaN for each None among them."""
    try:
        values = np.asarray(value)
        values = values.astype(np.float64) if values.dtype == object and value is not None else values
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is ragged or holds something that is no number") from error
    if values.dtype.kind not in "biuf" or values.shape != space.shape:
        came = quote(value) if values.ndim == 0 else f"of shape {list(values.shape)} and type {values.dtype}"
        raise DataError(f"{name} is {came}: expected {describe_space(space)}")
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
    with np.errstate(invalid="ignore"):  # what does not fit becomes another number, which shows
        cast = values.astype(space.dtype)
    if (cast != values).any():
        raise DataError(f"{name} holds {values[cast != values][0]:g}: expected {describe_space(space)}")
    return cast


def _nonfinite(values: np.ndarray) -> str:
    entry = tuple(int(index) for index in np.argwhere(~np.isfinite(values))[0])
    return f"{list(entry) if entry else ''} is {values[entry]}"
