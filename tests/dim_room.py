"""An environment of every kind of space, some of which it sometimes does not see."""

from collections import OrderedDict

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Text, Tuple


class Room(gymnasium.Env):
    """Images, words, numbers and a number of doors to see; an arm, a grip and two lamps to move; some of it unseen."""

    observation_space = Dict(
        OrderedDict(
            camera=Box(0, 255, (6, 6, 3), np.uint8),
            mission=Text(30),
            pose=Tuple((Box(-np.inf, np.inf, (2,)), Discrete(4, start=1))),
        )
    )
    action_space = Dict(OrderedDict(arm=Box(-1, 1, (2,)), grip=Tuple((Discrete(3, start=-1), MultiBinary(2)))))

    def __init__(self, gaps: float = 0.0):
        self.gaps = gaps

    def see(self) -> dict:
        random = self.np_random
        camera = random.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        place, door = random.normal(size=2).astype(np.float32), int(random.integers(1, 5))
        place[random.random(2) < self.gaps] = np.nan
        is_seen = random.random(3) >= self.gaps
        return {
            "camera": camera if is_seen[0] else None,
            "mission": "open the door" if is_seen[1] else None,
            "pose": (place, door if is_seen[2] else np.nan),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(2, 7))
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.left -= 1
        return self.see(), float(action["arm"][0]), self.left == 0, False, {}


gymnasium.register("seqdec-tests/Room-v0", Room)

gymnasium.register("seqdec-tests/DimRoom-v0", Room, kwargs={"gaps": 0.3})

UNSEEN = "observation.camera observation.mission observation.pose.0 observation.pose.1"
