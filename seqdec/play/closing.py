"""Closing environments, some of which may be processes that are gone or do not answer."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import gymnasium
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from seqdec.errors import in_words

Envs = TypeVar("Envs", bound=gymnasium.Env | VectorEnv)
logger = logging.getLogger(__name__)


@contextmanager
def closing_envs(envs: Envs) -> Iterator[Envs]:
    """Close environments after the block; those that are processes are not waited for where an exception leaves it."""
    try:
        yield envs
    except BaseException:
        if isinstance(envs, AsyncVectorEnv):
            end_processes(envs)
        raise
    finally:
        try:
            envs.close()
        except (EOFError, ConnectionError) as error:
            if not isinstance(envs, AsyncVectorEnv):
                raise
            logger.warning("the environments did not close (%s)", in_words(error))
            end_processes(envs)


def end_processes(envs: AsyncVectorEnv) -> None:
    """End the processes of a batch at once; nothing is left to close, and nobody waits for one that ended or hangs."""
    for process in envs.processes:
        process.kill()
    for process in envs.processes:
        process.join()
    envs.closed = True
