"""Values as somebody gives them -> tensors as codecs take them, in raw units, and a mask of what is missing.

NaN and None end here: behind this door there are zeros and a mask.
"""

import math
from collections.abc import Mapping
from functools import cache

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from seqdec.data.episode import MAX_MAGNITUDE, Episode, nonfinite_entry
from seqdec.errors import UsageError
from seqdec.sequence.layout import Layout
from seqdec.sequence.variable import Variable, encode_texts
from seqdec.spaces.leaves import MISSING, in_box, without_nan


def tensor_of(
    variable: Variable, value: object, mask: object, num_sequences: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return values [B, ...] of a variable, and which of them are missing.

    Args:
        variable: of the layout.
        value: [B, size] or [B], images in their own shape, texts; None where all of it is unknown.
        mask: True where it is missing, [B] or [B, size], or None; NaN, and None among texts, are missing too.
        num_sequences: B.
        device: where the model is.

    Raises:
        UsageError: the values have another shape, or are missing in a way that the model has not learned.
    """
    dtype = _dtype(variable)
    if value is None:
        shape = (num_sequences, *(variable.shape if variable.kind != "text" else (0,)))
        return torch.zeros(shape, dtype=dtype, device=device), torch.ones(
            num_sequences, dtype=torch.bool, device=device
        )
    if variable.kind == "text":
        rows = [value] * num_sequences if isinstance(value, str) else list(value)  # pyright: ignore
        if len(rows) != num_sequences:
            raise UsageError(f"{variable.name} has {len(rows)} texts: {num_sequences} are expected")
        tensor = torch.from_numpy(encode_texts([text or "" for text in rows])).to(device)
        absent = np.array([text is None for text in rows])
        if absent.any():
            mask = absent if mask is None else torch.as_tensor(mask).cpu().numpy().reshape(-1) | absent
        return tensor, None if mask is None else _mask_of(variable, mask, num_sequences, device)
    tensor = torch.as_tensor(value)
    if tensor.is_floating_point() and not math.isfinite(tensor.sum()):  # a sum is quicker to look at
        values, absent = without_nan(tensor.cpu().numpy())
        tensor = torch.from_numpy(values)
        if absent is not None:
            mask = absent if mask is None else torch.as_tensor(mask).cpu().numpy() | absent
    shape = (num_sequences, *variable.shape)
    if tensor.ndim != len(shape) and tensor.numel() == math.prod(shape):
        tensor = tensor.reshape(shape)  # images, and vectors of any shape
    if tensor.shape != shape:
        raise UsageError(f"{variable.name} has shape {tuple(tensor.shape)}: {shape} is expected")
    tensor = less_offset(variable, tensor)
    if tensor.dtype != dtype or tensor.device != device:
        tensor = tensor.to(device, dtype)
    return tensor, None if mask is None else _mask_of(variable, mask, num_sequences, device)


def less_offset(variable: Variable, values: Tensor) -> Tensor:
    """Return values [..., size] as codecs have them, less the variable's offset, which is subtracted in float64."""
    if not variable.offset:
        return values
    return (values.double().cpu() - torch.tensor(variable.offset, dtype=torch.float64)).float().to(values.device)


def with_offset(variable: Variable, values: Tensor) -> Tensor:
    """Return values [..., size] as everybody else has them: float64 where the variable has an offset."""
    if not variable.offset:
        return values
    return (values.cpu().double() + torch.tensor(variable.offset, dtype=torch.float64)).to(values.device)


def _mask_of(variable: Variable, mask: object, num_sequences: int, device: torch.device) -> Tensor:
    """Return a mask as the codec takes it: [B], or [B, size] for entries of an optional vector."""
    entries = torch.as_tensor(mask, dtype=torch.bool, device=device).reshape(num_sequences, -1)
    if variable.is_vector and variable.optional:
        return entries.expand(num_sequences, variable.size)
    if variable.is_vector and (entries.any(1) & ~entries.all(1)).any():
        raise UsageError(
            f"{variable.name} is missing in part, and the model has not learned that: train on data that name it "
            f"among what may be missing (missing=[{variable.name!r}])",
            option="missing",
        )
    return entries.any(1)


def checked_rewards(reward: object, num_rows: int) -> np.ndarray:
    """Return rewards, float64 [num_rows]; raises UsageError where they are not one finite number for each row."""
    rewards = np.asarray(reward)
    if rewards.dtype.kind not in "biuf" or rewards.size != num_rows or not np.isfinite(rewards).all():
        raise UsageError(f"reward is {reward!r}: a finite number is needed for each of {num_rows} environments")
    return rewards.astype(np.float64).reshape(-1)


def count_down(returns_to_go: np.ndarray, rewards: np.ndarray, discount: float) -> np.ndarray:
    """Return what is left of returns; by a discount, a return that nobody earns would grow beyond every number."""
    with np.errstate(over="ignore"):
        left = (returns_to_go - rewards) / discount
    return np.clip(left, -MAX_MAGNITUDE, MAX_MAGNITUDE)


def in_space(leaf: gymnasium.Space, sampled: Tensor | list[str]) -> np.ndarray:
    """Return actions of a leaf in its own shape and type, inside its bounds."""
    if isinstance(sampled, list):
        return np.array([*sampled, None], object)[:-1]
    values = sampled.cpu().numpy()
    values = values.reshape(len(values), *(leaf.shape or ()))
    if isinstance(leaf, Box) and leaf.dtype != values.dtype:  # of its own type a codec keeps inside
        return in_box(leaf, values)
    return values.astype(leaf.dtype, copy=False)


def as_done(leaf: Box, variable: Variable, sampled: Tensor) -> Tensor:
    """Return actions of a leaf [B, size] as `in_space` has them, for the codec to read."""
    done = in_space(leaf, with_offset(variable, sampled)).reshape(sampled.shape)
    return less_offset(variable, torch.from_numpy(done)).to(sampled.device, torch.float32)


def check_observations(
    seen: Mapping[str, np.ndarray],
    leaves: Mapping[str, gymnasium.Space],
    layout: Layout,
    num_rows: int,
    *,
    is_single: bool,
) -> None:
    """Refuse a batch where one observation is expected, the other way round, infinities, and what may not be missing.

    Args:
        seen: observations by leaf, [num_rows, ...], without NaN, and their masks.
        leaves: spaces of the observation.
        layout: says which of them may be missing.
        num_rows: environments that run.
        is_single: whether one observation is expected.
    """
    for name, leaf in leaves.items():
        values, expected = seen[name], (num_rows, *(leaf.shape or ()))
        if values.shape != expected and is_single:
            what = f"one of shape {expected[1:]} is expected after reset()"
            raise UsageError(f"{name} has shape {values.shape[1:]}: {what}; for a batch, call reset(num_envs)")
        if values.shape != expected:
            what = f"{expected} is expected, a row for each running environment"
            raise UsageError(f"{name} has shape {values.shape}: {what}; for one observation, call reset()")
        if values.dtype.kind == "f" and not math.isfinite(values.sum()) and (place := nonfinite_entry(values)):
            raise UsageError(f"{name}{place[1]}: a finite number is needed, or nan where it is not known")
        mask = seen.get(MISSING + name)
        if mask is not None and any(own.name == name and not own.optional for own in layout.variables):
            row = "" if is_single else f" of environment {np.flatnonzero(mask.reshape(num_rows, -1).any(1))[0]}"
            raise UsageError(
                f"{name}{row} is not known, and the model has not learned that: train on data that name it among "
                f"what may be missing (missing=[{name!r}])",
                option="missing",
            )


def demo_batch(layout: Layout, value: object, mask: object, num_sequences: int) -> dict[str, Tensor]:
    """Return the first timesteps of demos as `SequenceModel.embed_demo` reads them.

    Args:
        layout: says which variables a demo shows, and how many timesteps.
        value: an episode, or one for each sequence; None where there is none.
        mask: True where a demo is not shown, [num_sequences], or None.
        num_sequences: B.

    Raises:
        UsageError: there are not as many episodes, or they are of other spaces.
    """
    episodes = [value] * num_sequences if value is None or isinstance(value, Episode) else list(value)  # pyright: ignore
    if len(episodes) != num_sequences:
        raise UsageError(f"demo has {len(episodes)} episodes: {num_sequences} are expected")
    if mask is not None:
        hidden = torch.as_tensor(mask).reshape(-1).tolist()
        episodes = [None if is_hidden else episode for episode, is_hidden in zip(episodes, hidden, strict=True)]
    length, batch = layout.demo_length, {}
    for name in layout.demo_names:
        variable = layout.variable(name)
        values = torch.zeros((len(episodes), length, *variable.shape), dtype=_dtype(variable))
        is_wide = variable.optional and variable.is_vector
        missing = torch.ones((len(episodes), length, *(variable.shape if is_wide else ())), dtype=torch.bool)
        for row, episode in enumerate(episodes):
            if episode is None:
                continue
            if name not in episode.steps:
                raise UsageError(f"the demo has no {name!r}: its episode has {', '.join(episode.steps)}")
            shown = torch.as_tensor(episode.steps[name][:length])
            if shown.shape[1:].numel() != math.prod(variable.shape) or not variable.has(
                float(shown.min()), float(shown.max())
            ):
                raise UsageError(
                    f"the demo's {name} should be {variable.describe()}: show an episode of the same spaces"
                )
            shown = shown.reshape(len(shown), *variable.shape)
            values[row, : len(shown)] = less_offset(variable, shown).to(values.dtype)
            absent = torch.as_tensor(episode.steps.get(MISSING + name, np.zeros(len(episode), bool))[:length])
            absent = absent.reshape(len(shown), -1)
            missing[row, : len(shown)] = absent if is_wide else absent.any(1)
        batch |= {f"demo.{name}": values, f"{MISSING}demo.{name}": missing}
    return batch


@cache
def _dtype(variable: Variable) -> torch.dtype:
    return torch.from_numpy(np.empty(0, variable.dtype)).dtype
