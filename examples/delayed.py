"""All reward at the end: a policy follows the return that it is asked for, whenever rewards came.

    python examples/delayed.py delayed.png     # Hopper, 3 seeds, minutes on two cores

Episodes of good and bad players, once with their rewards as they came and once with all reward at the last step, which
methods that learn values step by step find hard. The policies are asked for five returns, and for what an expert would
get from where they are (`expert_return`), which needs no number; behaviour cloning cannot be asked. Actions are
sampled; the most likely ones do not follow a return, and those of cloning earn most (docs/questions.md). Needs
`pip install "seqdec[mujoco]"`. The figures are of `mujoco/hopper/mixed-v0`, recorded with agents of all skills,
below MINARI_DATASETS_PATH; a set that Minari downloads can be named after the picture: minari:mujoco/hopper/medium-v0.
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from matplotlib.figure import Figure

from seqdec import (
    EnvironmentSpec,
    Layout,
    Policy,
    Windows,
    build_model,
    layout_from_spaces,
    load_backbone,
    load_dataset,
    rollout,
    train,
)
from seqdec.data import environment_of
from seqdec.play import make_envs

DATA = "minari:mujoco/hopper/mixed-v0"
READINGS = AS_THEY_COME, AT_THE_END, CLONING = "rewards as they come", "all reward at the end", "behaviour cloning"
TARGETS = (400.0, 1000.0, 1800.0, 2700.0, 3600.0)
COLOURS = dict(zip(READINGS, ("#3b6ea8", "#2f8f5b", "#c8591b"), strict=True))
SEEDS, NUM_EPISODES = (0, 1, 2), 20


def layout_of(spec: EnvironmentSpec, is_cloning: bool) -> Layout:
    """Return a layout of two tokens a timestep: the action before and the observation, then the return to go.

    The return is predicted from the first token and the action from the second, so that a return can be asked for, or
    chosen, with the observation in sight. Cloning has one token, and no return.
    """
    preset = layout_from_spaces("multi_game", spec.observation_space, spec.action_space)
    step = (("action", "observation"), ("return_to_go",))
    variables = [each for each in preset.variables if not is_cloning or each.name != "return_to_go"]
    return Layout(tuple(variables), step[:1] if is_cloning else step, late=("action",), context_length=10)


def earn(case: tuple[str, int], data: str = DATA, steps: int = 2000) -> dict[float | str | None, float]:
    """Train by a reading of the rewards and a seed; return the mean return for each one that is asked for."""
    torch.set_num_threads(1)
    (reading, seed), dataset = case, load_dataset(data)
    spec = environment_of(dataset)
    windows = Windows(dataset, replace(layout_of(spec, reading == CLONING), delayed_reward=reading == AT_THE_END))
    backbone = load_backbone("small", num_layers=2, dropout=0.0, seed=seed)
    model = build_model(windows, backbone, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        train(model, windows, out=folder, steps=steps, learning_rate=2e-3, schedule="cosine", seed=seed)
    envs, found = make_envs(spec, NUM_EPISODES), {}
    for target in (None,) if reading == CLONING else (*TARGETS, "expert"):
        policy = Policy(model, target, seed=seed)
        episodes = rollout(policy, envs, num_episodes=NUM_EPISODES, seed=1000 * (seed + 1))
        found[target] = float(np.mean([episode.total_return for episode in episodes]))
    return found


def draw(results: dict[str, list[dict[float | str | None, float]]], path: str) -> None:
    """Draw what was earned against what was asked for: the mean of all seeds, and a point for each but of cloning."""
    figure = Figure(figsize=(7.2, 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    beside = TARGETS[-1] + 500  # where the expert's return stands
    for shift, (reading, seeds) in zip((-25, 25, 0), results.items(), strict=True):
        colour = COLOURS[reading]
        if reading == CLONING:
            mean = np.mean([found[None] for found in seeds])
            axes.axhline(mean, color=colour, lw=1.5, ls=(0, (5, 3)), label=f"{reading}, which cannot be asked")
            continue
        means = [np.mean([found[target] for found in seeds]) for target in TARGETS]
        axes.plot(TARGETS, means, color=colour, lw=1.8, label=reading)
        for found in seeds:
            earned = [found[target] for target in (*TARGETS, "expert")]
            axes.plot(np.array([*TARGETS, beside]) + shift, earned, "o", ms=4, color=colour, alpha=0.6)
        expert = np.mean([found["expert"] for found in seeds])
        axes.plot([beside - 120, beside + 120], [expert] * 2, color=colour, lw=1.8)
    axes.set_xticks([*TARGETS, beside], [*(f"{target:.0f}" for target in TARGETS), "an expert's"])
    axes.set(xlabel="return asked for", ylabel="return earned", ylim=(0, None))
    axes.set_title("Hopper, sampled actions: the return asked for, and the one earned", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "delayed.png"
    data = sys.argv[2] if len(sys.argv) > 2 else DATA
    cases = [(reading, seed) for reading in READINGS for seed in SEEDS]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(partial(earn, data=data), cases))
    results = {reading: found[len(SEEDS) * index :][: len(SEEDS)] for index, reading in enumerate(READINGS)}
    for reading, seeds in results.items():
        for target in seeds[0]:
            earned = [each[target] for each in seeds]
            asked = "" if target is None else target if isinstance(target, str) else f"{target:.0f}"
            print(
                f"{reading:<22} {asked:>6} ",
                "  ".join(f"{mean:5.0f}" for mean in earned),
                f" mean {np.mean(earned):.0f}",
            )
    draw(results, path)
