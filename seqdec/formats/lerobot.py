"""LeRobot data sets, read without LeRobot: folders and Hub ids, formats v2.0, v2.1 and v3.0.

    features of a data set                             a row, T frames of one episode
    observation.state, observation.images.top          observation.state, observation.images.top
    action, or action.arm, action.gripper              action, or action.arm, action.gripper
    next.reward; else next.success; else nothing       reward: as it is; else 1 at the first success; else 0
    next.done, next.truncated of the last frame        terminated: done and not truncated; else truncated
    task_index of the frames                           text and metadata.task: "; " between several

The format has no observation after the last action, so `final` is the last frame again. Numbers become float32 without
bounds, whatever meta/stats.json says of them, a single truth value or an integer whose values are named Discrete.
Frames are large: an episode of 500 at 480 x 640 takes 460 MB a camera, and `image_size` makes them smaller as they are
read, one episode at a time.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import gymnasium
import numpy as np
import pyarrow as pa
from gymnasium.spaces import Box, Discrete, MultiBinary, Text

from seqdec.data.episode import Row, make_row
from seqdec.data.source import Attempt, Source, file_identity, source_of_attempts
from seqdec.errors import DataError, UsageError, suggest
from seqdec.formats import lerobot_meta as meta
from seqdec.formats import table_rows, video
from seqdec.formats.arrays import NO_REWARDS, known_values, leaf_values, per_step, step_values
from seqdec.formats.guard import AGAIN, attempt, opened_parquet
from seqdec.formats.infer import images, nested, numbers
from seqdec.formats.lerobot_meta import Feature, Info, Recording, member
from seqdec.formats.table_formats import read_files
from seqdec.spaces.leaves import leaf_kind, split
from seqdec.spaces.space import MAX_ENTRIES, MAX_TEXT, is_int, quote
from seqdec.spaces.spec import EnvironmentSpec

logger = logging.getLogger(__name__)
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FACTS = ("next.reward", "next.success", "next.done", "next.truncated", "task_index", "frame_index", "timestamp")
Cameras = Literal["read", "skip"] | Sequence[str]


@dataclass(frozen=True)
class Plan:
    """What is read of each episode: columns of its frames, and the videos among its cameras; `resize` their images."""

    info: Info
    spec: EnvironmentSpec
    cameras: tuple[str, ...]
    columns: tuple[str, ...]
    videos: tuple[str, ...]
    resize: bool


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
    folder, repo_id = meta.locate(str(name))
    plan = _plan(meta.read_info(folder), cameras, image_size)
    if plan.videos:
        video.import_av()
    if not {"next.reward", "next.success"} & set(plan.columns):
        logger.warning(NO_REWARDS, name)
    recordings = _selected(meta.read_recordings(plan.info, plan.videos), episodes, str(name))
    names = [recording.data for recording in recordings]
    names += [path for recording in recordings for path, _ in recording.videos.values()]
    names = list(dict.fromkeys(names))
    if repo_id is not None:
        meta.fetch(repo_id, folder, names, whole=episodes is None)
    identity = {
        "kind": "lerobot",
        "name": repo_id or str(folder.resolve()),
        "cameras": list(plan.cameras),
        "image_size": None if image_size is None else list(image_size),
        "episodes": None if episodes is None else [recording.index for recording in recordings],
        "files": file_identity(_present(plan.info, names)),
    }
    return source_of_attempts(plan.spec, partial(_attempts, plan, recordings), identity, len(recordings))


def _plan(info: Info, cameras: Cameras, image_size: tuple[int, int] | None) -> Plan:
    """Choose the features to read and the spaces of their values."""
    if image_size is not None and (len(image_size) != 2 or not all(is_int(size) and size >= 1 for size in image_size)):
        raise UsageError(f"image_size is {quote(image_size)}: expected height and width, such as (240, 320)")
    seen = _cameras(info, cameras)
    observed = {
        name: _leaf(feature, image_size, info)
        for name, feature in info.features.items()
        if name.startswith("observation.") and (name in seen or not feature.is_camera)
    }
    acted = {name: _leaf(info.features[name], None, info) for name in _action_names(info)}
    if not observed:
        raise DataError(f"{info.path} has no feature observation.* to read, besides cameras that are left out")
    spec = EnvironmentSpec(nested(observed, "observation"), nested(acted, "action"))
    videos = tuple(name for name in seen if info.features[name].dtype == "video")
    columns = [name for name in (*observed, *acted) if name not in videos]
    columns += [name for name in FACTS if name in info.features]
    return Plan(info, spec, tuple(seen), tuple(columns), videos, resize=image_size is not None)


def _action_names(info: Info) -> list[str]:
    """Return "action", or where there is none, all its parts; with it, parts are the same told otherwise."""
    parts = [name for name in info.features if name.startswith("action.")]
    if "action" in info.features:
        if parts:
            logger.info("%s: action is read, %s are left out", info.path, ", ".join(map(quote, parts)))
        return ["action"]
    if not parts:
        raise DataError(f"{info.path} has no feature action")
    return parts


def _cameras(info: Info, cameras: Cameras) -> list[str]:
    known = [name for name, feature in info.features.items() if feature.is_camera and name.startswith("observation.")]
    if isinstance(cameras, str) and cameras not in ("read", "skip"):
        expected = f"expected 'read', 'skip', or names in a list, as [{quote(cameras)}]"
        raise UsageError(f"cameras is {quote(cameras)}: {expected}")
    if cameras == "skip":
        return []
    chosen = known if cameras == "read" else [_camera(name, known, info) for name in cameras]
    depth = [name for name in chosen if info.features[name].is_depth]
    if depth:
        rest = [name for name in known if not info.features[name].is_depth]
        raise UsageError(f"{info.path}: {quote(depth[0])} holds depth maps, which are not read: pass cameras={rest}")
    return [name for name in known if name in chosen]


def _camera(name: str, known: Sequence[str], info: Info) -> str:
    matches = [name] if name in known else [camera for camera in known if camera.endswith(f".{name}")]
    if len(matches) != 1:
        nearest = suggest(name, known) or f"; it has {', '.join(map(quote, known)) or 'none'}"
        reason = "is the end of several names" if matches else "is no camera of this data set"
        raise UsageError(f"{info.path}: {quote(name)} {reason}{nearest}")
    return matches[0]


def _leaf(feature: Feature, image_size: tuple[int, int] | None, info: Info) -> gymnasium.Space:
    """Return the space of a feature's values."""
    shape = feature.shape
    place = f"{info.path}: {quote(feature.name)}"
    if feature.is_camera:
        return images(_image_shape(feature, image_size, place))
    if feature.dtype == "string":
        return Text(MAX_TEXT)
    if math.prod(shape) > MAX_ENTRIES:
        raise DataError(f"{place} has shape {list(shape)}: at most {MAX_ENTRIES} entries are supported")
    if feature.dtype == "bool":
        return Discrete(2) if shape == (1,) else MultiBinary(shape)
    if feature.dtype not in NUMBERS:
        expected = "expected image, video, string, bool or numbers; take it out of info.json to leave it out"
        raise DataError(f"{place} has dtype {quote(feature.dtype)}: {expected}")
    if shape == (1,) and feature.dtype.startswith(("int", "uint")) and len(feature.names) > 1:
        return Discrete(len(feature.names))
    return numbers(shape)


def _image_shape(feature: Feature, image_size: tuple[int, int] | None, place: str) -> video.Shape:
    if len(feature.shape) != 3:
        raise DataError(f"{place} has shape {list(feature.shape)}: expected height, width and channels")
    named_last = feature.names[2:] and feature.names[2].startswith("channel")
    named_first = feature.names[:1] and feature.names[0].startswith("channel")
    is_first = named_first or (not named_last and feature.shape[2] not in (1, 3) and feature.shape[0] in (1, 3))
    channels, height, width = feature.shape if is_first else (feature.shape[2], *feature.shape[:2])
    if channels not in (1, 3):
        raise DataError(f"{place} has {channels} channels: images of 1 or 3 are read; leave the camera out")
    height, width = image_size or (height, width)
    if height * width * channels > MAX_ENTRIES:
        limit = f"at most {MAX_ENTRIES} are supported: give an image_size, such as (240, 320)"
        raise UsageError(f"{place} has {height} x {width} x {channels} entries, {limit}")
    return height, width, channels


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


def _attempts(plan: Plan, recordings: Sequence[Recording]) -> Iterator[Attempt]:
    """Yield one row an episode; no more than one is in memory."""
    tasks = meta.read_tasks(plan.info) if "task_index" in plan.columns else {}
    early: list[int] = []
    for name, group in itertools.groupby(recordings, key=lambda recording: recording.data):
        for recording, table in _tables(plan, name, [*group]):
            place = f"{plan.info.folder / name}: episode {recording.index}"
            yield attempt(partial(_row, plan, recording, table, tasks, early), place)
    if early:
        words = "%s: next.done is set before the last frame of %d of %d episodes, which are kept whole"
        logger.warning(words, plan.info.folder, len(early), len(recordings))


def _tables(plan: Plan, name: str, recordings: Sequence[Recording]) -> Iterator[tuple[Recording, pa.Table]]:
    """Yield the frames of each episode of one file, which is read once; what comes before its turn is held."""
    path = member(plan.info.folder, name)
    with opened_parquet(path) as file:
        if file.metadata.num_rows > plan.info.num_frames:
            raise DataError(f"{path} declares {file.metadata.num_rows} rows, the data set has {plan.info.num_frames}")
    frames = table_rows.episodes(read_files([path], ("episode_index", *plan.columns), {}), "episode_index")
    indices = {recording.index for recording in recordings}
    held: dict[object, pa.Table] = {}
    for recording in recordings:
        while recording.index not in held and (episode := next(frames, None)):
            if episode.key in indices:
                held[episode.key] = pa.Table.from_batches(episode.pieces)
        yield recording, held.pop(recording.index, pa.table({}))


def _facts(plan: Plan, table: pa.Table) -> dict[str, np.ndarray]:
    """Return the facts about each frame besides observation and action: [T] each, done and times in any case."""
    facts = {name: _numbers(table, name) for name in plan.columns if name in FACTS}
    for name in ("frame_index", "timestamp"):
        goes_on = np.diff(facts.get(name, np.zeros(0))) > 0
        if not goes_on.all():
            step = int(np.argmin(goes_on)) + 1
            raise DataError(f"step {step}: {name} is {facts[name][step]:g} after {facts[name][step - 1]:g}")
    facts.setdefault("timestamp", np.arange(table.num_rows) / plan.info.fps)
    facts.setdefault("next.done", np.zeros(table.num_rows, bool))
    return facts


def _row(plan: Plan, recording: Recording, table: pa.Table, tasks: Mapping[int, str], early: list[int]) -> Row:
    """Return an episode as a row: the last frame is the final observation as well.

    Its number joins `early` where it goes on after it is done.
    """
    if table.num_rows != recording.length:
        raise DataError(f"expected {recording.length} steps, found {table.num_rows}")
    facts = _facts(plan, table)
    text = _text(recording, facts, tasks)
    steps = {"reward": _rewards(facts)}
    for name, leaf in plan.spec.observation_leaves.items():
        if isinstance(leaf, Box) and leaf_kind(leaf) == "image":
            height, width, channels = leaf.shape
            seen = _seen(plan, recording, table, name, (height, width, channels), facts["timestamp"])
            steps |= split(leaf, seen, name)
        else:
            read = step_values if leaf_kind(leaf) == "text" else known_values
            steps |= leaf_values(read(table.column(name), name), leaf, name)
    final = {name: values[-1] for name, values in steps.items() if name != "reward"}
    for name, leaf in plan.spec.action_leaves.items():
        steps |= leaf_values(known_values(table.column(name), name), leaf, name)
    early += [recording.index] * bool(facts["next.done"][:-1].any())
    is_cut = "next.truncated" in facts and bool(facts["next.truncated"][-1])
    terminated = bool(facts["next.done"][-1]) and not is_cut
    about = {"task": text, "fps": plan.info.fps, "episode_index": recording.index}
    return make_row(steps, final, terminated=terminated, truncated=not terminated, text=text, metadata=about)


def _text(recording: Recording, facts: Mapping[str, np.ndarray], tasks: Mapping[int, str]) -> str:
    indices = dict.fromkeys(facts["task_index"].tolist()) if "task_index" in facts else {}
    unknown = next((index for index in indices if index not in tasks), None)
    if unknown is not None:
        raise DataError(f"it is of task {unknown}, which is not among the {len(tasks)} that meta/tasks lists")
    return "; ".join([tasks[index] for index in indices] or recording.tasks)


def _rewards(facts: Mapping[str, np.ndarray]) -> np.ndarray:
    if "next.reward" in facts:
        return facts["next.reward"]
    rewards = np.zeros(len(facts["next.done"]), np.float32)
    if "next.success" in facts:
        rewards[np.flatnonzero(facts["next.success"])[:1]] = 1
    return rewards


def _seen(
    plan: Plan, recording: Recording, table: pa.Table, name: str, shape: video.Shape, times: np.ndarray
) -> np.ndarray:
    """Return the images of a camera: [T, height, width, channels]."""
    if name in plan.videos:
        path, begin = recording.videos[name]
        times, tolerance = begin + times.astype(np.float64), 0.5 / plan.info.fps + 1e-6
        path = member(plan.info.folder, path)
        return video.read_video(path, times, shape, tolerance=tolerance, resize=plan.resize)
    frames = np.empty((table.num_rows, *shape), np.uint8)
    for step, value in enumerate(table.column(name)):
        frames[step] = video.read_image(value.as_py(), shape, f"step {step}: {name}", resize=plan.resize)
    return frames


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
