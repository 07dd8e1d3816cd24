"""One wave: environments that start together, played until the last of their episodes has ended."""

import inspect
from collections.abc import Callable, Generator

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from seqdec import stops
from seqdec.data.episode import Episode
from seqdec.errors import UsageError
from seqdec.play.actors import Actor, Seekable
from seqdec.play.chosen import checked_actions, idle_actions
from seqdec.play.guarded import FAILURE, PARK, UNKNOWN
from seqdec.play.info import add_successes, choices_of
from seqdec.play.starts import Starts
from seqdec.play.waiting import LostError, begin_again, reset_in_time, step_in_time
from seqdec.spaces.leaves import MISSING, Batch, join, leaves, shape_of_missing, split, stack
from seqdec.spaces.space import supported


def play_wave(
    actor: Actor, envs: VectorEnv, starts: Starts, first: int, num_rows: int, progress: Callable[[int], None] | None
) -> Generator[None, None, list[Episode | str]]:
    """Play the episodes from `first` on, one in each of the first rows; yield while environments work by themselves.

    A row that failed has its message in the place of an episode. Where processes are lost the batch begins again, and
    those rows that have not ended are played anew.
    """
    results: list[Episode | str | None] = [None] * num_rows
    while None in results:
        try:
            yield from _play(actor, envs, starts, first, results, progress)
        except LostError as error:
            waiting = [row for row, result in enumerate(results) if result is None]
            messages = {row: error.messages[row] for row in waiting if row in error.messages}
            messages = messages or dict.fromkeys(waiting, "processes of other environments end again and again")
            for row, message in messages.items():
                results[row] = message
            if progress is not None:
                progress(len(messages))
            begin_again(envs)
            if isinstance(actor, Seekable):
                actor.seek(first)
    return [result for result in results if result is not None]


def _play(
    actor: Actor,
    envs: VectorEnv,
    starts: Starts,
    first: int,
    results: list[Episode | str | None],
    progress: Callable[[int], None] | None,
) -> Generator[None, None, None]:
    """Play the episodes of a wave that have no result yet, each in its row, and fill in their results."""
    mode = autoreset_mode(envs)
    observation_space = supported(envs.single_observation_space, "observation")
    action_space = supported(envs.single_action_space, "action")
    # rows that nobody plays rest from the start
    is_played = np.array([*(result is None for result in results), *[False] * (envs.num_envs - len(results))])
    running = np.flatnonzero(is_played)
    raw, infos = starts.reset(envs, first, is_played[: len(results)])
    observations, is_broken = _seen(raw, infos, observation_space, envs.num_envs)
    actor.reset(len(results))
    if len(running) < len(results):
        actor.keep(running)
    takes_info = len(inspect.signature(actor.act).parameters) > 2
    actions, successes = idle_actions(action_space, envs.num_envs), np.full(envs.num_envs, -1, np.int8)
    rewards: np.ndarray | None = None
    terminated = np.zeros(envs.num_envs, bool)
    truncated = ~is_played
    history: list[dict[str, np.ndarray]] = []  # of each timestep what every row saw, did and was paid, by leaf
    while True:
        stops.check()
        # look at what ended: an episode, or the message of its failure
        add_successes(successes, infos)
        is_end = terminated | truncated
        messages = {row: _message(infos, rewards, is_broken, row) for row in running.tolist()}
        for row, message in messages.items():
            if message:
                results[row] = message
            elif is_end[row]:
                final = {name: values[row] for name, values in observations.items()}
                if mode is AutoresetMode.SAME_STEP:
                    final = _final_observation(infos, row, observation_space)
                results[row] = _episode(history, row, final, terminated[row], truncated[row], successes[row])
        goes_on = np.array([not message and not is_end[row] for row, message in messages.items()])
        if progress is not None and not goes_on.all():
            progress(int((~goes_on).sum()))
        if not goes_on.any():
            return
        # rows that ended leave the batch, and their environments rest
        if not goes_on.all():
            actor.keep(np.flatnonzero(goes_on))
            running = running[goes_on]
        if mode is AutoresetMode.DISABLED and is_end.any():
            parks = {PARK: True} if envs.metadata.get(PARK) else {}
            reset_in_time(envs, None, {"reset_mask": is_end.copy(), **parks})
        # let the actor act in the others
        shown = join(observation_space, {name: values[running] for name, values in observations.items()}, "observation")
        paid = None if rewards is None else rewards[running]
        info = choices_of(infos, running, action_space) if takes_info else None
        chosen = actor.act(shown, paid) if info is None else actor.act(shown, paid, info)
        actions = {name: values.copy() for name, values in actions.items()}
        for name, values in checked_actions(chosen, len(running), action_space).items():
            actions[name][running] = values
        # step, and remember what it saw, did and was paid
        raw, paid, terminated, truncated, infos = yield from step_in_time(envs, join(action_space, actions, "action"))
        rewards = np.array(paid, dtype=np.float32).reshape(envs.num_envs)
        history.append({**observations, **actions, "reward": rewards})
        observations, is_broken = _seen(raw, infos, observation_space, envs.num_envs)


def autoreset_mode(envs: VectorEnv) -> AutoresetMode:
    """Return how a batch resets environments whose episode has ended.

    Raises:
        UsageError: it does not say so.
    """
    if "autoreset_mode" not in envs.metadata:
        modes = ", ".join(mode.value for mode in AutoresetMode)
        raise UsageError(
            f"the vector environment does not say how it resets: set metadata['autoreset_mode'] to one of {modes}"
        )
    return AutoresetMode(envs.metadata["autoreset_mode"])


def _seen(raw: Batch, infos: dict, space: gymnasium.Space, num_envs: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return copies of a batch of observations by leaf, each beside its mask, and which rows are not finite.

    The masks are those of `Guarded`, which puts zeros where a value may be missing: NaN and None are wrong here.
    """
    # A copy: vector environments may write the next observation into the same memory.
    seen = {name: values.copy() for name, values in split(space, raw, "observation").items()}
    is_broken = np.zeros(num_envs, dtype=bool)
    for name, leaf in leaves(space, "observation").items():
        unknown = seen.pop(MISSING + name, None)
        if unknown is not None:
            is_broken |= unknown.reshape(num_envs, -1).any(axis=1)
        if seen[name].dtype.kind == "f":
            is_broken |= ~np.isfinite(seen[name].reshape(num_envs, -1)).all(axis=1)
        shape = (num_envs, *shape_of_missing(leaf))
        seen[MISSING + name] = np.asarray(infos.get(UNKNOWN + name, np.zeros(shape, bool)))
    return seen, is_broken


def _message(infos: dict, rewards: np.ndarray | None, is_broken: np.ndarray, row: int) -> str:
    """Return why a row's episode failed, or nothing; a batch that resets at once has it among the final infos."""
    for known in (infos, infos.get("final_info", {})):
        if FAILURE in known and known["_" + FAILURE][row]:
            return str(known[FAILURE][row])
    if rewards is not None and not np.isfinite(rewards[row]):
        return f"reward is {rewards[row]}"
    return "an observation is not finite" if is_broken[row] else ""


def _final_observation(infos: dict, row: int, space: gymnasium.Space) -> dict[str, np.ndarray]:
    """Return the last observation of an episode by leaf, where the batch shows the next one's first already."""
    masks = {key: values[[row]] for key, values in infos["final_info"].items() if key.startswith(UNKNOWN)}
    final, _ = _seen(stack([infos["final_obs"][row]]), masks, space, 1)
    return {name: values[0] for name, values in final.items()}


def _episode(history: list[dict], row: int, final: dict, terminated: bool, truncated: bool, success: int) -> Episode:
    # an array of objects stays one: NumPy's own texts lose zero characters at their end
    kinds = {name: object if values.dtype == object else None for name, values in history[0].items()}
    steps = {name: np.array([step[name][row] for step in history], kind) for name, kind in kinds.items()}
    for name in [name for name in final if name.startswith(MISSING)]:
        if not steps[name].any() and not final[name].any():
            del steps[name], final[name]  # a mask that hides nothing is no part of an episode
    metadata = {} if success < 0 else {"success": bool(success)}
    return Episode(steps, final, terminated, truncated, metadata=metadata)
