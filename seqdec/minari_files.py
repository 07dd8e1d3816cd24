"""Minari's files, read without Minari: HDF5, Arrow and Parquet storage of vector and Discrete spaces.

    NAME-v0/data/metadata.json    totals, spaces, environment
                 main_data.hdf5   episode_0/observations [T+1], actions [T], rewards [T], terminations [T], ...
                 0/part-0.arrow   the same as a table of T+1 rows, the last one padded

Nothing that a file names is imported, made or called, no link is followed, and no declared size is believed.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from gymnasium.spaces import Box, Discrete

from seqdec import storage
from seqdec.environment import EnvironmentSpec
from seqdec.episode import RowValue
from seqdec.errors import DataError
from seqdec.spaces import quote

# Deflate packs at most about 1000 to 1: a file that declares more than it can hold is not read.
_MAX_RATIO = 1100
_HARD_LINK = 0  # H5L_TYPE_HARD of the HDF5 format
_NAMES = ("observations", "actions", "rewards", "terminations", "truncations")


def read_spec(folder: Path) -> EnvironmentSpec:
    """Return spaces and environment as the metadata of a data set's folder names them."""
    metadata = _metadata(folder)
    spaces = {}
    for name in ("observation", "action"):
        if f"{name}_space" not in metadata:
            raise DataError(
                f"{folder / 'metadata.json'} has no {name}_space: old sets leave it to the environment, "
                "which is never made from a file; save the set again with a newer Minari"
            )
        spaces[f"{name}_space"] = _nested(metadata, f"{name}_space", folder)
    env_spec = _nested(metadata, "env_spec", folder) if metadata.get("env_spec") is not None else {}
    if not isinstance(env_spec, Mapping):
        raise DataError(f"{folder / 'metadata.json'}: env_spec is {quote(env_spec)}, expected an object")
    wrappers = env_spec.get("additional_wrappers") or []
    names = [wrapper.get("entry_point") if isinstance(wrapper, Mapping) else wrapper for wrapper in wrappers]
    try:
        return EnvironmentSpec.from_json(
            {
                **spaces,
                **{key: env_spec.get(key) for key in ("id", "entry_point", "max_episode_steps")},
                "kwargs": env_spec.get("kwargs") or {},
                "wrappers": names,
                "reference_returns": _reference_returns(metadata),
                "requirements": metadata.get("requirements") or [],
            }
        )
    except DataError as error:
        raise DataError(f"{folder / 'metadata.json'}: {error}") from error


def read_rows(folder: Path, spec: EnvironmentSpec) -> Iterator[dict[str, RowValue]]:
    """Yield one row an episode and check the structure of each.

    Raises:
        DataError: after the last episode, with the first that is out of order and how many are; at once where
            the file itself cannot be read.
    """
    metadata = _metadata(folder)
    num_episodes, num_steps = (_total(metadata, name, folder) for name in ("total_episodes", "total_steps"))
    data_format = metadata.get("data_format", "hdf5")
    if data_format == "hdf5":
        episodes = _hdf5_episodes(folder / "main_data.hdf5", num_episodes)
    elif data_format in ("arrow", "parquet"):
        episodes = _table_episodes(folder, str(data_format), num_episodes)
    else:
        raise DataError(f"{folder / 'metadata.json'}: data_format is {quote(data_format)}, not hdf5, arrow or parquet")
    found_steps, offences = 0, []
    for index, raw in enumerate(episodes):
        try:
            row = _row(raw, spec)
        except DataError as error:
            offences.append(f"episode {index}: {error}")
            continue
        found_steps += len(raw["rewards"])
        yield row
    if offences:
        affected = f"{len(offences)} of {num_episodes} episodes are affected"
        raise DataError(f"{folder}: {offences[0]} ({affected}); fetch or record the data set again")
    if found_steps != num_steps:
        raise DataError(f"{folder}: expected {num_steps} steps, found {found_steps}; fetch the data set again")


def _metadata(folder: Path) -> dict[str, object]:
    return storage.read_json(storage.inside(folder, "metadata.json"))


def _nested(metadata: Mapping[str, object], key: str, folder: Path) -> object:
    """Read JSON that is a text within JSON, as Minari keeps spaces and environments."""
    text = metadata[key]
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / 'metadata.json'}: {key} is no JSON ({type(error).__name__})") from error


def _reference_returns(metadata: Mapping[str, object]) -> list[object] | None:
    scores = [metadata.get("ref_min_score"), metadata.get("ref_max_score")]
    if not all(isinstance(score, int | float) and math.isfinite(score) for score in scores):
        return None
    return scores if scores[0] != scores[1] else None


def _total(metadata: Mapping[str, object], name: str, folder: Path) -> int:
    value = metadata.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(f"{folder / 'metadata.json'}: {name} is {quote(value)}, expected a whole number")
    return value


def _row(raw: Mapping[str, np.ndarray], spec: EnvironmentSpec) -> dict[str, RowValue]:
    num_steps = len(raw["rewards"])
    if num_steps == 0:
        raise DataError("it has no steps")
    for name, expected in zip(_NAMES, (num_steps + 1, *[num_steps] * 4), strict=True):
        if len(raw[name]) != expected:
            why = "one per reward" if expected == num_steps else "one more than rewards"
            raise DataError(f"{name} has {len(raw[name])} rows, expected {expected}, {why}")
    rewards, terminations, truncations = (
        _scalars(raw[name], name, "biuf") for name in ("rewards", "terminations", "truncations")
    )
    observations = _values(raw["observations"], "observations", spec.observation_space)
    ends = np.flatnonzero((terminations != 0) | (truncations != 0))
    if len(ends) == 0:
        raise DataError("it is neither terminated nor truncated at its last step")
    if ends[0] != num_steps - 1:
        raise DataError(f"it ends at step {ends[0]} and goes on to step {num_steps - 1}")
    with np.errstate(over="ignore"):  # too large for float32 turns infinite and is found by the finite check
        rewards = rewards.astype(np.float32)
    return {
        "observation": observations[:-1],
        "action": _values(raw["actions"], "actions", spec.action_space),
        "reward": rewards,
        "final": observations[-1],
        "terminated": bool(terminations[-1]),
        "truncated": bool(truncations[-1]),
        "text": "",
    }


def _values(values: np.ndarray, name: str, space: object) -> np.ndarray:
    if isinstance(space, Discrete):
        return _scalars(values, name, "biu").astype(np.int64)
    assert isinstance(space, Box)
    if values.shape[1:] != space.shape:
        raise DataError(f"{name} have shape {list(values.shape[1:])}, the declared space has {list(space.shape)}")
    if values.dtype.kind not in "biuf":
        raise DataError(f"{name} have type {values.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _scalars(values: np.ndarray, name: str, kinds: str) -> np.ndarray:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"{name} have shape {list(values.shape[1:])}, expected one number per step")
    if values.dtype.kind not in kinds:
        expected = "whole numbers" if kinds == "biu" else "numbers"
        raise DataError(f"{name} have type {values.dtype}, expected {expected}")
    return values


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes its library raise into one sentence."""
    try:
        yield
    except DataError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {_what_is(path, error)}; fetch the data set again") from error


def _what_is(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "it is missing"
    if path.stat().st_size == 0:
        return "it is empty"
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-LFS pointer, not the data (git lfs pull)"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page, not the data"
    words = " ".join(str(error).split())
    return f"damaged or cut off ({quote(words[:120])[1:-1]})"


def _hdf5_episodes(path: Path, num_episodes: int) -> Iterator[dict[str, np.ndarray]]:
    storage.inside(path.parent, path.name)
    with _reading(path), h5py.File(path, "r") as file:
        found = sum(str(name).startswith("episode_") for name in file)
        if found != num_episodes:
            raise DataError(f"{path}: expected {num_episodes} episodes, found {found}; fetch the data set again")
        for index in range(num_episodes):
            group = _hdf5_member(file, f"episode_{index}", path)
            if not isinstance(group, h5py.Group):
                raise DataError(f"{path}: episode_{index} is no group")
            yield {name: _hdf5_array(group, name, path) for name in _NAMES}


def _hdf5_member(group: h5py.Group, name: str, path: Path) -> object:
    place = f"{path}: {str(group.name).rstrip('/')}/{name}"
    try:
        link = group.id.links.get_info(name.encode())
    except (KeyError, RuntimeError) as error:
        raise DataError(f"{place} is missing; fetch the data set again") from error
    if link.type != _HARD_LINK:
        raise DataError(f"{place} is a link to elsewhere: links are not followed")
    return group[name]


def _hdf5_array(group: h5py.Group, name: str, path: Path) -> np.ndarray:
    data = _hdf5_member(group, name, path)
    place = f"{path}: {group.name}/{name}"
    if not isinstance(data, h5py.Dataset):
        raise DataError(f"{place} is no array: only Box vectors and Discrete are supported yet")
    if data.external or data.is_virtual:
        raise DataError(f"{place} keeps its numbers in other files: they are not followed")
    if data.dtype.kind not in "biuf":
        raise DataError(f"{place} has type {quote(data.dtype)}, expected numbers")
    declared = math.prod(data.shape) * data.dtype.itemsize
    stored = data.id.get_storage_size()
    if declared > _MAX_RATIO * stored + 4096:
        raise DataError(f"{place} declares {declared} bytes, {stored} are stored: it is not read")
    return np.atleast_1d(data[()])


def _table_episodes(folder: Path, data_format: str, num_episodes: int) -> Iterator[dict[str, np.ndarray]]:
    found = sum(bool(re.fullmatch(r"\d+", path.name)) for path in folder.iterdir())
    if found != num_episodes:
        raise DataError(f"{folder}: expected {num_episodes} episodes, found {found}; fetch the data set again")
    for index in range(num_episodes):
        episode = storage.inside(folder, str(index))
        parts = sorted(episode.glob(f"part-*.{data_format}"), key=lambda path: (len(path.name), path.name))
        if not parts:
            raise DataError(f"{episode}: no part-0.{data_format}; fetch the data set again")
        tables = [_table(storage.inside(episode, path.name), data_format) for path in parts]
        with _reading(parts[0]):
            table = pa.concat_tables(tables)
            raw = {name: _table_array(table, name) for name in _NAMES}
        # Observations have one row more than the rest: the others' last row is padding.
        yield {name: values if name == "observations" else values[:-1] for name, values in raw.items()}


def _table(path: Path, data_format: str) -> pa.Table:
    with _reading(path):
        most = _MAX_RATIO * path.stat().st_size
        if data_format == "parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                if file.metadata.num_rows > most:
                    raise DataError(f"{path} declares {file.metadata.num_rows} rows: it is too small for them")
                return file.read(columns=list(_NAMES))
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            table.validate(full=True)
            return table


def _table_array(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        raise DataError(f"{name} is missing from its columns")
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if column.null_count:
        raise DataError(f"{name} has {column.null_count} empty entries")
    if not isinstance(column, pa.FixedSizeListArray | pa.ListArray | pa.LargeListArray):
        return column.to_numpy(zero_copy_only=False)
    flat = column.flatten()
    widths = set(column.value_lengths().unique().to_pylist())
    if len(widths) > 1:
        raise DataError(f"{name} has rows of different lengths")
    if flat.null_count:
        raise DataError(f"{name} has {flat.null_count} empty entries")
    return flat.to_numpy(zero_copy_only=False).reshape(len(column), *widths)
