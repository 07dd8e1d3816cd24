"""What may be done now: the texts that environments let one choose from, and the values that are legal.

Their infos name them, of one environment or of a batch of running ones, or leaves of the observation that are called
`action_mask` show them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import gymnasium
import numpy as np
from torch import Tensor

from seqdec.errors import UsageError
from seqdec.play import candidates, legal
from seqdec.play.candidates import VALID_ACTIONS, named
from seqdec.play.legal import legal_actions, parts_of
from seqdec.spaces.space import whole_limits

Texts = Sequence[Sequence[str] | None]


@dataclass(frozen=True, eq=False)
class Allowed:
    """The texts of each environment, None where a text is free, and masks of values by leaf, bool [N, values]."""

    texts: Texts | None = None
    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    def admits(self, actions: Mapping[str, Tensor], leaves: Mapping[str, gymnasium.Space]) -> bool:
        """Say whether these actions are legal in every environment."""
        for name, mask in self.values.items():
            value, (low, high) = actions[name].cpu().numpy().reshape(len(mask), -1), whole_limits(leaves[name])
            counts = np.broadcast_to(np.reshape(np.asarray(high) - low + 1, -1), value.shape[1:])
            place = value - np.reshape(low, -1) + np.cumsum(counts) - counts
            if not np.take_along_axis(mask, place, 1).all():
                return False
        return True


def allowed_by(
    info: object,
    shown: Sequence[np.ndarray],
    action_space: gymnasium.Space,
    leaves: Mapping[str, gymnasium.Space],
    num_rows: int,
    *,
    is_single: bool,
) -> Allowed:
    """Return what each running environment lets one choose from.

    Args:
        info: of one environment, or of a batch as `Actor.act` has it.
        shown: leaves of the observation that are a mask, [num_rows, ...].
        action_space: as the data have it.
        leaves: of the action.
        num_rows: environments that run.
        is_single: whether it is of one.

    Raises:
        UsageError: there are candidates or masks for another number of environments.
        DataError: they are not what they must be, or leave nothing to choose.
    """
    said = info if isinstance(info, Mapping) else {}
    texts = None
    if rows := _rows_of(said, candidates.NAMES, num_rows, is_single):
        texts = [named({VALID_ACTIONS: row}) for row in rows]
    rows = _rows_of(said, legal.NAMES, num_rows, is_single)
    if not rows and not shown:
        return Allowed(texts)
    infos = [{legal.ACTION_MASK: row} for row in rows or [None] * num_rows]
    masks = [legal_actions(action_space, own, tuple(part[row] for part in shown)) for row, own in enumerate(infos)]
    known = next((mask for mask in masks if mask is not None), None)
    if known is None:
        return Allowed(texts)
    whole = np.stack([np.ones_like(known) if mask is None else mask for mask in masks])
    return Allowed(texts, {name: whole[:, part] for name, part in parts_of(leaves).items()})


def _rows_of(
    info: Mapping[str, object], names: Sequence[str], num_rows: int, is_single: bool
) -> Sequence[object] | None:
    """Return what an info says to each environment under the first of these names that it has."""
    value = next((info[name] for name in names if info.get(name) is not None), None)
    if value is None or is_single:
        return None if value is None else [value]
    if not isinstance(value, Sequence | np.ndarray) or len(value) != num_rows:
        size = len(value) if isinstance(value, Sequence | np.ndarray) else "no"
        raise UsageError(f"info names {names[0]} of {size} environments, {num_rows} run")
    return list(value)
