"""Finetune a pretrained transformer on trajectories, then prompt it to act.

The names below are imported from their modules when they are first used, so that `import seqdec` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from seqdec.backbone import load_backbone
    from seqdec.context import Context
    from seqdec.environment import EnvironmentSpec, make_envs
    from seqdec.episode import Episode
    from seqdec.evaluation import evaluate, plot_report
    from seqdec.layout import Layout, Variable, layout_from_spaces
    from seqdec.model import SequenceModel, build_model
    from seqdec.policy import Policy
    from seqdec.rollouts import Actor, rollout
    from seqdec.sources import (
        describe,
        environment_of,
        from_episodes,
        from_minari,
        load,
        record,
        save,
        scripted_cartpole,
    )
    from seqdec.training import train
    from seqdec.windows import Windows, split_episodes

_HOMES = {
    "backbone": ["load_backbone"],
    "context": ["Context"],
    "environment": ["EnvironmentSpec", "make_envs"],
    "episode": ["Episode"],
    "evaluation": ["evaluate", "plot_report"],
    "layout": ["Layout", "Variable", "layout_from_spaces"],
    "model": ["SequenceModel", "build_model"],
    "policy": ["Policy"],
    "rollouts": ["Actor", "rollout"],
    "sources": [
        "describe", "environment_of", "from_episodes", "from_minari", "load", "record", "save", "scripted_cartpole",
    ],
    "training": ["train"],
    "windows": ["Windows", "split_episodes"],
}  # fmt: skip

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "Actor", "Context", "EnvironmentSpec", "Episode", "Layout", "Policy", "SequenceModel", "Variable", "Windows",
    "build_model", "describe", "environment_of", "evaluate", "from_episodes", "from_minari", "layout_from_spaces",
    "load", "load_backbone", "make_envs", "plot_report", "record", "rollout", "save", "scripted_cartpole",
    "split_episodes", "train",
]  # fmt: skip


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"seqdec.{module}"), name)
    raise AttributeError(f"module 'seqdec' has no attribute {name!r}")
