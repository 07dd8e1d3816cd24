"""One optimizer step: its windows, its gradients, its rates."""

import contextlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from seqdec.errors import DataError, StorageError, UsageError
from seqdec.model.sequence_model import SequenceModel
from seqdec.model.tasks import MultiTaskModel, TaskWindows
from seqdec.sequence.stream import StreamWindows
from seqdec.sequence.windows import Windows

Schedule = Literal["constant", "cosine"]
Model = SequenceModel | MultiTaskModel
TrainingWindows = Windows | TaskWindows | StreamWindows
UNREADABLE = (DataError, UsageError, StorageError)  # what a stream may come to when it reads on
WORTH_A_PASS = 64  # timesteps: computing fewer takes no longer than what a pass costs beside them


def make_optimizer(model: Model, learning_rate: float, backbone_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with the rates of new and of backbone parameters; norms, biases and embeddings are not decayed."""
    is_table = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    groups = []
    for origin, parameters, rate in (
        ("new", model.new_parameters(), learning_rate),
        ("backbone", model.backbone_parameters(), backbone_rate),
    ):
        if not parameters:
            raise UsageError(f"no {origin} parameter is trainable: its learning rate would match nothing")
        matrices = [p for p in parameters if p.ndim > 1 and id(p) not in is_table]
        others = [p for p in parameters if p.ndim <= 1 or id(p) in is_table]
        groups += [
            {"params": group, "lr": rate, "weight_decay": decay}
            for group, decay in ((matrices, weight_decay), (others, 0.0))
            if group
        ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)


def scheduled(step: int, steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Share of the learning rate at a step."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.1 + 0.45 * (1 + np.cos(np.pi * progress))


def mix_seeds(*numbers: int) -> int:
    """One seed of several numbers, so that neighbouring steps and processes draw unrelated masks."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def draw(
    accelerator: Accelerator, windows: TrainingWindows, step: int, seed: int, batch_size: int
) -> tuple[np.ndarray, int, dict[str, int]]:
    """Return the indices of a step's windows, and how many timesteps all processes have: in all, and known ones."""
    if not isinstance(windows, StreamWindows) or accelerator.num_processes == 1:
        indices = windows.draw(step, seed, batch_size)
        return indices, windows.num_valid(indices), windows.num_known(indices)
    # each process knows its own part only: together they count, and hear of one that cannot read on
    names = windows.layout.predicted
    failure, indices, counts = None, np.zeros(0, np.int64), [0] * (1 + len(names))
    try:
        indices = windows.draw(step, seed, batch_size)
        mine = slice_of(accelerator, indices)
        counts = [windows.num_valid(mine), *windows.num_known(mine).values()]
    except UNREADABLE as error:
        failure = error
    told = torch.tensor([*counts, failure is not None], device=accelerator.device)
    torch.distributed.all_reduce(told)
    count, *known, num_failures = told.tolist()
    if num_failures:
        words = gather_object([None if failure is None else str(failure)])
        raise failure or DataError(next(word for word in words if word is not None))
    return indices, count, dict(zip(names, known, strict=True))


def slice_of(accelerator: Accelerator, indices: np.ndarray) -> np.ndarray:
    share = len(indices) // accelerator.num_processes
    return indices[accelerator.process_index * share :][:share]


def backward(
    accelerator: Accelerator,
    wrapped: torch.nn.Module,
    windows: TrainingWindows,
    mine: np.ndarray,
    known: Mapping[str, int],
    weights: Mapping[str, float],
    accumulate: int,
    mask_observation: float,
) -> dict[str, Tensor]:
    """Add this process's windows to the gradients, divided by the counts of all; return its losses, summed."""
    sums: dict[str, Tensor] = {}
    parts = parts_of(windows.sizes(mine), accumulate, divide=accelerator.device.type == "cpu")
    for index, part in enumerate(parts):
        batch = to_device(windows.gather(mine[part]), accelerator.device)
        is_last = index == len(parts) - 1
        with contextlib.nullcontext() if is_last else accelerator.no_sync(wrapped):
            losses = wrapped(batch, mask_observation)
            loss = sum(weights[name] / max(1, known[name]) * value for name, value in losses.items())
            assert isinstance(loss, Tensor)
            # processes average their gradients: undo it, the count is global already
            accelerator.backward(loss * accelerator.num_processes)
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
    return sums


def parts_of(sizes: np.ndarray, accumulate: int, *, divide: bool = True) -> list[np.ndarray]:
    """Return which windows [B] are computed together: those of like size, for a batch is as long as its longest.

    A GPU has time for padding, and none for more passes or new shapes: there a chunk is not divided.
    """
    chunks = np.array_split(np.argsort(sizes, kind="stable"), accumulate)
    return [part for chunk in chunks for part in (_divided(chunk, sizes) if divide else [chunk])]


def _divided(part: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Divide windows in order of their size where that saves more padding than a pass of its own costs."""
    saved = np.arange(1, len(part)) * (sizes[part[-1]] - sizes[part[:-1]])
    if not len(saved) or saved.max() < WORTH_A_PASS:
        return [part]
    cut = 1 + int(saved.argmax())
    return [*_divided(part[:cut], sizes), *_divided(part[cut:], sizes)]
