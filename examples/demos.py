"""Show, don't tell: where the goal is, no observation says; an episode of somebody who went there does.

    python examples/demos.py demos.png     # 3 seeds, minutes on one core

A point in a square sees where it is, and is paid 1 at the end if it is at the goal of its task by then: too late to
learn from, so nothing in the context tells of the goal but the demo, an episode to the same goal from another start.
Players of all skills made the data, with demos of all skills; the return that is asked for says how well to play.
Goals drawn anew from the square are played without a demo, with one of another task, and with one of their own.
"""

import sys
import tempfile
from functools import partial

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import SyncVectorEnv
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from seqdec import (
    EnvironmentSpec,
    Episode,
    Policy,
    Prompt,
    Windows,
    build_model,
    layout_from_spaces,
    load_backbone,
    rollout,
    train,
)
from seqdec.data import from_episodes

HORIZON, SPEED, RADIUS = 12, 0.25, 0.2
NUM_GOALS, DEMOS_A_GOAL, STARTS = 500, 6, 4
SEEDS, NUM_EPISODES = (0, 1, 2), 400
NO_DEMO, OWN_DEMO = "no demo", "its demo"
COLOURS = ("#1f77b4", "#d62728", "#9467bd", "#d99a00")
Result = tuple[np.ndarray, list[Episode], dict[str, list[Episode]]]


class HiddenGoal(gymnasium.Env):
    """Move a point through the plane; the goal is the task's, and is not observed."""

    observation_space, action_space = Box(-np.inf, np.inf, (2,), np.float32), Box(-1, 1, (2,), np.float32)

    def __init__(self, goal: np.ndarray) -> None:
        self._goal = goal

    def reset(self, *, seed=None, options=None):
        """Begin anywhere in the square."""
        super().reset(seed=seed)
        self._time, self._place = 0, self.np_random.uniform(-1, 1, 2)
        return self._place.astype(np.float32), {}

    def step(self, action):
        """Move by the action, no faster than the speed limit; pay at the end only."""
        self._time += 1
        self._place = self._place + SPEED * action / max(1.0, float(np.linalg.norm(action)))
        is_over = self._time == HORIZON
        reward = float(is_over and np.linalg.norm(self._place - self._goal) < RADIUS)
        return self._place.astype(np.float32), reward, is_over, False, {}


def show(goal: np.ndarray, skill: float, random: np.random.Generator) -> Episode:
    """Play an episode as somebody who knows the goal: each step goes there with the probability `skill`, or astray."""
    env = HiddenGoal(goal)
    places, actions, rewards = [env.reset(seed=int(random.integers(2**31)))[0]], [], []
    for _ in range(HORIZON):
        action = (goal - places[-1]) / SPEED if random.random() < skill else random.normal(size=2)
        actions.append(action / max(1.0, float(np.linalg.norm(action))))
        place, reward, *_ = env.step(actions[-1])
        places.append(place)
        rewards.append(reward)
    steps = {"observation": np.array(places[:-1]), "action": np.array(actions), "reward": np.array(rewards)}
    return Episode(steps, places[-1], terminated=True, truncated=False, metadata={"goal": str(goal)})


def play(seed: int, steps: int = 1200) -> Result:
    """Train on the data's goals; return new ones, a demo of each, and the episodes there by what was in the prompt."""
    random = np.random.default_rng(seed)
    known = random.uniform(-1, 1, (NUM_GOALS, 2))
    shown = [show(goal, random.uniform(0.4, 1), random) for goal in known for _ in range(DEMOS_A_GOAL)]
    spec = EnvironmentSpec(HiddenGoal.observation_space, HiddenGoal.action_space)
    layout = layout_from_spaces(
        "decision_transformer", spec.observation_space, spec.action_space, context_length=3, prompt=["demo"],
        demo_length=HORIZON, demo_group="metadata.goal", prompt_dropout=0.1,
    )  # fmt: skip
    windows = Windows(from_episodes(shown, spec), layout)
    model = build_model(windows, load_backbone("small", num_layers=2, dropout=0.0, seed=seed), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        train(model, windows, out=folder, steps=steps, batch_size=64, schedule="cosine", checkpoint_every=0, seed=seed)

    goals = random.uniform(-1, 1, (NUM_EPISODES // STARTS, 2))
    demos = [show(goal, 1.0, random) for goal in goals]
    prompts = {
        NO_DEMO: Prompt(target_return=1),
        "demo of\nanother goal": Prompt(target_return=1, demo=demos[1:] + demos[:1]),
        "its demo,\nasked to miss": Prompt(target_return=0, demo=demos),
        OWN_DEMO: Prompt(target_return=1, demo=demos),
    }
    envs = SyncVectorEnv([partial(HiddenGoal, goal) for goal in goals])
    played = {
        name: rollout(Policy(model, prompt=prompt, seed=seed), envs, num_episodes=NUM_EPISODES, seed=1000 * (seed + 1))
        for name, prompt in prompts.items()
    }
    return goals, demos, played


def success(episodes: list[Episode]) -> float:
    """Return the share of episodes that end at the goal."""
    return float(np.mean([episode.total_return for episode in episodes]))


def path_of(episode: Episode) -> np.ndarray:
    """Return x and y of all places of an episode, [2, T + 1]."""
    return np.vstack([episode.steps["observation"], episode.final["observation"]]).T


def draw(results: list[Result], path: str) -> None:
    """Draw where the first seed's policy goes without and with a demo, and how often each seed ends at the goal."""
    figure = Figure(figsize=(11.5, 4.3), dpi=130, layout="constrained")
    without, shown, bars = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    goals, demos, played = results[0]
    quadrants = {tuple(goal > 0): number for number, goal in reversed(list(enumerate(goals)))}  # one goal of each
    panels = ((without, NO_DEMO, "Without a demo, it guesses"), (shown, OWN_DEMO, "Shown one demo, it goes there"))
    for axes, name, title in panels:
        for number, colour in zip(quadrants.values(), COLOURS, strict=False):
            axes.add_patch(Circle(tuple(goals[number]), RADIUS, color=colour, alpha=0.25, lw=0))
            for episode in played[name][number :: len(goals)]:
                places = path_of(episode)
                axes.plot(*places, color=colour, lw=1.1, alpha=0.8)
                axes.plot(*places[:, 0], "o", ms=4.5, mfc="white", color=colour)
                axes.plot(*places[:, -1], "o", ms=5.5, color=colour)
            if name == OWN_DEMO:
                axes.plot(*path_of(demos[number]), color="#222222", lw=1.4, ls=(0, (2, 1.5)))
        axes.set(aspect="equal", xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xlabel="x", ylabel="y")
        axes.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        axes.set_title(title, loc="left", fontsize=11)
    grey = partial(Line2D, [], [], color="#555555")
    marks = {
        "start": grey(ls="", marker="o", ms=4.5, mfc="white"),
        "end": grey(ls="", marker="o", ms=5.5),
        "goal, which is hidden (a colour each)": grey(ls="", marker="o", ms=14, mew=0, alpha=0.25),
        "demo": Line2D([], [], color="#222222", lw=1.4, ls=(0, (2, 1.5))),
    }
    figure.legend(list(marks.values()), list(marks), loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    for place, name in enumerate(played):
        rates = [success(found[name]) for *_, found in results]
        bars.bar(place, np.mean(rates), width=0.75, color="#2f8f5b" if name == OWN_DEMO else "#c8591b", alpha=0.75)
        bars.plot([place] * len(rates), rates, "o", ms=4, color="#222222")
        bars.text(place, max(rates) + 0.02, f"{np.mean(rates):.0%}", ha="center")
    bars.set_xticks(range(len(played)), list(played), fontsize=8.5)
    bars.set(ylabel="episodes that end at the goal", ylim=(0, 1.05))
    bars.set_title(f"New goals, {len(results)} seeds", loc="left", fontsize=11)
    bars.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    results = [play(seed) for seed in SEEDS]
    for name in results[0][2]:
        rates = [success(played[name]) for *_, played in results]
        print(
            f"{' '.join(name.split()):<28}", "  ".join(f"{rate:.1%}" for rate in rates), f"  mean {np.mean(rates):.1%}"
        )
    draw(results, sys.argv[1] if len(sys.argv) > 1 else "demos.png")
