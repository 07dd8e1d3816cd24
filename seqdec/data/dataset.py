"""Episodes as a data set, and back: in memory or in a folder."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.table import MemoryMappedTable, concat_tables

from seqdec import storage
from seqdec.data.arrow import from_rows
from seqdec.data.check import check
from seqdec.data.episode import Episode, Row, final_name
from seqdec.data.schema import dataset_of, environment_of, features_of
from seqdec.errors import DataError, UsageError, suggest
from seqdec.spaces.leaves import MISSING, leaf_dtype, leaf_kind, shape_of_missing, split, stack
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
    dataset = from_rows((_as_row(episode, spec, index) for index, episode in enumerate(episodes)), spec)
    check(dataset)
    return dataset


def episode_at(dataset: Dataset, index: int) -> Episode:
    """Return a row as an episode, its arrays in the shapes that the environment gives."""
    spec = environment_of(dataset)
    row = dict(dataset[index])
    for name, leaf in {**spec.observation_leaves, **spec.action_leaves}.items():
        shape, kept = tuple(leaf.shape or ()), leaf_dtype(leaf)
        names = [(name, (-1, *shape), kept), (MISSING + name, (-1, *shape_of_missing(leaf)), np.dtype(bool))]
        if name in spec.observation_leaves:
            names += [
                (final_name(name), shape, kept),
                (MISSING + final_name(name), shape_of_missing(leaf), np.dtype(bool)),
            ]
        for key, wanted, dtype in names:
            if key in row:
                row[key] = np.asarray(row[key], dtype).reshape(wanted if leaf_kind(leaf) != "text" else wanted[:1])
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
    state = storage.read_json(storage.inside(folder, "state.json"))
    info = storage.read_json(storage.inside(folder, "dataset_info.json"))
    description, files = info.get("description"), state.get("_data_files")
    if not isinstance(description, str) or not isinstance(files, list) or not files:
        raise DataError(f"{folder} names no Arrow files or no environment: make it again with seqdec data")
    try:
        spec = EnvironmentSpec.from_json(json.loads(description))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / 'dataset_info.json'}: {error}") from error
    tables = []
    for entry in files:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise DataError(f"{folder / 'state.json'} names an Arrow file by {quote(name)}: expected a text")
        path = storage.inside(folder, name)
        try:
            table = MemoryMappedTable.from_file(str(path))
            table.table.validate()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: damaged or cut off; make or fetch the data set again") from error
        if not table.schema.equals(features_of(spec, table.schema.names, table.schema).arrow_schema):
            raise DataError(f"{path} has other columns than its environment's data: make the data set again")
        tables.append(table)
    return dataset_of(concat_tables(tables), spec)


def load_folder(folder: Path) -> Dataset:
    """Open a folder that `save` or `convert` wrote, memory-mapped, once its files and values are checked."""
    storage.verify(folder)
    dataset = open_folder(folder)
    check(dataset)
    return dataset


def row_of(episode: Episode) -> Row:
    """Return an episode as a row, refusing what a data set does not keep."""
    known = ("observation", "action", "reward", "missing")
    extra = sorted(name for name in episode.steps if name.split(".")[0] not in known)
    if extra:
        raise UsageError(f"a data set keeps observation, action and reward, not {extra[0]!r}: leave it out")
    for name, missing in episode.steps.items():
        if name.split(".")[:2] == ["missing", "action"] and missing.any():
            step = int(np.flatnonzero(missing.reshape(len(missing), -1).any(axis=1))[0])
            raise DataError(f"{name.removeprefix(MISSING)} is not known at step {step}: every step needs an action")
    return episode.to_row()


_COLLECTED = ("observation", "action", "reward", "final", "terminated", "truncated", "text", "metadata")


def _as_row(episode: Episode | Mapping[str, object], spec: EnvironmentSpec, index: int) -> Row:
    if isinstance(episode, Episode):
        return row_of(episode)
    for name in episode:
        if name not in _COLLECTED:
            nearest = suggest(str(name), _COLLECTED) or f" (known are {', '.join(_COLLECTED)})"
            raise DataError(f"episode {index} has an unknown {quote(name)}{nearest}")
    lacking = next((name for name in ("observation", "action", "reward") if name not in episode), None)
    if lacking is not None:
        raise DataError(f"episode {index} has no {lacking}")
    try:
        return row_of(_collected(episode, spec))
    except DataError as error:
        raise DataError(f"episode {index}: {error}") from error


def _collected(episode: Mapping[str, object], spec: EnvironmentSpec) -> Episode:
    rewards = np.atleast_1d(np.asarray(episode["reward"]))
    if len(rewards) == 0:
        raise DataError("it has no steps: give at least one")
    given = {name: stack(value) if isinstance(value, list) else value for name, value in episode.items()}
    seen = split(spec.observation_space, given["observation"], "observation")  # pyright: ignore[reportArgumentType]
    if "final" in episode:
        final = split(spec.observation_space, stack([episode["final"]]), "observation")
        num_seen = len(next(iter(seen.values())))
        for name in final.keys() - seen.keys():  # nothing was missing before
            seen[name] = np.zeros((num_seen, *final[name].shape[1:]), bool)
        seen = {
            name: np.concatenate([values, final.get(name, np.zeros_like(values[:1]))]) for name, values in seen.items()
        }
    done = split(spec.action_space, given["action"], "action")  # pyright: ignore[reportArgumentType]
    for name, values in seen.items():
        if len(values) != len(rewards) + 1:
            hint = "" if "final" in episode else ': give one more than rewards, or the last one as "final"'
            raise DataError(f"{name} has {len(values)} rows for {len(rewards)} rewards{hint}")
    metadata = episode.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise DataError(f"metadata is {kind_of(metadata)}: expected a dict")
    for name in ("terminated", "truncated"):
        if not isinstance(episode.get(name), bool | np.bool_ | int | np.integer | None):
            raise DataError(f"{name} is {kind_of(episode[name])}: say of the whole episode, True or False")
    finals = {name: values[-1] for name, values in seen.items()}
    return Episode(
        {**{name: values[:-1] for name, values in seen.items()}, **done, "reward": rewards},
        final=finals,
        terminated=bool(episode.get("terminated")),
        truncated=bool(episode.get("truncated", not episode.get("terminated"))),
        text=str(episode.get("text", "")),
        metadata=metadata,
    )
