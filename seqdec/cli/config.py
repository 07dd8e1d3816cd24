"""A run's config.json: what it keeps, how it becomes flags again, and whether a run may go on with others."""

import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import Field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin, get_type_hints

from seqdec.cli.console import installed_versions, is_main_process
from seqdec.cli.folders import split_task
from seqdec.cli.options import Flags, check_limits, expected_values, flag, kept, options_of, without_none
from seqdec.errors import UsageError, suggest

if TYPE_CHECKING:
    from seqdec.cli.train import Train
    from seqdec.finetune import Task

logger = logging.getLogger(__name__)


def from_config(kind: type[Flags], config: Mapping[str, object], where: str) -> Flags:
    """Return the record that a config.json holds, whole (as a run writes it) or its flags alone.

    Raises:
        UsageError: A key is unknown (the nearest one is named), or a value is of the wrong type or out of range.
    """
    values = config["flags"] if isinstance(config.get("flags"), Mapping) else config
    assert isinstance(values, Mapping)
    hints, known, entries = get_type_hints(kind), kept(kind), options_of(kind)
    record: dict[str, object] = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{where}: unknown key {name!r}{suggest(str(name), known)}")
        record[name] = _from_json(hints[name], entries[name], value, f"{where}: {name!r}")
    return kind(**record)


def to_config(flags: object) -> dict[str, object]:
    """Return the flags that config.json keeps."""
    values = {name: getattr(flags, name) for name in kept(type(flags))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _from_json(hint: object, entry: Field[object], value: object, where: str) -> object:
    """Return a value of a config.json as its option has it."""
    if value is None and entry.default is None:
        return None
    hint = without_none(hint)
    if get_origin(hint) is tuple:
        is_right = isinstance(value, list) and all(isinstance(word, str) for word in value)
        is_right = is_right and (value != [] or entry.default == ())
    elif get_origin(hint) is Literal:
        is_right = value in get_args(hint)
    else:
        kinds = (int, float) if hint is float else hint
        is_right = isinstance(value, kinds) and isinstance(value, bool) == (hint is bool)  # pyright: ignore
    if not is_right:
        raise UsageError(f"{where} is {value!r}: give {expected_values(hint)}")
    check_limits(where, entry, value)
    return tuple(value) if isinstance(value, list) else float(value) if hint is float else value  # pyright: ignore


def make_config(given: "Train", tasks: "Mapping[str, Task]") -> dict[str, object]:
    """Return what config.json holds: every flag, the versions, the data by content, the machine's share."""
    import torch

    from seqdec.training.processes import join_processes

    processes = join_processes()
    identities = {name: dict(task.identity) for name, task in tasks.items()}
    return {
        "flags": to_config(given),
        "versions": {"python": platform.python_version(), **installed_versions()},
        "data": identities[next(iter(tasks))] if len(tasks) == 1 else identities,
        "machine": {
            "device": str(processes.device),
            "processes": processes.num_processes,
            "threads": torch.get_num_threads(),
            "directory": os.getcwd(),  # what relative paths are relative to
        },
    }


def check_places(given: "Train", config: Mapping[str, object], where: str) -> None:
    """Refuse relative paths that lead to nothing from here, and say where they were relative to.

    Raises:
        UsageError: a file or folder is not here, and the config.json was written in another directory.
    """
    machine = config.get("machine")
    begun = machine.get("directory") if isinstance(machine, Mapping) else None
    if begun is None or begun == os.getcwd():
        return
    data = [split_task(word)[1].removeprefix("hdf5:") for word in given.data]
    for place in (*data, given.columns, given.language_text):
        if place and ":" not in place and not os.path.exists(place):
            raise UsageError(f"there is no {place!r} here: {where} has it relative to {begun!r}; give where it is now")


def check_same_run(given: "Train", folder: Path, config: Mapping[str, object]) -> None:
    """Refuse to go on with a run on other data or as another model than it began with."""
    from seqdec import storage
    from seqdec.spaces.space import quote

    before = storage.read_json(folder / "config.json")
    data = [value if isinstance(value, Mapping) else {} for value in (before.get("data"), config["data"])]
    if difference := storage.difference(*data):
        sizes = list(map(_size_of, data))
        change = f"{sizes[0]}, now {sizes[1]}"
        if sizes[0] == sizes[1]:
            change = f"{difference[0]} was {quote(difference[1])}, is {quote(difference[2])}"
        raise UsageError(
            f"{folder} was trained on other data ({change}): give that data, or begin a new run with another --output"
        )
    flags, flags_before, entries = to_config(given), before.get("flags", before), options_of(type(given))
    for name in (name for name in flags if flags_before.get(name, flags[name]) != flags[name]):
        change, resume = f"{flag(name)} was {flags_before[name]}, is {flags[name]}", entries[name].metadata["resume"]
        if resume == "fixed":
            raise UsageError(f"{change}: go on without it, or begin a new run with another --output")
        if resume == "steering" and is_main_process():
            logger.warning("%s: the run will not equal an unbroken one", change)


def _size_of(data: Mapping[str, object]) -> str:
    """Return in words what config.json keeps of a run's data."""
    if {"episodes", "timesteps"} <= data.keys():
        return f"{data['episodes']} episodes of {data['timesteps']} timesteps, sha256 {str(data.get('sha256'))[:8]}"
    if isinstance(source := data.get("source"), Mapping):
        return f"{source.get('kind')} {source.get('name', '')}".strip()
    tasks = [f"{task}: {_size_of(part)}" for task, part in data.items() if isinstance(part, Mapping)]
    return ", ".join(tasks) or "not known"
