"""Codecs: losses and probabilities worked out by hand, samples that follow them, statistics that travel."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from seqdec.errors import DataError
from seqdec.model.codecs import MAX_LOG_STD, MIN_LOG_STD, Binned, Discrete, Gaussian, Regression, bin_edges, build_codec
from seqdec.sequence.variable import Variable

WIDTH = 8


def fitted(kind: str, values: np.ndarray, **options):
    torch.manual_seed(0)
    size = options.pop("size", values.shape[-1] if values.ndim > 1 else 3)
    codec = build_codec(Variable("x", kind, size, 1.0, **options), WIDTH, 0.1)  # pyright: ignore
    codec.fit(values)
    return codec


def say(codec, outputs: list[float]) -> torch.Tensor:
    """A hidden state [1, D] for which the codec's head gives these numbers."""
    nn.init.zeros_(codec.head.weight)
    codec.head.bias.data.copy_(torch.tensor(outputs))
    return torch.zeros(1, WIDTH)


def numbers(*shape: int) -> torch.Tensor:
    """Uniform random numbers."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).clamp(1e-6, 1 - 1e-6)


def log_std_output(log_std: float) -> float:
    share = (log_std - MIN_LOG_STD) / (MAX_LOG_STD - MIN_LOG_STD)
    return math.log(share / (1 - share))


def test_gaussian_loss_and_log_prob_equal_the_formula():
    values = np.array([[0.0], [4.0]], np.float32)  # mean 2, deviation 2
    codec = fitted("gaussian", values)
    hidden = say(codec, [0.5, log_std_output(math.log(0.25))])  # mean 2 + 0.5 * 2 = 3, deviation 0.5
    value = torch.tensor([[3.25]])
    expected = -0.5 * (0.25 / 0.5) ** 2 - math.log(0.5 * math.sqrt(2 * math.pi))
    assert codec.predict(hidden).log_prob(value).item() == pytest.approx(expected, abs=1e-5)
    assert codec.predict(hidden).loss(value).item() == pytest.approx(-expected - math.log(2), abs=1e-5)


def test_actions_on_a_bound_have_the_probability_of_all_that_lies_beyond():
    values = np.array([[-1.0], [1.0]], np.float32)
    codec = fitted("gaussian", values, low=(-1.0,), high=(1.0,))
    hidden = say(codec, [0.5, log_std_output(math.log(0.5))])
    beyond = 0.5 * math.erfc((1.0 - 0.5) / 0.5 / math.sqrt(2))
    assert codec.predict(hidden).log_prob(torch.tensor([[1.0]])).item() == pytest.approx(math.log(beyond), abs=1e-5)
    below = 0.5 * math.erfc((1.0 + 0.5) / 0.5 / math.sqrt(2))
    assert codec.predict(hidden).log_prob(torch.tensor([[-1.0]])).item() == pytest.approx(math.log(below), abs=1e-4)


def test_censored_density_and_masses_add_up_to_one():
    codec = fitted("gaussian", np.array([[-1.0], [1.0]], np.float32), low=(-1.0,), high=(2.0,))
    hidden = say(codec, [0.8, log_std_output(0.0)])
    grid = torch.linspace(-1, 2, 20001)[1:-1, None]
    density = codec.predict(hidden.expand(len(grid), -1)).log_prob(grid).exp().sum().item() * 3 / 20000
    masses = sum(codec.predict(hidden).log_prob(torch.tensor([[bound]])).exp().item() for bound in (-1.0, 2.0))
    assert density + masses == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", ["gaussian", "mse", "binned"])
def test_samples_never_leave_their_bounds(kind: str):
    rng = np.random.default_rng(0)
    codec = fitted(kind, rng.uniform(-2, 2, (500, 2)).astype(np.float32), low=(-2.0, -2.0), high=(2.0, 2.0))
    codec.head.weight.data.normal_(std=100)
    sample = codec.predict(torch.randn(1000, WIDTH)).sample(numbers(1000, 2))
    assert sample.abs().max() <= 2.0


def test_infinite_bounds_give_finite_losses_and_gradients():
    codec = fitted("gaussian", np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32), low=(-math.inf, 0.0))
    loss = codec.predict(torch.randn(4, WIDTH)).loss(torch.tensor([[1.0, 0.0]] * 4)).sum()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in codec.parameters() if p.grad is not None)


@pytest.mark.parametrize("bound", [-1.0, 1.0])
def test_a_prediction_far_from_an_action_on_its_bound_keeps_a_finite_gradient(bound: float):
    codec = fitted("gaussian", np.array([[-1.0], [1.0]], np.float32), low=(-1.0,), high=(1.0,))
    hidden = say(codec, [-4e5 * bound, -20.0])
    loss = codec.predict(hidden).loss(torch.tensor([[bound]])).sum()
    loss.backward()
    assert loss.item() == pytest.approx(3e3**2 / 2, rel=1e-3) and codec.head.bias.grad.isfinite().all()


def test_gaussian_samples_have_the_predicted_moments():
    codec = fitted("gaussian", np.array([[0.0], [4.0]], np.float32))
    hidden = say(codec, [0.5, log_std_output(math.log(0.25))]).expand(40000, -1)
    sample = codec.predict(hidden).sample(numbers(40000, 1))
    assert sample.mean().item() == pytest.approx(3.0, abs=0.02)
    assert sample.std().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(codec.predict(hidden).mode(), torch.full((40000, 1), 3.0))


def test_regression_loss_is_the_squared_error_of_normalised_values():
    codec = fitted("mse", np.array([[0.0], [4.0]], np.float32))
    hidden = say(codec, [0.5])
    assert codec.predict(hidden).loss(torch.tensor([[2.0]])).item() == pytest.approx(0.25)
    assert codec.predict(hidden).sample(numbers(1, 1)).item() == pytest.approx(3.0)


def test_bounded_regression_ends_in_a_tanh():
    codec = fitted("mse", np.array([[-2.0], [2.0]], np.float32), low=(-2.0,), high=(2.0,))
    assert codec.predict(say(codec, [0.7])).sample(numbers(1, 1)).item() == pytest.approx(2 * math.tanh(0.7), abs=1e-6)


def test_regression_squashes_entries_with_two_bounds_and_clips_the_others():
    values = np.array([[-2.0, -2.0, -2.0], [2.0, 2.0, 2.0]], np.float32)
    codec = fitted("mse", values, low=(-2.0, -math.inf, -math.inf), high=(2.0, math.inf, 0.5))
    mean = codec.predict(say(codec, [0.7, 0.7, 0.7])).mode()[0]
    assert mean.tolist() == pytest.approx([2 * math.tanh(0.7), 1.4, 0.5], abs=1e-6)


def test_read_outs_start_nearly_indifferent():
    variable = Variable("x", "binned", 4, 1.0, num_bins=64)
    for width in (128, 512):
        weight = build_codec(variable, width, 0.1).head.weight  # pyright: ignore
        assert weight.std().item() == pytest.approx(0.02 * math.sqrt(128 / width), rel=0.05)  # pyright: ignore


def test_quantile_bins_end_at_values_of_the_data_and_a_value_that_is_two_quantiles_has_its_own():
    after = np.nextafter(np.array([3, 8, 25], np.float32), np.float32(np.inf)).tolist()
    common = bin_edges(np.array([0, 1, 2, 3, 3, 3, 3, 7, 8], np.float32), 4, "quantile")
    assert common.tolist() == [0.0, 2.0, 3.0, after[0], after[1]]
    assert bin_edges(np.array([0, 1, 4, 9, 16, 25], np.float32), 2, "quantile").tolist() == [0.0, 4.0, after[2]]


def test_binned_probabilities_are_those_of_the_bins():
    values = np.linspace(0, 8, 801, dtype=np.float32)[:, None]
    codec = fitted("binned", values, num_bins=4)
    assert isinstance(codec, Binned)
    assert codec.edges[0, :5].tolist() == pytest.approx([0, 2, 4, 6, 8])
    hidden = say(codec, [math.log(4.0), 0.0, 0.0, 0.0, *[9.0] * 4])  # unused bins shout in vain
    assert codec.predict(hidden).loss(torch.tensor([[1.0]])).item() == pytest.approx(-math.log(4 / 7), abs=1e-5)
    assert codec.predict(hidden).log_prob(torch.tensor([[7.0]])).item() == pytest.approx(math.log(1 / 7 / 2), abs=1e-5)


def test_a_value_that_is_common_gets_a_bin_of_its_own_and_is_sampled_exactly():
    rng = np.random.default_rng(0)
    values = np.clip(rng.normal(size=(4000, 1)), -1, 1).astype(np.float32)
    codec = fitted("binned", values, num_bins=16, low=(-1.0,), high=(1.0,))
    torch.nn.init.zeros_(codec.head.weight)
    at_bound = np.mean(values == 1.0)
    optimizer = torch.optim.Adam([codec.head.bias], lr=0.1)
    for _ in range(200):  # learn the distribution of the values themselves
        optimizer.zero_grad()
        codec.predict(torch.zeros(4000, WIDTH)).loss(torch.from_numpy(values)).mean().backward()
        optimizer.step()
    sample = codec.predict(torch.zeros(4000, WIDTH)).sample(numbers(4000, 1))
    assert (sample == 1.0).float().mean().item() == pytest.approx(at_bound, abs=0.03)
    assert codec.predict(torch.zeros(1, WIDTH)).log_prob(torch.ones(1, 1)).exp().item() == pytest.approx(
        at_bound, abs=0.02
    )


def test_uniform_bins_are_equally_wide():
    values = np.random.default_rng(0).exponential(size=(500, 1)).astype(np.float32)
    codec = fitted("binned", values, num_bins=8, bins="uniform")
    widths = codec.edges[0, :9].diff()
    assert widths.max().item() == pytest.approx(widths.min().item(), rel=1e-3)


def test_discrete_values_count_from_their_start():
    codec = fitted("discrete", np.array([5, 6, 7]), size=3, start=5)
    hidden = say(codec, [0.0, math.log(3.0), 0.0])
    assert codec.predict(hidden).log_prob(torch.tensor([6])).item() == pytest.approx(math.log(0.6), abs=1e-6)
    assert codec.predict(hidden).mode().item() == 6
    draws = codec.predict(hidden).sample(numbers(20000, 1))[:, 0]
    assert (draws == 6).float().mean().item() == pytest.approx(0.6, abs=0.02)


def test_temperature_and_top_k_sharpen():
    codec = fitted("discrete", np.array([0, 1, 2]), size=3)
    hidden = say(codec, [0.0, math.log(2.0), math.log(4.0)]).expand(20000, -1)
    cold = codec.predict(hidden).tempered(0.5).sample(numbers(20000))
    assert (cold == 2).float().mean().item() == pytest.approx(16 / 21, abs=0.02)
    two = codec.predict(hidden).top_k(2).sample(numbers(20000))
    assert (two == 0).sum() == 0 and (two == 1).float().mean().item() == pytest.approx(1 / 3, abs=0.02)


def test_several_whole_numbers_are_predicted_one_by_one_whatever_their_number_of_values():
    codec = fitted("multi_discrete", np.array([[0, 4, 7], [1, 6, 7]]), size=3, sizes=(2, 3, 1), starts=(0, 4, 7))
    distribution = codec.predict(say(codec, [0.0, math.log(3.0), 0.0, math.log(2.0), 0.0, 9.0]))
    assert distribution.log_prob(torch.tensor([[1, 5, 7]])).item() == pytest.approx(math.log(3 / 4 / 2), abs=1e-6)
    assert distribution.loss(torch.tensor([[1, 5, 7]])).item() == pytest.approx(-math.log(3 / 8) / 3, abs=1e-6)
    assert distribution.mode().tolist() == [[1, 5, 7]]
    draws = distribution.sample(numbers(20000, 1, 3))[:, 0]
    assert draws.amin(0).tolist() == [0, 4, 7] and draws.amax(0).tolist() == [1, 6, 7]
    embeddings = codec.embed(torch.tensor([[1, 6, 7]]))[0]
    assert torch.allclose(embeddings, codec.embedding.weight[[1, 4, 5]].sum(0))


@pytest.mark.parametrize("optional", [False, True])
def test_whole_numbers_that_are_missing_may_stand_outside_their_space(optional: bool):
    codecs = [
        (fitted("discrete", np.array([5, 6, 7]), size=3, start=5, optional=optional), torch.tensor([0, 9, 6])),
        (
            fitted("multi_discrete", np.array([[5, 1]]), size=2, sizes=(3, 1), starts=(5, 1), optional=optional),
            torch.tensor([[0, 0], [9, 9], [6, 1]]),
        ),
    ]
    for codec, values in codecs:
        distribution = codec.predict(torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0)))
        if optional:
            inside = values.clamp(torch.tensor([5, 1][: values.ndim]), torch.tensor([7, 1][: values.ndim]))
            assert torch.equal(distribution.loss(values), distribution.loss(inside))
        else:
            with pytest.raises(RuntimeError):
                distribution.loss(values)


def test_the_scale_of_a_gaussian_has_limits_and_starts_between_them():
    codec = fitted("gaussian", np.array([[0.0], [4.0]], np.float32))
    for output, expected in ((-1e3, -4.0), (1e3, 2.0), (0.0, -1.0)):
        assert codec.predict(say(codec, [0.0, output])).log_std.item() == pytest.approx(expected)


def test_constant_entries_keep_their_units_and_nearly_constant_ones_do_not():
    values = np.array([[7.0, 0.0], [7.0, 1e-3]], np.float32)
    codec = fitted("mse", values)
    assert codec.embed_values.mean.tolist() == pytest.approx([7.0, 5e-4])
    assert codec.embed_values.std.tolist() == pytest.approx([1.0, 5e-4])


def test_discrete_values_outside_their_space_are_refused_with_both_ranges():
    for values in ([0, 3], [-1, 2]):
        words = f"values from {min(values)} to {max(values)}: its space goes from 0 to 2"
        with pytest.raises(DataError, match=words):
            fitted("discrete", np.array(values), size=3)
    with pytest.raises(DataError, match=r"values from \[4 0\] to \[7 0\]: its space goes from \[4 0\] to \[6 1\]"):
        fitted("multi_discrete", np.array([[4, 0], [7, 0]]), size=2, sizes=(3, 2), starts=(4, 0))


@pytest.mark.parametrize("kind", ["gaussian", "mse", "binned"])
def test_statistics_make_the_embedding_independent_of_units(kind: str):
    values = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    small, large = fitted(kind, values), fitted(kind, values * 1000 + 7)
    raw = torch.from_numpy(values)
    torch.testing.assert_close(small.embed(raw), large.embed(raw * 1000 + 7), atol=1e-4, rtol=1e-3)


def test_constant_entries_do_not_divide_by_zero():
    values = np.full((10, 2), 1e4, np.float32)
    for kind in ("gaussian", "mse", "binned"):
        codec = fitted(kind, values)
        assert codec.embed(torch.from_numpy(values)).isfinite().all()
        assert codec.predict(torch.zeros(10, WIDTH)).loss(torch.from_numpy(values)).isfinite().all()


@pytest.mark.parametrize("kind", ["gaussian", "mse", "binned", "discrete"])
def test_unknown_values_are_embedded_alike_whatever_stands_there(kind: str):
    if kind == "discrete":
        codec, values = fitted(kind, np.array([0, 1, 2]), size=3), torch.tensor([0, 2])
    else:
        codec = fitted(kind, np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
        values = torch.randn(2, 2)
    unknown = torch.tensor([True, True])
    first, second = codec.embed(values, unknown)
    assert torch.equal(first, second)
    assert not torch.allclose(codec.embed(values)[0], first)


def test_entries_that_are_missing_are_embedded_alike_one_by_one():
    codec = fitted("gaussian", np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32), optional=True)
    first, second = codec.embed(torch.tensor([[1.0, 5.0], [1.0, 7.0]]), torch.tensor([[False, True]] * 2))
    assert torch.equal(first, second)
    whole = codec.embed(torch.zeros(1, 2), torch.tensor([[True, True]]))
    assert torch.equal(whole[0], codec.embed_values.unknown) and not torch.allclose(first, whole[0])


def test_the_statistics_are_saved_with_the_weights():
    values = np.random.default_rng(0).normal(3.0, 5.0, size=(100, 2)).astype(np.float32)
    codec = fitted("binned", values)
    fresh = Binned(codec.variable, WIDTH, 0.1)
    fresh.load_state_dict(codec.state_dict())
    raw, hidden = torch.from_numpy(values), torch.randn(100, WIDTH)
    assert torch.equal(fresh.embed(raw), codec.embed(raw))
    assert torch.equal(fresh.predict(hidden).log_prob(raw), codec.predict(hidden).log_prob(raw))


def test_codecs_are_built_by_kind():
    kinds = {"gaussian": Gaussian, "mse": Regression, "binned": Binned, "discrete": Discrete}
    for kind, expected in kinds.items():
        assert type(build_codec(Variable("x", kind, 2, 1.0), WIDTH, 0.1)) is expected  # pyright: ignore
