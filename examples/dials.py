"""A toy with MultiDiscrete observations and actions: turn three dials to where they are wanted.

    python examples/dials.py                                                        # makes data/dials
    python train.py --data data/dials --layout fused --env examples.dials:Dials-v0
    python eval.py runs/dials --env examples.dials:Dials-v0

The observation is where each dial stands and where it is wanted, the action turns each down, not at all or up, and a
step pays one for every dial in its place. The recorded player errs more often in some episodes than in others.
"""

import gymnasium
import numpy as np
from gymnasium.spaces import MultiDiscrete

from seqdec import record
from seqdec.data import describe, save

NUM_DIALS, NUM_PLACES, NUM_STEPS = 3, 6, 20


class Dials(gymnasium.Env):
    """Three dials of six places; the wanted places change now and then."""

    observation_space = MultiDiscrete([NUM_PLACES] * NUM_DIALS * 2)
    action_space = MultiDiscrete([3] * NUM_DIALS)

    def reset(self, *, seed=None, options=None):
        """Draw where the dials stand and where they are wanted."""
        super().reset(seed=seed)
        self._dials, self._wanted = self.np_random.integers(NUM_PLACES, size=(2, NUM_DIALS))
        return self._observe(), {}

    def step(self, action):
        """Turn the dials."""
        self._dials = np.clip(self._dials + action - 1, 0, NUM_PLACES - 1)
        reward = float((self._dials == self._wanted).sum())
        changes = self.np_random.random(NUM_DIALS) < 0.1
        self._wanted = np.where(changes, self.np_random.integers(NUM_PLACES, size=NUM_DIALS), self._wanted)
        return self._observe(), reward, False, False, {}

    def _observe(self):
        return np.concatenate([self._dials, self._wanted])


gymnasium.register("Dials-v0", Dials, max_episode_steps=NUM_STEPS)


class Player:
    """Turns each dial the right way, or errs: an actor with an error rate of its own for every episode."""

    def __init__(self, num_episodes: int):
        self._rates = np.random.default_rng(0).permutation(np.linspace(0, 1, num_episodes))
        self._num_started = 0

    def reset(self, num_envs: int) -> None:
        """Begin the next episodes."""
        self._rows = np.arange(self._num_started, self._num_started + num_envs)
        self._random = [np.random.default_rng([0, row]) for row in self._rows]
        self._num_started += num_envs

    def act(self, observations: np.ndarray, rewards: np.ndarray | None, info: None = None) -> np.ndarray:
        """Return the turns of each dial."""
        right = np.sign(observations[:, NUM_DIALS:] - observations[:, :NUM_DIALS]) + 1
        errs = np.stack([random.random(NUM_DIALS) for random in self._random]) < self._rates[self._rows, None]
        drawn = np.stack([random.integers(3, size=NUM_DIALS) for random in self._random])
        return np.where(errs, drawn, right)

    def keep(self, rows: np.ndarray) -> None:
        """Go on with these of the running episodes."""
        self._rows, self._random = self._rows[rows], [self._random[row] for row in rows]


if __name__ == "__main__":
    dataset = record("Dials-v0", Player(600), num_episodes=600, seed=0, num_envs=20)
    save(dataset, "data/dials", replace=True)
    print(describe(dataset))
