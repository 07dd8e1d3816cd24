"""Inference: a sequence is written as far as it is known, and the rest is sampled.

    Context     write(observation=..., return_to_go=...)  ->  sample("action")    keys and values stand in a Memory
    Policy      the environment's loop around these two verbs: what is known is written, what is not is sampled
    questions   the same verbs, other slots: returns, predict, inverse, infer_goal, plan, explain, log_prob
    evaluate    a policy in its environment, one target after the other  ->  Report

Nothing here changes a weight, reads a data set's folder or knows a flag. `recorded` makes a pass quick; without it all
is the same.
"""
