"""The training loop: one function on accelerate, on one process or many.

What happens at step n is a function of the settings, the seed and n: the windows, the dropout masks, the learning
rate. So resuming needs the weights, the optimizer's moments, the step and the scale of fp16's gradients, and nothing
else; and the batch size is global, each process taking its slice, with losses divided by the global number of valid
slots.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import Tensor
from tqdm import tqdm

from seqdec import storage
from seqdec.errors import NumericsError, UsageError
from seqdec.model.tasks import MultiTaskModel, TaskWindows
from seqdec.sequence.stream import StreamWindows
from seqdec.sequence.windows import Windows
from seqdec.training.checkpoints import restore_checkpoint, save_checkpoint
from seqdec.training.metrics import Metrics
from seqdec.training.processes import agree, allow_precision, caught_signals, join_processes, on_main_process
from seqdec.training.step import (
    UNREADABLE,
    Model,
    Schedule,
    TrainingWindows,
    backward,
    draw,
    make_optimizer,
    mix_seeds,
    scheduled,
    slice_of,
    to_device,
)

Precision = Literal["no", "bf16", "fp16"]
MAX_SKIPPED = 3  # steps in a row whose gradient was not finite
HELDOUT_WINDOWS = 512
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How training ended: the steps done, and the signal that stopped it, if one did."""

    step: int
    stopped_by: str | None = None


def train(
    model: Model,
    windows: TrainingWindows,
    *,
    out: Path | str,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    backbone_learning_rate: float | None = None,
    weight_decay: float = 1e-4,
    warmup_steps: int = 20,
    schedule: Schedule = "constant",
    clip_norm: float = 0.25,
    accumulate: int = 1,
    precision: Precision = "no",
    mask_observation: float = 0.0,
    seed: int = 0,
    log_every: int = 10,
    eval_every: int = 0,
    checkpoint_every: int = 0,
    keep_checkpoints: int = 1,
    heldout: Windows | TaskWindows | None = None,
    evaluate: Callable[..., Mapping[str, float]] | None = None,
    tracker: str = "none",
    config: Mapping[str, object] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Outcome:
    """Minimise the negative log likelihood of every predicted variable, weighted by the layout.

    Leaves in `out`: `metrics.jsonl`, `checkpoints/`, and the trained `policy/`.

    Args:
        model: is trained in place.
        windows: the training data, of as many tasks as the model has; of a stream, this process's part.
        out: the run's folder.
        steps: optimizer steps in all, those of a resumed run included.
        batch_size: windows a step, over all processes.
        learning_rate: of the parameters that were added around the backbone.
        backbone_learning_rate: of the backbone's own; the same by default.
        weight_decay: of matrices; vectors and embeddings are not decayed.
        warmup_steps: over which the rates rise linearly.
        schedule: what the rates do then; `cosine` falls to a tenth.
        clip_norm: largest norm of the gradient of all parameters; 0 does not clip.
        accumulate: parts in which a process computes its slice of the batch, to save memory.
        precision: `bf16` and `fp16` are mixed with float32 parameters.
        mask_observation: share of the observations that are written as "unknown", at random, so that the model learns
            to do without.
        seed: of windows, dropout and masks.
        log_every: steps between lines of metrics.
        eval_every: steps between held-out losses and calls of `evaluate`; 0 for the end only.
        checkpoint_every: steps between checkpoints; 0 for the end only.
        keep_checkpoints: how many of them stay.
        heldout: windows of episodes that are not trained on.
        evaluate: measures the model in the environment, on the main process; its numbers are logged as they are.
        tracker: see `metrics.TRACKERS`.
        config: recorded by the tracker.
        resume: go on from the newest checkpoint in `out`, if there is one.
        progress: show a bar.

    Raises:
        UsageError: for settings that do not fit each other.
        DataError: when a stream comes to an episode that cannot be trained on; what was learned before is saved.
        NumericsError: when the gradient was not finite three times in a row.
        StorageError: when a checkpoint cannot be written; the one before is kept. When a stream breaks off.
    """
    out = Path(out)
    join_processes()
    # a batch holds one task: what belongs to the others has no gradient
    leaves_some = DistributedDataParallelKwargs(find_unused_parameters=isinstance(model, MultiTaskModel))
    allow_precision(precision)
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[leaves_some])
    _check_settings(accelerator, model, windows, batch_size, accumulate, steps, precision)
    backbone_rate = learning_rate if backbone_learning_rate is None else backbone_learning_rate
    optimizer = make_optimizer(model, learning_rate, backbone_rate, weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    first_step = restore_checkpoint(out, model, optimizer, accelerator.scaler) if resume else 0
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    weights = model.loss_weights
    share = batch_size // accelerator.num_processes
    clock = _Clock(first_step)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}  # of timesteps at which a variable was known
    shares: dict[str, int] = {}  # of timesteps in whose batches it was
    num_valid = num_skipped = num_skipped_in_a_row = 0
    metrics = None
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        metrics = Metrics(out, step=first_step, tracker=tracker, config=config or {})
    with (
        caught_signals() as caught,
        _bar(progress and accelerator.is_main_process, first_step, steps) as bar,
    ):
        for step in range(first_step, steps):
            wrapped.train()
            torch.manual_seed(mix_seeds(seed, step, accelerator.process_index))
            is_told = True  # that it cannot be read, to all processes
            try:
                indices, count, known = draw(accelerator, windows, step, seed, batch_size)
                is_told = accelerator.num_processes == 1
                mine = slice_of(accelerator, indices)
                losses = backward(accelerator, wrapped, windows, mine, known, weights, accumulate, mask_observation)
            except UNREADABLE:
                if step > first_step and is_told:
                    _save(accelerator, out, model, optimizer, step, keep_checkpoints)
                    logger.warning("the stream cannot be read on: saved after %d steps", step)
                raise
            for name, loss in losses.items():
                sums[name] = sums[name] + loss if name in sums else loss
                counts[name] = counts.get(name, 0) + known[name]
                shares[name] = shares.get(name, 0) + count
            num_valid += count
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scheduled(step, steps, warmup_steps, schedule)
            # summed over processes by now: every one of them sees the same norm and decides alike
            norm = float(accelerator.clip_grad_norm_(wrapped.parameters(), clip_norm or math.inf))  # pyright: ignore
            if math.isfinite(norm) or precision == "fp16":  # fp16's scaler skips by itself, and learns from it
                optimizer.step()
            if math.isfinite(norm):
                num_skipped_in_a_row = 0
            else:
                num_skipped += 1
                num_skipped_in_a_row += 1
                if num_skipped_in_a_row == MAX_SKIPPED and precision != "fp16":
                    _give_up(accelerator, out, windows, indices, step)
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            signal_name = agree(accelerator, caught.name)
            is_over = done == steps or signal_name is not None
            if done % log_every == 0 or is_over:
                values = _train_losses(accelerator, sums, counts)
                means = {name: shares[name] / num_valid * values[f"train/loss_{name}"] for name in sums}
                values["train/loss"] = sum(weights[name] * mean for name, mean in means.items())
                values |= {"train/gradient_norm": norm, "train/skipped_steps": float(num_skipped)}
                values |= {"train/learning_rate": rates[0] * scheduled(step, steps, warmup_steps, schedule)}
                values |= clock.speeds(done, num_valid)
                sums, counts, shares, num_valid = {}, {}, {}, 0
                if metrics is not None:
                    metrics.log(done, values)
                bar.set_postfix(loss=f"{values['train/loss']:.4g}", refresh=False)
            if signal_name is None and (done == steps or (eval_every and done % eval_every == 0)):
                with clock.paused():
                    values = _evaluate(accelerator, model, heldout, evaluate, max(1, share // accumulate))
                    if metrics is not None and values:
                        metrics.log(done, values)
                        if not progress:
                            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
                            logger.info("step %d of %d: %s", done, steps, shown)
            if is_over or (checkpoint_every and done % checkpoint_every == 0):
                with clock.paused():
                    _save(accelerator, out, model, optimizer, done, keep_checkpoints)
            bar.update()
            if signal_name is not None:
                if metrics is not None:
                    metrics.close()
                return Outcome(done, signal_name)
    if accelerator.is_main_process:
        assert metrics is not None
        metrics.close()
        accelerator.unwrap_model(wrapped).save(out / "policy")
    accelerator.wait_for_everyone()
    return Outcome(steps)


def heldout_losses(model: Model, heldout: Windows | TaskWindows, batch_size: int = 64) -> dict[str, float]:
    """Mean loss of each predicted variable over windows spread evenly over the held-out episodes of each task."""
    if isinstance(heldout, TaskWindows):
        assert isinstance(model, MultiTaskModel)
        found = {}
        for task, windows in heldout.tasks.items():
            for name, value in heldout_losses(model.task(task), windows, batch_size).items():
                found[name.replace("loss_", f"loss_{task}/", 1)] = value
        return found
    indices = np.linspace(0, len(heldout) - 1, min(HELDOUT_WINDOWS, len(heldout))).astype(np.int64)
    model.eval()
    sums = dict.fromkeys(model.loss_weights, 0.0)
    with torch.no_grad():
        for start in range(0, len(indices), batch_size):
            batch = to_device(heldout.gather(indices[start : start + batch_size]), model.device)
            for name, value in model(batch).items():
                sums[name] += float(value)
    known = heldout.num_known(indices)
    return {f"heldout/loss_{name}": value / max(1, known[name]) for name, value in sums.items()}


def _check_settings(
    accelerator: Accelerator,
    model: Model,
    windows: TrainingWindows,
    batch_size: int,
    accumulate: int,
    steps: int,
    precision: Precision,
) -> None:
    if isinstance(windows, StreamWindows):
        theirs = windows.process_index, windows.num_processes
        if theirs != (accelerator.process_index, accelerator.num_processes):
            raise UsageError(
                f"the stream is read as by process {theirs[0]} of {theirs[1]}, this is {accelerator.process_index} of "
                f"{accelerator.num_processes}: give StreamWindows process_index and num_processes"
            )
    if batch_size < 1 or accumulate < 1:
        raise UsageError(f"batch size is {batch_size}, in {accumulate} parts: at least 1 of each is needed")
    parts = accelerator.num_processes * accumulate
    if batch_size % parts:
        raise UsageError(
            f"batch size {batch_size} cannot be split over {accelerator.num_processes} processes "
            f"x {accumulate} parts: use a multiple of {parts}"
        )
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("fp16 needs a GPU: use --precision bf16 or no")
    if steps < 1:
        raise UsageError(f"steps is {steps}: at least 1 is needed")
    if accelerator.distributed_type not in (
        DistributedType.NO,
        DistributedType.MULTI_CPU,
        DistributedType.MULTI_GPU,
    ):
        raise UsageError(f"{accelerator.distributed_type} is not supported: one process a device (DDP) is")
    narrow = next((n for n, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32), None)
    if narrow is not None:
        raise UsageError(f"trainable parameter {narrow} is not float32: use --precision for mixed training")


def _give_up(accelerator: Accelerator, out: Path, windows: TrainingWindows, indices: np.ndarray, step: int) -> NoReturn:
    path = out / f"not-finite-step-{step:06d}.safetensors"
    if isinstance(windows, StreamWindows) and accelerator.num_processes > 1:
        indices = slice_of(accelerator, indices)
        path = path.with_stem(f"{path.stem}-process-{accelerator.process_index}")
        storage.write_tensors(path, windows.gather(indices))
    elif accelerator.is_main_process:
        storage.write_tensors(path, windows.gather(indices))
    raise NumericsError(
        f"the gradient of steps {step - MAX_SKIPPED + 1} to {step} is not finite; the windows of the last, "
        f"{indices[:4].tolist()} and so on, are in {path}: look at them, or lower --learning-rate"
    )


def _train_losses(accelerator: Accelerator, sums: dict[str, Tensor], counts: dict[str, int]) -> dict[str, float]:
    names = sorted(sums)
    stacked = accelerator.reduce(torch.stack([sums[name] for name in names]), reduction="sum")
    assert isinstance(stacked, Tensor)
    totals = dict(zip(names, stacked.tolist(), strict=True))
    return {f"train/loss_{name}": value / max(1, counts[name]) for name, value in totals.items()}


def _evaluate(
    accelerator: Accelerator,
    model: Model,
    heldout: Windows | TaskWindows | None,
    evaluate: Callable[..., Mapping[str, float]] | None,
    batch_size: int,
) -> dict[str, float]:
    """Measure on the main process; the others wait, and share its failure."""
    values: dict[str, float] = {}
    with on_main_process(accelerator) as is_mine:
        if is_mine:
            if heldout is not None:
                values |= heldout_losses(model, heldout, batch_size)
            if evaluate is not None:
                values |= evaluate(model)
    return values


def _save(
    accelerator: Accelerator, out: Path, model: Model, optimizer: AcceleratedOptimizer, step: int, keep: int
) -> None:
    with on_main_process(accelerator) as is_mine:
        if is_mine:
            save_checkpoint(out, model, optimizer.optimizer, step, keep, accelerator.scaler)


def _bar(shown: bool, first_step: int, steps: int) -> tqdm:
    return tqdm(total=steps, initial=first_step, disable=not shown, unit="step", desc="train", mininterval=0.5)


class _Clock:
    """Seconds of training, without evaluation and saving."""

    def __init__(self, step: int):
        self.step, self.start = step, time.perf_counter()

    def speeds(self, step: int, num_valid: int) -> dict[str, float]:
        """Rates since the last call."""
        now = time.perf_counter()
        seconds, self.start = now - self.start, now
        num_steps, self.step = step - self.step, step
        return {
            "speed/steps_per_second": num_steps / seconds,
            "speed/timesteps_per_second": num_valid / seconds,
        }

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of a block."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.start += time.perf_counter() - begin
