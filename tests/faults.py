"""What goes wrong: processes that die, file operations that fail, pickles that run when they are opened."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

DIED = 77


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith((".tmp-", ".del-"))]


def fork(child: Callable[[], int]) -> int:
    """Start a forked process whose exit code the function returns."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = child()
        except BaseException:
            traceback.print_exc()  # pytest shows it beside the exit code
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Faults:
    """Lets the n-th file operation of this process fail, for every n in turn.

    Python announces each operation on files to audit hooks, whoever asks for it; fsync alone is not among them.
    An audit hook stays for good, so this is for forked processes.
    """

    watched = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "fcntl.flock")

    def __init__(self, how: str):
        self.how, self.count, self.target = how, 0, 0
        self.sync, os.fsync = os.fsync, self.failing_sync
        sys.addaudithook(lambda event, _: self.strike(event) if event in self.watched else None)

    def arm(self, target: int) -> None:
        self.count, self.target = 0, target

    def strike(self, event: str) -> None:
        self.count += 1
        if self.target and self.count == self.target and self.how == "dies":
            os._exit(DIED)
        if self.target and (self.count == self.target or self.count > self.target and self.how == "goes on failing"):
            raise OSError((errno.ENOSPC, errno.EIO, errno.EACCES)[self.target % 3], f"injected into {event}")

    def failing_sync(self, descriptor: int) -> None:
        self.strike("fsync")
        self.sync(descriptor)


class Malice:
    """A pickle that leaves a sentinel when somebody opens it."""

    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.sentinel),)
