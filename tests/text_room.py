"""A room with objects whose actions are words: what an environment that is no game package looks like."""

import gymnasium
import numpy as np
from gymnasium.spaces import Text

THINGS = ["clé", "lamp", "🙂 mask"]


class Room(gymnasium.Env):
    """Take everything; each thing taken pays 1. Its seed says how many things there are, so episodes differ in length.

    Its spaces are Gymnasium's default Text, whose characters are letters and digits alone, and it takes sentences.
    """

    observation_space = Text(200)
    action_space = Text(40)

    def __init__(self, key: str | None = "valid_actions", kind: type = list) -> None:
        """Name candidates under a key of the info, as a list, tuple, set or array; with None name none."""
        self.key, self.kind = key, kind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.said = THINGS[: int(self.np_random.integers(1, 4))], []
        return "A room: " + ", ".join(self.left), self._info()

    def step(self, action):
        assert type(action) is str
        self.said.append(action)
        thing = action.removeprefix("take ")
        paid = float(thing != action and thing in self.left)
        self.left = [other for other in self.left if other != thing]
        return f"You said: {action}", paid, not self.left, False, self._info()

    def candidates(self) -> list[str]:
        return [*(f"take {thing}" for thing in self.left), "wait"]

    def _info(self) -> dict[str, object]:
        if self.key is None:
            return {}
        return {self.key: np.array(self.candidates()) if self.kind is np.ndarray else self.kind(self.candidates())}
