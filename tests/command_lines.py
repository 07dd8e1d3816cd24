"""Words given to the command line, and what it leaves."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seqdec.cli.main import main

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "datasets", "gymnasium", "matplotlib", "accelerate", "numpy")


def in_new_process(code: str, *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment)


def errors_of(argv: str, code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Run words that cannot work; return the one line that they leave."""
    assert main(argv.split()) == code
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("seqdec: "), captured.err
    return lines[0]


def instead(words: str, flag: str) -> str:
    """Return words with `--flag value` in place of the one of the same name that they have."""
    name, value = flag.split()
    assert len(re.findall(rf"{name} ", words)) == 1, words
    return re.sub(rf"{name} \S+", f"{name} {value}", words)
