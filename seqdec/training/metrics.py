"""The numbers of a run: summed between two logs, written as lines of `metrics.jsonl` always, and to a tracker if asked.

A tracker that is asked for and not installed is an error at the start. One that fails later, exits or hangs is reported
once and left alone: it never stops training.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from seqdec import storage
from seqdec.errors import UsageError
from seqdec.sequence.draw import Draw
from seqdec.training.processes import gathered
from seqdec.training.step import Counts
from seqdec.training.trackers import open_tracker
from seqdec.training.worker import Worker

TRACKER_SECONDS = 60.0  # for each call of a tracker
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


@dataclass
class Sums:
    """What the steps since the last log come to: losses, and timesteps, by variable ("TASK/VARIABLE" of a named task).

    `num_known` counts the timesteps at which a variable was known, `num_present` all those in whose batches it was.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    num_known: dict[str, int] = field(default_factory=dict)
    num_present: dict[str, int] = field(default_factory=dict)
    num_valid: int = 0
    num_steps: int = 0
    seconds: float = 0.0  # that these steps took before the run was resumed
    largest_norm: float = 0.0  # of the gradients of steps that were not skipped
    num_skipped: int = 0  # steps, of the whole run
    num_skipped_in_a_row: int = 0

    def add(self, mine: Draw, losses: Mapping[str, Tensor], counts: Counts, norm: float) -> None:
        """Count a step, which was skipped where its gradient's norm is not finite."""
        is_skipped = not math.isfinite(norm)
        self.largest_norm = self.largest_norm if is_skipped else max(self.largest_norm, norm)
        self.num_skipped += is_skipped
        self.num_skipped_in_a_row = self.num_skipped_in_a_row + 1 if is_skipped else 0
        self.num_valid += counts.num_valid
        self.num_steps += 1
        for variable, loss in losses.items():
            name = f"{mine.task}/{variable}" if mine.task else variable
            self.losses[name] = self.losses[name] + loss if name in self.losses else loss
            self.weights[name] = counts.weights[variable]
            self.num_known[name] = self.num_known.get(name, 0) + counts.num_known[variable]
            self.num_present[name] = self.num_present.get(name, 0) + counts.num_valid

    def clear(self) -> None:
        """Begin anew, but for the number of steps that were skipped."""
        self.losses, self.num_known, self.num_present = {}, {}, {}
        self.num_valid, self.num_steps, self.seconds, self.largest_norm = 0, 0, 0.0, 0.0

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the mean loss of each variable over all processes, and of all together, as they were weighted."""
        totals = self._totals(accelerator)
        means = {name: total / max(1, self.num_known[name]) for name, total in totals.items()}
        together = sum(self.weights[name] * self.num_present[name] / self.num_valid * means[name] for name in means)
        return {**{f"train/loss_{name}": mean for name, mean in means.items()}, "train/loss": together}

    def to_json(self) -> dict[str, object]:
        """Return what a checkpoint keeps: each process's sums, in their order, with null for what is not finite.

        Added up they would be another number, as floats are, than those of a run that was not broken.
        """
        mine = {name: loss.item() for name, loss in self.losses.items()}
        every = gathered({name: value if math.isfinite(value) else None for name, value in mine.items()})
        return {**vars(self), "losses": {name: [theirs[name] for theirs in every] for name in mine}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], accelerator: Accelerator) -> "Sums":
        """Return the sums that a checkpoint kept of this process.

        Where there were others, or a checkpoint of 0.1.0 kept one for all, the main process goes on with all of them.
        """
        losses = {}
        for name, kept in value["losses"].items():
            sums = [
                math.nan if kept_sum is None else kept_sum for kept_sum in (kept if isinstance(kept, list) else [kept])
            ]
            if len(sums) != accelerator.num_processes:
                sums = [sum(sums)] + [0.0] * (accelerator.num_processes - 1)
            losses[name] = torch.tensor(sums[accelerator.process_index], device=accelerator.device)
        return cls(**{**value, "losses": losses})

    def _totals(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the sum of each variable's losses over all processes."""
        names = sorted(self.losses)
        if not names:
            return {}
        stacked = accelerator.reduce(torch.stack([self.losses[name] for name in names]), reduction="sum")
        assert isinstance(stacked, Tensor)
        return dict(zip(names, stacked.tolist(), strict=True))


def _is_of(line: Mapping[str, object]) -> bool:
    """Say whether a line is one of ours: numbers by name, at a step."""
    is_whole = isinstance(line.get("step"), int)
    return is_whole and all(value is None or isinstance(value, int | float) for value in line.values())


class Metrics:
    """Writes a run's metrics; `log` takes numbers by name, such as "train/loss".

    Args:
        folder: the run's folder.
        step: lines of later steps are cut away, so that a resumed run has neither gaps nor repeats.
        tracker: one of `trackers.TRACKERS`, which goes on with its run where this one is resumed.
        config: what the tracker shows as the run's settings.
    """

    def __init__(self, folder: Path, *, step: int, tracker: str, config: Mapping[str, object]):
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            storage.truncate_lines(self.path, lambda line: _is_of(line) and line["step"] <= step)
        self.measured: dict[int, list[str]] = {}  # beside training, by step: names
        for line in storage.read_lines(self.path) if self.path.exists() else []:
            self._remember(line["step"], line)
        self._name, self._tracker = tracker, None
        if tracker != "none":
            self._worker = Worker(TRACKER_SECONDS)
            self._tracker = self._ask(lambda: open_tracker(tracker, folder, config, step=step))

    def _remember(self, step: int, names: Iterable[str]) -> None:
        measured = [name for name in names if name != "step" and not name.startswith(("train/", "speed/"))]
        if measured:
            self.measured.setdefault(step, []).extend(measured)

    def _ask(self, function: Callable[[], Result]) -> Result | None:
        """Let the tracker do something; where it fails, exits or hangs, say so once, and do without it from then on."""
        try:
            return self._worker.call(function)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # foreign code, of any kind of failure
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            logger.warning("%s unavailable (%s), continuing with %s", self._name, reason, self.path)
            self._tracker = None
            return None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line; numbers that are not finite become null."""
        self._remember(step, values)
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        storage.append_line(self.path, {"step": step, **finite})
        if self._tracker is not None:
            self._ask(partial(self._tracker.log, dict(values), step))

    def close(self) -> None:
        """Let the tracker finish."""
        if self._tracker is not None:
            self._ask(self._tracker.close)
            self._worker.close()
            self._tracker = None
