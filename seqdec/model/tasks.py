"""Several tasks with spaces of their own around one backbone: a dict of models, often of one.

    cartpole   Windows -> SequenceModel
                                       one backbone
    pendulum   Windows -> SequenceModel

"" is the name of a task that is alone. Training takes the dict, and batches of one task each; acting, asking and
evaluating take one task's `SequenceModel` and know of no others.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from seqdec.errors import UsageError
from seqdec.model.sequence_model import SequenceModel

TASK_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}")

T = TypeVar("T")


def by_task(value: T | Mapping[str, T]) -> dict[str, T]:
    """Return what each task has; what is no dict belongs to the only task, ""."""
    return dict(value) if isinstance(value, Mapping) else {"": value}  # pyright: ignore[reportReturnType]


def check_tasks(models: Mapping[str, SequenceModel]) -> None:
    """Raise UsageError where names cannot be those of tasks, or models have backbones of their own."""
    if not models:
        raise UsageError("there is no task: give at least one model")
    for name in models if list(models) != [""] else []:
        if not TASK_NAME.fullmatch(name):
            raise UsageError(f"a task is called {name!r}: use letters, digits, - and _")
    first = next(iter(models.values()))
    if any(model.backbone is not first.backbone for model in models.values()):
        raise UsageError("the tasks' models have backbones of their own: build them around one")
