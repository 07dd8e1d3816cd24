"""One optimizer step: its windows, its gradients, its rates. All of them are functions of the settings and its number.

A step's batch is of one task. Every process computes its part of it, with losses divided by the counts of all.
"""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import Tensor, nn

from seqdec.errors import DataError, StorageError, UsageError
from seqdec.model.sequence_model import SequenceModel
from seqdec.sequence.draw import Draw
from seqdec.sequence.layout import Layout
from seqdec.sequence.stream import StreamWindows
from seqdec.sequence.windows import Windows
from seqdec.training.language import NAME as LANGUAGE
from seqdec.training.language import Language, language_loss

Schedule = Literal["constant", "cosine"]
TaskWindows = Mapping[str, Windows | StreamWindows]
UNREADABLE = (DataError, UsageError, StorageError)  # what a stream may come to when it reads on
WORTH_A_PASS = 64  # timesteps: computing fewer takes no longer than what a pass costs beside them


class Counts(NamedTuple):
    """How many timesteps a step's batch has on all processes: `num_valid` in all, `num_known` by predicted variable.

    `weights` says how much the mean loss of each counts; the language beside them is counted by tokens.
    """

    num_valid: int
    num_known: Mapping[str, int]
    weights: Mapping[str, float]

    def beside(self, language: Language, num_tokens: int) -> "Counts":
        """Return the counts of a batch beside which tokens of a text are read."""
        num_known = {**self.num_known, LANGUAGE: num_tokens}
        return self._replace(num_known=num_known, weights={**self.weights, LANGUAGE: language.weight})


class TaskModels(nn.Module):
    """The models of all tasks as one module, as accelerate wants it: a batch is for its task's model."""

    def __init__(self, models: Mapping[str, SequenceModel]):
        super().__init__()
        self._places = {name: place for place, name in enumerate(models)}
        self.models = nn.ModuleList(models.values())

    def forward(
        self, task: str, batch: Mapping[str, Tensor], mask_observation: float, pieces: Tensor | None = None
    ) -> dict[str, Tensor]:
        model = self.models[self._places[task]]
        losses = model(batch, mask_observation)
        if pieces is not None:
            assert isinstance(model, SequenceModel)
            losses[LANGUAGE] = language_loss(model, pieces)
        return losses


def make_optimizer(
    models: Mapping[str, SequenceModel], learning_rate: float, backbone_rate: float | None, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW with the rates of new and of backbone parameters, by default the same; the highest ones are kept as "peak".

    Norms, biases and embeddings are not decayed.
    """
    backbone_rate = learning_rate if backbone_rate is None else backbone_rate
    modules = [module for model in models.values() for module in model.modules()]
    is_table = {id(module.weight) for module in modules if isinstance(module, nn.Embedding)}
    shared = list(next(iter(models.values())).backbone.parameters())
    is_shared = {id(parameter) for parameter in shared}
    new = [parameter for model in models.values() for parameter in model.parameters() if id(parameter) not in is_shared]
    groups = []
    for origin, parameters, rate in (("new", new, learning_rate), ("backbone", shared, backbone_rate)):
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not parameters and not (origin == "new" and not new):  # a language model has none but the backbone's
            raise UsageError(f"no {origin} parameter is trainable: its learning rate would match nothing")
        matrices = [p for p in parameters if p.ndim > 1 and id(p) not in is_table]
        others = [p for p in parameters if p.ndim <= 1 or id(p) in is_table]
        decays = ((matrices, weight_decay), (others, 0.0))
        rates = {"lr": rate, "peak": rate}
        groups += [{"params": group, "weight_decay": decay, **rates} for group, decay in decays if group]
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


def shares_of(windows: TaskWindows, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return how often a batch is of each task; all alike where no weights are given."""
    if weights is not None and weights.keys() != windows.keys():
        raise UsageError(f"there are weights of {', '.join(weights)}, the tasks are {', '.join(windows)}")
    shares = np.array([1.0 if weights is None else weights[name] for name in windows])
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() == 0:
        raise UsageError(f"the weights of the tasks are {shares.tolist()}: finite ones, not all 0, are needed")
    return dict(zip(windows, (shares / shares.sum()).tolist(), strict=True))


def task_of_step(shares: Mapping[str, float], step: int, seed: int) -> str:
    """Return the task of a step's batch; in which order the tasks are given makes no difference."""
    names = sorted(shares)
    if len(names) == 1:
        return names[0]
    random = np.random.default_rng((seed, step, 1))  # numbers of its own, which no window has
    return names[int(random.choice(len(names), p=[shares[name] for name in names]))]


def draw(
    accelerator: Accelerator, windows: TaskWindows, shares: Mapping[str, float], step: int, seed: int, batch_size: int
) -> tuple[Draw, Counts]:
    """Return this process's part of the windows of a step, all of one task, and the counts of all parts.

    They are those that the task would have alone.

    Raises:
        DataError, UsageError, StorageError: a stream cannot be read on; on all processes.
    """
    task = task_of_step(shares, step, seed)
    source = windows[task]
    if not isinstance(source, StreamWindows) or accelerator.num_processes == 1:
        whole = replace(source.draw(step, seed, batch_size), task=task)
        return _part_of(accelerator, whole), Counts(
            whole.num_valid, whole.num_known(), _weights_of(whole.windows.layout)
        )
    # each process knows its own part only: together they count, and hear of one that cannot read on
    predicted = source.layout.predicted
    failure, mine, numbers = None, None, [0] * (1 + len(predicted))
    try:
        mine = _part_of(accelerator, replace(source.draw(step, seed, batch_size), task=task))
        numbers = [mine.num_valid, *mine.num_known().values()]
    except UNREADABLE as error:
        failure = error
    sums = torch.tensor([*numbers, failure is not None], device=accelerator.device)
    torch.distributed.all_reduce(sums)
    num_valid, *known, num_failures = sums.tolist()
    if num_failures:
        words = gather_object([None if failure is None else str(failure)])
        raise failure or DataError(next(word for word in words if word is not None))
    assert mine is not None
    return mine, Counts(num_valid, dict(zip(predicted, known, strict=True)), _weights_of(mine.windows.layout))


def _weights_of(layout: Layout) -> dict[str, float]:
    return {name: layout.variable(name).loss_weight for name in layout.predicted}


def _part_of(accelerator: Accelerator, whole: Draw) -> Draw:
    share = len(whole.indices) // accelerator.num_processes
    first = accelerator.process_index * share
    return whole.part(slice(first, first + share))


def backward(
    accelerator: Accelerator,
    wrapped: nn.Module,
    mine: Draw,
    counts: Counts,
    accumulate: int,
    mask_observation: float,
    pieces: Tensor | None = None,
) -> dict[str, Tensor]:
    """Add this process's windows to the gradients, divided by the counts of all; return its losses, summed.

    `pieces` of a text [n, tokens] are read beside the last part.
    """
    sums: dict[str, Tensor] = {}
    parts = parts_of(mine.work, accumulate, divide=accelerator.device.type == "cpu")
    for index, places in enumerate(parts):
        batch = to_device(mine.part(places).gather(), accelerator.device)
        is_last = index == len(parts) - 1
        with contextlib.nullcontext() if is_last else accelerator.no_sync(wrapped):
            losses = wrapped(mine.task, batch, mask_observation, pieces if is_last else None)
            loss = sum(counts.weights[name] / max(1, counts.num_known[name]) * value for name, value in losses.items())
            assert isinstance(loss, Tensor)
            # processes average their gradients: undo it, the count is global already
            accelerator.backward(loss * accelerator.num_processes)
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
    return sums


def update(
    accelerator: Accelerator, wrapped: nn.Module, optimizer: AcceleratedOptimizer, rate_share: float, clip_norm: float
) -> float:
    """Move the parameters at a share of their rates, but for a gradient that is not finite; return the gradient's norm.

    It is summed over processes by now: every one of them sees the same norm and decides alike.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate_share
    norm = float(accelerator.clip_grad_norm_(wrapped.parameters(), clip_norm or math.inf))  # pyright: ignore
    if math.isfinite(norm) or accelerator.mixed_precision == "fp16":  # fp16's scaler skips by itself, and learns of it
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


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
