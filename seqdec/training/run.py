"""A run folder while it is trained: lines of metrics, checkpoints, evaluations. One process writes it for all."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.optim import Optimizer

from seqdec import stops
from seqdec.errors import in_words
from seqdec.model.folder import save_policy
from seqdec.model.sequence_model import SequenceModel
from seqdec.sequence.draw import Draw
from seqdec.sequence.windows import Windows
from seqdec.training.checkpoints import Models, save_checkpoint
from seqdec.training.language import Language
from seqdec.training.metrics import Metrics, Sums
from seqdec.training.processes import on_main_process
from seqdec.training.step import UNREADABLE, to_device

HELDOUT_WINDOWS = 512
logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """Writes what a run leaves; every process calls it alike, the main one works and the others wait.

    Args:
        folder: of the run.
        accelerator: knows the processes.
        models: by task.
        optimizer: whose moments are saved.
        first_step: to go on from.
        keep: how many checkpoints stay.
        tracker: one of `trackers.TRACKERS`.
        config: what the tracker shows as the run's settings.
        heldout: windows of each task that are not trained on.
        evaluate: measures the models in their environments.
        batch_size: of held-out windows.
        says_results: evaluations are told by the log, for want of a bar.
        language: whose perplexity is measured, too.
    """

    folder: Path
    accelerator: Accelerator
    models: Models
    optimizer: Optimizer
    first_step: int
    keep: int
    tracker: str
    config: Mapping[str, object]
    heldout: Mapping[str, Windows]
    evaluate: Callable[[], Mapping[str, float]] | None
    batch_size: int
    says_results: bool
    language: Language | None = None

    def __post_init__(self) -> None:
        self._began, self._metrics = time.perf_counter(), None
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._metrics = Metrics(self.folder, step=self.first_step, tracker=self.tracker, config=self.config)

    def log(self, step: int, sums: Sums, norm: float) -> float:
        """Log what the steps since the last log came to, begin new sums, and return the loss."""
        seconds = self._seconds_of(sums)
        self._began = time.perf_counter()
        values = sums.means(self.accelerator)
        values |= {"train/gradient_norm": norm, "train/skipped_steps": float(sums.num_skipped)}
        values |= {"train/largest_gradient_norm": sums.largest_norm}
        values |= {"train/learning_rate": self.optimizer.param_groups[0]["lr"]}
        values |= {"speed/steps_per_second": sums.num_steps / seconds}
        values |= {"speed/timesteps_per_second": sums.num_valid / seconds}
        sums.clear()
        if self._metrics is not None:
            self._metrics.log(step, values)
        return values["train/loss"]

    def _seconds_of(self, sums: Sums) -> float:
        return sums.seconds + time.perf_counter() - self._began

    @contextlib.contextmanager
    def _on_main_process(self) -> Iterator[bool]:
        """Let the main process work, and do not count the time as training's."""
        began = time.perf_counter()
        try:
            with on_main_process(self.accelerator) as is_mine:
                yield is_mine
        finally:
            self._began += time.perf_counter() - began

    def save(self, step: int, sums: Sums) -> None:
        """Publish a checkpoint, in which are the sums of the steps that are not logged yet."""
        not_logged = {**sums.to_json(), "seconds": self._seconds_of(sums)}
        with self._on_main_process() as is_mine:
            if is_mine:
                save_checkpoint(
                    self.folder, self.models, self.optimizer, step, self.keep, self.accelerator.scaler, not_logged
                )

    @contextlib.contextmanager
    def saved_if_unreadable(self, step: int, sums: Sums, *, others_know: bool = True) -> Iterator[None]:
        """Save what was learned where a stream cannot be read on, if every process hears of that."""
        try:
            yield
        except UNREADABLE:
            if step > self.first_step and others_know:
                self.save(step, sums)
                logger.warning("the stream cannot be read on: saved after %d steps", step)
            raise

    def measure(self, step: int) -> None:
        """Log what held-out windows and `evaluate` say, unless it is in the log; a failure of the latter is null.

        A stop leaves it to the run that goes on.
        """
        with self._on_main_process(), contextlib.suppress(stops.Stopped):
            if self._metrics is None or step in self._metrics.measured:
                return
            with self.accelerator.autocast():
                values = heldout_losses(self.models, self.heldout, self.batch_size)
                if self.language is not None:
                    values["heldout/perplexity"] = self.language.perplexity(next(iter(self.models.values())))
            if step == 0:  # before training there is nothing to play
                self._metrics.log(step, values)
                return
            try:
                values |= self.evaluate() if self.evaluate is not None else {}
            except Exception as error:  # noqa: BLE001 - foreign code, of any kind of failure
                stops.check()  # which may have become this error
                logger.warning("the evaluation at step %d failed (%s): training goes on", step, in_words(error))
                before = [name for names in self._metrics.measured.values() for name in names]
                names = [name for name in before if not name.startswith("heldout/")]
                values |= dict.fromkeys(names or ["eval/return"], float("nan"))
            if values:
                self._metrics.log(step, values)
            if values and self.says_results:
                logger.info("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def close(self, *, is_trained: bool) -> None:
        """Publish the policy if it is trained, and let the tracker finish."""
        with on_main_process(self.accelerator):
            if self._metrics is not None:
                if is_trained:
                    save_policy(self.models, self.folder / "policy")
                self._metrics.close()


def heldout_losses(models: Models, heldout: Mapping[str, Windows], batch_size: int = 64) -> dict[str, float]:
    """Mean loss of each predicted variable over windows spread evenly over the held-out episodes of each task."""
    losses = {}
    for task, windows in heldout.items():
        prefix = f"heldout/loss_{task}/" if task else "heldout/loss_"
        for name, loss in _mean_losses(models[task], windows, batch_size).items():
            losses[prefix + name] = loss
    return losses


def _mean_losses(model: SequenceModel, windows: Windows, batch_size: int) -> dict[str, float]:
    indices = np.linspace(0, len(windows) - 1, min(HELDOUT_WINDOWS, len(windows))).astype(np.int64)
    model.eval()
    sums = dict.fromkeys(model.layout.predicted, 0.0)
    with torch.no_grad():
        for start in range(0, len(indices), batch_size):
            stops.check()
            batch = to_device(windows.gather(indices[start : start + batch_size]), model.device)
            for name, value in model(batch).items():
                sums[name] += float(value)
    known = Draw(windows, indices).num_known()
    return {name: value / max(1, known[name]) for name, value in sums.items()}
