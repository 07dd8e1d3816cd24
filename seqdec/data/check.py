"""What a data set must be to be trained on; the first offender is named, and how many episodes are like it."""

from collections.abc import Mapping, Sequence

import gymnasium
import numpy as np
import pyarrow as pa
from datasets import Dataset
from gymnasium.spaces import Box

from seqdec.data.episode import final_name
from seqdec.data.schema import Column, arrow_chunks, columns_of, environment_of, features_of, flat, lengths
from seqdec.errors import DataError
from seqdec.spaces.leaves import MISSING, leaf_kind
from seqdec.spaces.space import describe_space, whole_limits

# Squares and sums of larger numbers leave float32.
MAX_MAGNITUDE = 1e18


def check(dataset: Dataset, numbers: Sequence[int] | None = None) -> None:
    """Refuse a data set that cannot be trained on; `numbers` name its episodes, by default their places.

    Raises:
        DataError: it is empty, has other columns, arrays of unequal length, entries that are missing, not
            finite or too large, or actions outside their space; with the first offender and how many there are.
    """
    spec = environment_of(dataset)
    columns = columns_of(spec)
    expected = features_of(spec, dataset.features)
    if dataset.features != expected:
        raise DataError(f"the data set's columns are {dataset.features}, expected {expected}")
    if len(dataset) == 0:
        raise DataError("the data set has no episodes: give at least one")
    num_episodes = len(dataset)
    numbers = range(num_episodes) if numbers is None else numbers
    _check_complete(dataset, columns)
    _check_lengths(dataset, columns, numbers)
    for name, kind in columns.items():
        if kind.dtype != "float32":
            continue
        first, bad, what = _bad_entries(dataset, name, numbers, -MAX_MAGNITUDE, MAX_MAGNITUDE)
        if bad:
            affected = f"({bad} of {num_episodes} episodes are affected)"
            if "large" in what:
                raise DataError(f"{first}{what} {affected}")
            advice = "leave such episodes out with on_nonfinite='drop-episode'"
            raise DataError(f"{first}{what} {affected}: {advice}", option="on_nonfinite")
    for name, space in {**spec.observation_leaves, **spec.action_leaves}.items():
        if leaf_kind(space) in ("image", "text") or (isinstance(space, Box) and name in spec.observation_leaves):
            continue  # environments are lax with the bounds of their observations, and nothing relies on them
        low, high = _limits(space)
        for key in (name, final_name(name)) if name in spec.observation_leaves else (name,):
            first, bad, what = _bad_entries(dataset, key, numbers, low, high, missing=name in spec.missing)
            if bad:
                message = (
                    f"{first}{what}, outside {describe_space(space)} ({bad} of {num_episodes} episodes are affected)"
                )
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
        found = np.concatenate([chunk.value_lengths().to_numpy() for chunk in chunks])
        wrong = np.flatnonzero(found != expected)
        if len(wrong):
            first = int(wrong[0])
            raise DataError(
                f"episode {numbers[first]}: {name} has {found[first]} steps, reward has {expected[first]} "
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


def _bad_entries(
    dataset: Dataset,
    name: str,
    numbers: Sequence[int],
    low: np.ndarray | float,
    high: np.ndarray | float,
    *,
    missing: bool = False,
) -> tuple[str, int, str]:
    """Return where the first entry outside [low, high] is, how many episodes have one, and what it is.

    What is not missing must be inside; NaN is outside of everything.
    """
    first, what, num_before, num_bad = "", "", 0, 0
    masks = [flat(chunk) for chunk in arrow_chunks(dataset, MISSING + name)] if missing else []
    for index, chunk in enumerate(arrow_chunks(dataset, name)):
        values = flat(chunk)
        # Extremes first: no memory is needed for them, and nearly always they are all that is needed; those of all
        # entries at once are found much faster than those of each.
        axis = None if np.min(low) == np.max(low) and np.min(high) == np.max(high) else 0
        least, most = (values.min(axis=axis), values.max(axis=axis)) if len(values) else (low, high)
        if missing or not (np.all(least >= low) and np.all(most <= high)):
            bad = ~((values >= low) & (values <= high))
            if missing:
                bad &= masks[index].reshape(len(values), -1) == 0 if bad.ndim == 2 else masks[index] == 0
            rows = np.flatnonzero(bad.any(axis=1) if bad.ndim == 2 else bad)
            of_steps = isinstance(chunk, pa.ListArray)
            ends = np.cumsum(chunk.value_lengths().to_numpy()) if of_steps else np.arange(1, len(chunk) + 1)
            owners = np.searchsorted(ends, rows, side="right")
            if len(rows) and not first:
                first, what = _first_bad(values, bad, ends, int(rows[0]), numbers[num_before:], name, of_steps)
            num_bad += len(np.unique(owners))
        num_before += len(chunk)
    return first, num_bad, what


def _first_bad(
    values: np.ndarray,
    bad: np.ndarray,
    ends: np.ndarray,
    row: int,
    numbers: Sequence[int],
    name: str,
    of_steps: bool,
) -> tuple[str, str]:
    owner = int(np.searchsorted(ends, row, side="right"))
    step = row - (int(ends[owner - 1]) if owner else 0)
    entry = int(np.flatnonzero(bad[row])[0]) if bad.ndim == 2 else None
    value = values[row] if entry is None else values[row, entry]
    place = f", step {step}" if of_steps else ""
    first = f"episode {numbers[owner]}{place}: {name}" + ("" if entry is None else f"[{entry}]")
    large = ", too large to train on" if np.isfinite(value) and abs(float(value)) > MAX_MAGNITUDE else ""
    return first, f" is {value:g}{large}"
