"""The questions that one model answers, beside acting: what may come, what led here, what was meant, is it data.

    write what is known  ->  sample, score or search for the rest  ->  returns, predict, inverse, infer_goal, plan, ...

This is a door; each question has its module in `inference`.
"""

from seqdec.inference.likelihood import is_in_data, log_prob, rank_checkpoints
from seqdec.inference.planning import Planning, plan
from seqdec.inference.questions import explain, infer_goal, inverse, predict
from seqdec.inference.returns import expert_return, returns

__all__ = [
    "Planning", "expert_return", "explain", "infer_goal", "inverse", "is_in_data", "log_prob", "plan", "predict",
    "rank_checkpoints", "returns",
]  # fmt: skip
