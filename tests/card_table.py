"""A table of cards of which some may be played: an environment with a mask of legal actions."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

SPACES = {
    "discrete": Discrete(6, start=2),
    "multi_discrete": MultiDiscrete([2, 3], start=[0, -1]),
    "nested": Dict(aim=Box(-1, 1, (1,)), card=Discrete(4), way=MultiDiscrete([2, 2])),
    "multi_binary": MultiBinary(3),
}
COUNTS = {"discrete": [6], "multi_discrete": [2, 3], "nested": [4, 2, 2], "multi_binary": [2, 2, 2]}


class Cards(gymnasium.Env):
    """Raises where an action is not legal; at its end nothing is legal. Its seed says how long it is."""

    def __init__(self, kind="discrete", shows="info", name="action_mask", raises=True):
        self.raises = raises
        self.kind, self.shows, self.name, self.action_space = kind, shows, name, SPACES[kind]
        self.size = sum(COUNTS[kind])
        hand = {"hand": Box(0, 1, (2,), np.float32)}
        self.observation_space = Dict(hand | ({name: MultiBinary(self.size)} if shows == "leaf" else {}))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(2, 7))
        return self.look()

    def step(self, action):
        assert not self.raises or all(self.mask[self.places(action)]), f"{action} is not legal"
        self.t += 1
        return *self.look()[:1], 1.0, self.t == self.length, False, self.look()[1]

    def places(self, action):
        """Where the values of an action stand in the mask."""
        if self.kind == "nested":
            action = np.concatenate([[action["card"]], action["way"]])
        lows = {"discrete": [2], "multi_discrete": [0, -1]}.get(self.kind, [0] * len(COUNTS[self.kind]))
        return np.reshape(action, -1) - lows + np.cumsum([0, *COUNTS[self.kind][:-1]])

    def look(self):
        random = np.random.default_rng([int(1e6 * self.np_random.random()) if self.t == 0 else self.key, self.t])
        self.key = int(random.integers(2**31)) if self.t == 0 else self.key
        entries = [random.permutation(np.arange(count) == 0) for count in COUNTS[self.kind]]
        self.mask = np.concatenate(entries).astype(np.int8)
        if self.t and self.t == self.length:
            self.mask[:] = 0
        seen = {"hand": np.full(2, self.t / 8, np.float32)}
        if self.shows == "leaf":
            return seen | {self.name: self.mask}, {}
        parts = np.split(self.mask, np.cumsum(COUNTS[self.kind])[:-1])
        nested = {"card": parts[0], "way": tuple(parts[1:])} if self.kind == "nested" else self.mask
        return seen, {self.name: tuple(parts) if self.kind == "multi_discrete" else nested}
