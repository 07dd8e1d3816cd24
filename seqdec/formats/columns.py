"""Which column of a table is what: the table's own names on one side, an episode's on the other.

    one row a step       episode  observation  action  reward  terminated
                         a        [0.1, 0.2]   1       1.0     false
                         a        [0.3, 0.2]   0       1.0     true
    one row an episode            [[...], ..]  [1, 0]  [1, 1]  true

Nothing is guessed: the format's own names are the defaults, and every other name is said. In HDF5 and npz files a
column is an array, with the groups that it is in ("infos/goal"); in LeRobot data sets it is a feature.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial

from seqdec.data.episode import METADATA, final_name
from seqdec.errors import UsageError, suggest
from seqdec.formats.order import CLOCKS
from seqdec.spaces.leaves import MISSING
from seqdec.spaces.space import quote

Names = str | Sequence[str] | Mapping[str, str | Sequence[str]]
LeafColumns = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class Columns:
    """The columns that hold what an episode needs; None says that the table has none.

    An observation, action or final observation is one column; or several columns of numbers, which make one vector in
    their order; or a mapping from leaves to either, which makes a Dict. An empty name is what the format calls it: in a
    table as the field here, in other files see `source` of their format. Of these names, one that a table lacks is
    looked for leaf by leaf ("observation.camera"), and is left out where it may be: step, final, terminated, truncated
    and text.

    Attributes:
        episode: which episode a step belongs to, the steps of one episode next to each other; None: a row an episode.
        step: the number of a step, or its time: the steps of an episode are read in its order. None: in the order of
            the rows. Where the table has no such column and another one speaks of time (t, timestamp, ...), rows in
            another order than that one's are refused.
        observation: what was seen before each action. One more of it, beside a null action or as a longer list, is
            the final observation.
        terminated: true at a last step that ended the task. A column called "done" often says so of a time limit too,
            and a policy then learns that nothing comes after it: map one only where it means the task's end. If
            neither this nor `truncated` is there, every episode counts as cut off; if one is, it tells the other.
        truncated: true at a last step after which only the record ends.
        reward: what each action earned. None: nothing is known of that, and all rewards are 0.
        final: what was seen after each step, or after the last. Without any, the last observation is taken again.
        text: words about the episode.
        metadata: what else to keep of an episode, texts, numbers and truth values, beside "metadata.NAME".
        missing: leaves of the observation that may be missing, each with the column that is true where they are, or
            with None where null and NaN say it; beside "missing.observation" and so on.
        discrete: leaves of whole numbers that are choices though the table keeps them as floats (0.0, 1.0, 2.0).

    Example:
        >>> columns = Columns(episode="run", observation=["x", "y"], action="key", missing={"observation": None})
    """

    episode: str | None = None
    observation: Names = ""
    action: Names = ""
    reward: str | None = ""
    terminated: str | None = ""
    truncated: str | None = ""
    final: Names | None = ""
    text: str | None = ""
    metadata: Sequence[str] = ()
    missing: Mapping[str, str | None] = field(default_factory=dict)
    discrete: Sequence[str] = ()
    step: str | None = ""


@dataclass(frozen=True)
class Roles:
    """The columns of one table by what they are; every one of them is there.

    Attributes:
        clocks: those that speak of time, where nobody says which one is the order of the steps.
        observation: by leaf; several columns make a vector. So are `action`, and `final` ("final.camera").
        missing: the column that marks a leaf of `observation` or `final` as missing, or None.
        metadata: by "metadata.NAME".

    Example:
        >>> roles = roles_of(completed(None, OF_TABLES), ["observation", "action", "reward"], "walk.parquet")
    """

    episode: str | None
    step: str | None
    clocks: tuple[str, ...]
    observation: LeafColumns
    action: LeafColumns
    reward: str | None
    terminated: str | None
    truncated: str | None
    final: LeafColumns
    text: str | None
    metadata: Mapping[str, str]
    missing: Mapping[str, str | None]
    discrete: frozenset[str]

    @property
    def of_steps(self) -> list[str]:
        """Return the columns of the order, observations, actions, rewards, ends and masks."""
        ends = [self.step, self.reward, self.terminated, self.truncated]
        names = [*flat(self.observation), *flat(self.action), *flat(self.final), *ends, *self.missing.values()]
        return [name for name in dict.fromkeys(names) if name is not None]

    @property
    def of_episodes(self) -> list[str]:
        """Return the columns with one value an episode."""
        return [*self.metadata.values()] if self.text is None else [self.text, *self.metadata.values()]

    @property
    def texts(self) -> list[str]:
        """Return the columns that are texts even where they look like numbers."""
        return [name for name in (self.episode, self.text) if name is not None]


def columns_from_json(value: Mapping[str, object], where: str) -> Columns:
    """Read columns from JSON; `where` is the file, for the sentence that says what is wrong.

    Raises:
        UsageError: a key is unknown (the nearest one is named) or holds something else than names of columns.
    """
    known = [entry.name for entry in fields(Columns)]
    for key, entry in value.items():
        if key not in known:
            raise UsageError(f"{where}: unknown key {quote(key)}{suggest(key, known)}; it has {', '.join(known)}")
        parts = entry.values() if isinstance(entry, Mapping) and key in (*_LEAVES, "missing") else [entry]
        is_needed = key in ("observation", "action", *_LISTS)
        may_be_null = not is_needed and (key == "missing" or not isinstance(entry, Mapping))
        for part in parts:
            names = part if isinstance(part, list) and key in (*_LEAVES, *_LISTS) else [part]
            is_right = all(isinstance(name, str) or (name is None and may_be_null) for name in names)
            if not is_right or (key in _LISTS and not isinstance(entry, list)):
                raise UsageError(f"{where}: {key} is {quote(entry)}: give names of columns")
    return Columns(**value)  # pyright: ignore[reportArgumentType]


_LEAVES, _LISTS = ("observation", "action", "final"), ("metadata", "discrete")
_NAMED = ("observation", "action", "reward", "terminated", "truncated", "final", "text", "step")
OF_TABLES: Mapping[str, Names | None] = {name: name for name in _NAMED}


def completed(columns: Columns | None, own: Mapping[str, Names | None], kind: str | None = None) -> Columns:
    """Return columns with a format's own names in the place of those that are empty.

    Args:
        columns: what the user says; nothing by default.
        own: the names by field; None where there is no such thing.
        kind: the format, if it has a place for no other fields than these.

    Raises:
        UsageError: a field is said that the format has no place for.
    """
    columns = columns or Columns()
    values: dict[str, object] = {entry.name: getattr(columns, entry.name) for entry in fields(Columns)}
    foreign = next((name for name, value in values.items() if value and name not in own), None)
    if kind is not None and foreign is not None:
        raise UsageError(f"{kind} data have no place for {foreign}: of Columns, they take {_list(own)}", option=foreign)
    empty = {name: own.get(name) for name, value in values.items() if value == ""}
    return replace(columns, **empty)  # pyright: ignore[reportArgumentType]


def roles_of(columns: Columns, names: Sequence[str], where: str, own: Mapping[str, Names | None] = OF_TABLES) -> Roles:
    """Find the columns among a table's names.

    Args:
        columns: which is what, `completed`.
        names: those that are there.
        where: the table, for the sentence that says what is wrong.
        own: the names that may lack where the user has not to say so.

    Raises:
        UsageError: a column that is not there, with the nearest name.
    """

    existing = partial(_existing, names, where)

    def optional(name: str | None, role: str) -> str | None:
        return None if name is None or (name == own.get(role) and name not in names) else existing(name, role)

    observation = _by_leaf(columns.observation, "observation", names, where)
    final = {} if columns.final is None else _by_leaf(columns.final, "final", names, where)
    expected = {final_name(leaf) for leaf in observation}
    if final and final.keys() != expected:
        leaves = f"is {_list(final)}, the observation has {_list(sorted(expected))}"
        raise UsageError(f"the final observation {leaves}: map each leaf")
    kept = [name for name in names if name.startswith(METADATA)]
    kept += [existing(name, "metadata") for name in columns.metadata]
    missing: dict[str, str | None]
    missing = {leaf: MISSING + leaf for leaf in (*observation, *final) if MISSING + leaf in names}
    action = _by_leaf(columns.action, "action", names, where)
    check_leaves(columns.discrete, [*observation, *action], "the table")
    check_leaves(columns.missing, [*observation, *final], "the observation")
    for leaf, column in columns.missing.items():
        missing[leaf] = None if column is None else existing(column, f"missing {leaf}")
    step = optional(columns.step, "step")
    is_unsaid = step is None and columns.step is not None
    return Roles(
        episode=None if columns.episode is None else existing(columns.episode, "episode"),
        step=step,
        clocks=tuple(name for name in names if is_unsaid and name.lower() in CLOCKS),
        observation=observation,
        action=action,
        reward=None if columns.reward is None else existing(columns.reward, "reward"),
        terminated=optional(columns.terminated, "terminated"),
        truncated=optional(columns.truncated, "truncated"),
        final=final,
        text=optional(columns.text, "text"),
        metadata={METADATA + name.removeprefix(METADATA): name for name in kept},
        missing=missing,
        discrete=frozenset(columns.discrete),
    )


def check_leaves(leaves: Iterable[str], known: Sequence[str], whole: str) -> None:
    """Refuse a name that no leaf of `whole` has, with the nearest."""
    unknown = next((leaf for leaf in leaves if leaf not in known), None)
    if unknown is not None:
        raise UsageError(f"no leaf of {whole} is called {quote(unknown)}{suggest(unknown, known)}")


def _existing(names: Sequence[str], where: str, name: str, role: str) -> str:
    if name not in names:
        nearest = f"{suggest(name, names)}; it has {_list(names)}"
        if role == "reward":
            nearest += ": name one, or None where nothing is earned (Columns.reward)"
        raise UsageError(f"{where} has no column {quote(name)} for the {role}{nearest}", option=role)
    return name


def _by_leaf(entry: Names, role: str, names: Sequence[str], where: str) -> dict[str, str | tuple[str, ...]]:
    if entry == role and role not in names:
        nested: dict[str, str | tuple[str, ...]] = {name: name for name in names if name.startswith(f"{role}.")}
        if nested or role == "final":
            return nested
    if not entry:
        raise UsageError(f"no column is named for the {role}: name one of {_list(names)}")
    by_leaf = entry if isinstance(entry, Mapping) else {role: entry}
    if any(leaf != role and (not leaf.startswith(f"{role}.") or role in by_leaf) for leaf in by_leaf):
        hint = f"write {role!r} alone, or leaves such as '{role}.camera'"
        raise UsageError(f"the {role} is mapped by {_list(by_leaf)}: {hint}")
    existing = partial(_existing, names, where, role=role)
    return {leaf: existing(column) if isinstance(column, str) else tuple(map(existing, column))
            for leaf, column in by_leaf.items()}  # fmt: skip


def flat(columns: LeafColumns) -> list[str]:
    """Return the columns of all leaves."""
    return [name for entry in columns.values() for name in ([entry] if isinstance(entry, str) else entry)]


def _list(names: Iterable[str]) -> str:
    return quote(", ".join(names))
