"""What a LeRobot data set says of itself: its features, its episodes, their tasks, and the files that hold them.

    meta/info.json      version, frames a second, features, totals, how the other files are called
    v2.0, v2.1          meta/episodes.jsonl, meta/tasks.jsonl; each episode has files of its own
    v3.0                meta/episodes/chunk-000/file-000.parquet, meta/tasks.parquet; files hold many episodes

Nothing here is believed: names stay inside the folder, counts are compared, and what is missing is said.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyarrow.parquet import ParquetFile

from seqdec import storage
from seqdec.errors import DataError
from seqdec.formats.guard import opened_parquet
from seqdec.formats.lerobot_hub import member
from seqdec.spaces.space import MAX_ENTRIES, is_int, kind_of, quote

VERSIONS = ("v2.0", "v2.1", "v3.0")
AGAIN = "fetch the data set again"
# What is read of a data set; further columns are its own affair.
_ROLES = ("observation", "action", "next", "episode_index", "frame_index", "task_index", "timestamp")
_FIELD = re.compile(r"\{(\w+)(?::0(\d{1,2})d)?\}")
_LARGEST_LINES = 2**30


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
    """meta/info.json; `data_path` and `video_path` are templates."""

    folder: Path
    version: str
    fps: float
    num_episodes: int
    num_frames: int
    features: Mapping[str, Feature]
    data_path: str
    video_path: str | None
    chunks_size: int

    @property
    def path(self) -> Path:
        """Return where it is, for sentences."""
        return self.folder / "meta" / "info.json"


@dataclass(frozen=True)
class Recording:
    """An episode yet to be read: the files that hold it, and where its part of each camera's video begins."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: str
    videos: Mapping[str, tuple[str, float]]


def read_info(folder: Path) -> Info:
    """Read meta/info.json.

    Raises:
        DataError: it is missing, of an unknown version, or a feature is not described.
    """
    path = member(folder, "meta/info.json")
    if not path.is_file():
        raise DataError(f"{folder} has no meta/info.json: it is not a LeRobot data set of v2.0 or later")
    value = storage.read_json(path)
    version, fps, features = value.get("codebase_version"), value.get("fps"), value.get("features")
    if version not in VERSIONS:
        raise DataError(
            f"{path}: codebase_version is {quote(version)}, expected {', '.join(VERSIONS)}: bring the data set to one "
            "of these with LeRobot's converters"
        )
    if value.get("storage_format") == "lance":
        raise DataError(f"{path}: the data set is stored as Lance tables: get the one stored as Parquet and MP4")
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps < 1e6:
        raise DataError(f"{path}: fps is {quote(fps)}, expected a positive number")
    if not isinstance(features, Mapping):
        raise DataError(f"{path}: features is {kind_of(features)}, expected an object")
    data_path, video_path = value.get("data_path"), value.get("video_path")
    if not isinstance(data_path, str) or not isinstance(video_path, str | None):
        raise DataError(f"{path}: data_path is {kind_of(data_path)}, video_path {kind_of(video_path)}: expected texts")
    return Info(
        folder=folder,
        version=version,
        fps=float(fps),
        num_episodes=_count(value.get("total_episodes"), "total_episodes", path),
        num_frames=_count(value.get("total_frames"), "total_frames", path),
        features={
            name: _feature(name, feature, path) for name, feature in features.items() if name.split(".")[0] in _ROLES
        },
        data_path=data_path,
        video_path=video_path,
        chunks_size=max(1, _count(value.get("chunks_size", 1000), "chunks_size", path)),
    )


def read_recordings(info: Info, cameras: Sequence[str]) -> list[Recording]:
    """Read what the data set says of its episodes, in their order; `cameras` are those whose videos are wanted.

    Raises:
        DataError: an entry is damaged, or they are not as many as info.json says.
    """
    if cameras and info.video_path is None:
        raise DataError(f"{info.path} has no video_path, but {cameras[0]} is a video: leave it out, or {AGAIN}")
    entries = _episode_table(info, cameras) if info.version == "v3.0" else _episode_lines(info, cameras)
    found = sorted(entries, key=lambda recording: recording.index)
    twice = next((one.index for one, other in zip(found, found[1:], strict=False) if one.index == other.index), None)
    if twice is not None:
        raise DataError(f"{info.folder}: episode {twice} is listed twice; {AGAIN}")
    num_frames = sum(recording.length for recording in found)
    for word, expected, counted in (
        ("episodes", info.num_episodes, len(found)),
        ("steps", info.num_frames, num_frames),
    ):
        if expected != counted:
            raise DataError(f"{info.folder}: expected {expected} {word}, its episodes list {counted}; {AGAIN}")
    if not found:
        raise DataError(f"{info.folder} has no episodes yet: record or fetch one")
    return found


def read_tasks(info: Info) -> dict[int, str]:
    """Read the texts of the tasks by task_index."""
    if info.version != "v3.0":
        path = member(info.folder, "meta/tasks.jsonl")
        pairs = [(entry.get("task_index"), entry.get("task")) for entry in _lines(path)]
    else:
        path = member(info.folder, "meta/tasks.parquet")
        with opened_parquet(path, f"; {AGAIN}") as file:
            # pandas keeps the texts as an index, which older versions of LeRobot left without a name
            text = next((name for name in ("task", "__index_level_0__") if name in file.schema_arrow.names), "task")
            columns = _columns(file, ["task_index", text], path)
        pairs = list(zip(columns["task_index"], columns[text], strict=True))
    for index, task in pairs:
        if not is_int(index) or not isinstance(task, str):
            raise DataError(f"{path}: a task is {quote(task)} of index {quote(index)}: expected a text and a number")
    return dict(pairs)  # pyright: ignore[reportReturnType]


def _feature(name: str, value: object, path: Path) -> Feature:
    place = f"{path}: feature {quote(name)}"
    if not name.isprintable() or len(name) > 200:
        raise DataError(f"{path}: a feature is named {quote(name)}: expected at most 200 printable characters")
    if not isinstance(value, Mapping) or not isinstance(value.get("dtype"), str):
        raise DataError(f"{place} is {kind_of(value)} without a dtype: expected an object with dtype and shape")
    shape = value.get("shape")
    if not isinstance(shape, list) or not all(is_int(size) and size >= 1 for size in shape):
        raise DataError(f"{place} has shape {quote(shape)}: expected whole numbers from 1 on")
    if math.prod(shape) > 64 * MAX_ENTRIES:
        raise DataError(f"{place} has shape {quote(shape)}: nothing that large is read")
    names = value.get("names")
    while isinstance(names, Mapping) and len(names) == 1:  # {"motors": [...]}, {"axes": [...]}
        names = next(iter(names.values()))
    told = [value.get(key) for key in ("info", "video_info")]
    is_depth = any(
        isinstance(words, Mapping) and (words.get("is_depth_map") or words.get("video.is_depth_map")) for words in told
    )
    listed = names if isinstance(names, list | Mapping) else ()
    return Feature(name, value["dtype"], tuple(shape), tuple(map(str, listed)), bool(is_depth))


def _episode_lines(info: Info, cameras: Sequence[str]) -> Iterator[Recording]:
    """Yield the entries of v2: the number of an episode tells its files."""
    path = member(info.folder, "meta/episodes.jsonl")
    for entry in _lines(path):
        index, length, tasks = (entry.get(key) for key in ("episode_index", "length", "tasks"))
        index = _count(index, "episode_index", path)
        fields = {"episode_index": index, "episode_chunk": index // info.chunks_size}
        yield Recording(
            index,
            _count(length, f"the length of episode {index}", path, least=1),
            tuple(map(str, tasks)) if isinstance(tasks, list) else (),
            _placed(info.data_path, fields, info),
            {name: (_placed(str(info.video_path), {**fields, "video_key": name}, info), 0.0) for name in cameras},
        )


def _episode_table(info: Info, cameras: Sequence[str]) -> Iterator[Recording]:
    """Yield the entries of v3: a table says in which files an episode is."""
    names = sorted(path.relative_to(info.folder).as_posix() for path in info.folder.glob("meta/episodes/*/*.parquet"))
    if not names:
        raise DataError(f"{info.folder / 'meta' / 'episodes'} holds no chunk-000/file-000.parquet; {AGAIN}")
    wanted = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
    for camera in cameras:
        wanted += [f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    for name in names:
        path = member(info.folder, name)
        with opened_parquet(path, f"; {AGAIN}") as file:
            columns = _columns(file, wanted, path)
        for values in zip(*columns.values(), strict=True):
            yield _tabled(dict(zip(columns, values, strict=True)), info, cameras, path)


def _tabled(entry: Mapping[str, object], info: Info, cameras: Sequence[str], path: Path) -> Recording:
    def fields(prefix: str) -> dict[str, int | str]:
        return {
            name: _count(entry[f"{prefix}/{name}"], f"{prefix}/{name}", path) for name in ("chunk_index", "file_index")
        }

    index, tasks = _count(entry["episode_index"], "episode_index", path), entry["tasks"]
    videos = {}
    for camera in cameras:
        begin = entry[f"videos/{camera}/from_timestamp"]
        if not isinstance(begin, int | float) or not 0 <= begin < 1e9:
            raise DataError(f"{path}: episode {index} begins at {quote(begin)} s of {camera}: expected seconds")
        name = _placed(str(info.video_path), {**fields(f"videos/{camera}"), "video_key": camera}, info)
        videos[camera] = (name, float(begin))
    length = _count(entry["length"], f"the length of episode {index}", path, least=1)
    texts = tuple(map(str, tasks)) if isinstance(tasks, list) else ()
    return Recording(index, length, texts, _placed(info.data_path, fields("data"), info), videos)


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
    member(info.folder, name)
    return name


def _columns(file: ParquetFile, names: Sequence[str], path: Path) -> dict[str, list[object]]:
    lacking = next((name for name in names if name not in file.schema_arrow.names), None)
    if lacking is not None:
        raise DataError(f"{path} has no column {quote(lacking)}; {AGAIN}")
    table = file.read(columns=list(names))
    return {name: table.column(name).to_pylist() for name in names}


def _lines(path: Path) -> Iterator[dict[str, object]]:
    """Yield the objects of a file with one JSON object a line."""
    if not path.is_file():
        raise DataError(f"{path} is missing; {AGAIN}")
    if path.stat().st_size > _LARGEST_LINES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes: at most {_LARGEST_LINES:,} are read")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = f"line {number} is no JSON ({type(error).__name__})"
                raise DataError(f"{path}: {reason}{storage.advice(path)}") from error
            if not isinstance(value, dict):
                raise DataError(f"{path}: line {number} is {kind_of(value)}, expected an object")
            yield value


def _count(value: object, name: str, path: Path, least: int = 0) -> int:
    if not is_int(value) or not least <= value <= 10**15:
        raise DataError(f"{path}: {name} is {quote(value)}, expected a whole number from {least} on")
    return value
