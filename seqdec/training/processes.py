"""This process and those that it works with: how many there are, and the device that is its own."""

import atexit
import contextlib
import gc
import os
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import distributed
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore

from seqdec.errors import StorageError, UsageError, in_words
from seqdec.training.launcher import end_with_launcher

Value = TypeVar("Value")
PROCESS_SECONDS = "SEQDEC_PROCESS_SECONDS"  # how long processes wait for each other within a step: 600
ALONE = timedelta(days=1)  # how long they wait while the main one evaluates or saves
ANSWER_SECONDS = 5.0


def join_processes() -> PartialState:
    """Return accelerate's view of this process and its fellows.

    Raises:
        UsageError: if several processes were started that cannot work together.
    """
    end_with_launcher()
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    options: dict[str, object] = {}
    if num_processes > 1 and not distributed.is_initialized():
        limit = timedelta(seconds=_process_seconds())
        options = {"timeout": limit, **_store_of_attempt(limit)}
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    # without this word accelerate leaves processes on CPUs apart: each would train alone, over the others' files
    try:
        state = PartialState(cpu=num_processes > 1 and (kind is None or kind.type == "mps"), **options)
    except ValueError as error:
        PartialState._reset_state()  # a half-made state would look initialised to the next caller
        raise UsageError(
            f"WORLD_SIZE asks for {num_processes} processes, but they cannot find each other ({error}): start them "
            "with torchrun or accelerate launch",
            option="nproc",
        ) from error
    if state.num_processes != num_processes:
        raise UsageError(f"{num_processes} processes were started, but accelerate sees {state.num_processes}")
    if num_processes > 1:
        _leave_at_exit()
    return state


def _store_of_attempt(limit: timedelta) -> dict[str, object]:
    """Return the store in which processes find each other, where a launcher may have started them before.

    torchrun keeps one store for all its restarts: processes would find the addresses of those before them.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    rank, size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    store = TCPStore(os.environ["MASTER_ADDR"], port, size, is_master=False, timeout=limit)
    attempt = f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}"
    return {"store": PrefixStore(attempt, store), "rank": rank, "world_size": size}


@cache
def _leave_at_exit() -> None:
    """Let go of the others before the interpreter ends: a thread of gloo that is left then aborts the process."""

    def leave() -> None:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        gc.collect()  # the frame of a run that failed may hold the group, in a circle with its error

    atexit.register(leave)


def gathered(value: Value) -> list[Value]:
    """Return what each process says, in their order; all of them ask for it."""
    num_processes = join_processes().num_processes
    values = [value] * num_processes
    if num_processes > 1:
        distributed.all_gather_object(values, value)
    return values


def _process_seconds() -> float:
    text = os.environ.get(PROCESS_SECONDS, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= ALONE.total_seconds():
        raise UsageError(f"{PROCESS_SECONDS} is {text!r}: give seconds, more than 0 and at most a day's")
    return seconds


@contextlib.contextmanager
def named_if_absent(accelerator: Accelerator, step: Callable[[], int]) -> Iterator[None]:
    """Run a block in which processes wait for each other; where one does not come, say which, and to which step.

    Raises:
        StorageError: a process hangs or is gone.
    """
    try:
        yield
    except RuntimeError as error:
        is_theirs = isinstance(error, distributed.DistError) or "/gloo/" in str(error)
        if accelerator.num_processes == 1 or not is_theirs:
            raise
        names = [f"process {index} of {accelerator.num_processes}" for index in _absent(accelerator)]
        within = f"within {_process_seconds():g} s" if "imed out" in str(error) else "any more"
        raise StorageError(
            f"{' and '.join(names) or 'a process'} (counted from 0) did not reach step {step()} {within}: it hangs "
            f"or is gone ({in_words(error)})"
        ) from error


def _absent(accelerator: Accelerator) -> list[int]:
    """Tell the others that this process gave up waiting, and return those that do not say the same."""
    store, name = distributed.distributed_c10d._get_default_store(), "seqdec gave up: {}"
    mine, ends = accelerator.process_index, time.monotonic() + ANSWER_SECONDS
    absent = [index for index in range(accelerator.num_processes) if index != mine]
    with contextlib.suppress(RuntimeError):  # the store is the launcher's, which may be gone
        store.set(name.format(mine), "")
        while absent and time.monotonic() < ends:
            absent = [index for index in absent if not store.check([name.format(index)])]
            time.sleep(0.1)
    return absent


_patient: weakref.ref[distributed.ProcessGroup] | None = None  # a group ends once torch and all others let go of it


def _patient_group() -> distributed.ProcessGroup:
    """Return the processes as a group that waits for what the main one does alone; all of them ask for it."""
    global _patient
    group = None if _patient is None else _patient()
    if group is None:
        group = distributed.new_group(timeout=ALONE)
        assert isinstance(group, distributed.ProcessGroup)
        _patient = weakref.ref(group)
    return group


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
        distributed.broadcast_object_list(failure, src=0, group=_patient_group())
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
    distributed.all_reduce(highest, distributed.ReduceOp.MAX)
    return names[int(highest.item())]
