"""`seqdec train`: from the words to a finished run folder."""

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqdec.cli import assembly, folders, loading, options
from seqdec.cli.console import importing, is_main_process
from seqdec.cli.options import debug, fixed, option, steering
from seqdec.errors import UsageError

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}


@dataclass(frozen=True)
class Train:
    """Finetune a backbone on trajectories; leaves a run folder with a policy in it."""

    data: tuple[str, ...] = option(
        ("data/cartpole",), "Data folders or minari:ID; of several tasks each as TASK=FOLDER."
    )
    weights: tuple[str, ...] = steering(
        (), "How often each of --data is drawn (default: all timesteps alike, all tasks alike)."
    )
    fraction: float | None = fixed(
        None, "Share of the episodes to train on, drawn at random (default: all).", at_least=0, at_most=1
    )
    best: float | None = fixed(
        None, "Share of the episodes to train on, those of the highest return (default: all).", at_least=0, at_most=1
    )
    streaming: bool = fixed(False, "Read the one source of --data while training, without converting it.")
    columns: str = option(
        "", "JSON file that says which column is what, for --streaming of a table (default: seqdec's names)."
    )
    buffer: int = steering(1024, "Episodes that a process holds at a time while --streaming.", at_least=1)
    reuse: float = steering(
        1.0, "How often a timestep is used each time that its episode passes the buffer while --streaming.", at_least=0
    )
    heldout_episodes: int = fixed(0, "First episodes of a stream that are held out.", at_least=0)
    output: str = option("", "Run folder (default: runs/ and the name of the data).")
    backbone: str = fixed("smollm2", "smollm2, small, a Hugging Face id or a folder.")
    init: Literal["pretrained", "random"] = fixed("pretrained", "The backbone's own weights, or its random twin.")
    num_layers: int = fixed(
        0, "Use the first n layers (0: 6 of smollm2, all of another backbone).", at_least=0, at_most=10000
    )
    finetune: Literal["full", "lora", "frozen"] = fixed("full", "What of the backbone learns.")
    layout: str = fixed("multi_game", "Order of the sequence: a preset or a layout.json.")
    head: Literal["gaussian", "mse", "binned"] = fixed("gaussian", "How continuous actions are predicted.")
    return_head: Literal["gaussian", "binned"] = fixed(
        "binned", "How returns are predicted, where the layout predicts them."
    )
    prompt: tuple[str, ...] = fixed(
        (),
        "What stands in the prompt: target_return, text, goal, waypoint1 and so on, final, demo, leaves of the "
        "observation (default: its texts that stay).",
    )
    prompt_dropout: float | None = steering(
        None,
        "How often each fact of the prompt, and the return to go, is unknown, and how often all (default: 0.2 "
        "where --prompt names facts or the layout predicts observations, else 0).",
        at_least=0,
        at_most=0.99,
    )
    goal_of: str = fixed(
        "", "Leaf of the observation that goals, waypoints and the final state are read from (default: the only one)."
    )
    goal_entries: tuple[str, ...] = fixed((), "Entries of it that make a goal, counted from 0 (default: all).")
    demo_length: int = fixed(10, "Timesteps of a demo.", at_least=1, at_most=65536)
    demo_group: str = fixed("text", "Column of the data that says which episodes are of one task, for demos.")
    demo_part: Literal["random", "best"] = fixed("random", "Which timesteps of an episode are shown as a demo.")
    fuse: tuple[str, ...] = fixed((), "Nested observation or action whose leaves share one token.")
    text_tokens: int = fixed(32, "Most tokens of a text.", at_least=1, at_most=65536)
    mask_observation: float = steering(
        0.0, "Share of the observations that are hidden while training, at random.", at_least=0, at_most=1
    )
    context_length: int = fixed(10, "Timesteps the model sees.", at_least=1)
    discount: float = fixed(1.0, "Discount of returns to go.", at_least=0, at_most=1)
    delayed_reward: bool = fixed(False, "Pay all reward at the episode's end.")
    steps: int = option(300, "Optimizer updates.", at_least=1)
    batch_size: int = steering(32, "Windows a step, over all processes.", at_least=1)
    accumulate: int = steering(
        1, "Split each batch into this many parts (less memory, same result).", at_least=1, at_most=65536
    )
    learning_rate: float = option(1e-3, "Rate of new parameters.", at_least=0, at_most=10)
    backbone_learning_rate: float | None = option(
        None,
        "Rate of the backbone (default: a tenth of --learning-rate for pretrained weights, the same for random ones).",
        at_least=0,
        at_most=10,
    )
    weight_decay: float = option(1e-4, "AdamW's weight decay.", at_least=0, at_most=1000)
    warmup_steps: int = option(20, "Steps until the full rate.", at_least=0)
    schedule: Literal["constant", "cosine"] = option("constant", "Rate after the warmup.")
    clip_norm: float = option(0.25, "Largest gradient norm (0: no clipping).", at_least=0)
    dropout: float | None = steering(
        None, "Dropout of the backbone (default: 0.1 for small, its own for others).", at_least=0, at_most=0.9
    )
    precision: Literal["no", "bf16", "fp16"] = steering("no", "Mixed precision.")
    seed: int = steering(0, "Seed of everything.", at_least=0)
    heldout_fraction: float = fixed(
        0.1, "Share of the episodes held out for the held-out loss (0: none).", at_least=0, at_most=0.9
    )
    log_every: int = option(10, "Steps between lines of metrics.jsonl.", at_least=1)
    eval_every: int = option(100, "Steps between held-out losses and evaluations (0: at the end only).", at_least=0)
    checkpoint_every: int = option(100, "Steps between checkpoints (0: at the end only).", at_least=0)
    keep_checkpoints: int = option(2, "How many checkpoints stay.", at_least=1)
    target_return: tuple[str, ...] = option(
        ("max",), "Returns to ask for while training: numbers, or min, q10 .. q90, median, max of the data."
    )
    episodes: int = option(8, "Episodes a target while training.", at_least=1)
    num_envs: int = option(8, "Environments that run together.", at_least=1, at_most=65536)
    env: str = option("", "Environment id to evaluate in (default: the data's own).")
    trust_env: bool = option(
        False, "Make the environment that the data names, even from an entry point (runs its code)."
    )
    temperature: float = option(1.0, "Temperature of sampled actions (0: the most likely).", at_least=0, at_most=1000)
    max_steps: int = option(0, "Longest episode (0: the environment's own limit).", at_least=0)
    tracker: Literal["none", "wandb", "tensorboard", "trackio"] = option(
        "none", "Where metrics go beside metrics.jsonl."
    )
    resume: bool = option(
        False, "Go on with the run in --output, with its own flags but for those given.", resume="starting"
    )
    config: str = option("", "Take the flags of a run's config.json but for those given.", resume="starting")
    nproc: int = option(1, "Processes on this machine (torchrun).", at_least=1, at_most=1024, resume="starting")
    debug: bool = debug()


def parse_train(words: Sequence[str]) -> Train:
    """Return what the words after `train` ask for; the flags of a run's config.json stand below those that are typed.

    Where several processes are asked for and none was started, a launcher takes this process over.
    """
    given = options.parse(Train, words, verb="train")
    config_file = given.config
    if given.resume:
        if given.config:
            raise UsageError("--resume takes the flags of the run in --output: leave --config out")
        output = folders.run_folder(given.output, given.data)
        config_file = str(output / "config.json")
        if not os.path.exists(config_file):
            raise UsageError(
                f"{output} holds no run to go on with (no config.json): leave --resume out, or choose its --output"
            )
    if config_file:
        from seqdec.storage.files import read_json

        stored = options.from_config(Train, read_json(Path(config_file)), config_file)
        given = options.parse(Train, words, verb="train", default=stored)
    world = os.environ.get("WORLD_SIZE")
    if world is None and {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys():
        # What `accelerate launch --num_processes 2` leaves behind when it starts a single process after all.
        raise UsageError("accelerate was asked for several processes and started one: use --nproc N, or torchrun")
    if given.nproc > 1 and world is None:
        folders.check_run_folder(folders.run_folder(given.output, given.data), resume=given.resume)
        _become_launcher(given.nproc, words)
    if given.nproc > 1 and world != str(given.nproc):
        raise UsageError(f"--nproc {given.nproc} asks for {given.nproc} processes, the launcher started {world}")
    return given


def _become_launcher(num_processes: int, words: Sequence[str]) -> None:
    """Let torchrun take this process over: replaced, not started, so that who kills it leaves nobody behind."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}", "-m", "seqdec"]
    passed: list[str] = []
    for word, before in zip(words, ["", *words], strict=False):
        # torchrun would take our --nproc for the beginning of one of its own flags
        if word != "--nproc" and before != "--nproc" and not word.startswith("--nproc="):
            passed.append(word)
    os.execv(sys.executable, [sys.executable, *launch, "train", *passed])  # noqa: S606


def train_run(given: Train) -> int:
    """Finetune a backbone on data sets and leave a run folder."""
    folder = folders.run_folder(given.output, given.data)
    if is_main_process():
        folders.check_run_folder(folder, resume=given.resume)

    from seqdec import storage

    with storage.lock_folder(folder) if is_main_process() else nullcontext():
        if is_main_process():
            for sentence in [*storage.recover(folder), *storage.recover(folder / "checkpoints")]:
                print(f"seqdec: {sentence}", file=sys.stderr, flush=True)
        return _train(given, folder)


def _train(given: Train, folder: Path) -> int:
    with importing():
        tasks = loading.load_tasks(given)  # before torch is imported, which takes seconds

        from seqdec import storage
        from seqdec.training.loop import train
        from seqdec.training.processes import join_processes

    processes = join_processes()
    measure = assembly.make_evaluation(given, tasks)
    config = assembly.make_config(given, tasks)
    if given.resume:
        assembly.check_same_run(given, folder, config)
    models = assembly.build(given, tasks)
    if is_main_process():
        print(assembly.describe_run(given, folder, tasks, models), flush=True)
        storage.write_json(folder / "config.json", config)
    outcome = train(
        models,
        {task.name: task.windows for task in tasks},
        out=folder,
        steps=given.steps,
        weights={task.name: task.weight for task in tasks},
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        backbone_learning_rate=assembly.backbone_rate(given, models[tasks[0].name].backbone_source.source.init),
        weight_decay=given.weight_decay,
        warmup_steps=given.warmup_steps,
        schedule=given.schedule,
        clip_norm=given.clip_norm,
        accumulate=given.accumulate,
        precision=given.precision,
        mask_observation=given.mask_observation,
        seed=given.seed,
        log_every=given.log_every,
        eval_every=given.eval_every,
        checkpoint_every=given.checkpoint_every,
        keep_checkpoints=given.keep_checkpoints,
        heldout={task.name: task.heldout for task in tasks if task.heldout is not None},
        evaluate=None if measure is None else lambda: measure(models),
        tracker=given.tracker,
        config=config,
        resume=given.resume,
        progress=sys.stderr.isatty(),
    )
    if processes.num_processes > 1:
        processes.destroy_process_group()
    if not is_main_process():
        return 0 if outcome.stopped_by is None else EXIT_CODES[outcome.stopped_by]
    if outcome.stopped_by is not None:
        again = f"seqdec train --output {shlex.quote(str(folder))} --resume"
        cause = "Ctrl-C" if outcome.stopped_by == "SIGINT" else outcome.stopped_by
        print(f"seqdec: stopped by {cause} at step {outcome.step}, saved. Continue: {again}", file=sys.stderr)
        return EXIT_CODES[outcome.stopped_by]
    print(
        f"{_last_numbers(folder)}\npolicy: {folder / 'policy'}\nnext: {_next_command(given, folder)}",
        flush=True,
    )
    return 0


def _next_command(given: Train, folder: Path) -> str:
    """Return the words that evaluate the run: those it takes to find its environment, and its first task."""
    words = ["seqdec", "eval", str(folder)]
    task, _ = folders.split_task(given.data[0])
    if task:
        words += ["--task", task]
    if given.env:
        words += ["--env", given.env]
    if given.trust_env:
        words += ["--trust-env"]
    return shlex.join(words)


def _last_numbers(folder: Path) -> str:
    """Return the newest losses and returns of a finished run, as its metrics.jsonl has them."""
    from seqdec import storage

    newest: dict[str, float | None] = {}
    for line in storage.read_lines(folder / "metrics.jsonl"):
        newest |= line
    rows = [("done", [f"step {newest['step']}, loss {_short(newest['train/loss'])}"])]
    for prefix, head, words in (("heldout/loss_", "held out", "loss of "), ("eval/return_", "achieved", "asked for ")):
        found = {name.removeprefix(prefix): value for name, value in newest.items() if name.startswith(prefix)}
        rows.append((head, [f"{words}{name}: {_short(found[name])}" for name in sorted(found)]))
    return "\n".join(f"{head:<11} {', '.join(texts)}" for head, texts in rows if texts)


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
