"""Columns of large numbers, such as epoch seconds, coordinates in metres and ticks: float32 does not tell them apart.

    1 700 000 001.0, 1 700 000 002.0     float32: the same     less an offset of 1 700 000 001.0: 0.0 and 1.0

They are kept as float64, and whoever makes them float32 subtracts the offset first, see `Variable.offset`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from seqdec.data.episode import Row
from seqdec.spaces.leaves import LARGE, leaf_kind
from seqdec.spaces.spec import EnvironmentSpec

NO_UNIT = 2.0**24  # from here on float32 does not keep whole numbers one by one
DIGITS = 4  # float32's steps that a usual change must exceed


class Coarse(NamedTuple):
    """An entry whose numbers change by float32's last digits: its place, its largest number, float32's step there."""

    entry: int
    most: float
    step: float


def coarse_entries(values: np.ndarray, ends: np.ndarray) -> Iterator[Coarse]:
    """Yield the entries of values [timesteps, ...] of episodes with these ends that float32 keeps too coarsely.

    What changes in them tells it.
    """
    entries = values.reshape(len(values), -1)
    most = np.maximum(entries.max(0), -entries.min(0)) if len(entries) else np.zeros(0)
    for entry in np.flatnonzero(most >= LARGE):
        # no change leads from one episode to the next
        changes = np.delete(np.abs(np.diff(entries[:, entry])), ends[:-1] - 1)
        changes, step = changes[changes > 0], float(np.spacing(np.float32(most[entry])))
        if np.median(changes) <= DIGITS * step if len(changes) else most[entry] >= NO_UNIT:
            yield Coarse(int(entry), float(most[entry]), step)


def with_offsets(rows: Iterable[Row], spec: EnvironmentSpec) -> tuple[Iterator[Row], EnvironmentSpec]:
    """Return the rows and their environment with the offsets that the first row shows, unless it names its own."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None or spec.offsets:
        return (rows if first is None else chain([first], rows)), spec
    offsets = {}
    for name, leaf in {**spec.observation_leaves, **spec.action_leaves}.items():
        values = first.get(name)
        if leaf_kind(leaf) != "vector" or not isinstance(values, np.ndarray) or values.dtype != np.float64:
            continue
        finite = np.where(np.isfinite(values), values, 0.0).reshape(len(values), -1)
        coarse = [found.entry for found in coarse_entries(finite, np.array([len(values)]))]
        if coarse:
            firsts = finite[np.argmax(finite != 0, axis=0), range(finite.shape[1])]  # what is not known is 0
            offsets[name] = tuple(np.where(np.isin(range(len(firsts)), coarse), firsts, 0.0).tolist())
    return chain([first], rows), replace(spec, offsets=offsets) if offsets else spec
