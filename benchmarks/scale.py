"""How conversion, start and memory grow from 200 thousand timesteps to 20 million: python benchmarks/scale.py FOLDER

Makes two flat HDF5 files as D4RL has them (17 + 6 floats a timestep, episodes of 1000), converts them by the command
line and starts training on each. Every figure is of a process of its own: seconds, and memory as Linux counts it,
private (anonymous pages) apart from the pages of mapped files, which the system may drop at any time.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np

SIZES = {"200k": 200_000, "20M": 20_000_000}
EPISODE = 1000
BLOCK = 500_000
TRAIN = "--backbone small --layout decision_transformer --context-length 20 --batch-size 64 --eval-every 0"


def make(path: Path, num_timesteps: int) -> None:
    """Write a file of smooth random motion, block by block."""
    with h5py.File(path, "w") as file:
        shapes = {"observations": (17,), "actions": (6,), "rewards": (), "terminals": (), "timeouts": ()}
        kinds = {"terminals": bool, "timeouts": bool}
        arrays = {
            name: file.create_dataset(name, (num_timesteps, *shape), kinds.get(name, np.float32), chunks=(4096, *shape))
            for name, shape in shapes.items()
        }
        for first in range(0, num_timesteps, BLOCK):
            rows = slice(first, min(first + BLOCK, num_timesteps))
            random, count = np.random.default_rng(first), rows.stop - first
            arrays["observations"][rows] = random.standard_normal((count, 17), np.float32)
            arrays["actions"][rows] = random.uniform(-1, 1, (count, 6)).astype(np.float32)
            arrays["rewards"][rows] = random.random(count, np.float32)
            arrays["terminals"][rows] = np.zeros(count, bool)
            arrays["timeouts"][rows] = (np.arange(first, rows.stop) + 1) % EPISODE == 0


class Memory(threading.Thread):
    """Watches this process's memory, a hundred times a second: private, and pages of mapped files, in MB at most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = {"RssAnon": 0, "RssFile": 0}
        self.start()

    def look(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        now = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.startswith("Rss")}
        self.most = {name: max(most, now[name]) for name, most in self.most.items()}

    def run(self) -> None:
        while True:
            self.look()
            time.sleep(0.01)

    def result(self) -> dict[str, int]:
        self.look()
        return {"private_MB": self.most["RssAnon"], "mapped_MB": self.most["RssFile"]}


def converting(source: str, output: str) -> dict[str, object]:
    """Convert a file, in this process."""
    from seqdec.data.source import convert
    from seqdec.formats import hdf5

    memory = Memory()
    began = time.perf_counter()
    convert(hdf5.source(source), Path(output))
    return {"seconds": round(time.perf_counter() - began, 2), **memory.result()}


def training(data: str) -> dict[str, object]:
    """Open, build, and time the first steps, in this process; what is private is read while it trains."""
    began, memory = time.perf_counter(), Memory()
    import torch

    from seqdec import Windows, build_model, layout_from_spaces, load_backbone, load_dataset
    from seqdec.data import environment_of
    from seqdec.sequence import split_episodes

    torch.set_num_threads(1)
    dataset = load_dataset(data)
    spec = environment_of(dataset)
    layout = layout_from_spaces("decision_transformer", spec.observation_space, spec.action_space, context_length=20)
    kept, _ = split_episodes(len(dataset), 0.1, 0)
    windows = Windows(dataset, layout, episodes=kept)
    model = build_model(windows, load_backbone("small"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    gathering, steps, first = [], [], 0.0
    for step in range(40):
        start = time.perf_counter()
        batch = windows.draw(step, 0, 64).gather()
        gathering.append(time.perf_counter() - start)
        (model(batch)["action"] / 1280).backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(time.perf_counter() - start)
        first = first or time.perf_counter() - began
    for step in range(40, 240):  # pages that are touched for the first time come from the disk
        start = time.perf_counter()
        windows.draw(step, 0, 64).gather()
        gathering.append(time.perf_counter() - start)
    warm = [windows.draw(40 + index, 0, 64) for index in range(200)]
    start = time.perf_counter()
    for drawn in warm:
        drawn.gather()
    return {
        "first_step_seconds": round(first, 2),
        "gather_ms": round(1e3 * (time.perf_counter() - start) / len(warm), 3),
        "step_ms": round(1e3 * float(np.median(steps[5:])), 1),
        **memory.result(),
    }


def alone(*words: str, limit: int = 0) -> dict[str, object]:
    """Run a part of this file in a process of its own, under a limit of memory in MB if there is one."""
    command = [sys.executable, __file__, *words]
    group = Path("/sys/fs/cgroup/memory/seqdec-scale")
    if limit:
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(limit * 2**20))
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")  # pages that are there already would not count
        command = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(group / "cgroup.procs"), *command]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def command_line(folder: Path, name: str) -> dict[str, object]:
    """Time `seqdec train` to its end after one step, the held-out loss and the saving included."""
    shutil.rmtree(folder / f"run-{name}", ignore_errors=True)
    words = ["train", "--data", str(folder / name), "--output", str(folder / f"run-{name}"), *TRAIN.split()]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "seqdec", *words, "--steps", "1"], check=True, capture_output=True)
    return {"seconds": round(time.perf_counter() - began, 2)}


def main() -> None:
    """Make what is missing, measure, print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--part", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=0, help="also train under this limit of memory, in MB (cgroup v1)")
    given = parser.parse_args()
    if given.part:
        result = {"converting": converting, "training": training}[given.part[0]](*given.part[1:])
        print(json.dumps(result))
        return
    folder = Path(given.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, num_timesteps in SIZES.items():
        file = folder / f"{name}.hdf5"
        if not file.exists():
            make(file, num_timesteps)
        if not (folder / name).exists():
            print(json.dumps({"convert": name, **alone(".", "--part", "converting", str(file), str(folder / name))}))
        print(json.dumps({"train": name, **alone(".", "--part", "training", str(folder / name))}), flush=True)
        print(json.dumps({"seqdec train --steps 1": name, **command_line(folder, name)}), flush=True)
    if given.limit:
        result = alone(".", "--part", "training", str(folder / "20M"), limit=given.limit)
        print(json.dumps({"train": "20M", "limit_MB": given.limit, **result}))


if __name__ == "__main__":
    main()
