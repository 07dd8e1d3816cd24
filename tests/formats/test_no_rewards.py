"""Demonstrations that earned nothing are read with rewards of 0, which is said, and can be cloned."""

import h5py
import numpy as np
import pandas as pd
import pytest

from seqdec.errors import DataError, UsageError
from seqdec.finetune import finetune
from seqdec.formats.columns import Columns, columns_from_json
from seqdec.formats.load import load_dataset

COLUMNS = Columns("demo", observation=["x", "y"], action="key", reward=None)
SAID = "has no rewards: they are taken for 0"


def table(path, **more):
    random, count = np.random.default_rng(0), 12
    columns = {"demo": np.repeat(np.arange(3), 4), "x": random.normal(size=count), "y": random.normal(size=count)}
    pd.DataFrame({**columns, "key": random.integers(0, 3, count), **more}).to_csv(path, index=False)
    return f"table:{path}"


def hdf5(path, **more):
    random, count = np.random.default_rng(0), 12
    arrays = {"observations": random.normal(size=(count, 2)), "actions": random.uniform(-1, 1, (count, 2))}
    with h5py.File(path, "w") as file:
        for name, values in {**arrays, "timeouts": np.arange(count) % 4 == 3, **more}.items():
            file[name] = values
    return f"hdf5:{path}"


@pytest.mark.parametrize("is_table", [True, False])
def test_demonstrations_without_rewards_are_cloned(tmp_path, is_table, caplog):
    if is_table:
        dataset = load_dataset(table(tmp_path / "demos.csv"), columns=COLUMNS)
    else:
        dataset = load_dataset(hdf5(tmp_path / "demos.hdf5"))
    assert SAID in caplog.text
    assert [np.asarray(row["reward"]).tolist() for row in dataset] == [[0.0] * 4] * 3
    assert not any(dataset["terminated"]) and all(dataset["truncated"])
    policy = finetune(dataset, "small", layout="behaviour_cloning", steps=1, heldout_fraction=0.0)
    policy.reset()
    action = policy.act(np.zeros(2, np.float32))
    assert np.isin(action, (0, 1, 2)).all() if is_table else np.shape(action) == (2,)


def test_a_table_says_that_it_has_no_rewards(tmp_path, caplog):
    path = table(tmp_path / "demos.csv")
    with pytest.raises(UsageError, match=r"no column 'reward' for the reward; .*None where nothing is earned") as error:
        load_dataset(path, columns=Columns("demo", observation=["x", "y"], action="key"))
    assert error.value.option == "reward"
    columns = {"episode": "demo", "observation": ["x", "y"], "action": "key", "reward": None}
    assert columns_from_json(columns, "columns.json").reward is None
    load_dataset(
        table(tmp_path / "paid.csv", reward=1.0), columns=Columns("demo", observation=["x", "y"], action="key")
    )
    assert SAID not in caplog.text


def test_terminals_of_demonstrations_are_read(tmp_path, caplog):
    dataset = load_dataset(hdf5(tmp_path / "demos.hdf5", terminals=np.arange(12) == 3))
    assert dataset["terminated"] == [True, False, False] and SAID in caplog.text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"reward": np.ones(12)}, "no array 'rewards'; did you mean 'reward'"),
        ({"rewards": np.ones(12)}, "no array 'terminals'"),  # what earns has a task, which ends
    ],
)
def test_an_array_that_is_only_called_otherwise_is_no_lack(tmp_path, more, message):
    with pytest.raises(DataError, match=message):
        load_dataset(hdf5(tmp_path / "demos.hdf5", **more))
