"""Arrays of other names than D4RL's: named by columns, as robomimic groups them, as OGBench keeps them in npz files."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from seqdec.cli.main import main
from seqdec.data.dataset import episode_at
from seqdec.data.schema import environment_of
from seqdec.errors import DataError, UsageError
from seqdec.formats import hdf5
from seqdec.formats.columns import Columns
from seqdec.formats.load import load_dataset

N = 12
NUMBERS = np.arange(N, dtype=np.float32)
SEEN, DONE = np.stack([NUMBERS, -NUMBERS], 1), NUMBERS[:, None] / N
GOALS = np.repeat(np.arange(3.0), 4)[:, None] * [[1, 2]]


def run(words):
    assert main(words.split()) == 0


def maze(path, **more):
    """Three episodes of four steps; the goal of the i-th is (i, 2 i)."""
    arrays = {"observations": SEEN, "actions": DONE, "rewards": NUMBERS, "timeouts": np.arange(N) % 4 == 3}
    with h5py.File(path, "w") as file:
        for name, values in {**arrays, "terminals": np.zeros(N, bool), "infos/goal": GOALS, **more}.items():
            file[name] = values
    return path


def demos(path, lengths=(7, 5, 3), more=(), **options):
    """Demonstrations as robomimic, LIBERO and Isaac Lab write them; what is seen next is a half more."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = '{"env_name": "Lift"}'
        file["mask/train"] = np.array([b"demo_0"])
        for index, length in enumerate(lengths):
            demo = file["data"].create_group(f"demo_{index}")
            seen = {"robot0/pos": random.normal(size=(length, 3)), "object": random.normal(size=(length, 4))}
            for name, values in seen.items():
                demo[f"obs/{name}"], demo[f"next_obs/{name}"] = values, values + 0.5
            demo["obs/camera"] = random.integers(0, 256, (length, 4, 5, 3), dtype=np.uint8)
            demo["actions"], demo["states"] = random.uniform(-1, 1, (length, 2)), np.full((length, 2), index)
            demo["rewards"], demo["dones"] = np.eye(length)[-1], np.arange(length) >= length - 1 - index
            for name in more:
                del demo[name]
    return path


def ogbench(path, save=np.savez_compressed, **more):
    """Three episodes of four observations: the last row of each is seen, and its action is none."""
    arrays = {"observations": SEEN, "actions": DONE, "terminals": (np.arange(N) % 4 == 3).astype(np.float32)}
    save(path, **{**arrays, "qpos": np.zeros((N, 2)), **more})
    return path


def test_an_array_among_infos_is_a_leaf_or_part_of_a_vector(tmp_path):
    path = maze(tmp_path / "maze.hdf5", next_observations=SEEN + 0.5)
    leaves = {"observation.state": "observations", "observation.goal": "infos/goal"}
    dataset = load_dataset(f"hdf5:{path}", columns=Columns(observation=leaves))
    assert set(environment_of(dataset).observation_leaves) == {*leaves}
    for index in range(3):
        episode = episode_at(dataset, index)
        assert episode.steps["observation.goal"].tolist() == [[index, 2 * index]] * 4
        assert episode.final["observation.goal"].tolist() == [index, 2 * index]  # of the episode, not the next one's
        assert episode.final["observation.state"].tolist() == [4 * index + 3.5, -4 * index - 2.5]
    dataset = load_dataset(f"hdf5:{path}", columns=Columns(observation=["observations", "infos/goal"]))
    assert episode_at(dataset, 1).steps["observation"][0].tolist() == [4, -4, 1, 2]
    assert episode_at(dataset, 1).final["observation"].tolist() == [7.5, -6.5, 1, 2]


def test_every_array_can_have_another_name(tmp_path):
    values = {
        "obs": SEEN,
        "act": DONE,
        "r": NUMBERS,
        "over": np.arange(N) == 3,
        "cut": np.arange(N) == 7,
        "then": SEEN + 1,
    }
    path = tmp_path / "own.h5"
    with h5py.File(path, "w") as file:
        for name, array in values.items():
            file[name] = array
    columns = Columns(observation="obs", action="act", reward="r", terminated="over", truncated="cut", final="then")
    dataset = load_dataset(f"hdf5:{path}", columns=columns)
    assert dataset["reward"][:] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert dataset["terminated"][:] == [True, False, False] and dataset["final"][1] == [8, -6]
    same = load_dataset(f"hdf5:{maze(tmp_path / 'maze.hdf5')}", columns=Columns(reward=None))
    assert [sum(rewards) for rewards in same["reward"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        (Columns(observation=["observations", "infos/goul"]), UsageError, "no column 'infos/goul'.*mean 'infos/goal'"),
        (Columns(final=["observations", "infos/goal"]), UsageError, "final names 2 arrays, observation 1"),
        (Columns(text="infos/goal"), UsageError, "HDF5 and npz data have no place for text"),
        (Columns(observation={"state": "observations"}), UsageError, "the observation is mapped by 'state'"),
        (Columns(action="infos/link"), DataError, "/infos/link is a link to elsewhere"),
        (Columns(terminated="rewards"), DataError, "rewards is 2 in row 2: expected 0 or 1"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_are_one_sentence(tmp_path, columns, kind, message):
    path = maze(tmp_path / "maze.hdf5")
    with h5py.File(path, "a") as file:
        file["infos/link"] = h5py.SoftLink("/actions")
    with pytest.raises(kind, match=message):
        load_dataset(f"hdf5:{path}", columns=columns)


def test_demonstrations_in_groups_are_episodes(tmp_path, caplog):
    path = demos(tmp_path / "lift.hdf5", lengths=(7, 5, 3) + (2,) * 8)
    source = hdf5.source(path)
    assert source.num_episodes == 11
    dataset = load_dataset(f"hdf5:{path}")
    assert dataset["metadata.demo"][:] == [f"demo_{index}" for index in range(11)]  # 10 after 9, not after 1
    assert environment_of(dataset).observation_space == Dict(
        {
            "object": Box(-np.inf, np.inf, (4,)),
            "robot0": Dict(pos=Box(-np.inf, np.inf, (3,))),
            "camera": Box(0, 255, (4, 5, 3), np.uint8),
        }
    )
    with h5py.File(path) as file:
        for index in (0, 2):
            episode, demo = episode_at(dataset, index), file[f"data/demo_{index}"]
            for name, key in (("robot0.pos", "robot0/pos"), ("object", "object"), ("camera", "camera")):
                steps = demo[f"obs/{key}"][:]
                np.testing.assert_array_equal(
                    episode.steps[f"observation.{name}"], steps.astype(episode.steps[f"observation.{name}"].dtype)
                )
                last = demo[f"next_obs/{key}"][-1] if key != "camera" else steps[-1]
                np.testing.assert_allclose(episode.final[f"observation.{name}"], last, rtol=1e-6)
            assert (episode.terminated, episode.truncated) == (True, False)
            assert episode.steps["reward"].tolist() == demo["rewards"][:].tolist()
    assert "single episode" not in caplog.text


def test_demonstrations_with_actions_alone_are_cut_and_states_can_be_named(tmp_path):
    path = demos(tmp_path / "raw.hdf5", more=("obs", "next_obs", "rewards", "dones"))
    with pytest.raises(DataError, match="have no obs: name arrays .*actions, states") as caught:
        hdf5.source(path)
    assert caught.value.option == "observation"
    dataset = load_dataset(f"hdf5:{path}", columns=Columns(observation="states"))
    assert all(dataset["truncated"]) and dataset["observation"][2] == [[2, 2]] * 3


def test_one_damaged_demonstration_among_many_is_left_out(tmp_path):
    path = demos(tmp_path / "lift.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = np.zeros((4, 2))
    with pytest.raises(DataError, match=r"data/demo_1: actions has 4 rows, obs/camera has 5.*\(1 of 3 episodes"):
        load_dataset(f"hdf5:{path}")
    dataset = load_dataset(f"hdf5:{path}", on_damaged="drop-episode")
    assert dataset["metadata.demo"][:] == ["demo_0", "demo_2"]


def test_words_name_arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maze("maze.hdf5")
    ogbench("play.npz")
    run("data hdf5 maze.hdf5 --observation state=observations goal=infos/goal --reward none")
    columns = Columns(observation={"observation.state": "observations", "observation.goal": "infos/goal"}, reward=None)
    assert load_dataset("data/maze")[:] == load_dataset("hdf5:maze.hdf5", columns=columns)[:]
    run("data hdf5 play.npz --observation observations qpos")
    assert np.shape(load_dataset("data/play")["observation"][0]) == (3, 4)


@pytest.mark.parametrize("save", [np.savez_compressed, np.savez])
@pytest.mark.parametrize("block_rows", [1, 5, 100])
def test_the_last_row_of_ogbench_is_what_was_seen_last(tmp_path, monkeypatch, save, block_rows):
    monkeypatch.setattr("seqdec.formats.array_files.BLOCK_ROWS", block_rows)
    path = ogbench(tmp_path / "play.npz", save)
    for word in ("npz", "hdf5"):
        dataset = load_dataset(f"{word}:{path}")
        assert [np.asarray(row["observation"])[:, 0].tolist() for row in dataset] == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]
        assert dataset["final"][:] == [[3, -3], [7, -7], [11, -11]]
        np.testing.assert_array_equal(np.concatenate(dataset["action"]), DONE[np.arange(N) % 4 != 3])
        assert all(dataset["truncated"]) and not any(dataset["terminated"])


def test_npz_with_rewards_is_read_as_d4rl(tmp_path):
    path = ogbench(tmp_path / "walk.npz", rewards=NUMBERS)
    dataset = load_dataset(f"npz:{path}")
    assert dataset["reward"][:] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]] and all(dataset["terminated"])


def member(shape, content=b"", descr="<f4", is_fortran=False):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": is_fortran, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (member((10**12, 2)), "'observations' declares 8000000000000 bytes, 0 are there"),
        (member((N, 2), SEEN.tobytes(), is_fortran=True), "is kept column by column"),
        (member((N, 2), SEEN.tobytes()[:-4]), "declares 96 bytes, 92 are there"),
        (member((N,), b"\0" * 96, "|O"), "is or can hold a pickle"),
        (member((N,), b"\0" * 96, "<U2"), "observations has type '<U2', expected numbers"),
        (b"words", "cannot be read"),
        (b"\x93NUMPY\x02\x00" + b"\xff" * 4, "of an unknown version"),
    ],
)
def test_an_npz_that_declares_what_is_not_there_is_one_sentence(tmp_path, content, message):
    path = ogbench(tmp_path / "play.npz")
    with zipfile.ZipFile(path) as archive:
        others = {name: archive.read(name) for name in archive.namelist() if name != "observations.npy"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in {**others, "observations.npy": content}.items():
            archive.writestr(name, values)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(f"npz:{path}")
    assert "\n" not in str(caught.value)


def test_an_npz_that_unpacks_to_more_than_it_can_hold_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name in ("observations", "actions", "terminals"):
            archive.writestr(f"{name}.npy", member((2**18,), bytes(2**20)))
    with pytest.raises(DataError, match="declares 1048576 bytes, .* are stored: it is not read"):
        load_dataset(f"npz:{path}")


def test_bytes_changed_or_cut_anywhere_in_an_npz_are_at_most_one_sentence(tmp_path):
    path = ogbench(tmp_path / "play.npz")
    content, random = path.read_bytes(), np.random.default_rng(0)
    for turn in range(120):
        changed = np.frombuffer(content, np.uint8).copy()
        where = random.integers(0, len(changed), 4)
        changed[where] = random.integers(0, 256, 4)
        path.write_bytes(changed.tobytes()[: len(changed) if turn % 3 else random.integers(len(changed))])
        try:
            list(hdf5.source(path).read())
        except DataError as error:
            assert "\n" not in str(error)


def test_the_identity_holds_the_names(tmp_path):
    path = maze(tmp_path / "maze.hdf5")
    plain = hdf5.source(path).identity
    named = hdf5.source(path, columns=Columns(observation="infos/goal")).identity
    assert plain != named == json.loads(json.dumps(named))
