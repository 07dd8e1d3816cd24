"""A terminal that is gone, full, narrow or of few letters: no traceback, and an exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from command_lines import ROOT

ECHO = (
    "import sys\n"
    "from seqdec.cli import console, verbs\n"
    "verbs.VERBS['env'] = (console.Env, lambda given: print('päth \u2603 ' * 10000, flush={flush}) or {code})\n"
    "from seqdec.__main__ import run\n"
    "run(['env'])"
)


def echo(*, stdout: int, flush: bool = False, code: int = 0, **environment: str) -> tuple[int, bytes]:
    """Print much; return the exit code and what stands in stderr."""
    script = ECHO.format(flush=flush, code=code)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", **environment}
    done = subprocess.run([sys.executable, "-c", script], stdout=stdout, stderr=subprocess.PIPE, env=environ)
    return done.returncode, done.stderr


@pytest.mark.parametrize("flush", [False, True])
def test_a_closed_pipe_ends_without_a_word(flush: bool):
    reader, writer = os.pipe()
    os.close(reader)
    assert echo(stdout=writer, flush=flush) == (141, b"")
    assert echo(stdout=writer, code=2)[0] in (2, 141)
    os.close(writer)


@pytest.mark.parametrize("flush", [False, True])
def test_a_full_disk_below_the_output_is_one_line(flush: bool):
    full = os.open("/dev/full", os.O_WRONLY)
    assert echo(stdout=full, flush=flush) == (74, b"seqdec: standard output: No space left on device\n")
    os.close(full)


def test_letters_that_a_terminal_lacks_become_their_codes(tmp_path: Path):
    with open(tmp_path / "out", "wb") as out:
        assert echo(stdout=out.fileno(), PYTHONIOENCODING="ascii") == (0, b"")
    assert (tmp_path / "out").read_bytes().startswith(b"p\\xe4th \\u2603 p")


@pytest.mark.parametrize("columns", ["1", "0", "-3", "x"])
def test_help_ends_on_the_narrowest_terminal(columns: str):
    command = [sys.executable, "-m", "seqdec", "eval", "--help"]
    environ = {**os.environ, "COLUMNS": columns, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)
    assert done.returncode == 0 and "--target-return" in done.stdout, done.stderr
