"""A stop: Ctrl-C or SIGTERM, noted as it comes, so that none is lost.

The exception of a signal's handler does not always arrive: CPython's `compile` drops one in ten, foreign code swallows
it or makes another of it. So a handler of ours notes the signal first, and `check` raises it where work can end: after
imports, between the timesteps of an evaluation, after saving. A second signal ends the process at once.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}


class Stopped(KeyboardInterrupt):
    """A signal that was noted, by its name; as of Ctrl-C, nothing that recovers from errors recovers from it."""


class Stop:
    """The first signal that came within a block, None before; `is_last` says that the process ends with the block."""

    def __init__(self, *, is_last: bool = False):
        self.name: str | None = None
        self.is_last = is_last


_blocks: list[Stop] = []  # of the main thread, the innermost last


@contextmanager
def noted(*, is_last: bool = False) -> Iterator[Stop]:
    """Note the first SIGINT or SIGTERM within the block; a second one ends the process at once.

    Outside of the main thread nothing is noted: who owns that thread handles signals.

    Args:
        is_last: the process ends with the block, so the signal raises `Stopped` wherever it comes, and a second one
            leaves a line and its exit code; else work goes on until somebody asks.

    Raises:
        Stopped: a block around this one has noted a signal that nobody has heard of yet.
    """
    check()
    stop = Stop(is_last=is_last)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    owner = os.getpid()

    def note(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a process that was forked has nothing to end in order
            os._exit(128 + number)
        if any(block.name for block in _blocks):
            _end_at_once(number)
        stop.name = signal.Signals(number).name
        if is_last:
            raise Stopped(stop.name)

    _blocks.append(stop)
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _blocks.remove(stop)


def check() -> None:
    """Raise the signal that was noted, if one was.

    Raises:
        Stopped: with its name.
    """
    for block in _blocks:
        if block.name is not None:
            raise Stopped(block.name)


def sentence(name: str, where: str = "") -> str:
    """Return what a user reads of a stop."""
    return f"seqdec: stopped by {'Ctrl-C' if name == 'SIGINT' else name}{where}"


def end_process(code: int, line: str = "") -> NoReturn:
    """End this process and its children without anything else, and leave a line."""
    processes = sys.modules.get("multiprocessing.process")  # where nobody imported it, there are no children
    for child in processes.active_children() if processes else ():
        child.kill()
    with suppress(OSError):
        os.write(2, f"{line}\n".encode() if line else b"")
    os._exit(code)


def _end_at_once(number: int) -> NoReturn:
    """End as the owner of the process would: by a line and a code, or as Python does by itself."""
    if _blocks[0].is_last:
        end_process(128 + number, sentence(signal.Signals(number).name))
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    raise AssertionError("a process outlives SIGTERM only where it handles it")
