"""`seqdec demo`: the commands that the README shows, one after the other, in words; `demo cartpole`: in numbers."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqdec.cli import options
from seqdec.cli.data import DataCartpole, data_cartpole
from seqdec.cli.evaluate import Eval, evaluate_run
from seqdec.cli.options import Flags, debug, option
from seqdec.cli.record import DataRecord, data_record
from seqdec.cli.train import Train, train_run
from seqdec.errors import UsageError

# What `seqdec demo` and the README run, beside --data and --output: games whose objects no game of the data has, once
# each by the most likely actions, and some with actions as they come. The twin has random weights, 4 layers, and about
# as much time (benchmarks/language_cells.py).
TWC = "TextWorldExpress/twc-v0"
TWC_DEV, TWC_TEST = (f"{TWC},fold={fold},distinct=true" for fold in ("dev", "test"))
TWC_RECORD = "--policy expert --episodes 800 --num-envs 16"
_EVERY = (
    "--backbone smollm2 --batch-size 8 --schedule cosine --clip-norm 1 --weight-decay 0.01 --precision bf16 "
    f"--eval-every 0 --heldout-fraction 0 --env {TWC_DEV} --episodes 2"
)
TWC_TRAIN = f"--finetune lora --steps 300 --backbone-learning-rate 2e-3 {_EVERY}"
TWC_TWIN = f"--init random --num-layers 4 --steps 480 --backbone-learning-rate 1e-3 {_EVERY}"
_ASK = f"--env {TWC_TEST} --target-return 0 50 100 --num-envs 16 --precision bf16"
TWC_EVAL, TWC_SAMPLED = f"{_ASK} --episodes 104 --temperature 0", f"{_ASK} --episodes 32 --temperature 1"
STORED = (
    "stored (python benchmarks/language.py, benchmarks/results/language.md): 400 steps earn 22, 51 and 74 in\n"
    "three seeds, 800 steps 9, 47 and 82; random weights, trained as long as 400, 13, 25 and 34; a program that\n"
    "matches words 75, the most frequent place 33, any action 17. To train the random weights as well:\n"
    "seqdec demo --with-twin\n"
)
SHOWN_GAMES = 3  # of those whose two transcripts differ
# And what `seqdec demo cartpole` runs.
CARTPOLE_TRAIN = "--backbone smollm2 --layout fused --steps 400 --batch-size 32 --context-length 10"
CARTPOLE_EVAL = "--target-return 25 100 200 350 500 --episodes 32 --num-envs 32"
CARTPOLE_NEXT = "--target-return 60 300 --episodes 16"


@dataclass(frozen=True)
class Demo:
    """Record games in words, finetune a pretrained transformer on them, and ask for 0, 50 and 100 with new objects."""

    data: str = option("data/twc", "Where the recorded games are, or go.")
    output: str = option("runs/twc", "Where the run goes.")
    with_twin: bool = option(False, "Train its twin of random weights, too, for about as long.")
    debug: bool = debug()


@dataclass(frozen=True)
class DemoCartpole:
    """Make the sample data, finetune a pretrained transformer on it, evaluate and plot: minutes on a laptop."""

    data: str = option("data/cartpole", "Where the sample data is, or goes.")
    output: str = option("runs/demo", "Where the run goes.")
    debug: bool = debug()


def demo(given: Demo) -> int:
    """Record games, finetune, evaluate and plot, and show what the same policy says when it is asked for 0 and 100."""
    started = time.perf_counter()
    import seqdec.play  # noqa: F401 - registers the worlds
    from seqdec.play.java import new_interface

    try:
        new_interface("textworld_express")
    except UsageError as error:
        raise UsageError(f"{error}; without it, see `seqdec demo cartpole`") from error
    data = shlex.quote(given.data)
    _make(given.data, DataRecord, f"data record {TWC} {TWC_RECORD} --output {data}", data_record)
    code = _train_and_ask(given.data, given.output, TWC_TRAIN)
    twin = f"{given.output}-twin"
    if given.with_twin and not code:
        print("\nthe same with random weights")
        code = _train_and_ask(given.data, twin, TWC_TWIN)
    if not code:
        print(f"\n{transcripts(Path(given.output))}\n")
        if not given.with_twin:
            print(STORED)
        _say_done(started, given.output, TWC_EVAL)
    return code


def demo_cartpole(given: DemoCartpole) -> int:
    """Make the data, finetune, evaluate and plot; what is there is kept."""
    started = time.perf_counter()
    _make(given.data, DataCartpole, f"data cartpole --output {shlex.quote(given.data)}", data_cartpole)
    code = _train(given.data, given.output, CARTPOLE_TRAIN) or _ask(given.output, CARTPOLE_EVAL)
    if not code:
        _say_done(started, given.output, CARTPOLE_NEXT)
    return code


def _train_and_ask(data: str, output: str, flags: str) -> int:
    """Train on the games, and ask for returns: by the most likely actions, and with actions as they come."""
    sampled = shlex.quote(str(Path(output) / "sampled"))
    return _train(data, output, flags) or _ask(output, TWC_EVAL) or _ask(output, f"{TWC_SAMPLED} --output {sampled}")


def _make(data: str, kind: type[Flags], words: str, run: Callable[[Any], int]) -> None:
    if (Path(data) / "manifest.json").exists():
        print(f"{data} is there already", flush=True)
    else:
        run(_said(kind, words))


def _train(data: str, output: str, flags: str) -> int:
    print()
    if (Path(output) / "policy" / "manifest.json").exists():
        print(f"{output} is trained already; delete it to train again", flush=True)
        return 0
    again = " --resume" * (Path(output) / "config.json").exists()
    places = f"--data {shlex.quote(data)} --output {shlex.quote(output)}"
    return train_run(_said(Train, f"train {places} {flags}{again}"))


def _ask(output: str, flags: str) -> int:
    print()
    return evaluate_run(_said(Eval, f"eval {shlex.quote(output)} {flags}"))


def _say_done(started: float, output: str, flags: str) -> None:
    print(f"done in {time.perf_counter() - started:.0f} s. Try next: seqdec eval {shlex.quote(output)} {flags}")


def _said(kind: type[Flags], words: str) -> Flags:
    """Print a command and return the record of the words after its verb."""
    print(f"$ seqdec {words}", flush=True)
    num_verbs = 2 if words.startswith("data ") else 1
    return options.parse(kind, shlex.split(words)[num_verbs:])


def transcripts(run: Path) -> str:
    """Return a game of the test fold in which the policy of a run was asked for 0 and for 100, one beside the other."""
    from seqdec.inference.policy import Policy
    from seqdec.play import make_envs, rollout
    from seqdec.play.closing import closing_envs

    played = {}
    for target in (0.0, 100.0):
        policy = Policy.from_pretrained(run, target_return=target, temperature=0.0)
        with closing_envs(make_envs(TWC_TEST, SHOWN_GAMES)) as envs:
            played[target] = rollout(policy, envs, num_episodes=SHOWN_GAMES, seed=0)
    pairs = list(zip(played[0.0], played[100.0], strict=True))
    low, high = max(pairs, key=lambda pair: pair[1].total_return - pair[0].total_return)
    lines = [str(low.steps["observation"][0])]
    for target, episode in ((0, low), (100, high)):
        lines.append(f"\nasked for {target}:")
        after = [*episode.steps["observation"][1:], episode.final["observation"]]
        lines += [f"  > {said}\n    {seen}" for said, seen in zip(episode.steps["action"], after, strict=True)]
        lines.append(f"  return {float(episode.total_return):g}")
    return "\n".join(lines)
