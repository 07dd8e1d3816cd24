"""Episodes played here: an environment, and anything that acts in it.

record("CartPole-v1", policy, num_episodes=100, seed=0)   ->   a data set

Episode i starts from the environment seed `seed + i` and depends on no other, so neither the number of environments
nor a stop in between changes what is recorded.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import gymnasium
from datasets import Dataset
from gymnasium.vector import SyncVectorEnv, VectorEnv

from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode
from seqdec.errors import NumericsError, UsageError
from seqdec.play.actors import Actor, FunctionActor, Seekable
from seqdec.play.closing import closing_envs
from seqdec.play.guarded import DEFAULT_MAX_STEPS, Guarded
from seqdec.play.make import batch_of, make_envs, spec_of_env
from seqdec.play.parts import record_parts
from seqdec.play.rollouts import play_in_turns
from seqdec.play.sb3 import Predictor, from_sb3
from seqdec.play.starts import Options, Starts


def record(
    env: str | Callable[[], gymnasium.Env],
    policy: Actor | Predictor | Callable[..., object],
    *,
    num_episodes: int | None = None,
    num_timesteps: int | None = None,
    seed: int,
    num_envs: int = 1,
    max_steps: int | None = None,
    reference_returns: tuple[float, float] | None = None,
    missing: tuple[str, ...] = (),
    reset_options: Options | Sequence[Options] | None = None,
    policy_name: str = "",
    folder: Path | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """Play episodes and return them as a data set, each with its seed, and its success where that is said.

    Args:
        env: a registered id, or a function that makes the environment.
        policy: an `Actor`; a Stable-Baselines3 model; or a function of one observation and a random generator that
            returns an action, both as the environment nests them. Each episode has its own generator.
        num_episodes: how many; give this or `num_timesteps`.
        num_timesteps: play whole episodes until there are at least so many timesteps.
        seed: of the first episode; the others follow.
        num_envs: how many environments play side by side.
        max_steps: the longest episode.
        reference_returns: the returns of score 0 and score 100, where they are known.
        missing: leaves of the observation that may be NaN or None: a value that is not known.
        reset_options: what `reset` is given: one dict for all, or a list, of which episode i has the i-th, and so on.
        policy_name: what the metadata call the policy.
        folder: where to keep the data set, which is then mapped, not in memory. A recording that was cut off goes on
            where it stopped when it is asked for again, by the same seed and `policy_name` in the same environment;
            an `Actor` needs a method `seek(episode)` for that.
        progress: called with the number of episodes that ended since the last call.

    Raises:
        NumericsError: the environment failed; what came before it is kept if there is a `folder`.
        UsageError: what was asked for cannot be, or another recording into this folder was cut off.
    """
    _check_count(num_episodes, num_timesteps)
    if folder is not None and os.path.lexists(folder):
        raise UsageError(f"{folder} exists already: choose another folder, or remove it first")
    with closing_envs(_open_envs(env, num_envs, max_steps, missing)) as envs:
        assert isinstance(envs, SyncVectorEnv) and isinstance(envs.envs[0], Guarded)
        spec = spec_of_env(envs.envs[0].env, reference_returns, missing)
        actor = _actor_of(policy, seed)
        count = {"num_episodes": num_episodes or sys.maxsize, "num_timesteps": num_timesteps or sys.maxsize}
        starts = Starts(seed, reset_options)
        play = partial(_waves, actor, envs, starts, **count, policy_name=policy_name, progress=progress)
        if folder is None:
            return from_episodes(chain.from_iterable(play([])), spec)
        request = {"environment": spec.to_json(), "seed": seed, "max_steps": max_steps, "policy": policy_name}
        request |= {} if reset_options is None else {"reset_options": repr(reset_options)}
        return record_parts(Path(folder), spec, request, actor, play, **count)


def _check_count(num_episodes: int | None, num_timesteps: int | None) -> None:
    if (num_episodes is None) == (num_timesteps is None):
        problem = "neither a number of episodes nor of timesteps is" if num_episodes is None else "both numbers are"
        raise UsageError(f"{problem} given: say how many episodes or how many timesteps to record")
    for number, unit in ((num_episodes, "episodes"), (num_timesteps, "timesteps")):
        if number is not None and number < 1:
            raise UsageError(f"{number} {unit} were asked for: give at least 1")


def _open_envs(
    env: str | Callable[[], gymnasium.Env], num_envs: int, max_steps: int | None, missing: tuple[str, ...]
) -> VectorEnv:
    if isinstance(env, gymnasium.Env):
        raise UsageError("record makes its environments itself: give an id, or a function such as lambda: env")
    if isinstance(env, str):
        return make_envs(env, num_envs, max_steps=max_steps, missing=missing)
    return batch_of([lambda: Guarded(env(), max_steps or DEFAULT_MAX_STEPS, missing)] * num_envs)


def _actor_of(policy: Actor | Predictor | Callable[..., object], seed: int) -> Actor:
    if isinstance(policy, Actor):
        return policy
    if isinstance(policy, Predictor):
        return from_sb3(policy, seed=seed)
    if not callable(policy):
        kinds = "a function of an observation and a generator, an Actor, or a Stable-Baselines3 model"
        raise UsageError(f"the policy is of type {type(policy).__name__}: give {kinds}")
    return FunctionActor(policy, seed)


def _waves(
    actor: Actor,
    envs: VectorEnv,
    starts: Starts,
    kept: Sequence[int],
    *,
    num_episodes: int,
    num_timesteps: int,
    policy_name: str,
    progress: Callable[[int], None] | None,
) -> Iterator[list[Episode]]:
    """Play as many episodes as fit side by side, again and again, until there are enough.

    `kept` has the lengths of the episodes that are there already. A wave in which the environment failed is left out
    as a whole, so that a repetition plays the same ones side by side.
    """
    num_played, num_steps = len(kept), sum(kept)
    if isinstance(actor, Seekable):  # whatever it has played elsewhere
        actor.seek(num_played)
    if progress is not None and kept:
        progress(len(kept))
    while num_played < num_episodes and num_steps < num_timesteps:
        num_rows = min(envs.num_envs, num_episodes - num_played)
        ((_, results),) = play_in_turns([actor], [envs], starts, num_rows, progress, num_played)
        wave: list[Episode] = []
        for result in results:
            if num_steps >= num_timesteps:
                break  # a failure behind the last episode is harmless
            if isinstance(result, str):
                raise NumericsError(f"the environment failed in episode {num_played}: {result}")
            metadata = {"seed": starts.seed + num_played, **({"policy": policy_name} if policy_name else {})}
            wave.append(replace(result, metadata={**metadata, **result.metadata}))
            num_played, num_steps = num_played + 1, num_steps + len(result)
        yield wave
