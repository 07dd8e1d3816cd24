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

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from seqdec.data.episode import Row, make_row
from seqdec.data.source import Source, file_identity
from seqdec.errors import DataError, UsageError
from seqdec.formats import video
from seqdec.formats.arrays import known_values, leaf_values, step_values
from seqdec.formats.guard import at, opened_parquet, per_step
from seqdec.formats.lerobot_meta import (
    AGAIN,
    Info,
    Recording,
    fetch,
    locate,
    member,
    read_info,
    read_recordings,
    read_tasks,
)
from seqdec.formats.lerobot_spaces import FACTS, Cameras, Plan, make_plan
from seqdec.spaces.leaves import split
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
    names += [path for recording in recordings for path, _ in recording.videos.values()]
    names = list(dict.fromkeys(names))
    if repo_id is not None:
        fetch(repo_id, folder, names, whole=episodes is None)
    identity = {
        "kind": "lerobot",
        "name": repo_id or str(folder.resolve()),
        "cameras": list(plan.cameras),
        "image_size": None if image_size is None else list(image_size),
        "episodes": None if episodes is None else [recording.index for recording in recordings],
        "files": file_identity(_present(plan.info, names)),
    }
    return Source(plan.spec, partial(_rows, plan, recordings), identity, len(recordings))


def _selected(recordings: list[Recording], episodes: Sequence[int] | None, name: str) -> list[Recording]:
    if episodes is None:
        return recordings
    known = {recording.index: recording for recording in recordings}
    wrong = next((index for index in episodes if index not in known), None)
    if wrong is not None or not episodes:
        number = "none" if wrong is None else quote(wrong)
        raise UsageError(f"episodes of {quote(name)} are numbered {min(known)} to {max(known)}, {number} was asked for")
    if len(set(episodes)) < len(episodes):
        raise UsageError("episodes names one of them twice: give each once")
    return [known[index] for index in episodes]


def _rows(plan: Plan, recordings: Sequence[Recording]) -> Iterator[Row]:
    """Yield one row an episode; no more than one is in memory."""
    tasks = read_tasks(plan.info) if "task_index" in plan.columns else {}
    num_early = 0
    for name, group in itertools.groupby(recordings, key=lambda recording: recording.data):
        for recording, table in _tables(plan, name, group):
            with at(f"{plan.info.folder}: episode {recording.index}"):
                facts = _facts(plan, table)
                row = _row(plan, recording, table, facts, _text(recording, facts, tasks))
            num_early += bool(facts["next.done"][:-1].any())
            yield row
    if num_early:
        counts = f"{num_early} of {len(recordings)} episodes"
        logger.warning(
            "%s: next.done is set before the last frame of %s, which are kept whole", plan.info.folder, counts
        )


def _tables(plan: Plan, name: str, recordings: Iterable[Recording]) -> Iterator[tuple[Recording, pa.Table]]:
    """Yield the frames of each episode of one file, of which only the row groups at hand are in memory."""
    path = member(plan.info.folder, name)
    with opened_parquet(path, f"; {AGAIN}") as file:
        lacking = next((c for c in ("episode_index", *plan.columns) if c not in file.schema_arrow.names), None)
        if lacking is not None:
            raise DataError(f"{path} has no column {quote(lacking)}, which info.json tells of; {AGAIN}")
        if file.metadata.num_rows > plan.info.num_frames:
            raise DataError(f"{path} declares {file.metadata.num_rows} rows, the data set has {plan.info.num_frames}")
        with at(path):
            spans = _spans(_numbers(file.read(columns=["episode_index"]), "episode_index"))
        starts = np.cumsum([0, *(file.metadata.row_group(index).num_rows for index in range(file.num_row_groups))])
        held: dict[int, pa.Table] = {}
        for recording in recordings:
            start, stop = spans.get(recording.index, (0, 0))
            if stop - start != recording.length:
                counts = f"expected {recording.length} steps, found {stop - start}"
                raise DataError(f"{path}: episode {recording.index}: {counts}; {AGAIN}")
            groups = range(np.searchsorted(starts, start, "right") - 1, np.searchsorted(starts, stop))
            held = {
                index: held[index] if index in held else file.read_row_group(index, columns=list(plan.columns))
                for index in groups
            }
            yield recording, pa.concat_tables(held.values()).slice(start - starts[groups[0]], stop - start)


def _spans(indices: np.ndarray) -> dict[int, tuple[int, int]]:
    """Return where each episode's frames begin and end in a file."""
    edges = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
    spans: dict[int, tuple[int, int]] = {}
    for start, stop in itertools.pairwise(edges if len(indices) else []):
        index = int(indices[start])
        if index in spans:
            raise DataError(f"the frames of episode {index} are not one after the other; {AGAIN}")
        spans[index] = (start, stop)
    return spans


def _facts(plan: Plan, table: pa.Table) -> dict[str, np.ndarray]:
    """Return the facts about each frame besides observation and action: [T] each, done and times in any case."""
    facts = {name: _numbers(table, name) for name in plan.columns if name in FACTS}
    for name in ("frame_index", "timestamp"):
        goes_on = np.diff(facts.get(name, np.zeros(0))) > 0
        if not goes_on.all():
            step = int(np.argmin(goes_on)) + 1
            raise DataError(f"step {step}: {name} is {facts[name][step]:g} after {facts[name][step - 1]:g}; {AGAIN}")
    facts.setdefault("timestamp", np.arange(table.num_rows) / plan.info.fps)
    facts.setdefault("next.done", np.zeros(table.num_rows, bool))
    return facts


def _row(plan: Plan, recording: Recording, table: pa.Table, facts: Mapping[str, np.ndarray], text: str) -> Row:
    """Return an episode as a row: the last frame is the final observation as well."""
    steps = {"reward": _rewards(facts)}
    for name, leaf in plan.spec.observation_leaves.items():
        shape = tuple(leaf.shape or ())
        match plan.info.features[name].dtype:
            case "video":
                steps |= split(leaf, _filmed(plan, recording, name, shape, facts["timestamp"]), name)
            case "image":
                steps |= split(leaf, _photographed(plan, table, name, shape), name)
            case "string":
                steps |= split(leaf, step_values(table.column(name), name), name)
            case _:
                steps |= leaf_values(known_values(table.column(name), name), leaf, name)
    final = {name: values[-1] for name, values in steps.items() if name != "reward"}
    for name, leaf in plan.spec.action_leaves.items():
        steps |= leaf_values(known_values(table.column(name), name), leaf, name)
    is_cut = "next.truncated" in facts and bool(facts["next.truncated"][-1])
    terminated = bool(facts["next.done"][-1]) and not is_cut
    about = {"task": text, "fps": plan.info.fps, "episode_index": recording.index}
    return make_row(steps, final, terminated=terminated, truncated=not terminated, text=text, metadata=about)


def _text(recording: Recording, facts: Mapping[str, np.ndarray], tasks: Mapping[int, str]) -> str:
    indices = dict.fromkeys(facts["task_index"].tolist()) if "task_index" in facts else {}
    unknown = next((index for index in indices if index not in tasks), None)
    if unknown is not None:
        raise DataError(f"it is of task {unknown}, which is not among the {len(tasks)} that meta/tasks lists; {AGAIN}")
    return "; ".join([tasks[index] for index in indices] or recording.tasks)


def _rewards(facts: Mapping[str, np.ndarray]) -> np.ndarray:
    if "next.reward" in facts:
        return facts["next.reward"]
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
    images = np.empty((table.num_rows, *shape), np.uint8)
    for step, value in enumerate(table.column(name)):
        images[step] = video.read_image(
            value.as_py(), (height, width, channels), f"step {step}: {name}", resize=plan.resize
        )
    return images


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return per_step(known_values(table.column(name), name), name)


def _present(info: Info, names: Sequence[str]) -> list[Path]:
    """Return all files that are read; those named must be there."""
    paths = [member(info.folder, name) for name in names]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing ({len(missing)} of {len(paths)} files are); {AGAIN}")
    meta = [info.path, *info.folder.glob("meta/tasks.*"), *info.folder.glob("meta/episodes.jsonl")]
    return [*paths, *meta, *info.folder.glob("meta/episodes/*/*.parquet")]
