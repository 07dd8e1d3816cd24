"""`seqdec demo`: the commands that the README shows, one after the other."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from seqdec.cli import options
from seqdec.cli.data import DataCartpole, data_cartpole
from seqdec.cli.evaluate import Eval, evaluate_run
from seqdec.cli.options import debug, option
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
    started = time.perf_counter()
    data, output = shlex.quote(given.data), shlex.quote(given.output)
    if (Path(given.data) / "manifest.json").exists():
        print(f"{given.data} is there already", flush=True)
    else:
        words = f"--output {data}"
        print(f"$ seqdec data cartpole {words}", flush=True)
        data_cartpole(options.parse(DataCartpole, shlex.split(words)))
    if (Path(given.output) / "policy" / "manifest.json").exists():
        print(f"\n{given.output} is trained already; delete it to train again", flush=True)
    else:
        unfinished = (Path(given.output) / "config.json").exists()
        words = f"--data {data} --output {output} {DEMO_TRAIN}" + " --resume" * unfinished
        print(f"\n$ seqdec train {words}", flush=True)
        code = train_run(options.parse(Train, shlex.split(words)))
        if code:
            return code
    words = f"{output} {DEMO_EVAL}"
    print(f"\n$ seqdec eval {words}", flush=True)
    code = evaluate_run(options.parse(Eval, shlex.split(words)))
    print(f"\ndone in {time.perf_counter() - started:.0f} s. Try next: seqdec eval {output} {DEMO_NEXT}")
    return code
