"""Returns to go: what is still to be earned at each timestep, of all episodes at once.

R_t = r_t + discount * R_(t+1)
"""

import numpy as np

from seqdec.errors import DataError, UsageError

LONG = 64  # timesteps from which on a sum an episode is quicker than the passes over all of them


def returns_to_go(
    rewards: np.ndarray, lengths: np.ndarray, discount: float = 1.0, delayed_reward: bool = False
) -> np.ndarray:
    """Return R_t = r_t + discount * R_(t+1) for every timestep of every episode: [timesteps] float32.

    Args:
        rewards: the rewards of all episodes, one episode after the other.
        lengths: the number of timesteps of each episode.
        discount: how much a reward one timestep later counts.
        delayed_reward: all reward is paid at the last timestep: R_t = discount**(T - 1 - t) * sum(rewards).
    """
    if not 0 < discount <= 1:
        raise UsageError(f"discount is {discount}: it must be above 0 and at most 1")
    lengths = _checked_lengths(rewards, lengths)
    totals = np.asarray(rewards, dtype=np.float64)
    totals = delay_rewards(totals, lengths) if delayed_reward else totals.copy()
    if discount == 1 and len(totals) > LONG * len(lengths):
        ends = np.cumsum(lengths)
        for begin, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True):
            totals[begin:end] = np.cumsum(totals[begin:end][::-1])[::-1]
        with np.errstate(over="ignore"):
            return totals.astype(np.float32)
    remaining = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(totals))
    # Doubling: each pass lets totals[t] cover twice as many rewards from t on, never past its episode's end.
    # No loop over timesteps for any discount, and no sum that mixes two episodes.
    reach, weight = 1, float(discount)
    while len(lengths) and reach < lengths.max():
        inside = np.flatnonzero(remaining > reach)
        totals[inside] += weight * totals[inside + reach]
        reach, weight = 2 * reach, weight * weight
    with np.errstate(over="ignore"):
        return totals.astype(np.float32)


def delay_rewards(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the rewards with each episode's sum at its last timestep and 0 before."""
    lengths = _checked_lengths(rewards, lengths)
    rewards = np.asarray(rewards)
    delayed = np.zeros_like(rewards)
    ends = np.cumsum(lengths)
    if len(ends):
        delayed[ends - 1] = np.add.reduceat(rewards.astype(np.float64), ends - lengths)
    return delayed


def _checked_lengths(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    lengths = np.asarray(lengths, dtype=np.int64)
    if (lengths < 1).any():
        raise DataError(f"an episode has {lengths.min()} steps: each needs at least one")
    if lengths.sum() != len(rewards):
        raise DataError(f"the episodes have {lengths.sum()} steps in all, there are {len(rewards)} rewards")
    return lengths
