"""LeRobot data sets as others write them: other names, no list of tasks, clocks that stand still."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from gymnasium.spaces import Box, Dict

from lerobot_sets import FLAG, INDEX, NUMBER, REWARDED, VECTOR, camera, make_episodes, save, write
from seqdec.cli.main import main
from seqdec.data.schema import environment_of
from seqdec.errors import DataError, UsageError
from seqdec.formats.columns import Columns
from seqdec.formats.load import load_dataset

both = pytest.mark.parametrize("version", ["v2.1", "v3.0"])
OPENPI = {"state": VECTOR, "image": camera(), "wrist_image": camera(), "actions": {**VECTOR, "shape": [3]}}
NAMED = Columns(observation={"observation.state": "state", "observation.camera": "image"}, action="actions")


@both
def test_features_of_other_names_are_named(tmp_path, version):
    episodes = make_episodes(OPENPI)
    word = f"lerobot:{write(tmp_path / 'set', episodes, OPENPI, version=version)}"
    dataset = load_dataset(word, columns=NAMED)
    image = Box(0, 255, (4, 6, 3), np.uint8)
    assert environment_of(dataset).observation_space == Dict(state=Box(-np.inf, np.inf, (2,)), camera=image)
    for row, episode in zip(dataset, episodes, strict=True):
        np.testing.assert_array_equal(row["observation.state"], episode["state"])
        np.testing.assert_array_equal(np.reshape(row["observation.camera"], episode["image"].shape), episode["image"])
        np.testing.assert_array_equal(row["action"], episode["actions"])
    vector = load_dataset(word, columns=Columns(observation=["state", "actions"], action="actions"))
    np.testing.assert_array_equal(vector["observation"][2], np.hstack([episodes[2]["state"], episodes[2]["actions"]]))


def test_words_name_features(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "set", make_episodes(OPENPI), OPENPI)
    flags = ["--observation", "state=state", "camera=image", "--action", "actions", "--image-size", "2", "3"]
    assert main(["data", "lerobot", "set", *flags]) == 0
    assert load_dataset("data/set")[:] == load_dataset("lerobot:set", columns=NAMED, image_size=(2, 3))[:]


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        (
            None,
            DataError,
            "has no feature observation.*: name what it is .*it has 'state, image, wrist_image, actions'",
        ),
        (Columns(observation="state"), DataError, r"has no feature action: name what it is \(Columns.action\)"),
        (Columns(observation="stat", action="actions"), UsageError, "no column 'stat'.*did you mean 'state'"),
        (Columns(observation=["state", "image"], action="actions"), UsageError, "'image' holds no numbers"),
        (Columns(observation="state", action="actions", final="state"), UsageError, "have no place for final"),
    ],
)
def test_names_that_cannot_be_are_one_sentence(tmp_path, columns, kind, message):
    folder = write(tmp_path / "set", make_episodes(OPENPI), OPENPI)
    with pytest.raises(kind, match=message):
        load_dataset(f"lerobot:{folder}", columns=columns)


@both
def test_rewards_ends_and_words_may_have_other_names(tmp_path, version):
    features = {
        **REWARDED,
        "reward": NUMBER,
        "success": FLAG,
        "language": {"dtype": "string", "shape": [1], "names": None},
    }
    features["annotation.human.action"] = INDEX
    episodes = make_episodes(features)
    word = f"lerobot:{write(tmp_path / 'set', episodes, features, version=version)}"
    dataset = load_dataset(word, columns=Columns(reward="reward", terminated="success", text="language"))
    for row, episode in zip(dataset, episodes, strict=True):
        np.testing.assert_array_equal(row["reward"], episode["reward"][:, 0])
        assert row["terminated"] == bool(episode["success"][-1, 0])
        assert row["text"] == "; ".join(episode["language"])
    # GR00T counts further words of an episode among the tasks
    dataset = load_dataset(word, columns=Columns(text="annotation.human.action"))
    tasks = ["reach", "pick"]
    for row, episode in zip(dataset, episodes, strict=True):
        told = dict.fromkeys(tasks[index] for index in episode["annotation.human.action"][:, 0])
        assert row["text"] == "; ".join(told)
    assert load_dataset(word, columns=Columns(reward=None))["reward"][0] == [0, 0, 0]


def test_frames_name_the_tasks_that_episodes_do_not_list(tmp_path):
    folder = write(tmp_path / "set", make_episodes(), version="v3.0")
    expected = load_dataset(f"lerobot:{folder}")["text"][:]
    for path in folder.glob("meta/episodes/*/*.parquet"):
        save(pa.parquet.read_table(path).drop_columns("tasks"), path)
    assert load_dataset(f"lerobot:{folder}")["text"][:] == expected != [""] * 4


CLOCKS = {"jitter": [0, 0.09, 0.22], "twice": [0, 0.1, 0.1], "zero": [0, 0, 0], "back": [0.2, 0.1, 0]}


@both
@pytest.mark.parametrize("times", CLOCKS.values(), ids=CLOCKS)
def test_a_clock_matters_only_where_a_video_is_read(tmp_path, version, times):
    def change(index, table):
        clock = pa.array(np.float32(times) if index == 0 else table["timestamp"].to_numpy())
        return table.set_column(table.column_names.index("timestamp"), "timestamp", clock)

    folder = write(tmp_path / "set", make_episodes(), version=version, change=change, per_file=1)
    expected = load_dataset(f"lerobot:{write(tmp_path / 'even', make_episodes(), version=version, per_file=1)}")
    assert load_dataset(f"lerobot:{folder}")[:] == expected[:]
    if times == CLOCKS["jitter"]:
        return
    pytest.importorskip("av")
    features = {**REWARDED, "observation.images.top": camera(dtype="video")}
    seen = write(tmp_path / "seen", make_episodes(features), features, version, 1, change, video=touch)
    with pytest.raises(DataError, match=r"episode 0: step \d: timestamp is .* leave the cameras out") as caught:
        load_dataset(f"lerobot:{seen}")
    assert caught.value.option == "cameras"
    assert len(load_dataset(f"lerobot:{seen}", cameras="skip")) == 4


def touch(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
