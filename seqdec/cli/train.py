"""`seqdec train`: from the words to a finished run folder."""

import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seqdec import stops
from seqdec.cli import folders, options
from seqdec.cli.config import check_places, check_same_run, from_config, make_config
from seqdec.cli.console import importing, in_columns, is_main_process, recover
from seqdec.cli.evaluate import make_evaluation
from seqdec.cli.options import Words, debug, fixed, keywords, numbers, option, steering, to_reset
from seqdec.errors import UsageError
from seqdec.finetune import Task, make_models, train_tasks
from seqdec.training.launcher import end_with_launcher

if TYPE_CHECKING:
    from seqdec.model.sequence_model import SequenceModel
    from seqdec.sequence.layout import Layout
    from seqdec.training.loop import Outcome


@dataclass(frozen=True)
class Train:
    """Finetune a backbone on trajectories; leaves a run folder with a policy in it."""

    data: Words = option(("data/cartpole",), "Data folders or minari:ID; of several tasks TASK=FOLDER.")
    weights: Words = steering((), "How often each of --data is drawn (default: timesteps and tasks alike).")
    fraction: float | None = fixed(None, "Share of the episodes, at random (default: all).", at_least=0, at_most=1)
    best: float | None = fixed(None, "Share of the episodes, the best by return (default: all).", at_least=0, at_most=1)
    streaming: bool = fixed(False, "Read the one source of --data while training, without converting it.")
    columns: str = option("", "JSON file: which column is what, for --streaming of a table (default: seqdec's names).")
    on_damaged: Literal["refuse", "drop-episode"] = fixed(
        "refuse", "What to do with an episode of --streaming that cannot be trained on."
    )
    buffer: int = steering(1024, "Episodes that a process holds at a time while --streaming.", at_least=1)
    reuse: float = steering(1.0, "Uses of a timestep each time it is in the buffer of --streaming.", at_least=0)
    heldout_episodes: int = fixed(0, "First episodes of a stream that are held out.", at_least=0)
    output: str = option("", "Run folder (default: runs/ and the name of the data).")
    backbone: str = fixed("smollm2", "smollm2, small, a Hugging Face id or a folder.")
    init: Literal["pretrained", "random"] = fixed("pretrained", "The backbone's own weights, or its random twin.")
    num_layers: int = fixed(
        0, "Use the first n layers (0: 6 of smollm2 unless it predicts words, else all).", at_least=0
    )
    finetune: Literal["full", "lora", "frozen"] = fixed("full", "What of the backbone learns.")
    freeze_layers: int | None = fixed(
        None,
        "Lower layers that do not learn (default: 20 of pretrained smollm2 for words, else 0).",
        at_least=0,
    )
    layout: str = fixed("multi_game", "Order of the sequence: a preset or a layout.json.")
    head: Literal["gaussian", "mse", "binned"] = fixed("gaussian", "How continuous actions are predicted.")
    return_head: Literal["gaussian", "binned"] = fixed("binned", "How returns are predicted, if they are.")
    numbers: Literal["embedding", "words"] | None = fixed(
        None, "How returns and rewards are written: embedding or words (default: words where all else is)."
    )
    prompt: Words = fixed(
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
    goal_of: str = fixed("", "Leaf of the observation that goals and the like are read from (default: the only one).")
    goal_entries: Words = fixed((), "Entries of it that make a goal, counted from 0 (default: all).")
    demo_length: int = fixed(10, "Timesteps of a demo.", at_least=1)
    demo_group: str = fixed("text", "Column of the data that says which episodes are of one task, for demos.")
    demo_part: Literal["random", "best"] = fixed("random", "Which timesteps of an episode are shown as a demo.")
    fuse: Words = fixed((), "Nested observation or action whose leaves share one token.")
    text_tokens: int = fixed(256, "Most tokens of a text.", at_least=1)
    max_tokens: int = fixed(1024, "Most tokens of a window with words (0: no limit).", at_least=0)
    mask_observation: float = steering(0.0, "Share of the observations hidden while training.", at_least=0, at_most=1)
    language_text: str = steering("", "Text file that a model of words goes on reading, so that its language stays.")
    language_loss: float = steering(0.1, "How much the loss of its tokens counts.", at_least=0)
    context_length: int = fixed(10, "Timesteps the model sees.", at_least=1)
    discount: float = fixed(1.0, "Discount of returns to go.", at_least=0, at_most=1)
    delayed_reward: bool = fixed(False, "Pay all reward at the episode's end.")
    steps: int = option(300, "Optimizer updates.", at_least=1)
    batch_size: int = steering(32, "Windows a step, over all processes.", at_least=1)
    accumulate: int = steering(1, "Split each batch into this many parts (less memory, same result).", at_least=1)
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
        None, "Dropout of the backbone (default: its own; small: 0.1).", at_least=0, at_most=0.9
    )
    precision: Literal["no", "bf16", "fp16"] = steering("no", "Mixed precision.")
    gradient_checkpointing: bool = option(False, "Compute layers again instead of keeping their states.")
    seed: int = steering(0, "Seed of everything.", at_least=0)
    heldout_fraction: float = fixed(0.1, "Share of the episodes held out.", at_least=0, at_most=0.9)
    log_every: int = option(10, "Steps between lines of metrics.jsonl.", at_least=1)
    eval_every: int = option(100, "Steps between held-out losses and evaluations (0: at the end only).", at_least=0)
    checkpoint_every: int = option(100, "Steps between checkpoints (0: at the end only).", at_least=0)
    keep_checkpoints: int = option(2, "How many checkpoints stay.", at_least=1)
    target_return: Words = option(("max",), "Returns to ask for: numbers, or min, q10 .. q90, median, max of the data.")
    episodes: int = option(8, "Episodes a target while training.", at_least=1)
    num_envs: int = option(8, "Environments that run together.", at_least=1)
    env: str = option("", "Environment id to evaluate in (default: the data's own).")
    trust_env: bool = option(False, "Make the data's environment even from an entry point (runs its code).")
    temperature: float = option(1.0, "Temperature of sampled actions (0: the most likely).", at_least=0, at_most=1000)
    max_steps: int = option(0, "Longest episode (0: the environment's own limit).", at_least=0)
    reset_options: str = to_reset()
    tracker: Literal["none", "wandb", "tensorboard", "trackio"] = option("none", "Where else metrics go.")
    resume: Literal["no", "yes", "auto"] = option(
        "no", "Go on with the run in --output, by its flags but those given (auto: or begin it).",
        resume="starting", alone="yes",
    )  # fmt: skip
    config: str = option("", "Take the flags of a run's config.json but for those given.", resume="starting")
    nproc: int = option(1, "Processes on this machine (torchrun).", at_least=1, at_most=1024, resume="starting")
    debug: bool = debug()


def parse_train(words: Sequence[str]) -> Train:
    """Return what the words after `train` ask for; the flags of a run's config.json stand below those that are typed.

    Where several processes are asked for and none was started, a launcher takes this process over.
    """
    given = options.parse(Train, words, verb="train")
    config_file = given.config
    if given.resume != "no":
        if given.config:
            raise UsageError("--resume takes the flags of the run in --output: leave --config out")
        output = folders.run_folder(given.output, given.data)
        folders.check_readable(output)
        config_file = str(output / "config.json")
        if not os.path.exists(config_file):
            if given.resume == "yes":
                raise UsageError(
                    f"{output} holds no run to go on with (no config.json): leave --resume out, say --resume auto, or "
                    "choose its --output"
                )
            config_file = ""
    if config_file:
        from seqdec.storage.files import read_json

        config = read_json(Path(config_file))
        stored = from_config(Train, config, config_file)
        given = options.parse(Train, words, verb="train", default=stored)
        check_places(given, config, config_file)
    goes_on = given.resume != "no" and config_file != ""
    given = replace(given, resume="yes" if goes_on else "no")
    _start_processes(given, words)
    return given


def _start_processes(given: Train, words: Sequence[str]) -> None:
    """Refuse a launcher that did not do what was asked; where there is none, let torchrun take this process over."""
    end_with_launcher()
    world = os.environ.get("WORLD_SIZE")
    if world is None and {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys():
        # What `accelerate launch --num_processes 2` leaves behind when it starts a single process after all.
        raise UsageError("accelerate was asked for several processes and started one: use --nproc N, or torchrun")
    if given.nproc > 1 and world is None:
        folders.check_run_folder(folders.run_folder(given.output, given.data), resume=given.resume == "yes")
        launch = ["-m", "seqdec.cli.launch", "--standalone", f"--nproc_per_node={given.nproc}", "-m", "seqdec"]
        # torchrun would take our --nproc for the beginning of one of its own flags
        pairs = zip(words, ["", *words], strict=False)
        passed = [word for word, before in pairs if word.partition("=")[0] != "--nproc" and before != "--nproc"]
        # replaced, not started, so that who kills this process leaves nobody behind
        os.execv(sys.executable, [sys.executable, *launch, "train", *passed])  # noqa: S606
    if given.nproc > 1 and world != str(given.nproc):
        raise UsageError(f"--nproc {given.nproc} asks for {given.nproc} processes, the launcher started {world}")


def train_run(given: Train) -> int:
    """Finetune a backbone on data sets and leave a run folder."""
    folder = folders.run_folder(given.output, given.data)
    if not is_main_process():
        return _train(given, folder)
    folders.check_run_folder(folder, resume=given.resume == "yes")

    from seqdec import storage

    with storage.lock_folder(folder):
        recover(folder, folder / "checkpoints")
        return _train(given, folder)


def _train(given: Train, folder: Path) -> int:
    with importing():
        tasks = load_tasks(given)  # before torch is imported, which takes seconds

        from seqdec import storage
        from seqdec.model.backbone import load_backbone
        from seqdec.training.checkpoints import agreed
        from seqdec.training.loop import train
        from seqdec.training.processes import join_processes

    join_processes()
    measure = make_evaluation(given, tasks)
    config = make_config(given, tasks)
    goes_on = given.resume == "yes"
    if goes_on:
        check_same_run(given, folder, config)
    checkpoint = agreed(folder, resume=goes_on, quiet=True)
    models = make_models(tasks, given.backbone, checkpoint=checkpoint, **keywords(given, load_backbone))
    if is_main_process():
        print(describe_run(given, folder, tasks, models), flush=True)
        storage.write_json(folder / "config.json", config)
    outcome = train_tasks(
        models,
        tasks,
        out=folder,
        evaluate=None if measure is None else lambda: measure(models),
        config=config,
        progress=sys.stderr.isatty(),
        **keywords(given, train, "weights", "config", resume=goes_on),
    )
    if is_main_process():
        _print_end(given, folder, outcome)
    return 0 if outcome.stopped_by is None else stops.EXIT_CODES[outcome.stopped_by]


def load_tasks(given: Train) -> dict[str, Task]:
    """Return the tasks that --data names: `a=PATH b=PATH` are tasks a and b, paths alone are all one task, ""."""
    places = [folders.split_task(word) for word in given.data]
    twice = next((word for word in given.data if given.data.count(word) > 1), None)
    if twice is not None:
        raise UsageError(f"--data names {twice} twice: give it once, and how often it is drawn by --weights")
    weights = numbers(given.weights, "weights")
    if weights and len(weights) != len(places):
        raise UsageError(f"--weights has {len(weights)} numbers for {len(places)} data sets: give one for each")
    if weights and (not all(0 <= weight < math.inf for weight in weights) or not any(weights)):
        raise UsageError(f"--weights is {' '.join(given.weights)}: give numbers of 0 or more, not all 0")
    names = list(dict.fromkeys(task for task, _ in places))
    if "" in names and len(names) > 1:
        raise UsageError("--data names a task for some data sets only: name all of them, or none")
    if given.streaming and (len(places) > 1 or given.fraction is not None or given.best is not None):
        raise UsageError("--streaming reads one source as it comes: leave other --data, --fraction and --best out")
    if given.streaming and names[0]:
        raise UsageError("--streaming trains one task without a name: leave NAME= out of --data")
    of_streams = {"--columns": given.columns, "--heldout-episodes": given.heldout_episodes}
    of_streams["--on-damaged"] = given.on_damaged != "refuse"
    for flag, value in of_streams.items():
        if value and not given.streaming:
            raise UsageError(f"{flag} is for --streaming: add it, or convert the data first (seqdec data)")

    from seqdec.cli.loading import load_task, stream_task

    if given.streaming:
        return {"": stream_task(given, places[0][1])}
    tasks = {}
    for name in names:
        rows = [row for row, (task, _) in enumerate(places) if task == name]
        own_weights = [weights[row] for row in rows] if weights else None
        tasks[name] = load_task(given, name, [places[row][1] for row in rows], own_weights)
    return tasks


def _print_end(given: Train, folder: Path, outcome: "Outcome") -> None:
    """Say how a run ended, and the words that go on from there."""
    if outcome.stopped_by is not None:
        again = f"seqdec train --output {shlex.quote(str(folder))} --resume"
        where = f" at step {outcome.step}{', saved' if outcome.step else ''}. Continue: {again}"
        print(stops.sentence(outcome.stopped_by, where), file=sys.stderr)
        return
    task, _ = folders.split_task(given.data[0])
    own = (["--task", task] if task else []) + (["--env", given.env] if given.env else [])
    evaluate = ["seqdec", "eval", str(folder), *own, *["--trust-env"] * given.trust_env]
    done = _last_numbers(folder, outcome.step)
    print(f"{done}\npolicy: {folder / 'policy'}\nnext: {shlex.join(evaluate)}", flush=True)


def _last_numbers(folder: Path, step: int) -> str:
    """Return the newest losses and returns of a finished run, as its metrics.jsonl has them."""
    from seqdec import storage

    newest: dict[str, float | None] = {}
    for line in storage.read_lines(folder / "metrics.jsonl"):
        newest |= line
    numbers = {name: "not finite" if value is None else f"{value:.4g}" for name, value in newest.items()}
    rows = [("done", f"step {step}, loss {numbers.get('train/loss', 'not known')}")]
    for prefix, head, words in (("heldout/loss_", "held out", "loss of "), ("eval/return_", "achieved", "asked for ")):
        names = sorted(name for name in numbers if name.startswith(prefix))
        rows.append((head, ", ".join(f"{words}{name.removeprefix(prefix)}: {numbers[name]}" for name in names)))
    return in_columns((head, text) for head, text in rows if text)


def describe_run(given: Train, folder: Path, tasks: Mapping[str, Task], models: "Mapping[str, SequenceModel]") -> str:
    """Return, in lines, what is about to be trained, on what, as what."""
    parameters = {parameter for model in models.values() for parameter in model.parameters()}
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    sizes = [sum(parameter.numel() for parameter in group) / 1e6 for group in (parameters, learning)]
    dtypes = ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in learning}))
    source = next(iter(models.values())).backbone_source.source
    layers = {None: "all layers", 1: "first layer"}.get(source.num_layers, f"first {source.num_layers} layers")
    rows = []
    for name, model in models.items():
        returns = model.data.returns
        places = ", ".join(place for task, place in map(folders.split_task, given.data) if task == name)
        rows += [("task", name)] if name else []
        rows += [
            ("data", f"{places}: {tasks[name].size}, returns {returns['min']:.4g} to {returns['max']:.4g}"),
            ("sequence", _sequence(model.layout)),
        ]
    rows += [
        ("backbone", f"{source.name}, {source.init}, {layers}, finetuned: {source.finetune}"),
        ("parameters", f"{sizes[0]:.1f} M, {sizes[1]:.1f} M learn ({dtypes})"),
        ("run", f"{folder}: {given.steps} steps of {given.batch_size} windows"),
    ]
    return in_columns(rows)


def _sequence(layout: "Layout") -> str:
    """Return in words the order in which an episode is written."""
    parts = ["+".join(slot) for slot in layout.prompt]
    if layout.demo:
        parts.append(f"demo: {layout.demo_length} x {' '.join('+'.join(slot) for slot in layout.demo)}")
    parts += ["+".join(slot) for slot in layout.step]
    return f"{' | '.join(parts)}; {layout.context_length} timesteps, {layout.num_tokens} tokens"
