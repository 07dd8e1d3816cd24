"""Values of a row that are not known: their masks in full shape, or one sentence where the environment admits none.

row["missing.observation"]   absent, [T], or [T, ...]   ->   [T, ...] for every leaf that may be missing
"""

from collections.abc import Iterable, Iterator

import numpy as np

from seqdec.data.episode import Row, final_name
from seqdec.errors import DataError
from seqdec.spaces.leaves import MISSING, leaf_kind, shape_of_missing
from seqdec.spaces.spec import EnvironmentSpec


def known_rows(rows: Iterable[tuple[int, Row]], spec: EnvironmentSpec) -> Iterator[tuple[int, Row]]:
    """Yield numbered rows that know all they must, with a mask for each leaf that may be missing.

    Raises:
        DataError: after the last row, if some lack a value that they must have: the first one and how many.
    """
    num_rows, num_lacking = 0, 0
    place = leaf = ""
    for number, row in rows:
        num_rows += 1
        lacking = first_missing(row, spec)
        if lacking is None:
            yield number, _with_masks(row, spec)
            continue
        num_lacking += 1
        if not place:
            place, leaf = f"episode {number}{lacking[0]}", lacking[1]
    if place:
        may_be = f"say in EnvironmentSpec.missing that {leaf} may be, or " if leaf in spec.observation_leaves else ""
        advice = f"{may_be}leave such episodes out with on_nonfinite='drop-episode'"
        option = "missing" if may_be else "on_nonfinite"
        raise DataError(f"{place} ({num_lacking} of {num_rows} episodes are affected): {advice}", option=option)


def first_missing(row: Row, spec: EnvironmentSpec) -> tuple[str, str] | None:
    """Return where a row first lacks a value that may not be missing, as ", step 1: LEAF is missing", and the leaf."""
    for name, leaf in {**spec.observation_leaves, **spec.action_leaves}.items():
        for key in (name, final_name(name)) if name not in spec.missing else ():
            mask = np.asarray(row.get(MISSING + key, False))
            if mask.any():
                steps = mask if key == name else mask[None]
                step, entry = divmod(int(np.flatnonzero(steps)[0]), steps[0].size)
                what = f"{key}[{entry}] is nan" if leaf_kind(leaf) == "vector" else f"{key} is missing"
                return f", step {step}: {what}" if key == name else f": {what}", name
    return None


def _with_masks(row: Row, spec: EnvironmentSpec) -> Row:
    num_steps = len(np.asarray(row["reward"]))
    masks = {}
    for name in spec.missing:
        shape = shape_of_missing(spec.observation_leaves[name])
        for key, full in ((name, (num_steps, *shape)), (final_name(name), shape)):
            mask = np.asarray(row.get(MISSING + key, False))
            # one truth value may stand for all entries of a vector
            mask = mask.reshape((*mask.shape, *[1] * (len(full) - mask.ndim)))
            masks[MISSING + key] = np.broadcast_to(mask, full).astype(np.uint8)
    return {**row, **masks}
