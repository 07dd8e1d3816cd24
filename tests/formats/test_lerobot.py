import json
import logging
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Text
from PIL import Image

from lerobot_sets import (
    BOOKKEEPING,
    FEATURES,
    FLAG,
    FPS,
    INDEX,
    NUMBER,
    REWARDED,
    VECTOR,
    camera,
    make_episodes,
    png,
    save,
    write,
)
from seqdec.data.arrow import from_rows
from seqdec.data.check import check
from seqdec.data.dataset import episode_at
from seqdec.errors import DataError, UsageError
from seqdec.formats.guard import opened_parquet
from seqdec.formats.lerobot import source
from table_files import ROWS_OF_A_PAGE

both = pytest.mark.parametrize("version", ["v2.1", "v3.0"])


def read(folder, **options):
    return list(source(folder, **options).read())


def dataset_of(folder, **options):
    found = source(folder, **options)
    dataset = from_rows(found.read(), found.spec)
    check(dataset)
    return dataset


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert type(found[name]) is type(value), name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@both
def test_rows_are_the_episodes_that_were_written(tmp_path, version):
    episodes = make_episodes()
    found = source(write(tmp_path / "set", episodes, version=version))
    assert found.num_episodes == 4
    assert found.spec.observation_space == Dict(state=Box(-np.inf, np.inf, (2,)))
    assert found.spec.action_space == Box(-np.inf, np.inf, (3,))
    tasks = ["reach; pick", "pick", "pick", "reach; pick"]
    for index, (row, columns) in enumerate(zip(found.read(), episodes, strict=True)):
        expected = {
            "observation.state": columns["observation.state"],
            "final.state": columns["observation.state"][-1],
            "action": columns["action"],
            "reward": columns["next.reward"][:, 0],
            "terminated": index % 2 == 0,
            "truncated": index % 2 == 1,
            "text": tasks[index],
            "metadata.task": tasks[index],
            "metadata.fps": 10.0,
            "metadata.episode_index": index,
        }
        assert_equal(row, expected)


@pytest.mark.parametrize("per_file", [1, 3, 9])
def test_both_formats_give_the_same_rows_twice(tmp_path, per_file):
    features = {**REWARDED, "observation.images.top": camera(), "observation.mode": {**INDEX, "names": ["a", "b"]}}
    episodes = make_episodes(features, (3, 1, 4, 2, 5))
    old = source(write(tmp_path / "old", episodes, features))
    new = source(write(tmp_path / "new", episodes, features, "v3.0", per_file=per_file))
    assert old.spec == new.spec
    for one, other, again in zip(old.read(), new.read(), new.read(), strict=True):
        assert_equal(one, other)
        assert_equal(again, other)


@both
def test_a_data_set_of_the_rows_passes_the_checks_and_gives_them_back(tmp_path, version):
    features = {**REWARDED, "observation.images.top": camera()}
    episodes = make_episodes(features)
    dataset = dataset_of(write(tmp_path / "set", episodes, features, version))
    for index, columns in enumerate(episodes):
        episode = episode_at(dataset, index)
        np.testing.assert_array_equal(episode.steps["observation.images.top"], columns["observation.images.top"])
        np.testing.assert_array_equal(episode.final["observation.images.top"], columns["observation.images.top"][-1])
        assert episode.metadata["episode_index"] == index


def test_without_rewards_a_success_pays_one_once_and_nothing_else_pays(tmp_path, caplog):
    features = {**FEATURES, "next.success": FLAG}
    episodes = make_episodes(features, (4, 3))
    episodes[0]["next.success"][:, 0] = [False, False, True, True]
    episodes[1]["next.success"][:] = False
    found = read(write(tmp_path / "success", episodes, features))
    assert [row["reward"].tolist() for row in found] == [[0, 0, 1, 0], [0, 0, 0]]
    assert [(row["terminated"], row["truncated"]) for row in found] == [(False, True)] * 2
    plain = read(write(tmp_path / "plain", make_episodes(FEATURES), FEATURES))
    assert all((row["reward"] == 0).all() and row["reward"].dtype == np.float32 for row in plain)
    assert caplog.text.count("has no rewards: they are taken for 0") == 1  # of the plain one


def test_an_episode_that_goes_on_after_done_is_kept_whole_and_said_once(tmp_path, caplog):
    episodes = make_episodes(lengths=(4, 4, 4))
    for columns in episodes[:2]:
        columns["next.done"][:, 0] = [False, True, False, False]
    with caplog.at_level(logging.WARNING):
        found = read(write(tmp_path / "set", episodes))
    assert [(len(row["reward"]), row["terminated"]) for row in found] == [(4, False), (4, False), (4, True)]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "next.done is set before the last frame of 2 of 3 episodes, which are kept whole"
    ]


def test_what_was_truncated_is_not_terminated_though_it_is_done(tmp_path):
    features = {**REWARDED, "next.truncated": FLAG}
    episodes = make_episodes(features, (2, 2))
    for columns, is_cut in zip(episodes, (True, False), strict=True):
        columns["next.done"][:, 0], columns["next.truncated"][:, 0] = [False, True], [False, is_cut]
    assert [row["terminated"] for row in read(write(tmp_path / "set", episodes, features))] == [False, True]


def test_names_nest_by_their_dots_and_the_whole_action_stands_for_its_parts(tmp_path):
    features = {
        "observation.state": VECTOR,
        "observation.state.gripper": NUMBER,
        "observation.images.left.rgb": camera(),
        "observation.images.top": camera(2, 2),
        "action": VECTOR,
        "action.gripper": NUMBER,
    }
    episodes = make_episodes(features)
    folder = write(tmp_path / "set", episodes, features)
    found = source(folder)
    assert found.spec.observation_space["images"]["left"]["rgb"] == Box(0, 255, (4, 6, 3), np.uint8)
    assert list(found.spec.observation_leaves) == [
        "observation.state", "observation.state.gripper", "observation.images.left.rgb", "observation.images.top"
    ]  # fmt: skip
    assert list(found.spec.action_leaves) == ["action"]
    row = next(found.read())
    np.testing.assert_array_equal(row["observation.state"], episodes[0]["observation.state"])
    np.testing.assert_array_equal(row["observation.state.gripper"], episodes[0]["observation.state.gripper"])
    del features["action"]
    features["action.arm"] = VECTOR
    parts = source(write(tmp_path / "parts", make_episodes(features), features)).spec.action_space
    assert parts == Dict(gripper=Box(-np.inf, np.inf, (1,)), arm=Box(-np.inf, np.inf, (2,)))


@both
def test_each_type_of_feature_has_its_space(tmp_path, version):
    features = {
        "observation.touch": FLAG,
        "observation.buttons": {**FLAG, "shape": [3]},
        "observation.count": INDEX,
        "observation.mode": {**INDEX, "names": ["off", "slow", "fast"]},
        "observation.pose": {"dtype": "float64", "shape": [2, 3], "names": None},
        "observation.say": {"dtype": "string", "shape": [1], "names": None},
        "action": {**FLAG, "names": ["grip"]},
    }
    episodes = make_episodes(features)
    folder = write(tmp_path / "set", episodes, features, version)
    spec = source(folder).spec
    assert spec.action_space == Discrete(2)
    spaces = spec.observation_space.spaces
    assert isinstance(spaces.pop("say"), Text)
    assert spaces == {
        "touch": Discrete(2),
        "buttons": MultiBinary([3]),
        "count": Box(-np.inf, np.inf, (1,)),
        "mode": Discrete(3),
        "pose": Box(-np.inf, np.inf, (2, 3)),
    }
    episode, columns = episode_at(dataset_of(folder), 2), episodes[2]
    assert episode.steps["observation.touch"].tolist() == columns["observation.touch"][:, 0].tolist()
    assert episode.steps["observation.say"].tolist() == columns["observation.say"].tolist()
    np.testing.assert_array_equal(episode.steps["observation.pose"], columns["observation.pose"].astype(np.float32))
    np.testing.assert_array_equal(episode.steps["observation.buttons"], columns["observation.buttons"])


def test_arrays_that_datasets_writes_are_read(tmp_path):
    import datasets

    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    features = {"observation.pose": {"dtype": "float32", "shape": [2, 3], "names": None}, "action": NUMBER}
    episodes = make_episodes(features, (2,))
    folder = write(tmp_path / "set", episodes, features)
    path = folder / "data/chunk-000/episode_000000.parquet"
    kept = pa.parquet.read_table(path).drop_columns("observation.pose")
    columns = {name: kept.column(name).to_pylist() for name in kept.column_names} | {"observation.pose": list(values)}
    kinds = {name: datasets.Value("float32" if name in ("action", "timestamp") else "int64") for name in columns}
    kinds["observation.pose"] = datasets.Array2D((2, 3), "float32")
    datasets.Dataset.from_dict(columns, features=datasets.Features(kinds)).to_parquet(str(path))
    np.testing.assert_array_equal(read(folder)[0]["observation.pose"], values)


def test_images_can_be_resized_and_are_described_channels_first_or_last(tmp_path):
    told = {"dtype": "image", "shape": [3, 4, 6], "names": ["channels", "height", "width"]}
    episodes = make_episodes({**FEATURES, "observation.image": camera()}, (2,))
    folder = write(tmp_path / "set", episodes, {**FEATURES, "observation.image": told})
    np.testing.assert_array_equal(read(folder)[0]["observation.image"], episodes[0]["observation.image"])
    found = source(folder, image_size=(2, 3))
    assert found.spec.observation_space["image"].shape == (2, 3, 3)
    small = next(found.read())["observation.image"]
    by_hand = [np.asarray(Image.fromarray(pixels).resize((3, 2), 2)) for pixels in episodes[0]["observation.image"]]
    np.testing.assert_array_equal(small, by_hand)


@pytest.mark.parametrize(
    ("options", "leaves"),
    [
        ({"cameras": "skip"}, ["state"]),
        ({"cameras": ["top"]}, ["state", "images.top"]),
        ({"cameras": ("observation.images.wrist",)}, ["state", "images.wrist"]),
        ({}, ["state", "images.top", "images.wrist"]),
    ],
)
def test_cameras_are_read_by_name_or_left_out(tmp_path, options, leaves):
    features = {**FEATURES, "observation.images.top": camera(), "observation.images.wrist": camera()}
    folder = write(tmp_path / "set", make_episodes(features), features)
    found = source(folder, **options)
    assert list(found.spec.observation_leaves) == [f"observation.{name}" for name in leaves]
    assert {name for name in next(found.read()) if name.startswith("observation")} == set(found.spec.observation_leaves)


@pytest.mark.parametrize(
    ("options", "told", "message"),
    [
        ({"cameras": "top"}, {}, r"cameras is 'top': expected 'read', 'skip', or names in a list, as \['top'\]"),
        ({"cameras": ["tip"]}, {}, "'tip' is no camera of this data set; it has 'observation.images.top'"),
        ({"image_size": (0, 3)}, {}, r"image_size is '\(0, 3\)': expected height and width"),
        ({"episodes": [4]}, {}, "are numbered 0 to 3, '4' was asked for"),
        ({"episodes": []}, {}, "are numbered 0 to 3, none was asked for"),
        ({"episodes": [1, 1]}, {}, "names one of them twice"),
        ({}, {"shape": [720, 1280, 3]}, r"720 x 1280 x 3 entries, at most 1000000 .* give an image_size"),
        ({}, {"info": {"is_depth_map": True}}, r"'observation.images.top' holds depth maps.*pass cameras=\[\]"),
    ],
)
def test_what_cannot_be_asked_for_is_told(tmp_path, options, told, message):
    features = {**FEATURES, "observation.images.top": camera()}
    episodes = make_episodes(features)
    folder = write(tmp_path / "set", episodes, {**features, "observation.images.top": {**camera(), **told}})
    with pytest.raises(UsageError, match=message):
        source(folder, **options)


@both
def test_chosen_episodes_are_those_episodes_in_that_order(tmp_path, version):
    folder = write(tmp_path / "set", make_episodes(), version=version)
    everything = read(folder)
    found = source(folder, episodes=[2, 0, 3])
    assert found.num_episodes == 3
    for row, index in zip(found.read(), [2, 0, 3], strict=True):
        assert_equal(row, everything[index])


@both
def test_an_episode_is_read_before_later_files_are_opened(tmp_path, version):
    folder = write(tmp_path / "set", make_episodes(), version=version)
    last = sorted(folder.glob("data/*/*.parquet"))[-1]
    last.write_bytes(last.read_bytes()[:60])
    readable = source(folder).read()
    assert next(readable)["metadata.episode_index"] == 0
    with pytest.raises(DataError, match=f"{last.name} cannot be read"):
        list(readable)


@both
def test_the_identity_changes_with_a_file_and_with_an_option(tmp_path, version):
    folder = write(tmp_path / "set", make_episodes(), version=version)
    first = source(folder).identity
    assert first == source(folder).identity == json.loads(json.dumps(first))
    assert first != source(folder, episodes=[0]).identity
    path = sorted(folder.glob("data/*/*.parquet"))[0]
    os.utime(path, ns=(1, 1))
    assert first != source(folder).identity


def replaced(name, values, index=1):
    def change(number, table):
        if number != index:
            return table
        return table.set_column(table.column_names.index(name), name, pa.array(values))

    return change


@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index, table: table.slice(1) if index == 2 else table, "episode 2: expected 4 steps, found 3"),
        (lambda index, table: table.slice(0, 0) if index == 3 else table, "episode 3: expected 2 steps, found 0"),
        (replaced("frame_index", [0, 2, 1, 3], 2), "episode 2: step 2: frame_index is 1 after 2"),
        (replaced("task_index", [7]), "episode 1: it is of task 7, which is not among the 2"),
        (replaced("next.reward", pa.array([None], pa.float32())), "episode 1: next.reward has 1 empty entries"),
        (
            replaced("action", pa.array([[1, 2]], pa.list_(pa.float32(), 2))),
            r"episode 1: action has 2 entries, the space is Box\(3\)",
        ),
        (
            replaced("action", pa.array([[1, 2], [1, 2, 3, 4], [1, 2, 3], [1, 2, 3]], pa.list_(pa.float32())), 2),
            "episode 2: column 'action' has 4 entries at step 1, 2 before it",
        ),
        (replaced("action", ["a"]), "episode 1: action holds texts, the space is Box"),
    ],
)
def test_frames_that_contradict_what_is_said_of_them_are_refused(tmp_path, version, change, message):
    folder = write(tmp_path / "set", make_episodes(), version=version, change=change, per_file=1)
    with pytest.raises(DataError, match=message):
        read(folder)


@both
def test_a_set_without_episodes_is_refused(tmp_path, version):
    folder = write(tmp_path / "set", make_episodes(), version=version, info={"total_episodes": 0, "total_frames": 0})
    (folder / "meta" / "episodes.jsonl").write_text("")
    for path in folder.glob("meta/episodes/*/*.parquet"):
        save(pa.parquet.read_table(path).slice(0, 0), path)
    for episodes in (None, [0]):
        with pytest.raises(DataError, match="has no episodes yet"):
            source(folder, episodes=episodes)


def test_an_episode_in_two_pieces_is_refused(tmp_path):
    folder = write(tmp_path / "set", make_episodes(), version="v3.0", per_file=4)
    path = next(folder.glob("data/*/*.parquet"))
    table = pa.parquet.read_table(path)
    save(pa.concat_tables([table.slice(1), table.slice(0, 1)]), path)
    with pytest.raises(DataError, match="file-000.parquet: episode 0: expected 3 steps, found 2"):
        read(folder)


@both
def test_nan_is_found_by_the_checks_and_can_be_missing_where_that_is_allowed(tmp_path, version):
    episodes = make_episodes()
    episodes[2]["observation.state"][1, 0] = np.nan
    folder = write(tmp_path / "seen", episodes, version=version)
    with pytest.raises(DataError, match=r"episode 2, step 1: observation.state\[0\] is nan"):
        dataset_of(folder)
    assert next(source(folder, episodes=[2]).read())["missing.observation.state"].sum() == 1
    episodes = make_episodes()
    episodes[2]["action"][3, 1] = np.nan
    with pytest.raises(DataError, match=r"episode 2, step 3: action\[1\] is nan"):
        dataset_of(write(tmp_path / "done", episodes, version=version))


@both
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_episodes": 5}, "expected 5 episodes, its episodes list 4; make or fetch the data set again"),
        ({"total_frames": 11}, "expected 11 steps, its episodes list 10"),
        ({"total_frames": 10**12}, "expected 1000000000000 steps"),
        ({"total_frames": "many"}, "total_frames is 'many', expected a whole number"),
        ({"codebase_version": "v1.6"}, "codebase_version is 'v1.6', expected v2.0, v2.1, v3.0: .*converters"),
        ({"codebase_version": "\x1b[31mv9"}, r"codebase_version is '\\x1b\[31mv9'"),
        ({"storage_format": "lance"}, "stored as Lance tables"),
        ({"fps": 0}, "fps is '0', expected a positive number"),
        ({"features": []}, "features is a list, expected an object"),
        ({"features": {"action": VECTOR}}, r"no feature observation\.\*"),
        ({"features": {"observation.state": VECTOR}}, "no feature action"),
        ({"features": {**FEATURES, "action": {"dtype": "float32"}}}, "'action': it has shape 'None'"),
        ({"features": {**FEATURES, "action": {**VECTOR, "shape": [10**9]}}}, "nothing that large"),
        ({"features": {**FEATURES, "observation.mic": {**VECTOR, "dtype": "audio"}}}, "dtype 'audio'.*leave it out"),
        (
            {"features": {**FEATURES, **BOOKKEEPING, "observation.more": VECTOR}},
            "no column 'observation.more'; did you",
        ),
        ({"features": {**FEATURES, "observation.\x1b[31m": VECTOR}}, r"named 'observation.\\x1b\[31m'"),
        ({"data_path": None}, "data_path is nothing"),
        ({"data_path": "../{episode_index}{file_index}"}, r"holds \{|not a path inside it"),
        ({"data_path": "/etc/passwd"}, "'/etc/passwd', which is not a path inside it"),
        ({"data_path": "data/../../x"}, "not a path inside it"),
        ({"data_path": "data/{episode_index.__class__}{file_index.__class__}"}, "braces that name no field"),
        ({"data_path": "data/{fps}"}, r"holds \{fps\}: expected "),
        ({"data_path": "data/{0}"}, r"holds \{0\}: expected "),
    ],
)
def test_what_a_data_set_says_of_itself_is_not_believed(tmp_path, version, changes, message):
    folder = write(tmp_path / "set", make_episodes(), version=version, info=changes)
    with pytest.raises(DataError, match=message):
        read(folder)


@both
def test_links_and_names_that_lead_elsewhere_are_refused(tmp_path, version):
    folder = write(tmp_path / "set", make_episodes(), version=version)
    path = sorted(folder.glob("data/*/*.parquet"))[0]
    path.rename(tmp_path / "elsewhere.parquet")
    path.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(DataError, match="is a link, only files are read"):
        source(folder)


@both
@pytest.mark.parametrize("name", ["data", "episodes", "tasks", "info"])
def test_a_missing_or_damaged_file_is_one_sentence(tmp_path, version, name):
    folder = write(tmp_path / "set", make_episodes(), version=version)
    path = sorted([*folder.glob(f"{name}/*/*"), *folder.glob(f"meta/{name}.*"), *folder.glob(f"meta/{name}/*/*")])[0]
    whole = path.read_bytes()
    for content, reason in (
        (b"", ""),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", ".*git lfs pull"),
        (b"<!doctype html><html>", ".*it is an HTML page"),
        *((whole[: len(whole) * part // 5], "") for part in (1, 2, 3, 4)),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{path.name}.*{reason}|expected 4 episodes|not among the"):
            read(folder)
    path.unlink()
    with pytest.raises(
        DataError, match=f"{path.name} (cannot be read: it )?is missing|has no meta/info.json|expected 4 episodes"
    ):
        read(folder)


@both
def test_a_column_whose_name_is_no_text_is_damage(tmp_path, version):
    folder = write(tmp_path / "set", make_episodes(), version=version)
    path = sorted(folder.glob("data/*/*.parquet"))[0]
    path.write_bytes(path.read_bytes().replace(b"next.reward", b"next\xbdreward"))
    with pytest.raises(DataError, match=f"{path.name} cannot be read: .*invalid start byte"):
        read(folder)


def test_a_file_that_declares_more_rows_than_there_can_be_is_not_read(tmp_path):
    folder = write(tmp_path / "set", make_episodes(lengths=(3,)))
    path = folder / "data/chunk-000/episode_000000.parquet"
    table = pa.parquet.read_table(path)
    save(pa.concat_tables([table, table]), path)
    with pytest.raises(DataError, match="declares 6 rows, the data set has 3"):
        read(folder)
    nothing = pa.table({"task": pa.nulls(9_000_000, pa.string())})
    save(nothing, path, write_batch_size=10**7, **ROWS_OF_A_PAGE)
    with pytest.raises(DataError, match="declares 9000000 rows: it is too small for them"), opened_parquet(path):
        pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"bytes": b"\x89PNG\r\n\x1a\n no", "path": "a.png"},
            "episode 1: step 0: observation.image is damaged or no PNG, ",
        ),
        ({"bytes": None, "path": "/etc/passwd"}, "step 0: observation.image names an image file without its bytes"),
        ({"bytes": png(np.zeros((2, 2, 3), np.uint8)), "path": None}, "has 2 x 2 pixels, info.json says 4 x 6: resize"),
        ({"bytes": png(np.zeros((4, 6), np.uint16)), "path": None}, "has more than 8 bits a pixel"),
        ({"bytes": png(np.zeros((4, 6, 3), np.uint8))[:-30], "path": None}, "is damaged or no PNG"),
    ],
)
def test_an_image_that_is_none_is_refused_by_step(tmp_path, value, message):
    features = {**FEATURES, "observation.image": camera()}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    spoiled = replaced("observation.image", pa.array([value], kind))
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "set", make_episodes(features), features, change=spoiled))


def test_what_is_neither_folder_nor_id_is_refused(tmp_path):
    for name in ("", "pusht", "../x/y", "a/b/c", "https://huggingface.co/datasets/lerobot/pusht"):
        with pytest.raises(UsageError, match="neither a folder with a LeRobot data set nor a Hub id"):
            source(name)
    with pytest.raises(DataError, match="has no meta/info.json"):
        source(tmp_path)


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "recorded"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("seqdec.hub.is_hub_reachable", lambda: False)


def test_an_id_that_is_not_here_and_out_of_reach_is_one_sentence(no_hub):
    with pytest.raises(UsageError, match="cannot reach huggingface.co for 'tiny/gone': pass a local folder"):
        source("tiny/gone")


def test_an_id_is_found_where_lerobot_records_to(no_hub, tmp_path):
    write(tmp_path / "recorded" / "tiny" / "set", make_episodes())
    assert source("tiny/set").num_episodes == 4


def cached(tmp_path, folder):
    """Lay a folder out as the Hub's cache does: a snapshot of links to blobs."""
    home = tmp_path / "cache" / "datasets--tiny--set"
    snapshot = home / "snapshots" / ("0" * 40)
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    (home / "blobs").mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(home / "blobs" / str(number))
        link.symlink_to(os.path.relpath(home / "blobs" / str(number), link.parent))
    return snapshot


@both
def test_an_id_in_the_hubs_cache_is_read_without_the_hub(no_hub, tmp_path, version):
    snapshot = cached(tmp_path, write(tmp_path / "set", make_episodes(), version=version))
    expected = read(write(tmp_path / "again", make_episodes(), version=version))
    for row, other in zip(source("tiny/set").read(), expected, strict=True):
        assert_equal(row, other)
    path = sorted(snapshot.glob("data/*/*.parquet"))[-1]
    path.unlink()
    with pytest.raises(UsageError, match="cannot reach huggingface.co for 'tiny/set'"):
        source("tiny/set")
    assert source("tiny/set", episodes=[0, 1]).num_episodes == 2
    path.symlink_to(tmp_path / "again" / "meta" / "info.json")
    with pytest.raises(DataError, match="is a link, only files are read"):
        source("tiny/set")


def test_videos_without_their_decoder_name_the_package_and_the_way_around(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    features = {**FEATURES, "observation.images.top": camera(dtype="video")}
    folder = write(tmp_path / "set", make_episodes(features), features, video=lambda path, pixels: None)
    with pytest.raises(
        UsageError, match=r'pip install "seqdec\[video\]", or leave the cameras out with cameras="skip"'
    ):
        source(folder)
    assert list(next(source(folder, cameras="skip").read())) == list(
        read(write(tmp_path / "plain", make_episodes(FEATURES), FEATURES))[0]
    )


def film(path, pixels):
    """Encode frames as LeRobot does by default where H.264 is chosen: 4:2:0 colours, a key frame every other frame."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=FPS, options={"g": "2", "crf": "10"})
        stream.height, stream.width, stream.pix_fmt = pixels.shape[1], pixels.shape[2], "yuv420p"
        for frame in pixels:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def filmed_episodes(features, lengths=(3, 1, 14, 2)):
    """Make episodes whose frames are plain: the colour tells the episode and the step."""
    episodes = make_episodes(features, lengths)
    for index, columns in enumerate(episodes):
        for name in (name for name, told in features.items() if told["dtype"] == "video"):
            for step, frame in enumerate(columns[name]):
                frame[:] = 40 + 50 * index, 20 + 15 * step, 200 - 12 * step
    return episodes


FILMED = {**FEATURES, "observation.images.top": camera(16, 32, "video")}


@both
def test_frames_of_a_video_are_those_of_their_steps(tmp_path, version):
    pytest.importorskip("av")
    episodes = filmed_episodes(FILMED)
    folder = write(tmp_path / "set", episodes, FILMED, version, per_file=3, video=film)
    found = read(folder)
    for row, columns in zip(found, episodes, strict=True):
        seen = row["observation.images.top"]
        assert seen.shape == columns["observation.images.top"].shape
        colours, expected = (pixels.mean(axis=(1, 2)) for pixels in (seen, columns["observation.images.top"]))
        assert np.abs(colours - expected).max() < 5
        np.testing.assert_array_equal(row["final.images.top"], seen[-1])
    small = read(folder, image_size=(4, 8))[2]["observation.images.top"]
    assert small.shape == (14, 4, 8, 3)
    assert np.abs(small.mean(axis=(1, 2)) - found[2]["observation.images.top"].mean(axis=(1, 2))).max() < 1
    chosen = next(source(folder, episodes=[2]).read())["observation.images.top"]
    np.testing.assert_array_equal(chosen, found[2]["observation.images.top"])


@both
def test_a_video_that_is_too_short_or_damaged_is_refused_by_time(tmp_path, version):
    pytest.importorskip("av")
    folder = write(tmp_path / "short", filmed_episodes(FILMED), FILMED, version, 1, video=lambda p, x: film(p, x[:12]))
    with pytest.raises(DataError, match=r"episode 2: .*mp4 has no frame at 1.2000 s, the nearest is at 1.1000 s"):
        read(folder)
    path = sorted(folder.glob("videos/**/*.mp4"))[0]
    whole = path.read_bytes()
    for content, reason in (
        (b"", "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", ".*git lfs pull"),
        (b"<!doctype html><html>", ".*it is an HTML page"),
        (whole.replace(b"avc1", b"zzzz"), "is in a format that PyAV does not decode"),
        (f"ffconcat version 1.0\nfile {path}\n".encode(), "cannot be read"),
        *((whole[: len(whole) * part // 5], "") for part in (1, 2, 3, 4)),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{path.name}.*{reason}"):
            read(folder)


def test_a_frame_of_another_size_than_declared_is_resized_only_if_asked(tmp_path):
    pytest.importorskip("av")
    told = {**FILMED, "observation.images.top": camera(8, 16, "video")}
    folder = write(tmp_path / "set", filmed_episodes(FILMED), told, video=film)
    with pytest.raises(DataError, match="mp4 has 16 x 32 pixels, info.json says 8 x 16: resize with image_size"):
        read(folder)
    assert read(folder, image_size=(8, 16))[0]["observation.images.top"].shape == (3, 8, 16, 3)
