"""`python -m seqdec` is the command `seqdec`: a process that ends when its verb does."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from seqdec.cli.main import main


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line as this process, and end it with the exit code.

    What a library does at the end of a process is not waited for where a call of it never returned, and a Ctrl-C
    meanwhile says nothing: all is done.
    """
    code = main(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    worker = sys.modules.get("seqdec.training.worker")
    if worker is not None and worker.is_anything_hanging():
        sys.stderr.flush()  # `main` has done so for the output
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
