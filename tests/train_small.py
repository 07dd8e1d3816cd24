"""Train a tiny model into FOLDER/NAME; run plainly or under torchrun by `test_two_processes_follow_one`."""

import sys
from pathlib import Path

from conftest import make_windows
from seqdec.backbone import load_backbone
from seqdec.model import build_model
from seqdec.training import train

if __name__ == "__main__":
    windows, spec = make_windows(context_length=12)
    model = build_model(windows, spec, load_backbone("small", num_layers=2, dropout=0.0))
    train(
        model, windows, out=Path(sys.argv[1]) / sys.argv[2], steps=12, batch_size=12, log_every=4, heldout=windows,
        eval_every=6, checkpoint_every=6,
    )  # fmt: skip
