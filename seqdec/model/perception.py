"""Images and timesteps are read and never predicted, each as an embedding of the backbone's width.

image      [..., entries] uint8   ->  one token, by a small convolutional encoder
timestep   [..., 1] float32       ->  one token, by sines and cosines
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from seqdec.sequence.variable import Variable


def with_unknown(known: Tensor, stand_in: Tensor, unknown: Tensor | None) -> Tensor:
    """Put the learned "unknown" in the place of embeddings [..., D] where `unknown` [...] is True."""
    if unknown is None:
        if not torch.is_grad_enabled():
            return known
        # so that "unknown" has a gradient, of zero, in every batch: processes must agree on what has one
        unknown = torch.zeros(known.shape[:-1], dtype=torch.bool, device=known.device)
    return torch.where(unknown[..., None], stand_in.to(known.dtype), known)


class Image(nn.Module):
    """Images, read by a small convolutional encoder: one token each.

    Convolutions of stride 2 halve an image until its shorter side is at most 8. Of small images (at most 256 places),
    which are mostly grids of symbols such as MiniGrid's, every value of a channel has a learned embedding besides.
    """

    mean: Tensor
    std: Tensor
    SMALL, CHANNELS, SYMBOL_WIDTH = 256, 32, 8

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.variable = variable
        self.order, (channels, height, breadth) = image_axes(variable.image)
        self.channels = channels
        self.symbols, inputs = None, channels
        if height * breadth <= self.SMALL:
            self.symbols = nn.Embedding(256 * channels, self.SYMBOL_WIDTH)
            nn.init.normal_(self.symbols.weight)
            inputs += self.SYMBOL_WIDTH
        layers: list[nn.Module] = []
        while not layers or len(layers) < 4 or min(height, breadth) > 8:
            stride = 2 if min(height, breadth) > 8 else 1
            layers += [nn.Conv2d(inputs, self.CHANNELS, 3, stride, padding=1), nn.ReLU()]
            inputs, height, breadth = self.CHANNELS, -(-height // stride), -(-breadth // stride)
        self.convolutions = nn.Sequential(*layers)
        self.projection = nn.Linear(self.CHANNELS * height * breadth, width)
        self.norm = nn.LayerNorm(width)
        nn.init.constant_(self.norm.weight, scale)
        self.unknown = nn.Parameter(torch.randn(width) * scale)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def fit(self, values: np.ndarray) -> None:
        """Take mean and deviation of each channel over images [n, entries]."""
        planes = values.reshape(-1, *self.variable.image).transpose(0, *(1 + axis for axis in self.order))
        planes = planes.reshape(len(values), self.channels, -1)
        mean, std = planes.mean((0, 2), dtype=np.float64), planes.std((0, 2), dtype=np.float64)
        self.mean.copy_(torch.from_numpy(mean)[:, None, None])
        self.std.copy_(torch.from_numpy(np.where(std > 1e-6, std, 1.0))[:, None, None])

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        pixels = values.reshape(-1, *self.variable.image).permute(0, *(1 + axis for axis in self.order))
        pixels = pixels.reshape(len(pixels), self.channels, *pixels.shape[-2:])
        planes = (pixels.to(self.mean.dtype) - self.mean) / self.std
        if self.symbols is not None:
            channel = torch.arange(self.channels, device=pixels.device)[:, None, None]
            symbols = self.symbols(pixels.long() + 256 * channel).sum(1)  # [images, height, width, symbol width]
            planes = torch.cat([planes, symbols.permute(0, 3, 1, 2).to(planes.dtype)], 1)
        known = self.norm(self.projection(self.convolutions(planes).flatten(1)))
        return with_unknown(known.reshape(*values.shape[:-1], -1), self.unknown, unknown)


def image_axes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Return the order of an image's axes that puts channels (and frames) first, and [channels, height, width].

    Images are HW, HWC, CHW, or stacks of frames of these in front; channels are the axis of 1, 3 or 4, the last one
    where two could be it.
    """
    if len(shape) == 2:
        return (0, 1), (1, shape[0], shape[1])
    height, last = shape[-3], shape[-1]
    channels_last = last in (1, 3, 4) or (height not in (1, 3, 4) and last < min(shape[-3:-1]))
    frames = tuple(range(len(shape) - 3))
    start = len(frames)
    rest = (start + 2, start, start + 1) if channels_last else (start, start + 1, start + 2)
    order = frames + rest
    sizes = [shape[axis] for axis in order]
    return order, (math.prod(sizes[:-2]), sizes[-2], sizes[-1])


class Timestep(nn.Module):
    """The timestep of a fact, counted from the episode's start, by sines and cosines (Vaswani et al. 2017)."""

    frequencies: Tensor

    def __init__(self, variable: Variable, width: int, scale: float):
        super().__init__()
        self.projection = time_projection(width, scale)
        self.unknown = nn.Parameter(torch.randn(width) * scale)
        self.register_buffer("frequencies", time_frequencies(), persistent=False)

    def fit(self, values: np.ndarray) -> None: ...

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> Tensor:
        return with_unknown(self.projection(waves(values[..., 0], self.frequencies)), self.unknown, unknown)


TIME_FEATURES = 64


def time_frequencies() -> Tensor:
    """Return the frequencies of the sines and cosines that stand for a timestep, from 1 down to 1e-4."""
    return torch.exp(torch.arange(TIME_FEATURES // 2) * (-math.log(1e4) / (TIME_FEATURES // 2)))


def time_projection(width: int, scale: float) -> nn.Linear:
    """Return a new projection of sines and cosines, which together come to the scale of one embedding."""
    projection = nn.Linear(TIME_FEATURES, width, bias=False)
    nn.init.normal_(projection.weight, std=scale / math.sqrt(TIME_FEATURES / 2))  # their mean square is 1/2
    return projection


def waves(timesteps: Tensor, frequencies: Tensor) -> Tensor:
    """Return sines and cosines of timesteps [...], [..., TIME_FEATURES]."""
    angles = timesteps[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)
