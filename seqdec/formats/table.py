"""Tables as sources of episodes: one row a step, or one row an episode.

    Columns (what is what) + Table (rows as they come)  ->  Source (spaces, and episodes as they come)

An episode is given once its last row is read; memory holds one and a batch of rows. Without a spec, the spaces are
those that all values fit, which takes one pass more. What is null or NaN where nothing may be missing is given as NaN
or as missing, for `rows` to refuse or drop, except among whole numbers that are acted.
"""

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import gymnasium
import pyarrow as pa
from datasets import Dataset
from gymnasium.spaces import Dict

from seqdec.data.episode import Row
from seqdec.data.source import Source, file_identity
from seqdec.errors import DataError, UsageError
from seqdec.formats.arrays import is_image, is_list, plain, step_values
from seqdec.formats.columns import Columns, LeafColumns, Roles, roles_of
from seqdec.formats.infer import Seen, image_space, space_of
from seqdec.formats.open_table import Table, open_table
from seqdec.formats.table_episodes import Fact, TableEpisode, column_of, episodes, forced_texts, naming
from seqdec.formats.table_rows import row_of, vector
from seqdec.spaces.space import quote
from seqdec.spaces.spec import EnvironmentSpec

logger = logging.getLogger(__name__)


def source(
    name: str | Path | Sequence[Path] | Dataset,
    columns: Columns | None = None,
    spec: EnvironmentSpec | None = None,
    *,
    split: str = "train",
    config: str | None = None,
) -> Source:
    """Return the episodes of a table, yet to be read.

    Args:
        name: a Parquet, JSON lines or CSV file, several of one format, a folder of these or one that `datasets`
            saved, or a Hub id such as "user/name", which is fetched once; or a table in memory.
        columns: what is in which column; seqdec's own names by default.
        spec: the environment; without it, the spaces are those that the values fit.
        split: which part, where a data set has several.
        config: which of its configurations, where a Hub id has several.

    Raises:
        UsageError: no such table or column is there.
        DataError: the table is damaged, or its values are not what they must be; `read` raises it as well.
    """
    columns = columns or Columns()
    table = open_table(name, split=split, config=config)
    roles = roles_of(columns, table.columns, table.name)
    _check_mixed(table, roles)
    if roles.terminated is None and roles.truncated is None:
        logger.warning("%s says of no episode how it ended: all count as cut off (truncated)", table.name)
    found = _scanned(table, roles, spec) if spec is None or roles.metadata else None
    if spec is None:
        assert found is not None
        spec = _spec_of(found, roles)
    _check_leaves(spec, roles)
    known = replace(spec, missing=tuple(dict.fromkeys([*spec.missing, *_may_miss(spec, roles)])))
    identity = {
        "kind": "table",
        "name": [str(path.resolve()) for path in table.files] or table.name,
        "columns": json.loads(json.dumps(asdict(columns))),
        "spec": known.to_json(),
        "split": split,
        "config": config,
        "files": file_identity(table.files),
        "revision": table.revision,
    }
    facts = {} if found is None else {name: _fact_type(kinds) for name, kinds in found.facts.items()}
    return Source(
        known, partial(_read, table, roles, known, facts), identity, None if found is None else found.num_episodes
    )


@dataclass
class _Found:
    """What one pass over the table found."""

    leaves: dict[str, Seen]
    images: dict[str, gymnasium.Space]
    facts: dict[str, set[type]]
    num_episodes: int = 0


def _read(
    table: Table, roles: Roles, spec: EnvironmentSpec, facts: Mapping[str, Callable[[Fact], Fact]]
) -> Iterator[Row]:
    spaces = {**spec.observation_leaves, **spec.action_leaves}
    for episode in episodes(table, roles):
        with naming(episode):
            row = row_of(episode, roles, spaces)
        for name, column in roles.metadata.items():
            row[name] = facts[name](episode.facts[column])
        yield row


def _check_mixed(table: Table, roles: Roles) -> None:
    for column in (*roles.of_steps, *roles.of_finals):
        if column in table.mixed:
            raise DataError(table.mixed[column])


def _may_miss(spec: EnvironmentSpec, roles: Roles) -> list[str]:
    return [leaf for leaf in spec.observation_leaves if leaf in roles.missing]


def _check_leaves(spec: EnvironmentSpec, roles: Roles) -> None:
    for role, wanted, has in (
        ("observation", spec.observation_leaves, roles.observation),
        ("action", spec.action_leaves, roles.action),
    ):
        if wanted.keys() != has.keys():
            raise UsageError(
                f"the columns give the {role} as {quote(', '.join(has))}, the environment has "
                f"{quote(', '.join(wanted))}: map a column to each leaf"
            )


def _fact_type(kinds: set[type]) -> Callable[[Fact], Fact]:
    """Return what makes one type of all values of a metadata column; a data set takes its type from the first."""
    if str in kinds:
        return lambda value: None if value is None else str(value)
    if kinds in ({int}, {bool}, {type(None)}):
        return lambda value: value
    return lambda value: math.nan if value is None else float(value)


def _scanned(table: Table, roles: Roles, spec: EnvironmentSpec | None) -> _Found:
    """Look at all metadata, and without a spec at all observations and actions."""
    leaves: dict[str, str | tuple[str, ...]] = {} if spec else {**roles.observation, **roles.action}
    images = _image_spaces(table, roles, leaves)
    leaves = {name: column for name, column in leaves.items() if name not in images}
    found = _Found({name: Seen(name) for name in leaves}, images, {name: set() for name in roles.metadata})
    names = [*roles.metadata.values()]
    for column in leaves.values():
        names += [column] if isinstance(column, str) else column
    for episode in episodes(table, roles, names):
        found.num_episodes += 1
        for name, column in leaves.items():
            columns = [column] if isinstance(column, str) else column
            with naming(episode):
                kinds = set[str]().union(*(episode.kinds[key] for key in columns))
                found.leaves[name].add(vector(episode.steps, column), kinds)
        for name, column in roles.metadata.items():
            found.facts[name].add(type(episode.facts[column]))
    if not found.num_episodes:
        raise DataError(f"{table.name} has no rows: give at least one episode")
    return found


def _image_spaces(table: Table, roles: Roles, leaves: LeafColumns) -> dict[str, gymnasium.Space]:
    """Return the spaces of leaves whose columns are of images by their type: the first tells, all need not be read."""
    found: dict[str, gymnasium.Space] = {}
    for name, column in leaves.items():
        for block in table.read([column], forced_texts(roles)) if isinstance(column, str) else ():
            values = column_of(block.rows, str(column))
            if roles.episode is None and is_list(values.type):
                values = plain(values.flatten())
            if not _is_image_column(values.type):
                break
            values = values.drop_null()
            if len(values):
                with naming(TableEpisode(block.file, block.first)):
                    found[name] = image_space(step_values(values.slice(0, 1), str(column)).shape[1:])
                break
    return found


def _is_image_column(kind: pa.DataType) -> bool:
    num_axes = 0
    while is_list(kind):
        kind, num_axes = kind.value_type, num_axes + 1
    return is_image(kind) or (num_axes >= 2 and pa.types.is_uint8(kind))


def _spec_of(found: _Found, roles: Roles) -> EnvironmentSpec:
    spaces = {name: found.images[name] if name in found.images else space_of(found.leaves[name])
              for name in (*roles.observation, *roles.action)}  # fmt: skip
    return EnvironmentSpec(_nested(spaces, "observation"), _nested(spaces, "action"))


def _nested(spaces: Mapping[str, gymnasium.Space], role: str) -> gymnasium.Space:
    if role in spaces:
        return spaces[role]
    inner = [(name.removeprefix(f"{role}."), space) for name, space in spaces.items() if name.startswith(f"{role}.")]
    return Dict(OrderedDict(inner))
