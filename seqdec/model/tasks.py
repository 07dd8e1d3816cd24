"""Several tasks with spaces of their own around one backbone: a layout, codecs and data each.

    cartpole   Windows -> SequenceModel                                           one backbone
    pendulum   Windows -> SequenceModel /

Every batch holds one task, drawn by weight from the seed and the step. Acting, asking and evaluating take one task's
`SequenceModel` and know of no others.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn

import seqdec
from seqdec import storage
from seqdec.errors import DataError, UsageError, suggest
from seqdec.model.backbone import reload_backbone, save_backbone
from seqdec.model.sequence_model import POLICY_FORMAT, SequenceModel

if TYPE_CHECKING:  # acting needs no data
    from seqdec.sequence.windows import Windows


TASK_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}")


class TaskWindows:
    """The windows of several tasks, which look like the windows of one.

    An index is a task's own index behind those of the tasks before it; `gather` takes indices of one task.

    Args:
        tasks: the windows of each task, by name.
        weights: how often a batch is of a task; all alike by default.

    Example:
        >>> windows = TaskWindows({"cartpole": cartpole_windows, "pendulum": pendulum_windows})
        >>> batch = windows.gather(windows.draw(step=0, seed=0, batch_size=8))
    """

    def __init__(self, tasks: "Mapping[str, Windows]", weights: Mapping[str, float] | None = None):
        self.tasks = dict(tasks)
        shares = np.array([1.0 if weights is None else weights[name] for name in self.tasks])
        if not len(shares) or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() == 0:
            raise UsageError(f"the weights of the tasks are {shares.tolist()}: finite ones, not all 0, are needed")
        self._shares = shares / shares.sum()
        # drawn by name: which task comes at a step does not depend on the order in which they were given
        self._order = sorted(range(len(self.tasks)), key=list(self.tasks).__getitem__)
        self._ends = np.cumsum([len(windows) for windows in self.tasks.values()])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def draw(self, step: int, seed: int, batch_size: int) -> np.ndarray:
        """Return the indices of the windows of an optimizer step, all of one task, int64 [B]."""
        # numbers of its own: a task's windows are those that it would have alone
        random = np.random.default_rng((seed, step, 1))
        index = int(random.choice(len(self._order), p=self._shares[self._order]))
        index = self._order[index]
        windows = list(self.tasks.values())[index]
        rounds, inside = np.divmod(windows.draw(step, seed, batch_size), len(windows))
        return inside + self._ends[index] - len(windows) + len(self) * rounds

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """Return how many timesteps each of these windows has, padding apart, int64 [B]."""
        _, windows, own = self._of(indices)
        return windows.sizes(own)

    def num_valid(self, indices: np.ndarray) -> int:
        """Count the timesteps of these windows that are not padding."""
        _, windows, own = self._of(indices)
        return windows.num_valid(own)

    def num_known(self, indices: np.ndarray) -> dict[str, int]:
        """Count the timesteps at which each variable that the task predicts is known, by "TASK/VARIABLE"."""
        index, windows, own = self._of(indices)
        return {f"{list(self.tasks)[index]}/{name}": count for name, count in windows.num_known(own).items()}

    def gather(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return windows of one task as a batch, with the task's number as "task"."""
        index, windows, own = self._of(indices)
        return {**windows.gather(own), "task": torch.tensor(index)}

    def _of(self, indices: np.ndarray) -> "tuple[int, Windows, np.ndarray]":
        rounds, inside = np.divmod(indices, len(self))
        index = int(np.searchsorted(self._ends, inside[0], side="right"))
        windows = list(self.tasks.values())[index]
        return index, windows, inside - (self._ends[index] - len(windows)) + len(windows) * rounds


class MultiTaskModel(nn.Module):
    """One backbone, and around it a `SequenceModel` for each task.

    Args:
        tasks: the models by name; all of them have the same backbone.

    Example:
        >>> backbone = load_backbone("small")
        >>> models = {name: build_model(windows, backbone) for name, windows in tasks.items()}
        >>> model = MultiTaskModel(models)
        >>> policy = Policy(model.task("pendulum"), target_return=-200)
    """

    def __init__(self, tasks: Mapping[str, SequenceModel]):
        super().__init__()
        for name in tasks:
            if not TASK_NAME.fullmatch(name):
                raise UsageError(f"a task is called {name!r}: use letters, digits, - and _")
        first = next(iter(tasks.values()))
        if any(model.backbone is not first.backbone for model in tasks.values()):
            raise UsageError("the tasks' models have backbones of their own: build them around one")
        self.backbone = first.backbone
        self.backbone_source = first.backbone_source
        self.tasks = nn.ModuleDict(tasks)

    @property
    def names(self) -> list[str]:
        """The tasks, in order."""
        return list(self.tasks)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.task(self.names[0]).device

    def task(self, name: str) -> SequenceModel:
        """Return one task's model; raises UsageError, naming the tasks, where there is none of that name."""
        if name not in self.tasks:
            raise UsageError(f"no task {name!r}{suggest(name, self.names)}: this policy has {', '.join(self.names)}")
        model = self.tasks[name]
        assert isinstance(model, SequenceModel)
        return model

    @property
    def loss_weights(self) -> dict[str, float]:
        """How much each loss counts, by "TASK/VARIABLE"."""
        return {
            f"{name}/{variable}": weight
            for name in self.names
            for variable, weight in self.task(name).loss_weights.items()
        }

    def forward(self, batch: Mapping[str, Tensor], drop_observation: float = 0.0) -> dict[str, Tensor]:
        """Return the losses of the batch's task, as `SequenceModel.forward` does, by "TASK/VARIABLE"."""
        name = self.names[int(batch["task"])]
        losses = self.task(name)(batch, drop_observation)
        return {f"{name}/{variable}": loss for variable, loss in losses.items()}

    def new_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that were added around the backbone."""
        return [parameter for name in self.names for parameter in self.task(name).new_parameters()]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of the backbone."""
        return self.task(self.names[0]).backbone_parameters()

    def save(self, folder: Path | str) -> None:
        """Publish a policy folder, replacing what is there, so that it stands whole or not at all."""
        with storage.publish(Path(folder), replace=True) as open_folder:
            self.write(open_folder)

    def write(self, folder: Path) -> None:
        """Write the policy's files into a folder that somebody else publishes: the backbone once, the rest by task."""
        (folder / "backbone").mkdir(parents=True)
        save_backbone(self.backbone_source, folder / "backbone")
        for name in self.names:
            (folder / "tasks" / name).mkdir(parents=True)
            self.task(name).write_own(folder / "tasks" / name)
        description = {"format": POLICY_FORMAT, "seqdec": seqdec.__version__, "tasks": self.names}
        storage.write_json(folder / "policy.json", description)

    @classmethod
    def load(cls, folder: Path | str, *, merge_adapters: bool = False) -> Self:
        """Read a policy folder of several tasks; it is in evaluation mode, on the CPU.

        Raises:
            DataError: for a folder that is no such policy, is damaged, or is of a newer format.
        """
        folder = Path(folder)
        storage.verify(folder)
        names = storage.read_json(folder / "policy.json").get("tasks")
        if not isinstance(names, list) or not names or not all(TASK_NAME.fullmatch(str(name)) for name in names):
            raise DataError(f"{folder} is no policy of several tasks: its policy.json names none")
        backbone = reload_backbone(folder / "backbone", merge_adapters=merge_adapters)
        return cls({name: SequenceModel.read_own(folder / "tasks" / name, backbone) for name in names}).eval()


def load_policy(folder: Path | str, *, merge_adapters: bool = False) -> SequenceModel | MultiTaskModel:
    """Read a policy folder of one task or of several."""
    has_tasks = (Path(folder) / "tasks").is_dir()
    return (MultiTaskModel if has_tasks else SequenceModel).load(folder, merge_adapters=merge_adapters)


def task_of(model: SequenceModel | MultiTaskModel, name: str) -> SequenceModel:
    """Return the model of the task that was asked for; an empty name is enough where there is only one.

    Raises:
        UsageError: there is no such task, or there are several and none was named.
    """
    if isinstance(model, MultiTaskModel):
        if not name and len(model.names) > 1:
            raise UsageError(f"this policy has several tasks: choose one with --task ({', '.join(model.names)})")
        return model.task(name or model.names[0])
    if name:
        raise UsageError(f"this policy has one task only: leave --task {name} out")
    return model
