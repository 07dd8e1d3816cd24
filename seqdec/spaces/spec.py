"""Which environment episodes come from: spaces and origin as plain data. Naming an environment never makes it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeGuard

import gymnasium

from seqdec.errors import DataError, UsageError, in_words, suggest
from seqdec.spaces.leaves import leaf_kind, leaves, num_entries
from seqdec.spaces.space import (
    MAX_ENTRIES,
    describe_space,
    is_int,
    kind_of,
    quote,
    space_from_json,
    space_to_json,
    supported,
)

CHAT = "chat"  # the id where no environment, but conversations of a chat are the data


@dataclass(frozen=True)
class EnvironmentSpec:
    """Spaces and origin of the environment that episodes were recorded in; plain data, nothing is made.

    Attributes:
        entry_point: as the file has it; only ever compared.
        wrappers: entry points of additional wrappers that the file names; never made.
        reference_returns: the returns of score 0 and score 100.
        requirements: what pip must install for the environment.
        missing: leaves of the observation whose values may be missing ("observation", "observation.camera").
        offsets: of leaves that hold numbers too large for float32, such as epoch seconds: what is subtracted from each
            entry before it becomes float32. Where none is named, a data set's first episode says it.

    Example:
        >>> spec = spec_of_env(gymnasium.make("CartPole-v1"))
        >>> spec.action_space
        Discrete(2)
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    id: str | None = None
    kwargs: Mapping[str, object] = field(default_factory=dict)
    max_episode_steps: int | None = None
    entry_point: str | None = None
    wrappers: tuple[str, ...] = ()
    reference_returns: tuple[float, float] | None = None
    requirements: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    offsets: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Bring the spaces to the supported kinds and refuse names that are no leaf of the observation."""
        object.__setattr__(self, "observation_space", supported(self.observation_space, "observation"))
        object.__setattr__(self, "action_space", supported(self.action_space, "action"))
        for name, leaf in self.action_leaves.items():
            if leaf_kind(leaf) == "image":
                raise UsageError(f"{name} is {describe_space(leaf)}: images can be observed, not acted")
        observed = self.observation_leaves
        for name in self.missing:
            if name not in observed:
                nearest = suggest(name, observed)
                raise UsageError(f"no leaf of the observation is called {quote(name)}{nearest}")
        known = {**observed, **self.action_leaves}
        for name, offset in self.offsets.items():
            if name not in known or leaf_kind(known[name]) != "vector" or len(offset) != num_entries(known[name]):
                raise UsageError(f"offsets name {quote(name)}, which is no leaf of {len(offset)} real numbers")

    @cached_property
    def observation_leaves(self) -> dict[str, gymnasium.Space]:
        """Return the observation's leaf spaces by variable name."""
        return leaves(self.observation_space, "observation")

    @cached_property
    def action_leaves(self) -> dict[str, gymnasium.Space]:
        """Return the action's leaf spaces by variable name."""
        return leaves(self.action_space, "action")

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values; infinite bounds are words."""
        return {key: _plain(getattr(self, key)) for key in _READERS if key != "offsets" or self.offsets}

    @staticmethod
    def from_json(value: Mapping[str, object]) -> "EnvironmentSpec":
        """Read what `to_json` wrote.

        Raises:
            DataError: a key is missing, unknown or holds nonsense.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"an environment's description is {kind_of(value)}: expected an object")
        for key in value:
            if key not in _READERS:
                nearest = suggest(str(key), _READERS)
                raise DataError(f"unknown key {quote(key)} in an environment's description{nearest}")
        for key in ("observation_space", "action_space"):
            if key not in value:
                raise DataError(f"an environment's description has no {key}")
        try:
            return EnvironmentSpec(**{key: _READERS[key](entry, key) for key, entry in value.items()})
        except UsageError as error:  # here it is a file that is wrong
            raise DataError(str(error)) from error


def _plain(value: object) -> object:
    if isinstance(value, gymnasium.Space):
        return space_to_json(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _space(value: object, key: str) -> gymnasium.Space:
    return space_from_json(value, key.removesuffix("_space"))


def _kwargs(value: object, key: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise DataError(f"the environment's {key} are {kind_of(value)}: expected an object")
    try:
        size = len(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the environment's {key} are no plain JSON: {in_words(error)}") from error
    if size > MAX_ENTRIES:
        raise DataError(f"the environment's {key} have {size} characters: at most {MAX_ENTRIES} are read")
    return dict(value)


def _step_limit(value: object, key: str) -> int | None:
    if value is None or (is_int(value) and 1 <= value <= 10**9):
        return value
    raise DataError(f"{key} is {quote(value)}: expected a whole number from 1 on, or null")


def _reference_returns(value: object, key: str) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(_is_number(entry) for entry in value):
        raise DataError(f"{key} is {quote(value)}: expected the returns of score 0 and score 100")
    if value[0] == value[1]:
        raise DataError(f"{key} are both {value[0]}: score 0 and score 100 must differ")
    return float(value[0]), float(value[1])


def _text(value: object, key: str) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= 1000):
        return value
    raise DataError(f"the environment's {key} is {quote(value)}: expected a text of at most 1000 characters")


def _texts(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > 100 or None in value:
        raise DataError(f"{key} is {kind_of(value)}: expected a list of at most 100 texts")
    return tuple(text for text in (_text(entry, key) for entry in value) if text is not None)


def _offsets(value: object, key: str) -> dict[str, tuple[float, ...]]:
    offsets: dict[str, tuple[float, ...]] = {}
    for name, numbers in value.items() if isinstance(value, Mapping) else [("", None)]:
        if not isinstance(numbers, list | tuple) or not all(_is_number(number) for number in numbers):
            raise DataError(f"{key} are {quote(value)}: expected lists of numbers by leaf")
        offsets[str(name)] = tuple(map(float, numbers))
    return offsets


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


_READERS: Mapping[str, Callable[[object, str], Any]] = {  # Any: each reader returns the type of its field
    "observation_space": _space,
    "action_space": _space,
    "id": _text,
    "kwargs": _kwargs,
    "max_episode_steps": _step_limit,
    "entry_point": _text,
    "wrappers": _texts,
    "reference_returns": _reference_returns,
    "requirements": _texts,
    "missing": _texts,
    "offsets": _offsets,
}
