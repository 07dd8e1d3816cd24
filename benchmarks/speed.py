"""Speed, memory and start, in one run: python benchmarks/speed.py [--full] [--peers FILE --peers-python PYTHON]

Everything is CPU time of one thread, contenders in turns, the median of all rounds; the network is the original
Decision Transformer's (GPT-2, 3 layers x 128, 1 head, dropout 0.1) on Hopper, 64 windows x 20 timesteps, unless a row
says otherwise. Prints tables in Markdown; --figure draws how cost grows. Needs `pip install "seqdec[mujoco]"` and
mujoco/hopper/mixed-v0 and classic/cartpole/mixed-v0 below MINARI_DATASETS_PATH. FILE measures other libraries by the
same rules; it is asked for `--peer NAME --what train` or `rollout`, and prints JSON lines.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
import torch
from transformers import GPT2Config, GPT2Model

import seqdec
from seqdec.model.sequence_model import SequenceModel
from seqdec.training.step import parts_of

HOPPER, CARTPOLE = "minari:mujoco/hopper/mixed-v0", "minari:classic/cartpole/mixed-v0"
BATCH, CONTEXT = 64, 20
CYCLE = CONTEXT // 2  # steps from one refill of the context to the next
PEERS = ("d3rlpy", "transformers", "torchrl")
LAYOUTS = ("decision_transformer", "paired", "fused")


def in_turns(contenders: Mapping[str, Callable[[], object]], *, rounds: int, repeat: int) -> dict[str, float]:
    """Return the median CPU milliseconds of a call of each contender, called in turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            for _ in range(repeat):
                began = time.process_time()
                call()
                if turn > 0:  # the first round is to warm up
                    times[name].append(1e3 * (time.process_time() - began))
    return {name: float(np.median(found)) for name, found in times.items()}


def windows_of(data: str, layout: str, context_length: int = CONTEXT) -> seqdec.Windows:
    """Return the windows of a data set; actions are predicted as the peers do, by their mean."""
    dataset = seqdec.load_dataset(data)
    spec = seqdec.data.environment_of(dataset)
    made = seqdec.layout_from_spaces(
        layout, spec.observation_space, spec.action_space, context_length=context_length, head="mse"
    )
    return seqdec.Windows(dataset, made)


def model_of(windows: seqdec.Windows, backbone: str = "small", **options: object) -> SequenceModel:
    """Return an untrained model for windows."""
    loaded = seqdec.load_backbone(backbone, num_tokens=windows.layout.num_tokens, **options)  # pyright: ignore
    return seqdec.build_model(windows, loaded)


def trainer(model: SequenceModel, windows: seqdec.Windows, batch_size: int = BATCH) -> Callable[[], object]:
    """Return a function that does one training step, data included."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)
    steps = iter(range(10**9))
    model.train()

    def step() -> None:
        drawn = windows.draw(next(steps), 0, batch_size)
        losses = model(drawn.gather())
        (losses["action"] / drawn.num_valid).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        optimizer.zero_grad()

    return step


def bare() -> Callable[[], object]:
    """Return a training step of the network alone: constant tensors, no embedding, no data, no clipping."""
    model = GPT2Model(
        GPT2Config(
            vocab_size=1,
            n_embd=128,
            n_layer=3,
            n_head=1,
            activation_function="relu",
            bos_token_id=None,
            eos_token_id=None,
        )  # fmt: skip
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randn(BATCH, 3 * CONTEXT, 128)

    def step() -> None:
        model(inputs_embeds=tokens, use_cache=False).last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def acting(model: SequenceModel, num_envs: int, num_steps: int) -> float:
    """Return CPU milliseconds of a step of all environments, refills included, in episodes that nothing ends early."""
    envs = gymnasium.make_vec("Hopper-v5", num_envs=num_envs, vectorization_mode="sync", terminate_when_unhealthy=False)
    policy = seqdec.Policy(model, 3600.0, temperature=0)
    observations, _ = envs.reset(seed=0)
    policy.reset(num_envs)
    actions, began = policy.act(observations, None), time.process_time()
    for _ in range(num_steps):
        observations, rewards, *_ = envs.step(actions)
        actions = policy.act(observations, rewards)
    return 1e3 * (time.process_time() - began) / num_steps


def rolling_out(model: SequenceModel, num_envs: int, num_steps: int) -> float:
    """Return the same for `rollout`, which checks, keeps and returns every episode."""
    spec = replace(model.data.spec, kwargs={"terminate_when_unhealthy": False})
    envs = seqdec.play.make_envs(spec, num_envs, max_steps=num_steps)
    began = time.process_time()
    seqdec.rollout(seqdec.Policy(model, 3600.0, temperature=0), envs, num_episodes=num_envs, seed=0)
    return 1e3 * (time.process_time() - began) / num_steps


def reading(model: SequenceModel, num_envs: int) -> dict[str, Callable[[], object]]:
    """Return steps without environments: CYCLE cached ones, a refill among them, and one that reads a whole window."""
    layout = model.eval().layout
    names = [name for name in layout.step_names if name != "action"]
    values = {name: np.zeros((num_envs, *layout.variable(name).shape), np.float32) for name in names}
    context = seqdec.Context(model, num_envs)

    def cached() -> None:
        for _ in range(CYCLE):
            context.write(**values)
            context.sample("action", temperature=0)

    tokens = torch.randn(num_envs, layout.num_tokens - 1, model.start.shape[0]) * 0.1

    @torch.inference_mode()
    def recomputed() -> None:
        model.codec("action").predict(model.backbone_source.read(tokens)[:, -1]).mode()

    cached()
    return {"cached": cached, "recomputed": recomputed}


def peers(given: argparse.Namespace, what: str, rounds: int) -> Iterator[dict[str, object]]:
    """Ask the other libraries, one after the other, as often as there are rounds."""
    for _ in range(rounds if given.peers else 0):
        for peer in PEERS:
            words = ["--peer", peer, "--what", what, "--warmup", "5", "--block", "10", "--blocks", "2"]
            words += ["--rollout-steps", "600"]
            done = subprocess.run([given.peers_python, given.peers, *words], capture_output=True, text=True)
            for line in done.stdout.splitlines():
                yield {**json.loads(line), "peer": peer}


def training_table(given: argparse.Namespace) -> None:
    """Print what a training step costs."""
    contenders = {"GPT2Model alone, constant tensors": bare()}
    for layout in LAYOUTS:
        windows = windows_of(HOPPER, layout)
        contenders[f"seqdec {layout}"] = trainer(model_of(windows), windows)
    found: dict[str, list[float]] = {}
    for _ in range(7 if given.full else 3):  # a shared machine's speed drifts: everybody is asked in every round
        for name, ms in in_turns(contenders, rounds=2, repeat=3).items():
            found.setdefault(name, []).append(ms)
        for row in peers(given, "train", 1):
            found.setdefault(str(row["peer"]), []).append(1e3 / float(row["steps_per_cpu_s"]))  # pyright: ignore
    reference = np.array(found["seqdec decision_transformer"])
    rows = []
    for name, times in sorted(found.items(), key=lambda pair: -float(np.median(pair[1]))):
        ratios = np.array(times) / reference
        spread = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        rows.append([name, f"{np.median(times):.0f}", spread])
    table("Training", ["", "CPU ms a step", "against seqdec decision_transformer, by round"], rows)


def acting_table(given: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Print environment steps per second; return milliseconds of a step by number of environments and by context."""
    num_steps = 1000 if given.full else 250
    rates: dict[tuple[str, int], list[float]] = {}
    curves: dict[str, dict[int, float]] = {"environments": {}, "context": {}}
    models = {layout: model_of(windows_of(HOPPER, layout)) for layout in LAYOUTS}
    for turn in range(3):
        for num_envs in (1, 16, 64, 256):
            if num_envs > 16 and turn > 0:
                continue
            for layout, model in models.items():
                ms = acting(model, num_envs, num_steps if num_envs < 64 else 60)
                rates.setdefault((f"seqdec {layout}", num_envs), []).append(1e3 * num_envs / ms)
                if layout == "decision_transformer":
                    curves["environments"][num_envs] = ms
                    ms = rolling_out(model, num_envs, num_steps if num_envs < 64 else 60)
                    rates.setdefault((f"seqdec {layout}, by rollout", num_envs), []).append(1e3 * num_envs / ms)
        for row in peers(given, "rollout", 1):
            rate = float(row["env_steps_per_s"])  # pyright: ignore[reportArgumentType]
            rates.setdefault((str(row["peer"]), int(row["envs"])), []).append(rate)  # pyright: ignore
    names = list(dict.fromkeys(name for name, _ in rates))
    counts = (1, 16, 64, 256)
    table(
        "Acting: environment steps per second (CPU time; the environments' own work included)",
        ["", *(f"{count} at once" for count in counts)],
        [[name, *(middle(rates.get((name, count))) for count in counts)] for name in names],
    )
    rows = []
    for layout in ("decision_transformer", "fused"):
        costs = {}
        for context_length in (20, 100, 500):
            model = model_of(windows_of(HOPPER, layout, context_length))
            costs[context_length] = acting(model, 16, max(num_steps, 2 * context_length))
        rows.append([layout, *(f"{cost:.2f}" for cost in costs.values()), f"{costs[500] / costs[20]:.2f}"])
        if layout == "decision_transformer":
            curves["context"] = costs
    table("Acting: ms a step of 16 environments, by context", ["", "20", "100", "500", "500 against 20"], rows)
    large = model_of(windows_of(HOPPER, "decision_transformer"), "smollm2", num_layers=6)
    rows = []
    for num_envs in (1, 16):
        found = in_turns(reading(large, num_envs), rounds=3, repeat=1 if num_envs > 1 else 3)
        cached, recomputed = found["cached"] / CYCLE, found["recomputed"]
        rows.append([str(num_envs), f"{cached:.1f}", f"{recomputed:.1f}", f"{recomputed / cached:.1f}"])
    table("Acting: SmolLM2's first 6 layers, ms a step", ["environments", "cached", "recomputed", "ratio"], rows)
    return curves


def middle(values: Sequence[float] | None) -> str:
    """Return a median as a table shows it."""
    return "" if not values else f"{np.median(values):,.0f}"


def growth(given: argparse.Namespace, curves: dict[str, dict[int, float]]) -> None:
    """Measure how a training step grows, and draw it beside what acting showed."""
    contexts, layers = (10, 20, 40, 80), (1, 2, 3, 6)
    steps = {}
    for length in contexts:
        windows = windows_of(HOPPER, "decision_transformer", length)
        steps[f"context {length}"] = trainer(model_of(windows), windows)
    windows = windows_of(HOPPER, "decision_transformer")
    with tempfile.TemporaryDirectory() as folder:
        for count in layers:
            steps[f"layers {count}"] = trainer(deeper(windows, count, Path(folder)), windows)
    sizes = (10**5, 10**6, 10**7)
    for size in sizes:
        many = windows_of_size(size)
        steps[f"timesteps {size}"] = trainer(model_of(many), many)
    found = in_turns(steps, rounds=4 if given.full else 2, repeat=2)
    panels = {
        "a training step\nby timesteps of context": {n: found[f"context {n}"] for n in contexts},
        "a training step\nby layers": {n: found[f"layers {n}"] for n in layers},
        "a training step\nby timesteps of data": {n: found[f"timesteps {n}"] for n in sizes},
        "a step of acting\nby environments": curves["environments"],
        "a step of 16 environments\nby timesteps of context": curves["context"],
    }
    table(
        "How cost grows (CPU ms)",
        ["", *[""] * 4],
        [[name.replace("\n", " "), *(f"{n:,}: {ms:.1f}" for n, ms in panel.items())] for name, panel in panels.items()],
    )
    if given.figure:
        draw(panels, Path(given.figure))


def deeper(windows: seqdec.Windows, num_layers: int, folder: Path) -> SequenceModel:
    """Return a model on the original network with another number of layers."""
    config = GPT2Config(
        vocab_size=8,
        n_embd=128,
        n_layer=num_layers,
        n_head=1,
        activation_function="relu",
        bos_token_id=0,
        eos_token_id=0,
    )
    config.save_pretrained(folder / str(num_layers))
    return model_of(windows, str(folder / str(num_layers)), init="random")


def windows_of_size(num_timesteps: int) -> seqdec.Windows:
    """Return the windows of random episodes of 1000 timesteps, as large as Hopper's."""
    random, episodes = np.random.default_rng(0), []
    for _ in range(num_timesteps // 1000):
        steps = {
            "observation": random.standard_normal((1000, 11), np.float32),
            "action": random.uniform(-1, 1, (1000, 3)).astype(np.float32),
            "reward": random.random(1000, np.float32),
        }
        episodes.append(seqdec.Episode(steps, final=steps["observation"][-1], terminated=False, truncated=True))
    spec = seqdec.data.environment_of(seqdec.load_dataset(HOPPER))
    layout = seqdec.layout_from_spaces(
        "decision_transformer", spec.observation_space, spec.action_space, context_length=CONTEXT, head="mse"
    )
    return seqdec.Windows(seqdec.data.from_episodes(episodes, spec), layout)


def draw(panels: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Draw one panel a curve."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.1), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, curve) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.plot(list(curve), list(curve.values()), marker="o", color="#1f5fa8", lw=1.6)
        if "data" in name:
            axes.set_xscale("log")
        labels = [f"{n:.0e}".replace("e+0", "e") if n > 9999 else str(n) for n in curve]
        gaps = np.diff(list(curve), append=np.inf) / max(curve)
        axes.set_xticks(
            list(curve), [label if gap > 0.1 or "data" in name else "" for label, gap in zip(labels, gaps, strict=True)]
        )
        axes.minorticks_off()
        axes.set_ylim(0, 1.15 * max(curve.values()))
        axes.set_title(name, fontsize=9.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", lw=0.6)
    figure.axes[0].set_ylabel("CPU ms, one thread")
    figure.savefig(path)


def start_table() -> None:
    """Print seconds from the start of the process to the first gradient step, and peak memory, by the command line."""
    with tempfile.TemporaryDirectory() as name:
        folder, script = Path(name), [sys.executable, "-m", "seqdec"]
        subprocess.run(
            [*script, "data", "minari", HOPPER, "--output", str(folder / "data")], check=True, capture_output=True
        )
        firsts, peaks = [], []
        for _ in range(3):
            shutil.rmtree(folder / "run", ignore_errors=True)
            words = ["train", "--data", str(folder / "data"), "--output", str(folder / "run"), "--backbone", "small"]
            words += ["--layout", "decision_transformer", "--context-length", "20", "--batch-size", "64"]
            words += ["--steps", "20", "--log-every", "1", "--eval-every", "0", "--episodes", "1", "--num-envs", "1"]
            first, peak = timed([*script, *words], folder / "run" / "metrics.jsonl")
            firsts.append(first)
            peaks.append(peak)
        words = ["eval", str(folder / "run"), "--target-return", "3600", "--episodes", "16", "--num-envs", "16"]
        _, acting_peak = timed([*script, *words], folder / "run" / "report.json")
        table(
            "Start and memory, by the command line",
            ["", ""],
            [
                [
                    "from the start of the process to the first gradient step",
                    f"{min(firsts):.1f} to {max(firsts):.1f} s",
                ],
                ["peak resident memory of that training", f"{max(peaks)} MB"],
                ["peak resident memory of acting with 16 environments", f"{acting_peak} MB"],
            ],
        )


def timed(words: Sequence[str], path: Path) -> tuple[float, int]:
    """Run a command; return the seconds until a file has content, and the peak resident memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    first, peak = 0.0, 0
    while process.poll() is None:
        if first == 0.0 and path.exists() and path.stat().st_size:
            first = time.perf_counter() - began
        # of the program itself: what the system says at its end counts the process that it was forked from
        status = Path(f"/proc/{process.pid}/status")
        found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        peak = max([peak, *(int(line.split()[1]) // 1024 for line in found)])
        time.sleep(0.01)
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(process.stderr.read().decode()[-2000:])
    return first, peak


def padding_table() -> None:
    """Print how much of what training computes is padding, where half of the episodes are shorter than the window."""
    rows = []
    for context_length in (20, 43, 100, 200):
        windows = windows_of(CARTPOLE, "decision_transformer", context_length)
        whole, computed, valid, passes = 0, 0, 0, 0
        for step in range(100):
            sizes = windows.draw(step, 0, BATCH).sizes
            parts = parts_of(sizes, 1)
            whole, valid, passes = whole + BATCH * context_length, valid + int(sizes.sum()), passes + len(parts)
            computed += sum(len(part) * int(sizes[part].max()) for part in parts)
        short = float((windows.lengths < context_length).mean())
        rows.append(
            [
                str(context_length),
                f"{short:.0%}",
                f"{1 - valid / whole:.1%}",
                f"{1 - valid / computed:.1%}",
                f"{passes / 100:.1f}",
            ]
        )
    table(
        "Padding among the tokens computed, CartPole mixed",
        ["context", "episodes shorter", "padded to the context", "as it is computed", "passes a step"],
        rows,
    )


def processor() -> str:
    """Return the processor's name, as Linux tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="episodes of 1000 steps and more rounds")
    parser.add_argument("--peers", default="", help="script that measures other libraries")
    parser.add_argument("--peers-python", default=sys.executable, help="the Python that has them")
    parser.add_argument("--figure", default="", help="PNG to draw how cost grows")
    parser.add_argument("--only", nargs="+", default=["training", "acting", "growth", "start", "padding"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, one thread; torch {torch.__version__}, Python {platform.python_version()}")
    curves: dict[str, dict[int, float]] = {}
    if "training" in given.only:
        training_table(given)
    if "acting" in given.only:
        curves = acting_table(given)
    if "growth" in given.only and curves:
        growth(given, curves)
    if "start" in given.only:
        start_table()
    if "padding" in given.only:
        padding_table()


if __name__ == "__main__":
    main()
