"""Let an actor play episodes in a batch of environments.

wave 0   episode 0 |-------|          N environments start together; a row that ends leaves the batch,
         episode 1 |----------------| so that the actor's memory stays a rectangle and no episode that
wave 1   episode 2 |---|              was started is left out of the count
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from seqdec.environment import Guarded
from seqdec.episode import Episode
from seqdec.errors import NumericsError, UsageError
from seqdec.spaces import check_supported, describe_space, zero_of


@runtime_checkable
class Actor(Protocol):
    """What chooses actions for a batch of running episodes."""

    def reset(self, num_envs: int) -> None:
        """Start `num_envs` new episodes."""
        ...

    def act(self, observations: np.ndarray, rewards: np.ndarray | None) -> np.ndarray:
        """Return one action for each running row.

        Args:
            observations: [rows, ...], float32 or int64.
            rewards: [rows], what the step before paid; None at the first step.
        """
        ...

    def keep(self, rows: np.ndarray) -> None:
        """Go on with these of the current rows (indices); the others have ended.

        This may come before the first `act`, where an environment failed at its reset.
        """
        ...


@dataclass(frozen=True)
class Failure:
    """An episode that the environment did not finish.

    Example:
        >>> Failure(episode=3, message="step 7: ZeroDivisionError: division by zero").episode
        3
    """

    episode: int
    message: str


@dataclass
class _Trace:
    """One running episode."""

    observations: list[np.ndarray]
    actions: list[np.ndarray]
    rewards: list[float]


def rollout(
    actor: Actor,
    envs: VectorEnv,
    *,
    num_episodes: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    failures: list[Failure] | None = None,
) -> list[Episode]:
    """Play episodes and return them in order; episode i starts from the environment seed `seed + i`.

    That holds whatever the number of environments, wherever the batch seeds its rows one by one, as
    Gymnasium's SyncVectorEnv and AsyncVectorEnv do.

    Args:
        actor: chooses the actions.
        envs: any vector environment, whatever its autoreset mode.
        num_episodes: how many are played; each one that starts counts.
        seed: of the first episode.
        progress: called with the number of episodes that ended since the last call.
        failures: takes the episodes in which the environment failed; without it the first failure raises.

    Raises:
        NumericsError: the actor gave nan, or the environment failed and `failures` was not given.
        UsageError: the actor gave actions of another shape or outside a Discrete space.
    """
    if num_episodes < 1:
        raise UsageError(f"{num_episodes} episodes were asked for: give at least 1")
    _autoreset_mode(envs)
    episodes: list[Episode] = []
    for first in range(0, num_episodes, envs.num_envs):
        rows = min(envs.num_envs, num_episodes - first)
        for row, result in enumerate(_play_wave(actor, envs, rows, seed + first, progress)):
            if isinstance(result, Episode):
                episodes.append(result)
            elif failures is None:
                raise NumericsError(f"the environment failed in episode {first + row}: {result}")
            else:
                failures.append(Failure(first + row, result))
    return episodes


def _play_wave(
    actor: Actor, envs: VectorEnv, num_rows: int, seed: int, progress: Callable[[int], None] | None
) -> list[Episode | str]:
    """Play one episode in each of the first rows; a row that failed has its message instead."""
    mode = _autoreset_mode(envs)
    observations, infos = envs.reset(seed=seed)
    observations = _stored(observations, envs.single_observation_space)
    actor.reset(num_rows)
    results: list[Episode | str] = [""] * num_rows
    traces = [_Trace([], [], []) for _ in range(num_rows)]
    actions = _idle_actions(envs)
    running = np.arange(num_rows)
    rewards: np.ndarray | None = None
    terminated = truncated = np.zeros(envs.num_envs, dtype=bool)
    if mode is AutoresetMode.DISABLED and num_rows < envs.num_envs:
        _settle(envs, np.arange(envs.num_envs) >= num_rows)
    while True:
        goes_on = np.ones(len(running), dtype=bool)
        for index, row in enumerate(running.tolist()):
            is_end = bool(terminated[row] or truncated[row])
            message = _failure(infos, row) or _nonfinite(observations, rewards, row)
            if message:
                results[row] = message
            elif is_end:
                final = _final_observation(observations, infos, row, mode)
                results[row] = _episode(traces[row], final, terminated[row], truncated[row])
            goes_on[index] = not (message or is_end)
        if progress is not None and not goes_on.all():
            progress(int((~goes_on).sum()))
        if not goes_on.any():
            return results
        if not goes_on.all():
            actor.keep(np.flatnonzero(goes_on))
            running = running[goes_on]
        ended = terminated | truncated
        if mode is AutoresetMode.DISABLED and ended.any():
            _settle(envs, ended)
        chosen = actor.act(observations[running], None if rewards is None else rewards[running])
        actions[running] = _checked_actions(chosen, len(running), envs.single_action_space)
        for row in running:
            traces[row].observations.append(observations[row])
            traces[row].actions.append(actions[row].copy())
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        observations = _stored(observations, envs.single_observation_space)
        rewards = np.asarray(rewards, dtype=np.float32)
        for row in running:
            traces[row].rewards.append(float(rewards[row]))


def _settle(envs: VectorEnv, ended: np.ndarray) -> None:
    """Make these rows ready for steps that nobody looks at."""
    options: dict[str, object] = {"reset_mask": ended.copy()}
    if isinstance(envs, SyncVectorEnv) and all(isinstance(env, Guarded) for env in envs.envs):
        options["park"] = True
    envs.reset(options=options)


def _autoreset_mode(envs: VectorEnv) -> AutoresetMode:
    if "autoreset_mode" not in envs.metadata:
        raise UsageError(
            "the vector environment does not say how it resets: set metadata['autoreset_mode'] to one of "
            + ", ".join(mode.value for mode in AutoresetMode)
        )
    return AutoresetMode(envs.metadata["autoreset_mode"])


def _stored(observations: np.ndarray, space: gymnasium.Space) -> np.ndarray:
    if not isinstance(space, Box | Discrete):
        raise UsageError(f"{type(space).__name__} observations are not supported yet: Box vectors and Discrete are")
    # A copy: vector environments may write the next observation into the same memory.
    with np.errstate(over="ignore"):
        return np.array(observations, dtype=np.float32 if isinstance(space, Box) else np.int64)


def _idle_actions(envs: VectorEnv) -> np.ndarray:
    """Return a batch of valid actions, for the rows that nobody plays."""
    check_supported(envs.single_action_space, "action")
    return np.repeat(zero_of(envs.single_action_space)[None], envs.num_envs, axis=0)


def _checked_actions(actions: np.ndarray, num_rows: int, space: gymnasium.Space) -> np.ndarray:
    actions = np.asarray(actions)
    assert space.shape is not None
    if actions.shape != (num_rows, *space.shape):
        expected = [num_rows, *space.shape]
        raise UsageError(f"the actor gave actions of shape {list(actions.shape)}, expected {expected}")
    if not np.issubdtype(actions.dtype, np.number):
        raise UsageError(f"the actor gave actions of type {actions.dtype}, expected numbers")
    if np.isnan(actions).any():
        raise NumericsError("the actor gave an action that is nan: the policy's weights or inputs are damaged")
    if isinstance(space, Box):
        return np.clip(actions, space.low, space.high).astype(space.dtype)
    assert isinstance(space, Discrete)
    outside = (actions != np.floor(actions)) | (actions < space.start) | (actions >= space.start + space.n)
    if outside.any():
        raise UsageError(f"the actor gave action {actions[outside][0]}, outside {describe_space(space)}")
    return actions.astype(np.int64)


def _failure(infos: dict, row: int) -> str:
    """Return what `Guarded` noted for a row; a batch that resets at once has it among the final infos."""
    for found in (infos, infos.get("final_info", {})):
        if "failure" in found and found["_failure"][row]:
            return str(found["failure"][row])
    return ""


def _nonfinite(observations: np.ndarray, rewards: np.ndarray | None, row: int) -> str:
    if rewards is not None and not np.isfinite(rewards[row]):
        return f"reward is {rewards[row]}"
    return "" if np.isfinite(observations[row]).all() else "an observation is not finite"


def _final_observation(observations: np.ndarray, infos: dict, row: int, mode: AutoresetMode) -> np.ndarray:
    if mode is AutoresetMode.SAME_STEP:
        return np.asarray(infos["final_obs"][row])
    return observations[row]


def _episode(trace: _Trace, final: np.ndarray, terminated: bool, truncated: bool) -> Episode:
    return Episode(
        steps={
            "observation": np.stack(trace.observations),
            "action": np.stack(trace.actions),
            "reward": np.array(trace.rewards, dtype=np.float32),
        },
        final=final,
        terminated=terminated,
        truncated=truncated,
    )
