import io
import json
import pickle
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from seqdec.data.arrow import from_rows
from seqdec.data.check import check
from seqdec.data.dataset import episode_at, from_episodes, save
from seqdec.data.episode import Episode
from seqdec.data.source import drop_nonfinite
from seqdec.errors import DataError, UsageError
from seqdec.formats import table_formats
from seqdec.formats.columns import Columns
from seqdec.formats.table import source
from seqdec.spaces.spec import EnvironmentSpec
from table_files import ROWS_OF_A_PAGE, episode_rows, flat_rows, make_episodes, step_rows, write

STEPS = Columns(episode="run", metadata=["seed", "policy"])
ROWS = Columns(metadata=["seed", "policy"])
VECTOR = Columns(episode="run", observation=["x", "y"], action=["left", "right"], metadata=["seed", "policy"])


def read(path, columns=STEPS, spec=None, **options):
    found = source(path, columns, spec, **options)
    dataset = from_rows(found.read(), found.spec)
    check(dataset)
    assert found.num_episodes in (None, len(dataset))
    return [episode_at(dataset, index) for index in range(len(dataset))], found.spec


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.equals(other), (one, other)


@pytest.mark.parametrize("name", ["walk.parquet", "walk.jsonl", "walk"])
@pytest.mark.parametrize("layout", ["steps", "rows"])
@pytest.mark.parametrize("final", ["row", "column"])
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_episodes_come_back_from_every_format_and_layout(tmp_path, name, layout, final, action):
    episodes = make_episodes(action=action)
    table, columns = (step_rows, STEPS) if layout == "steps" else (episode_rows, ROWS)
    found, spec = read(write(table(episodes, final), tmp_path / name), columns)
    assert_same(found, episodes)
    assert spec.observation_space == Box(-np.inf, np.inf, (2,))
    assert spec.action_space == (Box(-1, 1, (2,)) if action == "box" else Discrete(3, start=2))


@pytest.mark.parametrize("name", ["walk.csv", "walk.parquet", "walk.jsonl"])
@pytest.mark.parametrize("final", ["row", "column"])
def test_columns_of_numbers_side_by_side_are_the_vector(tmp_path, name, final):
    episodes = make_episodes()
    columns = replace(VECTOR, final=["next x", "next y"]) if final == "column" else VECTOR
    found, _ = read(write(flat_rows(step_rows(episodes, final)), tmp_path / name), columns)
    assert_same(found, episodes)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_episodes_may_go_on_in_the_next_batch_and_the_next_file(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("seqdec.formats.table_formats.BLOCK_ROWS", 2)
    episodes = make_episodes((3, 1, 7, 4, 2, 5))
    table = flat_rows(step_rows(episodes))
    paths = [
        write(table[start:stop], tmp_path / f"part-{index}{suffix}")
        for index, start, stop in [(2, 0, 5), (9, 5, 6), (10, 6, len(table))]
    ]
    assert_same(read(paths, VECTOR)[0], episodes)
    assert_same(read(tmp_path, VECTOR)[0], episodes)  # a folder's files in counting order: 10 after 9


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5), st.sampled_from(["row", "column"]))
def test_any_lengths_and_batches_give_the_same_episodes(tmp_path, lengths, block_rows, final):
    episodes = make_episodes(lengths)
    path = write(step_rows(episodes, final), tmp_path / "walk.parquet", row_group_size=3)
    before, table_formats.BLOCK_ROWS = table_formats.BLOCK_ROWS, block_rows
    try:
        assert_same(read(path)[0], episodes)
    finally:
        table_formats.BLOCK_ROWS = before


def test_reading_begins_at_the_first_episode_every_time(tmp_path):
    found = source(write(step_rows(make_episodes()), tmp_path / "walk.parquet"), STEPS)
    first, again = found.read(), found.read()
    assert len(next(first)["reward"]) == len(next(again)["reward"]) == 3
    assert [len(row["reward"]) for row in first] == [1, 7, 4]
    assert found.num_episodes == 4


def test_what_an_identity_says_changes_with_the_file_the_columns_and_the_spec(tmp_path):
    path = write(step_rows(make_episodes()), tmp_path / "walk.parquet")
    found = source(path, STEPS)
    assert found.identity == source(path, STEPS).identity
    assert found.identity["kind"] == "table" and json.loads(json.dumps(found.identity)) == found.identity
    assert source(path, replace(STEPS, text=None)).identity != found.identity
    assert source(path, STEPS, replace(found.spec, id="Walk-v0")).identity != found.identity
    write(step_rows(make_episodes((3, 1, 7))), path)
    assert source(path, STEPS).identity != found.identity


def test_the_last_observation_is_taken_again_where_no_final_one_is_there(tmp_path):
    episodes = [replace(episode, final=episode.steps["observation"][-1]) for episode in make_episodes()]
    assert_same(read(write(step_rows(episodes, "none"), tmp_path / "walk.parquet"))[0], episodes)
    assert_same(read(write(episode_rows(episodes, "none"), tmp_path / "rows.parquet"), ROWS)[0], episodes)


def test_a_list_of_next_observations_gives_its_last(tmp_path):
    episodes = make_episodes()
    table = episode_rows(episodes, "none")
    for row, episode in zip(table, episodes, strict=True):
        row["final"] = [*row["observation"][1:], episode.final["observation"].tolist()]
    assert_same(read(write(table, tmp_path / "walk.jsonl"), ROWS)[0], episodes)


@pytest.mark.parametrize(
    ("left_out", "terminated", "truncated"),
    [
        ((), [True, False], [False, True]),
        (("truncated",), [True, False], [False, True]),  # one tells the other
        (("terminated",), [True, False], [False, True]),
        (("terminated", "truncated"), [False, False], [True, True]),
    ],
)
def test_how_an_episode_ended_is_what_the_columns_say(tmp_path, left_out, terminated, truncated, caplog):
    table = [
        {name: value for name, value in row.items() if name not in left_out} for row in step_rows(make_episodes((3, 2)))
    ]
    found, _ = read(write(table, tmp_path / "walk.jsonl"))
    assert [episode.terminated for episode in found] == terminated
    assert [episode.truncated for episode in found] == truncated
    assert ("says of no episode how it ended" in caplog.text) == (len(left_out) == 2)


def test_flags_may_be_numbers_lists_and_beside_the_final_observation(tmp_path):
    episodes = make_episodes((3, 2))
    table = step_rows(episodes)
    for row in table:
        is_final = row["action"] is None
        index = int(row["run"][-1])
        row["terminated"], row["truncated"] = int(is_final and index == 0), int(is_final and index == 1)
    assert_same(read(write(table, tmp_path / "walk.parquet"))[0], episodes)
    table = episode_rows(episodes)
    for row in table:
        row["terminated"] = [False] * (len(row["action"]) - 1) + [row["terminated"]]
        row["truncated"] = [0.0] * (len(row["action"]) - 1) + [float(row["truncated"])]
    assert_same(read(write(table, tmp_path / "rows.parquet"), ROWS)[0], episodes)


def single(**columns):
    """Two episodes of two steps from columns of four values."""
    given = {"run": ["a", "a", "b", "b"], "observation": [0.5, 1.5, 2.5, 3.5], "action": [0.5] * 4, "reward": [1.0] * 4}
    return pa.table({**given, "terminated": [False, True] * 2, **columns})


IMAGES = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)


@pytest.mark.parametrize(
    ("role", "values", "space"),
    [
        ("observation", [0.5, 1.0, 2.0, -3.0], Box(-np.inf, np.inf, (1,))),
        ("observation", [[0.5, 1.0]] * 4, Box(-np.inf, np.inf, (2,))),
        ("observation", [3, 0, 1, 2], Discrete(4)),
        ("observation", [3, -1, 1, 2], Box(-np.inf, np.inf, (1,))),
        ("observation", [256, 0, 1, 2], Box(-np.inf, np.inf, (1,))),
        ("observation", [[3, 1]] * 4, Box(-np.inf, np.inf, (2,))),
        ("observation", [True, False, False, True], Discrete(2)),
        ("observation", [[True, False, True]] * 4, MultiBinary(3)),
        ("observation", ["go", "stop", "go", "stop"], Text(100_000)),
        ("observation", IMAGES.tolist(), Box(0, 255, (2, 2, 3), np.uint8)),
        ("observation", (IMAGES.astype(int) - 1).tolist(), Box(-np.inf, np.inf, (2, 2, 3))),
        ("action", [0.5, -1.0, 1.0, 0.0], Box(-1, 1, (1,))),
        ("action", [0.5, -1.5, 1.0, 0.0], Box(-np.inf, np.inf, (1,))),
        ("action", [7, 5, 5, 6], Discrete(3, start=5)),
        ("action", [[7, 0], [5, 1], [5, 1], [6, 1]], MultiDiscrete([3, 2], start=[5, 0])),
        ("action", [True, False, False, True], Discrete(2)),
        ("action", ["take the clé", "", "wait", "🙂"], Text(100_000)),
    ],
)
def test_the_spaces_are_those_that_the_values_fit(tmp_path, role, values, space):
    parquet.write_table(single(**{role: values}), tmp_path / "walk.parquet")
    found, spec = read(tmp_path / "walk.parquet", STEPS_ONLY)
    assert (spec.observation_space if role == "observation" else spec.action_space) == space
    kept = np.concatenate([episode.steps[role] for episode in found])
    np.testing.assert_array_equal(kept.reshape(np.shape(values)), np.array(values, kept.dtype))


def test_whole_numbers_that_a_gap_turned_into_floats_are_discrete_actions(tmp_path):
    frame = pd.DataFrame({"run": [0, 0, 0], "observation": [0.5, 1.5, 2.5], "action": [1, 0, None], "reward": 1.0})
    frame.loc[2, "reward"] = np.nan
    assert frame["action"].dtype == np.float64
    frame.to_parquet(tmp_path / "walk.parquet")
    (episode,), spec = read(tmp_path / "walk.parquet", STEPS_ONLY)
    assert spec.action_space == Discrete(2)
    assert episode.steps["action"].tolist() == [1, 0] and episode.final["observation"].tolist() == [2.5]


def png(values):
    data = io.BytesIO()
    Image.fromarray(values).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


@pytest.mark.parametrize("layout", ["steps", "rows"])
def test_images_of_datasets_texts_and_vectors_are_the_leaves_of_a_dict(tmp_path, layout):
    columns = Columns(
        episode="run" if layout == "steps" else None,
        observation={"observation.camera": "img", "observation.joints": ["x", "y"], "observation.say": "words"},
    )
    words = ["go", "left", "stop", ""]
    table = {"img": [png(image) for image in IMAGES], "x": [0.5, 1.5, 2.5, 3.5], "y": [0, 1, 0, 1], "words": words}
    table |= {"run": [1, 1, 1, 1], "action": [2, 3, 3, None], "reward": [0.0, 1.0, 2.0, None], "truncated": [False] * 4}
    table["terminated"] = [False, False, True, None]
    image = datasets.Image()
    if layout == "rows":
        table = {name: [values] for name, values in table.items()}
        image = datasets.List(image)
    dataset = datasets.Dataset.from_dict(table)
    dataset.cast_column("img", image).save_to_disk(str(tmp_path / "set"))
    (episode,), spec = read(tmp_path / "set", columns)
    assert spec.observation_space == Dict(
        camera=Box(0, 255, (2, 2, 3), np.uint8), joints=Box(-np.inf, np.inf, (2,)), say=Text(100_000)
    )
    assert spec.action_space == Discrete(2, start=2)
    np.testing.assert_array_equal(episode.steps["observation.camera"], IMAGES[:3])
    assert episode.steps["observation.joints"].tolist() == [[0.5, 0], [1.5, 1], [2.5, 0]]
    assert episode.steps["observation.say"].tolist() == words[:3]
    np.testing.assert_array_equal(episode.final["observation.camera"], IMAGES[3])
    assert episode.final["observation.say"] == ""


def test_seqdecs_own_names_need_no_columns_named(tmp_path):
    space = Dict(camera=Box(0, 255, (2, 2, 3), np.uint8), joints=Box(-1, 1, (2,)))
    spec = EnvironmentSpec(space, Discrete(2), missing=("observation.joints",))
    episodes = [
        Episode(
            {
                "observation.camera": IMAGES,
                "observation.joints": [[0.5, 0.0], [0.25, 1.0], [0.0, 0.0], [1.0, 1.0]],
                "missing.observation.joints": [[False, False], [False, True], [True, True], [False, False]],
                "action": [0, 1, 1, 0],
                "reward": [1.0, 2.0, 3.0, 4.0],
            },
            final={"observation.camera": IMAGES[0], "observation.joints": [0.0, 0.0],
                   "missing.observation.joints": [True, False]},
            terminated=True,
            truncated=False,
            metadata={"seed": seed},
        )
        for seed in range(3)
    ]  # fmt: skip
    save(from_episodes(episodes, spec), tmp_path / "set")
    found, same = read(tmp_path / "set", Columns(), spec)
    assert_same(found, episodes)
    assert same == spec


def test_a_given_spec_shapes_the_values_and_must_fit_them(tmp_path):
    parquet.write_table(
        single(observation=[[0.0, 1.0, 2.0, 3.0]] * 4, action=[0.0, 1.0, 1.0, 0.0]), tmp_path / "w.parquet"
    )
    spec = EnvironmentSpec(Box(0, 9, (2, 2)), Discrete(3))
    (episode, _), found = read(tmp_path / "w.parquet", STEPS_ONLY, spec)
    assert found == spec
    assert episode.steps["observation"][0].tolist() == [[0, 1], [2, 3]]
    assert episode.steps["action"].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"w.parquet, episode 'a': observation has 4 entries, the space is Box\(3\)"):
        read(tmp_path / "w.parquet", STEPS_ONLY, EnvironmentSpec(Box(-np.inf, np.inf, (3,)), Discrete(3)))
    nested = EnvironmentSpec(Dict(a=Box(0, 9, (4,))), Discrete(3))
    with pytest.raises(UsageError, match="observation as 'observation', the environment has 'observation.a': map one"):
        source(tmp_path / "w.parquet", STEPS_ONLY, nested)


STEPS_ONLY = Columns(episode="run")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
@pytest.mark.parametrize("with_mask", [True, False])
def test_what_is_missing_is_null_nan_or_marked(tmp_path, suffix, with_mask):
    table = flat_rows(step_rows(make_episodes((3,))))
    table[1]["x"] = float("nan")
    table[2]["x"] = table[2]["y"] = None
    for index, row in enumerate(table):
        row["gap"] = index in (1, 2)
    table[1]["y"] = float("nan")
    columns = replace(VECTOR, missing={"observation": "gap" if with_mask else None})
    (episode,), spec = read(write(table, tmp_path / f"walk{suffix}"), columns)
    assert spec.missing == ("observation",)
    assert episode.steps["missing.observation"].tolist() == [[False, False], [True, True], [True, True]]
    assert episode.steps["observation"][1:].tolist() == [[0, 0], [0, 0]]
    assert episode.final["observation"].tolist() == [table[3]["x"], table[3]["y"]]


def test_what_the_mask_marks_is_missing_whatever_stands_there(tmp_path):
    table = single(observation=["go", "left", None, "stop"], gap=[False, True, True, False])
    parquet.write_table(table, tmp_path / "walk.parquet")
    columns = replace(STEPS_ONLY, missing={"observation": "gap"})
    (first, second), _ = read(tmp_path / "walk.parquet", columns)
    assert first.steps["observation"].tolist() == ["go", ""] and second.steps["observation"].tolist() == ["", "stop"]
    assert first.steps["missing.observation"].tolist() == [False, True]
    assert first.final["missing.observation"]
    parquet.write_table(table.set_column(5, "gap", pa.array([False] * 4)), tmp_path / "walk.parquet")
    with pytest.raises(
        DataError, match="episode 'b': observation is null or nan at step 0, column 'gap' calls it known"
    ):
        read(tmp_path / "walk.parquet", columns)


def test_metadata_with_gaps_keep_one_type(tmp_path):
    table = single(seed=[None, None, 3, 3], policy=["a", "a", None, None], ok=[True, True, False, False])
    parquet.write_table(table, tmp_path / "walk.parquet")
    (first, second), _ = read(tmp_path / "walk.parquet", replace(STEPS_ONLY, metadata=["seed", "policy", "ok"]))
    assert np.isnan(first.metadata["seed"]) and second.metadata["seed"] == 3.0
    assert (first.metadata["policy"], second.metadata["policy"]) == ("a", None)
    assert (first.metadata["ok"], second.metadata["ok"]) == (True, False)


def test_texts_and_ids_of_a_csv_are_not_taken_for_numbers(tmp_path):
    path = tmp_path / "walk.csv"
    path.write_text('run,observation,action,reward,text\n1,0.5,1,1,"007, then\n8"\n1.0,1.5,0,1,008\n1.0,2.5,,,008\n')
    (first, second), spec = read(path, STEPS_ONLY)
    assert (first.text, second.text) == ("007, then\n8", "008")
    assert spec.action_space == Discrete(2)


def test_a_column_of_a_csv_is_of_whole_numbers_only_if_all_are(tmp_path):
    path = tmp_path / "walk.csv"
    path.write_text("run,observation,action,reward,seed\n1,1,1,1,1\n" + "2,2,0,1,2\n" * 3 + "3,0.5,1,1,x\n")
    found, spec = read(path, replace(STEPS_ONLY, metadata=["seed"]))
    assert spec.observation_space == Box(-np.inf, np.inf, (1,))
    assert [episode.metadata["seed"] for episode in found] == ["1", "2", "x"]


def test_a_split_is_its_files_and_all_of_them(tmp_path):
    episodes = make_episodes((3, 1, 7, 4))
    for index, part in enumerate([episodes[:1], episodes[1:2]]):
        write(episode_rows(part), tmp_path / f"train-0000{index}-of-00002.parquet")
    write(episode_rows(episodes[2:]), tmp_path / "test-00000-of-00001.parquet")
    assert_same(read(tmp_path, ROWS)[0], episodes[:2])
    assert_same(read(tmp_path, ROWS, split="test")[0], episodes[2:])
    with pytest.raises(UsageError, match=r"no split 'tests'; did you mean 'test'\?; it has 'test, train'"):
        source(tmp_path, ROWS, split="tests")
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="expected 2 files of train, found 1; make or fetch the data set again"):
        source(tmp_path, ROWS)


def test_a_split_of_a_saved_dict_is_chosen_by_name(tmp_path):
    episodes = make_episodes()
    parts = {"train": episodes[:3], "test": episodes[3:]}
    saved = {name: datasets.Dataset.from_list(episode_rows(part)) for name, part in parts.items()}
    datasets.DatasetDict(saved).save_to_disk(str(tmp_path / "set"), num_shards={"train": 2, "test": 1})
    assert_same(read(tmp_path / "set", ROWS)[0], parts["train"])
    assert_same(read(tmp_path / "set", ROWS, split="test")[0], parts["test"])
    with pytest.raises(UsageError, match="has no split 'tset'; did you mean 'test'"):
        source(tmp_path / "set", ROWS, split="tset")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_hub_id_that_is_out_of_reach_is_one_sentence(cache, monkeypatch, is_offline):
    monkeypatch.setattr("seqdec.formats.open_table.is_hub_reachable", lambda: is_offline)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", is_offline)
    with pytest.raises(
        UsageError, match="no file or folder 'someone/walks' is here, and fetching it .* failed .*local"
    ):
        source("someone/walks", STEPS)
    assert datasets.config.HF_HUB_OFFLINE is is_offline


def test_a_hub_id_that_was_fetched_before_needs_no_network(cache, tmp_path):
    episodes = make_episodes()
    write(step_rows(episodes), tmp_path / "walk.parquet")
    builder = datasets.load_dataset_builder(
        "parquet", data_files=str(tmp_path / "walk.parquet"), cache_dir=str(cache / "made")
    )
    builder.dataset_name = "walks"
    builder.download_and_prepare(str(cache / "someone___walks" / "default" / "0.0.0" / "c0ffee"))
    found = source("someone/walks", STEPS)
    assert_same(read("someone/walks", STEPS)[0], episodes)
    assert (found.identity["revision"], found.identity["files"]) == ("c0ffee", [])
    with pytest.raises(UsageError, match="someone/walks on the Hub has no split 'test'; it has 'train'"):
        source("someone/walks", STEPS, split="test")
    with pytest.raises(UsageError, match="fetching it .* failed .*someone/walks"):
        source("someone/walks", STEPS, config="other")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(episode="runn"), r"no column 'runn' for the episode; did you mean 'run'\?; it has 'run, observation"),
        (Columns(episode="run", observation="obs"), "no column 'obs' for the observation"),
        (Columns(episode="run", action=["acton"]), "no column 'acton' for the action; did you mean 'action'"),
        (Columns(episode="run", reward="rewards"), "no column 'rewards' for the reward; did you mean 'reward'"),
        (Columns(episode="run", terminated="done"), "no column 'done' for the terminated"),
        (Columns(episode="run", final="next"), "no column 'next' for the final"),
        (Columns(episode="run", metadata=["sed"]), "no column 'sed' for the metadata; did you mean 'seed'"),
        (Columns(episode="run", missing={"observation": "gap"}), "no column 'gap' for the missing observation"),
        (Columns(episode="run", missing={"observaton": None}), "no leaf .* 'observaton'; did you mean 'observation'"),
        (
            Columns(episode="run", observation={"camera": "observation"}),
            "mapped by 'camera': write 'observation' alone",
        ),
        (Columns(episode="run", observation=[]), "no column is named for the observation"),
        (
            Columns(episode="run", observation={"observation.a": "observation"}, final="observation"),
            "the final observation is 'final', the observation has 'final.a'",
        ),
    ],
)
def test_a_column_that_is_not_there_names_the_nearest(tmp_path, columns, message):
    path = write(step_rows(make_episodes()), tmp_path / "walk.jsonl")
    with pytest.raises(UsageError, match=message):
        source(path, columns)


def change(row, name, value):
    def spoil(table):
        table[row][name] = value

    return spoil


# Rows 0 to 3 are the first episode and its final observation, 4 and 5 the second.
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(2, "observation", [0.5]), "episode 'run 0': column 'observation' has 1 entry at step 2, 2 before it"),
        (change(3, "observation", [0.5]), "episode 'run 0': column 'observation' has 1 entry at step 3, 2 before it"),
        (
            change(4, "observation", [0.5]),
            "episode 'run 1': column 'observation' has 1 entry at step 0|.*'run 1'.* 2 entr",
        ),
        (change(1, "observation", []), "episode 'run 0': column 'observation' has 0 entries at step 1, 2 before it"),
        (change(1, "observation", None), r"episode 0, step 1: observation\[0\] is nan"),
        (change(1, "action", None), r"episode 0, step 1: action\[0\] is nan"),
        (change(1, "reward", None), "episode 0, step 1: reward is nan.*drop-episode"),
        (change(3, "reward", 0.5), "episode 'run 0': reward is 0.5 beside the final observation"),
        (
            change(1, "terminated", True),
            "episode 'run 0': column 'terminated' is true at step 1, and it goes on to step 2",
        ),
        (change(2, "terminated", False), "episode 'run 0': it is neither terminated nor truncated .*'truncated'"),
        (change(2, "terminated", 7), "'terminated' holds"),
        (change(2, "run", "run 7"), "episode 'run 0' comes back, it ended at .*: sort the table by episode"),
        (change(2, "run", None), "column 'run' is null, expected an episode"),
        (change(1, "seed", 9), "episode 'run 0': column 'seed' changes from '0' to '9': expected one value an episode"),
        (change(1, "policy", "best"), "episode 'run 0': column 'policy' changes from 'even' to 'best'"),
        (change(5, "action", [1.0, 1.0]), "column .truncated. is true at step 0, and it goes on to step 1"),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_spoilt_row_is_named_by_episode_and_step(tmp_path, spoil, message, suffix):
    table = step_rows(make_episodes((3, 1)))
    spoil(table)
    if suffix == ".parquet" and table[2]["terminated"] == 7:
        table = [{**row, "terminated": int(row["terminated"])} for row in table]
    with pytest.raises(DataError, match=message):
        read(write(table, tmp_path / f"walk{suffix}"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(1, "reward", [1.0, 0.0, 2.0]), "line 2: observation has 2 rows for 3 rewards: give one more"),
        (
            change(0, "observation", [[0.5, 0.5]] * 7),
            "line 1: observation has 7 steps, action has 3: expected as many, or one",
        ),
        (change(1, "action", None), "line 2: column 'action' holds null, expected a list"),
        (change(0, "action", []), "line 1: it has no steps"),
        (change(2, "reward", 1.5), "line 3: column 'reward' holds 1.5, unlike .* before it"),
        (change(2, "terminated", [False, True, False]), "line 3: column 'terminated' holds .*, unlike true before it"),
        (
            change(2, "observation", [[0.5, 0.5], [0.5], *[[0.5, 0.5]] * 6]),
            "line 3: column 'observation' has 1 entry at step 1",
        ),
    ],
)
def test_a_spoilt_episode_is_named_by_its_line(tmp_path, spoil, message):
    table = episode_rows(make_episodes((3, 1, 7)))
    spoil(table)
    with pytest.raises(DataError, match=message):
        read(write(table, tmp_path / "walk.jsonl"), ROWS)


def test_scalars_where_lists_are_expected_ask_for_the_episode(tmp_path):
    path = write(step_rows(make_episodes()), tmp_path / "walk.parquet")
    with pytest.raises(
        DataError, match=r"holds 'double', expected a list with one entry a step; if a row is a step, name"
    ):
        read(path, Columns(observation=["reward"], action="reward"))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("observation", [None, 1, 2, 3], "episode 0, step 0: observation is missing .*EnvironmentSpec.missing"),
        ("action", [None, 1, 2, 3], "episode 0, step 0: action is missing"),
        ("reward", ["x", "y", "z", "w"], "episode 'a': rewards have type text, expected numbers"),
        ("terminated", ["x", "y", "z", "w"], "column 'terminated' holds something else than true and false"),
        ("observation", [{"a": 1}] * 4, "column 'observation' holds 'struct<a: int64>': expected numbers"),
        ("observation", [["a"]] * 4, "observation holds texts, the space is Text"),
        ("observation", [None] * 4, "observation is null in all rows"),
        ("action", [png(IMAGES[0])] * 4, "images can be observed, not acted"),
        ("action", [0, 10**7, 0, 0], "whole numbers from '0' to '10000000': at most 1000000 values"),
        ("observation", [b"no image"] * 4, "column 'observation' at step 0 is damaged or no PNG, "),
        ("observation", [{"bytes": None, "path": "/etc/passwd"}] * 4, "names an image file without its bytes"),
        ("observation", [png(IMAGES[0]), png(IMAGES[0]), png(IMAGES[0, :1]), png(IMAGES[0])],
         r"episode 'b': column 'observation' has shape \[2, 2, 3\] at step 1, shape \[1, 2, 3\] before it"),
        ("text", [["x"]] * 4, "column 'text' holds 'list<.*': expected texts, numbers"),
        ("text", [1] * 4, "column 'text' holds '1', expected a text"),
        ("run", [1.0, 1.0, np.nan, 2.0], "walk.parquet, row 2: column 'run' is null, expected an episode"),
        ("run", [["x"]] * 4, "column 'run' holds 'list<.*', expected one id a step"),
    ],
)  # fmt: skip
def test_values_of_a_wrong_type_are_refused(tmp_path, column, values, message):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if "bytes" in str(values[0])[:9] else None
    parquet.write_table(single(**{column: pa.array(values, kind)}), tmp_path / "walk.parquet")
    with pytest.raises((DataError, UsageError), match=message):
        read(tmp_path / "walk.parquet", STEPS_ONLY)


def test_no_image_is_larger_than_a_space_may_be(tmp_path):
    large = [png(np.zeros((2000, 2000), np.uint8))] * 4
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    parquet.write_table(single(observation=pa.array(large, kind)), tmp_path / "walk.parquet")
    with pytest.raises(DataError, match="is an image of 2000x2000: too large, scale it down"):
        source(tmp_path / "walk.parquet", STEPS_ONLY)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "w.csv",
            "run,observation,action,reward\na,1,1,1\n\na,2,1,abc\n",
            "w.csv, line 4: column 'reward' holds 'abc' where",
        ),
        (
            "w.csv",
            "run,observation,action,reward\na,1,1,x\na,2,1,1\n",
            "episode 'a': rewards have type text, expected",
        ),
        ("w.csv", "run,observation,action,reward\na,1,1\n", "w.csv cannot be read: .*Expected 4 columns, got 3"),
        ("w.csv", "run,observation,action,reward\n", "w.csv has no rows: give at least one episode"),
        ("w.csv", "run,run\n1,2\n", "w.csv has two columns called 'run'"),
        ("w.jsonl", '{"run": 1}\n{"run": 2', "w.jsonl, line 2 is no JSON"),
        ("w.jsonl", '{"run": 1, "run": 2}\n', "w.jsonl, line 1 is no JSON .*the key 'run' is there twice"),
        ("w.jsonl", '{"run": 1}\n[1]\n', "w.jsonl, line 2 is a JSON list: write one object a line"),
        ("w.json", '[{"run": 1}]\n', "w.json is one JSON list, which cannot be read bit by bit"),
        ("w.jsonl", "[" * 100_000, "is one JSON list"),
        ("w.jsonl", '{"a":' * 100_000, "w.jsonl, line 1 is no JSON .nested too deep"),
        ("w.parquet", "", "w.parquet cannot be read: it is empty"),
        ("w.csv", " \n", "w.csv cannot be read: it is empty"),
        (
            "w.csv",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "w.csv cannot be read: it is a git-LFS pointer",
        ),
        ("w.parquet", "<!DOCTYPE html><html>", "w.parquet cannot be read: it is an HTML page"),
        (
            "w.parquet",
            "PAR1 and no more of it",
            "w.parquet cannot be read: damaged or cut off .* make or fetch the data set again",
        ),
        ("w.parquet", "\x1f\x8b zipped", "w.parquet"),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / name, STEPS_ONLY)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["walk.parquet", "walk"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, name):
    path = write(step_rows(make_episodes((30, 40))), tmp_path / name)
    file = path if path.is_file() else next(path.glob("*.arrow"))
    whole = file.read_bytes()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.999):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match="cannot be read|cut off"):
            read(path)


def test_an_arrow_stream_cut_between_two_batches_is_refused(tmp_path):
    path = write(step_rows(make_episodes()), tmp_path / "walk")
    file = next(path.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-8])  # its end mark
    with pytest.raises(DataError, match="cut off .its end is not there"):
        read(path)


@pytest.mark.parametrize("position", [0.2, 0.4, 0.6, 0.8])
def test_a_damaged_parquet_file_is_refused(tmp_path, position):
    path = write(step_rows(make_episodes((300, 400))), tmp_path / "walk.parquet", write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[int(len(data) * position)] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError):
        read(path)


def test_rows_that_a_file_is_too_small_for_are_not_read(tmp_path):
    table = pa.table(dict.fromkeys(("run", "observation", "action", "reward"), np.zeros(5_000_000, np.int8)))
    whole = {"data_page_size": 2**30, "write_batch_size": 10**7, **ROWS_OF_A_PAGE}
    parquet.write_table(table, tmp_path / "walk.parquet", row_group_size=10**7, **whole)
    with pytest.raises(DataError, match="walk.parquet declares 5000000 rows: it is too small for them"):
        source(tmp_path / "walk.parquet", STEPS_ONLY)


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".npy", ".npz"])
def test_pickles_are_not_opened(tmp_path, suffix):
    path = tmp_path / f"walk{suffix}"
    path.write_bytes(pickle.dumps([1]))
    for name in (path, str(path), [path], tmp_path):
        with pytest.raises(
            UsageError, match=f"{suffix} files can hold pickles, which run code when they are read; save"
        ):
            source(name, STEPS)
    path.rename(tmp_path / "walk.csv")
    with pytest.raises(DataError, match="walk.csv cannot be read: it is a pickle, which runs code"):
        source(tmp_path / "walk.csv", STEPS)


def test_what_is_not_there_names_the_nearest(tmp_path, monkeypatch):
    write(step_rows(make_episodes()), tmp_path / "walk.parquet")
    with pytest.raises(UsageError, match=r"no file or folder '.*wolk.parquet' is here; did you mean 'walk.parquet'"):
        source(tmp_path / "wolk.parquet", STEPS)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(UsageError, match="is here; did you mean 'walk.parquet'"):
        source(f"{tmp_path.name}/walk.parket", STEPS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty holds no table: expected files in .parquet"):
        source(tmp_path / "empty", STEPS)
    with pytest.raises(UsageError, match="ends in '.txt': tables are read from .parquet"):
        (tmp_path / "walk.txt").write_text("x")
        source(tmp_path / "walk.txt", STEPS)
    (tmp_path / "walk.csv").write_text("x\n1\n")
    with pytest.raises(UsageError, match="of several formats, '.csv, .parquet': give those of one"):
        source(tmp_path, STEPS)
    with pytest.raises(UsageError, match="config 'small' is for a data set on the Hub"):
        source(tmp_path / "walk.parquet", STEPS, config="small")


@pytest.mark.parametrize("name", ["../walk.arrow", "/etc/passwd", 7])
def test_files_that_a_folder_names_stay_inside_it(tmp_path, name):
    path = write(step_rows(make_episodes()), tmp_path / "walk")
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}] if name != 7 else name}))
    with pytest.raises(DataError):
        source(path, STEPS)
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "walk.csv").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="is a link, only files are read"):
        source(folder, STEPS)


def test_files_of_one_table_have_the_same_columns(tmp_path):
    table = step_rows(make_episodes())
    first = write(table[:4], tmp_path / "a.parquet")
    second = write([{"rewards": row.pop("reward"), **row} for row in table[4:]], tmp_path / "b.parquet")
    with pytest.raises(DataError, match="b.parquet has no column 'reward'; did you mean 'rewards'"):
        read([first, second])


def most_memory(path, num_episodes):
    """Return how much memory Arrow has at most while a file of 32 KB an episode is read."""
    schema = pa.schema(
        [("run", pa.int32()), ("observation", pa.list_(pa.float32())), ("action", pa.int8()), ("reward", pa.float32())]
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for run in range(num_episodes):
            values = pa.array(np.random.default_rng(run).normal(size=125 * 64).astype(np.float32))
            lists = pa.ListArray.from_arrays(pa.array(np.arange(126, dtype=np.int32) * 64), values)
            columns = [np.full(125, run, np.int32), lists, np.arange(125, dtype=np.int8) % 2, np.ones(125, np.float32)]
            writer.write_table(pa.table(columns, schema=schema))
    before, most = pa.total_allocated_bytes(), 0
    for row in source(path, STEPS_ONLY).read():
        assert row["observation"].shape == (125, 64)
        most = max(most, pa.total_allocated_bytes() - before)
    return most


def test_a_longer_table_takes_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("seqdec.formats.table_formats.BLOCK_ROWS", 256)
    few, many = (most_memory(tmp_path / f"{number}.parquet", number) for number in (50, 200))
    assert many < 1.2 * few < (tmp_path / "200.parquet").stat().st_size / 2


@pytest.mark.parametrize("values", [["go", None, "stop", ""], [3, None, 1, 2], [0.5, None, 1.5, 2.5]])
def test_episodes_with_nulls_can_be_dropped(tmp_path, values):
    parquet.write_table(single(observation=values), tmp_path / "walk.parquet")
    found = source(tmp_path / "walk.parquet", STEPS_ONLY)
    dataset = from_rows(drop_nonfinite(found.read(), found.spec), found.spec)
    assert [episode_at(dataset, index).steps["observation"].reshape(-1).tolist() for index in range(len(dataset))] == [
        values[2:]
    ]
