"""A cue seen 50 steps ago: a context that reaches back to it solves the T-maze, a shorter one is at chance.

    python examples/memory.py memory.png     # 3 seeds, minutes on one core

A corridor with a cue at its beginning and a junction at its end; turning to the side that the cue named pays 1. The
recorded player turns at random. Asked for a return of 1, a policy must know the side.
"""

import sys
import tempfile

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from matplotlib.figure import Figure

from seqdec import Policy, Windows, build_model, layout_from_spaces, load_backbone, record, rollout, train
from seqdec.data import environment_of
from seqdec.play import make_envs

LENGTH, CONTEXTS = 50, (10, 30, 60)
SEEDS, NUM_EPISODES = (0, 1, 2), 200


class TMaze(gymnasium.Env):
    """Walk along a corridor and turn; the observation is the cue, at the first step only, and whether to turn now."""

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)

    def reset(self, *, seed=None, options=None):
        """Show the cue."""
        super().reset(seed=seed)
        self._time, self._side = 0, int(self.np_random.integers(2))
        return np.array([2 * self._side - 1, 0], np.float32), {}

    def step(self, action):
        """Walk on; at the junction, turn."""
        self._time += 1
        is_over = self._time > LENGTH
        reward = float(is_over and action == self._side)
        return np.array([0, self._time == LENGTH], np.float32), reward, is_over, False, {}


gymnasium.register("TMaze-v0", TMaze)


def success(context_length: int, seed: int, steps: int = 600) -> float:
    """Train on random players with a context of that length; return how often the policy turns to the right side."""
    data = record("TMaze-v0", lambda observation, rng: int(rng.integers(2)), num_episodes=1000, seed=seed)
    spec = environment_of(data)
    layout = layout_from_spaces("fused", spec.observation_space, spec.action_space, context_length=context_length)
    windows = Windows(data, layout)
    backbone = load_backbone("small", num_layers=2, dropout=0.0, seed=seed, num_tokens=layout.num_tokens)
    model = build_model(windows, backbone, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        train(model, windows, out=folder, steps=steps, batch_size=64, schedule="cosine", checkpoint_every=0, seed=seed)
    policy = Policy(model, target_return=1.0, temperature=0, seed=seed)
    episodes = rollout(policy, make_envs(spec, 50), num_episodes=NUM_EPISODES, seed=1000 * (seed + 1))
    return float(np.mean([episode.total_return for episode in episodes]))


def draw(results: dict[int, list[float]], path: str) -> None:
    """Draw the success of each context length, with a point for each seed, and chance."""
    figure = Figure(figsize=(6.0, 4.0), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for place, (length, rates) in enumerate(results.items()):
        colour = "#2f8f5b" if length > LENGTH else "#c8591b"
        axes.bar(place, np.mean(rates), width=0.6, color=colour, alpha=0.75)
        axes.plot([place] * len(rates), rates, "o", ms=4, color="#222222")
    axes.axhline(0.5, color="#555555", lw=1, ls=(0, (5, 4)))
    axes.text(-0.75, 0.51, "chance", fontsize=9, color="#555555")
    axes.set_xticks(range(len(results)), [f"{length} timesteps" for length in results])
    axes.set(xlabel="context", ylabel="turns to the right side", ylim=(0, 1.05), xlim=(-0.8, len(results) - 0.5))
    axes.set_title(f"T-maze: the cue was seen {LENGTH} steps ago", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    found = {length: [success(length, seed) for seed in SEEDS] for length in CONTEXTS}
    for length, rates in found.items():
        print(f"context {length:>3}:", "  ".join(f"{rate:.2f}" for rate in rates))
    draw(found, sys.argv[1] if len(sys.argv) > 1 else "memory.png")
