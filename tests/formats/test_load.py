import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from gymnasium.spaces import Box, Discrete
from PIL import Image

from minari_sets import BOX, DISCRETE, make_episodes, metadata_of, minari_arrays, spoil, write_minari
from seqdec.data.dataset import episode_at, from_episodes, save
from seqdec.data.description import QUANTILES, describe
from seqdec.data.episode import Episode
from seqdec.data.schema import column, environment_of, lengths, returns
from seqdec.errors import DataError, UsageError
from seqdec.formats.columns import Columns
from seqdec.formats.load import load_dataset
from seqdec.play import scripted_cartpole
from seqdec.spaces.spec import EnvironmentSpec


def episodes_of(dataset):
    return [Episode.from_row(dataset[index]) for index in range(len(dataset))]


def assert_same(found, expected, with_text=True):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        row = one.to_row()
        assert Episode.from_row(row if with_text else {**row, "text": other.text}).equals(other)


@pytest.mark.parametrize("spec", [BOX, DISCRETE], ids=["box", "discrete"])
def test_episodes_come_back_from_their_rows(spec):
    episodes = make_episodes(spec=spec)
    dataset = from_episodes(episodes, spec)
    assert_same(episodes_of(dataset), episodes)
    assert environment_of(dataset) == spec


@pytest.mark.parametrize(("spec", "width"), [(BOX, 24), (DISCRETE, 20)], ids=["box", "discrete"])
def test_columns_are_all_timesteps_in_order_whatever_the_chunks(spec, width, monkeypatch):
    monkeypatch.setattr("seqdec.data.arrow.CHUNK_BYTES", 5 * width)
    episodes = make_episodes((3, 1, 7, 4, 5, 1), spec)
    dataset = from_episodes(iter(episodes), spec)
    assert [len(chunk) for chunk in column(dataset, "reward")] == [4, 7, 4, 5, 1]
    assert lengths(dataset).tolist() == [3, 1, 7, 4, 5, 1]
    for name in ("observation", "action", "reward"):
        expected = np.concatenate([episode.steps[name] for episode in episodes])
        found = np.concatenate(column(dataset, name))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert returns(dataset) == pytest.approx([episode.total_return for episode in episodes])


def test_a_column_is_a_view_of_the_arrow_buffer():
    dataset = from_episodes(make_episodes(), BOX)
    first, again = (column(dataset, "observation")[0] for _ in range(2))
    assert np.shares_memory(first, again)
    assert not first.flags.owndata


@pytest.mark.parametrize("select", [[2, 0], [1, 2], [3], [0, 1, 2, 3]])
def test_columns_of_selected_episodes_are_those_episodes(select, monkeypatch):
    monkeypatch.setattr("seqdec.data.arrow.CHUNK_BYTES", 5 * 24)
    episodes = make_episodes()
    part = from_episodes(episodes, BOX).select(select)
    expected = [episodes[index] for index in select]
    assert lengths(part).tolist() == [len(episode) for episode in expected]
    assert returns(part) == pytest.approx([episode.total_return for episode in expected])
    for name in ("observation", "reward"):
        values = np.concatenate([episode.steps[name] for episode in expected])
        np.testing.assert_array_equal(np.concatenate(column(part, name)), values)
    assert describe(part).num_episodes == len(select)


@pytest.mark.parametrize("select", [None, [2, 0]])
def test_a_saved_data_set_loads_as_it_was_and_is_mapped(tmp_path, select):
    dataset = from_episodes(make_episodes(), BOX)
    dataset = dataset if select is None else dataset.select(select)
    save(dataset, tmp_path / "set")
    loaded = load_dataset(str(tmp_path / "set"))
    assert_same(episodes_of(loaded), episodes_of(dataset))
    assert environment_of(loaded) == BOX
    assert loaded.cache_files
    assert loaded.data.nbytes > 0


def test_a_saved_data_set_is_not_overwritten_unasked(tmp_path):
    dataset = from_episodes(make_episodes(), BOX)
    save(dataset, tmp_path / "set")
    with pytest.raises(OSError, match="set"):
        save(dataset, tmp_path / "set")
    save(dataset.select([1]), tmp_path / "set", replace=True)
    assert len(load_dataset(tmp_path / "set")) == 1


def test_a_missing_folder_names_the_nearest(tmp_path):
    (tmp_path / "cartpole").mkdir()
    with pytest.raises(UsageError, match="no folder '.*cartpol'; did you mean 'cartpole'"):
        load_dataset(str(tmp_path / "cartpol"))


def planted(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["../elsewhere.arrow", "/etc/passwd", 7])
def test_files_that_a_folder_names_stay_inside_it(tmp_path, name, monkeypatch):
    save(from_episodes(make_episodes(), BOX), tmp_path / "set")
    monkeypatch.setattr("seqdec.storage.verify", planted)  # as if the planted folder had its manifest
    (tmp_path / "set" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError):
        load_dataset(tmp_path / "set")


def test_a_folder_whose_columns_are_not_its_environments_is_refused(tmp_path, monkeypatch):
    save(from_episodes(make_episodes(), BOX), tmp_path / "set")
    monkeypatch.setattr("seqdec.storage.verify", planted)
    info = json.loads((tmp_path / "set" / "dataset_info.json").read_text())
    info["description"] = json.dumps(DISCRETE.to_json())
    (tmp_path / "set" / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="other columns"):
        load_dataset(tmp_path / "set")


def test_a_data_set_that_names_no_environment_is_refused():
    dataset = from_episodes(make_episodes(), BOX)
    dataset.info.description = "my data"
    with pytest.raises(DataError, match="does not describe its environment"):
        environment_of(dataset)


def test_no_episodes_are_refused():
    with pytest.raises(DataError, match="no episodes"):
        from_episodes([], BOX)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (EnvironmentSpec(Box(-1, 1, (4,)), BOX.action_space), r"episode 0: observations have shape \[3\].*Box\(4\)"),
        (EnvironmentSpec(BOX.observation_space, Discrete(2)), r"episode 0: actions have shape \[2\].*Discrete\(2\)"),
        (
            EnvironmentSpec(BOX.observation_space, Box(-0.01, 0.01, (2,))),
            r"episode 0, step 0: action\[0\] is .*, outside Box\(2\) in \[-0.01, 0.01\] \(4 of 4 episodes",
        ),
    ],
)
def test_episodes_of_another_environment_are_refused(spec, message):
    with pytest.raises(DataError, match=message):
        from_episodes(make_episodes(), spec)


def test_discrete_values_outside_their_space_are_refused():
    spec = EnvironmentSpec(Discrete(5), Discrete(2, start=1))
    with pytest.raises(DataError, match=r"action is 3, outside Discrete\(2, start=1\)"):
        from_episodes(make_episodes((9, 9), DISCRETE), spec)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("spec", [BOX, DISCRETE], ids=["box", "discrete"])
def test_minari_storage_reads_as_what_was_written(tmp_path, data_format, spec):
    episodes = make_episodes((3, 1, 7, 4, 2, 2, 2, 2, 2, 2, 2, 5), spec)
    folder = write_minari(tmp_path / "set-v0", episodes, spec, data_format)
    dataset = load_dataset(str(folder))
    assert_same(episodes_of(dataset), episodes, with_text=False)
    found = environment_of(dataset)
    assert (found.observation_space, found.action_space) == (spec.observation_space, spec.action_space)
    assert (found.id, found.max_episode_steps, found.reference_returns) == ("CartPole-v1", 500, (2.5, 10.0))
    assert found.requirements == ("gymnasium>=1.0",)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_what_minari_itself_writes_is_read(tmp_path, data_format):
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    episodes = make_episodes()
    storage = MinariStorage.new(
        tmp_path,
        BOX.observation_space,
        BOX.action_space,
        env_spec=gymnasium.spec("CartPole-v1"),
        data_format=data_format,
    )
    buffers = [EpisodeBuffer(id=index, **minari_arrays(episode)) for index, episode in enumerate(episodes)]
    storage.update_episodes(buffers)
    dataset = load_dataset(str(tmp_path))
    assert_same(episodes_of(dataset), episodes, with_text=False)
    assert environment_of(dataset).entry_point == "gymnasium.envs.classic_control.cartpole:CartPoleEnv"


def test_an_id_is_looked_up_below_minaris_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_minari(tmp_path / "tiny" / "set-v0", make_episodes())
    assert len(load_dataset("minari:tiny/set-v0")) == 4
    assert len(load_dataset(tmp_path / "tiny" / "set-v0")) == 4


def test_an_id_that_is_not_here_and_out_of_reach_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="no Minari data set 'tiny/gone-v0' in .*failed .*MINARI_DATASETS_PATH"):
        load_dataset("minari:tiny/gone-v0")


@pytest.mark.parametrize("name", ["", "no-version", "../../etc-v0", "/etc-v0", "a b-v0"])
def test_what_is_neither_folder_nor_id_is_refused(name):
    with pytest.raises(UsageError, match="neither a folder with a Minari data set nor an id"):
        load_dataset(f"minari:{name}")


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil(2, "observations", [0, np.nan, 0], 3), r"episode 2, step 3: observation\[1\] is nan \(1 of 4 episodes"),
        (spoil(2, "observations", [0, 0, np.inf], 7), r"episode 2: final\[2\] is inf"),
        (spoil(1, "actions", [np.nan, 0]), r"episode 1, step 0: action\[0\] is nan"),
        (spoil(3, "rewards", -np.inf, 2), "episode 3, step 2: reward is -inf.*on_nonfinite=.drop-episode"),
        (spoil(3, "rewards", 1e300, 2), "episode 3, step 2: reward is inf"),
        (spoil(3, "rewards", 1e38, 2), r"reward is 1e\+38, too large to train on"),
        (spoil(0, "actions", [0, 1.5], 2), r"episode 0, step 2: action\[1\] is 1.5, outside.*clip_actions=True"),
        (spoil(2, "terminations", True, 1), "episode 2: it ends at step 1 and goes on to step 6"),
        (spoil(0, "terminations", False, -1), "episode 0: it is neither terminated nor truncated"),
    ],
)
def test_values_that_cannot_be_trained_on_are_refused_with_the_first(tmp_path, data_format, change, message):
    folder = write_minari(tmp_path / "set-v0", make_episodes(), data_format=data_format, change=change)
    with pytest.raises(DataError, match=message):
        load_dataset(str(folder))


def test_episodes_with_nan_can_be_dropped(tmp_path):
    episodes = make_episodes()
    folder = write_minari(tmp_path / "set-v0", episodes, change=spoil(2, "observations", np.nan))
    dataset = load_dataset(str(folder), on_nonfinite="drop-episode")
    assert_same(episodes_of(dataset), [episodes[index] for index in (0, 1, 3)], with_text=False)
    folder = write_minari(tmp_path / "all-v0", episodes[:1], change=spoil(0, "rewards", np.nan))
    with pytest.raises(DataError, match="nothing is left"):
        load_dataset(str(folder), on_nonfinite="drop-episode")


def test_actions_can_be_clipped(tmp_path):
    folder = write_minari(tmp_path / "set-v0", make_episodes(), change=spoil(0, "actions", [-3, 1.5]))
    dataset = load_dataset(str(folder), clip_actions=True)
    assert column(dataset, "action")[0][0].tolist() == [-1, 1]


def resize(name, change):
    def apply(index, arrays):
        if index >= 1:
            arrays[name] = change(arrays[name])

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            resize("actions", lambda values: values[:-1]),
            r"episode 1: action has 0 rows for 1 rewards: give one per reward \(3 of 4",
        ),
        (
            resize("observations", lambda values: values[:-1]),
            "observation has 1 rows for 1 rewards: give one more",
        ),
        (
            resize("observations", lambda values: values[:, :2]),
            r"observation has 2 entries, the space is Box\(3\)",
        ),
        (
            resize("rewards", lambda values: np.stack([values, values], 1)),
            r"rewards have shape \[2\], expected one number",
        ),
        (resize("actions", lambda values: values.astype("S3")), "has type .*, expected numbers"),
        (resize("observations", lambda values: values[..., None]), r"has shape \[3, 1\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_the_first_and_the_count(tmp_path, change, message):
    folder = write_minari(tmp_path / "set-v0", make_episodes(), change=change)
    with pytest.raises(DataError, match=message):
        load_dataset(str(folder))


def test_numbers_of_the_other_byte_order_are_read_as_they_are(tmp_path):
    episodes = make_episodes()
    swap = resize("observations", lambda values: values.astype(">f4"))
    folder = write_minari(tmp_path / "set-v0", episodes, change=swap)
    assert_same(episodes_of(load_dataset(str(folder))), episodes, with_text=False)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_steps": 3000}, "expected 3000 steps, found 15"),
        ({"total_episodes": 5}, "expected 5 episodes, found 4"),
        ({"total_episodes": 3}, "expected 3 episodes, found 4"),
        ({"total_episodes": 10**15}, "expected 1000000000000000 episodes, found 4"),
        ({"total_steps": None}, "total_steps is 'None', expected a whole number"),
        ({"observation_space": None}, "has no observation_space"),
        ({"observation_space": "{"}, "observation_space is no JSON"),
        ({"observation_space": "[" * 100_000}, "observation_space is no JSON"),
        (
            {"action_space": '{"type": "Discrete", "n": 1000000000000000000}'},
            "n = .*: expected whole numbers from 1 to 1000000",
        ),
        ({"action_space": '{"type": "Graph"}'}, "Graph actions are not supported"),
        (
            {"action_space": '{"type": "Box", "dtype": "uint8", "shape": [2, 2], "low": 0, "high": 255}'},
            "images can be observed, not acted",
        ),
        ({"action_space": '{"type": "Text", "max_length": 9, "charset": 7}'}, "has a number as charset"),
        ({"data_format": "pickle"}, "data_format is 'pickle', not hdf5, arrow or parquet"),
        ({"env_spec": "7"}, "env_spec is '7'"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path, data_format, changes, message):
    episodes = make_episodes()
    folder = write_minari(tmp_path / "set-v0", episodes, data_format=data_format)
    path = folder / "data" / "metadata.json"
    path.write_text(json.dumps(metadata_of(episodes, BOX, data_format, **changes)))
    with pytest.raises(DataError, match=message):
        load_dataset(str(folder))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("damage", ["empty", "cut-7", "cut-half", "cut-1", "lfs", "html", "gone"])
def test_a_damaged_file_is_one_sentence(tmp_path, data_format, damage):
    folder = write_minari(tmp_path / "set-v0", make_episodes((30, 40)), data_format=data_format)
    path = folder / "data" / ("main_data.hdf5" if data_format == "hdf5" else f"1/part-0.{data_format}")
    content = path.read_bytes()
    cuts = {"empty": 0, "cut-7": 7, "cut-half": len(content) // 2, "cut-1": len(content) - 1}
    words = {
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "html": b"<!DOCTYPE html><html></html>",
    }
    said = {"empty": "it is empty", "lfs": "git-LFS pointer", "html": "HTML page"}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: cuts[damage]] if damage in cuts else words[damage])
    with pytest.raises(DataError, match=said.get(damage, "fetch the data set again")) as caught:
        load_dataset(str(folder))
    assert "\n" not in str(caught.value)


def test_a_tiny_file_that_declares_terabytes_is_refused_unread(tmp_path):
    folder = write_minari(tmp_path / "set-v0", make_episodes())
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_2/observations"]
        file["episode_2"].create_dataset("observations", shape=(10**11, 3), dtype="f4", chunks=(10**6, 3))
    with pytest.raises(DataError, match="declares 1200000000000 bytes, 0 are stored"):
        load_dataset(str(folder))


@pytest.mark.parametrize("kind", ["external-link", "soft-link", "external-storage", "virtual"])
def test_hdf5_that_reaches_outside_itself_is_refused(tmp_path, kind):
    folder = write_minari(tmp_path / "set-v0", make_episodes())
    outside = tmp_path / "outside.hdf5"
    with h5py.File(outside, "w") as file:
        file["rewards"] = np.zeros(7)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        group = file["episode_2"]
        del group["rewards"]
        if kind == "external-link":
            group["rewards"] = h5py.ExternalLink(str(outside), "rewards")
        elif kind == "soft-link":
            group["rewards"] = h5py.SoftLink("/episode_2/rewards")
        elif kind == "external-storage":
            group.create_dataset("rewards", (7,), "f8", external=[(str(outside), 0, 56)])
        else:
            layout = h5py.VirtualLayout((7,), "f8")
            layout[:] = h5py.VirtualSource(str(outside), "rewards", (7,))
            group.create_virtual_dataset("rewards", layout)
    with pytest.raises(DataError, match=r"rewards .*not followed"):
        load_dataset(str(folder))


def test_opening_a_planted_data_set_runs_nothing(tmp_path, monkeypatch):
    sentinel = tmp_path / "sentinel"
    (tmp_path / "evilmod.py").write_text(f"open({str(sentinel)!r}, 'w')\nmain = print\n")
    monkeypatch.syspath_prepend(tmp_path)
    evil = {
        "id": "evilmod:Env-v0",
        "entry_point": "evilmod:main",
        "vector_entry_point": "evilmod:main",
        "max_episode_steps": 5,
        "kwargs": {"entry_point": "evilmod:main"},
        "additional_wrappers": [{"name": "w", "entry_point": "evilmod:main", "kwargs": {}}],
    }
    planted = {"env_spec": json.dumps(evil), "eval_env_spec": json.dumps(evil)}
    folder = write_minari(tmp_path / "set-v0", make_episodes(), **planted)
    dataset = load_dataset(str(folder))
    save(dataset, tmp_path / "saved")
    describe(load_dataset(tmp_path / "saved"))
    assert environment_of(dataset).wrappers == ("evilmod:main",)
    shutil.rmtree(folder)
    spaceless = write_minari(tmp_path / "set-v0", make_episodes(), observation_space=None, action_space=None, **planted)
    with pytest.raises(DataError, match="never made from a file"):
        load_dataset(str(spaceless))
    assert not sentinel.exists()
    assert "evilmod" not in sys.modules


@pytest.fixture(scope="module")
def sample():
    return scripted_cartpole()


def test_the_sample_spreads_its_returns_from_10_to_500(sample):
    earned = returns(sample)
    assert len(earned) == 260
    assert earned.min() < 15
    assert earned.max() == 500
    near = {target: int((np.abs(earned - target) <= max(15, target / 10)).sum()) for target in (25, 100, 200, 350, 500)}
    assert min(near.values()) >= 15, near
    # No gap wider than an eighth of the scale.
    assert np.diff(np.sort(earned)).max() < 60


def test_the_samples_episodes_are_whole(sample):
    ends = sample.with_format("numpy")
    counts = lengths(sample)
    assert returns(sample).tolist() == counts.tolist()
    np.testing.assert_array_equal(np.asarray(ends["truncated"][:]), counts == 500)
    finals = np.asarray(ends["final"][:])
    fell = (np.abs(finals[:, 0]) > 2.4) | (np.abs(finals[:, 2]) > 12 * 2 * np.pi / 360)
    np.testing.assert_array_equal(np.asarray(ends["terminated"][:]), fell)


def test_the_sample_is_a_function_of_its_seed():
    first, again, other = (scripted_cartpole(8, seed) for seed in (0, 0, 1))
    assert_same(episodes_of(first), episodes_of(again))
    assert returns(first).tolist() != returns(other).tolist()


def test_a_description_by_hand():
    def episode(rewards, terminated):
        steps = {"observation": np.zeros((len(rewards), 3)), "action": np.zeros((len(rewards), 2)), "reward": rewards}
        return Episode(steps, final=np.zeros(3), terminated=terminated, truncated=not terminated)

    episodes = [episode(np.full(number, 2.0), number % 2 == 0) for number in range(1, 12)]
    description = describe(from_episodes(episodes, BOX))
    assert (description.num_episodes, description.num_timesteps) == (11, 66)
    assert list(description.return_quantiles) == list(QUANTILES)
    assert list(description.return_quantiles.values()) == pytest.approx([2.0 * number for number in range(1, 12)])
    assert list(description.length_quantiles.values()) == list(range(1, 12))
    assert description.fraction_terminated == pytest.approx(5 / 11)
    assert description.fraction_truncated == pytest.approx(6 / 11)
    table = str(description)
    assert "not named" in table
    assert "Box(2) in [-1, 1]" in table


def test_foreign_words_in_a_description_are_inert():
    spec = EnvironmentSpec(BOX.observation_space, BOX.action_space, id="\x1b[2J" + "x" * 900)
    table = str(describe(from_episodes(make_episodes(), spec)))
    assert "\x1b" not in table
    assert max(map(len, table.splitlines())) < 300


STEPS = Columns(episode="run", action="key", terminated="fell")


def a_table(**columns):
    """Two episodes, of two steps and of one."""
    table = {"run": ["a", "a", "b"], "observation": [[0.5, 1.0], [1.5, 2.0], [2.5, 3.0]], "key": [1, 0, 1]}
    return Dataset.from_dict({**table, "reward": [1.0, 2.0, 3.0], "fell": [False, True, False], **columns})


def test_a_table_in_memory_is_read_as_its_columns_say(tmp_path):
    found = load_dataset(a_table(), columns=STEPS)
    assert environment_of(found) == EnvironmentSpec(Box(-np.inf, np.inf, (2,)), Discrete(2))
    first, second = episodes_of(found)
    assert first.steps["observation"].tolist() == [[0.5, 1.0], [1.5, 2.0]]
    assert (first.steps["action"].tolist(), second.steps["reward"].tolist()) == ([1, 0], [3.0])
    assert [(episode.terminated, episode.truncated) for episode in (first, second)] == [(True, False), (False, True)]
    a_table().to_parquet(tmp_path / "walk.parquet")
    assert_same(episodes_of(load_dataset(f"table:{tmp_path}/walk.parquet", columns=STEPS)), [first, second])
    kept = load_dataset(a_table(), columns=STEPS, folder=tmp_path / "kept")
    assert kept.cache_files
    assert_same(episodes_of(kept), [first, second])
    mapped = load_dataset(a_table(), columns=STEPS, spec=EnvironmentSpec(Box(0, 9, (2,)), Discrete(3)))
    assert environment_of(mapped).action_space == Discrete(3)


def test_a_table_in_memory_may_have_a_row_an_episode():
    lists = {
        "observation": [[[0.5, 1.0], [1.5, 2.0]], [[2.5, 3.0]]],
        "key": [[1, 0], [1]],
        "reward": [[1.0, 2.0], [3.0]],
    }
    table = Dataset.from_dict({**lists, "fell": [True, False]})
    found = load_dataset(table, columns=Columns(action="key", terminated="fell"))
    assert_same(episodes_of(found), episodes_of(load_dataset(a_table(), columns=STEPS)))


@pytest.mark.parametrize("select", [None, [2, 1, 0]])
def test_a_table_in_memory_may_hold_images_and_be_in_another_order(select):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    table = a_table(run=["a", "b", "c"], observation=[Image.fromarray(image) for image in images])
    order = select or [0, 1, 2]
    found = load_dataset(table if select is None else table.select(select), columns=STEPS)
    assert environment_of(found).observation_space == Box(0, 255, (4, 5, 3), np.uint8)
    seen = [episode_at(found, index).steps["observation"][0] for index in range(3)]
    np.testing.assert_array_equal(seen, images[order])


def test_a_data_set_of_ours_is_returned_once_it_is_checked():
    dataset = from_episodes(make_episodes(), BOX)
    assert load_dataset(dataset) is dataset
    with pytest.raises(DataError, match="does not describe its environment.*columns="):
        load_dataset(a_table())


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (DatasetDict(train=a_table(), test=a_table()), {"columns": STEPS},
         r"several data sets \('train', 'test'\): pass one, such as data\['train'\]"),
        (7, {}, "data is int: expected a word, a folder or a datasets.Dataset"),
        (a_table(), {"columns": replace(STEPS, action="kay")}, "data set has no column 'kay'.*did you mean 'key'"),
        (a_table(), {"columns": STEPS, "config": "small"}, "config 'small' is for a data set on the Hub"),
        (a_table(), {"columns": STEPS, "splits": "test"}, "table has no option 'splits'; did you mean 'split'"),
        (a_table(), {"split": "test"}, "split .* for data of others"),
        ("mimari:a/b-v0", {}, "'mimari' is no kind of data; did you mean 'minari'.; write minari:..., hdf5"),
        ("minari:a/b-v0", {"columns": STEPS}, "minari has no option 'columns'"),
        ("hdf5:a.hdf5", {"max_episode_step": 3}, "did you mean 'max_episode_steps'.; it takes spec, max_ep"),
        ("lerobot:a/b", {"spec": BOX}, "lerobot has no option 'spec'.*; it takes cameras, image_size, episodes"),
        (from_episodes(make_episodes(), BOX), {"clip_actions": True}, "clip_actions and folder are for data of others"),
    ],
)  # fmt: skip
def test_what_the_door_does_not_take_is_one_sentence(data, options, message):
    with pytest.raises(UsageError, match=message):
        load_dataset(data, **options)
