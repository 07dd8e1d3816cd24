"""What started this process as one of several, torchrun or accelerate: where it is gone, this process ends, too.

A launcher that is killed cannot end its processes: they would train on, over the folder of the run that takes their
place.
"""

import os
import threading
import time
from functools import cache

from seqdec import stops

LOOK_EVERY = 0.5  # seconds


@cache
def end_with_launcher() -> None:
    """Let this process and its children end about when their launcher does; without one, or asked again, do nothing."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # a shell that started it may go, as `nohup` and ssh have it
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(LOOK_EVERY)
        if os.environ.get("RANK") == "0":
            stops.end_process(1, "seqdec: the launcher of this process is gone: stopped")
        time.sleep(2 * LOOK_EVERY)  # else the first one would hear of their end before, and name them
        stops.end_process(1)

    threading.Thread(target=watch, daemon=True).start()
