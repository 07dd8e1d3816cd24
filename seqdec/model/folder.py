"""A policy folder: one model, or those of several tasks around one backbone. Nothing in it is executable.

    policy/   backbone/            in Hugging Face format, once
              codecs.safetensors   everything else that was learned, and how values are normalised
              layout.json          the order of tokens, and how an episode is told
              policy.json          format, environment, returns of the data
              README.md            the model card

Of several tasks the last four stand in `tasks/NAME/`, without cards. It loads and acts without the data set.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

import seqdec
from seqdec import storage
from seqdec.errors import DataError, UsageError, foreign, suggest
from seqdec.model.backbone import Backbone, BackboneSource, reload_backbone, save_backbone, whole
from seqdec.model.sequence_model import RETURNS, DataSummary, SequenceModel
from seqdec.model.tasks import TASK_NAME, by_task, check_tasks
from seqdec.sequence.layout import Layout
from seqdec.spaces.spec import EnvironmentSpec

# 1 had discount, delayed_reward and prompt_dropout in policy.json, which the layout tells now; up to 2, words had an
# embedding of their timestep.
FORMAT = 3
OWN_FILES = ("policy.json", "layout.json", "codecs.safetensors")
READABLE = (".json", ".safetensors", ".model", ".txt", ".tiktoken", ".jinja")  # by transformers and tokenizers


def save_policy(
    models: SequenceModel | Mapping[str, SequenceModel], folder: Path | str, *, merge: bool = False
) -> None:
    """Publish a policy folder, replacing what is there, so that it stands whole or not at all.

    With `merge`, LoRA's matrices are added to the weights, and the folder needs no other backbone.

    Raises:
        StorageError: it cannot be written; the old folder is kept.
        UsageError: a task has no good name, or a backbone of its own.
    """
    with storage.publish(Path(folder), replace=True) as open_folder:
        write_policy(models, open_folder, merge=merge)


def write_policy(
    models: SequenceModel | Mapping[str, SequenceModel], open_folder: Path, *, merge: bool = False
) -> None:
    """Write a policy's files into a folder that somebody else publishes."""
    tasks = by_task(models)
    check_tasks(tasks)
    (open_folder / "backbone").mkdir(parents=True)
    backbone = next(iter(tasks.values())).backbone_source
    backbone = whole(backbone) if merge else backbone
    save_backbone(backbone, open_folder / "backbone")
    if "" in tasks:
        _write_task(tasks[""], open_folder)
        storage.write_text(open_folder / "README.md", _card(tasks[""], backbone.source))
        return
    for name, model in tasks.items():
        (open_folder / "tasks" / name).mkdir(parents=True)
        _write_task(model, open_folder / "tasks" / name)
    description = {"format": FORMAT, "seqdec": seqdec.__version__, "tasks": list(tasks)}
    storage.write_json(open_folder / "policy.json", description)


def load_policy(folder: Path | str, *, task: str = "", merge_adapters: bool = False) -> SequenceModel:
    """Read the model of one task from a policy folder; it is in evaluation mode, on the CPU.

    Args:
        folder: what `save_policy` wrote.
        task: which of several; an only one need not be named.
        merge_adapters: add LoRA's matrices to the weights, which acts faster.

    Raises:
        DataError: for a folder that is no policy, is damaged, or is of a newer format.
        UsageError: there is no such task, or there are several and none was named.
    """
    models = load_tasks(folder, merge_adapters=merge_adapters)
    names = ", ".join(models)
    if "" in models:
        if task:
            raise UsageError(f"this policy has one task only: ask for it without the name {task!r}", option="task")
        return models[""]
    if not task and len(models) > 1:
        raise UsageError(f"this policy has several tasks: name one of them ({names})", option="task")
    if task and task not in models:
        raise UsageError(f"no task {task!r}{suggest(task, models)}: this policy has {names}", option="task")
    return models[task or next(iter(models))]


def load_tasks(folder: Path | str, *, merge_adapters: bool = False) -> dict[str, SequenceModel]:
    """Read the models of all tasks from a policy folder, around one backbone; "" is the key of an only, unnamed one.

    Raises:
        DataError: as `load_policy`.
    """
    folder = Path(folder)
    listed = storage.verify(folder)
    storage.check_named(folder, listed, ["policy.json", *_read_by_transformers(folder)])
    parts = {"": folder}
    if (folder / "tasks").is_dir():
        names = storage.read_json(folder / "policy.json").get("tasks")
        if not isinstance(names, list) or not names or not all(TASK_NAME.fullmatch(str(name)) for name in names):
            raise DataError(f"{folder} is no policy of several tasks: its policy.json names none")
        parts = {str(name): folder / "tasks" / str(name) for name in names}
    files = [(part / file).relative_to(folder).as_posix() for part in parts.values() for file in OWN_FILES]
    storage.check_named(folder, listed, files)
    with foreign(f"{folder} is no policy that this seqdec can load: get it again"):
        described = {name: _read_description(part) for name, part in parts.items()}
        backbone = reload_backbone(folder / "backbone", merge_adapters=merge_adapters)
        return {name: _read_task(parts[name], backbone, *described[name]) for name in parts}


def _read_by_transformers(folder: Path) -> list[str]:
    """Return the names of what is in a policy's backbone and could be read from there; pickles are not."""
    backbone = storage.path_inside(folder, "backbone")
    paths = [path for path in backbone.rglob("*") if path.is_symlink() or path.suffix in READABLE]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _write_task(model: SequenceModel, folder: Path) -> None:
    """Write everything but the backbone."""
    storage.write_tensors(folder / "codecs.safetensors", model.own_state())
    storage.write_json(folder / "layout.json", model.layout.to_json())
    description = {
        "format": FORMAT,
        "seqdec": seqdec.__version__,
        "environment": model.data.spec.to_json(),
        "data_returns": dict(model.data.returns),
        "text": model.data.text,
    }
    storage.write_json(folder / "policy.json", description)


def _read_description(folder: Path) -> tuple[Layout, DataSummary]:
    policy = storage.read_json(folder / "policy.json")
    if policy.get("format") not in range(1, FORMAT + 1):
        raise DataError(
            f"{folder} has policy format {policy.get('format')!r}; this seqdec {seqdec.__version__} reads 1 to "
            f"{FORMAT}: the folder was written by seqdec {policy.get('seqdec')!r}"
        )
    layout = Layout.from_json(storage.read_json(folder / "layout.json"))
    try:
        if policy["format"] == 1:
            discount, is_delayed = float(policy["discount"]), bool(policy["delayed_reward"])
            dropout = float(policy.get("prompt_dropout", 0.0))
            layout = replace(layout, discount=discount, delayed_reward=is_delayed, prompt_dropout=dropout)
        if policy["format"] < 3:
            layout = replace(layout, timed_words=any(layout.variable(slot[0]).is_words for slot in layout.step))
        spec = EnvironmentSpec.from_json(policy["environment"])
        returns = {name: float(policy["data_returns"][name]) for name in RETURNS}
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DataError(f"{folder / 'policy.json'} is no policy description: {error}") from error
    return layout, DataSummary(spec, returns, str(policy.get("text", "")))


def _read_task(folder: Path, backbone: Backbone, layout: Layout, data: DataSummary) -> SequenceModel:
    source = folder / "codecs.safetensors"
    shapes = storage.tensor_shapes(source)
    # what a layout declares takes memory when it is made: its shapes alone are made first, and compared
    with torch.device("meta"):
        expected = {
            name: tuple(value.shape) for name, value in SequenceModel(layout, backbone, data).own_state().items()
        }
    for name, shape in expected.items():
        if shapes.get(name) != shape:
            raise DataError(f"{source}: {name} should have shape {shape}, found {shapes.get(name, 'nothing')}")
    unknown = sorted(shapes.keys() - expected.keys())
    if unknown:
        raise DataError(f"{source} holds {unknown[0]!r}, which the layout does not know")
    model = SequenceModel(layout, backbone, data)
    model.load_state_dict(storage.read_tensors(source), strict=False)
    return model.eval()


def _card(model: SequenceModel, source: BackboneSource) -> str:
    spec, returns = model.data.spec, model.data.returns
    slots = (*model.layout.prompt, *model.layout.step)
    env = storage.plain_text(spec.id or "an unnamed environment")
    return (
        "---\nlibrary_name: seqdec\ntags:\n- reinforcement-learning\n- decision-transformer\n---\n\n"
        f"# A seqdec policy for {env}\n\n"
        f"- backbone: {storage.plain_text(source.name)} ({source.init}, finetuned: {source.finetune})\n"
        f"- layout: {' '.join('+'.join(slot) for slot in slots)}, {model.layout.context_length} timesteps\n"
        f"- returns in the data: {returns['min']:.6g} to {returns['max']:.6g}\n\n"
        "Act with it:\n\n```\nseqdec eval PATH_OF_THIS_FOLDER --target-return max\n```\n"
        f"{_prompt_of(model, source)}"
    )


def _prompt_of(model: SequenceModel, source: BackboneSource) -> str:
    """Return how to ask a language model by whatever reads one; nothing of other models."""
    layout, vocabulary = model.layout, model.vocabulary
    if not layout.is_language or vocabulary is None:
        return ""
    slots = [layout.variable(name) for name in (*layout.prompt_names, *layout.step_names)]
    words = "".join(f"{slot.before}{{{slot.name}}}{slot.end}" for slot in slots)
    what = "is a plain Hugging Face causal language model with its tokenizer"
    if source.finetune == "lora":
        what = (
            f"holds PEFT adapters of {storage.plain_text(source.name)}, and its tokenizer: "
            '`PeftModel.from_pretrained(base, "backbone").merge_and_unload()` is a plain Hugging Face causal language '
            "model"
        )
    return (
        f"\n`backbone/` {what}. Tokenize each piece by "
        "itself, without special tokens, and write them in this order, those of a timestep again and again; a "
        f"text ends where its line does:\n\n```\n{vocabulary.decode([vocabulary.first])}{words}\n```\n\n"
        f"The prompt is {', '.join(layout.prompt_names) or 'empty'}, a timestep {', '.join(layout.step_names)}. "
        "Numbers have four digits that count; what is not known is a question mark.\n"
    )
