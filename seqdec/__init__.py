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
    from seqdec.likelihood import is_in_data, log_prob, rank_checkpoints
    from seqdec.model import SequenceModel, build_model
    from seqdec.planning import Planning, plan
    from seqdec.policy import Policy
    from seqdec.prompts import Prompt
    from seqdec.queries import explain, infer_goal, inverse, predict
    from seqdec.recording import random_policy
    from seqdec.return_distribution import expert_return, returns
    from seqdec.rollouts import Actor, rollout
    from seqdec.selection import mix, subset
    from seqdec.sources import (
        describe,
        environment_of,
        from_episodes,
        from_hdf5,
        from_lerobot,
        from_minari,
        from_table,
        load,
        record,
        save,
        scripted_cartpole,
    )
    from seqdec.stable_baselines import from_sb3
    from seqdec.streams import StreamWindows
    from seqdec.table_columns import Columns
    from seqdec.tasks import MultiTaskModel, TaskWindows, load_policy
    from seqdec.training import train
    from seqdec.windows import Windows, split_episodes

_HOMES = {
    "backbone": ["load_backbone"],
    "context": ["Context"],
    "environment": ["EnvironmentSpec", "make_envs"],
    "episode": ["Episode"],
    "evaluation": ["evaluate", "plot_report"],
    "layout": ["Layout", "Variable", "layout_from_spaces"],
    "likelihood": ["is_in_data", "log_prob", "rank_checkpoints"],
    "model": ["SequenceModel", "build_model"],
    "planning": ["Planning", "plan"],
    "policy": ["Policy"],
    "prompts": ["Prompt"],
    "queries": ["explain", "infer_goal", "inverse", "predict"],
    "recording": ["random_policy"],
    "return_distribution": ["expert_return", "returns"],
    "rollouts": ["Actor", "rollout"],
    "selection": ["mix", "subset"],
    "sources": [
        "describe", "environment_of", "from_episodes", "from_hdf5", "from_lerobot", "from_minari", "from_table", "load",
        "record", "save", "scripted_cartpole",
    ],
    "stable_baselines": ["from_sb3"],
    "streams": ["StreamWindows"],
    "table_columns": ["Columns"],
    "tasks": ["MultiTaskModel", "TaskWindows", "load_policy"],
    "training": ["train"],
    "windows": ["Windows", "split_episodes"],
}  # fmt: skip

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "Actor", "Columns", "Context", "EnvironmentSpec", "Episode", "Layout", "MultiTaskModel", "Planning", "Policy",
    "Prompt", "SequenceModel", "StreamWindows", "TaskWindows", "Variable", "Windows", "build_model", "describe",
    "environment_of", "evaluate", "expert_return", "explain", "from_episodes", "from_hdf5", "from_lerobot",
    "from_minari", "from_sb3", "from_table", "infer_goal", "inverse", "is_in_data", "layout_from_spaces", "load",
    "load_backbone", "load_policy", "log_prob", "make_envs", "mix", "plan", "plot_report", "predict", "random_policy",
    "rank_checkpoints", "record", "returns", "rollout", "save", "scripted_cartpole", "split_episodes", "subset",
    "train",
]  # fmt: skip


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"seqdec.{module}"), name)
    raise AttributeError(f"module 'seqdec' has no attribute {name!r}")
