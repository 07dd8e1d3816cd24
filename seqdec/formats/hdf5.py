"""Arrays of steps: HDF5 as D4RL and robomimic have them, npz as OGBench has them.

    observations [N, ...]  actions [N, ...]  rewards [N]  terminals [N]    timeouts [N], next_observations [N, ...]
                                                                           may be there; all else is not looked at
    observations [N, ...]  actions [N, ...]  timeouts [N] or terminals     demonstrations: their rewards are 0
    data/demo_0/: obs/* [T, ...]  actions [T, ...]  rewards, dones [T]     robomimic; next_obs/* may be there
    npz without rewards or timeouts                                        OGBench: terminals mark what is seen last

An episode of a flat file ends where `terminals` is set (terminated) or `timeouts` is (truncated, which is no end of the
task); both may be. What is left after the last end is an episode that was truncated. The row after an end is the next
episode's first, so what was seen after an episode's last step is known from `next_observations` alone. Without that
array the last observation is given once more as `final`: the step itself is kept, for its reward may be the whole of
the return. Of an array that is named, as "infos/goal" beside the observation, the next one is called next_ likewise.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from seqdec.data.episode import Row, make_row
from seqdec.data.source import Attempt, Source, file_identity, source_of_attempts
from seqdec.errors import DataError, UsageError, suggest, suggest_beside
from seqdec.formats import array_files
from seqdec.formats.array_files import Array, ArrayFile, Group, Window, opened_arrays
from seqdec.formats.array_spaces import check_fits, inferred
from seqdec.formats.arrays import NO_REWARDS, steps_of
from seqdec.formats.columns import Columns, Names, Roles, check_leaves, completed, flat, roles_of
from seqdec.formats.guard import at, attempt, reading, refuse_pickle, words_of
from seqdec.formats.table_rows import vector
from seqdec.spaces.space import quote
from seqdec.spaces.spec import EnvironmentSpec

_OWN = {"observation": "observations", "action": "actions", "reward": "rewards", "terminated": "terminals"}
_NEXT = "next_"
logger = logging.getLogger(__name__)
_Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class _Plan:
    """Which arrays are what; `finals` are those of what was seen after a step, by what was seen before it."""

    path: Path
    roles: Roles
    finals: Mapping[str, str]
    last_is_final: bool

    @property
    def names(self) -> list[str]:
        """Return the arrays that are read, those that are observed first."""
        ends = [self.roles.reward, self.roles.terminated, self.roles.truncated]
        names = [*flat(self.roles.observation), *flat(self.roles.action), *ends, *self.finals.values()]
        return [name for name in dict.fromkeys(names) if name is not None]


def source(
    path: Path | str,
    spec: EnvironmentSpec | None = None,
    *,
    max_episode_steps: int | None = None,
    discrete: Sequence[str] = (),
    columns: Columns | None = None,
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
        columns: which arrays are the observation, final, action, reward, terminated and truncated, where it is not
            those above: `Columns(observation={"observation.state": "observations", "observation.goal": "infos/goal"})`.

    Raises:
        UsageError: there is no such file or array, or `discrete` is given beside `spec`.
        DataError: it is no HDF5 or npz file, holds other arrays, or does not fit `spec`.
    """
    path = Path(path)
    if max_episode_steps is not None and max_episode_steps < 1:
        raise UsageError(f"max_episode_steps is {max_episode_steps}: expected 1 or more")
    if not path.is_file():
        raise UsageError(f"no file {quote(path)}{suggest_beside(path)}")
    refuse_pickle(path)
    if spec is not None and discrete:
        raise UsageError("the environment says which actions are choices: leave discrete out", option="discrete")
    with _opened(path) as file:
        plan = _plan_of(path, file, columns)
        check_leaves(discrete, [*plan.roles.action], "the actions")
        groups = _sound_groups(plan, file)
        if spec is None:
            spec = inferred(groups, plan.roles, discrete, str(path))
        check_fits(groups, plan.roles, plan.finals, spec)
        if max_episode_steps is not None:
            spec = replace(spec, max_episode_steps=max_episode_steps)
        limit = None if plan.roles.truncated else spec.max_episode_steps
        if plan.roles.reward is None:
            logger.warning(NO_REWARDS, path)
        num_episodes = len(file.groups) if file.has_demos else sum(1 for _ in _spans(groups[0], plan, limit))
        if num_episodes == 1 and limit is None and plan.roles.truncated is None and not file.has_demos:
            logger.warning("%s is a single episode: give max_episode_steps if a time limit ended episodes", path)
    identity = {"kind": "hdf5", "name": str(path.resolve()), "spec": spec.to_json(), "files": file_identity([path])}
    if columns is not None:
        identity["columns"] = json.loads(json.dumps(asdict(columns)))
    return source_of_attempts(spec, partial(_attempts, plan, spec, limit), identity, num_episodes)


@contextmanager
def _opened(path: Path) -> Iterator[ArrayFile]:
    with opened_arrays(path) as file, at(path):
        yield file


def _plan_of(path: Path, file: ArrayFile, columns: Columns | None) -> _Plan:
    """Say which arrays are what.

    Raises:
        UsageError: an array that is named is not there.
        DataError: one is not there that such a file has.
    """
    names = file.groups[0].names
    said = [role for role in (*_OWN, "truncated", "final") if columns is not None and getattr(columns, role) != ""]
    own = _own_of_demos(names, said) if file.has_demos else _own_of_flat(names, said)
    last_is_final = file.is_npz and own["reward"] is own["truncated"] is None and not {"reward", "truncated"} & {*said}
    roles = roles_of(completed(columns, own, "HDF5 and npz"), names, str(path), own)
    seen = flat(roles.observation)
    finals = {} if "final" in said or last_is_final else {name: _NEXT + name for name in seen if _NEXT + name in names}
    if roles.final:
        after = flat(roles.final)
        if len(after) != len(seen):
            raise UsageError(f"final names {len(after)} arrays, observation {len(seen)}: name as many", option="final")
        finals = dict(zip(seen, after, strict=True))
    return _Plan(path, roles, finals, last_is_final)


def _own_of_demos(names: Sequence[str], said: Sequence[str]) -> dict[str, Names | None]:
    seen = {f"observation.{name.removeprefix('obs/').replace('/', '.')}": name
            for name in names if name.startswith("obs/")}  # fmt: skip
    if not seen and "observation" not in said:
        advice = "name arrays (Columns.observation)"
        raise DataError(
            f"its demonstrations have no obs: {advice}; they have {words_of([*names])}", option="observation"
        )
    optional = {
        role: name if name in names else None for role, name in (("reward", "rewards"), ("terminated", "dones"))
    }
    return {"observation": seen, "action": "actions", **optional, "truncated": None, "final": None}


def _own_of_flat(names: Sequence[str], said: Sequence[str]) -> dict[str, Names | None]:
    """Return what D4RL calls the arrays; rewards that are not there, nor called nearly so, are nothing's lack."""
    tops = [*dict.fromkeys(name.split("/")[0] for name in names)]
    short = [name for name in tops if len(name) < 100]
    own: dict[str, Names | None] = {**_OWN, "truncated": "timeouts" if "timeouts" in names else None, "final": None}
    optional = set(said)
    if "rewards" not in tops and not suggest("rewards", short):
        optional |= {"reward", "terminated"} if "timeouts" in names else {"reward"}
    if "truncated" in said:
        optional.add("terminated")
    for role, name in _OWN.items():
        if name in tops:
            continue
        if role not in optional and any(name.startswith("episode_") for name in tops):
            hint = "give the folder of the Minari data set"
            raise DataError(f"it has groups of episodes, as Minari's main_data.hdf5: {hint}")
        if role not in optional:
            advice = f"name the one that it is (Columns.{role})"
            lacks = f"it has no array {name!r}{suggest(name, short)}; it has {words_of(tops)}"
            raise DataError(f"{lacks}: {advice}", option=role)
        own[role] = None
    return own


def _sound_groups(plan: _Plan, file: ArrayFile) -> Sequence[_Arrays]:
    """Return the arrays of the groups in which they fit together; those of a flat file must."""
    if not file.has_demos:
        return [_arrays_of(file.groups[0], plan)]
    arrays = [attempt(partial(_arrays_of, group, plan), group.place) for group in file.groups]
    sound = [group for group in arrays if not isinstance(group, DataError)]
    if not sound:
        raise next(group for group in arrays if isinstance(group, DataError))
    return sound


def _arrays_of(group: Group, plan: _Plan) -> dict[str, Array]:
    """Return the arrays of a group that are read, which have all the same number of rows."""
    arrays = {name: group.array(name) for name in plan.names}
    num_rows = {name: data.shape[0] if data.shape else 0 for name, data in arrays.items()}
    first = plan.names[0]
    for name, data in arrays.items():
        if num_rows[name] != num_rows[first]:
            raise DataError(f"{name} has {num_rows[name]} rows, {first} has {num_rows[first]}: expected as many")
        if data.dtype.kind not in "biuf":
            raise DataError(f"{name} has type {quote(data.dtype)}, expected numbers")
        is_one = name in (plan.roles.reward, plan.roles.terminated, plan.roles.truncated)
        if is_one and data.shape[1:] not in ((), (1,)):
            raise DataError(f"{name} have shape {list(data.shape[1:])}, expected one number per step")
    if not num_rows[first]:
        raise DataError("it has no steps: its arrays have 0 rows; fetch or record the data again")
    return arrays


_Span = tuple[int, int, bool, bool]


def _attempts(plan: _Plan, spec: EnvironmentSpec, limit: int | None) -> Iterator[Attempt]:
    with _opened(plan.path) as file:
        if file.has_demos:
            for group in file.groups:
                yield attempt(partial(_demo, group, plan, spec), f"{plan.path}: {group.place}")
            return
        arrays = _arrays_of(file.groups[0], plan)
        windows = {name: Window(data) for name, data in arrays.items()}
        for index, span in enumerate(_spans(arrays, plan, limit)):
            yield attempt(partial(_row, windows, span, plan, spec), f"{plan.path}: episode {index}")


def _demo(group: Group, plan: _Plan, spec: EnvironmentSpec) -> Row:
    """Return a demonstration; it is terminated where its last step says so, and goes on whatever steps before say."""
    with reading(plan.path):
        arrays, done = _arrays_of(group, plan), False
        num_steps = arrays[plan.names[0]].shape[0]
        if plan.roles.terminated is not None:
            done = bool(_flags(arrays, plan.roles.terminated, 0, num_steps)[-1])
        is_cut = plan.roles.truncated is not None and bool(_flags(arrays, plan.roles.truncated, 0, num_steps)[-1])
        windows = {name: Window(data) for name, data in arrays.items()}
        return _row(windows, (0, num_steps, done, is_cut or not done), plan, spec, group.place)


def _row(windows: Mapping[str, Window], span: _Span, plan: _Plan, spec: EnvironmentSpec, demo: str = "") -> Row:
    start, stop, terminated, truncated = span
    stop -= plan.last_is_final

    def acted(name: str) -> np.ndarray:
        return windows[name].rows(start, stop)

    def seen(name: str) -> np.ndarray:
        steps = windows[name].rows(start, stop + plan.last_is_final)
        if plan.last_is_final:
            return steps
        after = windows[plan.finals[name]].rows(stop - 1, stop) if name in plan.finals else steps[-1:]
        return np.concatenate([steps, after])

    with reading(plan.path):
        if stop == start:
            raise DataError("it has no steps: what is seen last is all of it")
        episode = {leaf: vector(seen, column) for leaf, column in plan.roles.observation.items()}
        episode |= {leaf: vector(acted, column) for leaf, column in plan.roles.action.items()}
        episode["reward"] = np.zeros(stop - start) if plan.roles.reward is None else acted(plan.roles.reward)
        metadata = {"demo": demo.rpartition("/")[2]} if demo else None
        return make_row(steps_of(episode, spec), terminated=terminated, truncated=truncated, metadata=metadata)


def _spans(arrays: _Arrays, plan: _Plan, limit: int | None) -> Iterator[_Span]:
    """Yield the first row of each episode, the one after its last, and whether it was terminated and truncated."""
    start, num_rows = 0, arrays[plan.names[0]].shape[0]
    ends = (plan.roles.terminated, plan.roles.truncated)
    for first in range(0, num_rows, array_files.BLOCK_ROWS):
        last = min(first + array_files.BLOCK_ROWS, num_rows)
        terminals, timeouts = (_flags(arrays, name, first, last) for name in ends)
        for row in np.flatnonzero(terminals | timeouts).tolist():
            # OGBench's episodes are all cut: nothing ends them but their length
            flags = (False, True) if plan.last_is_final else (bool(terminals[row]), bool(timeouts[row]))
            yield from _cut(start, first + row + 1, limit, *flags)
            start = first + row + 1
    if start < num_rows:
        yield from _cut(start, num_rows, limit, False, True)


def _cut(start: int, stop: int, limit: int | None, terminated: bool, truncated: bool) -> Iterator[_Span]:
    while limit is not None and stop - start > limit:
        yield start, start + limit, False, True
        start += limit
    yield start, stop, terminated, truncated


def _flags(arrays: _Arrays, name: str | None, first: int, last: int) -> np.ndarray:
    if name is None:
        return np.zeros(last - first, bool)
    flags = arrays[name][first:last].reshape(-1)
    wrong = np.flatnonzero((flags != 0) & (flags != 1))
    if len(wrong):
        raise DataError(f"{name} is {flags[wrong[0]]:g} in row {first + wrong[0]}: expected 0 or 1")
    return flags != 0
