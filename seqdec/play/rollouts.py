"""Let an actor play episodes in a batch of environments.

wave 0   episode 0 |-------|          N environments start together; a row that ends leaves the batch,
         episode 1 |----------------| so that the actor's memory stays a rectangle and no episode that
wave 1   episode 2 |---|              was started is left out of the count
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiBinary
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from seqdec.data.episode import Episode
from seqdec.errors import DataError, NumericsError, UsageError
from seqdec.play.actors import Actor, Seekable
from seqdec.play.make import MAY_MISS, PARKS
from seqdec.spaces.leaves import MISSING, Batch, join, leaves, shape_of_missing, split
from seqdec.spaces.space import describe_space, supported, whole_limits, zero_of


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
    """One running episode: what was seen and done at each step, by leaf."""

    observations: list[dict[str, np.ndarray]]
    actions: list[dict[str, np.ndarray]]
    rewards: list[float]


def rollout(
    actor: Actor | Sequence[Actor],
    envs: VectorEnv | Sequence[VectorEnv],
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
        actor: chooses the actions; of several batches, one for each.
        envs: any vector environment, whatever its autoreset mode; or several, which take turns: while one that is
            asynchronous steps, the actor of another works.
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
    batches = list(envs) if isinstance(envs, Sequence) else [envs]
    actors = list(actor) if isinstance(actor, Sequence) else [actor]
    if len(actors) != len(batches):
        raise UsageError(f"{len(actors)} actors for {len(batches)} batches of environments: give one for each")
    for batch in batches:
        _autoreset_mode(batch)
    results: dict[int, Episode | str] = {}
    for first, played in _played(actors, batches, num_episodes, seed, progress):
        results |= enumerate(played, first)
        message = next((result for result in played if isinstance(result, str)), None)
        if message is not None and failures is None:
            number = first + played.index(message)
            raise NumericsError(f"the environment failed in episode {number}: {message}")
    episodes: list[Episode] = []
    for number in sorted(results):
        result = results[number]
        if isinstance(result, Episode):
            episodes.append(result)
        elif failures is not None:
            failures.append(Failure(number, result))
    return episodes


def _played(
    actors: list[Actor],
    batches: list[VectorEnv],
    num_episodes: int,
    seed: int,
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[int, list[Episode | str]]]:
    """Play waves until there are enough episodes, the batches in turns; yield each with its first episode's number."""
    playing: dict[int, tuple[int, Generator[None, None, list[Episode | str]]]] = {}
    num_begun = 0
    while num_begun < num_episodes or playing:
        for index, (actor, envs) in enumerate(zip(actors, batches, strict=True)):
            if index not in playing and num_begun < num_episodes:
                if len(batches) > 1 and isinstance(actor, Seekable):
                    actor.seek(num_begun)
                rows = min(envs.num_envs, num_episodes - num_begun)
                playing[index] = num_begun, _wave(actor, envs, rows, seed + num_begun, progress)
                num_begun += rows
            if index in playing:
                first, wave = playing[index]
                try:
                    next(wave)
                except StopIteration as end:
                    del playing[index]
                    yield first, end.value


def _wave(
    actor: Actor, envs: VectorEnv, num_rows: int, seed: int, progress: Callable[[int], None] | None
) -> Generator[None, None, list[Episode | str]]:
    """Play one episode in each of the first rows, and yield while the environments work by themselves.

    A row that failed has its message in the place of an episode.
    """
    mode = _autoreset_mode(envs)
    observation_space = supported(envs.single_observation_space, "observation")
    action_space = supported(envs.single_action_space, "action")
    raw, infos = envs.reset(seed=seed)
    observations, broken = _seen(raw, envs, observation_space, infos)
    actor.reset(num_rows)
    results: list[Episode | str] = [""] * num_rows
    traces = [_Trace([], [], []) for _ in range(num_rows)]
    actions = _idle_actions(action_space, envs.num_envs)
    running = np.arange(num_rows)
    rewards: np.ndarray | None = None
    terminated = truncated = np.zeros(envs.num_envs, dtype=bool)
    if mode is AutoresetMode.DISABLED and num_rows < envs.num_envs:
        _settle(envs, np.arange(envs.num_envs) >= num_rows)
    while True:
        goes_on = np.ones(len(running), dtype=bool)
        for index, row in enumerate(running.tolist()):
            is_end = bool(terminated[row] or truncated[row])
            message = _failure(infos, row) or _nonfinite(rewards, row) or broken[row]
            if message:
                results[row] = message
            elif is_end:
                final = _final_observation(observations, infos, row, mode, observation_space)
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
        seen = join(observation_space, {name: values[running] for name, values in observations.items()}, "observation")
        chosen = actor.act(seen, None if rewards is None else rewards[running])
        for name, values in _checked_actions(chosen, len(running), action_space).items():
            actions[name][running] = values
        for row in running:
            traces[row].observations.append({name: values[row] for name, values in observations.items()})
            traces[row].actions.append({name: values[row].copy() for name, values in actions.items()})
        joined = join(action_space, actions, "action")
        if isinstance(envs, AsyncVectorEnv):
            envs.step_async(joined)
            yield
            raw, rewards, terminated, truncated, infos = _waited(envs)
        else:
            raw, rewards, terminated, truncated, infos = envs.step(joined)
        observations, broken = _seen(raw, envs, observation_space, infos)
        rewards = np.asarray(rewards, dtype=np.float32)
        for row in running:
            traces[row].rewards.append(float(rewards[row]))


def _waited(envs: AsyncVectorEnv) -> tuple[Batch, np.ndarray, np.ndarray, np.ndarray, dict]:
    try:
        return envs.step_wait()
    except (EOFError, ConnectionError) as error:
        for process in envs.processes:
            process.terminate()
        envs.closed = True  # nothing is left to close, and closing would wait for who is gone
        raise NumericsError("a process of the environments ended: try without --async-envs (asynchronous)") from error


def _settle(envs: VectorEnv, ended: np.ndarray) -> None:
    """Make these rows ready for steps that nobody looks at."""
    options: dict[str, object] = {"reset_mask": ended.copy()}
    if envs.metadata.get(PARKS):
        options["park"] = True
    envs.reset(options=options)


def _autoreset_mode(envs: VectorEnv) -> AutoresetMode:
    if "autoreset_mode" not in envs.metadata:
        raise UsageError(
            "the vector environment does not say how it resets: set metadata['autoreset_mode'] to one of "
            + ", ".join(mode.value for mode in AutoresetMode)
        )
    return AutoresetMode(envs.metadata["autoreset_mode"])


def _seen(raw: Batch, envs: VectorEnv, space: gymnasium.Space, infos: dict) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return copies of a batch of observations by leaf, and what is wrong with each row.

    A number that is not finite is wrong, unless the environment says that the leaf may be missing.
    """
    may_miss = envs.metadata.get(MAY_MISS, ())
    # A copy: vector environments may write the next observation into the same memory.
    found = {name: values.copy() for name, values in split(space, raw, "observation").items()}
    is_broken = np.zeros(envs.num_envs, dtype=bool)
    for name, leaf in leaves(space, "observation").items():
        values, missing = found[name], found.get(MISSING + name)
        if values.dtype.kind == "f":
            is_broken |= ~np.isfinite(values.reshape(envs.num_envs, -1)).all(axis=1)
        if missing is not None and name not in may_miss:
            is_broken |= missing.reshape(envs.num_envs, -1).any(axis=1)
        told = infos.get(MISSING + name)
        if told is not None:
            shape = (envs.num_envs, *shape_of_missing(leaf))
            whole = np.asarray(told, bool).reshape(envs.num_envs, *[1] * (len(shape) - 1))
            found[MISSING + name] = np.broadcast_to(whole, shape) | (False if missing is None else missing)
    return found, ["an observation is not finite" if broken else "" for broken in is_broken]


def _idle_actions(space: gymnasium.Space, num_envs: int) -> dict[str, np.ndarray]:
    """Return a batch of valid actions by leaf, for the rows that nobody plays."""
    idle = {name: np.asarray(zero_of(leaf), leaf.dtype) for name, leaf in leaves(space, "action").items()}
    return {name: np.repeat(value[None], num_envs, axis=0) for name, value in idle.items()}


def _checked_actions(chosen: Batch, num_rows: int, space: gymnasium.Space) -> dict[str, np.ndarray]:
    """Return an actor's actions by leaf, in the environment's types."""
    if not isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
        return {"action": _checked_leaf(np.asarray(chosen), num_rows, space, "action")}
    try:
        by_leaf = split(space, chosen, "action")
    except DataError as error:
        raise UsageError(f"the actor gave actions that are not {describe_space(space)}: {error}") from error
    if any(name.startswith(MISSING) for name in by_leaf):
        raise NumericsError("the actor gave an action that is nan: the policy's weights or inputs are damaged")
    return {name: _checked_leaf(by_leaf[name], num_rows, leaf, name) for name, leaf in leaves(space, "action").items()}


def _checked_leaf(actions: np.ndarray, num_rows: int, space: gymnasium.Space, name: str) -> np.ndarray:
    given = "actions" if name == "action" else f"{name}s"
    assert space.shape is not None
    if actions.shape != (num_rows, *space.shape):
        expected = [num_rows, *space.shape]
        raise UsageError(f"the actor gave {given} of shape {list(actions.shape)}, expected {expected}")
    if actions.dtype.kind not in "biuf":
        raise UsageError(f"the actor gave {given} of type {actions.dtype}, expected numbers")
    if np.isnan(actions).any():
        raise NumericsError(f"the actor gave an {name} that is nan: the policy's weights or inputs are damaged")
    if isinstance(space, Box):
        return np.clip(actions, space.low, space.high).astype(space.dtype)
    low, high = whole_limits(space)
    outside = (actions != np.floor(actions)) | (actions < low) | (actions > high)
    if outside.any():
        raise UsageError(f"the actor gave {name} {actions[outside][0]}, outside {describe_space(space)}")
    return actions.astype(space.dtype if isinstance(space, MultiBinary) else np.int64)


def _failure(infos: dict, row: int) -> str:
    """Return what `Guarded` noted for a row; a batch that resets at once has it among the final infos."""
    for found in (infos, infos.get("final_info", {})):
        if "failure" in found and found["_failure"][row]:
            return str(found["failure"][row])
    return ""


def _nonfinite(rewards: np.ndarray | None, row: int) -> str:
    return f"reward is {rewards[row]}" if rewards is not None and not np.isfinite(rewards[row]) else ""


def _final_observation(
    observations: dict[str, np.ndarray], infos: dict, row: int, mode: AutoresetMode, space: gymnasium.Space
) -> dict[str, np.ndarray]:
    if mode is AutoresetMode.SAME_STEP:
        final = split(space, _one_row(space, infos["final_obs"][row]), "observation")
        return {name: values[0] for name, values in final.items()}
    return {name: values[row] for name, values in observations.items()}


def _one_row(space: gymnasium.Space, observation: object) -> Batch:
    """Return one observation as a batch of one."""
    if isinstance(space, gymnasium.spaces.Dict):
        assert isinstance(observation, dict)
        return {key: _one_row(child, observation[key]) for key, child in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        assert isinstance(observation, tuple)
        return tuple(_one_row(child, observation[index]) for index, child in enumerate(space.spaces))
    return np.asarray([observation])


def _episode(trace: _Trace, final: dict[str, np.ndarray], terminated: bool, truncated: bool) -> Episode:
    steps = {**_stacked([*trace.observations, final]), **_stacked(trace.actions)}
    num_steps = len(trace.rewards)
    finals = {name: values[-1] for name, values in steps.items() if len(values) > num_steps}
    return Episode(
        steps={
            **{name: values[:num_steps] for name, values in steps.items()},
            "reward": np.array(trace.rewards, dtype=np.float32),
        },
        final=finals,
        terminated=terminated,
        truncated=truncated,
    )


def _stacked(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack the values of each leaf; a "missing" that is there in some rows only is False in the others."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: np.stack([row[name] if name in row else np.zeros(_shape_in(rows, name), bool) for row in rows])
        for name in names
    }


def _shape_in(rows: list[dict[str, np.ndarray]], name: str) -> tuple[int, ...]:
    return next(np.shape(row[name]) for row in rows if name in row)
