"""What a LeRobot data set says of itself: its features, its episodes, their tasks, and the files that hold them.

    meta/info.json      version, frames a second, features, totals, how the other files are called
    v2.0, v2.1          meta/episodes.jsonl, meta/tasks.jsonl; each episode has files of its own
    v3.0                meta/episodes/chunk-000/file-000.parquet, meta/tasks.parquet; files hold many episodes

Nothing here is believed: names stay inside the folder, counts are compared, and what is missing is said. The folder is
the user's, LeRobot's own, or the Hub's cache: what is in none of them is fetched.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import huggingface_hub

from seqdec import storage
from seqdec.errors import DataError, UsageError
from seqdec.formats.arrays import json_lines
from seqdec.formats.guard import AGAIN, at, count, opened_parquet
from seqdec.formats.table_formats import read_files
from seqdec.hub import cached, download
from seqdec.spaces.leaves import role_of
from seqdec.spaces.space import MAX_ENTRIES, is_int, kind_of, quote

VERSIONS = ("v2.0", "v2.1", "v3.0")
META = ["meta/*"]
# The features that are read; further columns are the data set's own affair.
_ROLES = ("observation", "action", "next", "episode_index", "frame_index", "task_index", "timestamp")
_BOOKKEEPING = ("next", "episode_index", "frame_index", "task_index", "timestamp", "index")
_FIELD = re.compile(r"\{(\w+)(?::0(\d{1,2})d)?\}")
_VIDEO = ("chunk_index", "file_index", "from_timestamp")


@dataclass(frozen=True)
class Feature:
    """A column or a camera; `names` are those of its entries, or of its axes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    is_depth: bool

    @property
    def is_camera(self) -> bool:
        """Say whether its values are images."""
        return self.dtype in ("image", "video")


@dataclass(frozen=True)
class Info:
    """meta/info.json; `names` are those of all features, `data_path` and `video_path` are templates."""

    folder: Path
    version: str
    fps: float
    num_episodes: int
    num_frames: int
    features: Mapping[str, Feature]
    names: tuple[str, ...]
    data_path: str
    video_path: str | None
    chunks_size: int

    @property
    def path(self) -> Path:
        """Return where it is, for sentences."""
        return self.folder / "meta" / "info.json"

    @staticmethod
    def is_bookkeeping(name: str) -> bool:
        """Say whether a feature is neither seen nor done."""
        return role_of(name) in _BOOKKEEPING


@dataclass(frozen=True)
class Recording:
    """An episode yet to be read: the files that hold it, and where its part of each camera's video begins."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: str
    videos: Mapping[str, tuple[str, float]]


def locate(name: str) -> tuple[Path, str | None]:
    """Return the folder of a data set, with meta/ in it, and the id whose further files `fetch` may have to get.

    Raises:
        UsageError: neither a folder nor an id, or an id that is not here and cannot be fetched.
    """
    if name and Path(name).is_dir():
        return Path(name), None
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) or ".." in name:
        raise UsageError(f"{quote(name)} is neither a folder with a LeRobot data set nor a Hub id like 'lerobot/pusht'")
    home = os.environ.get("HF_LEROBOT_HOME") or os.path.join(huggingface_hub.constants.HF_HOME, "lerobot")
    recorded = Path(home).expanduser() / name
    if (recorded / "meta" / "info.json").is_file():
        return recorded, None
    fetched = cached(name, repo_type="dataset", patterns=META)
    if fetched is not None and any((fetched / "meta" / part).exists() for part in ("episodes", "episodes.jsonl")):
        return fetched, name
    return download(name, repo_type="dataset", patterns=META), name


def fetch(repo_id: str, folder: Path, names: Iterable[str], *, whole: bool) -> None:
    """Fetch those files of a snapshot that are not in the Hub's cache; `whole` asks for all that their folders hold."""
    lacking = [name for name in names if not (folder / name).exists()]
    # One pattern a folder: a data set may have a hundred thousand files, and each is compared with each pattern.
    patterns = {f"{escape(os.path.dirname(name))}/*" if whole else escape(name) for name in lacking}
    if patterns:
        download(repo_id, repo_type="dataset", patterns=sorted(patterns), revision=folder.name)


def read_info(folder: Path, names: Sequence[str] = ()) -> Info:
    """Read meta/info.json; `names` are of further features that are read.

    Raises:
        DataError: it is missing, of an unknown version, or a feature is not described.
    """
    path = storage.path_inside(folder, "meta/info.json")
    if not path.is_file():
        raise DataError(f"{folder} has no meta/info.json: it is not a LeRobot data set of v2.0 or later")
    value = storage.read_json(path)
    version, fps, features = value.get("codebase_version"), value.get("fps"), value.get("features")
    data_path, video_path = value.get("data_path"), value.get("video_path")
    with at(path):
        if version not in VERSIONS:
            versions = f"codebase_version is {quote(version)}, expected {', '.join(VERSIONS)}"
            raise DataError(f"{versions}: bring the data set to one of these with LeRobot's converters")
        if value.get("storage_format") == "lance":
            raise DataError("the data set is stored as Lance tables: get the one stored as Parquet and MP4")
        if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps < 1e6:
            raise DataError(f"fps is {quote(fps)}, expected a positive number")
        if not isinstance(features, Mapping):
            raise DataError(f"features is {kind_of(features)}, expected an object")
        if not isinstance(data_path, str) or not isinstance(video_path, str | None):
            raise DataError(f"data_path is {kind_of(data_path)}, video_path {kind_of(video_path)}: expected texts")
        return Info(
            folder=folder,
            version=version,
            fps=float(fps),
            num_episodes=count(value.get("total_episodes"), "total_episodes"),
            num_frames=count(value.get("total_frames"), "total_frames"),
            features={
                name: _feature(name, entry)
                for name, entry in features.items()
                if role_of(name) in _ROLES or name in names
            },
            names=tuple(features),
            data_path=data_path,
            video_path=video_path,
            chunks_size=max(1, count(value.get("chunks_size", 1000), "chunks_size")),
        )


def read_recordings(info: Info, cameras: Sequence[str]) -> list[Recording]:
    """Read what the data set says of its episodes, in their order; `cameras` are those whose videos are read.

    Raises:
        DataError: an entry is damaged, or they are not as many as info.json says.
    """
    if cameras and info.video_path is None:
        raise DataError(f"{info.path} has no video_path, but {cameras[0]} is a video: leave it out, or {AGAIN}")
    entries = _episode_table(info, cameras) if info.version == "v3.0" else _episode_lines(info, cameras)
    recordings = sorted(entries, key=lambda recording: recording.index)
    with at(info.folder):
        pairs = zip(recordings, recordings[1:], strict=False)
        twice = next((one.index for one, other in pairs if one.index == other.index), None)
        if twice is not None:
            raise DataError(f"episode {twice} is listed twice; {AGAIN}")
        num_frames = sum(recording.length for recording in recordings)
        counts = {"episodes": (info.num_episodes, len(recordings)), "steps": (info.num_frames, num_frames)}
        for word, (expected, listed) in counts.items():
            if expected != listed:
                raise DataError(f"expected {expected} {word}, its episodes list {listed}; {AGAIN}")
    if not recordings:
        raise DataError(f"{info.folder} has no episodes yet: record or fetch one")
    return recordings


def read_tasks(info: Info) -> dict[int, str]:
    """Read the texts of the tasks by task_index."""
    if info.version != "v3.0":
        path = storage.path_inside(info.folder, "meta/tasks.jsonl")
        pairs = [(entry.get("task_index"), entry.get("task")) for _, entry in json_lines(path)]
    else:
        path = storage.path_inside(info.folder, "meta/tasks.parquet")
        with opened_parquet(path) as file:
            # pandas keeps the texts as an index, which older versions of LeRobot left without a name
            text = next((name for name in ("task", "__index_level_0__") if name in file.schema_arrow.names), "task")
        pairs = [(entry["task_index"], entry[text]) for entry in _entries(path, ["task_index", text])]
    for index, task in pairs:
        if not is_int(index) or not isinstance(task, str):
            raise DataError(f"{path}: a task is {quote(task)} of index {quote(index)}: expected a text and a number")
    return dict(pairs)  # pyright: ignore[reportReturnType]


def _feature(name: str, value: object) -> Feature:
    if not name.isprintable() or len(name) > 200:
        raise DataError(f"a feature is named {quote(name)}: expected at most 200 printable characters")
    with at(f"feature {quote(name)}"):
        if not isinstance(value, Mapping) or not isinstance(value.get("dtype"), str):
            raise DataError(f"it is {kind_of(value)} without a dtype: expected an object with dtype and shape")
        shape = value.get("shape")
        if not isinstance(shape, list) or not all(is_int(size) and size >= 1 for size in shape):
            raise DataError(f"it has shape {quote(shape)}: expected whole numbers from 1 on")
        if math.prod(shape) > 64 * MAX_ENTRIES:
            raise DataError(f"it has shape {quote(shape)}: nothing that large is read")
    names = value.get("names")
    while isinstance(names, Mapping) and len(names) == 1:  # {"motors": [...]}, {"axes": [...]}
        names = next(iter(names.values()))
    words = [value.get(key) for key in ("info", "video_info")]
    words = [entry for entry in words if isinstance(entry, Mapping)]
    is_depth = any(entry.get("is_depth_map") or entry.get("video.is_depth_map") for entry in words)
    listed = names if isinstance(names, list | Mapping) else ()
    return Feature(name, value["dtype"], tuple(shape), tuple(map(str, listed)), is_depth)


def _episode_lines(info: Info, cameras: Sequence[str]) -> Iterator[Recording]:
    """Yield the entries of v2: the number of an episode tells its files."""
    path = storage.path_inside(info.folder, "meta/episodes.jsonl")
    for _, entry in json_lines(path):
        with at(path):
            index, length, tasks = _episode(entry)
        fields = {"episode_index": index, "episode_chunk": index // info.chunks_size}
        data = _placed(info.data_path, fields, info)
        videos = {name: (_placed(str(info.video_path), {**fields, "video_key": name}, info), 0.0) for name in cameras}
        yield Recording(index, length, tasks, data, videos)


def _episode_table(info: Info, cameras: Sequence[str]) -> Iterator[Recording]:
    """Yield the entries of v3: a table says in which files an episode is."""
    paths = sorted(path.relative_to(info.folder).as_posix() for path in info.folder.glob("meta/episodes/*/*.parquet"))
    if not paths:
        raise DataError(f"{info.folder / 'meta' / 'episodes'} holds no chunk-000/file-000.parquet; {AGAIN}")
    names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    names += [f"videos/{camera}/{name}" for camera in cameras for name in _VIDEO]
    for path in [storage.path_inside(info.folder, name) for name in paths]:
        with opened_parquet(path) as file:
            # frames name their tasks too, and some data sets leave it to them
            columns = [*names, *["tasks"] * ("tasks" in file.schema_arrow.names)]
        for entry in _entries(path, columns):
            with at(path):
                yield _recording(entry, info, cameras)


def _recording(entry: Mapping[str, object], info: Info, cameras: Sequence[str]) -> Recording:
    def fields(prefix: str) -> dict[str, int | str]:
        return {name: count(entry[f"{prefix}/{name}"], f"{prefix}/{name}") for name in ("chunk_index", "file_index")}

    index, length, tasks = _episode(entry)
    videos = {}
    for camera in cameras:
        begin = entry[f"videos/{camera}/from_timestamp"]
        if not isinstance(begin, int | float) or not 0 <= begin < 1e9:
            raise DataError(f"episode {index} begins at {quote(begin)} s of {camera}: expected seconds")
        name = _placed(str(info.video_path), {**fields(f"videos/{camera}"), "video_key": camera}, info)
        videos[camera] = (name, float(begin))
    return Recording(index, length, tasks, _placed(info.data_path, fields("data"), info), videos)


def _episode(entry: Mapping[str, object]) -> tuple[int, int, tuple[str, ...]]:
    """Return the number, the length and the tasks of an episode."""
    index, tasks = count(entry.get("episode_index"), "episode_index"), entry.get("tasks")
    length = count(entry.get("length"), f"the length of episode {index}", least=1)
    return index, length, tuple(map(str, tasks)) if isinstance(tasks, list) else ()


def _placed(template: str, fields: Mapping[str, int | str], info: Info) -> str:
    """Fill in a template; `str.format` would let it reach into Python's objects."""

    def fill(match: re.Match[str]) -> str:
        value = fields.get(match[1])
        if value is None or (match[2] and isinstance(value, str)):
            raise DataError(f"{info.path}: {quote(template)} holds {match[0]}: expected {', '.join(fields)}")
        return f"{value:0{int(match[2])}d}" if match[2] else str(value)

    if set("{}") & set(_FIELD.sub("", template)):
        raise DataError(f"{info.path}: {quote(template)} holds braces that name no field")
    name = _FIELD.sub(fill, template)
    storage.path_inside(info.folder, name)
    return name


def _entries(path: Path, names: Sequence[str]) -> list[dict[str, object]]:
    return [row for block in read_files([path], names, {}) for row in block.rows.to_pylist()]
