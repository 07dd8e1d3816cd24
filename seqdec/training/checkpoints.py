"""Checkpoints: a policy and what its optimizer remembers, published together, so that training can go on.

    runs/NAME/checkpoints/step-000400/   policy/   what `save_policy` writes
                                         train/    the optimizer's moments by parameter name, the step,
                                                   of fp16 how gradients are scaled
                                         manifest.json

The newest is the one with the highest step and a manifest: there is no link or "latest" file that could be stale.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from seqdec import storage
from seqdec.errors import DataError, StorageError, UsageError, foreign
from seqdec.model.folder import load_tasks, write_policy
from seqdec.model.sequence_model import SequenceModel
from seqdec.training.metrics import Sums
from seqdec.training.processes import gathered, join_processes

Models = Mapping[str, SequenceModel]
STATE, OPTIMIZER = "train/state.json", "train/optimizer.safetensors"
logger = logging.getLogger(__name__)


def checkpoints(run: Path) -> list[Path]:
    """Return the published checkpoints of a run, oldest first."""
    return storage.published(run / "checkpoints", "step-")


def save_checkpoint(
    run: Path,
    models: Models,
    optimizer: Optimizer,
    step: int,
    keep: int,
    scaler: GradScaler | None = None,
    not_logged: Mapping[str, object] | None = None,
) -> None:
    """Publish the checkpoint of a step, then retire all but the newest `keep`.

    `not_logged` are the sums of the steps since the last log, as `Sums.to_json` has them.

    Raises:
        StorageError: if it cannot be written; says which checkpoint stands.
    """
    folder = _folder_of(run, step)
    try:
        with storage.publish(folder, replace=True) as open_folder:
            (open_folder / "policy").mkdir()
            write_policy(models, open_folder / "policy")
            storage.write_manifest(open_folder / "policy")  # so that it can be loaded, or copied away, by itself
            (open_folder / "train").mkdir()
            tensors, counts = _optimizer_state(models, optimizer)
            storage.write_tensors(open_folder / OPTIMIZER, tensors)
            more = {} if scaler is None else {"scaler": scaler.state_dict()}
            more |= {} if not_logged is None else {"not_logged": not_logged}
            state = {"step": step, "processes": join_processes().num_processes, "updates": counts, **more}
            storage.write_json(open_folder / STATE, state)
    except StorageError as error:
        kept = f"{checkpoints(run)[-1].name} is kept" if checkpoints(run) else "there is no earlier checkpoint"
        raise StorageError(f"could not save step {step}: {error}; {kept}") from error
    for old in checkpoints(run)[:-keep]:
        storage.retire(old)


def newest_sound(run: Path, *, quiet: bool = False) -> Path | None:
    """Return the newest undamaged checkpoint of a run; None where there is none at all.

    Those that are damaged are told of, unless `quiet`.

    Raises:
        DataError: there are checkpoints, and all of them are damaged.
    """
    folders = checkpoints(run)
    for folder in reversed(folders):
        try:
            storage.check_named(folder, storage.verify(folder), (STATE, OPTIMIZER))
            return folder
        except DataError as error:
            if folder == folders[0]:
                raise
            if not quiet:
                logger.warning("%s: going on from the checkpoint before", error)
    return None


def agreed(run: Path, *, resume: bool, quiet: bool = False) -> Path | None:
    """Return the newest undamaged checkpoint of a run that all processes see; None where they begin anew.

    Raises:
        DataError: there are checkpoints, and all of them are damaged.
        UsageError: processes see different ones, as where a node has another folder, or a damaged copy.
    """
    folder = newest_sound(run, quiet=quiet) if resume else None
    digest = "" if folder is None else hashlib.sha256((folder / storage.MANIFEST).read_bytes()).hexdigest()
    seen = gathered(("no checkpoint" if folder is None else folder.name, digest))
    other = next((index for index, theirs in enumerate(seen) if theirs != seen[0]), None)
    if other is not None:
        names = [f"process {index} has {seen[index][0]}" for index in (0, other)]
        differ = " with other content" if seen[0][0] == seen[other][0] else ""
        raise UsageError(f"{run}: {', '.join(names)}{differ}: all processes must see one folder, on a shared disk")
    return folder


def restore_checkpoint(run: Path, models: Models, optimizer: Optimizer, scaler: GradScaler | None = None) -> int:
    """Load the newest undamaged checkpoint into models, an optimizer and a scaler made by the same settings.

    Returns:
        the step to go on from; 0 if there is no checkpoint.

    Raises:
        DataError: if there are checkpoints and all of them are damaged.
        UsageError: if a model is not the one that was saved, or processes see different checkpoints.
    """
    folder = agreed(run, resume=True)
    if folder is None:
        return 0
    saved = load_tasks(folder / "policy")
    _check_same_models(folder, models, saved)
    for name, model in models.items():
        model.load_state_dict(saved[name].state_dict())
    state = storage.read_json(folder / STATE)
    moments = storage.read_tensors(folder / OPTIMIZER)
    with foreign(f"{folder / STATE} does not say how training goes on: delete this checkpoint"):
        step = int(state["step"])
        _load_optimizer(models, optimizer, moments, state["updates"])
        if scaler is not None and "scaler" in state:  # older checkpoints, and those of another precision, have none
            scaler.load_state_dict(state["scaler"])
    processes = join_processes()
    before = state.get("processes", processes.num_processes)  # 0.1.0 did not keep it
    if before != processes.num_processes and processes.is_main_process:
        change = f"processes were {before}, are {processes.num_processes}"
        logger.warning("%s: the run will not equal an unbroken one", change)
    logger.info("resuming from step %d", step)
    return step


def restore_sums(run: Path, step: int, accelerator: Accelerator) -> Sums:
    """Return what the steps before `step` came to that are not logged yet; nothing where none is kept."""
    path = _folder_of(run, step) / STATE
    state = storage.read_json(path) if step else {}
    with foreign(f"{path} does not say what is not logged yet: delete this checkpoint"):
        return Sums.from_json(state["not_logged"], accelerator) if "not_logged" in state else Sums()


def _folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def _check_same_models(folder: Path, models: Models, saved: Models) -> None:
    if models.keys() != saved.keys():
        raise UsageError(f"{folder} has the tasks {', '.join(saved)}, this run has {', '.join(models)}")
    for task, model in models.items():
        there, here = saved[task].state_dict(), model.state_dict()
        for name in (*here, *there):
            shapes = [tuple(tensors[name].shape) if name in tensors else "nothing" for tensors in (there, here)]
            if shapes[0] != shapes[1]:
                raise UsageError(
                    f"{folder} was trained with another model: {name} has shape {shapes[0]} there, {shapes[1]} here; "
                    "resume with the settings of that run"
                )


def _named_parameters(models: Models) -> dict[str, nn.Parameter]:
    """Return all parameters by the names that checkpoints have: those of the backbone once, other tasks' apart."""
    parameters = {}
    for task, model in models.items():
        for name, parameter in model.named_parameters():
            is_own = task and not name.startswith("backbone.")
            parameters[f"tasks.{task}.{name}" if is_own else name] = parameter
    return parameters


def _optimizer_state(models: Models, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The optimizer's moments, and how often each parameter was updated, by the parameter's name."""
    moments, counts = {}, {}
    for name, parameter in _named_parameters(models).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if key == "step":
                counts[name] = float(value)
            else:
                moments[f"{key}:{name}"] = value
    return moments, counts


def _load_optimizer(
    models: Models, optimizer: Optimizer, moments: Mapping[str, Tensor], counts: Mapping[str, float]
) -> None:
    parameters = _named_parameters(models)
    for name, count in counts.items():
        optimizer.state[parameters[name]]["step"] = torch.tensor(count, dtype=torch.float32)
    for key, moment in moments.items():
        kind, name = key.split(":", 1)
        optimizer.state[parameters[name]][kind] = moment
