"""Which environment episodes come from, and making it safely.

A file may name an environment; naming never makes it. `make_envs` makes only what is registered on this
machine under the same entry point, or what the user typed. `Guarded` keeps a failing environment from ending
the others.
"""

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeGuard

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from seqdec.errors import DataError, UsageError, suggest
from seqdec.leaves import MISSING, leaf_kind, leaves
from seqdec.spaces import (
    MAX_ENTRIES,
    children,
    describe_space,
    is_int,
    kind_of,
    quote,
    space_from_json,
    space_to_json,
    spaces_agree,
    supported,
    whole_limits,
    zero_of,
)

DEFAULT_MAX_STEPS = 100_000
# Of a batch's metadata: its rows understand the reset option "park"; the leaves whose values may be missing.
PARKS, MAY_MISS = "seqdec_parks", "seqdec_may_miss"
# What `gymnasium.make` takes for itself: never from a file.
_MAKE_KEYWORDS = {"id", "max_episode_steps", "disable_env_checker", "render_mode"}


@dataclass(frozen=True)
class EnvironmentSpec:
    """Spaces and origin of the environment that episodes were recorded in; plain data, nothing is made.

    Attributes:
        entry_point: as the file has it; only ever compared.
        wrappers: entry points of additional wrappers that the file names; never made.
        reference_returns: the returns of score 0 and score 100.
        requirements: what pip must install for the environment.
        missing: leaves of the observation whose values may be missing ("observation", "observation.camera").

    Example:
        >>> spec = spec_of_env(gymnasium.make("CartPole-v1"))
        >>> spec.action_space
        Discrete(2)
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    id: str | None = None
    kwargs: Mapping[str, object] = field(default_factory=dict)
    max_episode_steps: int | None = None
    entry_point: str | None = None
    wrappers: tuple[str, ...] = ()
    reference_returns: tuple[float, float] | None = None
    requirements: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Bring the spaces to the supported kinds and refuse names that are no leaf of the observation."""
        object.__setattr__(self, "observation_space", supported(self.observation_space, "observation"))
        object.__setattr__(self, "action_space", supported(self.action_space, "action"))
        for name, leaf in self.action_leaves.items():
            if leaf_kind(leaf) in ("image", "text"):
                raise UsageError(f"{name} is {describe_space(leaf)}: images and texts can be observed, not acted")
        observed = self.observation_leaves
        for name in self.missing:
            if name not in observed:
                nearest = suggest(name, observed)
                raise UsageError(f"no leaf of the observation is called {quote(name)}{nearest}")

    @cached_property
    def observation_leaves(self) -> dict[str, gymnasium.Space]:
        """Return the observation's leaf spaces by variable name."""
        return leaves(self.observation_space, "observation")

    @cached_property
    def action_leaves(self) -> dict[str, gymnasium.Space]:
        """Return the action's leaf spaces by variable name."""
        return leaves(self.action_space, "action")

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values; infinite bounds are words."""
        return {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "id": self.id,
            "kwargs": dict(self.kwargs),
            "max_episode_steps": self.max_episode_steps,
            "entry_point": self.entry_point,
            "wrappers": list(self.wrappers),
            "reference_returns": None if self.reference_returns is None else list(self.reference_returns),
            "requirements": list(self.requirements),
            "missing": list(self.missing),
        }

    @staticmethod
    def from_json(value: Mapping[str, object]) -> "EnvironmentSpec":
        """Read what `to_json` wrote.

        Raises:
            DataError: a key is missing, unknown or holds nonsense.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"an environment's description is {kind_of(value)}: expected an object")
        known = set(EnvironmentSpec.__dataclass_fields__)
        for key in value:
            if key not in known:
                raise DataError(f"unknown key {quote(key)} in an environment's description{suggest(str(key), known)}")
        for key in ("observation_space", "action_space"):
            if key not in value:
                raise DataError(f"an environment's description has no {key}")
        try:
            return EnvironmentSpec(
                observation_space=space_from_json(value["observation_space"], "observation"),
                action_space=space_from_json(value["action_space"], "action"),
                id=_word_or_none(value, "id"),
                kwargs=_kwargs(value.get("kwargs", {})),
                max_episode_steps=_step_limit(value.get("max_episode_steps")),
                entry_point=_word_or_none(value, "entry_point"),
                wrappers=_words(value, "wrappers"),
                reference_returns=_reference_returns(value.get("reference_returns")),
                requirements=_words(value, "requirements"),
                missing=_words(value, "missing"),
            )
        except UsageError as error:  # here it is a file that is wrong
            raise DataError(str(error)) from error


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
            self._failure = f"reset: {_describe(error)}"
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
            return self._fail(f"step {self._num_steps}: {_describe(error)}")
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


def spec_of_env(
    env: gymnasium.Env,
    reference_returns: tuple[float, float] | None = None,
    missing: tuple[str, ...] = (),
) -> EnvironmentSpec:
    """Return the spec of an environment at hand; without an id if it cannot be made again from plain data.

    `missing` names the leaves of the observation whose values may be missing.
    """
    plain = EnvironmentSpec(
        env.observation_space, env.action_space, reference_returns=reference_returns, missing=missing
    )
    made_from = env.spec
    if made_from is None:
        return plain
    kwargs = {key: value for key, value in made_from.kwargs.items() if key not in _MAKE_KEYWORDS}
    try:
        kwargs = json.loads(json.dumps(kwargs, allow_nan=False))
    except (TypeError, ValueError):  # objects among the arguments: no file can repeat them
        return plain
    return replace(
        plain,
        id=made_from.id,
        kwargs=kwargs,
        max_episode_steps=made_from.max_episode_steps,
        entry_point=_entry_point_name(made_from.entry_point),
        wrappers=tuple(wrapper.entry_point for wrapper in made_from.additional_wrappers),
    )


def make_envs(
    spec: EnvironmentSpec,
    num_envs: int,
    *,
    env_id: str | None = None,
    trust_env: bool = False,
    max_steps: int | None = None,
    missing: tuple[str, ...] | None = None,
    asynchronous: bool = False,
) -> VectorEnv:
    """Make a batch of the environment, each one `Guarded`, without automatic resets.

    Args:
        spec: the environment as the data names it.
        num_envs: how many.
        env_id: what the user typed; it wins over the data's.
        trust_env: make what the data names even where nothing on this machine vouches for it.
        max_steps: the longest episode; by default 100000 where the environment has no limit of its own.
        missing: leaves of the observation whose values may be missing; the spec's by default.
        asynchronous: each in a process of its own, which pays where a step takes longer than talking to a process.

    Raises:
        UsageError: the environment is not registered here, is not the one the data names, or cannot be made.
    """
    if num_envs < 1:
        raise UsageError(f"{num_envs} environments were asked for: give at least 1")
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"the longest episode may have {max_steps} steps: give at least 1")
    if env_id is not None:
        make = _typed(spec, env_id)
    elif trust_env:
        make = _trusted(spec)
    else:
        make = _registered(spec)

    def make_guarded() -> Guarded:
        env = _made(make, spec, env_id)
        limit = env.spec.max_episode_steps if env.spec else None
        may_miss = spec.missing if missing is None else missing
        return Guarded(env, max_steps or (DEFAULT_MAX_STEPS if limit is None else limit), may_miss)

    return batch_of([make_guarded] * num_envs, asynchronous=asynchronous)


def batch_of(makers: Sequence[Callable[[], Guarded]], *, asynchronous: bool = False) -> VectorEnv:
    """Make a batch of guarded environments, without automatic resets."""
    if asynchronous:
        # looked at here: in a process of its own nobody could ask it, or be told in one sentence what is wrong
        with closing(makers[0]()) as first:
            kinds = {leaf_kind(leaf) for leaf in leaves(supported(first.observation_space, "observation"), "").values()}
        # Gymnasium's shared memory holds texts in the space's letters only, and nothing that is missing
        envs = AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED, shared_memory="text" not in kinds)
    else:
        envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
        first = envs.envs[0]
        assert isinstance(first, Guarded)
    envs.metadata = {**envs.metadata, PARKS: True, MAY_MISS: first.missing}
    return envs


def check_spaces(spec: EnvironmentSpec, envs: VectorEnv) -> None:
    """Refuse an environment whose spaces are not the data's; float32 against float64 is fine.

    Raises:
        UsageError: with both sides.
    """
    sides = (
        ("observation", spec.observation_space, envs.single_observation_space),
        ("action", spec.action_space, envs.single_action_space),
    )
    for name, expected, found in sides:
        found = supported(found, name)
        if not spaces_agree(expected, found, with_bounds=name == "action"):
            named = "" if spec.id is None else f", or make the one the data came from ({quote(spec.id)})"
            raise UsageError(
                f"the data's {name}s are {describe_space(expected)}, the environment's are "
                f"{describe_space(found)}: choose the environment that fits{named}"
            )


def _typed(spec: EnvironmentSpec, env_id: str) -> Callable[[], gymnasium.Env]:
    if ":" not in env_id and env_id not in gymnasium.registry:
        nearest = suggest(env_id, gymnasium.registry)
        raise UsageError(f"no environment {quote(env_id)} is registered here{nearest or _install(spec)}")
    # The data's arguments belong to the data's environment only.
    kwargs = _make_kwargs(spec, trusted=False) if env_id.split(":")[-1] == spec.id else {}
    return partial(gymnasium.make, env_id, disable_env_checker=True, **kwargs)


def _registered(spec: EnvironmentSpec) -> Callable[[], gymnasium.Env]:
    if spec.id is None:
        raise UsageError("the data set names no environment: pass --env ID")
    named = f"the data set names env {quote(spec.id)}"
    if spec.id not in gymnasium.registry:
        package = (spec.entry_point or "").split(".")[0].split(":")[0]
        known = f"; if its package is here: --env {package}:{spec.id}" if package.isidentifier() else ""
        raise UsageError(f"{named}, not a registered environment; pass --env ID{quote(known)[1:-1]}{_install(spec)}")
    known = gymnasium.registry[spec.id]
    here = _entry_point_name(known.entry_point)
    if spec.entry_point not in (None, here):
        raise UsageError(
            f"{named} at {quote(spec.entry_point)}, here it is {quote(here)}; pass --env ID to take it anyway"
        )
    if spec.wrappers != tuple(wrapper.entry_point for wrapper in known.additional_wrappers):
        raise UsageError(
            f"{named} with the wrappers {quote(', '.join(spec.wrappers))}, which are not made; pass --env ID"
        )
    return partial(_make_known, spec, _make_kwargs(spec, trusted=False))


def _trusted(spec: EnvironmentSpec) -> Callable[[], gymnasium.Env]:
    if spec.id is None:
        raise UsageError("the data set names no environment: pass --env ID")
    kwargs = _make_kwargs(spec, trusted=True)
    if spec.id in gymnasium.registry or ":" in spec.id or spec.entry_point is None:
        return partial(_make_known, spec, kwargs)
    foreign = EnvSpec(spec.id, entry_point=spec.entry_point, max_episode_steps=spec.max_episode_steps)
    return partial(gymnasium.make, foreign, disable_env_checker=True, **kwargs)


def _make_known(spec: EnvironmentSpec, kwargs: Mapping[str, object]) -> gymnasium.Env:
    assert spec.id is not None
    return gymnasium.make(spec.id, max_episode_steps=spec.max_episode_steps, disable_env_checker=True, **dict(kwargs))


def _make_kwargs(spec: EnvironmentSpec, *, trusted: bool) -> dict[str, object]:
    kwargs = {key: value for key, value in spec.kwargs.items() if key not in _MAKE_KEYWORDS}
    known = gymnasium.registry[spec.id].kwargs if spec.id in gymnasium.registry else {}
    for key, value in kwargs.items():
        # Arguments that name files would let a data set choose what an environment opens (MuJoCo's xml_file).
        if not trusted and isinstance(value, str) and set("/\\:") & set(value) and known.get(key) != value:
            raise UsageError(
                f"the data set gives the environment {quote(key)} = {quote(value)}, a path; pass --trust-env "
                "if you know it, or make another environment by --env ID"
            )
    return kwargs


def _made(make: Callable[[], gymnasium.Env], spec: EnvironmentSpec, env_id: str | None) -> gymnasium.Env:
    name = quote(env_id or spec.id)
    try:
        return make()
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise UsageError(f"environment {name} lacks a package ({_describe(error)}){_install(spec)}") from error
    except (gymnasium.error.Error, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise UsageError(f"environment {name} cannot be made: {_describe(error)}") from error


def _install(spec: EnvironmentSpec) -> str:
    if not spec.requirements:
        return ""
    packages = " ".join(shlex.quote(line[:200]) for line in spec.requirements)
    return f". Training works without it; for evaluation the data set says: pip install {quote(packages)[1:-1]}"


def _entry_point_name(entry_point: object) -> str | None:
    if entry_point is None or isinstance(entry_point, str):
        return entry_point
    name = getattr(entry_point, "__qualname__", type(entry_point).__qualname__)
    return f"{entry_point.__module__}:{name}"


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


def _describe(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__


def _kwargs(value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise DataError(f"the environment's kwargs are {kind_of(value)}: expected an object")
    try:
        size = len(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the environment's kwargs are no plain JSON: {_describe(error)}") from error
    if size > MAX_ENTRIES:
        raise DataError(f"the environment's kwargs have {size} characters: at most {MAX_ENTRIES} are read")
    return dict(value)


def _step_limit(value: object) -> int | None:
    if value is None or (is_int(value) and 1 <= value <= 10**9):
        return value
    raise DataError(f"max_episode_steps is {quote(value)}: expected a whole number from 1 on, or null")


def _reference_returns(value: object) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(_is_number(entry) for entry in value):
        raise DataError(f"reference_returns is {quote(value)}: expected the returns of score 0 and score 100")
    if value[0] == value[1]:
        raise DataError(f"reference_returns are both {value[0]}: score 0 and score 100 must differ")
    return float(value[0]), float(value[1])


def _words(value: Mapping[str, object], key: str) -> tuple[str, ...]:
    words = value.get(key, [])
    if not isinstance(words, list | tuple) or len(words) > 100:
        raise DataError(f"{key} is {kind_of(words)}: expected a list of at most 100 texts")
    for word in words:
        if not isinstance(word, str) or len(word) > 1000:
            raise DataError(f"{key} holds {quote(word)}: expected texts of at most 1000 characters")
    return tuple(words)


def _word_or_none(value: Mapping[str, object], key: str) -> str | None:
    word = value.get(key)
    if word is None or (isinstance(word, str) and len(word) <= 1000):
        return word
    raise DataError(f"the environment's {key} is {quote(word)}: expected a text of at most 1000 characters")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
