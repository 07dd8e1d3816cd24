"""The training loop: one function on accelerate, on one process or many.

What happens at step n is a function of the settings, the seed and n: the windows, the dropout masks, the learning
rate. So resuming needs the weights, the optimizer's moments, the step and the scale of fp16's gradients, and nothing
else; and the batch size is global, each process taking its slice, with losses divided by the global number of valid
slots.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from tqdm import tqdm

from seqdec import stops, storage
from seqdec.errors import NumericsError, UsageError
from seqdec.model.recompute import recomputing
from seqdec.model.sequence_model import SequenceModel
from seqdec.model.tasks import by_task, check_tasks
from seqdec.sequence.draw import Draw
from seqdec.sequence.stream import StreamWindows
from seqdec.sequence.windows import Windows
from seqdec.training.checkpoints import Models, restore_checkpoint, restore_sums
from seqdec.training.language import Language
from seqdec.training.memory import enough_memory
from seqdec.training.processes import agree, allow_precision, join_processes, named_if_absent
from seqdec.training.run import Run
from seqdec.training.step import (
    Schedule,
    TaskModels,
    TaskWindows,
    backward,
    draw,
    make_optimizer,
    mix_seeds,
    scheduled,
    shares_of,
    update,
)

Precision = Literal["no", "bf16", "fp16"]
PIECES_EVERY = 4  # windows: a piece of the language's text
MAX_SKIPPED = 3  # steps in a row whose gradient was not finite
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How training ended: the steps done, and the signal that stopped it, if one did."""

    step: int
    stopped_by: str | None = None


def train(
    model: SequenceModel | Mapping[str, SequenceModel],
    windows: Windows | StreamWindows | TaskWindows,
    *,
    out: Path | str,
    steps: int,
    weights: Mapping[str, float] | None = None,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    backbone_learning_rate: float | None = None,
    weight_decay: float = 1e-4,
    warmup_steps: int = 20,
    schedule: Schedule = "constant",
    clip_norm: float = 0.25,
    accumulate: int = 1,
    precision: Precision = "no",
    gradient_checkpointing: bool = False,
    mask_observation: float = 0.0,
    language_text: Path | str = "",
    language_loss: float = 0.1,
    seed: int = 0,
    log_every: int = 10,
    eval_every: int = 0,
    checkpoint_every: int = 0,
    keep_checkpoints: int = 1,
    heldout: Windows | Mapping[str, Windows] | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    tracker: str = "none",
    config: Mapping[str, object] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Outcome:
    """Minimise the negative log likelihood of every predicted variable, weighted by the layout.

    Leaves in `out`: `metrics.jsonl`, `checkpoints/`, and the trained `policy/`.

    Args:
        model: is trained in place; of several tasks, their models by name, around one backbone.
        windows: the training data, by task as the models are; of a stream, this process's part.
        out: the run's folder.
        steps: optimizer steps in all, those of a resumed run included.
        weights: how often a batch is of each task; all alike by default.
        batch_size: windows a step, over all processes.
        learning_rate: of the parameters that were added around the backbone.
        backbone_learning_rate: of the backbone's own; the same by default.
        weight_decay: of matrices; vectors and embeddings are not decayed.
        warmup_steps: over which the rates rise linearly.
        schedule: what the rates do then; `cosine` falls to a tenth.
        clip_norm: largest norm of the gradient of all parameters; 0 does not clip.
        accumulate: parts in which a process computes its slice of the batch, to save memory.
        precision: `bf16` and `fp16` are mixed with float32 parameters.
        gradient_checkpointing: compute the inside of layers again in the backward pass instead of keeping it: less
            memory, more time, the same losses and gradients.
        mask_observation: share of the observations that are written as "unknown", at random, so that the model learns
            to do without.
        language_text: a text in UTF-8 that a model of words goes on reading, so that its language stays; the perplexity
            of its last tenth, which is not trained on, is measured as held-out losses are.
        language_loss: how much the mean loss of its tokens counts.
        seed: of windows, dropout and masks.
        log_every: steps between lines of metrics.
        eval_every: steps between held-out losses and calls of `evaluate`; 0 for the end only.
        checkpoint_every: steps between checkpoints; 0 for the end only.
        keep_checkpoints: how many of them stay.
        heldout: windows of episodes that are not trained on, by task.
        evaluate: measures the model in the environment, on the main process, after the step is saved; its numbers are
            logged as they are. Where it raises, a warning says so, null stands for its numbers, and training goes on.
        tracker: see `trackers.TRACKERS`.
        config: recorded by the tracker.
        resume: go on from the newest checkpoint in `out`, if there is one.
        progress: show a bar.

    Raises:
        UsageError: for settings that do not fit each other, or that need more memory than there is.
        DataError: when a stream comes to an episode that cannot be trained on; what was learned before is saved.
        NumericsError: when the gradient was not finite three times in a row.
        StorageError: when a checkpoint cannot be written; the one before is kept. When a stream breaks off.
    """
    out, models, sources = Path(out), by_task(model), by_task(windows)
    accelerator = _accelerator(precision, num_tasks=len(models))
    _check_settings(accelerator, models, sources, batch_size, accumulate, steps)
    shares = shares_of(sources, weights)
    optimizer = make_optimizer(models, learning_rate, backbone_learning_rate, weight_decay)
    first_step = restore_checkpoint(out, models, optimizer, accelerator.scaler) if resume else 0
    wrapped, prepared = accelerator.prepare(TaskModels(models), optimizer)
    # every task's model reads on, so each must predict words
    texts = [Language.read(Path(language_text), model, language_loss) for model in models.values() if language_text]
    language = texts[0] if texts else None
    num_pieces = max(1, batch_size // PIECES_EVERY // accelerator.num_processes)
    run = Run(
        out, accelerator, models, optimizer, first_step, keep_checkpoints, tracker, config or {},
        {} if heldout is None else by_task(heldout), evaluate,
        batch_size=max(1, batch_size // accelerator.num_processes // accumulate), says_results=not progress,
        language=language,
    )  # fmt: skip
    sums, done = restore_sums(out, first_step, accelerator), first_step
    context_lengths = [model.layout.context_length for model in models.values()]
    with (
        stops.noted() as stop,
        named_if_absent(accelerator, lambda: done),
        _bar(progress and accelerator.is_main_process, first_step, steps) as bar,
        enough_memory(batch_size, context_lengths),
        recomputing(next(iter(models.values())).backbone_source) if gradient_checkpointing else nullcontext(),
    ):
        # a run that was stopped between a checkpoint and its evaluation begins with that
        if is_due(done, steps, eval_every) or (language is not None and done == 0):
            run.measure(done)
        signal_name = agree(accelerator, stop.name)
        while done < steps and signal_name is None:
            step, done = done, done + 1
            # draw this process's windows of the step
            torch.manual_seed(mix_seeds(seed, step, accelerator.process_index))
            wrapped.train()
            with run.saved_if_unreadable(step, sums):
                mine, counts = draw(accelerator, sources, shares, step, seed, batch_size)
            # and its pieces of the text
            pieces = None
            if language is not None:
                pieces = language.draw(step, mix_seeds(seed, accelerator.process_index), num_pieces)
                pieces = pieces.to(accelerator.device)
                counts = counts.beside(language, pieces.numel() * accelerator.num_processes)
            # add their gradients
            with run.saved_if_unreadable(step, sums, others_know=accelerator.num_processes == 1):
                losses = backward(accelerator, wrapped, mine, counts, accumulate, mask_observation, pieces)
            # update, but for a gradient that is not finite
            norm = update(accelerator, wrapped, prepared, scheduled(step, steps, warmup_steps, schedule), clip_norm)
            # count
            sums.add(mine, losses, counts, norm)
            if sums.num_skipped_in_a_row == MAX_SKIPPED and precision != "fp16":
                _give_up(accelerator, out, mine, step)
            del mine  # a stream's buffer goes before the next one comes
            # agree on whether to stop
            signal_name = agree(accelerator, stop.name)
            is_over = done == steps or signal_name is not None
            # log
            if is_due(done, steps, log_every):
                loss = run.log(done, sums, norm)
                bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            # save, before an evaluation may fail
            is_saved = is_over or is_due(done, steps, checkpoint_every)
            if is_saved:
                run.save(done, sums)
            # measure, and stop there where a signal came meanwhile
            if signal_name is None and is_due(done, steps, eval_every):
                run.measure(done)
                signal_name = agree(accelerator, stop.name)
                if signal_name is not None and not is_saved:
                    run.save(done, sums)
            bar.update()
        run.close(is_trained=signal_name is None)
    return Outcome(done, signal_name or agree(accelerator, stop.name))


def is_due(done: int, steps: int, every: int) -> bool:
    """Say whether what comes every so many steps, and at the end, comes after this one."""
    return done == steps or (every > 0 and done > 0 and done % every == 0)


def _accelerator(precision: Precision, *, num_tasks: int) -> Accelerator:
    join_processes()
    allow_precision(precision)
    # a batch holds one task: what belongs to the others has no gradient
    leaves_some = DistributedDataParallelKwargs(find_unused_parameters=num_tasks > 1)
    return Accelerator(mixed_precision=precision, kwargs_handlers=[leaves_some])


def _check_settings(
    accelerator: Accelerator, models: Models, windows: TaskWindows, batch_size: int, accumulate: int, steps: int
) -> None:
    check_tasks(models)
    num_processes = accelerator.num_processes
    if models.keys() != windows.keys():
        raise UsageError(f"there are models of {', '.join(models)}, windows of {', '.join(windows)}: give both by task")
    for stream in windows.values():
        if isinstance(stream, StreamWindows):
            theirs = stream.process_index, stream.num_processes
            if theirs != (accelerator.process_index, num_processes):
                raise UsageError(
                    f"the stream is read as by process {theirs[0]} of {theirs[1]}, this is {accelerator.process_index} "
                    f"of {num_processes}: give StreamWindows process_index and num_processes"
                )
    if batch_size < 1 or accumulate < 1:
        raise UsageError(f"batch size is {batch_size}, in {accumulate} parts: at least 1 of each is needed")
    if batch_size % (num_processes * accumulate):
        raise UsageError(
            f"batch size {batch_size} cannot be split over {num_processes} processes x {accumulate} parts: "
            f"use a multiple of {num_processes * accumulate}"
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("fp16 needs a GPU: use precision bf16 or no", option="precision")
    if steps < 1:
        raise UsageError(f"steps is {steps}: at least 1 is needed")
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise UsageError(f"{accelerator.distributed_type} is not supported: one process a device (DDP) is")
    for model in models.values():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                raise UsageError(f"trainable parameter {name} is not float32: mix by precision", option="precision")


def _give_up(accelerator: Accelerator, out: Path, mine: Draw, step: int) -> NoReturn:
    part = f"-process-{accelerator.process_index}" if accelerator.num_processes > 1 else ""
    path = out / f"not-finite-step-{step:06d}{part}.safetensors"
    storage.write_tensors(path, mine.gather())
    raise NumericsError(
        f"the gradient of steps {step - MAX_SKIPPED + 1} to {step} is not finite; the windows of the last, "
        f"{mine.indices[:4].tolist()} and so on, are in {path}: look at them, or lower the learning rate"
    )


def _bar(shown: bool, first_step: int, steps: int) -> tqdm:
    return tqdm(total=steps, initial=first_step, disable=not shown, unit="step", desc="train", mininterval=0.5)
