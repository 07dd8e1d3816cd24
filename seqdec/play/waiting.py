"""Waiting for a batch of environments: those whose process ended, or does not answer in time, are named."""

import signal
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import TimeoutError as Late
from multiprocessing.process import BaseProcess

import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from seqdec.play.closing import end_processes
from seqdec.spaces.leaves import Batch

STEP_SECONDS = 600.0
LIMIT = "seqdec.step_seconds"  # in a batch's metadata
END_SECONDS = 5.0  # from a broken pipe to its process's end
Start = tuple[Batch, dict]
Step = tuple[Batch, np.ndarray, np.ndarray, np.ndarray, dict]


class LostError(Exception):
    """Some environments of a batch are lost, and the processes of all were ended; `messages` says by row why."""

    def __init__(self, messages: dict[int, str]):
        super().__init__(*messages.values())
        self.messages = messages


def reset_in_time(envs: VectorEnv, seed: int | None, options: dict[str, object] | None) -> Start:
    """Reset a batch; raises LostError."""
    if not isinstance(envs, AsyncVectorEnv):
        return envs.reset(seed=seed, options=options)
    with _losses(envs):
        envs.reset_async(seed=seed, options=options)
        return envs.reset_wait(_seconds(envs))


def step_in_time(envs: VectorEnv, actions: Batch) -> Generator[None, None, Step]:
    """Step a batch; while asynchronous environments work, another batch has its turn. Raises LostError."""
    if not isinstance(envs, AsyncVectorEnv):
        return envs.step(actions)
    with _losses(envs):
        envs.step_async(actions)
    yield
    with _losses(envs):
        return envs.step_wait(_seconds(envs))


def begin_again(envs: VectorEnv) -> None:
    """Start the processes of a batch anew, once they were ended."""
    assert isinstance(envs, AsyncVectorEnv)
    names = ("env_fns", "shared_memory", "copy", "context", "daemon", "worker", "observation_mode", "autoreset_mode")
    metadata, options = envs.metadata, {name: getattr(envs, name) for name in names}
    envs.closed = False
    AsyncVectorEnv.__init__(envs, **options)  # in place: its owner holds it, and will close it
    envs.metadata = metadata


@contextmanager
def _losses(envs: AsyncVectorEnv) -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        begun = time.monotonic()
        while not (ended := _ended(envs.processes)) and time.monotonic() - begun < END_SECONDS:
            time.sleep(0.01)
        end_processes(envs)
        raise LostError(ended) from error
    except Late as error:
        silent = [row for row, pipe in enumerate(envs.parent_pipes) if not pipe.poll()]
        end_processes(envs)
        advice = f"it did not answer within {_seconds(envs):g} seconds: mend it, or give it more step_seconds"
        raise LostError(dict.fromkeys(silent, advice)) from error


def _ended(processes: Sequence[BaseProcess]) -> dict[int, str]:
    """Return how each process ended that did, by its place."""
    codes = {row: process.exitcode for row, process in enumerate(processes)}
    return {row: f"its process ended ({_how(code)})" for row, code in codes.items() if code is not None}


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"


def _seconds(envs: VectorEnv) -> float:
    return envs.metadata.get(LIMIT, STEP_SECONDS)
