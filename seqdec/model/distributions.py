"""What a codec predicts of the next value: a distribution, in raw units.

    codec.predict(hidden)  ->  Distribution    .log_prob(values)  .loss(values)  .sample(uniform)  .mode()
                               .guided(weights)  .top_k(k)  .tempered(temperature)   are distributions again

Of vectors, along the last axis, the entries are independent. Nothing is computed before somebody asks for it.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from seqdec.errors import NumericsError

COLDEST = 1e-6  # temperature: a lower one is the mode, too, and quotients by it leave float32


class Distribution(Protocol):
    """The next value for each of the states [...] that predict it.

    Uniform random numbers, one for each entry of a value, are pushed through the inverse of the distribution function:
    the same numbers give the same value, and one more axis in front of the numbers gives as many values.
    """

    def log_prob(self, values: Tensor) -> Tensor: ...  # in raw units, [...]; of a continuous entry a density
    def loss(self, values: Tensor) -> Tensor: ...  # nats per entry of the normalised value, [...]
    def sample(self, uniform: Tensor) -> Tensor: ...
    def mode(self) -> Tensor: ...
    def guided(self, weights: Tensor) -> Self: ...  # of [1 + m, ...]: p_0 prod (p_0 / p_i)^w_i (Ho and Salimans 2022)
    def top_k(self, k: int) -> Self: ...  # the k most likely values or bins; densities stay as they are
    def tempered(self, temperature: float) -> Self: ...


class Support(Protocol):
    """The values that the indices of a categorical stand for."""

    def index(self, values: Tensor) -> Tensor: ...
    def value(self, index: Tensor, share: Tensor | float) -> Tensor: ...  # `share` of the way through a bin, 0 to 1
    def log_width(self, index: Tensor) -> Tensor | float: ...
    def every(self, step: int) -> "Support": ...  # of every so many states, where each has values of its own


@dataclass(frozen=True, eq=False)
class Numbers:
    """Whole numbers from `start` on; with `last`, the highest index, numbers outside count as the nearest."""

    start: Tensor
    last: Tensor | None = None

    def index(self, values: Tensor) -> Tensor:
        index = values - self.start
        return index if self.last is None else torch.minimum(index.clamp(min=0), self.last)

    def value(self, index: Tensor, share: Tensor | float) -> Tensor:
        return index + self.start

    def log_width(self, index: Tensor) -> Tensor | float:
        return 0.0

    def every(self, step: int) -> "Numbers":
        return self


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of each entry, between `edges` [size, bins + 1] in order, of which the first `num_bins` [size] are in use.

    Inside a bin the density is uniform, and no value lies beyond `low` and `high`. A bin that reaches no farther than
    the next float holds a single value, which has a probability.
    """

    edges: Tensor
    num_bins: Tensor
    low: Tensor
    high: Tensor

    def index(self, values: Tensor) -> Tensor:
        """Return the bin of each entry [..., size]; values outside fall into the outermost bins."""
        flat = values.reshape(-1, len(self.edges)).T.contiguous()  # [size, n]
        index = torch.searchsorted(self.edges, flat, right=True).T.reshape(values.shape) - 1
        return torch.minimum(index.clamp(min=0), self.num_bins - 1)

    def value(self, index: Tensor, share: Tensor | float) -> Tensor:
        lower, upper = self._ends(index)
        return _clip(lower + share * (upper - lower), self.low, self.high)

    def log_width(self, index: Tensor) -> Tensor | float:
        lower, upper = self._ends(index)
        is_single = upper - lower <= 4e-7 * lower.abs().clamp(min=1e-30)
        return torch.where(is_single, 0.0, (upper - lower).log())

    def every(self, step: int) -> "Bins":
        return self

    def _ends(self, index: Tensor) -> tuple[Tensor, Tensor]:
        edges = self.edges.expand(*index.shape, -1)
        return edges.gather(-1, index[..., None])[..., 0], edges.gather(-1, index[..., None] + 1)[..., 0]


@dataclass(frozen=True, eq=False)
class Categorical:
    """One of several values or bins: logits [..., choices], -inf where there is no such choice."""

    logits: Tensor
    support: Support
    is_vector: bool = True

    def log_prob(self, values: Tensor) -> Tensor:
        index = self.support.index(values)
        log_probs = self._log_probs(index) - self.support.log_width(index)
        return log_probs.sum(-1) if self.is_vector else log_probs

    def loss(self, values: Tensor) -> Tensor:
        log_probs = self._log_probs(self.support.index(values))
        return -(log_probs.mean(-1) if self.is_vector else log_probs)

    def _log_probs(self, index: Tensor) -> Tensor:
        log_probs = self.logits.log_softmax(-1).expand(*index.shape, -1)
        return log_probs.gather(-1, index[..., None])[..., 0]

    def sample(self, uniform: Tensor) -> Tensor:
        _check_finite(self.logits.amax(-1))
        upper = self.logits.softmax(-1).cumsum(-1)
        upper = upper / upper[..., -1:]
        is_several = uniform.ndim == upper.ndim
        numbers = (uniform.movedim(0, -1) if is_several else uniform[..., None]).contiguous()  # [..., draws]
        index = torch.searchsorted(upper, numbers, right=True)  # the first choice that reaches beyond the number
        end = upper.gather(-1, index)
        begin = torch.where(index > 0, upper.gather(-1, (index - 1).clamp(min=0)), 0.0)
        share = ((numbers - begin) / (end - begin)).clamp(0, 1)  # of the choice's probability, up to the number
        if is_several:
            return self.support.value(index.movedim(-1, 0), share.movedim(-1, 0))
        return self.support.value(index[..., 0], share[..., 0])

    def mode(self) -> Tensor:
        _check_finite(self.logits.amax(-1))
        return self.support.value(self.logits.argmax(-1), 0.5)

    def guided(self, weights: Tensor) -> Self:
        full = self.logits[0]  # what is impossible stays so
        return replace(self, logits=torch.where(full.isfinite(), _guide(self.logits, weights), full))

    def among(self, is_legal: Tensor) -> Self:
        """Keep the choices that a mask [..., choices] allows: at least one."""
        return replace(self, logits=self.logits.masked_fill(~is_legal, -math.inf))

    def top_k(self, k: int) -> Self:
        least = self.logits.topk(min(k, self.logits.shape[-1]), -1).values[..., -1:]
        return replace(self, logits=self.logits.masked_fill(self.logits < least, -math.inf))

    def top_p(self, p: float) -> Self:
        """Keep the most likely choices that together have a probability of p (Holtzman et al. 2020)."""
        ordered, order = self.logits.softmax(-1).sort(-1, descending=True)
        is_kept = ordered.cumsum(-1) - ordered < p
        return replace(self, logits=self.logits.masked_fill(~is_kept.gather(-1, order.argsort(-1)), -math.inf))

    def tempered(self, temperature: float) -> Self:
        return replace(self, logits=self.logits / max(temperature, COLDEST))


@dataclass(frozen=True, eq=False)
class CensoredGaussian:
    """Entries by mean and deviation, both normalised; the mass beyond a bound lies on the bound (Tobin 1958).

    `low` and `high` are raw, infinite where there is no bound; raw values are `scale` times normalised ones + `shift`.
    """

    mean: Tensor
    log_std: Tensor
    low: Tensor
    high: Tensor
    shift: Tensor
    scale: Tensor

    def log_prob(self, values: Tensor) -> Tensor:
        on_bound = (values <= self.low) | (values >= self.high)
        change_of_units = torch.where(on_bound, 0.0, self.scale.log())
        return (self._log_density(values) - change_of_units).sum(-1)

    def loss(self, values: Tensor) -> Tensor:
        return -self._log_density(values).mean(-1)

    def _log_density(self, values: Tensor) -> Tensor:
        """Return the log of density inside, and of mass on the bounds, of normalised entries."""
        mean, std = self.mean, self.log_std.exp()
        z, low, high = ((raw - self.shift) / self.scale for raw in (values, self.low, self.high))
        inside = -0.5 * ((z - mean) / std).square() - self.log_std - 0.5 * math.log(2 * math.pi)
        # infinite bounds are replaced before the arithmetic: torch.where passes nan gradients of the branch not taken
        low = torch.where(low.isfinite(), low, mean.detach())
        high = torch.where(high.isfinite(), high, mean.detach())
        # farther out the gradient of log_ndtr loses its digits in float32
        at_low = torch.special.log_ndtr(((low - mean) / std).clamp(min=-3e3))
        at_high = torch.special.log_ndtr(((mean - high) / std).clamp(min=-3e3))
        return torch.where(values <= self.low, at_low, torch.where(values >= self.high, at_high, inside))

    def sample(self, uniform: Tensor) -> Tensor:
        return self._raw(self.mean + self.log_std.exp() * torch.special.ndtri(uniform))

    def mode(self) -> Tensor:
        return self._raw(self.mean)

    def _raw(self, normal: Tensor) -> Tensor:
        _check_finite(self.mean)
        return _clip(normal * self.scale + self.shift, self.low, self.high)

    def guided(self, weights: Tensor) -> Self:
        """Guide in closed form: precisions, and precisions times means, add up by their weights.

        Where that would leave less than a quarter of p_0's precision, all weights are lowered alike until it does not.
        """
        precision = (-2 * self.log_std).exp()
        change = _guide(precision, weights) - precision[0]
        share = torch.where(change < 0, (0.75 * precision[0] / -change).clamp(max=1.0), 1.0)
        weighted = precision * self.mean
        sharpened = precision[0] + share * change
        shifted = weighted[0] + share * (_guide(weighted, weights) - weighted[0])
        return replace(self, mean=shifted / sharpened, log_std=-0.5 * sharpened.log())

    def top_k(self, k: int) -> Self:
        return self

    def tempered(self, temperature: float) -> Self:
        """Scale the deviation: samples move from the mean in proportion to the temperature."""
        return replace(self, log_std=self.log_std + math.log(temperature))


@dataclass(frozen=True, eq=False)
class Point:
    """Entries by their mean alone: Gaussians of the deviation `scale`, of which every sample is the mean."""

    mean: Tensor
    low: Tensor
    high: Tensor
    scale: Tensor

    def log_prob(self, values: Tensor) -> Tensor:
        constant = 0.5 * math.log(2 * math.pi) + self.scale.log()
        return (-0.5 * ((values - self.mean) / self.scale).square() - constant).sum(-1)

    def loss(self, values: Tensor) -> Tensor:
        return ((values - self.mean) / self.scale).square().mean(-1)

    def sample(self, uniform: Tensor) -> Tensor:
        return self.mode().expand(uniform.shape)

    def mode(self) -> Tensor:
        _check_finite(self.mean)
        return self.mean

    def guided(self, weights: Tensor) -> Self:
        # Gaussians of one deviation: their sharpened product has the mean carried further
        return replace(self, mean=_clip(_guide(self.mean, weights), self.low, self.high))

    def top_k(self, k: int) -> Self:
        return self

    def tempered(self, temperature: float) -> Self:
        return self


def _guide(values: Tensor, weights: Tensor) -> Tensor:
    """Return x_0 + sum of weights_i (x_0 - x_i) of values [1 + m, ...]."""
    return values[0] + (weights.reshape(-1, *[1] * (values.ndim - 1)) * (values[0] - values[1:])).sum(0)


def _check_finite(values: Tensor) -> None:
    if not math.isfinite(values.detach().sum()):  # a sum is quicker to look at
        raise NumericsError("what the model predicts is not finite: its weights, or what it read, are out of range")


def _clip(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(values, low), high)
