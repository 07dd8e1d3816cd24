"""What `train` and `eval` are put together from: flags in; data, layout, environments, config.json out.

The library takes plain keyword arguments, a verb has flags: this is the way from the one to the other, and no verb.
Heavy imports stand inside the functions, so that a slip in the flags or the output folder is told at once.
"""

import hashlib
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from seqdec import flags
from seqdec.errors import DataError, UsageError, suggest

if TYPE_CHECKING:
    from datasets import Dataset
    from gymnasium.vector import VectorEnv

    from seqdec.backbone import Backbone
    from seqdec.environment import EnvironmentSpec
    from seqdec.layout import Layout
    from seqdec.model import SequenceModel

# What a run cannot go on without, and what changes the steps that are still to come.
FIXED_FLAGS = (
    *("backbone", "init", "num_layers", "finetune", "layout", "head", "return_head", "context_length"),
    *("discount", "delayed_reward", "heldout_fraction"),
)
STEERING_FLAGS = ("batch_size", "accumulate", "seed", "dropout", "precision")

SMOLLM2_LAYERS = 6  # of its 30: they go far, and train in minutes on a laptop

PACKAGES = (
    *("seqdec", "torch", "transformers", "datasets", "accelerate", "gymnasium", "minari", "h5py", "safetensors"),
    *("gguf", "numpy", "pyarrow", "peft"),
)

logger = logging.getLogger(__name__)


def load_data(names: Sequence[str]) -> "Dataset":
    """Return one data set of all that are named; the first one's environment speaks for all."""
    from seqdec import sources

    parts = [sources.load(name) for name in names]
    if len(parts) == 1:
        return parts[0]

    from datasets import concatenate_datasets

    from seqdec.spaces import describe_space

    specs = [sources.environment_of(part) for part in parts]
    for name, part, spec in zip(names, parts, specs, strict=True):
        for side in ("observation_space", "action_space"):
            first, other = getattr(specs[0], side), getattr(spec, side)
            if part.features != parts[0].features or describe_space(first) != describe_space(other):
                raise UsageError(
                    f"{names[0]} has {side.removesuffix('_space')}s {describe_space(first)}, {name} has "
                    f"{describe_space(other)}: give data sets of one environment"
                )
    merged = concatenate_datasets(parts)
    merged.info.description = parts[0].info.description
    return merged


def make_layout(given: flags.Train, spec: "EnvironmentSpec") -> "Layout":
    """Return the preset that --layout names, or what its JSON file says."""
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
        )
    if not Path(given.layout).is_file():
        raise UsageError(
            f"no layout {given.layout!r}{suggest(given.layout, PRESETS)} "
            f"(give one of {', '.join(PRESETS)}, or a layout.json)"
        )
    try:
        return Layout.from_json(read_json(Path(given.layout)))
    except (DataError, UsageError) as error:
        raise type(error)(f"{given.layout}: {error}") from error


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
    if given.env and given.env != spec.id:
        spec = replace(spec, id=given.env, reference_returns=None)
    return spec, envs


def make_evaluation(
    given: flags.Train, spec: "EnvironmentSpec", layout: "Layout", data_returns: Mapping[str, float]
) -> "Callable[[SequenceModel], dict[str, float]] | None":
    """Return what measures a model in the environment while training; None where there is no environment to be had."""
    from seqdec.environment import check_spaces
    from seqdec.evaluation import evaluate, resolve_targets

    targets: list[float | None] = [*resolve_targets(given.target_return, data_returns)]
    words: list[str] = list(given.target_return)
    if not reads_return(layout):
        words, targets = ["unasked"], [None]
    elif is_main_process():
        note_far_targets(targets, data_returns)
    if not is_main_process():
        return None
    try:
        env_spec, envs = open_envs(given, spec, min(given.num_envs, given.episodes))
    except UsageError as error:
        if given.env or given.trust_env:
            raise
        # Training needs no environment; the first evaluation will.
        logger.warning("training without evaluations: %s", error)
        return None
    check_spaces(spec, envs)

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
        return {f"eval/return_{word}": result.mean for word, result in zip(words, report.targets, strict=True)}

    return measure


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


def make_backbone(given: flags.Train, layout: "Layout") -> "Backbone":
    """Return the transformer that --backbone, --init, --num-layers and --finetune name."""
    from seqdec.backbone import load_backbone

    return load_backbone(
        given.backbone,
        init=given.init,
        num_layers=given.num_layers or (SMOLLM2_LAYERS if given.backbone == "smollm2" else None),
        finetune=given.finetune,
        dropout=given.dropout,
        seed=given.seed,
        num_tokens=layout.num_tokens,
    )


def backbone_rate(given: flags.Train, init: str) -> float:
    """Return the rate of the backbone's own parameters: what is pretrained moves slowly unless told otherwise."""
    if given.backbone_learning_rate is not None:
        return given.backbone_learning_rate
    return given.learning_rate / 10 if init == "pretrained" else given.learning_rate


def describe_run(given: flags.Train, folder: Path, dataset: "Dataset", layout: "Layout", model: "SequenceModel") -> str:
    """Return, in lines, what is about to be trained, on what, as what."""
    from seqdec import sources

    returns = model.data.returns
    sizes = [parameter.numel() for parameter in model.parameters()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    dtypes = ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in learning}))
    source = model.backbone_source.source
    layers = "all layers" if not source.num_layers else f"first {source.num_layers} layers"
    layers = "first layer" if source.num_layers == 1 else layers
    slots = " | ".join("+".join(slot) for slot in layout.step)
    rows = [
        ("data", f"{', '.join(given.data)}: {len(dataset):,} episodes, {int(sources.lengths(dataset).sum()):,} "
                 f"timesteps, returns {returns['min']:.4g} to {returns['max']:.4g}"),
        ("sequence", f"{slots}; {layout.context_length} timesteps, {layout.num_tokens} tokens"),
        ("backbone", f"{source.name}, {source.init}, {layers}, finetuned: {source.finetune}"),
        ("parameters", f"{sum(sizes) / 1e6:.1f} M, {sum(p.numel() for p in learning) / 1e6:.1f} M learn ({dtypes})"),
        ("run", f"{folder}: {given.steps} steps of {given.batch_size} windows"),
    ]  # fmt: skip
    return "\n".join(f"{name:<11} {text}" for name, text in rows)


def make_config(given: flags.Train, dataset: "Dataset") -> dict[str, object]:
    """Return what config.json holds: every flag, the versions, the data by content, the machine's share."""
    import torch

    from seqdec import sources
    from seqdec.training import join_processes

    digest = hashlib.sha256(sources.lengths(dataset).tobytes())
    for name in ("reward", "action"):
        for values in sources.column(dataset, name):
            digest.update(values.tobytes())
    return {
        "flags": flags.to_config(given),
        "versions": {"python": platform.python_version(), **installed_versions()},
        "data": {
            "episodes": len(dataset),
            "timesteps": int(sources.lengths(dataset).sum()),
            "sha256": digest.hexdigest(),
        },
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
    if before.get("data") != config["data"]:
        raise UsageError(
            f"{folder} was trained on other data (before: {before.get('data')}, now: {config['data']}): "
            "give that data, or begin a new run with another --output"
        )
    was, now = before.get("flags"), config["flags"]
    assert isinstance(was, Mapping) and isinstance(now, Mapping)
    for name in (name for name in now if was.get(name, now[name]) != now[name]):
        change = f"{flags.flag(name)} was {was[name]}, is {now[name]}"
        if name in FIXED_FLAGS:
            raise UsageError(f"{change}: go on without it, or begin a new run with another --output")
        if name in STEERING_FLAGS and is_main_process():
            logger.warning("%s: the run will not equal an unbroken one", change)


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
