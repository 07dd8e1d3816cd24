"""Which episodes: nested random parts, the best, a number of them; several data sets as one, with weights."""

import math
from collections.abc import Sequence

import datasets
import numpy as np
from datasets import Dataset

from seqdec.data.episode import METADATA
from seqdec.data.schema import environment_of, lengths, returns
from seqdec.errors import DataError, UsageError
from seqdec.spaces.space import describe_space, spaces_agree


def subset(
    dataset: Dataset,
    *,
    fraction: float | None = None,
    best: float | None = None,
    num_episodes: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Return some of the episodes, in their order; see `chosen` for the arguments."""
    return dataset.select(chosen(dataset, fraction=fraction, best=best, num_episodes=num_episodes, seed=seed).tolist())


def chosen(
    dataset: Dataset,
    *,
    fraction: float | None = None,
    best: float | None = None,
    num_episodes: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return the indices of some of the episodes, in order: the best first, then a part of those at random.

    Args:
        dataset: what to choose from.
        fraction: share of the episodes, drawn at random; of one seed, the smaller share is a part of the larger.
        best: share of the episodes, those of the highest return (filtered behaviour cloning, Chen et al. 2021);
            1 means all of them.
        num_episodes: how many, drawn at random; nested like `fraction`.
        seed: of the draw.

    Raises:
        UsageError: a share outside (0, 1], or a number of episodes that are not there.
    """
    for name, share in (("fraction", fraction), ("best", best)):
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"{name} is {share:g}: give a share above 0 and at most 1")
    rows = np.arange(len(dataset))
    if best is not None:
        # of equal returns the earlier episode counts as better: a stable order
        ranked = np.argsort(-returns(dataset), kind="stable")
        rows = ranked[: math.ceil(best * len(rows))]
    drawn = np.random.default_rng(seed).permutation(np.sort(rows))
    if fraction is not None:
        drawn = drawn[: math.ceil(fraction * len(drawn))]
    if num_episodes is not None:
        if not 1 <= num_episodes <= len(drawn):
            raise UsageError(f"{num_episodes} episodes were asked for, there are {len(drawn)}: give 1 to {len(drawn)}")
        drawn = drawn[:num_episodes]
    return np.sort(drawn)


def mix(parts: Sequence[Dataset], weights: Sequence[float] | None = None) -> tuple[Dataset, np.ndarray]:
    """Return data sets of one environment as one, and a weight for each episode.

    Args:
        parts: data sets whose spaces agree; the first one's environment speaks for all, and metadata that not all of
            them have, or not of one type, is left out.
        weights: the share of the windows that each part gets, in any unit; by default every timestep counts alike.

    Returns:
        the data set, and a weight for each episode, to be given to `Windows(weights=...)`.

    Raises:
        UsageError: the spaces differ (both are shown), or the weights do not fit.
    """
    if not parts:
        raise UsageError("no data sets to mix: give at least one")
    specs = [environment_of(part) for part in parts]
    for index, spec in enumerate(specs[1:], start=1):
        for side in ("observation", "action"):
            first, other = (getattr(each, f"{side}_space") for each in (specs[0], spec))
            if not spaces_agree(first, other, with_bounds=side == "action"):
                raise UsageError(
                    f"the first data set has {side}s {describe_space(first)}, number {index + 1} has "
                    f"{describe_space(other)}: name their tasks in a dict, or give data sets of one environment"
                )
        if spec.offsets.keys() != specs[0].offsets.keys():
            name = next(iter(spec.offsets.keys() ^ specs[0].offsets.keys()))
            raise UsageError(
                f"only some of the data sets have an offset of {name}, whose numbers are too large for float32: name "
                "one in the EnvironmentSpec.offsets of all"
            )
        if set(spec.missing) != set(specs[0].missing):
            first, other = (", ".join(each.missing) or "nothing" for each in (specs[0], spec))
            raise UsageError(
                f"in the first data set {first} may be missing, in number {index + 1} {other}: make them again with "
                "the same missing=...",
                option="missing",
            )
    sizes = [len(part) for part in parts]
    shares = np.ones(sum(sizes))
    if weights is not None:
        wishes = np.asarray(weights, np.float64)
        if wishes.shape != (len(parts),) or not np.isfinite(wishes).all() or (wishes < 0).any() or wishes.sum() == 0:
            raise UsageError(
                f"weights are {wishes.tolist()} for {len(parts)} data sets: one each, at least 0, not all 0"
            )
        shares = np.repeat(wishes / [lengths(part).sum() for part in parts], sizes)
    if len(parts) == 1:
        return parts[0], shares
    first = parts[0].features
    common = [name for name, kind in first.items() if all(part.features.get(name) == kind for part in parts)]
    for part in parts:
        left_out = [name for name in part.column_names if name not in common]
        if any(not name.startswith(METADATA) for name in left_out):
            raise DataError(f"a data set has the column {left_out[0]!r}, another has not: make them again alike")
    merged = datasets.concatenate_datasets([part.select_columns(common) for part in parts])
    merged.info.description = parts[0].info.description
    return merged, shares
