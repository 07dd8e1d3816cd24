"""Train on two processes into FOLDER, the second of which stops at its third step; write what the first one says.

Run under torchrun by `test_a_process_that_hangs_is_named_and_one_that_dies_ends_the_others`.
"""

import os
import signal
import sys
import time
from pathlib import Path

from seqdec.errors import StorageError
from seqdec.training.loop import train
from train_small import at_step, fresh


def hang(losses):
    os.kill(os.getpid(), signal.SIGSTOP)
    return losses


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    model, windows = fresh()
    at_step(model, 2, hang)
    try:
        train(model, windows, out=folder / "run", steps=5, batch_size=12)
    except StorageError as error:
        (folder / "said").write_text(str(error))
    time.sleep(600)  # until the launcher ends it
