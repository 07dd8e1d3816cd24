"""The sample data: CartPole-v1 by a scripted controller at evenly graded noise, made here in seconds."""

import numpy as np
from datasets import Dataset

from seqdec.play.info import Choices
from seqdec.play.recording import record
from seqdec.spaces.leaves import Batch


def scripted_cartpole(num_episodes: int = 260, seed: int = 0) -> Dataset:
    """Make the sample data: CartPole-v1 by a scripted controller at evenly graded noise, returns 10 to 500.

    The noise of an episode is how far its controller misjudges the cart's velocity, which lets the cart drift
    off the track or the pole fall sooner or later, and how often it acts at random. So behaviour tells the
    return, all along the scale.
    """
    return record(
        "CartPole-v1",
        _NoisyController(num_episodes, seed),
        num_episodes=num_episodes,
        seed=seed,
        num_envs=min(num_episodes, 20),
        policy_name="scripted",
        # A uniformly random policy's mean, and the time limit.
        reference_returns=(22.2, 500.0),
    )


class _NoisyController:
    """Balances CartPole for as long as its noise, one level an episode, lets it."""

    # At noise 0 to 1: how far the cart's velocity is misjudged (m/s) and the share of random actions. Chosen so
    # that evenly spaced noise gives about evenly spaced returns.
    _LEVELS = (0.0, 0.16, 0.28, 0.42, 0.54, 0.64, 0.70, 0.78, 0.86, 0.92, 1.0)
    _DRIFTS = (0.0, 0.30, 0.50, 0.70, 1.05, 2.00, 2.80, 1.20, 0.50, 3.60, 5.0)
    _RANDOM = (0.0, 0.10, 0.10, 0.10, 0.10, 0.15, 0.20, 0.60, 0.80, 0.60, 0.3)
    # On x, its velocity, the pole's angle and its velocity; the cart's place is left free to drift.
    _GAINS = np.array([0.0, 0.3, 5.0, 1.0])

    def __init__(self, num_episodes: int, seed: int) -> None:
        order = np.random.default_rng(seed)
        noise = order.permutation(np.linspace(0, 1, num_episodes))
        side = order.choice([-1.0, 1.0], num_episodes)
        self._drifts = side * np.interp(noise, self._LEVELS, self._DRIFTS)
        self._random = np.interp(noise, self._LEVELS, self._RANDOM)
        self._seed = seed
        self._num_started = 0
        self._running: list[tuple[int, np.random.Generator]] = []

    def reset(self, num_envs: int) -> None:
        episodes = range(self._num_started, self._num_started + num_envs)
        self._num_started += num_envs
        self._running = [(episode, np.random.default_rng([self._seed, episode])) for episode in episodes]

    def act(self, observations: Batch, rewards: np.ndarray | None, info: Choices | None = None) -> Batch:
        episodes = [episode for episode, _ in self._running]
        chance, coin = np.array([generator.random(2) for _, generator in self._running]).T
        seen = np.asarray(observations) - self._drifts[episodes, None] * np.array([0.0, 1.0, 0.0, 0.0])
        steady = seen @ self._GAINS > 0
        return np.where(chance < self._random[episodes], coin < 0.5, steady).astype(np.int64)

    def keep(self, rows: np.ndarray) -> None:
        self._running = [self._running[row] for row in rows]
