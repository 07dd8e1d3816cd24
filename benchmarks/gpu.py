"""What only a CUDA GPU can show: python benchmarks/gpu.py [--steps N] [--only SECTION ...]

Training steps, attention kernels, precisions, acting, exact resuming and NCCL, in one run; nothing is downloaded. The
networks are the original Decision Transformer's (`small`) and random twins of SmolLM2, whose weights do not matter for
speed; the data is made here, CartPole by a script and vectors of Hopper's sizes. Times are wall time of `seqdec.train`
and `seqdec.rollout` after as many steps to warm up. The GPU's busy time is that of its kernels, by torch's profiler, in
the steps that follow the timed ones. Prints tables in Markdown.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import accelerate
import gymnasium
import numpy as np
import torch
import transformers
from datasets import Dataset
from gymnasium.envs.classic_control import CartPoleEnv
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import seqdec
from seqdec.model.sequence_model import SequenceModel
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of
from seqdec.training.loop import Precision

PRECISIONS: tuple[Precision, ...] = ("no", "bf16", "fp16")
LAYERS = {"small": None, "SmolLM2, 6 layers": 6, "SmolLM2, 30 layers": 30}
MARKS = {"flash": "flash_fwd", "cudnn": "cudnn", "memory-efficient": "fmha_cutlass"}  # in names of attention kernels
DEVICE = torch.device("cuda")

Rows = Iterator[Sequence[str]]


@dataclass(frozen=True)
class Cost:
    """What a training step costs: milliseconds of wall time and of the GPU's kernels, peak bytes; and the loss."""

    ms: float
    timesteps_per_second: float
    busy_ms: float
    peak_bytes: int
    kernels: tuple[str, ...]
    loss: float


class Measured(BaseException):
    """Ends a training that has been measured; no `Exception`, which training would survive."""


class Endless(CartPoleEnv):
    """A pole that never falls."""

    def step(self, action):
        """Step, and go on."""
        observation, _, _, _, info = super().step(action)
        self.steps_beyond_terminated = None
        return np.clip(observation, -3, 3), 1.0, False, False, info


def hopper_like(num_episodes: int = 40, length: int = 500) -> Dataset:
    """Make episodes of 11 numbers observed and 3 acted, whose actions depend on what is observed."""
    random = np.random.default_rng(0)
    react, push = random.normal(0, 0.3, (11, 3)), random.normal(0, 0.3, (3, 11))
    observations, actions = np.zeros((num_episodes, length + 1, 11)), np.zeros((num_episodes, length, 3))
    for t in range(length):
        actions[:, t] = np.tanh(observations[:, t] @ react + random.normal(0, 0.3, (num_episodes, 3)))
        noise = random.normal(0, 0.3, (num_episodes, 11))
        observations[:, t + 1] = 0.9 * observations[:, t] - actions[:, t] @ push + noise
    rewards = 1 - np.square(actions).mean(-1)
    return seqdec.data.from_episodes(
        [
            {"observation": seen, "action": acted, "reward": paid}
            for seen, acted, paid in zip(observations, actions, rewards, strict=True)
        ],
        seqdec.EnvironmentSpec(gymnasium.spaces.Box(-np.inf, np.inf, (11,)), gymnasium.spaces.Box(-1, 1, (3,))),
    )


def windows_of(dataset: Dataset, layout: str, context_length: int = 20) -> seqdec.Windows:
    """Return the windows of a data set in a preset layout."""
    spec = seqdec.data.environment_of(dataset)
    spaces = spec.observation_space, spec.action_space
    return seqdec.Windows(dataset, seqdec.layout_from_spaces(layout, *spaces, context_length=context_length))


def model_of(windows: seqdec.Windows, network: str, folder: Path, dropout: float | None = None) -> SequenceModel:
    """Return an untrained model on the CPU, the same each time."""
    name = network
    if network != "small":
        name = str(folder / "smollm2")
        transformers.LlamaConfig(
            vocab_size=256, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        ).save_pretrained(name)  # fmt: skip
    num_tokens = windows.layout.num_tokens
    backbone = seqdec.load_backbone(
        name, init="random", num_layers=LAYERS[network], num_tokens=num_tokens, dropout=dropout
    )
    torch.manual_seed(0)
    return seqdec.build_model(windows, backbone)


def losses_in(run: Path) -> list[float]:
    """Return the losses that a run has logged."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["train/loss"] for row in rows if "train/loss" in row]


def cost_of(
    model: SequenceModel,
    windows: seqdec.Windows,
    steps: int,
    batch_size: int,
    precision: Precision,
) -> Cost:
    """Train so many steps to warm up, so many by the clock, and a quarter of that under the profiler."""
    gc.collect()
    torch.cuda.empty_cache()
    profiler, quarters, peak, lines = profile(activities=[ProfilerActivity.CUDA]), 0, 0, []

    def turn() -> dict[str, float]:
        nonlocal quarters, peak
        quarters += 1
        torch.cuda.synchronize()
        if quarters == 4:
            torch.cuda.reset_peak_memory_stats()
        elif quarters == 8:
            peak = torch.cuda.max_memory_allocated()
            profiler.start()
        elif quarters == 9:
            profiler.stop()
            raise Measured
        return {}

    with tempfile.TemporaryDirectory() as name:
        try:
            seqdec.train(
                model,
                windows,
                out=name,
                steps=3 * steps,
                batch_size=batch_size,
                precision=precision,
                log_every=steps,
                eval_every=steps // 4,
                evaluate=turn,
            )
        except Measured:
            lines = (Path(name) / "metrics.jsonl").read_text().splitlines()
    timed = json.loads(lines[1])
    events = [e for e in profiler.events() or [] if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    busy = sum(event.time_range.elapsed_us() for event in events) / 1e3 / (steps // 4)
    names = {label for label, mark in MARKS.items() if any(mark in event.name for event in events)}
    ms, rate = 1e3 / timed["speed/steps_per_second"], timed["speed/timesteps_per_second"]
    return Cost(ms, rate, busy, peak, tuple(sorted(names)), timed["train/loss"])


def data_ms(windows: seqdec.Windows, batch_size: int) -> float:
    """Return milliseconds in which the CPU draws and gathers a batch."""
    began = time.perf_counter()
    for step in range(10):
        windows.draw(step, 0, batch_size).gather()
    return 1e2 * (time.perf_counter() - began)


def training_rows(given: argparse.Namespace, folder: Path) -> Rows:
    """Yield what a training step costs."""
    dataset = hopper_like()
    for network, layout, batch_size in itertools.product(LAYERS, ("fused", "decision_transformer"), (64, 512)):
        windows, plain = windows_of(dataset, layout), 0.0
        for precision in PRECISIONS[:2]:
            cost = cost_of(model_of(windows, network, folder), windows, given.steps, batch_size, precision)
            plain = plain or cost.ms
            row = [network, layout, str(batch_size), precision, f"{cost.ms:.1f}", f"{plain / cost.ms:.2f}"]
            row += [f"{cost.timesteps_per_second:,.0f}", f"{cost.busy_ms:.1f}", f"{cost.busy_ms / cost.ms:.0%}"]
            yield [*row, f"{data_ms(windows, batch_size):.1f}", f"{cost.peak_bytes / 2**20:,.0f}"]


def kernels_rows(given: argparse.Namespace, folder: Path) -> Rows:
    """Yield what attention kernels and compilation bring."""
    dataset = hopper_like()
    cases: tuple[tuple[int, str, Precision], ...] = (
        (200, "decision_transformer", "no"),
        (200, "decision_transformer", "bf16"),
        (20, "fused", "bf16"),
    )
    for (context_length, layout, precision), network in itertools.product(cases, list(LAYERS)[:2]):
        windows, plain = windows_of(dataset, layout, context_length), 0.0
        for variant in ("sdpa", "eager", *(["sdpa, compiled"] if context_length == 20 else [])):
            model = model_of(windows, network, folder)
            model.backbone.set_attn_implementation(variant.split(",")[0])
            if "compiled" in variant:
                torch.compiler.reset()
                model.backbone.compile()
            cost = cost_of(model, windows, given.steps, 64, precision)
            plain = plain or cost.ms
            row = [network, layout, str(context_length), precision, variant, ", ".join(cost.kernels) or "-"]
            row += [f"{cost.ms:.1f}", f"{plain / cost.ms:.2f}", f"{cost.busy_ms:.1f}"]
            yield [*row, f"{cost.peak_bytes / 2**20:,.0f}", f"{cost.loss:.3f}"]


def precision_rows(given: argparse.Namespace, folder: Path) -> Rows:
    """Yield the losses that precisions come to in 200 steps, the mean of the last 50."""
    windows = windows_of(hopper_like(), "decision_transformer")
    for network in list(LAYERS)[:2]:
        found = []
        for precision in PRECISIONS:
            out = folder / f"{network}-{precision}"
            model = model_of(windows, network, folder)
            seqdec.train(model, windows, out=out, precision=precision, steps=200, log_every=50)
            found.append(losses_in(out)[-1])
        yield [network, *(f"{value:.4f}" for value in found), *(f"{value / found[0] - 1:+.2%}" for value in found[1:])]


def played(model: SequenceModel, use_cache: bool) -> torch.Tensor:
    """Return the actions sampled in 50 steps of given observations, [50, B, 3]."""
    random, sampled = np.random.default_rng(0), []
    context = seqdec.Context(model.eval(), 4, use_cache=use_cache)
    for _ in range(50):
        context.write(observation=random.normal(0, 1, (4, 11)), return_to_go=np.full(4, 300.0))
        sampled.append(context.sample("action").cpu())
    return torch.stack(sampled)


def agreement_rows(given: argparse.Namespace, folder: Path) -> Rows:
    """Yield how far the GPU is from the CPU, and a cache from none, in float32."""
    dataset = hopper_like()
    for network, layout in itertools.product(list(LAYERS)[:2], ("fused", "decision_transformer")):
        windows = windows_of(dataset, layout)
        model = model_of(windows, network, folder, dropout=0.0)
        drawn, found = windows.draw(0, 0, 64), []
        batch = drawn.gather()
        for device in (torch.device("cpu"), DEVICE):
            model.train().to(device).zero_grad()
            losses = model({name: value.to(device) for name, value in batch.items()})
            loss = losses["action"] / drawn.num_valid
            loss.backward()
            gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
            found.append((loss.item(), gradient, played(model, use_cache=True)))
        (cpu_loss, cpu_gradient, cpu_actions), (loss, gradient, actions) = found
        of_gradient = float((gradient - cpu_gradient).norm() / cpu_gradient.norm())
        of_cache = float((played(model, use_cache=False) - actions).abs().max())
        of_device = float((actions - cpu_actions).abs().max())
        numbers = [abs(loss - cpu_loss), of_gradient, of_device, of_cache]
        yield [network, layout, *(f"{number:.1e}" for number in numbers)]


def resuming_rows(given: argparse.Namespace, folder: Path) -> Rows:
    """Yield whether runs repeat, and go on after a stop as if there had been none."""
    windows, half = windows_of(hopper_like(), "decision_transformer"), given.steps
    for network, precision in itertools.product(list(LAYERS)[:2], PRECISIONS):
        states, found = [], []
        for name, parts in (("one", [2 * half]), ("other", [2 * half]), ("resumed", [half, 2 * half])):
            out = folder / f"{network}-{precision}-{name}"
            for index, steps in enumerate(parts):
                model = model_of(windows, network, folder)
                often = {"steps": steps, "log_every": 1, "resume": index > 0}
                seqdec.train(model, windows, out=out, precision=precision, **often)
            found.append(losses_in(out))
            saved = seqdec.load_policy(out / "policy").state_dict()
            states.append(torch.cat([value.flatten() for value in saved.values()]))
        row = [network, precision]
        for losses, state in zip(found[1:], states[1:], strict=True):
            largest = max(abs(one - other) for one, other in zip(found[0], losses, strict=True))
            same = sum(one == other for one, other in zip(found[0], losses, strict=True))
            row += [f"{same} of {2 * half}", f"{largest:.1e}", "yes" if torch.equal(states[0], state) else "no"]
        yield row


def rate_of(model: SequenceModel, num_envs: int, num_steps: int) -> float:
    """Return environment steps per second of `rollout`."""

    def make() -> Guarded:
        return Guarded(Endless(), max_steps=num_steps)

    envs = batch_of([make] * num_envs)
    began = time.perf_counter()
    seqdec.rollout(seqdec.Policy(model, 100.0), envs, num_episodes=num_envs, seed=0)
    return num_envs * num_steps / (time.perf_counter() - began)


def acting_rows(given: argparse.Namespace, folder: Path) -> Rows:
    """Yield how fast policies act, here and on the CPU."""
    windows = windows_of(seqdec.play.scripted_cartpole(num_episodes=4), "fused")
    num_threads = torch.get_num_threads()
    for network in list(LAYERS)[:2]:
        for device, threads in ((DEVICE, num_threads), (torch.device("cpu"), num_threads), (torch.device("cpu"), 1)):
            torch.set_num_threads(threads)
            model, rates = model_of(windows, network, folder).to(device), []
            for num_envs in (1, 16, 256):
                rate_of(model, num_envs, 1 + given.steps)  # a context of 20, and it is refilled
                rates.append(f"{rate_of(model, num_envs, 2 * given.steps):,.0f}")
            yield [network, "GPU" if device == DEVICE else f"CPU, threads: {threads}", *rates]
        torch.set_num_threads(num_threads)


def processes_rows(given: argparse.Namespace, folder: Path) -> Rows:
    """Yield whether a process of torchrun, which talks by NCCL, trains as a plain one does, by the command line."""
    data, found = folder / "cartpole", {}
    words = [sys.executable, "-m", "seqdec", "data", "cartpole", "--output", str(data)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    words = ["-m", "seqdec", "train", "--data", str(data), "--backbone", "small", "--batch-size", "64"]
    words += ["--steps", str(given.steps), "--log-every", "1", "--eval-every", "0", "--episodes", "2"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    for name, start in (("plain", []), ("plain, again", []), ("torchrun", launch)):
        out, began = folder / name.replace(", ", "-"), time.perf_counter()
        environment = {**os.environ, "NCCL_DEBUG": "INFO"}
        command = [sys.executable, *start, *words, "--output", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        seconds, found[name] = time.perf_counter() - began, losses_in(out)
        largest = max(abs(one - other) for one, other in zip(found["plain"], found[name], strict=True))
        talks = "yes" if "NCCL INFO" in done.stdout + done.stderr else "no"
        yield [name, f"{seconds:.0f} s", talks, str(len(found[name])), f"{found[name][-1]:.6f}", f"{largest:.1e}"]


def table(title: str, heads: Sequence[str], rows: Rows) -> None:
    """Print a Markdown table, rows as they come."""
    print(f"\n### {title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


COSTS = ("ms a step", "times as fast")
REPEATED = ("same losses", "largest difference", "same weights")
SECTIONS: dict[str, tuple[str, Sequence[str], Callable[[argparse.Namespace, Path], Rows]]] = {
    "training": (
        "A training step",
        ("network", "layout", "batch", "precision", *COSTS, "timesteps a second", "GPU busy, ms", "GPU busy",
         "data, ms", "peak MiB"),
        training_rows,
    ),
    "kernels": (
        "Attention and compilation, 64 windows",
        ("network", "layout", "context", "precision", "attention", "kernels", *COSTS, "GPU busy, ms", "peak MiB",
         "loss"),
        kernels_rows,
    ),
    "precision": (
        "Training loss after 200 steps",
        ("network", *PRECISIONS, "bf16 against no", "fp16 against no"),
        precision_rows,
    ),
    "agreement": (
        "Largest differences, float32",
        ("network", "layout", "loss, GPU - CPU", "gradient, relative", "actions, GPU - CPU",
         "actions, cached - not cached"),
        agreement_rows,
    ),
    "resuming": (
        "An unbroken run, and another",
        ("network", "precision", *(f"{word}: {name}" for word in ("run again", "resumed") for name in REPEATED)),
        resuming_rows,
    ),
    "acting": (
        "Environment steps per second, CartPole, fused",
        ("network", "on", "1 at once", "16", "256"),
        acting_rows,
    ),
    "processes": (
        "One process",
        ("started", "took", "NCCL", "losses", "the last", "largest difference to plain"),
        processes_rows,
    ),
}  # fmt: skip


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="training steps that are timed, a multiple of 4")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[*SECTIONS], help="what to measure")
    given = parser.parse_args()
    if given.steps < 4 or given.steps % 4:
        parser.error(f"--steps is {given.steps}: give a multiple of 4")
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA GPU here: speed.py measures CPUs")
    print(f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores; Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, accelerate {accelerate.__version__}")
    for section in given.only:
        with tempfile.TemporaryDirectory() as name:
            title, heads, rows_of = SECTIONS[section]
            table(title, heads, rows_of(given, Path(name)))


if __name__ == "__main__":
    main()
