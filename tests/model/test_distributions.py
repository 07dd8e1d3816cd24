"""Distributions: every number worked out by hand, and each transformation on the smallest example that shows it."""

import math

import pytest
import torch

from seqdec.model.distributions import Bins, Categorical, CensoredGaussian, Numbers, Point

INF = math.inf


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def gaussian(mean: list[float], std: list[float], low=-INF, high=INF, shift=0.0, scale=1.0) -> CensoredGaussian:
    """Of vectors with one entry, [n, 1]."""
    bounds = [torch.tensor([value]) for value in (low, high, shift, scale)]
    return CensoredGaussian(torch.tensor(mean)[:, None], torch.tensor(std)[:, None].log(), *bounds)


def histogram(*probabilities: float, edges=(0.0, 2.0, 6.0, 8.0), low=-INF, high=INF) -> Categorical:
    """Of vectors with one entry, [1, 1]."""
    bins = Bins(torch.tensor([edges]), torch.tensor([len(edges) - 1]), torch.tensor([low]), torch.tensor([high]))
    return Categorical(torch.tensor([[probabilities]]).log(), bins)


def number(*probabilities: float, start: int = 0) -> Categorical:
    """Of single whole numbers, [1]."""
    return Categorical(torch.tensor([probabilities]).log(), Numbers(torch.tensor([start])), is_vector=False)


def test_a_number_falls_as_far_into_a_bin_as_into_its_probability():
    distribution = histogram(0.25, 0.5, 0.25)
    for uniform, expected in ((0.125, 1.0), (0.25, 2.0), (0.5, 4.0), (0.9375, 7.5)):
        assert distribution.sample(row(uniform)).item() == pytest.approx(expected, abs=1e-5)
    assert distribution.mode().item() == 4.0
    assert histogram(0.25, 0.5, 0.25, low=5.0).mode().item() == 5.0
    assert histogram(0.25, 0.5, 0.25, high=3.0).mode().item() == 3.0


def test_a_bin_has_a_density_and_a_bin_of_one_value_a_probability():
    after = torch.nextafter(torch.tensor(2.0), torch.tensor(INF)).item()
    distribution = histogram(0.25, 0.5, 0.25, edges=(0.0, 2.0, after, 8.0))
    for value, expected in ((1.0, 0.25 / 2), (2.0, 0.5), (5.0, 0.25 / 6), (-3.0, 0.25 / 2), (9.0, 0.25 / 6)):
        assert distribution.log_prob(row(value)).exp().item() == pytest.approx(expected, rel=1e-5)
    assert distribution.loss(row(5.0)).item() == pytest.approx(-math.log(0.25), abs=1e-5)
    for uniform in (0.26, 0.5, 0.74):
        assert distribution.sample(row(uniform)).item() == pytest.approx(2.0, abs=1e-6)


def test_several_draws_are_those_drawn_one_by_one():
    uniform = torch.rand(5, 1, 1, generator=torch.Generator().manual_seed(0))
    for distribution in (histogram(0.2, 0.3, 0.5), gaussian([1.0], [2.0]), Point(*[torch.ones(1, 1)] * 4)):
        several = distribution.sample(uniform)
        assert several.shape == (5, 1, 1)
        assert torch.equal(several, torch.stack([distribution.sample(numbers) for numbers in uniform]))


def test_whole_numbers_are_drawn_by_the_inverse_of_their_distribution():
    distribution = number(0.25, 0.5, 0.25, start=3)
    for uniform, expected in ((0.24, 3), (0.26, 4), (0.74, 4), (0.76, 5)):
        assert distribution.sample(torch.tensor([uniform])).item() == expected
    assert distribution.mode().item() == 4
    assert distribution.log_prob(torch.tensor([4])).item() == pytest.approx(math.log(0.5))
    assert distribution.loss(torch.tensor([5])).item() == pytest.approx(-math.log(0.25))


def test_a_number_on_an_edge_falls_into_what_comes_next_so_that_nothing_impossible_is_drawn():
    assert number(0.5, 0.5).sample(torch.tensor([0.5])).item() == 1
    assert number(0.0, 0.5, 0.5).sample(torch.tensor([0.0])).item() == 1


def test_entries_add_their_log_probabilities_and_average_their_losses():
    numbers = Numbers(torch.tensor([0, 5]))
    pair = Categorical(torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]).log(), numbers)
    assert pair.log_prob(torch.tensor([[0, 6]])).item() == pytest.approx(math.log(0.25 * 0.5))
    assert pair.loss(torch.tensor([[0, 6]])).item() == pytest.approx(-math.log(0.25 * 0.5) / 2)


def test_numbers_outside_count_as_the_nearest_only_where_a_value_may_be_missing():
    closed = Numbers(torch.tensor([2, 0]), torch.tensor([3, 1]))
    assert closed.index(torch.tensor([[-7, 9], [4, 1]])).tolist() == [[0, 1], [2, 1]]
    with pytest.raises(RuntimeError):
        number(0.5, 0.5).log_prob(torch.tensor([2]))


def test_temperature_raises_probabilities_to_its_inverse():
    cold = number(0.2, 0.8).tempered(0.5)
    assert cold.log_prob(torch.tensor([1])).exp().item() == pytest.approx(0.64 / (0.64 + 0.04), abs=1e-6)
    warm = histogram(0.1, 0.1, 0.8).tempered(3.0)
    expected = 0.8 ** (1 / 3) / (0.8 ** (1 / 3) + 2 * 0.1 ** (1 / 3))
    assert warm.loss(row(7.0)).exp().item() == pytest.approx(1 / expected, rel=1e-5)


def test_temperature_moves_a_gaussian_sample_in_proportion_from_the_mean():
    uniform = row(0.9)
    distance = gaussian([1.0], [2.0]).sample(uniform).item() - 1.0
    assert distance == pytest.approx(2 * 1.2815516, abs=1e-4)
    assert gaussian([1.0], [2.0]).tempered(0.25).sample(uniform).item() - 1.0 == pytest.approx(distance / 4, abs=1e-5)


def test_the_k_most_likely_stay_with_all_that_are_as_likely_as_the_last():
    def probabilities(k: int) -> list[float]:
        return number(0.1, 0.2, 0.2, 0.5).top_k(k).log_prob(torch.arange(4)).exp().tolist()

    assert probabilities(1) == [0.0, 0.0, 0.0, 1.0]
    assert probabilities(2) == probabilities(3) == pytest.approx([0.0, 2 / 9, 2 / 9, 5 / 9])
    assert probabilities(4) == probabilities(9) == pytest.approx([0.1, 0.2, 0.2, 0.5])
    for distribution in (gaussian([1.0], [2.0]), Point(*[torch.ones(1, 1)] * 4)):
        assert distribution.top_k(2) is distribution


def test_guidance_multiplies_by_the_ratio_to_each_weight_and_keeps_what_is_impossible():
    logits = torch.tensor([[[0.5, 0.5, 0.0]], [[0.25, 0.75, 0.0]], [[0.5, 0.5, 0.0]]]).log()
    numbers = Numbers(torch.tensor([0]))
    found = Categorical(logits, numbers, is_vector=False).guided(torch.tensor([2.0, 7.0]))
    first, second = 0.5 * (0.5 / 0.25) ** 2, 0.5 * (0.5 / 0.75) ** 2  # the third distribution adds nothing
    expected = [first / (first + second), second / (first + second), 0.0]
    assert found.log_prob(torch.arange(3)).exp().tolist() == pytest.approx(expected)


def test_guided_gaussians_add_precisions_and_keep_a_quarter_of_the_first():
    wide = gaussian([0.5, 2.0], [1.0, 2.0]).guided(torch.tensor([1.0]))  # precisions 1 and 1/4
    assert wide.log_std.exp().item() == pytest.approx(1.75**-0.5)
    assert wide.mean.item() == pytest.approx((2 * 0.5 - 2.0 / 4) / 1.75)
    narrow = gaussian([0.5, 2.0], [1.0, 0.5]).guided(torch.tensor([1.0]))  # 1 - 3 would be left: a quarter of the way
    assert narrow.log_std.exp().item() == pytest.approx(2.0)
    assert narrow.mean.item() == pytest.approx((0.5 + 0.25 * (0.5 - 8.0)) / 0.25)


def test_points_are_gaussians_of_the_data_whose_sample_is_the_mean():
    low, high, scale = torch.tensor([-1.0]), torch.tensor([3.0]), torch.tensor([2.0])
    point = Point(torch.tensor([[1.0]]), low, high, scale)
    assert point.loss(row(2.0)).item() == pytest.approx(0.25)
    expected = torch.distributions.Normal(1.0, 2.0).log_prob(torch.tensor(2.0))
    assert point.log_prob(row(2.0)).item() == pytest.approx(expected.item())
    assert point.sample(row(0.9)).item() == point.mode().item() == point.tempered(3.0).mode().item() == 1.0
    pair = Point(torch.tensor([[[1.0]], [[0.5]]]), low, high, scale)
    assert pair.guided(torch.tensor([2.0])).mode().item() == pytest.approx(2.0)
    assert pair.guided(torch.tensor([9.0])).mode().item() == 3.0


def test_log_probabilities_are_in_raw_units_and_masses_on_bounds_have_none():
    inside, bounded = gaussian([0.0], [1.0], scale=4.0, shift=1.0), gaussian([0.0], [1.0], -3.0, 9.0, 1.0, 4.0)
    normal = torch.distributions.Normal(1.0, 4.0)
    for value in (1.0, 5.0, -2.9):
        for distribution in (inside, bounded):
            assert distribution.log_prob(row(value)).item() == pytest.approx(
                normal.log_prob(torch.tensor(value)).item()
            )
            expected = -normal.log_prob(torch.tensor(value)).item() - math.log(4.0)
            assert distribution.loss(row(value)).item() == pytest.approx(expected, abs=1e-5)
    below, above = normal.cdf(torch.tensor(-3.0)).item(), 1 - normal.cdf(torch.tensor(9.0)).item()
    for value, mass in ((-3.0, below), (-4.0, below), (9.0, above), (10.0, above)):
        assert bounded.log_prob(row(value)).exp().item() == pytest.approx(mass, rel=1e-4)
        assert bounded.loss(row(value)).item() == pytest.approx(-math.log(mass), rel=1e-4)
    assert bounded.sample(row(0.999)).item() == 9.0 and bounded.sample(row(0.001)).item() == -3.0
    assert bounded.mode().item() == 1.0
