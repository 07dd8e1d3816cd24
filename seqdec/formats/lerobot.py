"""LeRobot data sets, read without LeRobot: folders and Hub ids, formats v2.0, v2.1 and v3.0.

    features of a data set                             a row, T frames of one episode
    observation.state, observation.images.top          observation.state, observation.images.top
    action, or action.arm, action.gripper              action, or action.arm, action.gripper
    next.reward; else next.success; else nothing       reward: as it is; else 1 at the first success; else 0
    next.done, next.truncated of the last frame        terminated: done and not truncated; else truncated
    task_index of the frames                           text and metadata.task: "; " between several

The format has no observation after the last action, so `final` is the last frame again. Numbers become float32 without
bounds, whatever meta/stats.json says of them. Frames are large: an episode of 500 at 480 x 640 takes 460 MB a camera,
and `image_size` makes them smaller as they are read, one episode at a time. Where images are in Parquet, the row group
at hand takes about three times its size in the file, of which LeRobot makes 100 MB.
"""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from seqdec.data.episode import METADATA, Row, RowValue, final_name
from seqdec.data.source import Source, file_identity
from seqdec.errors import DataError, UsageError
from seqdec.formats import video
from seqdec.formats.guard import opened_parquet
from seqdec.formats.lerobot_hub import fetch, locate, member
from seqdec.formats.lerobot_meta import AGAIN, Info, Recording, read_info, read_recordings, read_tasks
from seqdec.formats.lerobot_spaces import FACTS, Cameras, Plan, make_plan
from seqdec.spaces.leaves import all_known, split
from seqdec.spaces.space import quote

logger = logging.getLogger(__name__)


def source(
    name: str | Path,
    *,
    cameras: Cameras = "read",
    image_size: tuple[int, int] | None = None,
    episodes: Sequence[int] | None = None,
) -> Source:
    """Return the episodes of a LeRobot data set: a folder, or a Hub id, of which what is not here is fetched once.

    Args:
        name: a folder with meta/info.json in it, or an id such as "lerobot/pusht".
        cameras: "read" all of them, "skip" them, or the names of those to read ("observation.images.top", or "top").
        image_size: height and width to bring images to; their own by default.
        episodes: the numbers of those to read; all by default.

    Raises:
        UsageError: no such data set, camera or episode, or PyAV is needed and not installed.
        DataError: what the data set says of itself cannot be true, or files are missing.
    """
    folder, repo_id = locate(str(name))
    plan = make_plan(read_info(folder), cameras, image_size)
    if plan.videos:
        video.check_decoder()
    recordings = _selected(read_recordings(plan.info, plan.videos), episodes, str(name))
    names = [recording.data for recording in recordings]
    names += [video for recording in recordings for video, _ in recording.videos.values()]
    names = list(dict.fromkeys(names))
    if repo_id is not None:
        fetch(repo_id, folder, names, whole=episodes is None)
    return Source(
        spec=plan.spec,
        read=partial(_rows, plan, recordings),
        identity={
            "kind": "lerobot",
            "name": repo_id or str(folder.resolve()),
            "cameras": list(plan.cameras),
            "image_size": None if image_size is None else list(image_size),
            "episodes": None if episodes is None else [recording.index for recording in recordings],
            "files": file_identity(_present(plan.info, names)),
        },
        num_episodes=len(recordings),
    )


def _selected(recordings: list[Recording], episodes: Sequence[int] | None, name: str) -> list[Recording]:
    if episodes is None:
        return recordings
    known = {recording.index: recording for recording in recordings}
    wrong = next((index for index in episodes if index not in known), None)
    if wrong is not None or not episodes:
        came = "none" if wrong is None else quote(wrong)
        raise UsageError(f"episodes of {quote(name)} are numbered {min(known)} to {max(known)}, {came} was asked for")
    if len(set(episodes)) < len(episodes):
        raise UsageError("episodes names one of them twice: give each once")
    return [known[index] for index in episodes]


def _rows(plan: Plan, recordings: Sequence[Recording]) -> Iterator[Row]:
    """Yield one row an episode; no more than one is in memory."""
    tasks = read_tasks(plan.info) if "task_index" in plan.columns else {}
    num_early = 0
    for name, group in itertools.groupby(recordings, key=lambda recording: recording.data):
        for recording, table in _tables(plan, name, group):
            with _at(f"{plan.info.folder}: episode {recording.index}"):
                facts = _facts(plan, table)
                row = {**_arrays(plan, recording, table, facts), **_plain_values(plan, recording, facts, tasks)}
            num_early += bool(facts["next.done"][:-1].any())
            yield row
    if num_early:
        logger.warning(
            "%s: next.done is set before the last frame of %d of %d episodes, which are kept whole",
            plan.info.folder, num_early, len(recordings),
        )  # fmt: skip


def _tables(plan: Plan, name: str, recordings: Iterable[Recording]) -> Iterator[tuple[Recording, pa.Table]]:
    """Yield the frames of each episode of one file, of which only the row groups at hand are in memory."""
    path = member(plan.info.folder, name)
    with opened_parquet(path, f"; {AGAIN}") as file:
        lacking = next((c for c in ("episode_index", *plan.columns) if c not in file.schema_arrow.names), None)
        if lacking is not None:
            raise DataError(f"{path} has no column {quote(lacking)}, which info.json tells of; {AGAIN}")
        if file.metadata.num_rows > plan.info.num_frames:
            raise DataError(f"{path} declares {file.metadata.num_rows} rows, the data set has {plan.info.num_frames}")
        with _at(str(path)):
            spans = _spans(_values(file.read(columns=["episode_index"]), "episode_index", ()))
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        held: dict[int, pa.Table] = {}
        for recording in recordings:
            start, stop = spans.get(recording.index, (0, 0))
            if stop - start != recording.length:
                came = f"expected {recording.length} steps, found {stop - start}"
                raise DataError(f"{path}: episode {recording.index}: {came}; {AGAIN}")
            groups = range(np.searchsorted(starts, start, "right") - 1, np.searchsorted(starts, stop))
            held = {
                index: held[index] if index in held else file.read_row_group(index, columns=list(plan.columns))
                for index in groups
            }
            yield recording, pa.concat_tables(held.values()).slice(start - starts[groups[0]], stop - start)


def _spans(indices: np.ndarray) -> dict[int, tuple[int, int]]:
    """Return where each episode's frames begin and end in a file."""
    edges = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
    found: dict[int, tuple[int, int]] = {}
    for start, stop in itertools.pairwise(edges if len(indices) else []):
        index = int(indices[start])
        if index in found:
            raise DataError(f"the frames of episode {index} are not one after the other; {AGAIN}")
        found[index] = (start, stop)
    return found


def _facts(plan: Plan, table: pa.Table) -> dict[str, np.ndarray]:
    """Return what is known of each frame besides observation and action: [T] each, done and times in any case."""
    facts = {name: _values(table, name, ()) for name in plan.columns if name in FACTS}
    for name in ("frame_index", "timestamp"):
        goes_on = np.diff(facts.get(name, np.zeros(0))) > 0
        if not goes_on.all():
            step = int(np.argmin(goes_on)) + 1
            raise DataError(f"step {step}: {name} is {facts[name][step]:g} after {facts[name][step - 1]:g}; {AGAIN}")
    facts.setdefault("timestamp", np.arange(table.num_rows) / plan.info.fps)
    facts.setdefault("next.done", np.zeros(table.num_rows, bool))
    return facts


def _arrays(
    plan: Plan, recording: Recording, table: pa.Table, facts: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return what was observed and done at each frame, the last observation again as the final one, and rewards."""
    found: dict[str, np.ndarray] = {}
    for name, leaf in plan.spec.observation_leaves.items():
        dtype, shape = plan.info.features[name].dtype, tuple(leaf.shape or ())
        if dtype == "video":
            values = _filmed(plan, recording, name, shape, facts["timestamp"])
        elif dtype == "image":
            values = _photographed(plan, table, name, shape)
        elif dtype == "string":
            values = np.array(table.column(name).to_pylist(), dtype=object)
        else:
            values = _values(table, name, shape)
        found |= split(leaf, values, name)
    found |= {final_name(name): values[-1] for name, values in list(found.items())}
    for name, leaf in plan.spec.action_leaves.items():
        values = _values(table, name, tuple(leaf.shape or ()))
        found[name] = all_known(split(leaf, values, name), name)
    return {**found, "reward": _rewards(facts)}


def _plain_values(
    plan: Plan, recording: Recording, facts: Mapping[str, np.ndarray], tasks: Mapping[int, str]
) -> dict[str, RowValue]:
    """Return how the episode ended and what it was about."""
    indices = dict.fromkeys(facts["task_index"].tolist()) if "task_index" in facts else {}
    unknown = next((index for index in indices if index not in tasks), None)
    if unknown is not None:
        raise DataError(f"it is of task {unknown}, which is not among the {len(tasks)} that meta/tasks lists; {AGAIN}")
    text = "; ".join([tasks[index] for index in indices] or recording.tasks)
    is_cut = "next.truncated" in facts and bool(facts["next.truncated"][-1])
    terminated = bool(facts["next.done"][-1]) and not is_cut
    about = {"task": text, "fps": plan.info.fps, "episode_index": recording.index}
    return {
        "terminated": terminated,
        "truncated": not terminated,
        "text": text,
        **{METADATA + name: value for name, value in about.items()},
    }


def _rewards(facts: Mapping[str, np.ndarray]) -> np.ndarray:
    if "next.reward" in facts:
        with np.errstate(over="ignore"):  # too large for float32 turns infinite and is refused as such
            return facts["next.reward"].astype(np.float32)
    rewards = np.zeros(len(facts["next.done"]), np.float32)
    if "next.success" in facts:
        rewards[np.flatnonzero(facts["next.success"])[:1]] = 1
    return rewards


def _filmed(plan: Plan, recording: Recording, name: str, shape: tuple[int, ...], times: np.ndarray) -> np.ndarray:
    path, begin = recording.videos[name]
    height, width, channels = shape
    return video.read_video(
        member(plan.info.folder, path),
        begin + times.astype(np.float64),
        (height, width, channels),
        tolerance=0.5 / plan.info.fps + 1e-6,
        resize=plan.resize,
    )


def _photographed(plan: Plan, table: pa.Table, name: str, shape: tuple[int, ...]) -> np.ndarray:
    height, width, channels = shape
    found = np.empty((table.num_rows, *shape), np.uint8)
    for step, value in enumerate(table.column(name)):
        kept = value.as_py()
        content = kept.get("bytes") if isinstance(kept, dict) else kept
        place = f"step {step}: {name}"
        if not isinstance(content, bytes):
            raise DataError(f"{place} names a file instead of holding the image: write the data set with images inside")
        found[step] = video.read_image(content, (height, width, channels), place, resize=plan.resize)
    return found


def _values(table: pa.Table, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a column of numbers, or of lists of them, of lists of lists, ..., as an array: [T, *shape]."""
    column = table.column(name).combine_chunks()
    values = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    while True:
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        if values.null_count:
            raise DataError(f"{name} has {values.null_count} empty entries; {AGAIN}")
        if not isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
            break
        if len(values.value_lengths().unique()) > 1:
            raise DataError(f"{name} has lists of different lengths; {AGAIN}")
        values = values.flatten()
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)):
        raise DataError(f"{name} has type {quote(values.type)}, expected numbers")
    numbers = values.to_numpy(zero_copy_only=False)
    if numbers.size != table.num_rows * math.prod(shape):
        came = f"{numbers.size / table.num_rows:g} entries a frame"
        raise DataError(f"{name} has {came}, info.json says {list(shape) or 1}; {AGAIN}")
    return numbers.reshape(table.num_rows, *shape)


@contextlib.contextmanager
def _at(place: str) -> Iterator[None]:
    """Say where an error was."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _present(info: Info, names: Sequence[str]) -> list[Path]:
    """Return all files that are read; those named must be there."""
    paths = [member(info.folder, name) for name in names]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing ({len(missing)} of {len(paths)} files are); {AGAIN}")
    meta = [info.path, *info.folder.glob("meta/tasks.*"), *info.folder.glob("meta/episodes.jsonl")]
    return [*paths, *meta, *info.folder.glob("meta/episodes/*/*.parquet")]
