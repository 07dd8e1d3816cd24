"""Finetune a backbone on trajectories: `python train.py ...` is `seqdec train ...`."""

import sys

from seqdec.__main__ import run

if __name__ == "__main__":
    run(["train", *sys.argv[1:]])
