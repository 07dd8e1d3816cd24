"""`seqdec demo`: the commands that the README shows, one after the other."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from seqdec.cli import options
from seqdec.cli.data import DataCartpole, data_cartpole
from seqdec.cli.evaluate import Eval, evaluate_run
from seqdec.cli.options import Flags, debug, option
from seqdec.cli.train import Train, train_run

# What `seqdec demo` and the README run, beside --data and --output.
DEMO_TRAIN = "--backbone smollm2 --layout fused --steps 400 --batch-size 32 --context-length 10"
DEMO_EVAL = "--target-return 25 100 200 350 500 --episodes 32 --num-envs 32"
DEMO_NEXT = "--target-return 60 300 --episodes 16"


@dataclass(frozen=True)
class Demo:
    """Make the sample data, finetune a pretrained transformer on it, evaluate and plot: minutes on a laptop."""

    data: str = option("data/cartpole", "Where the sample data is, or goes.")
    output: str = option("runs/demo", "Where the run goes.")
    debug: bool = debug()


def demo(given: Demo) -> int:
    """Make the data, finetune, evaluate and plot, by the commands that the README shows; what is there is kept."""
    started, (data, output) = time.perf_counter(), map(shlex.quote, (given.data, given.output))
    if (Path(given.data) / "manifest.json").exists():
        print(f"{given.data} is there already", flush=True)
    else:
        data_cartpole(_said(DataCartpole, "data cartpole", f"--output {data}"))
    print()
    if (Path(given.output) / "policy" / "manifest.json").exists():
        print(f"{given.output} is trained already; delete it to train again", flush=True)
    else:
        again = " --resume" * (Path(given.output) / "config.json").exists()
        if code := train_run(_said(Train, "train", f"--data {data} --output {output} {DEMO_TRAIN}{again}")):
            return code
    print()
    code = evaluate_run(_said(Eval, "eval", f"{output} {DEMO_EVAL}"))
    print(f"\ndone in {time.perf_counter() - started:.0f} s. Try next: seqdec eval {output} {DEMO_NEXT}")
    return code


def _said(kind: type[Flags], verb: str, words: str) -> Flags:
    """Print a command and return the record of its words."""
    print(f"$ seqdec {verb} {words}", flush=True)
    return options.parse(kind, shlex.split(words))
