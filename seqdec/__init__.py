"""Finetune a pretrained transformer on trajectories, then prompt it to act.

The names below are imported from their modules when they are first used, so that `import seqdec` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from seqdec.data.dataset import from_episodes, save
    from seqdec.data.description import describe
    from seqdec.data.episode import Episode
    from seqdec.data.schema import environment_of
    from seqdec.data.select import mix, subset
    from seqdec.formats.columns import Columns
    from seqdec.formats.load import load_dataset
    from seqdec.inference.context import Context
    from seqdec.inference.evaluation import evaluate
    from seqdec.inference.likelihood import is_in_data, log_prob, rank_checkpoints
    from seqdec.inference.planning import Planning, plan
    from seqdec.inference.plots import plot_report
    from seqdec.inference.policy import Policy
    from seqdec.inference.prompt import Prompt
    from seqdec.inference.questions import explain, infer_goal, inverse, predict
    from seqdec.inference.returns import expert_return, returns
    from seqdec.model.backbone import load_backbone
    from seqdec.model.folder import load_policy
    from seqdec.model.sequence_model import SequenceModel, build_model
    from seqdec.play import Actor, from_sb3, make_envs, random_policy, record, rollout, scripted_cartpole
    from seqdec.sequence.layout import Layout, Variable
    from seqdec.sequence.presets import layout_from_spaces
    from seqdec.sequence.stream import StreamWindows
    from seqdec.sequence.windows import Windows, split_episodes
    from seqdec.spaces.spec import EnvironmentSpec
    from seqdec.training.loop import train

_HOMES = {
    "data.dataset": ["from_episodes", "save"],
    "data.description": ["describe"],
    "data.episode": ["Episode"],
    "data.schema": ["environment_of"],
    "data.select": ["mix", "subset"],
    "formats.columns": ["Columns"],
    "formats.load": ["load_dataset"],
    "inference.context": ["Context"],
    "inference.evaluation": ["evaluate"],
    "inference.likelihood": ["is_in_data", "log_prob", "rank_checkpoints"],
    "inference.planning": ["Planning", "plan"],
    "inference.plots": ["plot_report"],
    "inference.policy": ["Policy"],
    "inference.prompt": ["Prompt"],
    "inference.questions": ["explain", "infer_goal", "inverse", "predict"],
    "inference.returns": ["expert_return", "returns"],
    "model.backbone": ["load_backbone"],
    "model.folder": ["load_policy"],
    "model.sequence_model": ["SequenceModel", "build_model"],
    "play": ["Actor", "from_sb3", "make_envs", "random_policy", "record", "rollout", "scripted_cartpole"],
    "sequence.layout": ["Layout", "Variable"],
    "sequence.presets": ["layout_from_spaces"],
    "sequence.stream": ["StreamWindows"],
    "sequence.windows": ["Windows", "split_episodes"],
    "spaces.spec": ["EnvironmentSpec"],
    "training.loop": ["train"],
}

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "Actor", "Columns", "Context", "EnvironmentSpec", "Episode", "Layout", "Planning", "Policy",
    "Prompt", "SequenceModel", "StreamWindows", "Variable", "Windows", "build_model", "describe",
    "environment_of", "evaluate", "expert_return", "explain", "from_episodes", "from_sb3", "infer_goal", "inverse",
    "is_in_data", "layout_from_spaces", "load_backbone", "load_dataset", "load_policy", "log_prob", "make_envs", "mix",
    "plan", "plot_report", "predict", "random_policy", "rank_checkpoints", "record", "returns", "rollout", "save",
    "scripted_cartpole", "split_episodes", "subset", "train",
]  # fmt: skip


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"seqdec.{module}"), name)
    raise AttributeError(f"module 'seqdec' has no attribute {name!r}")
