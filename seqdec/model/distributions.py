"""What a codec predicts of the next value: a distribution, in raw units.

    codec.predict(hidden)  ->  Distribution    .log_prob(values)  .loss(values)  .sample(uniform)  .mode()
                               .guided(weights)  .top_k(k)  .tempered(temperature)   are distributions again

A vector is an `Independent` of distributions of its entries. Nothing is computed before somebody asks for it.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """What every distribution does; its parameters have the shape [...] of the states that predict it."""

    def log_prob(self, values: Tensor) -> Tensor:
        """Return the log probability of whole values in raw units, [...]; of a continuous entry the log density."""
        ...

    def loss(self, values: Tensor) -> Tensor:
        """Return what training minimises, in nats per entry of the normalised value, [...]."""
        ...

    def sample(self, uniform: Tensor) -> Tensor:
        """Push uniform random numbers, one for each entry, through the inverse of the distribution function.

        The same numbers give the same value. One more axis in front of the numbers gives as many values.
        """
        ...

    def mode(self) -> Tensor:
        """Return the most likely value."""
        ...

    def guided(self, weights: Tensor) -> "Distribution":
        """Return p_0 prod_i (p_0 / p_i)^weights_i, normalised (Ho and Salimans 2022).

        The first axis of the parameters, [1 + m, ...], has p_0, predicted with all evidence, and each p_i with less.
        """
        ...

    def top_k(self, k: int) -> "Distribution":
        """Return the distribution over the k most likely values or bins; all others have no such, and stay."""
        ...

    def tempered(self, temperature: float) -> "Distribution":
        """Return p^(1 / temperature), normalised."""
        ...


@dataclass(frozen=True, eq=False)
class Independent:
    """Vectors whose entries, along the last axis, are independent of each other."""

    entries: Distribution

    def log_prob(self, values: Tensor) -> Tensor:
        return self.entries.log_prob(values).sum(-1)

    def loss(self, values: Tensor) -> Tensor:
        return self.entries.loss(values).mean(-1)

    def sample(self, uniform: Tensor) -> Tensor:
        return self.entries.sample(uniform)

    def mode(self) -> Tensor:
        return self.entries.mode()

    def guided(self, weights: Tensor) -> Distribution:
        return Independent(self.entries.guided(weights))

    def top_k(self, k: int) -> Distribution:
        return Independent(self.entries.top_k(k))

    def tempered(self, temperature: float) -> Distribution:
        return Independent(self.entries.tempered(temperature))


@dataclass(frozen=True, eq=False)
class Categorical:
    """One of several whole numbers from `start` on: their logits [..., values], -inf where there is none.

    With `last`, the index of the last one, values outside count as the nearest one.
    """

    logits: Tensor
    start: Tensor | int = 0
    last: Tensor | int | None = None

    def log_prob(self, values: Tensor) -> Tensor:
        index = values - self.start
        if self.last is not None:
            index = index.clamp(min=0).clamp(max=self.last)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return self.log_prob_at(index)

    def log_prob_at(self, index: Tensor) -> Tensor:
        log_probs = self.logits.log_softmax(-1).expand(*index.shape, -1)
        return log_probs.gather(-1, index[..., None])[..., 0]

    def loss(self, values: Tensor) -> Tensor:
        return -self.log_prob(values)

    def sample(self, uniform: Tensor) -> Tensor:
        return self.draw(uniform)[0] + self.start

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Return an index for each uniform number, and how far into its share of the probability the number fell."""
        upper = self.logits.softmax(-1).cumsum(-1)
        upper = upper / upper[..., -1:]
        is_several = uniform.ndim == upper.ndim
        numbers = (uniform.movedim(0, -1) if is_several else uniform[..., None]).contiguous()  # [..., draws]
        index = torch.searchsorted(upper, numbers, right=True)  # the first whose share reaches beyond the number
        end = upper.gather(-1, index)
        begin = torch.where(index > 0, upper.gather(-1, (index - 1).clamp(min=0)), 0.0)
        share = ((numbers - begin) / (end - begin)).clamp(0, 1)
        if is_several:
            return index.movedim(-1, 0), share.movedim(-1, 0)
        return index[..., 0], share[..., 0]

    def mode(self) -> Tensor:
        return self.logits.argmax(-1) + self.start

    def guided(self, weights: Tensor) -> "Categorical":
        first = self.logits[0]  # what is impossible stays so
        return replace(self, logits=torch.where(first.isfinite(), _guide(self.logits, weights), first))

    def top_k(self, k: int) -> "Categorical":
        least = self.logits.topk(min(k, self.logits.shape[-1]), -1).values[..., -1:]
        return replace(self, logits=self.logits.masked_fill(self.logits < least, -math.inf))

    def tempered(self, temperature: float) -> "Categorical":
        return replace(self, logits=self.logits / temperature)


@dataclass(frozen=True, eq=False)
class Histogram:
    """A number in one of several bins, [..., size, bins]; inside a bin the density is uniform.

    `edges` [size, bins + 1] are in order, those that an entry does not need beyond all values; `num_bins` [size] are
    needed. A bin that reaches no farther than the next float holds a single value, which has a probability.
    """

    bins: Categorical
    edges: Tensor
    num_bins: Tensor
    low: Tensor
    high: Tensor

    def log_prob(self, values: Tensor) -> Tensor:
        index = self._index(values)
        lower, upper = self._edges_of(index)
        width = upper - lower
        is_single = width <= 4e-7 * lower.abs().clamp(min=1e-30)
        return self.bins.log_prob_at(index) - torch.where(is_single, 0.0, width.log())

    def loss(self, values: Tensor) -> Tensor:
        return -self.bins.log_prob_at(self._index(values))

    def sample(self, uniform: Tensor) -> Tensor:
        return self._inside(*self.bins.draw(uniform))

    def mode(self) -> Tensor:
        return self._inside(self.bins.mode(), 0.5)

    def guided(self, weights: Tensor) -> "Histogram":
        return replace(self, bins=self.bins.guided(weights))

    def top_k(self, k: int) -> "Histogram":
        return replace(self, bins=self.bins.top_k(k))

    def tempered(self, temperature: float) -> "Histogram":
        return replace(self, bins=self.bins.tempered(temperature))

    def _index(self, values: Tensor) -> Tensor:
        """Return the bin of each entry [..., size]; values outside fall into the outermost bins."""
        flat = values.reshape(-1, len(self.edges)).T.contiguous()  # [size, n]
        index = torch.searchsorted(self.edges, flat, right=True).T.reshape(values.shape) - 1
        return torch.minimum(index.clamp(min=0), self.num_bins - 1)

    def _edges_of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        edges = self.edges.expand(*index.shape, -1)
        return edges.gather(-1, index[..., None])[..., 0], edges.gather(-1, index[..., None] + 1)[..., 0]

    def _inside(self, index: Tensor, share: Tensor | float) -> Tensor:
        lower, upper = self._edges_of(index)
        return _clip(lower + share * (upper - lower), self.low, self.high)


@dataclass(frozen=True, eq=False)
class CensoredGaussian:
    """A number by its mean and deviation, both normalised; the mass beyond a bound lies on it (Tobin 1958).

    `low` and `high` are raw, infinite where there is no bound; a raw value is `scale` times the normalised one, plus
    `shift`.
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
        return self._log_density(values) - change_of_units

    def loss(self, values: Tensor) -> Tensor:
        return -self._log_density(values)

    def _log_density(self, values: Tensor) -> Tensor:
        """Return the log of density inside, and of mass on the bounds, of normalised values."""
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
        return _clip(normal * self.scale + self.shift, self.low, self.high)

    def guided(self, weights: Tensor) -> "CensoredGaussian":
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

    def top_k(self, k: int) -> "CensoredGaussian":
        return self

    def tempered(self, temperature: float) -> "CensoredGaussian":
        """Temper the deviation itself: a sample moves from the mean in proportion to the temperature."""
        return replace(self, log_std=self.log_std + math.log(temperature))


@dataclass(frozen=True, eq=False)
class Point:
    """A number by its mean alone; its density is a Gaussian's of deviation `scale`, its only sample the mean."""

    mean: Tensor
    low: Tensor
    high: Tensor
    scale: Tensor

    def log_prob(self, values: Tensor) -> Tensor:
        return -0.5 * self.loss(values) - (0.5 * math.log(2 * math.pi) + self.scale.log())

    def loss(self, values: Tensor) -> Tensor:
        return ((values - self.mean) / self.scale).square()

    def sample(self, uniform: Tensor) -> Tensor:
        return self.mean.expand(uniform.shape)

    def mode(self) -> Tensor:
        return self.mean

    def guided(self, weights: Tensor) -> "Point":
        # Gaussians of one deviation: their sharpened product has the mean carried further
        return replace(self, mean=_clip(_guide(self.mean, weights), self.low, self.high))

    def top_k(self, k: int) -> "Point":
        return self

    def tempered(self, temperature: float) -> "Point":
        return self


def _guide(values: Tensor, weights: Tensor) -> Tensor:
    """Return x_0 + sum of weights_i (x_0 - x_i) of values [1 + m, ...]."""
    return values[0] + (weights.reshape(-1, *[1] * (values.ndim - 1)) * (values[0] - values[1:])).sum(0)


def _clip(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(values, low), high)
