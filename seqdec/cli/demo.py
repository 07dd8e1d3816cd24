"""`seqdec demo`: the commands that the README shows, one after the other; in numbers, or with `demo twc` in words."""

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

# What `seqdec demo` and the README run, beside --data and --output.
DEMO_TRAIN = "--backbone smollm2 --layout fused --steps 400 --batch-size 32 --context-length 10"
DEMO_EVAL = "--target-return 25 100 200 350 500 --episodes 32 --num-envs 32"
DEMO_NEXT = "--target-return 60 300 --episodes 16"
# And `seqdec demo twc`: games whose objects no game of the data has, once each.
TWC = "TextWorldExpress/twc-v0"
TWC_DEV, TWC_TEST = (f"{TWC},fold={fold},distinct=true" for fold in ("dev", "test"))
TWC_RECORD = "--policy expert --episodes 800 --num-envs 16"
TWC_TRAIN = (
    "--backbone smollm2 --steps 200 --batch-size 8 --backbone-learning-rate 5e-4 --schedule cosine --clip-norm 1 "
    f"--weight-decay 0.01 --precision bf16 --eval-every 0 --heldout-fraction 0 --env {TWC_DEV} --episodes 2"
)
TWC_EVAL = f"--env {TWC_TEST} --target-return 0 50 100 --episodes 104 --num-envs 16 --temperature 0"
SHOWN_GAMES = 3  # of those whose two transcripts differ


@dataclass(frozen=True)
class Demo:
    """Make the sample data, finetune a pretrained transformer on it, evaluate and plot: minutes on a laptop."""

    data: str = option("data/cartpole", "Where the sample data is, or goes.")
    output: str = option("runs/demo", "Where the run goes.")
    debug: bool = debug()


@dataclass(frozen=True)
class DemoTwc:
    """Record games in words, finetune a pretrained transformer on them, and ask for 0, 50 and 100 with new objects."""

    data: str = option("data/twc", "Where the recorded games are, or go.")
    output: str = option("runs/twc", "Where the run goes.")
    debug: bool = debug()


def demo(given: Demo) -> int:
    """Make the data, finetune, evaluate and plot, by the commands that the README shows; what is there is kept."""
    data = shlex.quote(given.data)
    make = (DataCartpole, "data cartpole", f"--output {data}", data_cartpole)
    return _demo(given.data, given.output, make, DEMO_TRAIN, DEMO_EVAL, DEMO_NEXT)


def demo_twc(given: DemoTwc) -> int:
    """Record games, finetune, evaluate and plot, and show what the same policy says when it is asked for 0 and 100."""
    import seqdec.play  # noqa: F401 - registers the worlds
    from seqdec.play.java import new_interface

    try:
        new_interface("textworld_express")
    except UsageError as error:
        raise UsageError(f"{error}; without Java, see `seqdec demo`, which plays CartPole") from error
    record = (DataRecord, "data record", f"{TWC} {TWC_RECORD} --output {shlex.quote(given.data)}", data_record)
    code = _demo(given.data, given.output, record, TWC_TRAIN, TWC_EVAL, TWC_EVAL)
    print(f"\n{transcripts(Path(given.output))}")
    return code


def _demo(
    data: str, output: str, make: tuple[type[Flags], str, str, Callable[[Any], int]], train: str, test: str, after: str
) -> int:
    started, folder = time.perf_counter(), shlex.quote(output)
    kind, verb, words, run = make
    if (Path(data) / "manifest.json").exists():
        print(f"{data} is there already", flush=True)
    else:
        run(_said(kind, verb, words))
    print()
    if (Path(output) / "policy" / "manifest.json").exists():
        print(f"{output} is trained already; delete it to train again", flush=True)
    else:
        again = " --resume" * (Path(output) / "config.json").exists()
        if code := train_run(_said(Train, "train", f"--data {shlex.quote(data)} --output {folder} {train}{again}")):
            return code
    print()
    code = evaluate_run(_said(Eval, "eval", f"{folder} {test}"))
    print(f"\ndone in {time.perf_counter() - started:.0f} s. Try next: seqdec eval {folder} {after}")
    return code


def _said(kind: type[Flags], verb: str, words: str) -> Flags:
    """Print a command and return the record of its words."""
    print(f"$ seqdec {verb} {words}", flush=True)
    return options.parse(kind, shlex.split(words))


def transcripts(run: Path) -> str:
    """Return a game of the test fold in which the policy of a run was asked for 0 and for 100, one beside the other."""
    from seqdec.inference.policy import Policy
    from seqdec.play import make_envs, rollout

    played = {}
    for target in (0.0, 100.0):
        envs = make_envs(TWC_TEST, SHOWN_GAMES)
        policy = Policy.from_pretrained(run, target_return=target, temperature=0.0)
        played[target] = rollout(policy, envs, num_episodes=SHOWN_GAMES, seed=0)
        envs.close()
    pairs = list(zip(played[0.0], played[100.0], strict=True))
    low, high = max(pairs, key=lambda pair: pair[1].total_return - pair[0].total_return)
    lines = [str(low.steps["observation"][0])]
    for target, episode in ((0, low), (100, high)):
        lines.append(f"\nasked for {target}:")
        after = [*episode.steps["observation"][1:], episode.final["observation"]]
        lines += [f"  > {said}\n    {seen}" for said, seen in zip(episode.steps["action"], after, strict=True)]
        lines.append(f"  return {float(episode.total_return):g}")
    return "\n".join(lines)
