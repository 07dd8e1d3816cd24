"""Where no words are: do pretrained weights help with numbers? CartPole, and Hopper with all, 10 % and 1 % of its data.

    python benchmarks/number_twins.py          run what is missing
    python benchmarks/number_twins.py --table  write results/number_twins.md

Pretrained SmolLM2 and its random twin, the first 6 of its layers as is the default for numbers, the same steps. Seed 0
tries each rate; the one of the lowest held-out loss of the actions trains the other seeds, for each world and each twin
by itself. A run is a line of results/number_twins.jsonl. Hopper needs `pip install "seqdec[mujoco]"` and
mujoco/hopper/mixed-v0 below MINARI_DATASETS_PATH.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from language import commit_of_code
from language_report import rows_of

from seqdec import finetune, load_dataset
from seqdec.data import subset
from seqdec.play import scripted_cartpole
from seqdec.storage import append_line, read_lines, write_text

RESULTS = Path(__file__).parent / "results"
INITS = ("pretrained", "random")
RATES = (1e-4, 3e-4, 1e-3)
SEEDS = (0, 1, 2)
TRAINING = {
    "context_length": 10, "batch_size": 32, "schedule": "cosine", "warmup_steps": 20, "clip_norm": 1.0,
    "precision": "bf16", "checkpoint_every": 0,
}  # fmt: skip
EPISODES = 20


@dataclass(frozen=True)
class World:
    """An environment's data, what is trained on them, and what is asked."""

    name: str
    layout: str
    steps: int
    asked: tuple[float, ...]
    fraction: float = 1.0


WORLDS = (
    World("cartpole", "fused", 400, (25, 200, 500)),
    *(World(f"hopper-{share:.0%}", "paired", 1000, (1800, 3600), share) for share in (1.0, 0.1, 0.01)),
)


@dataclass(frozen=True)
class Run:
    """One training; `identity` is what its line has."""

    world: World
    init: str
    rate: float
    seed: int

    @property
    def identity(self) -> dict[str, object]:
        world = {**asdict(self.world), "asked": list(self.world.asked)}
        return {"world": world, "init": self.init, "rate": self.rate, "seed": self.seed, "training": TRAINING}


def line_of(run: Run, lines: list[dict]) -> dict | None:
    """Return the stored line of a run."""
    return next((line for line in lines if run.identity.items() <= line.items()), None)


def tried(world: World, init: str) -> list[Run]:
    return [Run(world, init, rate, 0) for rate in RATES]


def chosen(world: World, init: str, lines: list[dict]) -> list[Run] | None:
    """Return the runs of the best rate, of each seed; None before all rates are tried."""
    known = {run: line["heldout"] for run in tried(world, init) if (line := line_of(run, lines))}
    if len(known) < len(RATES):
        return None
    best = min(known, key=lambda run: known[run])
    return [Run(world, init, best.rate, seed) for seed in SEEDS]


def missing(file: Path) -> Iterator[Run]:
    """Give what is to be run, one after the other: what comes later depends on what came out."""
    for world in WORLDS:
        for init in INITS:
            for run in tried(world, init):
                if line_of(run, read_lines(file)) is None:
                    yield run
            for run in chosen(world, init, read_lines(file)) or []:
                if line_of(run, read_lines(file)) is None:
                    yield run


def line_by_running(run: Run) -> dict[str, object]:
    """Train and ask."""
    world, began = run.world, time.process_time()
    data = scripted_cartpole() if world.name == "cartpole" else load_dataset("minari:mujoco/hopper/mixed-v0")
    data = subset(data, fraction=world.fraction, seed=run.seed)
    with tempfile.TemporaryDirectory(prefix="seqdec-twins-") as folder:
        policy = finetune(
            data, "smollm2", layout=world.layout, init=run.init, seed=run.seed, steps=world.steps,  # pyright: ignore
            backbone_learning_rate=run.rate, eval_every=world.steps, output=Path(folder) / "run", **TRAINING,
        )  # fmt: skip
        log = read_lines(Path(folder) / "run" / "metrics.jsonl")
    heldout = next(line["heldout/loss_action"] for line in reversed(log) if "heldout/loss_action" in line)
    trained = time.process_time()
    report = policy.evaluate(world.asked, num_episodes=EPISODES, num_envs=EPISODES)
    return {
        **run.identity, "commit": commit_of_code(), "heldout": heldout,
        "train_cpu": round(trained - began), "play_cpu": round(time.process_time() - trained),
        "achieved": [result.mean for result in report.targets],
    }  # fmt: skip


def table(lines: list[dict]) -> str:
    """Return the page."""
    text = [
        "# Numbers: pretrained weights and random ones", "",
        "`python benchmarks/number_twins.py`, then `--table`. The first 6 layers of SmolLM2, pretrained or random; "
        f"{EPISODES} episodes a target, sampled; mean (each seed). Rates are the backbone's: "
        f"{', '.join(f'{rate:g}' for rate in RATES)} are tried with seed 0, and the lowest held-out loss of actions "
        "(nats an entry) chooses, for each row by itself. "
        + ", ".join(f"{name} {value}" for name, value in TRAINING.items())
        + ". Commits " + ", ".join(dict.fromkeys(line["commit"] for line in lines)) + ".", "",
    ]  # fmt: skip
    for world in WORLDS:
        rows = []
        for init in INITS:
            runs = chosen(world, init, lines)
            known = [line for run in runs or [] if (line := line_of(run, lines))]
            if known:
                achieved = np.array([line["achieved"] for line in known]).T
                figures = [_figure(values, 0) for values in achieved]
                heldout = _figure(np.array([line["heldout"] for line in known]), 3)
                cpu = f"{np.mean([line['train_cpu'] for line in known]):.0f}"
                rows.append([init, f"{known[0]['rate']:g}", heldout, *figures, cpu])
        if rows:
            asked = [f"asked {target:g}" for target in world.asked]
            text += [f"## {world.name}: {world.layout}, {world.steps} steps", ""]
            text += rows_of(["weights", "rate", "held-out loss", *asked, "train CPU s"], rows)
    return "\n".join(text)


def _figure(values: np.ndarray, digits: int) -> str:
    return f"**{values.mean():.{digits}f}** ({' / '.join(f'{value:.{digits}f}' for value in values)})"


def main() -> None:
    """Run what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write the table, run nothing")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="of number_twins.jsonl and number_twins.md")
    given = parser.parse_args()
    file = given.folder / "number_twins.jsonl"
    if given.table:
        write_text(given.folder / "number_twins.md", table(read_lines(file)))
        return
    torch.set_num_threads(1)
    for run in missing(file):
        line = line_by_running(run)
        append_line(file, line)
        print(run.world.name, run.init, run.rate, run.seed, f"{line['heldout']:.3f}", line["achieved"], flush=True)


if __name__ == "__main__":
    main()
