"""One codec a kind of variable, in both directions: values to embeddings, hidden states to distributions.

A codec is the only code that normalises: it is fitted to the data once, carries those statistics with the weights,
and speaks raw units to everybody else. Values are [..., size] float32, int64 for multi_discrete variables and uint8
for images, or [...] int64 for discrete ones; embeddings and hidden states are [..., D]. Images and timesteps are read
only. What is written in words has as many tokens as its words: see `words`.
"""

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from seqdec.errors import DataError
from seqdec.model.distributions import Bins, Categorical, CensoredGaussian, Distribution, Numbers, Point
from seqdec.model.perception import Image, Timestep, with_unknown
from seqdec.sequence.variable import Variable

BEYOND = torch.finfo(torch.float32).max
MIN_LOG_STD, MAX_LOG_STD = -4.0, 2.0  # of a predicted Gaussian, in units of the data's own deviation


class Codec(Protocol):
    """What every codec does, `predict` only those of variables that have a loss.

    `unknown` is True where a value is not known, [...], or entry by entry of an optional vector, [..., size].
    """

    def fit(self, values: np.ndarray) -> None: ...
    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor: ...
    def predict(self, hidden: Tensor) -> Distribution: ...


def build_codec(variable: Variable, width: int, scale: float) -> nn.Module:
    """Return a new codec of one token whose embeddings have about the standard deviation `scale` per entry."""
    kinds = {
        "gaussian": Gaussian,
        "mse": Regression,
        "binned": Binned,
        "discrete": Discrete,
        "multi_discrete": Discrete,
        "image": Image,
        "timestep": Timestep,
    }
    return kinds[variable.kind](variable, width, scale)


class VectorEmbedding(nn.Module):
    """Normalises vectors by the data's mean and deviation and projects them; has the learned "unknown".

    Of an optional vector, entries can be missing one by one: each has a learned embedding that stands for it. It also
    keeps the bounds of the entries, infinite where there are none.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        size = variable.size
        self.projection = nn.Linear(size, width)
        nn.init.normal_(self.projection.weight, std=scale)
        nn.init.normal_(self.projection.bias, std=scale)
        self.unknown = nn.Parameter(torch.randn(width) * scale)
        self.missing = nn.Parameter(torch.randn(size, width) * scale) if variable.optional else None
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        for name, bounds, none in (("low", variable.low, -math.inf), ("high", variable.high, math.inf)):
            bounds = torch.full((size,), none) if bounds is None else torch.tensor(bounds)
            self.register_buffer(name, bounds, persistent=False)  # the layout carries the bounds

    def fit(self, values: np.ndarray) -> None:
        mean = values.mean(0, dtype=np.float64)
        std = values.std(0, dtype=np.float64)
        # a constant entry carries nothing: divide by 1 there, not by 0
        std = np.where(std > 1e-6 * np.maximum(1.0, np.abs(mean)), std, 1.0)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def forward(self, values: Tensor, unknown: Tensor | None) -> Tensor:
        normal = (values - self.mean) / self.std
        if unknown is not None and unknown.ndim == values.ndim:  # entry by entry
            assert self.missing is not None, "entries are missing of a vector that is not optional"
            known = self.projection(normal.masked_fill(unknown, 0.0)) + unknown.to(normal.dtype) @ self.missing
            unknown = unknown.all(-1)
        else:
            known = self.projection(normal)
        return with_unknown(known, self.unknown, unknown)


class Gaussian(nn.Module):
    """Vectors, predicted by a Gaussian with a scale of its own for every state and entry.

    Bounded entries are censored: actions that are exactly at their limit have a probability, and samples are inside
    without any squashing.
    """

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.embed_values = VectorEmbedding(variable, width, scale)
        self.head = _head(variable, width, 2 * variable.size)

    def fit(self, values: np.ndarray) -> None:
        self.embed_values.fit(values)

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        return self.embed_values(values, unknown)

    def predict(self, hidden: Tensor) -> Distribution:
        mean, spread = self.head(hidden).float().chunk(2, -1)
        # about -0.7 at the start; smooth, so that the gradient never vanishes at the limits
        log_std = MIN_LOG_STD + (MAX_LOG_STD - MIN_LOG_STD) * torch.sigmoid(spread)
        data = self.embed_values
        return CensoredGaussian(mean, log_std, data.low, data.high, data.mean, data.std)


class Regression(nn.Module):
    """Vectors, predicted by their mean alone (squared error); bounded entries end in a tanh."""

    is_bounded: Tensor
    squashed_low: Tensor
    squashed_span: Tensor

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.embed_values = VectorEmbedding(variable, width, scale)
        self.head = _head(variable, width, variable.size)
        low, high = self.embed_values.low, self.embed_values.high
        is_bounded = low.isfinite() & high.isfinite()
        bounds = (*(variable.low or (-math.inf,)), *(variable.high or (math.inf,)))
        self.all_bounded = all(map(math.isfinite, bounds))
        self.register_buffer("is_bounded", is_bounded, persistent=False)
        self.register_buffer("squashed_low", torch.where(is_bounded, low, -1.0), persistent=False)
        self.register_buffer("squashed_span", torch.where(is_bounded, high - low, 2.0) / 2, persistent=False)

    def fit(self, values: np.ndarray) -> None:
        self.embed_values.fit(values)

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        return self.embed_values(values, unknown)

    def predict(self, hidden: Tensor) -> Distribution:
        output, data = self.head(hidden).float(), self.embed_values
        mean = self.squashed_low + self.squashed_span * (output.tanh() + 1)
        if not self.all_bounded:
            free = torch.minimum(torch.maximum(output * data.std + data.mean, data.low), data.high)
            mean = torch.where(self.is_bounded, mean, free)
        return Point(mean, data.low, data.high, data.std)


class Binned(nn.Module):
    """Vectors, read as they are and predicted by a histogram for each entry, so that any shape can be learned."""

    edges: Tensor
    num_bins_of: Tensor

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.variable = variable
        self.embed_values = VectorEmbedding(variable, width, scale)
        self.num_bins = 2 * variable.num_bins  # room for the bins of single values
        self.head = _head(variable, width, variable.size * self.num_bins)
        # [size, num_bins + 1]; the edges that an entry does not need lie beyond all values
        self.register_buffer("edges", torch.full((variable.size, self.num_bins + 1), BEYOND))
        self.register_buffer("num_bins_of", torch.ones(variable.size, dtype=torch.long))

    def fit(self, values: np.ndarray) -> None:
        self.embed_values.fit(values)
        for entry in range(self.variable.size):
            edges = bin_edges(values[:, entry].astype(np.float32), self.variable.num_bins, self.variable.bins)
            self.edges[entry] = BEYOND
            self.edges[entry, : len(edges)] = torch.from_numpy(edges)
            self.num_bins_of[entry] = len(edges) - 1

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        return self.embed_values(values, unknown)

    def predict(self, hidden: Tensor) -> Distribution:
        logits = self.head(hidden).float().unflatten(-1, (self.variable.size, self.num_bins))
        is_unused = torch.arange(self.num_bins, device=hidden.device) >= self.num_bins_of[:, None]
        bins = Bins(self.edges, self.num_bins_of, self.embed_values.low, self.embed_values.high)
        return Categorical(logits.masked_fill(is_unused, -math.inf), bins)


def bin_edges(values: np.ndarray, num_bins: int, bins: str) -> np.ndarray:
    """Return the edges of bins that hold equal shares of values [n] ("quantile") or are equally wide ("uniform").

    A value that is common enough to be two quantiles, such as an action at its bound, gets a bin of its own.
    """
    shares = np.linspace(0, 1, num_bins + 1)
    if bins == "quantile":
        at = np.quantile(values, shares, method="nearest")
    else:
        at = np.linspace(values.min(), values.max(), len(shares), dtype=np.float32)
    unique, count = np.unique(at, return_counts=True)
    # a bin of a single value v is [v, the next float); the last edge closes the last bin
    singles = np.nextafter(unique[count > 1], np.float32(np.inf), dtype=np.float32)
    last = np.nextafter(unique[-1:], np.float32(np.inf), dtype=np.float32)
    inner = unique if count[-1] > 1 or len(unique) == 1 else unique[:-1]
    return np.unique(np.concatenate([inner, singles, last]))


class Discrete(nn.Module):
    """One whole number or several: their embeddings are summed, each is predicted by a categorical of its own."""

    starts: Tensor
    last: Tensor
    offsets: Tensor
    places: Tensor
    is_no_value: Tensor

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.variable, self.is_single = variable, variable.shape == ()
        counts = (variable.size,) if self.is_single else variable.sizes
        num_values, most, sizes = sum(counts), max(counts), torch.tensor(counts)
        starts = torch.tensor((variable.start,) if self.is_single else variable.starts)
        self.embedding = nn.Embedding(num_values, width)
        nn.init.normal_(self.embedding.weight, std=scale / math.sqrt(len(counts)))
        self.unknown = nn.Parameter(torch.randn(width) * scale)
        self.head = _head(variable, width, num_values)
        firsts = sizes.cumsum(0) - sizes  # where the values of each entry begin in the embedding and in the head
        places = firsts[:, None] + torch.minimum(torch.arange(most), sizes[:, None] - 1)  # [entries, most]
        buffers = {"starts": starts, "last": sizes - 1, "offsets": firsts - starts, "places": places.flatten()}
        for name, values in (buffers | {"is_no_value": torch.arange(most) >= sizes[:, None]}).items():
            self.register_buffer(name, values, persistent=False)  # the layout carries them

    def fit(self, values: np.ndarray) -> None:
        """Refuse values outside the space."""
        first, last = self.starts.numpy(), (self.starts + self.last).numpy()
        if (values < first).any() or (values > last).any():
            raise DataError(
                f"{self.variable.name} has values from {values.min(0)} to {values.max(0)}: "
                f"its space goes from {first.squeeze()} to {last.squeeze()}"
            )

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        index = values + self.offsets
        if unknown is not None:
            index = index.masked_fill(unknown if self.is_single else unknown[..., None], 0)
        embeddings = self.embedding(index)
        return with_unknown(embeddings if self.is_single else embeddings.sum(-2), self.unknown, unknown)

    def predict(self, hidden: Tensor) -> Distribution:
        logits = self.by_entry(self.head(hidden).float())
        logits = logits if self.is_single else logits.masked_fill(self.is_no_value, -math.inf)
        # a value that is not known may stand outside; its loss is not counted
        numbers = Numbers(self.starts, self.last if self.variable.optional else None)
        return Categorical(logits, numbers, is_vector=not self.is_single)

    def by_entry(self, values: Tensor) -> Tensor:
        """Return what there is of each value, [..., values] one after the other, as logits have it."""
        if self.is_single:
            return values
        return values.index_select(-1, self.places).unflatten(-1, self.is_no_value.shape)


def _head(variable: Variable, width: int, size: int) -> nn.Module:
    """A read-out that starts out nearly indifferent; none for a variable that is only written."""
    if variable.loss_weight == 0:
        return nn.Identity()
    head = nn.Linear(width, size)
    nn.init.normal_(head.weight, std=0.02 / math.sqrt(width / 128))
    nn.init.zeros_(head.bias)
    return head
