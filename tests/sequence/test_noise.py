"""Keys of random numbers: uniform, independent, and their own."""

import numpy as np
import torch

from seqdec.sequence import noise

CPU = torch.device("cpu")


def test_numbers_are_uniform_and_uncorrelated_between_keys_draws_and_entries():
    keys = noise.keys(0, 0, 2000)
    numbers = noise.uniform(keys, 0, 5, 4, CPU).transpose(0, 1).flatten(1).numpy()  # [2000, 20]
    assert numbers.min() > 0 and numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    expected = numbers.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # the 0.999 quantile with 19 degrees of freedom
    correlation = np.corrcoef(numbers.T) - np.eye(20)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)
    neighbours = np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(numbers.size)


def test_a_key_does_not_depend_on_how_many_are_made_with_it():
    assert noise.keys(3, 0, 10)[7] == noise.keys(3, 7, 1)[0]
    assert noise.keys(4, 7, 1)[0] != noise.keys(3, 7, 1)[0]


def test_the_first_branch_is_the_key_and_the_others_are_new():
    keys = noise.keys(0, 0, 3)
    branches = noise.branches(keys, 4)
    assert (branches[::4] == keys).all() and len(set(branches.tolist())) == 12
    assert (noise.branches(keys, 1) == keys).all()


def test_a_draw_does_not_depend_on_how_many_are_made_at_once():
    keys = noise.keys(0, 0, 6)
    together = noise.uniform(keys, 3, 9, 2, CPU)
    alone = torch.cat([noise.uniform(keys[[4]], 3 + draw, 1, 2, CPU) for draw in range(9)])
    assert torch.equal(together[:, [4]], alone)
