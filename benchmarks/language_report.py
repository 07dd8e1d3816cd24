"""The lines of `language.py` as a table in Markdown and as a picture; nothing is computed anew.

Intervals are 95 % bootstrap intervals over the games, each game's result being its mean over the seeds: they say how
far other games might differ. How far other seeds might is seen in each seed's own number beside the mean.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqdec.inference.evaluation import bootstrap_interval

Line = Mapping[str, Any]
Measure = Callable[[np.ndarray], np.ndarray]
NOT_THERE = (
    "three things, cookingworld, ScienceWorld, and the table for numbers (CartPole, Hopper) are not among the cells"
)

PLACES = {"closed": "place alone", "open": "place alone, all open"}


def success(returns: np.ndarray) -> np.ndarray:
    """Return 1 where a game was won."""
    return (returns >= 100).astype(float)


def score(returns: np.ndarray) -> np.ndarray:
    """Return the part of a game's points that was won."""
    return returns / 100


def returns_of(
    line: Line, asked: float, *, fold: str = "test", temperature: float = 0.0, is_free: bool = False
) -> np.ndarray | None:
    """Return what the games returned where this was asked; what is never asked counts as asked for 100."""
    for part in line["played"]:
        how = part["fold"] == fold and part["temperature"] == temperature and part["is_free"] == is_free
        if how and (part["asked"] == asked or (part["asked"] is None and asked == 100)):
            return np.array(part["returns"])
    return None


def by_cell(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Return the lines of each cell, by seed."""
    cells: dict[str, list[Line]] = {}
    for line in lines:
        cells.setdefault(line["cell"], []).append(line)
    return cells


def figure_of(values: Sequence[np.ndarray | None], *, whole: bool = False) -> str:
    """Return the mean over seeds of values [games], and what each seed has; with `whole` also the interval."""
    known = [value for value in values if value is not None and len(value)]
    if not known:
        return ""
    seeds = " / ".join(f"{value.mean():.2f}" for value in known).replace("0.", ".")
    mean = f"{np.mean([value.mean() for value in known]):.2f}".replace("0.", ".")
    if not whole:
        return f"{mean} ({seeds})" if len(known) > 1 else mean
    low, high = interval(known)
    return f"**{mean}** [{low:.2f}, {high:.2f}]".replace("0.", ".") + (f" ({seeds})" if len(known) > 1 else "")


def interval(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the interval of the mean; of games that differ by seed, all are resampled alike."""
    same = len({len(value) for value in values}) == 1
    return bootstrap_interval((np.mean(values, 0) if same else np.concatenate(values)).tolist(), 0)


def in_short(line: Line) -> str:
    """Return a line in a few words, for the terminal."""
    parts = []
    for part in line["played"]:
        returns = np.array(part["returns"])
        how = "free" if part["is_free"] else f"temperature {part['temperature']:g}"
        asked = "" if part["asked"] is None else f" asked {part['asked']:g}"
        parts.append(f"{part['fold']}{asked} {how}: {success(returns).mean():.2f} / {score(returns).mean():.2f}")
    places = [f"place {name} {np.mean(asked['right']):.2f}" for name, asked in line.get("places", {}).items()]
    return f"{line['cell']} seed {line['seed']} ({line['seconds']['all']:.0f} s)  " + ", ".join([*parts, *places])


def rows_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def table(lines: Sequence[Line], left_out: Mapping[str, Sequence[int]], recipe: Mapping[str, object]) -> str:
    """Return the whole page."""
    cells = by_cell(lines)
    commits = ", ".join(dict.fromkeys(line["commit"] for line in lines))
    seconds = sum(line["seconds"]["all"] for line in lines)
    missing = [f"{name} (seed {', '.join(map(str, seeds))})" for name, seeds in left_out.items()]
    text = [
        "# Language: do the pretrained weights matter?", "",
        "`python benchmarks/language.py`, then `--table --picture`. TextWorld Common Sense, one thing in one room: dev "
        "and test objects were never met in training, each is played once. A cell is a method on so many train games "
        "of graded quality; a seed is that of the games, the weights and the order. Numbers are means over the seeds, "
        "then each seed's; in brackets the 95 % bootstrap interval over the games. Success: the score is 1. "
        "Programs put each thing where it scores best; `again`: and what was not paid in the next place. They and "
        "cloning are asked for nothing, and stand under 100. "
        f"One thread a cell, {seconds / 3600:.1f} hours of one core in all; commits {commits}.", "",
        "Recipe: " + ", ".join(f"{name} {value}" for name, value in recipe.items()) + ".", "",
        *_main(cells), *_splits(cells), *_askings(cells), *_curves(cells),
        "## What was left out", "",
        f"{NOT_THERE}. Not run: {', '.join(missing) or 'nothing'}.", "",
    ]  # fmt: skip
    return "\n".join(text)


def _seconds(lines: Sequence[Line]) -> tuple[str, str]:
    """Return the mean CPU seconds of training and of playing."""
    train, play = (np.mean([line["seconds"][name] for line in lines]) for name in ("train_cpu", "play_cpu"))
    return f"{train:.0f}", f"{play:.0f}"


def _steps(line: Line) -> str:
    return str(line["recipe"].get("steps", "")) if line["recipe"] else ""


def _main(cells: Mapping[str, Sequence[Line]]) -> list[str]:
    rows = []
    for name, lines in cells.items():
        test = [[returns_of(line, asked) for line in lines] for asked in (100.0, 50.0, 0.0)]
        if all(value is None for value in test[0]):
            continue
        known = [[None if value is None else score(value) for value in values] for values in test]
        won = [None if value is None else success(value) for value in test[0]]
        figures = [figure_of(won, whole=True), figure_of(known[0], whole=True), *map(figure_of, known[1:])]
        about = [name, str(lines[0]["games"]), str(len(lines)), _steps(lines[0])]
        rows.append([*about, *figures, *_seconds(lines)])
    header = [
        "cell", "train games", "seeds", "steps", "asked 100: success", "asked 100: score", "asked 50: score",
        "asked 0: score", "train CPU s", "play CPU s",
    ]  # fmt: skip
    return ["## Test objects", "", *rows_of(header, rows)]


def split(line: Line, key: str, value: int) -> np.ndarray | None:
    """Return the success, where 100 is asked, of the test games that have a property or have it not."""
    returns = returns_of(line, 100.0)
    return None if returns is None else success(returns)[np.array(line["folds"]["test"][key]) == value]


def _splits(cells: Mapping[str, Sequence[Line]]) -> list[str]:
    rows = []
    for name, lines in cells.items():
        if all(returns_of(line, 100.0) is None for line in lines):
            continue
        parts = [("is_met", 1), ("is_met", 0), ("has_hint", 1), ("has_hint", 0)]
        figures = [figure_of([split(line, *part) for line in lines], whole=part[1] == 0) for part in parts]
        asked = [line["places"] for line in lines if "places" in line]
        places = [figure_of([np.array(of[how]["right"], float) for of in asked], whole=True) for how in PLACES]
        chance = f"{asked[0]['closed']['chance']:.2f}" if asked else ""
        rows.append([name, *figures, *places, chance])
    header = ["cell", "noun met", "noun new", "dirty, wet or clean", "no such word", *PLACES.values(), "chance"]
    words = (
        "Success where 100 is asked. A noun is an object's last word; it is met if an object of the train games ends "
        "with it. The place alone: the object was just taken, and one action leads to each place of the room: which is "
        "likeliest? Either containers are closed, as games begin, and the action is to open them; or all were open "
        "from the start, which no train game has, and the action is to put the object there. Beside it the share of "
        "places that are right."
    )
    return ["## Nouns met and new, hints, the place alone", "", words, "", *rows_of(header, rows)]


def _askings(cells: Mapping[str, Sequence[Line]]) -> list[str]:
    """Return success and score of all askings, but for those of the first table."""
    rows = []
    for name, lines in cells.items():
        for number, part in enumerate(lines[0]["played"]):
            is_usual = part["fold"] == "test" and not part["temperature"] and not part["is_free"]
            if is_usual and part["asked"] in (None, 0.0, 50.0, 100.0):
                continue
            returns = [np.array(line["played"][number]["returns"]) for line in lines]
            how = "free text" if part["is_free"] else "candidates"
            asked = "" if part["asked"] is None else f"{part['asked']:g}"
            figures = [figure_of([measure(value) for value in returns], whole=True) for measure in (success, score)]
            rows.append([name, part["fold"], how, f"{part['temperature']:g}", asked, *figures])
    header = ["cell", "fold", "actions", "temperature", "asked", "success", "score"]
    return ["## Other returns, temperature 1, free text, dev objects", "", *rows_of(header, rows)]


def _curves(cells: Mapping[str, Sequence[Line]]) -> list[str]:
    rows = []
    for name, lines in cells.items():
        for line in lines:
            held = [point for point in line["curve"] if "heldout" in point]
            if not held:
                continue
            losses = {point["step"]: point["loss"] for point in line["curve"] if "loss" in point}
            points = [f"{point['step']}: {losses[point['step']]:.3f} / {point['heldout']:.3f}" for point in held]
            rows.append([name, str(line["seed"]), ", ".join(points)])
    header = ["cell", "seed", "step: loss on the train games / on the tenth held out, nats an action"]
    return ["## Loss curves of the long runs", "", *rows_of(header, rows)] if rows else []


def picture(lines: Sequence[Line], path: Path) -> None:
    """Draw asked against achieved of the pretrained model; beside it success by nouns met and new."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cells = by_cell(lines)
    games = max((line["games"] for line in lines if line["cell"] == f"pretrained-{line['games']}"), default=None)
    if games is None:
        raise SystemExit("no line of the pretrained model is there yet: nothing is drawn")
    figure = Figure(figsize=(10, 4.4), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    lasting = {"pretrained": f"pretrained-{games}", "twice the steps": f"pretrained-{games}-twice"}
    for (label, name), colour in zip(lasting.items(), ("#8fb3dc", "#1f4f8f"), strict=True):
        if name in cells:
            _curve(left, cells[name], label, colour)
    num_objects = len(cells[f"pretrained-{games}"][0]["folds"]["test"]["is_met"])
    left.plot([0, 100], [0, 100], ls=(0, (5, 4)), lw=1, color="#555555", label="asked = achieved")
    left.set(xlabel="score asked for", ylabel="score achieved", ylim=(-5, 105))
    left.set_title(f"{games} train games, {num_objects} objects never met", loc="left", fontsize=11)
    left.legend(frameon=False, fontsize=8.5)
    _bars(right, cells, games)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", lw=0.6, axis="y")
        axes.set_axisbelow(True)
    figure.savefig(path, format="png")


def _curve(axes: Any, lines: Sequence[Line], label: str, colour: str) -> None:
    """Draw what is achieved for each return that is asked for: a thin line a seed, and the mean with its interval."""
    asked = sorted({part["asked"] for part in lines[0]["played"] if part["fold"] == "test"})
    for line in lines:
        points = [(target, value.mean()) for target in asked if (value := returns_of(line, target)) is not None]
        axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=0.8, alpha=0.6, color=colour)
    values = {target: [value for line in lines if (value := returns_of(line, target)) is not None] for target in asked}
    values = {target: of_seeds for target, of_seeds in values.items() if of_seeds}
    means = [np.mean([value.mean() for value in of_seeds]) for of_seeds in values.values()]
    ends = np.array([interval(of_seeds) for of_seeds in values.values()])
    seeds = ", ".join(str(line["seed"]) for line in lines)
    axes.errorbar(
        list(values), means, yerr=[means - ends[:, 0], ends[:, 1] - means], marker="o", lw=1.8, capsize=4,
        color=colour, label=f"{label}, mean of seeds {seeds}, 95 % interval",
    )  # fmt: skip


def _bars(axes: Any, cells: Mapping[str, Sequence[Line]], games: int) -> None:
    """Draw the success of methods by nouns, each with its interval and a point a seed."""
    names = {
        f"pretrained-{games}": "pretrained", f"pretrained-{games}-twice": "twice\nthe steps",
        f"random-30-{games}": "random,\n30 layers",
        f"random-10-{games}": "random,\n10 layers", f"random-4-{games}": "random,\n4 layers",
        f"random-4-{games}-twice": "random, 4,\n2 x steps",
        f"random-4-{games}-long": "random, 4,\n10 x tokens", f"neighbour-{games}": "nearest\nneighbour",
        f"neighbour-again-{games}": "neighbour,\n2nd try", f"majority-{games}": "majority\nplace",
    }  # fmt: skip
    known = [name for name in names if name in cells]
    for side, (value, label, colour) in enumerate([(1, "noun met", "#8fb3dc"), (0, "noun new", "#c8591b")]):
        for place, name in enumerate(known):
            parts = [part for line in cells[name] if (part := split(line, "is_met", value)) is not None and len(part)]
            if not parts:
                continue
            mean, (low, high) = np.mean([part.mean() for part in parts]), interval(parts)
            x = place + 0.36 * (side - 0.5)
            axes.bar(x, mean, 0.34, color=colour, label=label if place == 0 else None)
            axes.errorbar(x, mean, yerr=[[mean - low], [high - mean]], color="#333333", lw=1, capsize=2)
            axes.plot([x] * len(parts), [part.mean() for part in parts], ls="", marker="o", ms=2.5, color="#333333")
    axes.set_xticks(range(len(known)), [names[name] for name in known], fontsize=8)
    axes.set(ylim=(0, 1.05), ylabel="success")
    axes.set_title("asked 100: things put where they belong", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8.5)
