"""What `train` and `eval` are put together from: flags in; data, layout, environments, config.json out.

The library takes plain keyword arguments, a verb has flags: this is the way from the one to the other, and no verb.
Heavy imports stand inside the functions, so that a slip in the flags or the output folder is told at once.
"""

import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seqdec import flags, folders
from seqdec.errors import DataError, UsageError, suggest

if TYPE_CHECKING:
    from datasets import Dataset
    from gymnasium.vector import VectorEnv

    from seqdec.backbone import Backbone
    from seqdec.environment import EnvironmentSpec
    from seqdec.layout import Layout
    from seqdec.model import SequenceModel
    from seqdec.streams import StreamWindows
    from seqdec.table_columns import Columns
    from seqdec.tasks import MultiTaskModel, TaskWindows
    from seqdec.windows import Windows

# What a run cannot go on without, and what changes the steps that are still to come.
FIXED_FLAGS = (
    *("backbone", "init", "num_layers", "finetune", "layout", "head", "return_head", "context_length"),
    *("prompt", "fuse", "text_tokens", "discount", "delayed_reward", "heldout_fraction", "fraction", "best"),
    *("streaming", "heldout_episodes"),
)
STEERING_FLAGS = (
    "batch_size",
    "accumulate",
    "seed",
    "dropout",
    "precision",
    "mask_observation",
    "weights",
    "buffer",
    "reuse",
)

SMOLLM2_LAYERS = 6  # of its 30: they go far, and train in minutes on a laptop

PACKAGES = (
    *("seqdec", "torch", "transformers", "datasets", "accelerate", "gymnasium", "minari", "h5py", "safetensors"),
    *("gguf", "numpy", "pyarrow", "peft"),
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What one task of a run is trained on: its sequence and its windows. An only task has no name.

    `told` says in words how much data there is, `identity` which data it is, as config.json keeps it.
    """

    name: str
    layout: "Layout"
    windows: "Windows | StreamWindows"
    heldout: "Windows | None"
    weight: float
    told: str
    identity: Mapping[str, object]

    @property
    def spec(self) -> "EnvironmentSpec":
        """Return the environment that the data came from."""
        return self.windows.spec


def load_tasks(given: flags.Train) -> list[Task]:
    """Return the tasks that --data names: `a=PATH b=PATH` are tasks a and b, paths alone are all one task."""
    names = [folders.split_task(word) for word in given.data]
    twice = next((word for word in given.data if given.data.count(word) > 1), None)
    if twice is not None:
        raise UsageError(f"--data names {twice} twice: give it once, and how often it is drawn by --weights")
    weights = _numbers(given.weights, "--weights")
    if weights and len(weights) != len(names):
        raise UsageError(f"--weights has {len(weights)} numbers for {len(names)} data sets: give one for each")
    if weights and (not all(0 <= weight < math.inf for weight in weights) or not any(weights)):
        raise UsageError(f"--weights is {' '.join(given.weights)}: give numbers of 0 or more, not all 0")
    tasks = list(dict.fromkeys(task for task, _ in names))
    if "" in tasks and len(tasks) > 1:
        raise UsageError("--data names a task for some data sets only: name all of them, or none")
    if given.streaming:
        if len(names) > 1 or given.fraction is not None or given.best is not None:
            raise UsageError("--streaming reads one source as it comes: leave other --data, --fraction and --best out")
        return [_stream_task(given, *names[0])]
    for flag, value in (("--columns", given.columns), ("--heldout-episodes", given.heldout_episodes)):
        if value:
            raise UsageError(f"{flag} is for --streaming: add it, or convert the data first (seqdec data)")
    found = []
    for task in tasks:
        here = [index for index, (name, _) in enumerate(names) if name == task]
        own = [weights[index] for index in here] if weights else None
        found.append(_load_task(given, task, [names[index][1] for index in here], own))
    return found


def _load_task(given: flags.Train, task: str, places: Sequence[str], weights: Sequence[float] | None) -> Task:
    from seqdec import sources
    from seqdec.leaves import leaf_kind
    from seqdec.selection import chosen, mix
    from seqdec.windows import Windows, changing_episode, split_episodes

    parts = [sources.load(place) for place in places]
    dataset, episode_weights = mix(parts, weights if len(parts) > 1 else None)
    spec = sources.environment_of(dataset)
    texts = [name for name, leaf in spec.observation_leaves.items() if leaf_kind(leaf) == "text"]
    layout = make_layout(given, spec, [name for name in texts if changing_episode(dataset, name) is None])
    rows = chosen(dataset, fraction=given.fraction, best=given.best, seed=given.seed)
    trained, held = (rows[part] for part in split_episodes(len(rows), given.heldout_fraction, given.seed))
    is_weighted = weights is not None and len(parts) > 1
    windows = Windows(
        dataset,
        layout,
        episodes=trained,
        weights=episode_weights if is_weighted else None,
        text=task,
        discount=given.discount,
        delayed_reward=given.delayed_reward,
    )
    counts = sources.lengths(dataset)
    num_timesteps = int(counts.sum())
    told = f"{len(dataset):,} episodes, {num_timesteps:,} timesteps"
    if len(rows) < len(dataset):
        told = f"{len(rows):,} of {len(dataset):,} episodes, {int(counts[rows].sum()):,} timesteps"
    return Task(
        name=task,
        layout=layout,
        windows=windows,
        heldout=windows.select(held) if len(held) else None,
        weight=sum(weights) if weights else 1.0,
        told=told,
        identity={"episodes": len(dataset), "timesteps": num_timesteps, "sha256": _digest(dataset, spec)},
    )


def _digest(dataset: "Dataset", spec: "EnvironmentSpec") -> str:
    from seqdec import sources

    digest = hashlib.sha256(sources.lengths(dataset).data)
    for name in ("reward", *spec.action_leaves):
        for values in sources.column(dataset, name):
            digest.update(values.data)
    return digest.hexdigest()


def _stream_task(given: flags.Train, task: str, place: str) -> Task:
    """Return a task whose episodes are read while it is trained; the first --heldout-episodes are held out."""
    from seqdec import sources
    from seqdec.leaves import leaf_kind
    from seqdec.storage import read_json
    from seqdec.streams import StreamWindows
    from seqdec.table_columns import columns_from_json
    from seqdec.training import join_processes

    columns = columns_from_json(read_json(Path(given.columns)), given.columns) if given.columns else None
    source = sources.source_of(place, spec_of(given.env) if given.env else None, columns)
    if source is None:
        raise UsageError(
            f"--streaming reads a source, not {place!r}: give minari:ID, hdf5:FILE, table:NAME or lerobot:NAME"
        )
    texts = [name for name, leaf in source.spec.observation_leaves.items() if leaf_kind(leaf) == "text"]
    layout = make_layout(given, source.spec, texts)  # one that changes within an episode is refused when it is read
    processes = join_processes()
    windows = StreamWindows(
        source,
        layout,
        buffer=given.buffer,
        reuse=given.reuse,
        num_heldout=given.heldout_episodes,
        process_index=processes.process_index,
        num_processes=processes.num_processes,
        text=task,
        discount=given.discount,
        delayed_reward=given.delayed_reward,
    )
    counted = "" if source.num_episodes is None else f"{source.num_episodes:,} episodes, "
    return Task(
        name=task,
        layout=layout,
        windows=windows,
        heldout=windows.heldout,
        weight=1.0,
        told=f"{counted}read as they come; of the first {len(windows.lengths):,}",
        identity={"source": json.loads(json.dumps(dict(source.identity)))},
    )


def make_layout(given: flags.Train, spec: "EnvironmentSpec", steady: Sequence[str]) -> "Layout":
    """Return the preset that --layout names, or what its JSON file says; `steady` leaves stand in the prompt."""
    from seqdec.layout import PRESETS, Layout, layout_from_spaces
    from seqdec.storage import read_json

    if given.layout in PRESETS:
        return layout_from_spaces(
            given.layout,
            spec.observation_space,
            spec.action_space,
            context_length=given.context_length,
            head=given.head,
            return_head=given.return_head,
            prompt=[*given.prompt, *(name for name in steady if name not in given.prompt)],
            fuse=given.fuse,
            missing=spec.missing,
            text_tokens=given.text_tokens,
        )
    if not Path(given.layout).is_file():
        raise UsageError(
            f"no layout {given.layout!r}{suggest(given.layout, PRESETS)} "
            f"(give one of {', '.join(PRESETS)}, or a layout.json)"
        )
    value = read_json(Path(given.layout))
    try:
        return Layout.from_json(value)
    except (DataError, UsageError) as error:
        raise type(error)(f"{given.layout}: {error}") from error


def spec_of(env_id: str) -> "EnvironmentSpec":
    """Return the spec of an environment that the user typed; it is made once, to be looked at."""
    import gymnasium
    from gymnasium.vector import SyncVectorEnv

    from seqdec.environment import EnvironmentSpec, Guarded, make_envs, spec_of_env

    unknown = EnvironmentSpec(gymnasium.spaces.Discrete(1), gymnasium.spaces.Discrete(1))
    envs = make_envs(unknown, 1, env_id=env_id)
    assert isinstance(envs, SyncVectorEnv)
    try:
        guarded = envs.envs[0]
        assert isinstance(guarded, Guarded)
        return spec_of_env(guarded.env)
    finally:
        envs.close()


def table_columns(given: flags.DataTable) -> "Columns":
    """Return which column is what, as the words of `data table` say it."""
    from seqdec.table_columns import Columns

    def none(word: str) -> str | None:
        return None if word in ("none", "") else word

    def names(words: Sequence[str], role: str) -> "str | list[str] | dict[str, list[str] | str]":
        if not any("=" in word for word in words):
            return words[0] if len(words) == 1 else list(words)
        pairs = [word.partition("=")[::2] for word in words]
        wrong = next((key for key, columns in pairs if not key or not columns), None)
        if wrong is not None:
            raise UsageError(f"--{role}: {wrong!r} stands beside KEY=COLUMN words: give all of them a key, or none")
        _refuse_twice([key for key, _ in pairs], role)
        return {f"{role}.{key}": columns.split(",") if "," in columns else columns for key, columns in pairs}

    missing = [word.partition("=")[::2] for word in given.missing]
    _refuse_twice([leaf for leaf, _ in missing], "missing")
    return Columns(
        episode=none(given.episode),
        observation=names(given.observation, "observation"),
        action=names(given.action, "action"),
        reward=given.reward,
        terminated=none(given.terminated),
        truncated=none(given.truncated),
        final=None if given.final == ("none",) else names(given.final, "final"),
        text=none(given.text),
        metadata=given.keep,
        missing={leaf: none(column) for leaf, column in missing},
    )


def _refuse_twice(keys: Sequence[str], role: str) -> None:
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UsageError(f"--{role} gives {twice!r} twice: give each once (several columns as {twice}=A,B)")


def whole_numbers(words: Sequence[str], name: str) -> list[int]:
    """Return the whole numbers that a flag lists."""
    numbers = _numbers(words, name)
    wrong = next((number for number in numbers if not number.is_integer() or number < 0), None)
    if wrong is not None:
        raise UsageError(f"{name} holds {wrong:g}: give whole numbers")
    return [int(number) for number in numbers]


def _numbers(words: Sequence[str], name: str) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise UsageError(f"{name} is {' '.join(words)}: give numbers") from error


def open_envs(
    given: flags.Train | flags.Eval, spec: "EnvironmentSpec", num_envs: int
) -> "tuple[EnvironmentSpec, VectorEnv]":
    """Return the environments to act in and what to call them; another id than the data's has no known scores."""
    from seqdec.environment import make_envs

    envs = make_envs(
        spec,
        num_envs,
        env_id=given.env or None,
        trust_env=given.trust_env,
        max_steps=given.max_steps or None,
    )
    if given.env and given.env.split(":")[-1] != spec.id:  # package:ID is the same environment
        spec = replace(spec, id=given.env, reference_returns=None)
    return spec, envs


def make_evaluation(
    given: flags.Train, tasks: Sequence[Task]
) -> "Callable[[SequenceModel | MultiTaskModel], dict[str, float]] | None":
    """Return what measures a model in its tasks' environments while training; None where there are none to be had."""
    if given.env and len(tasks) > 1:
        raise UsageError("--env names one environment, the run has several tasks: leave it out")
    measures = {task.name: _make_measure(given, task) for task in tasks}
    if not any(measures.values()):
        return None

    def measure(model: "SequenceModel | MultiTaskModel") -> dict[str, float]:
        from seqdec.tasks import MultiTaskModel

        found = {}
        for name, of_task in measures.items():
            if of_task is not None:
                prefix = f"eval/return_{name}/" if name else "eval/return_"
                results = of_task(model.task(name) if isinstance(model, MultiTaskModel) else model)
                found |= {f"{prefix}{word}": value for word, value in results.items()}
        return found

    return measure


def _make_measure(given: flags.Train, task: Task) -> "Callable[[SequenceModel], dict[str, float]] | None":
    from seqdec.environment import check_spaces
    from seqdec.evaluation import evaluate, resolve_targets
    from seqdec.model import summarize_returns

    data_returns = summarize_returns(task.windows.returns)
    targets: list[float | None] = [*resolve_targets(given.target_return, data_returns)]
    words: list[str] = list(given.target_return)
    if not reads_return(task.layout):
        words, targets = ["unasked"], [None]
    elif is_main_process():
        note_far_targets(targets, data_returns)
    if not is_main_process():
        return None
    try:
        env_spec, envs = open_envs(given, task.spec, min(given.num_envs, given.episodes))
    except UsageError as error:
        if given.env or given.trust_env:
            raise
        # Training needs no environment; the first evaluation will.
        logger.warning("training without evaluations: %s", error)
        return None
    check_spaces(task.spec, envs)

    def measure(model: "SequenceModel") -> dict[str, float]:
        from seqdec.policy import Policy

        report = evaluate(
            lambda target: Policy(model, target, temperature=given.temperature, seed=given.seed),
            envs,
            targets=targets,
            num_episodes=given.episodes,
            seed=given.seed,
            spec=env_spec,
            data_returns=data_returns,
            discount=given.discount,
            delayed_reward=given.delayed_reward,
        )
        return {word: result.mean for word, result in zip(words, report.targets, strict=True)}

    return measure


def build(given: flags.Train, tasks: Sequence[Task]) -> "SequenceModel | MultiTaskModel":
    """Return the model of one task, or of several around one backbone."""
    from seqdec.model import build_model
    from seqdec.tasks import MultiTaskModel

    backbone = make_backbone(given, [task.layout for task in tasks])
    models = {task.name: build_model(task.windows, task.spec, backbone, seed=given.seed) for task in tasks}
    return MultiTaskModel(models) if tasks[0].name else models[""]


def all_windows(
    tasks: Sequence[Task],
) -> "tuple[Windows | TaskWindows | StreamWindows, Windows | TaskWindows | None]":
    """Return the windows to train on and those held out, of one task or of several."""
    from seqdec.tasks import TaskWindows
    from seqdec.windows import Windows

    if not tasks[0].name:
        return tasks[0].windows, tasks[0].heldout
    held = {task.name: task.heldout for task in tasks if task.heldout is not None}
    named = {task.name: task.windows for task in tasks if isinstance(task.windows, Windows)}
    if len(named) < len(tasks):
        raise UsageError("--streaming trains one task without a name: leave NAME= out of --data")
    windows = TaskWindows(named, {task.name: task.weight for task in tasks})
    return windows, TaskWindows(held) if held else None


def reads_return(layout: "Layout") -> bool:
    """Return whether a sequence has a place for the return that is asked for."""
    return bool({"return_to_go", "target_return"} & {*layout.step_names, *layout.prompt_names})


def note_far_targets(targets: Sequence[float | None], data_returns: Mapping[str, float]) -> None:
    """Say which of the returns asked for lie outside the data's."""
    for target in targets:
        if target is not None and not data_returns["min"] <= target <= data_returns["max"]:
            logger.warning(
                "asked %g; the data's returns go from %g to %g. Continuing; expect extrapolation",
                target,
                data_returns["min"],
                data_returns["max"],
            )


def make_backbone(given: flags.Train, layouts: "Sequence[Layout]") -> "Backbone":
    """Return the transformer that --backbone, --init, --num-layers and --finetune name."""
    from seqdec.backbone import load_backbone

    return load_backbone(
        given.backbone,
        init=given.init,
        num_layers=given.num_layers or (SMOLLM2_LAYERS if given.backbone == "smollm2" else None),
        finetune=given.finetune,
        dropout=given.dropout,
        seed=given.seed,
        num_tokens=max(layout.num_tokens for layout in layouts),
        vocabulary=any(layout.has_text for layout in layouts),
    )


def backbone_rate(given: flags.Train, init: str) -> float:
    """Return the rate of the backbone's own parameters: what is pretrained moves slowly unless told otherwise."""
    if given.backbone_learning_rate is not None:
        return given.backbone_learning_rate
    return given.learning_rate / 10 if init == "pretrained" else given.learning_rate


def describe_run(
    given: flags.Train, folder: Path, tasks: Sequence[Task], model: "SequenceModel | MultiTaskModel"
) -> str:
    """Return, in lines, what is about to be trained, on what, as what."""
    from seqdec.model import summarize_returns

    sizes = [parameter.numel() for parameter in model.parameters()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    dtypes = ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in learning}))
    source = model.backbone_source.source
    layers = "all layers" if not source.num_layers else f"first {source.num_layers} layers"
    layers = "first layer" if source.num_layers == 1 else layers
    rows = []
    for task in tasks:
        returns, layout = summarize_returns(task.windows.returns), task.layout
        places = [place for name, place in map(folders.split_task, given.data) if name == task.name]
        prompt = "".join(f"{'+'.join(slot)} | " for slot in layout.prompt)
        slots = " | ".join("+".join(slot) for slot in layout.step)
        rows += [("task", task.name)] if task.name else []
        rows += [
            ("data", f"{', '.join(places)}: {task.told}, returns {returns['min']:.4g} to {returns['max']:.4g}"),
            ("sequence", f"{prompt}{slots}; {layout.context_length} timesteps, {layout.num_tokens} tokens"),
        ]  # fmt: skip
    rows += [
        ("backbone", f"{source.name}, {source.init}, {layers}, finetuned: {source.finetune}"),
        ("parameters", f"{sum(sizes) / 1e6:.1f} M, {sum(p.numel() for p in learning) / 1e6:.1f} M learn ({dtypes})"),
        ("run", f"{folder}: {given.steps} steps of {given.batch_size} windows"),
    ]
    return "\n".join(f"{name:<11} {text}" for name, text in rows)


def make_config(given: flags.Train, tasks: Sequence[Task]) -> dict[str, object]:
    """Return what config.json holds: every flag, the versions, the data by content, the machine's share."""
    import torch

    from seqdec.training import join_processes

    return {
        "flags": flags.to_config(given),
        "versions": {"python": platform.python_version(), **installed_versions()},
        "data": dict(tasks[0].identity) if len(tasks) == 1 else {task.name: dict(task.identity) for task in tasks},
        "machine": {
            "device": str(join_processes().device),
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
            "threads": torch.get_num_threads(),
        },
    }


def check_same_run(folder: Path, config: Mapping[str, object]) -> None:
    """Refuse to go on with a run on other data or as another model than it began with."""
    from seqdec import storage

    before = storage.read_json(folder / "config.json")
    was, now = before.get("data"), config["data"]
    if was != now:
        sizes = _size_of(was), _size_of(now)
        told = f"{sizes[0]}, now {sizes[1]}" if sizes[0] != sizes[1] else _difference(was, now, "data")
        raise UsageError(
            f"{folder} was trained on other data ({told}): give that data, or begin a new run with another --output"
        )
    was, now = before.get("flags"), config["flags"]
    assert isinstance(was, Mapping) and isinstance(now, Mapping)
    for name in (name for name in now if was.get(name, now[name]) != now[name]):
        change = f"{flags.flag(name)} was {was[name]}, is {now[name]}"
        if name in FIXED_FLAGS:
            raise UsageError(f"{change}: go on without it, or begin a new run with another --output")
        if name in STEERING_FLAGS and is_main_process():
            logger.warning("%s: the run will not equal an unbroken one", change)


def _size_of(data: object) -> str:
    """Return in words what config.json keeps of a run's data."""
    if not isinstance(data, Mapping):
        return "not known"
    if {"episodes", "timesteps"} <= data.keys():
        return f"{data['episodes']} episodes of {data['timesteps']} timesteps, sha256 {str(data.get('sha256'))[:8]}"
    if isinstance(source := data.get("source"), Mapping):
        return f"{source.get('kind')} {source.get('name', '')}".strip()
    return ", ".join(f"{task}: {_size_of(part)}" for task, part in data.items())


def _difference(was: object, now: object, name: str) -> str:
    """Return, in words, the first entry in which two values of a config.json differ."""
    from seqdec.spaces import quote

    if isinstance(was, Mapping) and isinstance(now, Mapping) and was.keys() == now.keys():
        key = next(key for key in now if was[key] != now[key])
        return _difference(was[key], now[key], key)
    return f"{name} was {quote(was)}, is {quote(now)}"


def installed_versions() -> dict[str, str]:
    """Return the version of each package that a run depends on and that is there."""
    found = {package: version_of(package) for package in PACKAGES}
    return {package: version for package, version in found.items() if version is not None}


def version_of(package: str) -> str | None:
    """Return a package's version, None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def is_main_process() -> bool:
    """Return whether this is the process that speaks and writes, of all that train together."""
    return os.environ.get("RANK", "0") == "0"
