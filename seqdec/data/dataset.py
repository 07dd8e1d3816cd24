"""Episodes as a data set, and back: in memory or in a folder."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset
from datasets.table import MemoryMappedTable, concat_tables

from seqdec import storage
from seqdec.data.arrow import from_rows
from seqdec.data.check import check
from seqdec.data.episode import Episode, Row, final_name, make_row
from seqdec.data.schema import dataset_of, environment_of, features_of
from seqdec.errors import DataError, foreign, suggest
from seqdec.spaces.leaves import MISSING, leaf_dtype, shape_of_missing, split, stack
from seqdec.spaces.space import kind_of, quote
from seqdec.spaces.spec import EnvironmentSpec


def from_episodes(episodes: Iterable[Episode | Mapping[str, object]], spec: EnvironmentSpec) -> Dataset:
    """Return a data set of these episodes, checked against the spec; an iterator is read as it comes.

    Args:
        episodes: each an `Episode`, or a dict of what was collected: "observation" (nested as the space is with an
            axis of time, or a list of what the environment gave; T + 1 of them, or T and "final"), "action" and
            "reward" [T], "terminated" and "truncated" (an episode with neither counts as truncated), and, if known,
            "text" and "metadata".
        spec: the environment they come from.

    Raises:
        DataError: with the episode, and what does not fit.
    """
    dataset = from_rows((_row_of(episode, spec, index) for index, episode in enumerate(episodes)), spec)
    check(dataset, warns=True)
    return dataset


def episode_at(dataset: Dataset, index: int) -> Episode:
    """Return a row as an episode, its arrays in the shapes that the environment gives."""
    spec = environment_of(dataset)
    row = dict(dataset[index])
    for name, leaf in {**spec.observation_leaves, **spec.action_leaves}.items():
        dtype = np.dtype(np.float64) if name in spec.offsets else leaf_dtype(leaf)
        kinds = (("", dtype, leaf.shape or ()), (MISSING, np.dtype(bool), shape_of_missing(leaf)))
        for prefix, dtype, shape in kinds:
            for key, axes in ((prefix + name, (-1,)), (prefix + final_name(name), ())):
                if key in row:
                    row[key] = np.asarray(row[key], dtype).reshape((*axes, *shape))
    return Episode.from_row(row)


def save(dataset: Dataset, folder: Path | str, *, replace: bool = False) -> None:
    """Write a data set to a folder, whole or not at all."""
    environment_of(dataset)
    shown = not datasets.are_progress_bars_disabled()
    with storage.publish(Path(folder), replace=replace) as target:
        datasets.disable_progress_bars()
        try:
            dataset.save_to_disk(str(target))
        finally:
            if shown:
                datasets.enable_progress_bars()


def open_folder(folder: Path) -> Dataset:
    """Map the Arrow files that a folder's state names, if their columns are what its environment asks for."""
    info = storage.read_json(storage.path_inside(folder, "dataset_info.json"))
    description = info.get("description")
    if not isinstance(description, str):
        raise DataError(f"{folder} names no environment: make it again with seqdec data")
    try:
        spec = EnvironmentSpec.from_json(json.loads(description))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / 'dataset_info.json'}: {error}") from error
    tables = []
    for path in arrow_files(folder):
        with foreign(f"{path} cannot be read: damaged or cut off; make or fetch the data set again"):
            table = MemoryMappedTable.from_file(str(path))
            table.table.validate()
        if not table.schema.equals(features_of(spec, table.schema).arrow_schema):
            raise DataError(f"{path} has other columns than its environment's data: make the data set again")
        tables.append(table)
    return dataset_of(concat_tables(tables), spec)


def arrow_files(folder: Path) -> list[Path]:
    """Return the Arrow files that the state of a folder names, which `datasets` saved."""
    state = storage.read_json(storage.path_inside(folder, "state.json"))
    entries = state.get("_data_files")
    names = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if not names or not all(isinstance(name, str) for name in names) or state.get("_indices_data_files"):
        raise DataError(f"{folder / 'state.json'} names no Arrow files: make or save the data set again")
    paths = [storage.path_inside(folder, str(name)) for name in names]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise DataError(f"{missing} is missing, which {folder / 'state.json'} names: copy or fetch the folder again")
    return paths


def load_folder(folder: Path) -> Dataset:
    """Open a folder that `save` or `convert` wrote, memory-mapped, once its files and values are checked."""
    listed = storage.verify(folder)
    storage.check_named(folder, listed, ("dataset_info.json", "state.json"))
    storage.check_named(folder, listed, [path.relative_to(folder).as_posix() for path in arrow_files(folder)])
    dataset = open_folder(folder)
    check(dataset, warns=True)
    return dataset


_COLLECTED = ("observation", "action", "reward", "final", "terminated", "truncated", "text", "metadata")


def _row_of(episode: Episode | Mapping[str, object], spec: EnvironmentSpec, index: int) -> Row:
    if isinstance(episode, Episode):
        return episode.to_row()
    try:
        return _collected_row(episode, spec)
    except DataError as error:
        raise DataError(f"episode {index}: {error}") from error


def _collected_row(episode: Mapping[str, object], spec: EnvironmentSpec) -> Row:
    for name in episode:
        if name not in _COLLECTED:
            nearest = suggest(str(name), _COLLECTED) or f" (known are {', '.join(_COLLECTED)})"
            raise DataError(f"it has an unknown {quote(name)}{nearest}")
    lacking = next((name for name in ("observation", "action", "reward") if name not in episode), None)
    if lacking is not None:
        raise DataError(f"it has no {lacking}")
    metadata = episode.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise DataError(f"metadata is {kind_of(metadata)}: expected a dict")
    for name in ("terminated", "truncated"):
        if not isinstance(episode.get(name), bool | np.bool_ | int | np.integer | None):
            raise DataError(f"{name} is {kind_of(episode[name])}: say of the whole episode, True or False")
    rewards = np.atleast_1d(np.asarray(episode["reward"]))
    if len(rewards) == 0:
        raise DataError("it has no steps: give at least one")
    batches = {name: stack(value) if isinstance(value, list) else value for name, value in episode.items()}
    observed = split(spec.observation_space, batches["observation"], "observation")  # pyright: ignore[reportArgumentType]
    acted = split(spec.action_space, batches["action"], "action")  # pyright: ignore[reportArgumentType]
    final = None
    if "final" in episode:
        last = split(spec.observation_space, stack([episode["final"]]), "observation")
        final = {name: values[0] for name, values in last.items()}
    return make_row(
        {**observed, **acted, "reward": rewards},
        final,
        terminated=bool(episode.get("terminated")),
        truncated=bool(episode.get("truncated", not episode.get("terminated"))),
        text=str(episode.get("text", "")),
        metadata=metadata,
    )
