import json
import logging
import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from faults import Malice
from seqdec.data.arrow import from_rows
from seqdec.data.check import check
from seqdec.data.dataset import episode_at
from seqdec.errors import DataError, UsageError
from seqdec.formats import hdf5
from seqdec.spaces.spec import EnvironmentSpec

VECTOR = EnvironmentSpec(Box(-np.inf, np.inf, (2,)), Box(-1, 1, (1,)))


def arrays_of(num_rows=10, ends=(2, 7), cuts=(4,), **changes):
    """Observation i is (i, -i), action 0.01 i, reward i; next observations are a half more."""
    numbers = np.arange(num_rows, dtype=np.float32)
    flags = np.zeros((2, num_rows), bool)
    flags[0, list(ends)] = flags[1, list(cuts)] = True
    observations = np.stack([numbers, -numbers], 1)
    found = {
        "observations": observations,
        "actions": numbers[:, None] / 100,
        "rewards": numbers,
        "terminals": flags[0],
        "timeouts": flags[1],
        "next_observations": observations + 0.5,
        **changes,
    }
    return {name: values for name, values in found.items() if values is not None}


def write(path, **options):
    with h5py.File(path, "w") as file:
        for name, values in arrays_of(**options).items():
            file[name] = values
        file["infos/qpos"] = np.zeros(3)
        file["metadata/algorithm"] = "SAC"
    return path


def spans_of(source):
    """The first and last reward of each episode, which tell its rows, and how it ends."""
    return [
        (int(row["reward"][0]), int(row["reward"][-1]), row["terminated"], row["truncated"]) for row in source.read()
    ]


def read(path, spec=None, **options):
    source = hdf5.source(path, spec, **options)
    dataset = from_rows(source.read(), source.spec)
    check(dataset)
    assert len(dataset) == source.num_episodes
    return [episode_at(dataset, index) for index in range(len(dataset))]


def test_a_timeout_is_no_termination_and_the_tail_is_truncated(tmp_path):
    source = hdf5.source(write(tmp_path / "a.hdf5"))
    assert spans_of(source) == [(0, 2, True, False), (3, 4, False, True), (5, 7, True, False), (8, 9, False, True)]
    assert source.num_episodes == 4


def test_a_step_with_both_flags_has_both_ends(tmp_path):
    source = hdf5.source(write(tmp_path / "a.hdf5", ends=(4, 9), cuts=(4,)))
    assert spans_of(source) == [(0, 4, True, True), (5, 9, True, False)]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, [(0, 2, True, False), (3, 7, True, False), (8, 9, False, True)]),
        (2, [(0, 1, False, True), (2, 2, True, False), (3, 4, False, True), (5, 6, False, True), (7, 7, True, False),
             (8, 9, False, True)]),
        (3, [(0, 2, True, False), (3, 5, False, True), (6, 7, True, False), (8, 9, False, True)]),
    ],
)  # fmt: skip
def test_without_timeouts_the_limit_cuts(tmp_path, limit, expected):
    path = write(tmp_path / "a.hdf5", timeouts=None)
    source = hdf5.source(path, max_episode_steps=limit)
    assert spans_of(source) == expected
    assert source.spec.max_episode_steps == limit
    if limit:
        assert spans_of(hdf5.source(path, source.spec)) == expected


def test_the_limit_does_not_cut_where_timeouts_are_recorded(tmp_path):
    source = hdf5.source(write(tmp_path / "a.hdf5"), max_episode_steps=2)
    assert len(spans_of(source)) == 4
    assert source.spec.max_episode_steps == 2


def test_the_last_observation_is_the_recorded_one_or_else_repeated(tmp_path):
    finals = [episode.final["observation"][0] for episode in read(write(tmp_path / "a.hdf5"))]
    assert finals == [2.5, 4.5, 7.5, 9.5]
    episodes = read(write(tmp_path / "b.hdf5", next_observations=None))
    # Never the next row, which another episode begins with; and no step is lost.
    assert [episode.final["observation"][0] for episode in episodes] == [2, 4, 7, 9]
    assert [episode.total_return for episode in episodes] == [3, 7, 18, 17]


@pytest.mark.parametrize("block_rows", [1, 3, 4, 100])
@pytest.mark.parametrize("with_next", [True, False])
def test_blocks_do_not_show(tmp_path, monkeypatch, block_rows, with_next):
    changes = {} if with_next else {"next_observations": None}
    path = write(tmp_path / "a.hdf5", num_rows=50, ends=(4, 5, 30), cuts=(17, 30), **changes)
    expected = read(path)
    monkeypatch.setattr("seqdec.formats.array_files.BLOCK_ROWS", block_rows)
    found = read(path)
    assert len(found) == len(expected) == 5
    assert all(one.equals(other) for one, other in zip(found, expected, strict=True))
    rewards = np.concatenate([episode.steps["reward"] for episode in found])
    np.testing.assert_array_equal(rewards, arrays_of(50)["rewards"])


def test_a_large_array_is_never_in_memory_at_once(tmp_path, monkeypatch):
    path = tmp_path / "a.hdf5"
    write(path, num_rows=1000, ends=range(9, 1000, 10), cuts=())
    monkeypatch.setattr("seqdec.formats.array_files.BLOCK_BYTES", 256)
    sizes = []
    read_rows = h5py.Dataset.__getitem__

    def noting(self, where, **options):
        found = read_rows(self, where, **options)
        sizes.append((self.name, np.asarray(found).nbytes))
        return found

    monkeypatch.setattr(h5py.Dataset, "__getitem__", noting)
    assert len(spans_of(hdf5.source(path))) == 100
    assert max(size for name, size in sizes if "observations" in name) <= 256


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (np.linspace(-1, 1, 10)[:, None], Box(-1, 1, (1,))),
        (np.linspace(-1, 1.01, 10)[:, None], Box(-np.inf, np.inf, (1,))),
        (np.linspace(0, 1, 10).astype(np.float32), Box(-1, 1, ())),
        (np.arange(10), Discrete(10)),
        (np.arange(10, dtype=np.uint8)[:, None] % 3, Discrete(3)),
        (np.arange(20).reshape(10, 2) % 6, MultiDiscrete([5, 6])),
    ],
)
def test_the_action_space_is_what_holds_all_actions(tmp_path, caplog, actions, expected):
    caplog.set_level(logging.INFO)
    path = write(tmp_path / "a.hdf5", actions=actions)
    source = hdf5.source(path)
    assert source.spec.action_space == expected
    assert (r"lie in [-1, 1]" in caplog.text) == (expected.shape in ((1,), ()) and "Box(-1" in str(expected))
    found = np.concatenate([episode.steps["action"] for episode in read(path)])
    np.testing.assert_array_equal(found, actions.astype(found.dtype).reshape(found.shape))


def test_nan_actions_are_reported_not_taken_for_bounds(tmp_path):
    actions = np.zeros((10, 1))
    actions[6] = np.nan
    assert hdf5.source(write(tmp_path / "a.hdf5", actions=actions)).spec.action_space == Box(-1, 1, (1,))
    with pytest.raises(DataError, match=r"episode 2, step 1: action\[0\] is nan \(1 of 4 episodes"):
        read(tmp_path / "a.hdf5")


def test_pixels_are_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), np.uint8)
    path = write(tmp_path / "a.hdf5", observations=pixels, next_observations=None)
    assert hdf5.source(path).spec.observation_space == Box(0, 255, (4, 5, 3), np.uint8)
    episodes = read(path)
    assert episodes[1].steps["observation"].dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate([episode.steps["observation"] for episode in episodes]), pixels)
    ram = write(tmp_path / "b.hdf5", observations=pixels[:, 0, 0], next_observations=None)
    assert read(ram)[0].steps["observation"].dtype == np.float32


def test_nan_in_observations_is_missing_where_it_may_be(tmp_path):
    observations = arrays_of()["observations"]
    observations[1, 0] = np.nan
    path = write(tmp_path / "a.hdf5", observations=observations)
    spec = EnvironmentSpec(VECTOR.observation_space, VECTOR.action_space, missing=("observation",))
    assert read(path, spec)[0].steps["missing.observation"].tolist() == [[0, 0], [1, 0], [0, 0]]
    with pytest.raises(DataError, match=r"episode 0, step 1: observation\[0\] is nan"):
        read(path)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (Box(-1, 1, (3,)), VECTOR.action_space,
         r"observations hold float32 of shape \[2\], the observation space is Box\(3\)"),
        (Box(0, 255, (2, 1), np.uint8), VECTOR.action_space, r"observations hold float32 of shape \[2\]"),
        (Dict(a=Box(-1, 1, (2,))), VECTOR.action_space, r"the observation space is Dict\(a: Box"),
        (VECTOR.observation_space, Discrete(2), r"actions hold float32 of shape \[1\], .* is Discrete\(2\)"),
        (VECTOR.observation_space, MultiBinary(1), r"the action space is MultiBinary\(1\)"),
        (VECTOR.observation_space, Box(-1, 1, (2,)), r"the action space is Box\(2\) in \[-1, 1\]"),
    ],
)  # fmt: skip
def test_another_environments_spec_is_refused_with_both_sides(tmp_path, observation, action, message):
    path = write(tmp_path / "a.hdf5")
    assert hdf5.source(path, VECTOR).spec == VECTOR
    with pytest.raises(DataError, match=message):
        hdf5.source(path, EnvironmentSpec(observation, action))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None, "reward": np.zeros(10)},
         "has no array 'rewards'; did you mean 'reward'.; it has actions, infos, metadata, next_obs"),
        ({"terminals": None}, "has no array 'terminals'"),
        ({"observations": None, "episode_0": np.zeros(1)}, "give the folder of the Minari data set"),
        ({"actions": np.zeros((9, 1))}, "actions has 9 rows, observations has 10"),
        ({"next_observations": np.zeros((11, 2))}, "next_observations has 11 rows, observations has 10"),
        ({"next_observations": np.zeros((10, 3))}, r"next_observations hold float64 of shape \[3\]"),
        ({"rewards": np.zeros((10, 2))}, r"rewards have shape \[2\], expected one number per step"),
        ({"rewards": np.array([b"a"] * 10)}, "rewards has type .*, expected numbers"),
        ({"terminals": np.full(10, 0.5)}, "terminals is 0.5 in row 0: expected 0 or 1"),
        ({"timeouts": np.full(10, np.nan)}, "timeouts is nan in row 0"),
        ({"actions": np.full(10, -1)}, "actions are whole numbers from -1 to -1"),
        ({"actions": np.full(10, 10**9)}, r"actions are whole numbers from 1000000000 to 1e\+09"),
        ({"observations": np.zeros((10, 0)), "next_observations": None}, r"observations have shape \[0\]"),
        ({name: values[:0] for name, values in arrays_of().items()}, "has no steps: its arrays have 0 rows"),
    ],
)  # fmt: skip
def test_files_that_do_not_hold_the_arrays_are_refused_in_one_sentence(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        read(write(tmp_path / "a.hdf5", **changes))
    assert str(tmp_path / "a.hdf5") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_names_are_inert(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for index in range(50):
            file[f"\x1b[2J{index}" + "x" * 1000] = 1
    with pytest.raises(DataError, match="has no array 'observations'; it has ") as caught:
        hdf5.source(path)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 6000


def test_a_file_that_is_not_there_names_the_nearest(tmp_path):
    write(tmp_path / "hopper.hdf5")
    with pytest.raises(UsageError, match="no file '.*hoper.hdf5'; did you mean 'hopper.hdf5'"):
        hdf5.source(tmp_path / "hoper.hdf5")
    with pytest.raises(UsageError, match="no file"):
        hdf5.source(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git-LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "HTML page"),
        (b"\x1f\x8b\x08\x00", "packed with gzip"),
        (b"words", "damaged or cut off .*fetch the data set again"),
    ],
)
def test_what_is_no_hdf5_is_named(tmp_path, content, message):
    (tmp_path / "a.hdf5").write_bytes(content)
    with pytest.raises(DataError, match=message):
        hdf5.source(tmp_path / "a.hdf5")


def test_bytes_changed_or_cut_anywhere_are_at_most_one_sentence(tmp_path):
    path = write(tmp_path / "a.hdf5")
    content, random = path.read_bytes(), np.random.default_rng(0)
    for turn in range(150):
        changed = np.frombuffer(content, np.uint8).copy()
        where = random.integers(0, len(changed), 4)
        changed[where] = random.integers(0, 256, 4)
        path.write_bytes(changed.tobytes()[: len(changed) if turn % 3 else random.integers(len(changed))])
        try:
            list(hdf5.source(path).read())
        except DataError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["a.pkl", "a.pt", "a.npy", "a.npz", "pickle.hdf5", "torch.hdf5", "object.hdf5"])
def test_pickles_are_refused_unopened_by_name_and_by_content(tmp_path, name):
    path, evil = tmp_path / name, Malice(tmp_path / "sentinel")
    with path.open("wb") as file:
        if name in ("a.pt", "torch.hdf5"):
            torch.save(evil, file)
        elif name in ("a.npy", "object.hdf5"):
            np.save(file, np.array([evil], dtype=object), allow_pickle=True)
        elif name == "a.npz":
            np.savez(file, evil=np.array([evil], dtype=object))
        else:
            pickle.dump(evil, file)
    with pytest.raises(DataError, match="can hold a pickle, which runs code when it is opened: .*HDF5 file"):
        hdf5.source(path)
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("kind", ["external-link", "soft-link", "external-storage", "virtual", "group", "terabytes"])
def test_hdf5_that_reaches_outside_itself_or_declares_too_much_is_refused(tmp_path, kind):
    path, outside = write(tmp_path / "a.hdf5"), write(tmp_path / "outside.hdf5")
    with h5py.File(path, "a") as file:
        del file["rewards"]
        if kind == "external-link":
            file["rewards"] = h5py.ExternalLink(str(outside), "rewards")
        elif kind == "soft-link":
            file["rewards"] = h5py.SoftLink("/actions")
        elif kind == "external-storage":
            file.create_dataset("rewards", (10,), "f4", external=[(str(outside), 0, 40)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((10,), "f4")
            layout[:] = h5py.VirtualSource(str(outside), "rewards", (10,))
            file.create_virtual_dataset("rewards", layout)
        elif kind == "group":
            file.create_group("rewards")
        else:
            file.create_dataset("rewards", shape=(10**12,), dtype="f4", chunks=(10**6,))
    said = {"terabytes": "declares 4000000000000 bytes, 0 are stored", "group": "is a group where an array is expected"}
    with pytest.raises(DataError, match=f"a.hdf5: /rewards .*{said.get(kind, 'not followed')}"):
        hdf5.source(path)


def test_the_identity_is_that_of_file_and_options(tmp_path):
    path = write(tmp_path / "a.hdf5", timeouts=None)
    first = hdf5.source(path).identity
    assert json.loads(json.dumps(first, allow_nan=False)) == first == hdf5.source(path).identity
    assert hdf5.source(path, max_episode_steps=3).identity != first
    assert hdf5.source(path, EnvironmentSpec(VECTOR.observation_space, Box(-2, 2, (1,)))).identity != first
    os.utime(path, ns=(1, 1))
    assert hdf5.source(path).identity != first


def test_one_episode_without_an_end_is_told(tmp_path, caplog):
    hdf5.source(write(tmp_path / "a.hdf5", ends=(), timeouts=None))
    assert "is a single episode: give max_episode_steps" in caplog.text
    with pytest.raises(UsageError, match="max_episode_steps is 0: expected 1 or more"):
        hdf5.source(tmp_path / "a.hdf5", max_episode_steps=0)
