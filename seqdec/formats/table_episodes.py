"""The rows of a table as episodes, one at a time: not yet checked against any space.

    block of rows   a a a b b | b c c c     an id each: a row is a step
    episodes        a a a  b b   b  c c c   an episode ends where the id changes, and no id comes back

Or each row is an episode, and its columns hold lists of one entry a step.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from seqdec.errors import DataError
from seqdec.formats.arrays import is_list, joined, step_values
from seqdec.formats.columns import Roles
from seqdec.formats.infer import kind_word
from seqdec.formats.open_table import Table
from seqdec.formats.table_formats import Block, column_of, place
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

    Example:
        >>> for episode in episodes(table, roles):
        ...     episode.steps("reward").sum()
    """

    file: str
    row: int
    key: object
    pieces: list[pa.RecordBatch]

    def steps(self, name: str, *, may_be_one: bool = False) -> np.ndarray:
        """Return a column's values, one a step; in a table of one row an episode, one may stand for all steps."""
        if self.key is None:
            return self._listed(name, may_be_one)
        values, num_steps = [], 0
        for piece in self.pieces:
            values.append(step_values(column_of(piece, name), name, num_steps))
            num_steps += len(piece)
        return joined(values, name)

    def last(self, name: str) -> np.ndarray:
        """Return a column's last value."""
        values, num_before = column_of(self.pieces[-1], name), sum(map(len, self.pieces[:-1]))
        return step_values(values.slice(len(values) - 1), name, num_before + len(values) - 1)[0]

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

    def _listed(self, name: str, may_be_one: bool) -> np.ndarray:
        value = column_of(self.pieces[0], name)
        if is_list(value.type) and value.null_count == 0:
            return step_values(value.flatten(), name)
        if may_be_one:
            return step_values(value, name)[0]
        if value.null_count:
            raise DataError(f"column {quote(name)} is null, expected a list with one entry a step")
        raise DataError(
            f"column {quote(name)} holds {quote(value.type)}, expected a list with one entry a step; if a row is a "
            "step, name the column that says of which episode it is (Columns.episode)",
            option="episode",
        )


@contextmanager
def naming(episode: TableEpisode) -> Iterator[None]:
    """Say of which episode an error is."""
    try:
        yield
    except DataError as error:
        is_row = episode.key is None
        where = place(episode.file, episode.row) if is_row else f"{episode.file}, episode {quote(episode.key)}"
        raise DataError(f"{where}: {error}", option=error.option) from error


def episodes(table: Table, roles: Roles, names: Sequence[str] | None = None) -> Iterator[TableEpisode]:
    """Yield the episodes of a table with all columns that have a role, or with those among `names`."""
    chosen = names if names is not None else [*roles.of_steps, *roles.of_episodes]
    if roles.episode is None:
        for block in table.read([*dict.fromkeys(chosen)], roles.texts):
            for row in range(len(block.rows)):
                yield TableEpisode(block.file, block.first + row, None, [block.rows.slice(row, 1)])
        return
    ends: dict[object, tuple[str, int]] = {}
    current: TableEpisode | None = None
    for block in table.read([*dict.fromkeys([roles.episode, *chosen])], roles.texts):
        for key, start, stop in _runs(block, roles.episode):
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
