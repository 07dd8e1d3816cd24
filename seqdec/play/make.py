"""Which environment episodes come from, and making it safely.

A file may name an environment; naming never makes it. `make_envs` makes only what is registered on this
machine under the same entry point, or what the user typed. `Guarded` keeps a failing environment from ending
the others.
"""

import json
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from seqdec.errors import UsageError, in_words, suggest
from seqdec.play.closing import closing_envs
from seqdec.play.guarded import DEFAULT_MAX_STEPS, PARK, Guarded
from seqdec.play.waiting import LIMIT, STEP_SECONDS
from seqdec.spaces.leaves import leaf_kind, leaves
from seqdec.spaces.space import describe_space, quote, spaces_agree, supported
from seqdec.spaces.spec import EnvironmentSpec

# What `gymnasium.make` takes for itself: never from a file.
_MAKE_KEYWORDS = {"id", "max_episode_steps", "disable_env_checker", "render_mode"}


def spec_of_env(
    env: gymnasium.Env, reference_returns: tuple[float, float] | None = None, missing: tuple[str, ...] = ()
) -> EnvironmentSpec:
    """Return the spec of an environment at hand; without an id if it cannot be made again from plain data.

    `reference_returns` are by default those that its metadata name, as text worlds do; `missing` names the leaves of
    the observation whose values may be missing.
    """
    reference_returns = reference_returns or env.metadata.get("reference_returns")
    plain = EnvironmentSpec(
        env.observation_space, env.action_space, reference_returns=reference_returns, missing=missing
    )
    origin = env.spec
    if origin is None:
        return plain
    kwargs = {key: value for key, value in origin.kwargs.items() if key not in _MAKE_KEYWORDS}
    try:
        kwargs = json.loads(json.dumps(kwargs, allow_nan=False))
    except (TypeError, ValueError):  # objects among the arguments: no file can repeat them
        return plain
    return replace(
        plain, id=origin.id, kwargs=kwargs, max_episode_steps=origin.max_episode_steps,
        entry_point=_entry_point_name(origin.entry_point),
        wrappers=tuple(wrapper.entry_point for wrapper in origin.additional_wrappers),
    )  # fmt: skip


def make_envs(
    spec: EnvironmentSpec | str,
    num_envs: int,
    *,
    env_id: str | None = None,
    trust_env: bool = False,
    max_steps: int | None = None,
    missing: tuple[str, ...] | None = None,
    asynchronous: bool = False,
    step_seconds: float = STEP_SECONDS,
) -> VectorEnv:
    """Make a batch of the environment, each one `Guarded`, without automatic resets.

    An id that the user typed may carry arguments: "TextWorldExpress/twc-v0,fold=test,distinct=true".

    Args:
        spec: the environment as the data names it; or its id, where there are no data.
        num_envs: how many.
        env_id: what the user typed; it wins over the data's.
        trust_env: make what the data names even where nothing on this machine vouches for it.
        max_steps: the longest episode; by default 100000 where the environment has no limit of its own.
        missing: leaves of the observation whose values may be missing; the spec's by default.
        asynchronous: each in a process of its own, which pays where a step takes longer than talking to a process.
        step_seconds: how long these may take for a step, or a reset, until they are given up.

    Raises:
        UsageError: the environment is not registered here, is not the one the data names, or cannot be made.
    """
    if num_envs < 1:
        raise UsageError(f"{num_envs} environments were asked for: give at least 1")
    if max_steps is not None and max_steps < 1:
        raise UsageError(f"the longest episode may have {max_steps} steps: give at least 1")
    if not step_seconds > 0:
        raise UsageError(f"step_seconds is {step_seconds:g}: give more than 0", option="step_seconds")
    if isinstance(spec, str):
        spec, env_id = EnvironmentSpec(Discrete(1), Discrete(1)), spec  # whatever its spaces are
    env_id, arguments = (None, {}) if env_id is None else parse_id(env_id)
    make = partial(_choose(spec, env_id, trust_env), **arguments)
    name, may_miss = quote(env_id or spec.id), spec.missing if missing is None else missing

    def make_guarded() -> Guarded:
        try:
            env = make()
        except UsageError:  # of an environment of ours, in its own words
            raise
        except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
            raise UsageError(f"environment {name} lacks a package ({in_words(error)}){_install(spec)}") from error
        except (gymnasium.error.Error, TypeError, ValueError, AttributeError, AssertionError, SystemExit) as error:
            raise UsageError(f"environment {name} cannot be made: {in_words(error)}") from error
        limit = env.spec.max_episode_steps if env.spec else None
        return Guarded(env, max_steps or limit or DEFAULT_MAX_STEPS, may_miss)

    envs = batch_of([make_guarded] * num_envs, asynchronous=asynchronous)
    envs.metadata[LIMIT] = step_seconds
    return envs


def parse_id(word: str) -> tuple[str, dict[str, object]]:
    """Return the id and the arguments of "ID,NAME=VALUE,...": values are JSON, else texts.

    Raises:
        UsageError: an argument without a name or a value.
    """
    env_id, *pairs = word.split(",")
    arguments: dict[str, object] = {}
    for name, is_pair, value in (pair.partition("=") for pair in pairs):
        if not (name.isidentifier() and is_pair and value):
            raise UsageError(f"{quote(word)} names an environment: give its arguments as ID,NAME=VALUE,NAME=VALUE")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return env_id, arguments


def batch_of(makers: Sequence[Callable[[], Guarded]], *, asynchronous: bool = False) -> VectorEnv:
    """Make a batch of guarded environments, without automatic resets."""
    if asynchronous:
        # made here once: what is wrong with it is one sentence here, and a trace in a process of its own
        with closing_envs(makers[0]()) as first:
            kinds = {leaf_kind(leaf) for leaf in leaves(supported(first.observation_space, "observation"), "").values()}
        makers = [partial(_made_in_its_process, maker, os.getpid()) for maker in makers]
        # Gymnasium's shared memory holds texts in the space's letters only, and nothing that is missing
        envs = AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED, shared_memory="text" not in kinds)
    else:
        envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
    envs.metadata = {**envs.metadata, PARK: True}
    return envs


def _made_in_its_process(maker: Callable[[], Guarded], parent: int) -> Guarded:
    """Make an environment; where that is a process of its own, a signal ends it without a word: its parent has them."""
    if os.getpid() != parent:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
    return maker()


def check_spaces(spec: EnvironmentSpec, envs: VectorEnv) -> None:
    """Refuse an environment whose spaces are not the data's; float32 against float64 is fine.

    Raises:
        UsageError: with both sides.
    """
    for name, expected, space in (
        ("observation", spec.observation_space, supported(envs.single_observation_space, "observation")),
        ("action", spec.action_space, supported(envs.single_action_space, "action")),
    ):
        if not spaces_agree(expected, space, with_bounds=name == "action"):
            hint = "" if spec.id is None else f", or make the one the data came from ({quote(spec.id)})"
            raise UsageError(
                f"the data's {name}s are {describe_space(expected)}, the environment's are "
                f"{describe_space(space)}: choose the environment that fits{hint}"
            )


def _choose(spec: EnvironmentSpec, env_id: str | None, trust_env: bool) -> Callable[[], gymnasium.Env]:
    """Return how to make what the user typed; else what the data names, if it is trusted or registered here."""
    make = partial(gymnasium.make, disable_env_checker=True)
    if env_id is not None:
        if ":" not in env_id and env_id not in gymnasium.registry:
            hint = suggest(env_id, gymnasium.registry) or _install(spec)
            raise UsageError(f"no environment {quote(env_id)} is registered here{hint}", option="env")
        # The data's arguments belong to the data's environment only.
        return partial(make, env_id, **(_arguments(spec) if env_id.split(":")[-1] == spec.id else {}))
    if spec.id is None:
        raise UsageError("the data set names no environment: pass env_id=", option="env")
    if not trust_env:
        _check_registered(spec, spec.id)
    is_known = spec.id in gymnasium.registry or ":" in spec.id or spec.entry_point is None
    source = spec.id if is_known else EnvSpec(spec.id, entry_point=spec.entry_point)
    return partial(make, source, max_episode_steps=spec.max_episode_steps, **_arguments(spec, trust_env))


def _check_registered(spec: EnvironmentSpec, env_id: str) -> None:
    """Refuse an environment that is not registered here, or not under the entry point and wrappers of the data."""
    prefix = f"the data set names env {quote(env_id)}"
    if env_id not in gymnasium.registry:
        package = (spec.entry_point or "").split(".")[0].split(":")[0]
        hint = f"{package}:{env_id}; its package must be here" if package.isidentifier() else ""
        raise UsageError(
            f"{prefix}, not a registered environment; pass env_id={quote(hint)[1:-1]}{_install(spec)}", option="env"
        )
    known = gymnasium.registry[env_id]
    here = _entry_point_name(known.entry_point)
    if spec.entry_point not in (None, here):
        places = f"at {quote(spec.entry_point)}, here it is {quote(here)}"
        raise UsageError(f"{prefix} {places}; pass env_id= to take it anyway", option="env")
    if spec.wrappers != tuple(wrapper.entry_point for wrapper in known.additional_wrappers):
        wrappers = quote(", ".join(spec.wrappers))
        raise UsageError(f"{prefix} with the wrappers {wrappers}, which are not made; pass env_id=", option="env")


def _arguments(spec: EnvironmentSpec, trust_env: bool = False) -> dict[str, object]:
    kwargs = {key: value for key, value in spec.kwargs.items() if key not in _MAKE_KEYWORDS}
    known = gymnasium.registry[spec.id].kwargs if spec.id in gymnasium.registry else {}
    for key, value in kwargs.items():
        # Arguments that name files would let a data set choose what an environment opens (MuJoCo's xml_file).
        if not trust_env and isinstance(value, str) and set("/\\:") & set(value) and known.get(key) != value:
            raise UsageError(
                f"the data set gives the environment {quote(key)} = {quote(value)}, a path; pass trust_env=True if you "
                "know it, or make another environment by env_id=", option="trust_env",
            )  # fmt: skip
    return kwargs


def _install(spec: EnvironmentSpec) -> str:
    packages = " ".join(shlex.quote(line[:200]) for line in spec.requirements)
    hint = f". Training works without it; for evaluation the data set says: pip install {quote(packages)[1:-1]}"
    return hint if packages else ""


def _entry_point_name(entry_point: object) -> str | None:
    if entry_point is None or isinstance(entry_point, str):
        return entry_point
    name = getattr(entry_point, "__qualname__", type(entry_point).__qualname__)
    return f"{entry_point.__module__}:{name}"
