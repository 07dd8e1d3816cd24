"""This process and those that it works with: how many there are, and the device that is its own."""

import contextlib
import os
from collections.abc import Iterator

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

from seqdec.errors import StorageError, UsageError


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
        PartialState._reset_state()  # a half-made state would look initialised to the next caller
        raise UsageError(
            f"WORLD_SIZE asks for {num_processes} processes, but they cannot find each other ({error}): start them "
            "with torchrun or accelerate launch",
            option="nproc",
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


@contextlib.contextmanager
def on_main_process(accelerator: Accelerator) -> Iterator[bool]:
    """Run a block on the main process; when it fails there, every process raises, so that none waits for ever."""
    failure: list[object] = [None]
    error: Exception | None = None
    try:
        yield accelerator.is_main_process
    except Exception as own:  # noqa: BLE001 - raised again below, after every process has heard of it
        error, failure = own, [f"{type(own).__name__}: {own}"]
    if accelerator.num_processes > 1:
        broadcast_object_list(failure)
    if error is not None:
        raise error
    if failure[0] is not None:
        raise StorageError(f"the main process failed: {failure[0]}")


def agree(accelerator: Accelerator, name: str | None) -> str | None:
    """The signal that any process noted, so that all stop at the same step."""
    if accelerator.num_processes == 1:
        return name
    names = (None, "SIGINT", "SIGTERM")
    highest = torch.tensor([float(names.index(name))], device=accelerator.device)
    torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
    return names[int(highest.item())]
