"""A thread for calls of foreign code: each has a limit, and whatever it raises, an exit included, is an error here."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")
_hanging: list["Worker"] = []


class Worker:
    """Does one call after the other, in a thread that nobody waits for at the end of the process.

    Example:
        >>> Worker(limit=1.0).call(lambda: 6 * 7)
        42
    """

    def __init__(self, limit: float):
        """Start the thread; `limit` is how long each call may take, in seconds."""
        self._limit = limit
        self._calls: SimpleQueue[tuple[Future[object], Callable[[], object]] | None] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def call(self, function: Callable[[], Result]) -> Result:
        """Return what a function without arguments returns.

        Raises:
            TimeoutError: it does not return; there is nothing to call any more.
            Exception: whatever it raised.
        """
        future: Future[Result] = Future()
        self._calls.put((future, function))  # pyright: ignore[reportArgumentType]
        try:
            return future.result(self._limit)
        except TimeoutError as error:
            if future.done():  # its own
                raise
            _hanging.append(self)
            raise TimeoutError(f"no answer within {self._limit:g} s") from error

    def close(self) -> None:
        """End the thread."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            try:
                future.set_result(function())
            except BaseException as error:  # its caller's thread decides
                future.set_exception(error)


def is_anything_hanging() -> bool:
    """Say whether a call never returned: what its library does at the end of the process may not return, either."""
    return bool(_hanging)
