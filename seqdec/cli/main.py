"""The command line: which verb, which record, and what an error looks like.

Words become the record of a verb, and of our own errors one line goes to stderr. Imports stay light here and at the
top of the verbs' modules, so that `--help` and `--version` answer at once.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from seqdec.cli import console, data, demo, evaluate, options, record, train
from seqdec.errors import DataError, NumericsError, StorageError, UsageError, suggest

INTERRUPTED, TERMINATED = 130, 143


class _Terminated(BaseException):
    """SIGTERM came; like KeyboardInterrupt, nothing that recovers from an error takes it for one."""


VERBS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "demo": (demo.Demo, demo.demo),
    "demo cartpole": (demo.DemoCartpole, demo.demo_cartpole),
    "data cartpole": (data.DataCartpole, data.data_cartpole),
    "data minari": (data.DataMinari, data.data_minari),
    "data hdf5": (data.DataHdf5, data.data_hdf5),
    "data table": (data.DataTable, data.data_table),
    "data lerobot": (data.DataLerobot, data.data_lerobot),
    "data convert": (data.DataConvert, data.data_convert),
    "data record": (record.DataRecord, record.data_record),
    "data show": (data.DataShow, data.data_show),
    "train": (train.Train, train.train_run),
    "eval": (evaluate.Eval, evaluate.evaluate_run),
    "env": (console.Env, console.show_environment),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code.

    Args:
        argv: Words after the program's name; those of this process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        from importlib.metadata import version

        print(f"seqdec {version('seqdec')}")
        return 0
    try:
        with _log_to_stderr(), _raised_on_sigterm():
            return _run(words)
    except (UsageError, DataError, NumericsError, StorageError) as error:
        if "--debug" in words:
            raise
        print(f"seqdec: {_one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if "--debug" in words:
            raise
        print("seqdec: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        print("seqdec: stopped by SIGTERM", file=sys.stderr)
        return TERMINATED


def split_verb(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the verb that words begin with ("train", "data show") and the words after it.

    Raises:
        UsageError: There is no such verb.
    """
    firsts = list(dict.fromkeys(verb.split()[0] for verb in VERBS))
    if not words or words[0] not in firsts:
        problem = f"no verb {words[0]!r}{suggest(words[0], firsts)}" if words else "no verb given"
        raise UsageError(f"{problem} (the verbs are {', '.join(firsts)})")
    if " ".join(words[:2]) in VERBS:
        return " ".join(words[:2]), list(words[2:])
    if words[0] in VERBS:
        return words[0], list(words[1:])
    seconds = [verb.split()[1] for verb in VERBS if verb.startswith(f"{words[0]} ")]
    if len(words) < 2 or words[1] not in seconds:
        problem = f"no {words[1]!r}{suggest(words[1], seconds)}" if words[1:] else "what to do is missing"
        raise UsageError(f"{words[0]}: {problem} (give one of {', '.join(seconds)})")
    return f"{words[0]} {words[1]}", list(words[2:])


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help") or (words[0] == "data" and words[1:2] in ([], ["-h"], ["--help"])):
        print(_help(words[:1] if words[:1] == ["data"] else []))
        return 0 if {"-h", "--help"} & set(words) else UsageError.exit_code
    verb, rest = split_verb(words)
    kind, run = VERBS[verb]
    try:
        return run(train.parse_train(rest) if verb == "train" else options.parse(kind, rest, verb=verb))
    except (UsageError, DataError) as error:
        if error.option in options.options_of(kind):
            error.args = (f"{error} ({options.flag(error.option)})",)
        raise


def _help(words: Sequence[str]) -> str:
    lines = [] if words else ["Finetune a pretrained transformer on trajectories, then prompt it to act.", ""]
    for verb, (kind, _) in VERBS.items():
        if not words or verb.split()[0] == words[0]:
            usage = " ".join([verb, *(name.upper() for name in options.required(kind))])
            lines.append(f"  seqdec {usage:<22} {(kind.__doc__ or '').splitlines()[0]}")
    lines += ["", "`seqdec VERB --help` lists the flags of a verb; `--debug` shows the traceback of an error."]
    if not words:
        lines += ["Exit codes: 0 done, 2 usage, 65 bad data, 70 numerics, 74 cannot read or write, 130/143 stopped."]
    return "\n".join(lines)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show what the library has to say while a verb runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("seqdec: %(message)s"))
    logger = logging.getLogger("seqdec")
    level = logger.level
    logger.addHandler(handler)
    # Of several processes one speaks; what stops another is an error, which `main` prints.
    logger.setLevel(logging.INFO if console.is_main_process() else logging.ERROR)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _raised_on_sigterm() -> Iterator[None]:
    """Let the first SIGTERM raise, so that what is open is closed; a second one ends at once.

    While training, `train` has its own way to stop. Processes that are one of several keep the default: they may be
    waiting for one another where no exception reaches them, and their launcher tells of the end.
    """

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise _Terminated

    if threading.current_thread() is not threading.main_thread() or os.environ.get("WORLD_SIZE", "1") != "1":
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _one_line(message: str) -> str:
    """Return a message as one line that cannot steer a terminal, whatever file its words came from."""
    words = "".join(letter if letter.isprintable() else " " for letter in message).split()
    line = " ".join(words)
    rank = os.environ.get("RANK", "0")
    return line if rank == "0" else f"rank {rank}: {line}"
