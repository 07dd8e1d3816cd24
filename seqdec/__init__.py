"""Finetune a pretrained transformer on trajectories, then prompt it to act.

An episode is written out as tokens, a pretrained decoder reads them, and every question, acting first, is: write what
is known, sample what is not. The rooms are that sentence:

    data -> sequence -> model -> training     episodes, in an order, into a decoder, which learns them
                              -> inference    and is asked: write, sample
    spaces storage | formats play cli         what values are and how folders appear; files, environments, words

The names below are the front door; `seqdec.data`, `seqdec.play`, `seqdec.sequence` and `seqdec.questions` have the
tools of their subjects. Everything else is internal and may change. A name is imported from its module when it is
first used, so that `import seqdec` costs nothing.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from seqdec import data, play, questions, sequence
    from seqdec.data.episode import Episode
    from seqdec.finetune import finetune
    from seqdec.formats.columns import Columns
    from seqdec.formats.load import load_dataset
    from seqdec.inference.context import Context
    from seqdec.inference.evaluation import evaluate
    from seqdec.inference.likelihood import log_prob
    from seqdec.inference.planning import Planning
    from seqdec.inference.policy import Policy
    from seqdec.inference.prompt import Prompt
    from seqdec.model.backbone import load_backbone
    from seqdec.model.folder import load_policy
    from seqdec.model.sequence_model import build_model
    from seqdec.play import record, rollout
    from seqdec.sequence import Layout, Variable, Windows, layout_from_spaces
    from seqdec.spaces.spec import EnvironmentSpec
    from seqdec.training.loop import train

_DOORS = ("data", "play", "questions", "sequence")
_HOMES = {
    "data.episode": ["Episode"],
    "finetune": ["finetune"],
    "formats.columns": ["Columns"],
    "formats.load": ["load_dataset"],
    "inference.context": ["Context"],
    "inference.evaluation": ["evaluate"],
    "inference.likelihood": ["log_prob"],
    "inference.planning": ["Planning"],
    "inference.policy": ["Policy"],
    "inference.prompt": ["Prompt"],
    "model.backbone": ["load_backbone"],
    "model.folder": ["load_policy"],
    "model.sequence_model": ["build_model"],
    "play": ["record", "rollout"],
    "sequence": ["Layout", "Variable", "Windows", "layout_from_spaces"],
    "spaces.spec": ["EnvironmentSpec"],
    "training.loop": ["train"],
}

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "Columns", "Context", "EnvironmentSpec", "Episode", "Layout", "Planning", "Policy", "Prompt", "Variable",
    "Windows", "build_model", "evaluate", "finetune", "layout_from_spaces", "load_backbone", "load_dataset",
    "load_policy", "log_prob", "record", "rollout", "train", "data", "play", "questions", "sequence",
]  # fmt: skip


def door(package: str, homes: Mapping[str, list[str]]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package that imports its names from their homes when they are first used."""

    def imported(name: str) -> object:
        home = next((module for module, names in homes.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = vars(sys.modules[package])[name] = getattr(import_module(f"seqdec.{home}"), name)
        return value

    return imported


_imported = door(__name__, _HOMES)


def __getattr__(name: str) -> object:
    return import_module(f"seqdec.{name}") if name in _DOORS else _imported(name)
