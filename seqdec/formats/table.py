"""Tables as sources of episodes: one row a step, or one row an episode.

    Columns (what is what) + Table (rows as they come)  ->  Source (spaces, and episodes as they come)

An episode is given once its last row is read; memory holds one and a batch of rows. Without a spec, the spaces are
those that all values fit, which takes one pass more. What is null or NaN where nothing may be missing is given as NaN
or as missing, for `rows` to refuse or drop, except among whole numbers that are acted.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import gymnasium
from datasets import Dataset

from seqdec.data.episode import METADATA, Row
from seqdec.data.source import Attempt, Source, file_identity, source_of_attempts
from seqdec.errors import DataError, UsageError
from seqdec.formats.arrays import NO_REWARDS
from seqdec.formats.columns import OF_TABLES, Columns, LeafColumns, Roles, completed, flat, roles_of
from seqdec.formats.guard import attempt
from seqdec.formats.infer import Seen, nested, space_of
from seqdec.formats.open_table import Table, open_table
from seqdec.formats.table_rows import Fact, TableEpisode, episodes, row_of, vector
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
    columns = completed(columns, OF_TABLES)
    table = open_table(name, split=split, config=config)
    roles = roles_of(columns, table.columns, table.name)
    mixed = next((column for column in roles.of_steps if column in table.mixed), None)
    if mixed is not None:
        raise DataError(table.mixed[mixed])
    if roles.reward is None:
        logger.warning(NO_REWARDS, table.name)
    if roles.terminated is None and roles.truncated is None:
        logger.warning("%s says of no episode how it ended: all count as cut off (truncated)", table.name)
    if spec and roles.discrete:
        raise UsageError("the environment says which actions are choices: leave discrete out", option="discrete")
    leaves = {} if spec else {**roles.observation, **roles.action}
    scan = _scan(table, roles, leaves) if spec is None or roles.metadata else _Scan({}, {}, None, {})
    if spec is None:
        spec = EnvironmentSpec(nested(scan.spaces, "observation"), nested(scan.spaces, "action"))
    _check_mapped(spec, roles)
    missing = [*spec.missing, *(leaf for leaf in spec.observation_leaves if leaf in roles.missing)]
    spec = replace(spec, missing=tuple(dict.fromkeys(missing)))
    identity = {
        "kind": "table",
        "name": [str(path.resolve()) for path in table.files] or table.name,
        "columns": json.loads(json.dumps(asdict(columns))),
        "spec": spec.to_json(),
        "split": split,
        "config": config,
        "files": file_identity(table.files),
        "revision": table.revision,
    }
    return source_of_attempts(spec, partial(_attempts, table, roles, spec, scan), identity, scan.num_episodes)


@dataclass(frozen=True)
class _Scan:
    """What one look at all values tells: spaces, what makes metadata of one type, and the episodes that are damaged."""

    spaces: Mapping[str, gymnasium.Space]
    metadata: Mapping[str, Callable[[Fact], Fact]]
    num_episodes: int | None
    errors: Mapping[int, DataError]


def _attempts(table: Table, roles: Roles, spec: EnvironmentSpec, scan: _Scan) -> Iterator[Attempt]:
    spaces = {**spec.observation_leaves, **spec.action_leaves}

    def row(episode: TableEpisode) -> Row:
        episode = episode.in_order(roles)
        facts = {
            name.removeprefix(METADATA): scan.metadata[name](episode.fact(column))
            for name, column in roles.metadata.items()
        }
        return row_of(episode, roles, spaces, facts)

    for number, episode in enumerate(_episodes(table, roles, [*roles.of_steps, *roles.of_episodes])):
        yield scan.errors.get(number) or attempt(partial(row, episode), episode)


def _scan(table: Table, roles: Roles, leaves: LeafColumns) -> _Scan:
    """Look at all values of leaves and of metadata; damaged episodes do not count."""
    seen = {leaf: Seen(leaf) for leaf in leaves}
    spaces: dict[str, gymnasium.Space] = {}
    types: dict[str, set[type]] = {name: set() for name in roles.metadata}
    num_episodes, errors = 0, dict[int, DataError]()

    def look(episode: TableEpisode) -> None:
        episode = episode.in_order(roles)
        for leaf, column in leaves.items():
            if leaf in spaces:
                continue
            kinds = set[str]().union(*map(episode.kinds, flat({leaf: column})))
            seen[leaf].add(vector(episode.steps, column), kinds)
            # one episode tells an image's space: the others need not be unpacked
            if kinds == {"image"} and seen[leaf].shape and leaf not in roles.discrete:
                spaces[leaf] = space_of(seen[leaf])
        for name, column in roles.metadata.items():
            types[name].add(type(episode.fact(column)))

    for episode in _episodes(table, roles, [*roles.metadata.values(), *flat(leaves)]):
        error = attempt(partial(look, episode), episode)
        if error is not None:
            errors[num_episodes] = error
        num_episodes += 1
    if len(errors) == num_episodes:
        raise errors[0] if errors else DataError(f"{table.name} has no rows: give at least one episode")
    spaces |= {leaf: space_of(seen[leaf], is_discrete=leaf in roles.discrete) for leaf in leaves if leaf not in spaces}
    return _Scan(spaces, {name: _fact_type(kinds) for name, kinds in types.items()}, num_episodes, errors)


def _episodes(table: Table, roles: Roles, names: Sequence[str]) -> Iterator[TableEpisode]:
    """Yield the episodes with the columns of some names; their steps are yet to be brought in order."""
    others = [name for name in (roles.episode, roles.step, *roles.clocks) if name is not None]
    return episodes(table.read([*dict.fromkeys([*others, *names])], roles.texts), roles.episode)


def _fact_type(kinds: set[type]) -> Callable[[Fact], Fact]:
    """Return the function that makes one type of all values of a metadata column: a data set asks for one."""
    if str in kinds:
        return lambda value: None if value is None else str(value)
    if kinds in ({int}, {bool}, {type(None)}):
        return lambda value: value
    return lambda value: math.nan if value is None else float(value)


def _check_mapped(spec: EnvironmentSpec, roles: Roles) -> None:
    """Refuse columns that do not give each leaf of an environment."""
    parts = (("observation", spec.observation_leaves, roles.observation), ("action", spec.action_leaves, roles.action))
    for role, leaves, columns in parts:
        if leaves.keys() != columns.keys():
            names, expected = quote(", ".join(columns)), quote(", ".join(leaves))
            raise UsageError(f"the columns give the {role} as {names}, the environment has {expected}: map one to each")
