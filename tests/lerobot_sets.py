"""Data sets as LeRobot lays them out, versions 2.1 and 3.0, written without LeRobot."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

FPS = 10
VECTOR = {"dtype": "float32", "shape": [2], "names": ["x", "y"]}
FLAG = {"dtype": "bool", "shape": [1], "names": None}
NUMBER = {"dtype": "float32", "shape": [1], "names": None}
INDEX = {"dtype": "int64", "shape": [1], "names": None}
BOOKKEEPING = dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), INDEX) | {"timestamp": NUMBER}
FEATURES = {"observation.state": VECTOR, "action": {**VECTOR, "shape": [3]}}
REWARDED = {**FEATURES, "next.reward": NUMBER, "next.done": FLAG}
V21 = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
V30 = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


def camera(height=4, width=6, dtype="image"):
    return {"dtype": dtype, "shape": [height, width, 3], "names": ["height", "width", "channels"]}


def make_episodes(features=REWARDED, lengths=(3, 1, 4, 2)):
    """Make columns [T, ...] of each feature, by episode; every third episode is about two tasks."""
    random = np.random.default_rng(0)
    episodes = []
    for index, length in enumerate(lengths):
        columns = {"task": ["pick"] * length if index % 3 else ["reach"] + ["pick"] * (length - 1)}
        for name, feature in features.items():
            shape = (length, *feature["shape"])
            if feature["dtype"] in ("image", "video"):
                columns[name] = random.integers(0, 256, shape, dtype=np.uint8)
            elif feature["dtype"] == "string":
                columns[name] = np.array([f"text {index} {step}" for step in range(length)], dtype=object)
            elif feature["dtype"].startswith("float"):
                columns[name] = random.normal(size=shape).astype(np.float32)
            else:
                columns[name] = random.integers(0, 2, shape).astype(feature["dtype"])
        if "next.done" in columns:
            columns["next.done"][:] = np.arange(length)[:, None] == (length - 1 if index % 2 == 0 else -1)
        episodes.append(columns)
    return episodes


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def arrow(values, feature):
    """Return a column as LeRobot's writer stores it: one number plainly, more of them in lists, images as bytes."""
    if feature["dtype"] == "image":
        return pa.array([{"bytes": png(pixels), "path": f"frame-{step:06d}.png"} for step, pixels in enumerate(values)])
    if feature["dtype"] == "string":
        return pa.array(values.tolist())
    flat = pa.array(values.reshape(-1))
    for size in reversed(feature["shape"] if feature["shape"] != [1] else []):
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat


def tables_of(episodes, features):
    tasks = list(dict.fromkeys(task for columns in episodes for task in columns["task"]))
    first = 0
    for index, columns in enumerate(episodes):
        length = len(columns["task"])
        frames = np.arange(length)
        bookkeeping = {
            "frame_index": pa.array(frames),
            "timestamp": pa.array((frames / FPS).astype(np.float32)),
            "episode_index": pa.array(np.full(length, index)),
            "index": pa.array(first + frames),
            "task_index": pa.array([tasks.index(task) for task in columns["task"]]),
        }
        first += length
        kept = {name: arrow(columns[name], told) for name, told in features.items() if told["dtype"] != "video"}
        yield pa.table({**kept, **bookkeeping})


def write(folder, episodes, features=REWARDED, version="v2.1", per_file=2, change=None, video=None, info=None):
    """Write a set as LeRobot lays it out; `change` may spoil a table, `info` what is said of all;
    `video` writes the frames of one MP4.
    """
    (folder / "meta").mkdir(parents=True)
    is_old = version != "v3.0"
    told = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(episodes),
        "total_frames": sum(len(columns["task"]) for columns in episodes),
        "chunks_size": 3 if is_old else 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(episodes)}"},
        **(V21 if is_old else V30),
        "features": {**features, **BOOKKEEPING},
        **(info or {}),
    }
    (folder / "meta" / "info.json").write_text(json.dumps(told))
    tables = list(tables_of(episodes, features))
    tables = tables if change is None else [change(index, table) for index, table in enumerate(tables)]
    (write_v21 if is_old else write_v30)(folder, episodes, tables, features, per_file, video)
    return folder


def write_v21(folder, episodes, tables, features, per_file, video):
    tasks = list(dict.fromkeys(task for columns in episodes for task in columns["task"]))
    entries = [
        {"episode_index": index, "tasks": sorted(set(columns["task"])), "length": len(columns["task"])}
        for index, columns in enumerate(episodes)
    ]
    write_lines(folder / "meta" / "episodes.jsonl", entries)
    write_lines(folder / "meta" / "tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(tasks)])
    for index, table in enumerate(tables):
        fields = {"episode_chunk": index // 3, "episode_index": index}
        save(table, folder / V21["data_path"].format(**fields))
        for name in (name for name, told in features.items() if told["dtype"] == "video"):
            video(folder / V21["video_path"].format(**fields, video_key=name), episodes[index][name])


def write_v30(folder, episodes, tables, features, per_file, video):
    tasks = list(dict.fromkeys(task for columns in episodes for task in columns["task"]))
    named = {"task_index": pa.array(range(len(tasks))), "__index_level_0__": pa.array(tasks)}
    save(pa.table(named), folder / "meta" / "tasks.parquet")
    entries, first = [], 0
    cameras = [name for name, told in features.items() if told["dtype"] == "video"]
    for index, columns in enumerate(episodes):
        length = len(columns["task"])
        before = sum(len(columns["task"]) for columns in episodes[index // per_file * per_file : index])
        entry = {"episode_index": index, "tasks": sorted(set(columns["task"])), "length": length}
        entry |= {"data/chunk_index": 0, "data/file_index": index // per_file}
        entry |= {"dataset_from_index": first, "dataset_to_index": first + length, "stats/action/max": [1.0, 1.0]}
        for name in cameras:
            entry |= {f"videos/{name}/chunk_index": 0, f"videos/{name}/file_index": index // per_file}
            entry |= {
                f"videos/{name}/from_timestamp": before / FPS,
                f"videos/{name}/to_timestamp": (before + length) / FPS,
            }
        entries.append(entry)
        first += length
    half = len(entries) // 2
    for number, part in enumerate([entries[:half], entries[half:]]):
        save(pa.Table.from_pylist(part), folder / f"meta/episodes/chunk-000/file-{number:03d}.parquet")
    for number in range(-(-len(tables) // per_file)):
        part = slice(number * per_file, (number + 1) * per_file)
        fields = {"chunk_index": 0, "file_index": number}
        # Row groups that do not end where episodes do.
        save(pa.concat_tables(tables[part]), folder / V30["data_path"].format(**fields), row_group_size=2)
        for name in cameras:
            pixels = np.concatenate([columns[name] for columns in episodes[part]])
            video(folder / V30["video_path"].format(**fields, video_key=name), pixels)


def write_lines(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def save(table, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(table, path, **options)
