"""What is read of an environment's info, of one or of a batch; all else in it is its own.

    valid_actions, admissible_commands   the texts that may be said          `candidates`
    action_mask, legal_actions_mask      the values that may be chosen       `legal`
    success, is_success                  whether its task is done

Nothing else goes into a batch: Gymnasium joins infos name by name, and raises where their types or shapes differ.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import gymnasium
import numpy as np

from seqdec.play import candidates, legal
from seqdec.play.candidates import VALID_ACTIONS
from seqdec.play.legal import ACTION_MASK

Infos = Mapping[str, Any]  # of a batch, as Gymnasium joins them
# Meta-World's counts where it was ever true, Stable-Baselines3's where it is true at the end; of both the latter.
EVER, AT_END = "success", "is_success"


class Choices(TypedDict, total=False):
    """What the running environments let an actor choose from, where any of them says so.

    `valid_actions` has the texts of each row, None where it names none; `action_mask` is bool [rows, values], as
    `legal` describes it.
    """

    valid_actions: list[list[str] | None]
    action_mask: np.ndarray


def success_of(info: Mapping[str, object]) -> dict[str, bool]:
    """Return what one environment's info says of its success: true, false, 0 and 1 count, all else is its own."""
    values = {name: np.asarray(info[name]) for name in (EVER, AT_END) if info.get(name) is not None}
    is_word = {
        name: value.dtype.kind in "biuf" and value.size == 1 and value.item() in (0, 1)
        for name, value in values.items()
    }
    return {name: bool(value.item()) for name, value in values.items() if is_word[name]}


def choices_of(infos: Infos, rows: np.ndarray, action_space: gymnasium.Space) -> Choices | None:
    """Return what the environments of some rows of a batch let one choose from; None where none says anything.

    Raises:
        DataError: as `candidates.named` and `legal.legal_actions` do.
    """
    names = [name for name in (*candidates.NAMES, *legal.NAMES) if name in infos]
    if not names:
        return None
    said = [{name: value for name in names if (value := _of_row(infos, name, row)) is not None} for row in rows]
    choices = Choices()
    if candidates.acts_in_words(action_space) and any(texts := [candidates.named(info) for info in said]):
        choices[VALID_ACTIONS] = texts
    masks = [legal.legal_actions(action_space, info) for info in said]
    known = next((mask for mask in masks if mask is not None), None)
    if known is not None:
        choices[ACTION_MASK] = np.stack([np.ones_like(known) if mask is None else mask for mask in masks])
    return choices or None


def add_successes(successes: np.ndarray, infos: Infos) -> None:
    """Note what a batch says of its successes: 1, 0, or -1 where nothing was said yet, int8 [N]."""
    for part in (infos, infos.get("final_info", {})):
        for name in (EVER, AT_END):
            values = part.get(name)
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.shape != successes.shape:
                continue
            is_said = part.get("_" + name, True) & np.isin(values, (0, 1))
            before = successes if name == EVER else -1
            successes[is_said] = np.maximum(before, np.where(is_said, values, 0))[is_said]


def _of_row(infos: Infos, name: str, row: int) -> Any:
    """Return what one row of a batch says under a name, None where it says nothing."""
    value = infos[name]
    if isinstance(value, Mapping):
        inner = {key: _of_row(value, key, row) for key in value if not key.startswith("_")}
        return inner if any(part is not None for part in inner.values()) else None
    is_said = infos.get("_" + name)
    return value[row] if is_said is None or is_said[row] else None
