"""Flat HDF5 files, as D4RL has them: the steps of all episodes one after the other.

    observations [N, ...]  actions [N, ...]  rewards [N]  terminals [N]    timeouts [N], next_observations [N, ...]
                                                                           may be there; all else is not looked at
    observations [N, ...]  actions [N, ...]  timeouts [N] or terminals     demonstrations: their rewards are 0

An episode ends where `terminals` is set (terminated) or `timeouts` is (truncated, which is no end of the task); both
may be. What is left after the last end is an episode that was truncated. The row after an end is the next episode's
first, so what was seen after an episode's last step is known from `next_observations` alone. Without that array the
last observation is given once more as `final`: the step itself is kept, for its reward may be the whole of the return.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import gymnasium
import h5py
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple

from seqdec.data.episode import Row, make_row
from seqdec.data.source import Source, file_identity
from seqdec.errors import DataError, UsageError, suggest, suggest_beside
from seqdec.formats.arrays import NO_REWARDS, steps_of
from seqdec.formats.columns import check_leaves
from seqdec.formats.guard import at, hdf5_array, opened_hdf5, refuse_pickle, words_of
from seqdec.formats.infer import Seen, bounded, choices, images, numbers, whole_choices
from seqdec.spaces.leaves import leaf_kind
from seqdec.spaces.space import MAX_ENTRIES, describe_space, quote
from seqdec.spaces.spec import EnvironmentSpec

BLOCK_ROWS = 65536
BLOCK_BYTES = 2**26
_REQUIRED = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations")
_ONE_PER_STEP = ("rewards", "terminals", "timeouts")
logger = logging.getLogger(__name__)
_Arrays = Mapping[str, h5py.Dataset]


def source(
    path: Path | str,
    spec: EnvironmentSpec | None = None,
    *,
    max_episode_steps: int | None = None,
    discrete: Sequence[str] = (),
) -> Source:
    """Return the episodes of a file, yet to be read; the ends and, without a spec, the actions are gone through once.

    Args:
        path: the file.
        spec: the environment that the file was recorded in. Without it observations are a Box without bounds, or of
            0 to 255 if they are images; actions are Discrete if they are whole numbers, else a Box of [-1, 1] if all
            of them are inside, or without bounds.
        max_episode_steps: the environment's time limit, if `spec` does not name it. Only where the file has no
            `timeouts` are episodes cut by it, as truncated.
        discrete: ["action"] where the actions are choices though they are kept as floats (0.0, 1.0, 2.0).

    Raises:
        UsageError: there is no such file, or `discrete` is given beside `spec`.
        DataError: it is no HDF5 file, holds other arrays, or does not fit `spec`.
    """
    path = Path(path)
    if max_episode_steps is not None and max_episode_steps < 1:
        raise UsageError(f"max_episode_steps is {max_episode_steps}: expected 1 or more")
    if not path.is_file():
        raise UsageError(f"no file {quote(path)}{suggest_beside(path)}")
    refuse_pickle(path)
    check_leaves(discrete, ["action"], "the actions")
    if spec is not None and discrete:
        raise UsageError("the environment says which actions are choices: leave discrete out", option="discrete")
    with _opened(path) as arrays:
        if spec is None:
            spec = _inferred(arrays, is_discrete=bool(discrete))
        _check_fits(arrays, spec)
        if max_episode_steps is not None:
            spec = replace(spec, max_episode_steps=max_episode_steps)
        limit = None if "timeouts" in arrays else spec.max_episode_steps
        if "rewards" not in arrays:
            logger.warning(NO_REWARDS, path)
        num_episodes = sum(1 for _ in _spans(arrays, limit))
        if num_episodes == 1 and limit is None and "timeouts" not in arrays:
            logger.warning("%s is a single episode: give max_episode_steps if a time limit ended episodes", path)
    identity = {"kind": "hdf5", "name": str(path.resolve()), "spec": spec.to_json(), "files": file_identity([path])}
    return Source(spec, partial(_rows, path, spec, limit), identity, num_episodes)


def _rows(path: Path, spec: EnvironmentSpec, limit: int | None) -> Iterator[Row]:
    with _opened(path) as arrays:
        windows = {name: _Window(data) for name, data in arrays.items()}
        for start, stop, terminated, truncated in _spans(arrays, limit):
            observations = windows["observations"].rows(start, stop)
            after = windows.get("next_observations")
            final = observations[-1:] if after is None else after.rows(stop - 1, stop)
            episode = {
                "observation": np.concatenate([observations, final]),
                "action": windows["actions"].rows(start, stop),
                "reward": windows["rewards"].rows(start, stop) if "rewards" in windows else np.zeros(stop - start),
            }
            yield make_row(steps_of(episode, spec), terminated=terminated, truncated=truncated)


@contextmanager
def _opened(path: Path) -> Iterator[_Arrays]:
    """Open a file and give its arrays by name, which have all the same number of rows."""
    with opened_hdf5(path) as file, at(path):
        yield _checked(file)


def _checked(file: h5py.File) -> _Arrays:
    names = [str(name) for name in file]
    short = [name for name in names if len(name) < 100]
    is_demo = "rewards" not in names and not suggest("rewards", short)
    optional = ({"rewards", "terminals"} if "timeouts" in names else {"rewards"}) if is_demo else set[str]()
    lacking = next((name for name in _REQUIRED if name not in names and name not in optional), None)
    if lacking is not None and any(name.startswith("episode_") for name in names):
        raise DataError("it has groups of episodes, as Minari's main_data.hdf5: give the folder of the Minari data set")
    if lacking is not None:
        raise DataError(f"it has no array {lacking!r}{suggest(lacking, short)}; it has {words_of(names)}")
    arrays = {name: hdf5_array(file, name) for name in (*_REQUIRED, *_OPTIONAL) if name in names}
    num_rows = {name: len(data) if data.ndim else 0 for name, data in arrays.items()}
    for name, data in arrays.items():
        expected, shape = num_rows["observations"], data.shape[1:]
        if num_rows[name] != expected:
            raise DataError(f"{name} has {num_rows[name]} rows, observations has {expected}: expected as many")
        if data.dtype.kind not in "biuf":
            raise DataError(f"{name} has type {quote(data.dtype)}, expected numbers")
        if name in _ONE_PER_STEP and shape not in ((), (1,)):
            raise DataError(f"{name} have shape {list(shape)}, expected one number per step")
    if not num_rows["observations"]:
        raise DataError("it has no steps: its arrays have 0 rows; fetch or record the data again")
    return arrays


def _spans(arrays: _Arrays, limit: int | None) -> Iterator[tuple[int, int, bool, bool]]:
    """Yield the first row of each episode, the one after its last, and whether it was terminated and truncated."""
    start, num_rows = 0, len(arrays["observations"])
    for first in range(0, num_rows, BLOCK_ROWS):
        terminals, timeouts = (_flags(arrays, name, first) for name in ("terminals", "timeouts"))
        for row in np.flatnonzero(terminals | timeouts).tolist():
            yield from _cut(start, first + row + 1, limit, bool(terminals[row]), bool(timeouts[row]))
            start = first + row + 1
    if start < num_rows:
        yield from _cut(start, num_rows, limit, False, True)


def _cut(
    start: int, stop: int, limit: int | None, terminated: bool, truncated: bool
) -> Iterator[tuple[int, int, bool, bool]]:
    while limit is not None and stop - start > limit:
        yield start, start + limit, False, True
        start += limit
    yield start, stop, terminated, truncated


def _flags(arrays: _Arrays, name: str, first: int) -> np.ndarray:
    if name not in arrays:
        return np.zeros(min(BLOCK_ROWS, len(arrays["observations"]) - first), bool)
    flags = arrays[name][first : first + BLOCK_ROWS].reshape(-1)
    wrong = np.flatnonzero((flags != 0) & (flags != 1))
    if len(wrong):
        raise DataError(f"{name} is {flags[wrong[0]]:g} in row {first + wrong[0]}: expected 0 or 1")
    return flags != 0


class _Window:
    """The rows of an array that are asked for from the first to the last, of which few are in memory at a time."""

    def __init__(self, data: h5py.Dataset) -> None:
        width = data.dtype.itemsize * int(np.prod(data.shape[1:]))
        self._data = data
        self.size = min(BLOCK_ROWS, max(1, BLOCK_BYTES // max(1, width)))
        self._start, self._block = 0, np.zeros((0, *data.shape[1:]), data.dtype)

    def rows(self, start: int, stop: int) -> np.ndarray:
        parts = []
        while start < stop:
            if not self._start <= start < self._start + len(self._block):
                self._start, self._block = start, self._data[start : start + self.size]
            offset = start - self._start
            parts.append(self._block[offset : offset + stop - start])
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _inferred(arrays: _Arrays, *, is_discrete: bool) -> EnvironmentSpec:
    for name in ("observations", "actions"):
        if not 1 <= int(np.prod(arrays[name].shape[1:])) <= MAX_ENTRIES:
            raise DataError(f"{name} have shape {list(arrays[name].shape[1:])}: expected 1 to {MAX_ENTRIES}")
    data = arrays["observations"]
    space_of = images if data.dtype == np.uint8 else numbers
    return EnvironmentSpec(space_of(data.shape[1:]), _action_space(arrays["actions"], is_discrete=is_discrete))


def _action_space(data: h5py.Dataset, *, is_discrete: bool) -> gymnasium.Space:
    seen = _seen(data)
    if is_discrete:
        return whole_choices(seen)
    if data.dtype.kind == "f":
        space = bounded(seen, data.shape[1:])
        if np.isfinite(space.low).all():
            words = "all actions of %s lie in [-1, 1]: these are taken for the bounds of its action space"
            logger.info(words, data.file.filename)
        return space
    least, most = int(seen.low.min()), seen.high.max()
    if least < 0 or most >= MAX_ENTRIES:
        limits = f"from {least} to {most:g}, expected 0 to {MAX_ENTRIES - 1}"
        raise DataError(f"actions are whole numbers {limits}: give the environment of the recording")
    return choices(np.zeros_like(seen.high), seen.high, "action")


def _seen(data: h5py.Dataset) -> Seen:
    """Look at all actions."""
    seen, window = Seen("action"), _Window(data)
    for first in range(0, len(data), window.size):
        seen.add(window.rows(first, min(first + window.size, len(data))), ())
    if seen.high.size == 1:  # [N, 1] is one choice a step
        seen.low, seen.high = seen.low.reshape(()), seen.high.reshape(())
    return seen


def _check_fits(arrays: _Arrays, spec: EnvironmentSpec) -> None:
    seen, acted = ("observation", spec.observation_space), ("action", spec.action_space)
    for name, (role, space) in {"observations": seen, "next_observations": seen, "actions": acted}.items():
        if name in arrays and not _fits(arrays[name], space):
            values = f"{arrays[name].dtype} of shape {list(arrays[name].shape[1:])}"
            expected = f"the {role} space is {describe_space(space)}: give the environment of the recording"
            raise DataError(f"{name} hold {values}, {expected}")


def _fits(data: h5py.Dataset, space: gymnasium.Space) -> bool:
    """Say whether an array can hold values of a space, by shape and kind of number."""
    shape = data.shape[1:]
    if isinstance(space, Box):
        is_image = data.dtype == np.uint8 and len(shape) >= 2
        return shape == space.shape and is_image == (leaf_kind(space) == "image")
    shapes = [(), (1,)] if isinstance(space, Discrete) else [space.shape]
    if isinstance(space, Dict | Tuple | Text) or shape not in shapes:
        return False
    return data.dtype.kind in "biu" or _seen(data).is_whole
