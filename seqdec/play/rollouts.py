"""Let an actor play episodes in a batch of environments, wave after wave, or in several batches that take turns."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from gymnasium.vector import VectorEnv

from seqdec.data.episode import Episode
from seqdec.errors import NumericsError, UsageError
from seqdec.play.actors import Actor, Seekable
from seqdec.play.starts import Options, Starts
from seqdec.play.waves import autoreset_mode, play_wave


@dataclass(frozen=True)
class Failure:
    """An episode that the environment did not finish.

    Example:
        >>> Failure(episode=3, message="step 7: ZeroDivisionError: division by zero").episode
        3
    """

    episode: int
    message: str


def rollout(
    actor: Actor | Sequence[Actor],
    envs: VectorEnv | Sequence[VectorEnv],
    *,
    num_episodes: int,
    seed: int,
    reset_options: Options | Sequence[Options] | None = None,
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
        reset_options: what `reset` is given: one dict for all, or a list, of which episode i has the i-th, and so on.
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
        autoreset_mode(batch)
    results: dict[int, Episode | str] = {}
    for first, played in play_in_turns(actors, batches, Starts(seed, reset_options), num_episodes, progress):
        for number, result in enumerate(played, first):
            if isinstance(result, str) and failures is None:
                raise NumericsError(f"the environment failed in episode {number}: {result}")
            results[number] = result
    in_order = sorted(results.items())
    if failures is not None:
        failures += [Failure(number, result) for number, result in in_order if isinstance(result, str)]
    return [result for _, result in in_order if isinstance(result, Episode)]


def play_in_turns(
    actors: list[Actor],
    batches: list[VectorEnv],
    starts: Starts,
    num_episodes: int,
    progress: Callable[[int], None] | None,
    first: int = 0,
) -> Iterator[tuple[int, list[Episode | str]]]:
    """Play waves, from the episode `first` on, the batches in turns; yield each with its first episode's number.

    A message stands in the place of an episode in which the environment failed.
    """
    playing: dict[int, tuple[int, Generator[None, None, list[Episode | str]]]] = {}
    num_begun, end = first, first + num_episodes
    while num_begun < end or playing:
        for index, (actor, envs) in enumerate(zip(actors, batches, strict=True)):
            if index not in playing and num_begun < end:
                if len(batches) > 1 and isinstance(actor, Seekable):
                    actor.seek(num_begun)
                rows = min(envs.num_envs, end - num_begun)
                playing[index] = num_begun, play_wave(actor, envs, starts, num_begun, rows, progress)
                num_begun += rows
            if index in playing:
                number, wave = playing[index]
                try:
                    next(wave)
                except StopIteration as over:
                    del playing[index]
                    yield number, over.value
