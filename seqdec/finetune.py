"""The door: `finetune(data) -> Policy`, and the assembly of every training run, once.

    data set -> layout -> windows -> models around one backbone -> train -> policy

`finetune` goes this way in one call; the verb `train` of the command line goes it by the same functions, with every
option that each of them has. Nothing here knows a flag, and nothing heavy is imported before it is needed.
"""

import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from seqdec.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from seqdec.inference.policy import Policy
    from seqdec.model.sequence_model import SequenceModel
    from seqdec.sequence.layout import Layout
    from seqdec.sequence.stream import StreamWindows
    from seqdec.sequence.variable import Numbers
    from seqdec.sequence.windows import Windows
    from seqdec.spaces.spec import EnvironmentSpec
    from seqdec.training.loop import Outcome

    Data = Dataset | str | Path

# Of SmolLM2's 30 layers the first 6 go far with numbers, and train in minutes on a laptop. Words want all of them: the
# lower ones know them as they are.
SMOLLM2_LAYERS, SMOLLM2_FROZEN = 6, 20
PROMPT_DROPOUT = 0.2  # where the prompt has facts


@dataclass(frozen=True)
class Task:
    """What one task is trained on, how often it is drawn beside others, and what a run keeps of its data."""

    windows: "Windows | StreamWindows"
    heldout: "Windows | None"
    weight: float = 1.0
    size: str = ""
    identity: Mapping[str, object] = field(default_factory=dict)


def finetune(
    dataset: "Data | Mapping[str, Data]",
    backbone: str = "smollm2",
    *,
    layout: "str | Layout" = "multi_game",
    context_length: int = 10,
    prompt: Sequence[str] = (),
    init: Literal["pretrained", "random"] = "pretrained",
    num_layers: int | None = None,
    finetune: Literal["full", "lora", "frozen"] = "full",
    freeze_layers: int | None = None,
    numbers: "Numbers | None" = None,
    steps: int = 300,
    batch_size: int = 32,
    eval_every: int = 100,
    checkpoint_every: int = 100,
    heldout_fraction: float = 0.1,
    seed: int = 0,
    output: str | Path | None = None,
    **training: Any,  # each is checked by `train`, whose keywords they are
) -> "Policy":
    """Train a backbone on episodes and return what it has learned as a policy.

    Args:
        dataset: Episodes, or what `load_dataset` takes; of several tasks a dict of them, around one backbone.
        backbone: `smollm2`, `small`, a Hugging Face id or a folder.
        layout: A preset of `layout_from_spaces`, or a `Layout`, with a context length and a prompt of its own.
        context_length: Timesteps that the model sees.
        prompt: Facts about the episode to put before it.
        init: The backbone's own weights, or its random twin.
        num_layers: Use the first layers only; by default 6 of `smollm2` that predicts no words, and all of another.
        finetune: What of the backbone learns.
        freeze_layers: How many lower layers do not; by default 20 of pretrained `smollm2` that predicts words.
        numbers: How returns and rewards are written: as embeddings, or in words, as is the default where all else is.
        heldout_fraction: Share of the episodes held out for the held-out loss.
        output: Folder to keep the run in, with `policy/`, `metrics.jsonl` and checkpoints; by default nothing is kept.
        training: Further keywords of `train`; `backbone_rate` says what the backbone's rate is by default.

    Returns:
        The policy, as `policy_of` makes it; of several tasks the first one's, and `output` has all of them by name.

    Raises:
        UsageError: There is no such data, layout or backbone, they do not fit, or several tasks have no `output`.
        DataError: The data are damaged, or cannot be trained on.

    Example:
        >>> policy = finetune("data/cartpole", "small", steps=300)  # doctest: +SKIP
    """
    _check_numbers(num_layers, heldout_fraction, seed)
    preset = {"prompt": prompt, "context_length": context_length, "numbers": numbers, "backbone": backbone}
    tasks = _split_tasks(dataset, layout, output, heldout_fraction, seed, training.get("resume", False), **preset)
    parts = {"num_layers": num_layers, "finetune": finetune, "freeze_layers": freeze_layers}
    checkpoint = _newest_sound(output) if training.get("resume") else None
    models = make_models(tasks, backbone, init=init, seed=seed, checkpoint=checkpoint, **parts)
    policy_of(models, seed=seed)  # what it cannot be asked for is refused before it is trained
    training |= {"steps": steps, "batch_size": batch_size, "eval_every": eval_every, "seed": seed}
    with TemporaryDirectory(prefix="seqdec-") if output is None else nullcontext(output) as folder:
        outcome = train_tasks(models, tasks, out=folder, checkpoint_every=checkpoint_every, **training)
    if outcome.stopped_by is not None:
        signal.raise_signal(signal.Signals[outcome.stopped_by])  # training ended in order: the caller's turn
    return policy_of(models, seed=seed)


def _newest_sound(output: "str | Path | None") -> Path | None:
    from seqdec.training.checkpoints import newest_sound

    return None if output is None else newest_sound(Path(output), quiet=True)


def policy_of(models: "Mapping[str, SequenceModel]", *, seed: int) -> "Policy":
    """Return the first task's policy, which asks for the data's highest return where it does not choose one itself."""
    from seqdec.inference.evaluation import reads_return
    from seqdec.inference.policy import Policy

    model = next(iter(models.values()))
    chooses = "return_to_go" in model.layout.predicted or not reads_return(model.layout)
    return Policy(model, None if chooses else model.data.returns["max"], seed=seed)


def _check_numbers(num_layers: int | None, heldout_fraction: float, seed: int) -> None:
    if num_layers is not None and num_layers < 1:
        raise UsageError(f"num_layers is {num_layers}: give 1 or more, or None for the default", option="num_layers")
    if not 0 <= heldout_fraction < 1:
        raise UsageError(
            f"heldout_fraction is {heldout_fraction:g}: give a share from 0 to below 1", option="heldout_fraction"
        )
    if seed < 0:
        raise UsageError(f"seed is {seed}: give 0 or more", option="seed")


def _split_tasks(
    dataset: "Data | Mapping[str, Data]",
    layout: "str | Layout",
    output: str | Path | None,
    heldout_fraction: float,
    seed: int,
    resume: bool,
    **preset: Any,
) -> dict[str, Task]:
    """Return the tasks of `finetune`, whose arguments these are; `preset` is for `make_layout`."""
    from datasets import DatasetDict

    from seqdec.data.schema import environment_of
    from seqdec.formats.load import load_dataset

    # a DatasetDict holds the splits of one data set, which load_dataset refuses
    is_of_tasks = isinstance(dataset, Mapping) and not isinstance(dataset, DatasetDict)
    parts: Mapping[str, Data] = dataset if is_of_tasks else {"": dataset}  # pyright: ignore
    if not parts:
        raise UsageError("there are no tasks: give at least one data set")
    if len(parts) > 1 and output is None:
        raise UsageError("several tasks need an output: name the folder that keeps all of them")
    if output is not None and (Path(output) / "metrics.jsonl").exists() and not resume:
        raise UsageError(f"{output} already holds a run: choose another output, or go on with it by resume=True")
    tasks: dict[str, Task] = {}
    for name, part in parts.items():
        data = load_dataset(part)
        order = make_layout(layout, environment_of(data), data, **preset)
        tasks[name] = split_task(data, order, heldout_fraction=heldout_fraction, seed=seed, text=name)
    return tasks


def make_layout(
    layout: "str | Layout",
    spec: "EnvironmentSpec",
    dataset: "Dataset | None" = None,
    *,
    backbone: str = "small",
    prompt: Sequence[str] = (),
    prompt_dropout: float | None = None,
    **preset: Any,
) -> "Layout":
    """Return a layout as it is, or a preset for an environment, by keywords of `layout_from_spaces`.

    Texts of the observation that change within no episode of the data set stand in the prompt; all where none is known.
    Of conversations the system's text does, and the words around all texts are those of the backbone's chat template.
    """
    from seqdec.data.schema import changing_episode
    from seqdec.sequence.presets import layout_from_spaces
    from seqdec.spaces.leaves import leaf_kind
    from seqdec.spaces.spec import CHAT

    if not isinstance(layout, str):
        return layout
    texts = [name for name, leaf in spec.observation_leaves.items() if leaf_kind(leaf) == "text"]
    steady = [name for name in texts if dataset is None or changing_episode(dataset, name) is None]
    steady = ["text"] if spec.id == CHAT else steady
    preset |= {"prompt": [*prompt, *(name for name in steady if name not in prompt)], "missing": spec.missing}
    preset |= {"offsets": spec.offsets}
    if preset.get("numbers") is None:
        spaces = [*spec.observation_leaves.values(), *spec.action_leaves.values()]
        preset["numbers"] = "words" if all(leaf_kind(leaf) == "text" for leaf in spaces) else "embedding"
    order = layout_from_spaces(layout, spec.observation_space, spec.action_space, **preset)
    return with_prompt_dropout(_as_chat(order, backbone) if spec.id == CHAT else order, prompt_dropout)


def _as_chat(layout: "Layout", backbone: str) -> "Layout":
    from seqdec.model.frames import framed, frames_of

    frames = frames_of(backbone)
    return layout if frames is None else framed(layout, frames)


def with_prompt_dropout(layout: "Layout", prompt_dropout: float | None) -> "Layout":
    """Return a layout whose facts are unknown now and then: by default where there are facts or it may plan."""
    if prompt_dropout is None:
        may_plan = any(layout.variable(name).role == "observation" for name in layout.predicted)
        prompt_dropout = layout.prompt_dropout or (PROMPT_DROPOUT if layout.facts or may_plan else 0.0)
    return replace(layout, prompt_dropout=prompt_dropout)


def split_task(
    dataset: "Dataset",
    layout: "Layout",
    *,
    rows: "np.ndarray | None" = None,
    weights: "np.ndarray | None" = None,
    weight: float = 1.0,
    heldout_fraction: float,
    seed: int,
    text: str,
) -> Task:
    """Return the windows of a data set's episodes (those in `rows`), a share of which is held out.

    `weights` says how often an episode is drawn beside others, `weight` how often the task is.
    """
    import numpy as np

    from seqdec.sequence.windows import Windows, split_episodes

    rows = np.arange(len(dataset)) if rows is None else rows
    trained, held = (rows[part] for part in split_episodes(len(rows), heldout_fraction, seed))
    windows = Windows(dataset, layout, episodes=trained, weights=weights, text=text)
    return Task(windows, windows.select(held) if len(held) else None, weight)


def make_models(
    tasks: Mapping[str, Task],
    backbone: str,
    *,
    num_layers: int | None,
    freeze_layers: int | None,
    seed: int,
    checkpoint: Path | None = None,
    **options: Any,
) -> "dict[str, SequenceModel]":
    """Return a model of each task around one backbone, which has room for all their sequences and reads their texts.

    That of a `checkpoint` is the one to go on with; adapters need what was under them at first. `options` are further
    keywords of `load_backbone`.
    """
    from seqdec.model.backbone import load_backbone, reload_backbone
    from seqdec.model.sequence_model import build_model

    layouts = [task.windows.layout for task in tasks.values()]
    predicts_words, is_smollm2 = any(layout.predicts_words for layout in layouts), backbone == "smollm2"
    if freeze_layers is None:
        is_whole = is_smollm2 and not num_layers and options.get("init") != "random"  # random layers know no words
        freeze_layers = SMOLLM2_FROZEN if is_whole and predicts_words else 0
    parts = {
        "num_layers": num_layers or (SMOLLM2_LAYERS if is_smollm2 and not predicts_words else None),
        "freeze_layers": freeze_layers,
    }
    if checkpoint is not None and options.get("finetune") != "lora":
        loaded = reload_backbone(checkpoint / "policy" / "backbone", dropout=options.get("dropout"))
        _check_same_backbone(vars(loaded.source), {"name": backbone, **parts, **options})
    else:
        loaded = load_backbone(
            backbone,
            num_tokens=max(layout.num_tokens for layout in layouts),
            vocabulary=any(layout.has_words for layout in layouts),
            predicts_words=predicts_words,
            seed=seed,
            **parts,
            **options,
        )
    return {name: build_model(task.windows, loaded, seed=seed) for name, task in tasks.items()}


def _check_same_backbone(before: Mapping[str, object], asked: Mapping[str, object]) -> None:
    """Refuse to go on with another backbone than a run began with."""
    for name in ("name", "num_layers", "finetune", "lora_rank", "freeze_layers"):
        if asked.get(name, before[name]) != before[name]:
            was = f"the run's backbone has {name} {before[name]!r}, {asked[name]!r} is asked for"
            raise UsageError(f"{was}: resume with the settings of that run")


def train_tasks(
    models: "Mapping[str, SequenceModel]",
    tasks: Mapping[str, Task],
    *,
    learning_rate: float = 1e-3,
    backbone_learning_rate: float | None = None,
    **options: Any,
) -> "Outcome":
    """Train the models of tasks; `options` are further keywords of `train`."""
    from seqdec.training.loop import train

    source = next(iter(models.values())).backbone_source.source
    return train(
        models,
        {name: task.windows for name, task in tasks.items()},
        weights={name: task.weight for name, task in tasks.items()},
        heldout={name: task.heldout for name, task in tasks.items() if task.heldout is not None},
        learning_rate=learning_rate,
        backbone_learning_rate=backbone_rate(backbone_learning_rate, learning_rate, source.init),
        **options,
    )


def backbone_rate(rate: float | None, learning_rate: float, init: str) -> float:
    """Return the rate of the backbone's own parameters: pretrained weights move slowly unless asked otherwise."""
    if rate is not None:
        return rate
    return learning_rate / 10 if init == "pretrained" else learning_rate


class _Door(ModuleType):
    """This module bears its function's name: wherever Python has put the one for the other, calling it works."""

    def __call__(self, *arguments: object, **options: object) -> "Policy":
        return finetune(*arguments, **options)  # pyright: ignore[reportArgumentType]


sys.modules[__name__].__class__ = _Door
