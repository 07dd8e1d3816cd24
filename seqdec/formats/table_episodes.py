"""The rows of a table as episodes, one at a time, by column: not yet checked against any space.

    block of rows   a a a b b | b c c c     an id each: a row is a step
    episodes        a a a  b b   b  c c c   an episode ends where the id changes, and no id comes back

Or each row is an episode, and its columns hold lists of one entry a step.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from seqdec.errors import DataError
from seqdec.formats.arrays import is_list, joined, plain, step_values
from seqdec.formats.columns import Roles
from seqdec.formats.infer import kind_word
from seqdec.formats.open_table import Table
from seqdec.formats.table_formats import Block, place
from seqdec.spaces.space import quote

Fact = str | bool | int | float | None


@dataclass
class TableEpisode:
    """One episode as the table has it.

    Attributes:
        file: where it begins.
        row: which row of that file.
        key: its id; None where the row is all of it.
        steps: one value a step, by column; a truth value may stand for all steps.
        finals: the last value, by column.
        facts: the one value of texts and metadata, by column.
        kinds: what the values of steps are, by column; see `kind_word`.

    Example:
        >>> for episode in episodes(table, roles):
        ...     episode.steps["reward"].sum()
    """

    file: str
    row: int
    key: object = None
    steps: dict[str, np.ndarray] = field(default_factory=dict)
    finals: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)
    kinds: dict[str, set[str]] = field(default_factory=dict)


@contextmanager
def naming(episode: TableEpisode) -> Iterator[None]:
    """Say of which episode an error is."""
    try:
        yield
    except DataError as error:
        is_row = episode.key is None
        where = place(episode.file, episode.row) if is_row else f"{episode.file}, episode {quote(episode.key)}"
        raise DataError(f"{where}: {error}") from error


def episodes(table: Table, roles: Roles, names: Sequence[str] | None = None) -> Iterator[TableEpisode]:
    """Yield the episodes of a table with all columns that have a role, or those among `names`."""
    asked = [*roles.of_steps, *roles.of_finals, *roles.of_episodes]
    chosen = [name for name in dict.fromkeys(asked) if names is None or name in names]
    if roles.episode is not None:
        yield from _episodes_of_steps(table, roles, chosen)
        return
    for block in table.read(chosen, forced_texts(roles)):
        for row in range(len(block.rows)):
            yield _episode_of_row(block, row, roles, chosen)


def forced_texts(roles: Roles) -> list[str]:
    """Return the columns that are texts even where they look like numbers."""
    return [name for name in (roles.episode, roles.text) if name is not None]


def _episodes_of_steps(table: Table, roles: Roles, chosen: Sequence[str]) -> Iterator[TableEpisode]:
    """Yield an episode when the next one begins, of a table with one row a step."""
    assert roles.episode is not None
    ended: dict[object, tuple[str, int]] = {}
    pieces: list[TableEpisode] = []
    current, length = None, 0
    for block in table.read([*dict.fromkeys([roles.episode, *chosen])], forced_texts(roles)):
        for key, start, stop in _runs(column_of(block.rows, roles.episode), block, roles.episode):
            if pieces and key != current:
                yield _whole(pieces)
                pieces, length = [], 0
            if key in ended and not pieces:
                once = place(*ended[key])
                raise DataError(
                    f"{place(block.file, block.first + start)}: episode {quote(key)} comes back, it ended at {once}: "
                    "sort the table by episode, or give each an id of its own"
                )
            current, ended[key] = key, (block.file, block.first + stop - 1)
            piece = TableEpisode(block.file, block.first + start, key)
            _fill(piece, block.rows.slice(start, stop - start), length, roles, chosen)
            pieces.append(piece)
            length += stop - start
    if pieces:
        yield _whole(pieces)


def _runs(ids: pa.Array, block: Block, column: str) -> Iterator[tuple[object, int, int]]:
    """Yield each id with the first row that has it and the row after the last."""
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


def _fill(piece: TableEpisode, rows: pa.RecordBatch, first_step: int, roles: Roles, chosen: Sequence[str]) -> None:
    """Read some steps of an episode."""
    with naming(piece):
        for name in chosen:
            values = column_of(rows, name)
            if name in roles.of_steps:
                piece.steps[name] = step_values(values, name, first_step)
                piece.kinds[name] = {kind_word(values.type)}
            if name in roles.of_finals:
                piece.finals[name] = step_values(values.slice(len(values) - 1), name, first_step + len(values) - 1)[0]
            if name in roles.of_episodes:
                piece.facts[name] = _only_fact(values, name)


def _whole(pieces: Sequence[TableEpisode]) -> TableEpisode:
    """Return the episode that neighbouring pieces make."""
    first, last = pieces[0], pieces[-1]
    with naming(first):
        for piece in pieces[1:]:
            for name, fact in piece.facts.items():
                if fact != first.facts[name] and not (fact != fact and first.facts[name] != first.facts[name]):  # nan
                    raise DataError(_changes(name, first.facts[name], fact))
        steps = {name: joined([piece.steps[name] for piece in pieces], name) for name in first.steps}
    kinds = {name: set[str]().union(*(piece.kinds[name] for piece in pieces)) for name in first.kinds}
    return TableEpisode(first.file, first.row, first.key, steps, last.finals, first.facts, kinds)


def _episode_of_row(block: Block, row: int, roles: Roles, chosen: Sequence[str]) -> TableEpisode:
    """Return an episode that is one row: lists of one entry a step."""
    episode = TableEpisode(block.file, block.first + row)
    with naming(episode):
        for name in chosen:
            value = column_of(block.rows.slice(row, 1), name)
            if name in roles.of_steps:
                episode.steps[name] = _listed_steps(value, name, is_flag=name in (roles.terminated, roles.truncated))
                episode.kinds[name] = {kind_word(value.type)}
            if name in roles.of_finals:
                episode.finals[name] = step_values(value, name)[0]
            if name in roles.of_episodes:
                episode.facts[name] = _only_fact(value, name)
    return episode


def _listed_steps(value: pa.Array, name: str, *, is_flag: bool) -> np.ndarray:
    """Return the steps in a row's list; of a flag, one value may stand for all."""
    if is_list(value.type) and value.null_count == 0:
        return step_values(value.flatten(), name)
    if is_flag:
        return step_values(value, name)[0]
    if value.null_count:
        raise DataError(f"column {quote(name)} is null, expected a list with one entry a step")
    raise DataError(
        f"column {quote(name)} holds {quote(value.type)}, expected a list with one entry a step; if a row is a step, "
        "name the column that says of which episode it is (--episode, Columns.episode)"
    )


def column_of(rows: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column of some rows."""
    return plain(rows.column(rows.schema.get_field_index(name)))


def _changes(name: str, before: object, after: object) -> str:
    return f"column {quote(name)} changes from {quote(before)} to {quote(after)}: expected one value an episode"


def _only_fact(values: pa.Array, name: str) -> Fact:
    """Return the one value that all of these have."""
    facts = [] if pa.types.is_nested(values.type) else values.unique().to_pylist()
    if not facts or not isinstance(facts[0], str | bool | int | float | None):
        raise DataError(f"column {quote(name)} holds {quote(values.type)}: expected texts, numbers or truth values")
    if len(facts) > 1:
        raise DataError(_changes(name, facts[0], facts[1]))
    return facts[0]
