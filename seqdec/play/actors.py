"""Actors: what chooses actions for all running episodes at once.

An actor is three methods, `reset`, `act` and `keep`; a policy of ours, a function of one observation and a model of
Stable-Baselines3 (`sb3`) all become one.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Text, Tuple

from seqdec.play.candidates import VALID_ACTIONS, Candidates
from seqdec.spaces.leaves import Batch, stack, unstack


@runtime_checkable
class Actor(Protocol):
    """What chooses actions for a batch of running episodes."""

    def reset(self, num_envs: int) -> None:
        """Start `num_envs` new episodes."""
        ...

    def act(self, observations: Batch, rewards: np.ndarray | None, info: Candidates | None = None, /) -> Batch:
        """Return one action for each running row: [rows, ...], nested as the action space is.

        Args:
            observations: [rows, ...], nested as the observation space is; float32, uint8 (images), int64 or texts.
                What is missing is NaN, or None among texts.
            rewards: [rows], what the step before paid; None at the first step.
            info: under "valid_actions" the texts that each row's environment names as its candidates, None where it
                names none. It is given where an environment names some, so that actors in numbers may do without.
        """
        ...

    def keep(self, rows: np.ndarray) -> None:
        """Go on with these of the current rows (indices); the others have ended.

        This may come before the first `act`, where an environment failed at its reset.
        """
        ...


@runtime_checkable
class Seekable(Protocol):
    """An actor whose episodes may have random numbers of their own, and that can begin at a later one."""

    def seek(self, episode: int) -> None:
        """Let the next episode that begins be this one; 0 is the first."""
        ...


class FunctionActor:
    """A function of one observation as an actor, with one random generator an episode.

    A function of three arguments is given the candidates too: a list of texts, or None.
    """

    def __init__(self, policy: Callable[..., object], seed: int) -> None:
        self._policy = policy
        self._reads_candidates = len(inspect.signature(policy).parameters) > 2
        self._seed = seed
        self._num_started = 0
        self._generators: list[np.random.Generator] = []

    def reset(self, num_envs: int) -> None:
        episodes = range(self._num_started, self._num_started + num_envs)
        self._num_started += num_envs
        self._generators = [np.random.default_rng([self._seed, episode]) for episode in episodes]

    def seek(self, episode: int) -> None:
        self._num_started = episode

    def act(self, observations: Batch, rewards: np.ndarray | None, info: Candidates | None = None) -> Batch:
        num_rows = len(self._generators)
        rows = zip(unstack(observations, num_rows), self._generators, strict=True)
        if not self._reads_candidates:
            return stack([self._policy(observation, generator) for observation, generator in rows])
        candidates = info[VALID_ACTIONS] if info else [None] * num_rows
        return stack([self._policy(*row, texts) for row, texts in zip(rows, candidates, strict=True)])

    def keep(self, rows: np.ndarray) -> None:
        self._generators = [self._generators[row] for row in rows]


def random_policy(space: gymnasium.Space) -> Callable[..., object]:
    """Return a policy for `record` that draws every action from an action space, nested or not.

    A text is drawn from the candidates where the environment names some.
    """
    space = copy.deepcopy(space)  # the environment may draw from its own

    def act(observation: object, generator: np.random.Generator, candidates: list[str] | None = None) -> object:
        space.seed(int(generator.integers(2**31)))
        action = space.sample()
        return _with_text(space, action, candidates[generator.integers(len(candidates))]) if candidates else action

    return act


def _with_text(space: gymnasium.Space, action: object, text: str) -> object:
    """Return an action with this text in the place of its own."""
    if isinstance(space, Dict) and isinstance(action, Mapping):
        return {key: _with_text(child, action[key], text) for key, child in space.spaces.items()}
    if isinstance(space, Tuple) and isinstance(action, tuple):
        return tuple(_with_text(child, part, text) for child, part in zip(space.spaces, action, strict=True))
    return text if isinstance(space, Text) else action
