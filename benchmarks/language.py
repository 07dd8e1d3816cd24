"""When do the pretrained weights matter? Text worlds, many methods, few and many games, three seeds each.

    python benchmarks/language.py --list                 what is missing, with estimated seconds
    python benchmarks/language.py --worker 0/2           run the missing cells, beside --worker 1/2
    python benchmarks/language.py --table --picture      write results/language.md and the picture

A cell is a method on a number of games; with a seed (of the data, the weights and the order) it is a line of
results/language.jsonl. A line whose settings are the cell's is not run again; others are kept and not shown.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import language_games as games
import language_report as report
import numpy as np
import torch
from datasets import Dataset
from language_cells import ACTION_TOKENS, CELLS, METHODS, RECIPE, SEEDS, SMOKE, Asking, Cell, number

from seqdec import Policy, finetune, layout_from_spaces
from seqdec.data import environment_of, subset
from seqdec.play import TextWorldExpert
from seqdec.storage import append_line, read_lines, write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PICTURE = HERE.parent / "docs" / "images" / "language.png"


def train(cell: Cell, data: Dataset, seed: int) -> tuple[Policy, list[dict[str, float]]]:
    """Return the policy of a cell, and its loss on the way: step, loss, and loss of the games that are held out."""
    keywords = cell.recipe
    spec = environment_of(data)
    layout = layout_from_spaces(
        str(keywords.pop("layout")), spec.observation_space, spec.action_space, numbers="words",
        context_length=round(number(keywords.pop("context_length"))), text_tokens=512, max_tokens=4096,
    )  # fmt: skip
    shorter = (replace(part, size=ACTION_TOKENS) if part.name == "action" else part for part in layout.variables)
    layout = replace(layout, variables=tuple(shorter))
    steps = round(number(keywords["steps"]))
    every = max(1, steps // 20)
    with tempfile.TemporaryDirectory(prefix="seqdec-language-") as folder:
        policy = finetune(
            data, layout=layout, seed=seed, output=Path(folder) / "run", checkpoint_every=0, log_every=every,
            eval_every=2 * every if keywords["heldout_fraction"] else 0, **keywords,  # pyright: ignore
        )  # fmt: skip
        log = read_lines(Path(folder) / "run" / "metrics.jsonl")
    names = {"train/loss_action": "loss", "heldout/loss_action": "heldout"}
    points = [{"step": line["step"], **{name: line[key] for key, name in names.items() if key in line}} for line in log]
    return policy, [point for point in points if len(point) > 1]


class Freely:
    """A policy that is not shown the candidates, and so writes its actions word by word."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def reset(self, num_envs: int) -> None:
        self.policy.reset(num_envs)

    def act(self, observations: Any, rewards: np.ndarray | None, info: object = None, /) -> Any:
        return self.policy.act(observations, rewards)

    def keep(self, rows: np.ndarray) -> None:
        self.policy.keep(rows)


def actor_of(cell: Cell, asking: Asking, target: float | None, seed: int, learned: "Policy | games.Score | None"):
    """Return what plays a cell's games of a fold."""
    if isinstance(learned, Policy):
        policy = Policy(learned.model, target, temperature=asking.temperature, seed=seed)
        return Freely(policy) if asking.is_free else policy
    if learned is not None:
        return games.Program(learned, again=cell.method == "neighbour-again")
    if cell.method == "any":
        return games.any_action(seed)
    return TextWorldExpert(games.env_id(cell.items, asking.fold, distinct=True), seed=0, noise=[0.0])


def run(cell: Cell, seed: int, command: str) -> dict[str, object]:
    """Train and play a cell; return its line."""
    commit = commit_of_code()
    began, before = time.perf_counter(), time.process_time()
    data = games.training_data(cell.games, cell.items, seed)
    data = data if cell.best is None else subset(data, best=cell.best)
    curve: list[dict[str, float]] = []
    learned: Policy | games.Score | None = None
    if cell.method in METHODS:
        learned, curve = train(cell, data, seed)
    elif cell.method in games.SCORES:
        learned = games.SCORES[cell.method](data)
    trained = time.process_time()
    line = {
        "cell": cell.name, "seed": seed, "command": command, "commit": commit, **cell.identity, "curve": curve,
        "folds": {asking.fold: _facts(cell, asking.fold, seed) for asking in cell.askings},
    }  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):  # as it was trained: a third less time
        line["played"] = [
            _played(cell, asking, target, seed, learned)
            for asking in cell.askings for target in cell.asked(asking)
        ]  # fmt: skip
        if cell.asks_places and learned is not None:
            line["places"] = _places(cell, learned)
    seconds = {
        "all": time.perf_counter() - began,
        "train_cpu": trained - before,
        "play_cpu": time.process_time() - trained,
    }
    line["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    return line


def _played(
    cell: Cell, asking: Asking, target: float | None, seed: int, learned: "Policy | games.Score | None"
) -> dict[str, object]:
    """Play a fold's games, each once; return how they were asked for, and what each returned."""
    actor = actor_of(cell, asking, target, seed, learned)
    totals = games.play(actor, cell.items, asking.fold, cell.num_games(asking.fold))
    return {**asdict(asking), "asked": target, "returns": totals}


def _places(cell: Cell, learned: "Policy | games.Score") -> dict[str, dict[str, object]]:
    """Return which places of test objects are right at once, asked in both ways."""
    places: dict[str, dict[str, object]] = {}
    for name, is_open in (("closed", False), ("open", True)):
        riddles = games.riddles(cell.items, "test", cell.num_games("test"), is_open=is_open)
        is_model = isinstance(learned, Policy)
        right = games.places_of(learned, riddles) if is_model else games.places_by(learned, riddles)
        places[name] = {"right": right, "chance": games.chance(riddles)}
    return places


def commit_of_code() -> str:
    """Return the commit that is checked out, with a + where files of Python differ from it."""
    short = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    is_changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ":/*.py"], cwd=HERE).returncode != 0
    return short.stdout.strip() + "+" * is_changed


def _facts(cell: Cell, fold: str, seed: int) -> dict[str, list[int]]:
    """Return of each game of a fold whether its nouns were met in the train games, and whether its words are a hint."""
    num_games = cell.num_games(fold)
    met = games.is_met(cell.items, fold, num_games, cell.games, seed)
    return {"is_met": [*map(int, met)], "has_hint": [*map(int, games.has_hint(cell.items, fold, num_games))]}


def is_of(line: dict, cell: Cell, seed: int) -> bool:
    """Say whether a line is a cell's, by the settings that the cell has now."""
    return line["cell"] == cell.name and line["seed"] == seed and cell.identity.items() <= line.items()


def shares(pairs: Sequence[tuple[Cell, int]], num_workers: int) -> list[list[tuple[Cell, int]]]:
    """Deal cells in their order to workers, each to the one that has the least to do."""
    dealt: list[list[tuple[Cell, int]]] = [[] for _ in range(num_workers)]
    for pair in pairs:
        min(dealt, key=lambda share: sum(cell.estimate for cell, _ in share)).append(pair)
    return dealt


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", help="names; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--worker", default="0/1", help="which of how many processes this is")
    parser.add_argument("--list", action="store_true", help="print what is missing, run nothing")
    parser.add_argument("--table", action="store_true", help="write the table, run nothing")
    parser.add_argument("--picture", action="store_true", help="draw the picture, run nothing")
    parser.add_argument("--smoke", action="store_true", help="a trial: a tiny backbone, 12 games")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="of language.jsonl and language.md")
    given = parser.parse_args()
    names = {cell.name for cell in (SMOKE if given.smoke else CELLS)}
    for name in given.cells or []:
        if name not in names:
            parser.error(f"no cell {name!r}: there are {', '.join(sorted(names))}")
    if given.smoke and given.folder == RESULTS:
        parser.error("a trial needs a --folder of its own")
    return given


def main() -> None:
    """Run what is missing, or show what is there."""
    given = arguments()
    torch.set_num_threads(1)
    file, every = given.folder / "language.jsonl", SMOKE if given.smoke else CELLS
    cells = [cell for cell in every if given.cells is None or cell.name in given.cells]
    pairs = [(cell, seed) for cell in cells for seed in cell.seeds if seed in given.seeds]

    def is_missing(pair: tuple[Cell, int]) -> bool:
        return not any(is_of(line, *pair) for line in read_lines(file))

    if given.list:
        print("seconds of one core, and of all so far")
        total = 0.0
        for cell, seed in filter(is_missing, pairs):
            total += cell.estimate
            print(f"{cell.estimate:7.0f} {total:8.0f}  --cells {cell.name} --seeds {seed}")
    if given.table or given.picture:
        whole = [(cell, seed) for cell in every for seed in cell.seeds]
        lines = [next((line for line in read_lines(file) if is_of(line, *pair)), None) for pair in whole]
        stored = [line for line in lines if line is not None]
        left_out: dict[str, list[int]] = {}
        for (cell, seed), line in zip(whole, lines, strict=True):
            if line is None:
                left_out.setdefault(cell.name, []).append(seed)
        if given.table:
            write_text(given.folder / "language.md", report.table(stored, left_out, RECIPE))
        if given.picture:
            report.picture(stored, PICTURE if given.folder == RESULTS else given.folder / "language.png")
    if given.list or given.table or given.picture:
        return
    worker, num_workers = map(int, given.worker.split("/"))
    for cell, seed in shares(pairs, num_workers)[worker]:
        if is_missing((cell, seed)):
            words = f"--smoke --folder {given.folder} " if given.smoke else ""
            line = run(cell, seed, f"python benchmarks/language.py {words}--cells {cell.name} --seeds {seed}")
            append_line(file, line)
            print(report.in_short(line), flush=True)


if __name__ == "__main__":
    main()
