"""Minari's data sets, read without Minari: HDF5, Arrow and Parquet storage of every supported space.

    NAME-v0/data/metadata.json    totals, spaces, environment
                 main_data.hdf5   episode_0/observations [T+1], actions [T], rewards [T], terminations [T], ...
                 0/part-0.arrow   the same as a table of T+1 rows, the last one padded

How the arrays of one episode lie in these files is `minari_storage`'s; what they must be is said here. Nothing that
a file names is imported, made or called.
"""

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from seqdec import storage
from seqdec.data.episode import Metadata, Row, make_row
from seqdec.data.source import Attempt, Source, file_identity, source_of_attempts
from seqdec.errors import DataError, UsageError
from seqdec.formats.arrays import per_step, steps_of
from seqdec.formats.guard import at, attempt, count
from seqdec.formats.minari_storage import ENDS, Storage, opened
from seqdec.hub import hub_host, is_hub_reachable
from seqdec.spaces.space import quote
from seqdec.spaces.spec import EnvironmentSpec

MAX_METADATA = 256  # columns
_FORMATS = ("hdf5", "arrow", "parquet")
logger = logging.getLogger(__name__)


def source(name: str | Path) -> Source:
    """Return the episodes of a data set, yet to be read.

    Each row keeps its episode's own metadata as "metadata.seed" and the like: numbers, texts and truth values, None
    where an episode says nothing. Whole numbers among fractions become fractions, other mixtures texts.

    Args:
        name: a folder, or an id such as "mujoco/hopper/medium-v0" below MINARI_DATASETS_PATH, which is fetched once if
            it is not there.

    Raises:
        UsageError: there is no such data set, and it cannot be fetched.
        DataError: its metadata are damaged or name no spaces; `read` raises it for the first episode that is out of
            order, after the last one, and at once where a file itself cannot be read.
    """
    folder = _folder_of(str(name))
    metadata = storage.read_json(storage.path_inside(folder, "metadata.json"))
    with at(folder / "metadata.json"):
        spec = _spec_of(metadata)
        num_episodes, num_steps = (count(metadata.get(name), name) for name in ("total_episodes", "total_steps"))
        data_format = metadata.get("data_format", "hdf5")
        if data_format not in _FORMATS:
            raise DataError(f"data_format is {quote(data_format)}, not hdf5, arrow or parquet")
    paths = [folder / "main_data.hdf5", *folder.glob(f"*/part-*.{data_format}"), *folder.glob("*/metadata.json")]
    paths = [path for path in [folder / "metadata.json", *paths] if path.is_file()]  # reading tells what is missing
    return source_of_attempts(
        spec,
        partial(_attempts, folder, str(data_format), spec, num_episodes, num_steps),
        identity={"kind": "minari", "name": str(folder.resolve()), "files": file_identity(paths)},
        num_episodes=num_episodes,
    )


def _spec_of(metadata: Mapping[str, object]) -> EnvironmentSpec:
    """Return spaces and environment as the metadata of a data set name them."""
    lacking = next((name for name in ("observation_space", "action_space") if name not in metadata), None)
    if lacking is not None:
        advice = "which is never made from a file; save the set again with a newer Minari"
        raise DataError(f"the file has no {lacking}: old sets leave it to the environment, {advice}")
    env_spec = _nested(metadata, "env_spec") if metadata.get("env_spec") is not None else {}
    if not isinstance(env_spec, Mapping):
        raise DataError(f"env_spec is {quote(env_spec)}, expected an object")
    wrappers = env_spec.get("additional_wrappers") or []
    if not isinstance(wrappers, list):
        raise DataError(f"additional_wrappers is {quote(wrappers)}, expected a list")
    return EnvironmentSpec.from_json(
        {
            **{name: _nested(metadata, name) for name in ("observation_space", "action_space")},
            **{key: env_spec.get(key) for key in ("id", "entry_point", "max_episode_steps")},
            "kwargs": env_spec.get("kwargs") or {},
            "wrappers": [entry.get("entry_point") if isinstance(entry, Mapping) else entry for entry in wrappers],
            "reference_returns": _reference_returns(metadata),
            "requirements": metadata.get("requirements") or [],
        }
    )


def _attempts(
    folder: Path, data_format: str, spec: EnvironmentSpec, num_episodes: int, num_steps: int
) -> Iterator[Attempt]:
    """Yield a row for each episode whose structure is right, and for the others what is wrong with them."""
    num_read, is_whole = 0, True
    with opened(folder, data_format, spec) as stored:
        _check_count(stored.path, num_episodes, "episodes", stored.num_episodes)
        for index, metadata in enumerate(_columns([stored.metadata(index) for index in range(num_episodes)])):
            row = attempt(partial(_row, stored, index, spec, metadata), f"{folder}: episode {index}")
            if isinstance(row, DataError):
                is_whole = False
            else:
                num_read += len(np.asarray(row["reward"]))
            yield row
    if is_whole:
        _check_count(folder, num_steps, "steps", num_read)


def _row(stored: Storage, index: int, spec: EnvironmentSpec, metadata: Metadata) -> Row:
    arrays = stored.arrays(index)
    steps = steps_of({**arrays, "reward": arrays["rewards"]}, spec)
    terminated, truncated = _ends(arrays, len(steps["reward"]))
    return make_row(steps, terminated=terminated, truncated=truncated, metadata=metadata)


def _ends(arrays: Mapping[str, np.ndarray], num_steps: int) -> tuple[bool, bool]:
    terminations, truncations = (per_step(arrays[name], name) for name in ENDS[1:])
    for name, values in zip(ENDS[1:], (terminations, truncations), strict=True):
        if len(values) != num_steps:
            raise DataError(f"{name} has {len(values)} rows, expected {num_steps}, one per reward")
    ends = np.flatnonzero((terminations != 0) | (truncations != 0))
    if len(ends) == 0:
        raise DataError("it is neither terminated nor truncated at its last step")
    if ends[0] != num_steps - 1:
        raise DataError(f"it ends at step {ends[0]} and goes on to step {num_steps - 1}")
    return bool(terminations[-1]), bool(truncations[-1])


def _columns(episodes: Sequence[Metadata]) -> list[Metadata]:
    """Return the same metadata for every episode, each of one type in all of them."""
    names = list(dict.fromkeys(name for metadata in episodes for name in metadata))
    if len(names) > MAX_METADATA:
        logger.warning("the episodes have %d metadata: the first %d are kept", len(names), MAX_METADATA)
    columns: list[dict[str, bool | int | float | str | None]] = [{} for _ in episodes]
    for name in names[:MAX_METADATA]:
        values = [metadata.get(name) for metadata in episodes]
        kinds = {type(value) for value in values if value is not None}
        kind = kinds.pop() if len(kinds) == 1 else float if kinds == {int, float} else str
        for column, value in zip(columns, values, strict=True):
            column[name] = None if value is None else kind(value)
    return [*columns]


def _check_count(path: Path, expected: int, word: str, count: int) -> None:
    if count != expected:
        raise DataError(f"{path}: expected {expected} {word}, found {count}; fetch the data set again")


def _nested(metadata: Mapping[str, object], key: str) -> object:
    """Read JSON that is a text within JSON, as Minari keeps spaces and environments."""
    text = metadata[key]
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key} is no JSON ({type(error).__name__})") from error


def _reference_returns(metadata: Mapping[str, object]) -> list[object] | None:
    scores = [metadata.get("ref_min_score"), metadata.get("ref_max_score")]
    if not all(isinstance(score, int | float) and abs(score) < 1e38 for score in scores):
        return None
    return scores if scores[0] != scores[1] else None


def _folder_of(name: str) -> Path:
    """Return the folder that holds metadata.json, fetching an id that is not here."""
    for folder in (Path(name) / "data", Path(name)):
        if (folder / "metadata.json").is_file():
            return folder
    if not re.fullmatch(r"(?:[\w.-]+/)*[\w.-]+-v\d+", name) or ".." in name.split("/"):
        raise UsageError(f"{quote(name)} is neither a folder with a Minari data set nor an id like 'name/set-v0'")
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    folder = root / name / "data"
    if not (folder / "metadata.json").is_file():
        _download(name, folder)
    return folder


def _download(name: str, folder: Path) -> None:
    import minari

    try:
        if not is_hub_reachable():
            raise ConnectionError("out of reach")
        with contextlib.redirect_stdout(sys.stderr):  # Minari prints; a library's output is its caller's
            minari.download_dataset(name, force_download=folder.parent.exists())
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:160]
        failure = f"fetching it from {hub_host()} failed ({type(error).__name__}: {reason})"
        advice = "put it there or set MINARI_DATASETS_PATH"
        raise UsageError(f"no Minari data set {quote(name)} in {folder.parents[1]}, and {failure}; {advice}") from error
    if not (folder / "metadata.json").is_file():
        raise DataError(f"Minari fetched {quote(name)}, but {folder / 'metadata.json'} is missing")
