"""Episodes whose observations, actions and tasks are words, and models of them."""

import numpy as np
from gymnasium.spaces import Text

from seqdec import Episode, Windows, build_model, layout_from_spaces
from seqdec.data.dataset import from_episodes
from seqdec.model.backbone import Backbone
from seqdec.model.sequence_model import SequenceModel
from seqdec.spaces.spec import EnvironmentSpec

SPEC = EnvironmentSpec(Text(300), Text(300))


def episodes(num: int = 8, longest: int = 9) -> list[Episode]:
    """Episodes of unequal length, with texts of none to many words."""
    random = np.random.default_rng(0)
    made = []
    for number in range(num):
        length = 1 + number % longest
        words = [
            " ".join(random.choice(["lamp", "hat", "clé", "🙂", "a"], random.integers(0, 6))) for _ in range(length)
        ]
        steps = {
            "observation": np.array(words, object),
            "action": np.array([f"take {word[:9]}" for word in words], object),
            "reward": random.integers(-3, 40, length) / 4,
        }
        made.append(Episode(steps, final="end", terminated=True, truncated=False, text=f"task {number % 3}"))
    return made


def language(backbone: Backbone, *, preset: str = "multi_game", **options) -> tuple[SequenceModel, Windows]:
    """A model of words, and its windows."""
    options = {"context_length": 4, "numbers": "words", "prompt": ["text"], **options}
    layout = layout_from_spaces(preset, SPEC.observation_space, SPEC.action_space, **options)
    windows = Windows(from_episodes(episodes(), SPEC), layout)
    return build_model(windows, backbone), windows
