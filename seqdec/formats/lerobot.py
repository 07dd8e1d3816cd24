"""LeRobot data sets, read without LeRobot: folders and Hub ids, formats v2.0, v2.1 and v3.0.

    features of a data set                             a row, T frames of one episode
    observation.state, observation.images.top          observation.state, observation.images.top
    action, or action.arm, action.gripper              action, or action.arm, action.gripper
    next.reward; else next.success; else nothing       reward: as it is; else 1 at the first success; else 0
    next.done, next.truncated of the last frame        terminated: done and not truncated; else truncated
    task_index of the frames                           text and metadata.task: "; " between several

Features of other names are named by `columns`. The format has no observation after the last action, so `final` is the
last frame again. Where the steps of an episode are its frames in order, only videos need their clock.
Frames are large: an episode of 500 at 480 x 640 takes 460 MB a camera, and `image_size` makes them smaller as they are
read, one episode at a time.
"""

import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from gymnasium.spaces import Box

from seqdec import storage
from seqdec.data.episode import Row, make_row
from seqdec.data.source import Attempt, Source, file_identity, source_of_attempts
from seqdec.errors import DataError, UsageError
from seqdec.formats import lerobot_meta as meta
from seqdec.formats import table_rows, video
from seqdec.formats.arrays import NO_REWARDS, known_values, leaf_values, per_step, step_values
from seqdec.formats.columns import Columns
from seqdec.formats.guard import AGAIN, attempt, opened_parquet
from seqdec.formats.lerobot_meta import Info, Recording
from seqdec.formats.lerobot_plan import Cameras, Plan, named_features, plan_of
from seqdec.formats.table_formats import read_files
from seqdec.spaces.leaves import leaf_kind, split
from seqdec.spaces.space import quote

logger = logging.getLogger(__name__)


def source(
    name: str | Path,
    *,
    cameras: Cameras = "read",
    image_size: tuple[int, int] | None = None,
    episodes: Sequence[int] | None = None,
    columns: Columns | None = None,
) -> Source:
    """Return the episodes of a LeRobot data set: a folder, or a Hub id, of which what is not here is fetched once.

    Args:
        name: a folder with meta/info.json in it, or an id such as "lerobot/pusht".
        cameras: "read" all of them, "skip" them, or the names of those to read ("observation.images.top", or "top").
        image_size: height and width to bring images to; their own by default.
        episodes: the numbers of those to read; all by default.
        columns: which feature is what, where they have other names: the observation, action, reward, terminated,
            truncated and text. The text is a feature of words, or of the numbers of tasks, such as
            "annotation.human.action.task_description" beside GR00T's data.

    Raises:
        UsageError: no such data set, camera or episode, or PyAV is needed and not installed.
        DataError: what the data set says of itself cannot be true, or files are missing.
    """
    folder, repo_id = meta.locate(str(name))
    plan = plan_of(meta.read_info(folder, named_features(columns)), columns, cameras, image_size)
    if plan.videos:
        video.import_av()
    if not {"reward", "success"} & plan.facts.keys():
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
    if columns is not None:
        identity["columns"] = json.loads(json.dumps(asdict(columns)))
    return source_of_attempts(plan.spec, partial(_attempts, plan, recordings), identity, len(recordings))


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
    text = plan.facts.get("text")
    tasks = {} if text is None or plan.info.features[text].dtype == "string" else meta.read_tasks(plan.info)
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
    path = storage.path_inside(plan.info.folder, name)
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
    """Return the facts about each frame besides observation and action: [T] each, whether it ends in any case."""
    facts = {role: _fact(plan, table, name) for role, name in plan.facts.items()}
    for role in ("frame_index", "timestamp"):
        goes_on = np.diff(facts.get(role, np.zeros(0))) > 0
        if not goes_on.all():
            step = int(np.argmin(goes_on)) + 1
            words = f"step {step}: {role} is {facts[role][step]:g} after {facts[role][step - 1]:g}"
            if role == "timestamp":
                advice = "the frames of the videos are not to be found by it: leave the cameras out with cameras='skip'"
                raise DataError(f"{words}; {advice}", option="cameras")
            raise DataError(words)
    facts.setdefault("terminated", np.zeros(table.num_rows, bool))
    return facts


def _fact(plan: Plan, table: pa.Table, name: str) -> np.ndarray:
    if plan.info.features[name].dtype == "string":
        return step_values(table.column(name), name)
    return per_step(known_values(table.column(name), name), name)


def _row(plan: Plan, recording: Recording, table: pa.Table, tasks: Mapping[int, str], early: list[int]) -> Row:
    """Return an episode as a row: the last frame is the final observation as well.

    Its number joins `early` where it goes on after it is done.
    """
    if table.num_rows != recording.length:
        raise DataError(f"expected {recording.length} steps, found {table.num_rows}")
    facts = _facts(plan, table)
    text = _text(plan, recording, facts, tasks)
    steps = {"reward": _rewards(facts, table.num_rows)}
    for name, leaf in plan.spec.observation_leaves.items():
        if isinstance(leaf, Box) and leaf_kind(leaf) == "image":
            height, width, channels = leaf.shape
            times = facts["timestamp"] if "timestamp" in facts else np.arange(table.num_rows) / plan.info.fps
            seen = _seen(plan, recording, table, str(plan.observation[name]), (height, width, channels), times)
            steps |= split(leaf, seen, name)
        else:
            read = step_values if leaf_kind(leaf) == "text" else known_values
            steps |= leaf_values(_vector(table, plan.observation[name], read), leaf, name)
    final = {name: values[-1] for name, values in steps.items() if name != "reward"}
    for name, leaf in plan.spec.action_leaves.items():
        steps |= leaf_values(_vector(table, plan.action[name], known_values), leaf, name)
    done = facts["terminated"]
    early += [recording.index] * bool(done[:-1].any())
    is_cut = "truncated" in facts and bool(facts["truncated"][-1])
    terminated = bool(done[-1]) and not is_cut
    about = {"task": text, "fps": plan.info.fps, "episode_index": recording.index}
    return make_row(steps, final, terminated=terminated, truncated=not terminated, text=text, metadata=about)


def _vector(
    table: pa.Table, columns: str | tuple[str, ...], read: Callable[[pa.ChunkedArray, str], np.ndarray]
) -> np.ndarray:
    return table_rows.vector(lambda name: read(table.column(name), name), columns)


def _text(plan: Plan, recording: Recording, facts: Mapping[str, np.ndarray], tasks: Mapping[int, str]) -> str:
    values = dict.fromkeys(facts["text"].tolist()) if "text" in facts else {}
    if "text" in facts and plan.info.features[plan.facts["text"]].dtype == "string":
        return "; ".join(word for word in values if word)
    unknown = next((index for index in values if index not in tasks), None)
    if unknown is not None:
        raise DataError(f"it is of task {unknown}, which is not among the {len(tasks)} that meta/tasks lists")
    return "; ".join([tasks[index] for index in values] or recording.tasks)


def _rewards(facts: Mapping[str, np.ndarray], num_steps: int) -> np.ndarray:
    if "reward" in facts:
        return facts["reward"]
    rewards = np.zeros(num_steps, np.float32)
    if "success" in facts:
        rewards[np.flatnonzero(facts["success"])[:1]] = 1
    return rewards


def _seen(
    plan: Plan, recording: Recording, table: pa.Table, name: str, shape: video.Shape, times: np.ndarray
) -> np.ndarray:
    """Return the images of a camera: [T, height, width, channels]."""
    if name in plan.videos:
        path, begin = recording.videos[name]
        times, tolerance = begin + times.astype(np.float64), 0.5 / plan.info.fps + 1e-6
        path = storage.path_inside(plan.info.folder, path)
        return video.read_video(path, times, shape, tolerance=tolerance, resize=plan.resize)
    frames = np.empty((table.num_rows, *shape), np.uint8)
    for step, value in enumerate(table.column(name)):
        frames[step] = video.read_image(value.as_py(), shape, f"step {step}: {name}", resize=plan.resize)
    return frames


def _present(info: Info, names: Sequence[str]) -> list[Path]:
    """Return all files that are read; those named must be there."""
    paths = [storage.path_inside(info.folder, name) for name in names]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing ({len(missing)} of {len(paths)} files are); {AGAIN}")
    meta = [info.path, *info.folder.glob("meta/tasks.*"), *info.folder.glob("meta/episodes.jsonl")]
    return [*paths, *meta, *info.folder.glob("meta/episodes/*/*.parquet")]
