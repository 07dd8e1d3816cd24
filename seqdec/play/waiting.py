"""Waiting for a batch of environments: one whose processes ended, or do not answer in time, is given up."""

from collections.abc import Callable, Generator
from multiprocessing import TimeoutError as Late
from typing import TypeVar

import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from seqdec.errors import NumericsError
from seqdec.play.closing import end_processes
from seqdec.spaces.leaves import Batch

STEP_SECONDS = 600.0
LIMIT = "seqdec.step_seconds"  # in a batch's metadata
Start = tuple[Batch, dict]
Step = tuple[Batch, np.ndarray, np.ndarray, np.ndarray, dict]
T = TypeVar("T")


def reset_in_time(envs: VectorEnv, seed: int | None, options: dict[str, object] | None) -> Start:
    """Reset a batch."""
    if not isinstance(envs, AsyncVectorEnv):
        return envs.reset(seed=seed, options=options)
    envs.reset_async(seed=seed, options=options)
    return _answer(envs, envs.reset_wait)


def step_in_time(envs: VectorEnv, actions: Batch) -> Generator[None, None, Step]:
    """Step a batch; while asynchronous environments work, another batch has its turn."""
    if not isinstance(envs, AsyncVectorEnv):
        return envs.step(actions)
    envs.step_async(actions)
    yield
    return _answer(envs, envs.step_wait)


def _answer(envs: AsyncVectorEnv, wait: Callable[[float], T]) -> T:
    """Return what processes answer.

    Raises:
        NumericsError: one of them ended, or took too long; all are ended then.
    """
    seconds = envs.metadata.get(LIMIT, STEP_SECONDS)
    try:
        return wait(seconds)
    except (EOFError, ConnectionError) as error:
        end_processes(envs)
        raise NumericsError("a process of the environments ended: try asynchronous=False") from error
    except Late as error:
        silent = [row for row, pipe in enumerate(envs.parent_pipes) if not pipe.poll()]
        end_processes(envs)
        raise NumericsError(
            f"environment {', '.join(map(str, silent))} of {envs.num_envs} did not answer within {seconds:g} seconds: "
            "mend it, or give it more step_seconds"
        ) from error
