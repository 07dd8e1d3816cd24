"""Runs of training that are stopped and compared."""

import os
import signal

import torch

from seqdec.model.sequence_model import SequenceModel

SETTINGS = {"batch_size": 12, "warmup_steps": 8, "accumulate": 3, "schedule": "cosine", "log_every": 5}


def assert_same_weights(one: SequenceModel, other: SequenceModel) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def os_signal_at(model: SequenceModel, step: int) -> None:
    """Send this process SIGTERM while the model computes the first part of a step."""
    calls = {"number": 0}

    def count(module, inputs, output) -> None:
        calls["number"] += 1
        if calls["number"] == (step - 1) * SETTINGS["accumulate"] + 1:
            os.kill(os.getpid(), signal.SIGTERM)

    model.register_forward_hook(count)
