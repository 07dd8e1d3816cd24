"""Candidates: the texts that an environment names as its valid actions, on their way from its info to an actor.

    info["valid_actions"] or info["admissible_commands"]

Only environments whose actions hold a text are asked: elsewhere these keys may hold anything.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import gymnasium
import numpy as np

from seqdec.errors import DataError
from seqdec.spaces.leaves import leaf_kind, leaves
from seqdec.spaces.space import quote

VALID_ACTIONS: Final = "valid_actions"
NAMES = (VALID_ACTIONS, "admissible_commands")  # the second is TextWorld's


def acts_in_words(space: gymnasium.Space) -> bool:
    """Say whether an action holds a text."""
    return any(leaf_kind(leaf) == "text" for leaf in leaves(space, "action").values())


def named(info: Mapping[str, object]) -> list[str] | None:
    """Return the texts that one environment's info names, or None where there are none.

    Raises:
        DataError: something else than texts stands there.
    """
    name = next((name for name in NAMES if info.get(name) is not None), None)
    return None if name is None else _texts(info[name], name)


def _texts(value: object, name: str) -> list[str] | None:
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray | set | frozenset):
        raise DataError(f"info[{name!r}] is {quote(value)}: expected a list of texts")
    texts = sorted(value) if isinstance(value, set | frozenset) else list(value)  # a set's own order is no order
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise DataError(f"info[{name!r}] holds {quote(wrong[0])}: expected a list of texts")
    return [str(text) for text in texts] or None
