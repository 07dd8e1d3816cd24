"""torchrun as `--nproc` starts it: the exit code of the process that failed first, or of a signal, is its own."""

import logging
import signal
import sys
from collections.abc import Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def launch(words: Sequence[str]) -> int:
    """Start processes by the words of torchrun, wait for them, and return what this process should end with.

    What went wrong was said by the process in which it did; of one that was killed it is said here.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(words))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        print(f"seqdec: process {rank} (counted from 0) was ended by {name}", file=sys.stderr)
        return 128 - failure.exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
