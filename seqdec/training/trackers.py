"""Trackers: where a run's metrics go besides `metrics.jsonl`, each a way to log and a way to close.

A run of ours is one run of its tracker, however often it is resumed: `tracker.json` in its folder keeps the tracker's
own id of it.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from seqdec import storage
from seqdec.errors import DataError, UsageError
from seqdec.training.secrets import without_secrets

TRACKERS = ("none", "wandb", "tensorboard", "trackio")
IDS = "tracker.json"
Config = Mapping[str, object]


class Tracker(NamedTuple):
    """How to log the values of a step, and how to close; `run_id` is the tracker's own id of the run, if it has ids."""

    log: Callable[[dict[str, float], int], None]
    close: Callable[[], None]
    run_id: str | None = None


def open_tracker(name: str, folder: Path, config: Config, *, step: int) -> Tracker | None:
    """Return a tracker that is ready to log; None for no tracker.

    Args:
        name: one of `TRACKERS`.
        folder: the run's folder.
        config: what the tracker shows as the run's settings, but for the secrets in them.
        step: the step that the run goes on from; from 0 on, it is a run of its own.

    Raises:
        UsageError: the tracker is unknown or not installed.
        DataError: the file of ids is damaged.
    """
    if name not in TRACKERS:
        raise UsageError(f"unknown tracker {name!r}: use one of {', '.join(TRACKERS)}")
    path = folder / IDS
    ids = storage.read_json(path) if step and path.exists() else {}
    run_id = ids.get(name)
    if not isinstance(run_id, str | None):
        raise DataError(f"{path} has no text as the run's id: take the file away to begin another run of {name}")
    config = without_secrets(config)
    try:
        if name == "wandb":
            tracker = _open_wandb(folder, config, run_id)
        elif name == "tensorboard":
            tracker = _open_tensorboard(folder, step)
        elif name == "trackio":
            tracker = _open_trackio(folder, config, run_id)
        else:
            return None
    except ImportError as error:
        raise UsageError(f'{name} is not installed: pip install "seqdec[{name}]"') from error
    if tracker.run_id is not None:
        storage.write_json(path, {**ids, name: tracker.run_id})
    return tracker


def _open_tensorboard(folder: Path, step: int) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    # What was logged after the step that the run goes on from is logged again, and must not be shown twice.
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    return Tracker(log, writer.close)


def _open_trackio(folder: Path, config: Config, run_id: str | None) -> Tracker:
    """Open a run of trackio, whose id is its name: where one of that name is there, trackio gives another."""
    import trackio  # pyright: ignore[reportMissingImports]

    resume = "never" if run_id is None else "allow"
    run = trackio.init(project="seqdec", name=run_id or folder.name, config=dict(config), resume=resume)
    return Tracker(lambda values, step: run.log(values, step=step), run.finish, run.name)


def _open_wandb(folder: Path, config: Config, run_id: str | None) -> Tracker:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it sends what goes wrong, also when offline
    import wandb  # pyright: ignore[reportMissingImports]

    run = wandb.init(
        project="seqdec", name=folder.name, dir=str(folder), config=dict(config),
        id=run_id, resume=None if run_id is None else "allow", allow_val_change=run_id is not None, mode=wandb_mode(),
        # what it would take beside the metrics can hold secrets: the words that were typed, the output, the packages
        settings=wandb.Settings(
            init_timeout=20, silent=True, disable_git=True, console="off", x_disable_meta=True,
            x_save_requirements=False,
        ),
    )  # fmt: skip
    run.define_metric("*", step_metric="step")
    return Tracker(lambda values, step: run.log({**values, "step": step}), run.finish, run.id)


def wandb_mode() -> Any:  # the words that wandb.init takes
    """Return the mode that the user set, which wandb reads once a process; "offline" where nobody is logged in."""
    import wandb  # pyright: ignore[reportMissingImports]

    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    if "prompt" in inspect.signature(wandb.login).parameters:  # since 0.31
        is_logged_in = wandb.login(prompt=False, verify=False)
    else:
        is_logged_in = wandb.api.api_key is not None
    return None if is_logged_in else "offline"
