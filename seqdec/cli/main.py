"""The door of the command line: an error, a stop or a terminal that is gone ends in one line at most, and an exit code.

The verbs are imported behind it, so that a Ctrl-C during the imports ends like any other.
"""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

from seqdec import stops

BROKEN_PIPE, CANNOT_ACCESS = 141, 74  # as a shell says of a program that SIGPIPE ended; as `StorageError` has it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code.

    Args:
        argv: Words after the program's name; those of this process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # One of several processes may wait for the others where no exception reaches it: there training alone stops in
    # order, and the launcher tells of the end.
    is_alone = os.environ.get("WORLD_SIZE", "1") == "1"
    with stops.noted(is_last=True) if is_alone else nullcontext(stops.Stop()) as stop:
        try:
            code = _run(words)
            stops.check()
        except BaseException as error:  # whatever comes after a stop is that stop
            code = _end(error, stop.name, "--debug" in words)
        return code or _end_output()


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        from importlib.metadata import version

        print(f"seqdec {version('seqdec')}")
        return 0

    from seqdec.cli.verbs import run

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # letters that the terminal lacks become their codes
    with _log_to_stderr():
        return run(words)


def _end(error: BaseException, signal_name: str | None, shows_traceback: bool) -> int:
    """Say in one line how a verb ended early, and return its exit code; what nobody foresaw is raised again."""
    from seqdec.errors import DataError, NumericsError, StorageError, UsageError

    if signal_name is not None or isinstance(error, KeyboardInterrupt):
        if shows_traceback:
            import traceback

            traceback.print_exception(error)
        name = signal_name or "SIGINT"
        _say(stops.sentence(name))
        return stops.EXIT_CODES[name]
    if isinstance(error, UsageError | DataError | NumericsError | StorageError) and not shows_traceback:
        _say(f"seqdec: {_one_line(str(error))}")
        return error.exit_code
    # where it is the output that failed, which forgets what it could not write, an empty line fails like the others
    if isinstance(error, OSError) and (code := _end_output("\n")):
        return code
    if isinstance(error, OSError) and error.filename is not None and not shows_traceback:
        _say(f"seqdec: {_one_line(f'{error.filename}: {error.strerror}')}")
        return CANNOT_ACCESS
    raise error


def _end_output(more: str = "") -> int:
    """Write what is printed but not written yet, and more; where nobody takes it, give it up, with an exit code."""
    if sys.stdout is None:  # closed before the program began
        return 0
    try:
        sys.stdout.write(more)
        sys.stdout.flush()
        return 0
    except OSError as error:
        with suppress(OSError):  # else Python tries again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        _say(f"seqdec: standard output: {error.strerror}")
        return CANNOT_ACCESS


def _say(line: str) -> None:
    with suppress(OSError):  # there is nobody left to tell
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show what the library has to say while a verb runs."""
    import logging

    from seqdec.cli.console import is_main_process

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("seqdec: %(message)s"))
    logger = logging.getLogger("seqdec")
    level = logger.level
    logger.addHandler(handler)
    # Of several processes one speaks; what stops another is an error, which `main` prints.
    logger.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _one_line(message: str) -> str:
    """Return a message as one line that cannot steer a terminal, whatever file its words came from."""
    words = "".join(letter if letter.isprintable() else " " for letter in message).split()
    line = " ".join(words)
    rank = os.environ.get("RANK", "0")
    return line if rank == "0" else f"rank {rank}: {line}"
