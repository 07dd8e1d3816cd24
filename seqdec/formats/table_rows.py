"""The rows of a table as episodes, one at a time, and each as a row of a data set: by leaf, in the types of a spec.

    block of rows   a a a b b | b c c c     an id each: a row is a step
    episodes        a a a  b b   b  c c c   an episode ends where the id changes, and no id comes back
    step            0 2 1  0 1   2  2 1 0   its steps are read in the order of a column, where there is one

    observation     o0 o1 o2      o0 o1 o2 oT      o0 o1 o2 and
    action          a0 a1 a2      a0 a1 a2 null    a0 a1 a2
    final           o2 again      oT               its last value

Or each row is an episode, and its columns hold lists of one entry a step. The end of an episode is said at its last
step, or beside the final observation.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import gymnasium
import numpy as np
import pyarrow as pa

from seqdec.data.episode import Row, final_name, make_row
from seqdec.errors import DataError
from seqdec.formats.arrays import is_list, is_unknown, joined, leaf_values, per_step, step_values
from seqdec.formats.columns import Roles
from seqdec.formats.infer import kind_word
from seqdec.formats.order import check_order, order_of
from seqdec.formats.table_formats import Block, column_of, place
from seqdec.spaces.leaves import MISSING, shape_of_missing
from seqdec.spaces.space import quote

Fact = str | bool | int | float | None


@dataclass(frozen=True)
class TableEpisode:
    """One episode as the table has it; a column's values are read when they are asked for.

    Attributes:
        file: where it begins.
        row: which row of that file.
        key: its id; None where one row is all of it.
        pieces: its rows, as blocks hold them.
        order: its rows from the first step to the last, where they stand otherwise.

    Example:
        >>> for episode in episodes(blocks, "run"):
        ...     episode.steps("reward").sum()
    """

    file: str
    row: int
    key: object
    pieces: list[pa.RecordBatch]
    order: np.ndarray | None = None

    def __str__(self) -> str:
        """Say where it is."""
        return place(self.file, self.row) if self.key is None else f"{self.file}, episode {quote(self.key)}"

    def steps(self, name: str, *, may_be_one: bool = False) -> np.ndarray:
        """Return a column's values, one a step; in a table of one row an episode, one may stand for all steps."""
        if self.key is not None:
            columns = [column_of(piece, name) for piece in self.pieces]
            starts = np.cumsum([0, *map(len, columns)]).tolist()
            values = joined([step_values(*piece) for piece in zip(columns, itertools.repeat(name), starts)], name)
            return values if self.order is None else values[self.order]
        value = column_of(self.pieces[0], name)
        if is_list(value.type) and value.null_count == 0:
            return step_values(value.flatten(), name)
        if may_be_one:
            return step_values(value, name)[0]
        kind = "null" if value.null_count else quote(value.type)
        hint = "if a row is a step, name the column that says of which episode it is (Columns.episode)"
        expected = f"expected a list with one entry a step; {hint}"
        raise DataError(f"column {quote(name)} holds {kind}, {expected}", option="episode")

    def last(self, name: str) -> np.ndarray:
        """Return a column's last value."""
        starts = np.cumsum([0, *map(len, self.pieces)])
        last_step = int(starts[-1]) - 1
        row = last_step if self.order is None else self.order[-1]
        index = int(np.searchsorted(starts, row, side="right")) - 1
        values = column_of(self.pieces[index], name).slice(int(row - starts[index]), 1)
        return step_values(values, name, last_step)[0]

    def in_order(self, roles: Roles) -> "TableEpisode":
        """Return the episode with its steps in the order that a column says.

        Raises:
            DataError: no order is there, or the lists of one row are not in it.
        """
        for clock in roles.clocks:
            check_order(self._per_step(clock), clock)
        order = None if roles.step is None else order_of(self._per_step(roles.step), roles.step)
        if order is not None and self.key is None:
            raise DataError(
                f"its steps are not in the order of column {quote(roles.step)}: sort its lists", option="step"
            )
        return self if order is None else replace(self, order=order)

    def _per_step(self, name: str) -> list[pa.Array]:
        """Return what a column has of each step; nothing where it has one value of the whole episode."""
        columns = [column_of(piece, name) for piece in self.pieces]
        if self.key is not None:
            return columns
        return [column.flatten() for column in columns if is_list(column.type)]

    def fact(self, name: str) -> Fact:
        """Return the one value that a column has in all rows."""
        facts: list[Fact] = []
        for piece in self.pieces:
            values = column_of(piece, name)
            own = [] if pa.types.is_nested(values.type) else values.unique().to_pylist()
            if not own or not isinstance(own[0], str | bool | int | float | None):
                expected = "expected texts, numbers or truth values"
                raise DataError(f"column {quote(name)} holds {quote(values.type)}: {expected}")
            facts += own
        other = next((fact for fact in facts if fact != facts[0] and (fact == fact or facts[0] == facts[0])), facts[0])
        if other is not facts[0]:
            change = f"changes from {quote(facts[0])} to {quote(other)}"
            raise DataError(f"column {quote(name)} {change}: expected one value an episode")
        return facts[0]

    def kinds(self, name: str) -> set[str]:
        """Return the kinds of a column's values, see `kind_word`."""
        return {kind_word(column_of(piece, name).type) for piece in self.pieces}


def episodes(blocks: Iterable[Block], column: str | None) -> Iterator[TableEpisode]:
    """Yield the episodes of a table's rows, which a column of them tells apart; without one each row is an episode."""
    if column is None:
        for block in blocks:
            for row in range(len(block.rows)):
                yield TableEpisode(block.file, block.first + row, None, [block.rows.slice(row, 1)])
        return
    ends: dict[object, tuple[str, int]] = {}
    current: TableEpisode | None = None
    for block in blocks:
        for key, start, stop in _runs(block, column):
            if current is not None and key != current.key:
                yield current
                current = None
            if current is None:
                if key in ends:
                    raise DataError(
                        f"{place(block.file, block.first + start)}: episode {quote(key)} comes back, it ended at "
                        f"{place(*ends[key])}: sort the table by episode, or give each an id of its own"
                    )
                current = TableEpisode(block.file, block.first + start, key, [])
            current.pieces.append(block.rows.slice(start, stop - start))
            ends[key] = (block.file, block.first + stop - 1)
    if current is not None:
        yield current


def _runs(block: Block, column: str) -> Iterator[tuple[object, int, int]]:
    """Yield each id with the first row that has it and the row after the last."""
    ids = column_of(block.rows, column)
    if ids.null_count or (pa.types.is_floating(ids.type) and np.isnan(ids.to_numpy(zero_copy_only=False)).any()):
        row = ids.is_null(nan_is_null=True).to_pylist().index(True)
        raise DataError(f"{place(block.file, block.first + row)}: column {quote(column)} is null, expected an episode")
    if pa.types.is_nested(ids.type):
        raise DataError(f"{block.file}: column {quote(column)} holds {quote(ids.type)}, expected one id a step")
    keys = np.array(ids.to_pylist(), dtype=object)
    starts = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist()]
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        if stop > start:
            yield keys[start], start, stop


def row_of(
    episode: TableEpisode, roles: Roles, spaces: Mapping[str, gymnasium.Space], metadata: Mapping[str, Fact]
) -> Row:
    """Return an episode as a row, its arrays as the spaces of the leaves have them.

    Raises:
        DataError: its parts do not fit together, or not into the spaces.
    """
    observed = {leaf: vector(episode.steps, column) for leaf, column in roles.observation.items()}
    acted = {leaf: vector(episode.steps, column) for leaf, column in roles.action.items()}
    num_observed, num_acted = _num_steps(observed), _num_steps(acted)
    has_no_last_action = all(len(values) and is_unknown(values[-1:].reshape(-1)) for values in acted.values())
    num_steps = num_acted - int(has_no_last_action and num_observed == num_acted and not roles.final)
    if num_steps < 1:
        raise DataError("it has no steps: give each episode at least one")
    if num_observed not in (num_steps, num_steps + (not roles.final)):
        more = "" if roles.final else ", or one more for the final observation"
        raise DataError(f"observation has {num_observed} steps, action has {num_steps}: expected as many{more}")
    steps: dict[str, np.ndarray] = {}
    for leaf in roles.observation:
        steps |= _observation(episode, roles, leaf, spaces[leaf], observed[leaf], num_steps)
    for leaf, values in acted.items():
        steps |= leaf_values(values[:num_steps], spaces[leaf], leaf)
    steps["reward"] = np.zeros(num_steps, np.float32)
    if roles.reward is not None:
        steps["reward"] = _rewards(episode.steps(roles.reward), num_steps, num_observed)
    terminated, truncated = _ends(episode, roles, num_steps)
    text = None if roles.text is None else episode.fact(roles.text)
    if not isinstance(text, str | None):
        raise DataError(f"column {quote(roles.text)} holds {quote(text)}, expected a text")
    return make_row(steps, terminated=terminated, truncated=truncated, text=text or "", metadata=metadata)


def vector(read: Callable[[str], np.ndarray], column: str | tuple[str, ...]) -> np.ndarray:
    """Return the values of a leaf: one column's, or several columns side by side."""
    if isinstance(column, str):
        return read(column)
    parts = []
    for name in column:
        values = read(name)
        if values.dtype == object or values.ndim > 2:
            kind = "texts" if values.dtype == object else f"shape {list(values.shape[1:])}"
            raise DataError(f"column {quote(name)} holds {kind}: only numbers go side by side with others")
        parts.append(values.reshape(len(values), -1))
    counts = {len(part) for part in parts}
    if len(counts) > 1:
        raise DataError(f"columns {quote(', '.join(column))} have {sorted(counts)} steps: expected one number")
    return np.concatenate(parts, axis=1)


def _num_steps(arrays: Mapping[str, np.ndarray]) -> int:
    first, *others = arrays.items()
    for name, values in others:
        if len(values) != len(first[1]):
            raise DataError(f"{name} has {len(values)} steps, {first[0]} has {len(first[1])}: expected as many")
    return len(first[1])


def _observation(
    episode: TableEpisode, roles: Roles, name: str, leaf: gymnasium.Space, values: np.ndarray, num_steps: int
) -> dict[str, np.ndarray]:
    """Return the values of one leaf of the observation and their mask, the final one last: [T + 1, ...]."""
    if len(values) == num_steps:
        final = _final(episode, roles, name) if roles.final else values[-1:]
        values = joined([values, final], final_name(name) if roles.final else name)
    steps = leaf_values(values, leaf, name)
    if roles.missing.get(name) is None:
        return steps
    unknown = steps.get(MISSING + name)
    if unknown is None:
        unknown = np.zeros((len(values), *shape_of_missing(leaf)), bool)
    mask = _mask(episode, roles, name, unknown)
    wrong = np.flatnonzero((unknown & ~mask).reshape(len(mask), -1).any(axis=1))
    if len(wrong):
        column = quote(roles.missing[name])
        raise DataError(f"{name} is null or nan at step {wrong[0]}, column {column} calls it known")
    known = steps[name].copy()
    known[mask] = "" if known.dtype == object else 0
    return {name: known, MISSING + name: mask}


def _mask(episode: TableEpisode, roles: Roles, name: str, unknown: np.ndarray) -> np.ndarray:
    """Return where a column marks a leaf as missing, in the shape of `unknown`, which holds null and NaN."""
    column, final_column = str(roles.missing[name]), roles.missing.get(final_name(name))
    mask = _truths(episode.steps(column), column)
    if len(mask) == len(unknown):
        return _spread(mask, unknown)
    if final_column:
        final = _truths(episode.last(final_column), final_column)[None]
    else:
        final = unknown[-1:] if roles.final else mask[-1:]
    return np.concatenate([_spread(mask, unknown[:-1]), _spread(final, unknown[-1:])])


def _spread(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return a mask in the shape of another: one value may stand for all entries of a vector."""
    if mask.size == like.size:
        return mask.reshape(like.shape)
    if mask.shape != like.shape[:1]:
        shapes = f"{list(mask.shape)}, expected {list(like.shape)} or {list(like.shape[:1])}"
        raise DataError(f"the mask of missing values has shape {shapes}")
    return np.broadcast_to(mask.reshape(-1, *[1] * (like.ndim - 1)), like.shape)


def _final(episode: TableEpisode, roles: Roles, leaf: str) -> np.ndarray:
    """Return the final observation of a leaf: [1, ...]; of a list with one entry a step, the last."""
    seen, column = roles.observation[leaf], roles.final[final_name(leaf)]
    names = [column] if isinstance(column, str) else column
    if isinstance(column, str):
        num_axes = [vector(episode.steps, seen).ndim - 1]
    else:
        num_axes = [episode.steps(name).ndim - 1 for name in seen] if len(seen) == len(column) else [0] * len(column)
    values = {}
    for name, num in zip(names, num_axes, strict=True):
        value = episode.last(name)
        values[name] = (value[-1] if value.ndim > num else value)[None]
    return vector(values.__getitem__, column)


def _truths(values: np.ndarray, name: str) -> np.ndarray:
    """Return truth values, null ones as false."""
    values = np.nan_to_num(values) if values.dtype.kind == "f" else values
    if values.dtype == object or not np.isin(values, (0, 1)).all():
        raise DataError(f"column {quote(name)} holds something else than true and false")
    return values.astype(bool)


def _rewards(values: np.ndarray, num_steps: int, num_observed: int) -> np.ndarray:
    values = per_step(values, "rewards")
    if len(values) == num_steps + 1 == num_observed:
        if values[-1] != 0 and not np.isnan(values[-1]):
            advice = "which has no action: put it beside the action that earned it"
            raise DataError(f"reward is {values[-1]:g} beside the final observation, {advice}")
        values = values[:-1]
    return values


def _ends(episode: TableEpisode, roles: Roles, num_steps: int) -> tuple[bool, bool]:
    terminated, truncated = (
        None if column is None else _flag(episode.steps(column, may_be_one=True), column, num_steps)
        for column in (roles.terminated, roles.truncated)
    )
    if terminated is None and truncated is None:
        return False, True
    if terminated is None or truncated is None:
        return (not truncated, bool(truncated)) if terminated is None else (terminated, not terminated)
    if not terminated and not truncated:
        advice = f"where the record was cut, leave out the column {quote(roles.truncated)}"
        raise DataError(f"it is neither terminated nor truncated at its last step: {advice}")
    return terminated, truncated


def _flag(values: np.ndarray, name: str, num_steps: int) -> bool:
    """Return a flag of the last step; beside a final observation it counts too."""
    values = _truths(values, name)
    if values.ndim == 0:
        return bool(values)
    values = values.reshape(len(values), -1)[:, 0]
    if len(values) not in (num_steps, num_steps + 1):
        raise DataError(f"column {quote(name)} has {len(values)} steps, action has {num_steps}: expected as many")
    early = np.flatnonzero(values[: num_steps - 1])
    if len(early):
        raise DataError(f"column {quote(name)} is true at step {early[0]}, and it goes on to step {num_steps - 1}")
    return bool(values.any())
