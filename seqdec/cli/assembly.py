"""What `train` and `eval` are put together from: flags and tasks in; environments, model, config.json out.

The library takes plain keyword arguments, a verb has flags: this is the way from the one to the other, and no verb.
Heavy imports stand inside the functions, so that a slip in the flags or the output folder is told at once.
"""

import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from seqdec.cli import folders, options
from seqdec.cli.console import installed_versions, is_main_process
from seqdec.cli.loading import Task
from seqdec.errors import UsageError

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from seqdec.cli.evaluate import Eval
    from seqdec.cli.train import Train
    from seqdec.model.backbone import Backbone
    from seqdec.model.sequence_model import SequenceModel
    from seqdec.sequence.layout import Layout
    from seqdec.spaces.spec import EnvironmentSpec


SMOLLM2_LAYERS = 6  # of its 30: they go far, and train in minutes on a laptop
logger = logging.getLogger(__name__)


def open_envs(
    given: "Train | Eval", spec: "EnvironmentSpec", num_envs: int, *, asynchronous: bool = False
) -> "tuple[EnvironmentSpec, list[VectorEnv]]":
    """Return the environments to act in and what to call them; another id than the data's has no known scores.

    They are in one batch, or in two that take turns where they are asynchronous.
    """
    from seqdec.play import make_envs

    sizes = [num_envs - num_envs // 2, num_envs // 2] if asynchronous and num_envs > 1 else [num_envs]
    batches = [
        make_envs(
            spec,
            size,
            env_id=given.env or None,
            trust_env=given.trust_env,
            max_steps=given.max_steps or None,
            asynchronous=asynchronous,
        )
        for size in sizes
    ]
    if given.env and given.env.split(":")[-1] != spec.id:  # package:ID is the same environment
        spec = replace(spec, id=given.env, reference_returns=None)
    return spec, batches


def make_evaluation(
    given: "Train", tasks: Sequence[Task]
) -> "Callable[[Mapping[str, SequenceModel]], dict[str, float]] | None":
    """Return what measures a model in its tasks' environments while training; None where there are none to be had."""
    if given.env and len(tasks) > 1:
        raise UsageError("--env names one environment, the run has several tasks: leave it out")
    measures = {task.name: _make_measure(given, task) for task in tasks}
    if not any(measures.values()):
        return None

    def measure(models: "Mapping[str, SequenceModel]") -> dict[str, float]:
        found = {}
        for name, of_task in measures.items():
            if of_task is not None:
                prefix = f"eval/return_{name}/" if name else "eval/return_"
                results = of_task(models[name])
                found |= {f"{prefix}{word}": value for word, value in results.items()}
        return found

    return measure


def _make_measure(given: "Train", task: Task) -> "Callable[[SequenceModel], dict[str, float]] | None":
    from seqdec.inference.evaluation import evaluate, resolve_targets
    from seqdec.inference.prompt import check_expert
    from seqdec.model.sequence_model import summarize_returns
    from seqdec.play.make import check_spaces

    data_returns = summarize_returns(task.windows.returns)
    targets: list[float | str | None] = [*resolve_targets(given.target_return, data_returns)]
    words: list[str] = list(given.target_return)
    if "expert" in targets:
        check_expert(task.layout, task.spec.action_leaves)
    needed = [name for name in task.layout.facts if name not in ("target_return", "text")]
    if needed and task.layout.prompt_dropout == 0:
        logger.warning("training without evaluations: they need a %s, which seqdec eval takes", needed[0])
        return None
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
    check_spaces(task.spec, envs[0])

    def measure(model: "SequenceModel") -> dict[str, float]:
        from seqdec.inference.policy import Policy

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


def build(given: "Train", tasks: Sequence[Task]) -> "dict[str, SequenceModel]":
    """Return the models of the tasks around one backbone."""
    from seqdec.model.sequence_model import build_model

    backbone = make_backbone(given, [task.layout for task in tasks])
    return {task.name: build_model(task.windows, backbone, seed=given.seed) for task in tasks}


def reads_return(layout: "Layout") -> bool:
    """Return whether a sequence has a place for the return that is asked for."""
    return bool({"return_to_go", "target_return"} & {*layout.step_names, *layout.prompt_names})


def note_far_targets(targets: Sequence[float | str | None], data_returns: Mapping[str, float]) -> None:
    """Say which of the returns asked for lie outside the data's."""
    for target in targets:
        if isinstance(target, float) and not data_returns["min"] <= target <= data_returns["max"]:
            logger.warning(
                "asked %g; the data's returns go from %g to %g. Continuing; expect extrapolation",
                target,
                data_returns["min"],
                data_returns["max"],
            )


def make_backbone(given: "Train", layouts: "Sequence[Layout]") -> "Backbone":
    """Return the transformer that --backbone, --init, --num-layers and --finetune name."""
    from seqdec.model.backbone import load_backbone

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


def backbone_rate(given: "Train", init: str) -> float:
    """Return the rate of the backbone's own parameters: what is pretrained moves slowly unless told otherwise."""
    if given.backbone_learning_rate is not None:
        return given.backbone_learning_rate
    return given.learning_rate / 10 if init == "pretrained" else given.learning_rate


def describe_run(given: "Train", folder: Path, tasks: Sequence[Task], models: "Mapping[str, SequenceModel]") -> str:
    """Return, in lines, what is about to be trained, on what, as what."""
    from seqdec.model.sequence_model import summarize_returns

    parameters = {id(parameter): parameter for model in models.values() for parameter in model.parameters()}
    sizes = [parameter.numel() for parameter in parameters.values()]
    learning = [parameter for parameter in parameters.values() if parameter.requires_grad]
    dtypes = ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in learning}))
    source = models[tasks[0].name].backbone_source.source
    layers = "all layers" if not source.num_layers else f"first {source.num_layers} layers"
    layers = "first layer" if source.num_layers == 1 else layers
    rows = []
    for task in tasks:
        returns, layout = summarize_returns(task.windows.returns), task.layout
        places = [place for name, place in map(folders.split_task, given.data) if name == task.name]
        prompt = "".join(f"{'+'.join(slot)} | " for slot in layout.prompt)
        if layout.demo:
            prompt += f"demo: {layout.demo_length} x {' '.join('+'.join(slot) for slot in layout.demo)} | "
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


def make_config(given: "Train", tasks: Sequence[Task]) -> dict[str, object]:
    """Return what config.json holds: every flag, the versions, the data by content, the machine's share."""
    import torch

    from seqdec.training.processes import join_processes

    return {
        "flags": options.to_config(given),
        "versions": {"python": platform.python_version(), **installed_versions()},
        "data": dict(tasks[0].identity) if len(tasks) == 1 else {task.name: dict(task.identity) for task in tasks},
        "machine": {
            "device": str(join_processes().device),
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
            "threads": torch.get_num_threads(),
        },
    }


def check_same_run(given: "Train", folder: Path, config: Mapping[str, object]) -> None:
    """Refuse to go on with a run on other data or as another model than it began with."""
    from seqdec import storage
    from seqdec.spaces.space import quote

    before = storage.read_json(folder / "config.json")
    was, now = before.get("data"), config["data"]
    if was != now:
        sizes = _size_of(was), _size_of(now)
        told = f"{sizes[0]}, now {sizes[1]}"
        if sizes[0] == sizes[1] and isinstance(was, Mapping) and isinstance(now, Mapping):
            found = storage.difference(was, now)
            assert found is not None
            told = f"{found[0]} was {quote(found[1])}, is {quote(found[2])}"
        raise UsageError(
            f"{folder} was trained on other data ({told}): give that data, or begin a new run with another --output"
        )
    was, now = before.get("flags"), config["flags"]
    assert isinstance(was, Mapping) and isinstance(now, Mapping)
    entries = options.options_of(type(given))
    for name in (name for name in now if was.get(name, now[name]) != now[name]):
        change = f"{options.flag(name)} was {was[name]}, is {now[name]}"
        if entries[name].metadata["resume"] == "fixed":
            raise UsageError(f"{change}: go on without it, or begin a new run with another --output")
        if entries[name].metadata["resume"] == "steering" and is_main_process():
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
