"""What a data set must be to be trained on; the first offender is named, and how many episodes are like it."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import gymnasium
import numpy as np
import pyarrow as pa
from datasets import Dataset
from gymnasium.spaces import Box

from seqdec.data.episode import MAX_MAGNITUDE, final_name
from seqdec.data.offsets import coarse_entries
from seqdec.data.schema import Column, arrow_chunks, column, columns_of, environment_of, features_of, flat, lengths
from seqdec.errors import DataError
from seqdec.spaces.leaves import LARGE, MISSING, leaf_kind
from seqdec.spaces.space import describe_space, whole_limits

Bound = np.ndarray | float
logger = logging.getLogger(__name__)


class _Bad(NamedTuple):
    """The first entry that is not as it must be, in words; its value; and how many episodes have such entries."""

    words: str
    value: float
    affected: str


def check(dataset: Dataset, numbers: Sequence[int] | None = None, *, warns: bool = False) -> None:
    """Refuse a data set that cannot be trained on.

    Args:
        dataset: rows, one an episode.
        numbers: of the episodes, for what is said of them; by default their places.
        warns: say which columns hold large numbers that float32 does not tell apart: once for all parts of a data set.

    Raises:
        DataError: it is empty, has other columns, arrays of unequal length, entries that are missing, not
            finite or too large, or actions outside their space; with the first offender and how many there are.
    """
    spec = environment_of(dataset)
    columns = columns_of(spec)
    expected = features_of(spec, dataset.features.arrow_schema)
    if dataset.features != expected:
        raise DataError(f"the data set's columns are {dataset.features}, expected {expected}")
    if len(dataset) == 0:
        raise DataError("the data set has no episodes: give at least one")
    numbers = range(len(dataset)) if numbers is None else numbers
    _check_complete(dataset, columns)
    _check_lengths(dataset, columns, numbers)
    for name, kind in columns.items():
        if kind.dtype in ("float32", "float64") and _first_outside(dataset, name, numbers, -LARGE, LARGE):
            bad = _first_outside(dataset, name, numbers, -MAX_MAGNITUDE, MAX_MAGNITUDE)
            if bad and np.isfinite(bad.value):
                raise DataError(f"{bad.words}, too large to train on {bad.affected}")
            if bad:
                advice = "leave such episodes out with on_nonfinite='drop-episode'"
                raise DataError(f"{bad.words} {bad.affected}: {advice}", option="on_nonfinite")
            if warns and kind.of_steps:
                _say_if_coarse(dataset, name, spec.offsets.get(name, ()))
    for name, space in {**spec.observation_leaves, **spec.action_leaves}.items():
        is_observed = name in spec.observation_leaves
        if leaf_kind(space) in ("image", "text") or (isinstance(space, Box) and is_observed):
            continue  # environments are lax with the bounds of their observations, and nothing relies on them
        for key in (name, final_name(name)) if is_observed else (name,):
            bad = _first_outside(dataset, key, numbers, *_limits(space), may_be_missing=name in spec.missing)
            if bad:
                message = f"{bad.words}, outside {describe_space(space)} {bad.affected}"
                if not isinstance(space, Box):
                    raise DataError(message)
                raise DataError(f"{message}: clip them with clip_actions=True", option="clip_actions")


def _check_complete(dataset: Dataset, columns: Mapping[str, Column]) -> None:
    for name in (*columns, "terminated", "truncated", "text"):
        for chunk in arrow_chunks(dataset, name):
            while chunk.null_count == 0 and isinstance(chunk, pa.ListArray | pa.FixedSizeListArray):
                chunk = chunk.flatten()
            if chunk.null_count:
                raise DataError(f"{name} has {chunk.null_count} empty entries: every step needs one")


def _check_lengths(dataset: Dataset, columns: Mapping[str, Column], numbers: Sequence[int]) -> None:
    expected = lengths(dataset)
    if (expected < 1).any():
        raise DataError(f"episode {numbers[int(np.argmin(expected))]} has no steps: each needs at least one")
    for name, kind in columns.items():
        if not kind.of_steps:
            continue
        chunks = arrow_chunks(dataset, name)
        counts = np.concatenate([chunk.value_lengths().to_numpy() for chunk in chunks])
        wrong = np.flatnonzero(counts != expected)
        if len(wrong):
            first = int(wrong[0])
            raise DataError(
                f"episode {numbers[first]}: {name} has {counts[first]} steps, reward has {expected[first]} "
                f"({len(wrong)} of {len(expected)} episodes are affected)"
            )
        for chunk in chunks if kind.size is not None else []:
            if (chunk.flatten().value_lengths().to_numpy() != kind.size).any():
                raise DataError(f"{name} has a row that does not have {kind.size} entries")


def _limits(space: gymnasium.Space) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest value of each entry."""
    if not isinstance(space, Box):
        low, high = (np.broadcast_to(limit, space.shape or ()).reshape(-1) for limit in whole_limits(space))
        return low, high
    # Bounds and actions may have been rounded to float32 separately.
    slack = 1e-6 * np.maximum(1, np.maximum(np.abs(space.low), np.abs(space.high)))
    return (space.low - slack).reshape(-1), (space.high + slack).reshape(-1)


def _first_outside(
    dataset: Dataset, name: str, numbers: Sequence[int], low: Bound, high: Bound, *, may_be_missing: bool = False
) -> _Bad | None:
    """Return the first entry outside [low, high]; NaN is outside of everything, what is missing of nothing."""
    words, value, num_before, num_bad = "", 0.0, 0, 0
    masks = column(dataset, MISSING + name) if may_be_missing else None
    for index, chunk in enumerate(arrow_chunks(dataset, name)):
        values, first, num_before = flat(chunk), num_before, num_before + len(chunk)
        # Extremes first: no memory is needed for them, and nearly always they are all that is needed; those of all
        # entries at once are found much faster than those of each.
        axis = None if np.min(low) == np.max(low) and np.min(high) == np.max(high) else 0
        least, most = (values.min(axis=axis), values.max(axis=axis)) if len(values) else (low, high)
        if masks is None and np.all(least >= low) and np.all(most <= high):
            continue
        entries = values.reshape(len(values), -1)
        outside = ~((entries >= low) & (entries <= high))
        if masks is not None:
            outside &= masks[index].reshape(len(values), -1) == 0
        rows = np.flatnonzero(outside.any(axis=1))
        of_steps = isinstance(chunk, pa.ListArray)
        ends = np.cumsum(chunk.value_lengths().to_numpy()) if of_steps else np.arange(1, len(chunk) + 1)
        owners = np.searchsorted(ends, rows, side="right")
        if len(rows) and not words:
            row, owner, entry = int(rows[0]), int(owners[0]), int(np.argmax(outside[rows[0]]))
            step = f", step {row - (int(ends[owner - 1]) if owner else 0)}" if of_steps else ""
            place = f"[{entry}]" if values.ndim == 2 else ""
            value = float(entries[row, entry])
            words = f"episode {numbers[first + owner]}{step}: {name}{place} is {value:g}"
        num_bad += len(np.unique(owners))
    return _Bad(words, value, f"({num_bad} of {len(dataset)} episodes are affected)") if words else None


def _say_if_coarse(dataset: Dataset, name: str, offset: Sequence[float]) -> None:
    """Warn once of a column of steps in which distinct numbers fall together as they become float32."""
    for chunk in arrow_chunks(dataset, name):
        values = flat(chunk)
        values = values - np.asarray(offset) if len(offset) else values
        for entry, most, step in coarse_entries(values, np.cumsum(chunk.value_lengths().to_numpy())):
            place = f"[{entry}]" if values.ndim == 2 else ""
            less = f" less its offset of {offset[entry]:.17g}" if len(offset) else ""
            logger.warning(
                "%s%s%s has numbers near %g, float32 keeps them in steps of %g: closer ones are equal from here on; "
                "subtract an offset from all of them first, or name it in EnvironmentSpec.offsets",
                name, place, less, most, step,
            )  # fmt: skip
            return
