"""Luck is not skill: asked for a high return, a policy plays the lottery; a plan averages over luck.

    python examples/luck.py luck.png     # 3 seeds, minutes on one core

Five times, choose: the safe arm pays 1; the lottery pays 5 once in eight times, which is 0.6 on average. Of the
episodes that earned most, all won the lottery. So who imitates them (return conditioning), or searches for the best
future that can be sampled (beam search), plays it. `plan` draws outcomes that know of no return and averages them.
"""

import sys
import tempfile

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from matplotlib.figure import Figure

from seqdec import Layout, Planning, Policy, Variable, Windows, build_model, load_backbone, record, rollout, train
from seqdec.data import environment_of
from seqdec.play import make_envs

NUM_CHOICES, PRIZE, CHANCE = 5, 5.0, 0.125
SAFE, LOTTERY = 0, 1
SEEDS, NUM_EPISODES = (0, 1, 2), 128
# everything is predicted, the return before the action, so that it can be asked for, and the reward after it
LAYOUT = Layout(
    variables=(
        Variable("observation", "discrete", NUM_CHOICES + 1, 0.1),
        Variable("return_to_go", "binned", 1, 1.0),
        Variable("action", "discrete", 2, 1.0),
        Variable("reward", "binned", 1, 1.0),
    ),
    step=(("observation",), ("return_to_go",), ("action",), ("reward",)),
    context_length=NUM_CHOICES,
    prompt_dropout=0.3,
)


class Lottery(gymnasium.Env):
    """Choose five times between a sure reward and a lottery ticket."""

    observation_space, action_space = Discrete(NUM_CHOICES + 1), Discrete(2)

    def reset(self, *, seed=None, options=None):
        """Begin with the first choice."""
        super().reset(seed=seed)
        self._time = 0
        return 0, {}

    def step(self, action):
        """Pay for the arm that was chosen."""
        self._time += 1
        reward = 1.0 if action == SAFE else PRIZE * (self.np_random.random() < CHANCE)
        return self._time, reward, self._time == NUM_CHOICES, False, {}


gymnasium.register("Lottery-v0", Lottery)


def play(seed: int, steps: int = 400) -> dict[str, tuple[float, float]]:
    """Train a model on random players, and return what each way of asking earns, and how often it plays the lottery."""
    data = record("Lottery-v0", lambda observation, rng: int(rng.random() < 0.5), num_episodes=2000, seed=seed)
    spec = environment_of(data)
    windows = Windows(data, LAYOUT)
    model = build_model(windows, load_backbone("small", num_layers=2, dropout=0.0, seed=seed), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        train(model, windows, out=folder, steps=steps, batch_size=64, schedule="cosine", checkpoint_every=0, seed=seed)
    ways = {
        "as the data": Policy(model, seed=seed),
        "asked for 15": Policy(model, target_return=3 * PRIZE, seed=seed),
        "expert return": Policy(model, "expert", seed=seed),
        "beam search\n(1 outcome)": Policy(model, planning=Planning(1, 8, 4, num_outcomes=1), seed=seed),
        "plan\n(32 outcomes)": Policy(model, planning=Planning(1, 8, 4, num_outcomes=32), seed=seed),
    }
    found = {}
    for name, policy in ways.items():
        episodes = rollout(policy, make_envs(spec, 16), num_episodes=NUM_EPISODES, seed=1000 * seed)
        lotteries = np.concatenate([episode.steps["action"] for episode in episodes]) == LOTTERY
        found[name] = float(np.mean([episode.total_return for episode in episodes])), float(lotteries.mean())
    return found


def draw(results: list[dict[str, tuple[float, float]]], path: str) -> None:
    """Draw the mean return of each way, with a point for each seed, between those of the two arms."""
    figure = Figure(figsize=(7.2, 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for place, name in enumerate(results[0]):
        earned, lotteries = zip(*(result[name] for result in results), strict=True)
        colour = "#2f8f5b" if name.startswith("plan") else "#c8591b"
        axes.bar(place, np.mean(earned), width=0.8, color=colour, alpha=0.75)
        axes.plot([place] * len(earned), earned, "o", ms=4, color="#222222")
        axes.annotate(f"lottery {np.mean(lotteries):.0%}", (place, 0.15), ha="center", color="white", fontsize=8)
    for height, words in ((NUM_CHOICES, "always safe"), (NUM_CHOICES * PRIZE * CHANCE, "always the lottery")):
        axes.axhline(height, color="#555555", lw=1, ls=(0, (5, 4)))
        axes.text(-1.55, height, words, va="bottom", fontsize=9, color="#555555")
    axes.set_xticks(range(len(results[0])), list(results[0]))
    axes.set(ylabel="return earned, mean", ylim=(0, NUM_CHOICES * 1.15), xlim=(-1.6, len(results[0]) - 0.5))
    axes.set_title("A sure 1, or a lottery that pays 5 once in 8 times", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    played = [play(seed) for seed in SEEDS]
    for name in played[0]:
        told = [f"{result[name][0]:.2f} (lottery {result[name][1]:.0%})" for result in played]
        print(f"{' '.join(name.split()):<28}", "  ".join(told))
    draw(played, sys.argv[1] if len(sys.argv) > 1 else "luck.png")
