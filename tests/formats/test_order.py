"""Rows whose step column says another order than the file: they are read in that order, or refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdec.data.arrow import from_rows
from seqdec.data.dataset import episode_at
from seqdec.errors import DataError, UsageError
from seqdec.formats.columns import Columns
from seqdec.formats.table import source
from table_files import episode_rows, flat_rows, make_episodes, step_rows, write

STEPS = Columns(episode="run", metadata=["seed", "policy"])
FLAT = replace(STEPS, observation=["x", "y"], action=["left", "right"])


def read(path, columns=STEPS):
    table = source(path, columns)
    dataset = from_rows(table.read(), table.spec)
    return [episode_at(dataset, index) for index in range(len(dataset))]


def shuffled(rows, name="step", seed=0, moment=lambda step: step):
    """The rows of each episode in another order, and a column that says which one was theirs."""
    random, by_run = np.random.default_rng(seed), {}
    for row in rows:
        steps = by_run.setdefault(row["run"], [])
        steps.append({**row, name: moment(len(steps))})
    return [steps[index] for steps in by_run.values() for index in random.permutation(len(steps))]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.equals(other), (one, other)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ""])
@pytest.mark.parametrize("final", ["row", "column"])
def test_steps_are_read_in_the_order_of_their_column(tmp_path, suffix, final, monkeypatch):
    monkeypatch.setattr("seqdec.formats.table_formats.BLOCK_ROWS", 3)  # an episode is in several pieces
    episodes = make_episodes((5, 1, 7, 4))
    rows = shuffled(flat_rows(step_rows(episodes, final)))
    columns = replace(FLAT, final=["next x", "next y"]) if final == "column" else FLAT
    assert_same(read(write(rows, tmp_path / f"walk{suffix}"), columns), episodes)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99), st.sampled_from(["row", "column"]))
def test_any_shuffle_gives_the_same_episodes(tmp_path, lengths, seed, final):
    episodes = make_episodes(lengths)
    path = write(shuffled(step_rows(episodes, final), seed=seed), tmp_path / "walk.parquet", row_group_size=3)
    assert_same(read(path), episodes)


@pytest.mark.parametrize(
    "moment",
    [
        lambda step: 100 - 3 * (9 - step),
        lambda step: 1_700_000_000_000_000_000 + step,  # nanoseconds: a float holds them as one
        lambda step: 0.25 * step - 1,
        lambda step: f"2026-01-31T12:00:{step:02}",
        lambda step: f"2026-01-31 12:00:00.{step}+01:00",
        lambda step: pd.Timestamp(2026, 1, 31, 12, 0, step).to_pydatetime(),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_numbers_and_times_say_an_order(tmp_path, moment, suffix):
    if suffix == ".jsonl" and not isinstance(moment(0), int | float | str):
        pytest.skip("JSON has no times")
    episodes = make_episodes((5, 9))
    rows = flat_rows(shuffled(step_rows(episodes, "row"), "when", moment=moment))
    assert_same(read(write(rows, tmp_path / f"walk{suffix}"), replace(FLAT, step="when")), episodes)


def test_the_row_of_the_final_observation_needs_no_number(tmp_path):
    episodes = make_episodes((5, 4))
    rows = shuffled(step_rows(episodes, "row"))
    for row in rows:
        row["step"] = None if row["action"] is None else row["step"]
    assert_same(read(write(rows, tmp_path / "walk.parquet")), episodes)


def test_rows_are_read_as_they_stand_where_no_column_says_an_order(tmp_path):
    rows = shuffled(step_rows(make_episodes((5,)), "column"), seed=3)
    path = write(rows, tmp_path / "walk.parquet")
    (episode,) = read(path, replace(STEPS, step=None, terminated=None, truncated=None))
    assert episode.steps["observation"].tolist() == [row["observation"] for row in rows]
    assert [row["step"] for row in rows] != sorted(row["step"] for row in rows)


@pytest.mark.parametrize("name", ["t", "timestep", "Timestamp", "frame_index", "time"])
def test_a_column_that_speaks_of_time_and_is_not_named_is_heeded(tmp_path, name):
    episodes = make_episodes((5, 4))
    rows = step_rows(episodes, "column")
    path = write(shuffled(rows, name), tmp_path / "walk.parquet")
    with pytest.raises(
        DataError, match=f"'run 0': its rows are not in the order of column '{name}'.*Columns.step"
    ) as e:
        read(path)
    assert e.value.option == "step"
    assert_same(read(path, replace(STEPS, step=name)), episodes)
    read(path, replace(STEPS, step=None, terminated=None, truncated=None))
    write([{**row, name: index} for index, row in enumerate(rows)], path)
    assert_same(read(path), episodes)
    write([{**row, name: "noon"} for row in rows], path)  # no order at all
    assert_same(read(path), episodes)


def test_a_step_that_is_there_twice_is_refused_where_the_order_hangs_on_it(tmp_path):
    rows = step_rows(make_episodes((3,)), "column")
    path = tmp_path / "walk.parquet"
    twice = [{**row, "step": step} for row, step in zip(rows, [0, 2, 2], strict=True)]
    assert len(read(write(twice, path))[0]) == 3  # a clock that ticks slowly, in order
    twice[0]["step"], twice[2]["step"] = 2, 0
    with pytest.raises(
        DataError, match="'run 0': column 'step' is '2' at two of its rows, .*not in its order"
    ) as error:
        read(write(twice, path))
    assert error.value.option == "step"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["pick", "place", "pick"], "column 'step' holds 'pick': expected numbers or times"),
        ([True, False, True], "column 'step' holds 'bool': expected numbers or times"),
        ([[0], [1], [2]], "column 'step' holds 'list<.*': expected numbers or times"),
        ([0, None, None], "column 'step' is null at 2 rows"),
    ],
)
def test_a_column_that_says_no_order_is_refused(tmp_path, values, message):
    rows = [{**row, "step": value} for row, value in zip(step_rows(make_episodes((3,)), "column"), values, strict=True)]
    path = write(rows, tmp_path / "walk.parquet")
    with pytest.raises(DataError, match=f"'run 0': {message}.*Columns.step") as error:
        read(path)
    assert error.value.option == "step"
    assert len(read(path, replace(STEPS, step=None))) == 1
    with pytest.raises(UsageError, match="no column 'stp' for the step; did you mean 'step'"):
        source(path, replace(STEPS, step="stp"))


def test_lists_of_one_row_an_episode_are_in_the_order_of_theirs(tmp_path):
    episodes = make_episodes((3, 4))
    rows = [{**row, "step": list(range(len(row["observation"])))} for row in episode_rows(episodes)]
    columns = replace(STEPS, episode=None)
    assert_same(read(write(rows, tmp_path / "walk.jsonl"), columns), episodes)
    rows[1]["step"] = [0, 2, 1, 3, 4]
    with pytest.raises(DataError, match="line 2: its steps are not in the order of column 'step'") as error:
        read(write(rows, tmp_path / "walk.jsonl"), columns)
    assert error.value.option == "step"
    trained = [{**row, "step": 4000} for row in episode_rows(episodes)]  # how far its player was: no order
    assert_same(read(write(trained, tmp_path / "walk.jsonl"), columns), episodes)


def test_a_table_in_memory_is_read_in_order(tmp_path):
    episodes = make_episodes((5, 4))
    parquet.write_table(pa.Table.from_pylist(shuffled(step_rows(episodes))), tmp_path / "walk.parquet")
    import datasets

    table = datasets.Dataset.from_parquet(str(tmp_path / "walk.parquet"), cache_dir=str(tmp_path / "cache"))
    assert_same(read(table), episodes)
