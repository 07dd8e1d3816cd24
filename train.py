"""Finetune a backbone on trajectories: `python train.py ...` is `seqdec train ...`."""

import sys

from seqdec.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
