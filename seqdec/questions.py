"""The questions that one model answers, beside acting: what may come, what led here, what was meant, is it data.

    write what is known  ->  sample, score or search for the rest  ->  returns, predict, inverse, infer_goal, plan, ...

Each one is imported from its module in `inference` when it is first used: a question costs its own imports only.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqdec.inference.likelihood import is_in_data, log_prob, rank_checkpoints
    from seqdec.inference.planning import Planning, plan
    from seqdec.inference.questions import explain, infer_goal, inverse, predict
    from seqdec.inference.returns import expert_return, returns

_MODULES = {
    "likelihood": ["is_in_data", "log_prob", "rank_checkpoints"],
    "planning": ["Planning", "plan"],
    "questions": ["explain", "infer_goal", "inverse", "predict"],
    "returns": ["expert_return", "returns"],
}
__all__ = [
    "Planning", "expert_return", "explain", "infer_goal", "inverse", "is_in_data", "log_prob", "plan", "predict",
    "rank_checkpoints", "returns",
]  # fmt: skip


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"seqdec.inference.{module}"), name)
    raise AttributeError(f"module 'seqdec.questions' has no attribute {name!r}")
