"""Random numbers of its own for every sequence, by its key, so that what a sequence samples depends on no other.

The numbers are a hash (SplitMix64, Steele et al. 2014) of the key, of how many draws came before, and of the entry.
So episode i is the same whether it is played alone or beside a thousand others, and whoever else has ended.
"""

import numpy as np
import torch
from torch import Tensor

ENTRIES = np.uint64(1 << 32)  # more than any value has


def keys(seed: int, first: int, count: int) -> np.ndarray:
    """Return the keys of sequences `first` to `first + count - 1` of a seed, uint64 [count]."""
    root = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    return _hash(root + _hash(np.arange(first, first + count, dtype=np.uint64)))


def branches(keys: np.ndarray, num_branches: int) -> np.ndarray:
    """Return `num_branches` keys for each one, in a row; the first of them is the key itself."""
    numbers = np.tile(np.arange(num_branches, dtype=np.uint64), len(keys))
    repeated = np.repeat(keys, num_branches)
    return np.where(numbers == 0, repeated, _hash(repeated ^ _hash(numbers + ENTRIES)))


def uniform(keys: np.ndarray, first: int, count: int, size: int, device: torch.device) -> Tensor:
    """Return numbers strictly between 0 and 1, float32 [count, B, size]: `size` for each draw from `first` on."""
    draws = np.arange(first, first + count, dtype=np.uint64)[:, None] * ENTRIES
    entries = draws + np.arange(size, dtype=np.uint64)  # [count, size]
    bits = _hash(keys[:, None] ^ _hash(entries)[:, None])
    numbers = ((bits >> np.uint64(40)).astype(np.float32) + np.float32(0.5)) / np.float32(1 << 24)
    return torch.from_numpy(numbers.clip(1e-7, 1 - 1e-7)).to(device)


class Draws:
    """The draws of a batch of sequences, one after the other; numbers are made many draws at a time.

    Args:
        keys: of the sequences, uint64 [B].
        device: of the numbers.
        num_draws: that came before.
    """

    BLOCK = 32  # draws, because a call costs more than its work

    def __init__(self, keys: np.ndarray, device: torch.device, num_draws: int = 0):
        self.keys, self._device, self._num_draws = keys, device, num_draws
        self._blocks: dict[int, tuple[int, Tensor]] = {}  # by size: the first draw of a block, and its numbers

    def next(self, size: int) -> Tensor:
        """Return numbers strictly between 0 and 1, [B, size]."""
        first, block = self._blocks.get(size, (-self.BLOCK, torch.empty(0)))
        if self._num_draws >= first + self.BLOCK:
            first = self._num_draws
            block = uniform(self.keys, first, self.BLOCK, size, self._device)
            self._blocks[size] = first, block
        self._num_draws += 1
        return block[self._num_draws - 1 - first]

    def skip(self) -> None:
        """Count a draw whose numbers nobody needs."""
        self._num_draws += 1

    def by(self, keys: np.ndarray) -> "Draws":
        """Return the draws that go on for sequences of these keys."""
        return Draws(keys, self._device, self._num_draws)


def fractions(keys: np.ndarray, count: int) -> np.ndarray:
    """Return numbers from 0 to below 1, float64 [B, count], by whole numbers as keys, int64 [B]."""
    bits = _hash(keys.astype(np.uint64)[:, None] ^ _hash(np.arange(count, dtype=np.uint64) + ENTRIES))
    return (_hash(bits) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _hash(values: np.ndarray) -> np.ndarray:
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
