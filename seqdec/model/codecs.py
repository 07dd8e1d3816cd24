"""One codec a kind of variable, in both directions: values to embeddings, hidden states to values.

A codec is the only code that normalises: it is fitted to the data once, carries those statistics with the weights,
and speaks raw units to everybody else. Values are [..., size] float32, int64 for multi_discrete variables and uint8
for images, or [...] int64 for discrete ones; embeddings and hidden states are [..., D]. `loss` is in nats per entry of
the normalised value, [...]. Images, texts and timesteps are read only, and a text has an embedding for each token.
"""

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from seqdec.errors import DataError
from seqdec.model.distributions import guided, guided_gaussian, guided_log_probs, sample_index
from seqdec.model.perception import Image, Text, Timestep, Vocabulary, with_unknown
from seqdec.sequence.layout import Variable

BEYOND = torch.finfo(torch.float32).max
MIN_LOG_STD, MAX_LOG_STD = -4.0, 2.0  # of a predicted Gaussian, in units of the data's own deviation


class Codec(Protocol):
    """What every codec does.

    `unknown` is True where a value is not known, [...], or entry by entry of an optional vector, [..., size].
    `sample` pushes uniform random numbers, one for each entry of the value, through the inverse of the predicted
    distribution function: the same numbers give the same value. Of vectors, one more axis in front of the numbers gives
    as many values for each state. `temperature` 0 asks for the most likely one. With `guidance` [m], `hidden` is
    [1 + m, ..., D], read with all evidence and with less of it, and the value is drawn from log p_0 + sum of guidance_i
    (log p_0 - log p_i), normalised (Ho and Salimans 2022).
    """

    def fit(self, values: np.ndarray) -> None: ...
    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor: ...
    def loss(self, hidden: Tensor, values: Tensor) -> Tensor: ...
    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor: ...
    def sample(
        self,
        hidden: Tensor,
        uniform: Tensor,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor: ...


def build_codec(variable: Variable, width: int, scale: float, vocabulary: Vocabulary | None = None) -> nn.Module:
    """Return a new codec whose embeddings have about the standard deviation `scale` per entry."""
    if variable.kind == "text":
        assert vocabulary is not None, "a layout with texts needs a backbone with its vocabulary"
        return Text(variable, width, scale, vocabulary)
    kinds = {
        "gaussian": Gaussian,
        "mse": Regression,
        "binned": Binned,
        "discrete": Discrete,
        "multi_discrete": MultiDiscrete,
        "image": Image,
        "timestep": Timestep,
    }
    return kinds[variable.kind](variable, width, scale)


class VectorEmbedding(nn.Module):
    """Normalises vectors by the data's mean and deviation and projects them; has the learned "unknown".

    Of an optional vector, entries can be missing one by one: each has a learned embedding that stands for it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, width: int, scale: float, optional: bool = False):
        super().__init__()
        self.projection = nn.Linear(size, width)
        nn.init.normal_(self.projection.weight, std=scale)
        nn.init.normal_(self.projection.bias, std=scale)
        self.unknown = nn.Parameter(torch.randn(width) * scale)
        self.missing = nn.Parameter(torch.randn(size, width) * scale) if optional else None
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, values: np.ndarray) -> None:
        mean = values.mean(0, dtype=np.float64)
        std = values.std(0, dtype=np.float64)
        # a constant entry carries nothing: divide by 1 there, not by 0
        std = np.where(std > 1e-6 * np.maximum(1.0, np.abs(mean)), std, 1.0)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def normalize(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std

    def forward(self, values: Tensor, unknown: Tensor | None) -> Tensor:
        normal = self.normalize(values)
        if unknown is not None and unknown.ndim == values.ndim:  # entry by entry
            assert self.missing is not None, "entries are missing of a vector that is not optional"
            known = self.projection(normal.masked_fill(unknown, 0.0)) + unknown.to(normal.dtype) @ self.missing
            unknown = unknown.all(-1)
        else:
            known = self.projection(normal)
        return with_unknown(known, self.unknown, unknown)


class Gaussian(nn.Module):
    """Vectors, predicted by a Gaussian with a scale of its own for every state and entry.

    Bounded entries are censored (Tobin 1958): the mass beyond a bound lies on the bound, so that actions which are
    exactly at their limit have a probability, and samples are inside without any squashing.
    """

    low: Tensor
    high: Tensor

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.embed_values = VectorEmbedding(variable.size, width, scale, variable.optional)
        self.head = _head(variable, width, 2 * variable.size)
        low, high = bounds(variable)
        self.register_buffer("low", low, persistent=False)  # the layout carries the bounds
        self.register_buffer("high", high, persistent=False)

    def fit(self, values: np.ndarray) -> None:
        self.embed_values.fit(values)

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        return self.embed_values(values, unknown)

    def _parameters_of(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.head(hidden).float().chunk(2, -1)
        # about -0.7 at the start; smooth, so that the gradient never vanishes at the limits
        log_std = MIN_LOG_STD + (MAX_LOG_STD - MIN_LOG_STD) * torch.sigmoid(scale)
        return mean, log_std

    def _log_density(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Log of density inside and of mass on the bounds, of normalised entries [..., size]."""
        mean, log_std = self._parameters_of(hidden)
        normalize = self.embed_values.normalize
        z, low, high = normalize(values), normalize(self.low), normalize(self.high)
        std = log_std.exp()
        inside = -0.5 * ((z - mean) / std).square() - log_std - 0.5 * math.log(2 * math.pi)
        # infinite bounds are replaced before the arithmetic: torch.where passes nan gradients of the branch not taken
        finite_low = torch.where(low.isfinite(), low, mean.detach())
        finite_high = torch.where(high.isfinite(), high, mean.detach())
        # farther out the gradient of log_ndtr loses its digits in float32
        at_low = torch.special.log_ndtr(((finite_low - mean) / std).clamp(min=-3e3))
        at_high = torch.special.log_ndtr(((mean - finite_high) / std).clamp(min=-3e3))
        return torch.where(values <= self.low, at_low, torch.where(values >= self.high, at_high, inside))

    def loss(self, hidden: Tensor, values: Tensor) -> Tensor:
        return -self._log_density(hidden, values).mean(-1)

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        on_bound = (values <= self.low) | (values >= self.high)
        change_of_units = torch.where(on_bound, 0.0, self.embed_values.std.log())
        return (self._log_density(hidden, values) - change_of_units).sum(-1)

    def sample(
        self,
        hidden: Tensor,
        uniform: Tensor,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        mean, log_std = self._parameters_of(hidden)
        if guidance is not None:
            mean, log_std = guided_gaussian(mean, log_std, guidance)
        if temperature > 0:
            mean = mean + temperature * log_std.exp() * torch.special.ndtri(uniform)
        raw = mean * self.embed_values.std + self.embed_values.mean
        return torch.minimum(torch.maximum(raw, self.low), self.high)


class Regression(nn.Module):
    """Vectors, predicted by their mean alone (squared error); bounded entries end in a tanh.

    As a distribution it is a Gaussian whose deviation is that of the data. Sampling returns the mean.
    """

    low: Tensor
    high: Tensor
    bounded: Tensor
    squashed_low: Tensor
    squashed_span: Tensor

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.embed_values = VectorEmbedding(variable.size, width, scale, variable.optional)
        self.head = _head(variable, width, variable.size)
        low, high = bounds(variable)
        self.register_buffer("low", low, persistent=False)  # the layout carries the bounds
        self.register_buffer("high", high, persistent=False)
        bounded = low.isfinite() & high.isfinite()
        self.is_bounded = bool(bounded.all())
        self.register_buffer("bounded", bounded, persistent=False)
        self.register_buffer("squashed_low", torch.where(bounded, low, -1.0), persistent=False)
        self.register_buffer("squashed_span", torch.where(bounded, high - low, 2.0) / 2, persistent=False)

    def fit(self, values: np.ndarray) -> None:
        self.embed_values.fit(values)

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        return self.embed_values(values, unknown)

    def _mean(self, hidden: Tensor) -> Tensor:
        output = self.head(hidden).float()
        squashed = self.squashed_low + self.squashed_span * (output.tanh() + 1)
        if self.is_bounded:
            return squashed
        free = output * self.embed_values.std + self.embed_values.mean
        clipped = torch.minimum(torch.maximum(free, self.low), self.high)
        return torch.where(self.bounded, squashed, clipped)

    def _error(self, hidden: Tensor, values: Tensor) -> Tensor:
        return (values - self._mean(hidden)) / self.embed_values.std

    def loss(self, hidden: Tensor, values: Tensor) -> Tensor:
        return self._error(hidden, values).square().mean(-1)

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        constant = 0.5 * math.log(2 * math.pi) + self.embed_values.std.log()
        return (-0.5 * self._error(hidden, values).square() - constant).sum(-1)

    def sample(
        self,
        hidden: Tensor,
        uniform: Tensor,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        if guidance is None:
            return self._mean(hidden)
        # Gaussians of one deviation: their sharpened product has the mean carried further
        return torch.minimum(torch.maximum(guided(self._mean(hidden), guidance), self.low), self.high)


class Binned(nn.Module):
    """Vectors, read as they are and predicted by a histogram for each entry, so that any shape can be learned.

    The bins hold equal shares of the data (quantile) or are equally wide (uniform). A value that is common enough
    to be two quantiles, such as an action at its bound, gets a bin of its own. Inside a bin the density is uniform.
    """

    edges: Tensor
    num_bins_of: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.variable = variable
        self.embed_values = VectorEmbedding(variable.size, width, scale, variable.optional)
        self.num_bins = 2 * variable.num_bins  # room for the bins of single values
        self.head = _head(variable, width, variable.size * self.num_bins)
        # [size, num_bins + 1]; the edges that an entry does not need lie beyond all values
        self.register_buffer("edges", torch.full((variable.size, self.num_bins + 1), BEYOND))
        self.register_buffer("num_bins_of", torch.ones(variable.size, dtype=torch.long))
        low, high = bounds(variable)
        self.register_buffer("low", low, persistent=False)  # the layout carries the bounds
        self.register_buffer("high", high, persistent=False)

    def fit(self, values: np.ndarray) -> None:
        self.embed_values.fit(values)
        shares = np.linspace(0, 1, self.variable.num_bins + 1)
        for entry in range(self.variable.size):
            column = values[:, entry].astype(np.float32)
            if self.variable.bins == "quantile":
                at = np.quantile(column, shares, method="nearest")
            else:
                at = np.linspace(column.min(), column.max(), len(shares), dtype=np.float32)
            unique, count = np.unique(at, return_counts=True)
            # a bin of a single value v is [v, the next float); the last edge closes the last bin
            singles = np.nextafter(unique[count > 1], np.float32(np.inf), dtype=np.float32)
            last = np.nextafter(unique[-1:], np.float32(np.inf), dtype=np.float32)
            inner = unique if count[-1] > 1 or len(unique) == 1 else unique[:-1]
            edges = np.unique(np.concatenate([inner, singles, last]))
            self.edges[entry] = BEYOND
            self.edges[entry, : len(edges)] = torch.from_numpy(edges)
            self.num_bins_of[entry] = len(edges) - 1

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        return self.embed_values(values, unknown)

    def _log_probs(self, hidden: Tensor) -> Tensor:
        """Log probabilities of the bins [..., size, num_bins]."""
        logits = self.head(hidden).float().unflatten(-1, (self.variable.size, self.num_bins))
        unused = torch.arange(self.num_bins, device=hidden.device) >= self.num_bins_of[:, None]
        return logits.masked_fill(unused, -math.inf).log_softmax(-1)

    def _bin(self, values: Tensor) -> Tensor:
        """Index of the bin of each entry [..., size]; values outside fall into the outermost bins."""
        flat = values.reshape(-1, self.variable.size).T.contiguous()  # [size, n]
        index = torch.searchsorted(self.edges, flat, right=True).T.reshape(values.shape) - 1
        return torch.minimum(index.clamp(min=0), self.num_bins_of - 1)

    def _chosen(self, hidden: Tensor, values: Tensor) -> Tensor:
        return self._log_probs(hidden).gather(-1, self._bin(values)[..., None])[..., 0]

    def loss(self, hidden: Tensor, values: Tensor) -> Tensor:
        return -self._chosen(hidden, values).mean(-1)

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        index = self._bin(values)
        lower, upper = self._edges_of(index)
        width = upper - lower
        is_single = width <= 4e-7 * lower.abs().clamp(min=1e-30)
        density = torch.where(is_single, 0.0, width.log())
        return (self._chosen(hidden, values) - density).sum(-1)

    def _edges_of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        edges = self.edges.expand(*index.shape, -1)
        lower = edges.gather(-1, index[..., None])[..., 0]
        return lower, edges.gather(-1, index[..., None] + 1)[..., 0]

    def sample(
        self,
        hidden: Tensor,
        uniform: Tensor,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        index, share = sample_index(guided_log_probs(self._log_probs(hidden), guidance), uniform, temperature, top_k)
        lower, upper = self._edges_of(index)
        return torch.minimum(torch.maximum(lower + share * (upper - lower), self.low), self.high)


class Discrete(nn.Module):
    """One of `size` values from `start` on: an embedding each, predicted by a categorical distribution."""

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.variable = variable
        self.embedding = nn.Embedding(variable.size, width)
        nn.init.normal_(self.embedding.weight, std=scale)
        self.unknown = nn.Parameter(torch.randn(width) * scale)
        self.head = _head(variable, width, variable.size)

    def fit(self, values: np.ndarray) -> None:
        first, last = self.variable.start, self.variable.start + self.variable.size - 1
        if values.min() < first or values.max() > last:
            raise DataError(
                f"{self.variable.name} has values from {values.min()} to {values.max()}: "
                f"its space goes from {first} to {last}"
            )

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        index = values - self.variable.start
        if unknown is not None:
            index = index.masked_fill(unknown, 0)
        return with_unknown(self.embedding(index), self.unknown, unknown)

    def _log_probs(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).float().log_softmax(-1)

    def loss(self, hidden: Tensor, values: Tensor) -> Tensor:
        index = values - self.variable.start
        if self.variable.optional:  # what is missing may stand outside; its loss is not counted
            index = index.clamp(0, self.variable.size - 1)
        return -self._log_probs(hidden).gather(-1, index[..., None])[..., 0]

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        return -self.loss(hidden, values)

    def sample(
        self,
        hidden: Tensor,
        uniform: Tensor,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        index, _ = sample_index(guided_log_probs(self._log_probs(hidden), guidance), uniform, temperature, top_k)
        return index + self.variable.start


class MultiDiscrete(nn.Module):
    """Several discrete values at once: embeddings are summed, each is predicted by a categorical of its own."""

    starts: Tensor
    offsets: Tensor
    is_value: Tensor

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.variable = variable
        sizes = torch.tensor(variable.sizes)
        num_values = int(sizes.sum())
        self.embedding = nn.Embedding(num_values, width)
        nn.init.normal_(self.embedding.weight, std=scale / math.sqrt(variable.size))
        self.unknown = nn.Parameter(torch.randn(width) * scale)
        self.head = _head(variable, width, num_values)
        self.register_buffer("starts", torch.tensor(variable.starts), persistent=False)
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)
        is_value = torch.arange(int(sizes.max())) < sizes[:, None]  # [size, most values]
        self.register_buffer("is_value", is_value, persistent=False)

    def fit(self, values: np.ndarray) -> None:
        low = np.array(self.variable.starts)
        high = low + np.array(self.variable.sizes) - 1
        if (values < low).any() or (values > high).any():
            raise DataError(f"{self.variable.name} has values outside {low.tolist()} to {high.tolist()}")

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        index = values - self.starts + self.offsets
        if unknown is not None:
            index = index.masked_fill(unknown[..., None], 0)
        return with_unknown(self.embedding(index).sum(-2), self.unknown, unknown)

    def _log_probs(self, hidden: Tensor) -> Tensor:
        """Log probabilities of each entry's values, [..., size, most values]; those it does not have are at -inf."""
        logits = self.head(hidden).float()
        padded = torch.full((*logits.shape[:-1], *self.is_value.shape), -math.inf, device=logits.device)
        padded[..., self.is_value] = logits
        return padded.log_softmax(-1)

    def _chosen(self, hidden: Tensor, values: Tensor) -> Tensor:
        index = values - self.starts
        if self.variable.optional:  # as in Discrete
            index = torch.minimum(index.clamp(min=0), self.is_value.sum(-1) - 1)
        return self._log_probs(hidden).gather(-1, index[..., None])[..., 0]

    def loss(self, hidden: Tensor, values: Tensor) -> Tensor:
        return -self._chosen(hidden, values).mean(-1)

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        return self._chosen(hidden, values).sum(-1)

    def sample(
        self,
        hidden: Tensor,
        uniform: Tensor,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        index, _ = sample_index(guided_log_probs(self._log_probs(hidden), guidance), uniform, temperature, top_k)
        return index + self.starts


def bounds(variable: Variable) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of a vector's entries, infinite where it has none, float32 [size]."""
    low = torch.full((variable.size,), -math.inf) if variable.low is None else torch.tensor(variable.low)
    high = torch.full((variable.size,), math.inf) if variable.high is None else torch.tensor(variable.high)
    return low, high


def _head(variable: Variable, width: int, size: int) -> nn.Module:
    """A read-out that starts out nearly indifferent; none for a variable that is only written."""
    if variable.loss_weight == 0:
        return nn.Identity()
    head = nn.Linear(width, size)
    nn.init.normal_(head.weight, std=0.02 / math.sqrt(width / 128))
    nn.init.zeros_(head.bias)
    return head
