"""A recording into a folder: kept in parts as it is played, so that one that was cut off goes on where it stopped.

    data/.recording-mine/   request.json  part-000000/  part-000064/ ...   ->   data/mine/

Each part is a published data set, named by its first episode. The folder itself appears whole or not at all.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from seqdec import storage
from seqdec.data.arrow import write_joined, write_rows
from seqdec.data.dataset import open_folder
from seqdec.data.episode import Episode
from seqdec.data.schema import environment_of, lengths
from seqdec.errors import DataError, UsageError
from seqdec.play.actors import Actor, Seekable
from seqdec.spaces.space import is_int, quote
from seqdec.spaces.spec import EnvironmentSpec

# What a killed recording loses at most.
PART_SECONDS = 30.0
PART_BYTES = 64 * 2**20
logger = logging.getLogger(__name__)


def record_parts(
    folder: Path,
    spec: EnvironmentSpec,
    request: Mapping[str, object],
    actor: Actor,
    play: Callable[[Sequence[int]], Iterator[list[Episode]]],
    *,
    num_episodes: int,
    num_timesteps: int,
) -> Dataset:
    """Record into a folder, continuing after the episodes that a recording of the same request left.

    Args:
        folder: where the data set will stand.
        spec: the environment that is played.
        request: what the episodes depend on, as JSON.
        actor: chooses the actions.
        play: `play(lengths)` continues after the episodes of these lengths; each list it yields is kept or lost as a
            whole.
        num_episodes: how many are kept at most, even if more were played before.
        num_timesteps: the episodes behind the one that reaches so many are not kept.

    Raises:
        UsageError: a recording of another request is in the way, or the actor cannot go on.
    """
    working = folder.with_name(f".recording-{folder.name}")
    with storage.lock_folder(working):
        for sentence in [*storage.recover(folder.parent), *storage.recover(working)]:
            logger.info("%s", sentence)
        _check_request(working, request)
        kept = np.concatenate([np.zeros(0, np.int64), *map(lengths, _open_parts(working))])
        if len(kept) and not isinstance(actor, Seekable):
            raise UsageError(
                f"{working} holds {len(kept)} episodes, but {type(actor).__name__} has no method seek(episode) to go "
                "on behind them: give it one, or remove that folder to begin again"
            )
        if len(kept):
            logger.info("going on after %d episodes", len(kept))
        _write_parts(working, spec, len(kept), play(kept.tolist()))
        parts = _open_parts(working)
        ends = np.cumsum(np.concatenate([lengths(part) for part in parts]))
        with storage.publish(folder) as target:
            write_joined(parts, target, num_episodes=min(num_episodes, int(np.searchsorted(ends, num_timesteps)) + 1))
        storage.retire(working)
    return open_folder(folder)


def _check_request(working: Path, request: Mapping[str, object]) -> None:
    """Write down what is recorded, or compare it with what was begun here."""
    path = working / "request.json"
    if not path.exists():
        storage.write_json(path, request)
        return
    difference = storage.difference(storage.read_json(path), request)
    if difference is not None:
        name, *values = difference
        there, here = ("not given" if value is None else value if is_int(value) else quote(value) for value in values)
        raise UsageError(
            f"another recording was begun in {working} ({name}: {there} there, {here} here): finish it by its own "
            "command, remove that folder, or record into another one"
        )


def _open_parts(working: Path) -> list[Dataset]:
    parts: list[Dataset] = []
    for folder in storage.published(working, "part-"):
        storage.verify(folder)
        if folder.name != f"part-{sum(map(len, parts)):06d}":
            raise DataError(f"a part before {folder} is missing: remove {working} to begin again")
        parts.append(open_folder(folder))
    return parts


def _write_parts(working: Path, spec: EnvironmentSpec, num_kept: int, waves: Iterator[list[Episode]]) -> None:
    """Write episodes as they come; whatever stops them, those that are whole are kept."""
    waiting: list[Episode] = []
    num_bytes, started, is_done = 0, time.monotonic(), False
    try:
        for wave in waves:
            waiting += wave
            num_bytes += sum(values.nbytes for episode in wave for values in episode.steps.values())
            if num_bytes >= PART_BYTES or time.monotonic() - started >= PART_SECONDS:
                part, waiting = waiting, []
                _write_part(working, spec, num_kept, part)
                num_kept, num_bytes, started = num_kept + len(part), 0, time.monotonic()
        is_done = True
    finally:
        if waiting:
            _write_part(working, spec, num_kept, waiting)
        if num_kept + len(waiting) and not is_done:
            logger.info("%d episodes are kept: the same command goes on behind them", num_kept + len(waiting))


def _write_part(working: Path, spec: EnvironmentSpec, first: int, episodes: Sequence[Episode]) -> None:
    earlier = next(iter(storage.published(working, "part-")), None)
    spec = spec if earlier is None else environment_of(open_folder(earlier))
    try:
        with storage.publish(working / f"part-{first:06d}") as target:
            write_rows(map(Episode.to_row, episodes), spec, target, is_first=earlier is None)
    except DataError as error:
        raise DataError(f"among the episodes from number {first} on, {error}") from error
