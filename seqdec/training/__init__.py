"""Finetune: draw, backward, update, count, agree, log, save, measure, on one process or many.

`loop` is that sentence, `step` its first half, `run` its second; `checkpoints` and `metrics` are files of the run's
folder, `processes` those that work together. It plays no environment: `evaluate` is given to it.
"""
