"""Out of memory is one sentence that says what to change, whoever runs out of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_windows
from seqdec.errors import UsageError
from seqdec.model.backbone import load_backbone
from seqdec.model.sequence_model import build_model
from seqdec.training.loop import train
from seqdec.training.memory import enough_memory

WORDS = r"out of memory at batch_size 64 x context_length 20: try batch_size 32, context_length 10, accumulate 2 .*lora"


def of_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**50), lambda: np.empty(2**57), of_a_gpu])
def test_running_out_of_memory_says_what_takes_less(allocate: Callable[[], object]):
    with pytest.raises(UsageError, match=WORDS) as failure, enough_memory(64, [5, 20]):
        allocate()
    assert failure.value.option == "batch_size"


def test_other_failures_stay_what_they_are():
    with pytest.raises(RuntimeError, match="^other$"), enough_memory(64, [20]):
        raise RuntimeError("other")


def test_training_on_a_batch_that_no_memory_holds_says_so(tmp_path: Path):
    windows, _ = make_windows()
    model = build_model(windows, load_backbone("small", num_layers=1))
    with pytest.raises(UsageError, match=f"out of memory at batch_size {10**15} x"):
        train(model, windows, out=tmp_path / "run", steps=1, batch_size=10**15)
