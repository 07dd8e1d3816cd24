"""Train tiny models into FOLDER/NAME, FOLDER/NAME-spoilt and FOLDER/NAME-stopped.

Run plainly or under torchrun by `test_two_processes_follow_one`; what goes wrong goes wrong on the last process alone.
"""

import os
import signal
import sys
from pathlib import Path

from conftest import make_windows
from seqdec.backbone import load_backbone
from seqdec.model import SequenceModel, build_model
from seqdec.training import train
from seqdec.windows import Windows

IS_LAST = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1


def fresh() -> tuple[SequenceModel, Windows]:
    windows, spec = make_windows(context_length=12)
    return build_model(windows, spec, load_backbone("small", num_layers=2, dropout=0.0)), windows


def at_step(model: SequenceModel, step: int, action) -> None:
    """Let something happen to the losses of one step of the last process."""
    calls = {"number": -1}

    def hook(module, inputs, losses):
        calls["number"] += 1
        return action(losses) if calls["number"] == step and IS_LAST else losses

    model.register_forward_hook(hook)


def stop(losses):
    os.kill(os.getpid(), signal.SIGTERM)
    return losses


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    model, windows = fresh()
    train(
        model, windows, out=folder / sys.argv[2], steps=12, batch_size=12, log_every=4, heldout=windows,
        eval_every=6, checkpoint_every=6,
    )  # fmt: skip
    model, windows = fresh()
    at_step(model, 3, lambda losses: {name: value * float("nan") for name, value in losses.items()})
    train(model, windows, out=folder / f"{sys.argv[2]}-spoilt", steps=6, batch_size=12, log_every=6)
    model, windows = fresh()
    at_step(model, 4, stop)
    outcome = train(model, windows, out=folder / f"{sys.argv[2]}-stopped", steps=50, batch_size=12)
    assert (outcome.step, outcome.stopped_by) == (5, "SIGTERM"), outcome
