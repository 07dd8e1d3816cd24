"""The command line: which verb, which record, and what an error looks like.

Words go to `flags`, the record goes to `commands`, and of our own errors one line goes to stderr. Imports stay light
here, so that `--help` and `--version` answer at once.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from seqdec.errors import DataError, NumericsError, StorageError, UsageError

INTERRUPTED, TERMINATED = 130, 143


class _Terminated(BaseException):
    """SIGTERM came; like KeyboardInterrupt, nothing that recovers from an error takes it for one."""


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


def _run(words: list[str]) -> int:
    from seqdec.cli import options

    if not words or words[0] in ("-h", "--help") or (words[0] == "data" and words[1:2] in ([], ["-h"], ["--help"])):
        print(_help(words[:1] if words[:1] == ["data"] else []))
        return 0 if {"-h", "--help"} & set(words) else UsageError.exit_code
    verb, rest = options.split_verb(words)
    kind = options.VERBS[verb]
    if kind is options.Train:
        return _train(rest)
    record = options.parse(kind, rest)

    from seqdec.cli import commands

    runs = {
        options.Demo: commands.demo,
        options.DataCartpole: commands.data_cartpole,
        options.DataMinari: commands.data_minari,
        options.DataHdf5: commands.data_hdf5,
        options.DataTable: commands.data_table,
        options.DataLerobot: commands.data_lerobot,
        options.DataRecord: commands.data_record,
        options.DataShow: commands.data_show,
        options.Eval: commands.evaluate_run,
        options.Env: commands.show_environment,
    }
    return runs[kind](record)


def _train(words: list[str]) -> int:
    from seqdec.cli import folders, options

    record = options.parse(options.Train, words)
    config_file = record.config
    if record.resume:
        if record.config:
            raise UsageError("--resume takes the flags of the run in --output: leave --config out")
        output = folders.run_folder(record.output, record.data)
        config_file = str(output / "config.json")
        if not os.path.exists(config_file):
            raise UsageError(
                f"{output} holds no run to go on with (no config.json): leave --resume out, or choose its --output"
            )
    if config_file:
        from pathlib import Path

        from seqdec.storage.files import read_json

        stored = options.from_config(options.Train, read_json(Path(config_file)), config_file)
        record = options.parse(options.Train, words, default=stored)

    from seqdec.cli import commands

    world = os.environ.get("WORLD_SIZE")
    if world is None and {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys():
        # What `accelerate launch --num_processes 2` leaves behind when it starts a single process after all.
        raise UsageError("accelerate was asked for several processes and started one: use --nproc N, or torchrun")
    if record.nproc > 1 and world is None:
        folders.check_run_folder(folders.run_folder(record.output, record.data), resume=record.resume)
        _become_launcher(record.nproc, words)
    if record.nproc > 1 and world != str(record.nproc):
        raise UsageError(f"--nproc {record.nproc} asks for {record.nproc} processes, the launcher started {world}")
    return commands.train_run(record)


def _become_launcher(num_processes: int, words: Sequence[str]) -> None:
    """Let torchrun take this process over: replaced, not started, so that who kills it leaves nobody behind."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}", "-m", "seqdec"]
    passed: list[str] = []
    for word, before in zip(words, ["", *words], strict=False):
        # torchrun would take our --nproc for the beginning of one of its own flags
        if word != "--nproc" and before != "--nproc" and not word.startswith("--nproc="):
            passed.append(word)
    os.execv(sys.executable, [sys.executable, *launch, "train", *passed])  # noqa: S606


def _help(words: Sequence[str]) -> str:
    from seqdec.cli import options

    lines = [] if words else ["Finetune a pretrained transformer on trajectories, then prompt it to act.", ""]
    for verb, kind in options.VERBS.items():
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
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
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
