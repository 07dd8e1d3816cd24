"""The demo's budget with pretrained and with random weights, over three seeds each.

    python benchmarks/cartpole_twins.py runs/twins > benchmarks/results/cartpole_twins.md

Trains and evaluates what is not in the folder yet, by the demo's own commands, and prints a table of all of it. Each
twin has a backbone rate of its own, 1e-4 pretrained and 3e-4 random, taken from runs on other data and another loop;
neither was tuned here. So weights and rate change together, and a difference cannot be put down to the weights alone.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from seqdec.cli import demo

RATES = {"pretrained": "1e-4", "random": "3e-4"}
SEEDS = (0, 1, 2)


def seqdec(words: str) -> None:
    subprocess.run([sys.executable, "-m", "seqdec", *shlex.split(words)], check=True, stdout=sys.stderr)


def report_of(folder: Path, data: Path, init: str, seed: int) -> dict:
    """Return the report of one run, which is made if it is not there."""
    if not (folder / "report.json").exists():
        seqdec(
            f"train --data {data} --output {folder} {demo.CARTPOLE_TRAIN} --init {init} --seed {seed} "
            f"--backbone-learning-rate {RATES[init]}"
        )
        seqdec(f"eval {folder} {demo.CARTPOLE_EVAL}")
    return json.loads((folder / "report.json").read_text())


def main(folder: Path) -> None:
    data = folder / "data"
    if not data.exists():
        seqdec(f"data cartpole --output {data}")
    print("# CartPole: the same budget, pretrained and random\n")
    print(f"`seqdec train {demo.CARTPOLE_TRAIN} --init INIT --seed SEED --backbone-learning-rate RATE`, then")
    print(f"`seqdec eval {demo.CARTPOLE_EVAL}`: mean achieved return of each target;")
    print(
        "± is the standard deviation over seeds. Weights and backbone rate change together, and neither rate was tuned"
    )
    print("on this data: the table does not tell what the weights alone are worth.\n")
    rows, report = [], {}
    for init, rate in RATES.items():
        achieved = []
        for seed in SEEDS:
            report = report_of(folder / f"{init}-{seed}", data, init, seed)
            means = [target["mean"] for target in report["targets"]]
            achieved.append(means)
            rank = f"{report['rank_correlation']:.2f}"
            rows.append([init, rate, str(seed), *(f"{mean:.0f}" for mean in means), rank])
        center, deviation = np.mean(achieved, 0), np.std(achieved, 0)
        spread = [f"{mean:.0f} ± {std:.0f}" for mean, std in zip(center, deviation, strict=True)]
        rows.append([f"**{init}**", rate, "mean ± std", *spread, ""])
    targets = [f"asked {target['target_return']:.0f}" for target in report["targets"]]
    header = ["weights", "rate", "seed", *targets, "rank correlation"]
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
