"""This process and those that it works with: how many there are, and the device that is its own."""

import os

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState

from seqdec.errors import UsageError


def join_processes() -> PartialState:
    """Return accelerate's view of this process and its fellows.

    Raises:
        UsageError: if several processes were started that cannot work together.
    """
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    # without this word accelerate leaves processes on CPUs apart: each would train alone, over the others' files
    try:
        state = PartialState(cpu=num_processes > 1 and (kind is None or kind.type == "mps"))
    except ValueError as error:
        PartialState._reset_state()  # what failed half-way would be taken for joined by whoever asks next
        raise UsageError(
            f"WORLD_SIZE asks for {num_processes} processes, but they cannot find each other ({error}): start them "
            "with torchrun, accelerate launch or --nproc"
        ) from error
    if state.num_processes != num_processes:
        raise UsageError(f"{num_processes} processes were started, but accelerate sees {state.num_processes}")
    return state


def allow_precision(precision: str) -> None:
    """Let accelerate take another precision than an earlier run in this process had, which it refuses by itself.

    An `Accelerator` that was made before has the new precision from then on, as accelerate knows one for a process.
    """
    if AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state()
