"""Actors: what chooses actions for all running episodes at once.

An actor is three methods, `reset`, `act` and `keep`; a policy of ours, a function of one observation and a model of
Stable-Baselines3 (`sb3`) all become one.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.spaces import Text

from seqdec.play.info import Choices
from seqdec.play.legal import counts_of, parts_of
from seqdec.spaces.leaves import Batch, join, leaf_parts, leaves, stack, unstack
from seqdec.spaces.space import whole_limits


@runtime_checkable
class Actor(Protocol):
    """What chooses actions for a batch of running episodes."""

    def reset(self, num_envs: int) -> None:
        """Start `num_envs` new episodes."""
        ...

    def act(self, observations: Batch, rewards: np.ndarray | None, info: Choices | None = None, /) -> Batch:
        """Return one action for each running row: [rows, ...], nested as the action space is.

        Args:
            observations: [rows, ...], nested as the observation space is; float32, uint8 (images), int64 or texts.
                What is missing is NaN, or None among texts.
            rewards: [rows], what the step before paid; None at the first step.
            info: what the rows' environments let one choose from: texts under "valid_actions", masks of values under
                "action_mask". It is given where one of them says so, and to actors that take it.
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

    A function of three arguments is given what it may choose from, too: a list of texts, or a mask of values, or None.
    """

    def __init__(self, policy: Callable[..., object], seed: int) -> None:
        self._policy = policy
        self._reads_choices = len(inspect.signature(policy).parameters) > 2
        self._seed = seed
        self._num_started = 0
        self._generators: list[np.random.Generator] = []

    def reset(self, num_envs: int) -> None:
        episodes = range(self._num_started, self._num_started + num_envs)
        self._num_started += num_envs
        self._generators = [np.random.default_rng([self._seed, episode]) for episode in episodes]

    def seek(self, episode: int) -> None:
        self._num_started = episode

    def act(self, observations: Batch, rewards: np.ndarray | None, info: Choices | None = None) -> Batch:
        num_rows = len(self._generators)
        rows = zip(unstack(observations, num_rows), self._generators, strict=True)
        if not self._reads_choices:
            return stack([self._policy(observation, generator) for observation, generator in rows])
        choices = (info or {}).get("valid_actions", (info or {}).get("action_mask", [None] * num_rows))
        return stack([self._policy(*row, own) for row, own in zip(rows, choices, strict=True)])

    def keep(self, rows: np.ndarray) -> None:
        self._generators = [self._generators[row] for row in rows]


def random_policy(space: gymnasium.Space) -> Callable[..., object]:
    """Return a policy for `record` that draws every action from an action space, nested or not.

    A text is drawn from the candidates, and a value from those that are legal, where the environment says which.
    """
    space = copy.deepcopy(space)  # the environment may draw from its own
    action_leaves = leaves(space, "action")
    parts = parts_of(action_leaves)

    def act(
        observation: object, generator: np.random.Generator, choices: list[str] | np.ndarray | None = None
    ) -> object:
        space.seed(int(generator.integers(2**31)))
        action = space.sample()
        if choices is None:
            return action
        chosen = {name: part for name, (part, _) in leaf_parts(space, action, "action").items()}
        if isinstance(choices, np.ndarray):
            legal = {name: choices[part] for name, part in parts.items()}
            chosen |= {name: _legal_value(action_leaves[name], mask, generator) for name, mask in legal.items()}
        else:
            text = choices[generator.integers(len(choices))]
            chosen |= {name: text for name, leaf in action_leaves.items() if isinstance(leaf, Text)}
        return join(space, chosen, "action")  # pyright: ignore[reportArgumentType] - one action, not a batch

    return act


def _legal_value(leaf: gymnasium.Space, mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    entries = np.split(mask, np.cumsum(counts_of(leaf))[:-1])
    index = [generator.choice(np.flatnonzero(entry)) for entry in entries]
    return np.asarray(whole_limits(leaf)[0] + np.reshape(index, leaf.shape or ()), leaf.dtype)
