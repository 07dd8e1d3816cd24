"""Which checkpoint? Ranked without an environment, by how likely each finds what good players did; then played to see.

    python examples/checkpoints.py checkpoints.png     # Hopper, 3 seeds, minutes on two cores

Ten checkpoints of a run. `rank_checkpoints` reads a tenth of the episodes, which none was trained on, and scores the
actions of the best quarter of them; nothing is played. Then each checkpoint is asked for 3600 in the environment. Needs
`pip install "seqdec[mujoco]"`. The figures are of `mujoco/hopper/mixed-v0`, recorded with agents of all skills,
below MINARI_DATASETS_PATH; a set that Minari downloads can be named after the picture: minari:mujoco/hopper/medium-v0.
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from seqdec import (
    Episode,
    Policy,
    Windows,
    build_model,
    layout_from_spaces,
    load_backbone,
    load_dataset,
    load_policy,
    rollout,
    train,
)
from seqdec.data import environment_of
from seqdec.inference.evaluation import spearman
from seqdec.play import make_envs
from seqdec.questions import rank_checkpoints
from seqdec.sequence import split_episodes

DATA, TARGET = "minari:mujoco/hopper/mixed-v0", 3600.0
NUM_CHECKPOINTS = 10
SEEDS, NUM_EPISODES = (0, 1, 2), 40


def judge(seed: int, data: str = DATA, steps: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Train; return for each checkpoint its score without an environment, and the mean return that it earns in one."""
    torch.set_num_threads(1)
    dataset = load_dataset(data)
    spec = environment_of(dataset)
    layout = layout_from_spaces("paired", spec.observation_space, spec.action_space, context_length=10)
    kept, held = split_episodes(len(dataset), 0.1, seed)
    windows = Windows(dataset, layout, episodes=kept)
    backbone = load_backbone("small", num_layers=2, dropout=0.0, seed=seed)
    model = build_model(windows, backbone, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        often = {"checkpoint_every": steps // NUM_CHECKPOINTS, "keep_checkpoints": NUM_CHECKPOINTS}
        train(model, windows, out=folder, steps=steps, learning_rate=2e-3, schedule="cosine", seed=seed, **often)
        models = [load_policy(each / "policy") for each in sorted((Path(folder) / "checkpoints").iterdir())]
    scores = rank_checkpoints(models, [Episode.from_row(row) for row in dataset.select(held)]).scores[:, -1]
    envs, earned = make_envs(spec, NUM_EPISODES), []
    for each in models:
        policy = Policy(each, TARGET, seed=seed)
        episodes = rollout(policy, envs, num_episodes=NUM_EPISODES, seed=1000 * (seed + 1))
        earned.append(np.mean([episode.total_return for episode in episodes]))
    return scores, np.array(earned)


def draw(results: list[tuple[np.ndarray, np.ndarray]], path: str) -> None:
    """Draw the score of each checkpoint against what it earns, a colour for each seed, later checkpoints larger."""
    figure = Figure(figsize=(6.4, 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for seed, ((scores, earned), colour) in enumerate(zip(results, ("#2f8f5b", "#c8591b", "#3b6ea8"), strict=False)):
        words = f"seed {seed}: rank correlation {spearman(scores, earned):.2f}"
        axes.plot(scores, earned, lw=0.8, color=colour, alpha=0.5)
        axes.scatter(scores, earned, s=np.linspace(12, 70, len(scores)), color=colour, alpha=0.85, label=words)
    axes.set(xlabel="log probability of held-out good players' actions (no environment)", ylabel="return earned, mean")
    axes.set_title(f"Hopper: {NUM_CHECKPOINTS} checkpoints of each run, later ones larger", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "checkpoints.png"
    data = sys.argv[2] if len(sys.argv) > 2 else DATA
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(partial(judge, data=data), SEEDS))
    for seed, (scores, earned) in enumerate(results):
        by_step = spearman(np.arange(NUM_CHECKPOINTS), earned)
        print(f"seed {seed}: rank correlation {spearman(scores, earned):.2f}, of the number of steps {by_step:.2f}")
        print("  scores", *(f"{score:.2f}" for score in scores), "\n  earned", *(f"{mean:.0f}" for mean in earned))
    draw(results, path)
