"""The spaces of whole numbers that a file keeps as floats: a Box, which is said, or choices where somebody says so."""

import h5py
import numpy as np
import pandas as pd
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from seqdec.data.arrow import from_rows
from seqdec.data.check import check
from seqdec.data.dataset import episode_at
from seqdec.errors import DataError, UsageError
from seqdec.formats import hdf5, table
from seqdec.formats.columns import Columns
from seqdec.spaces.spec import EnvironmentSpec

COLUMNS = Columns(episode="run", observation=["x", "y"], action="key")
HINT = "action holds whole numbers alone, kept as floats: they are taken for continuous; if they are choices, name"


def write(path, actions):
    """Two episodes of two steps, in a table or as D4RL has them."""
    actions = np.asarray(actions, float)
    if path.suffix == ".hdf5":
        with h5py.File(path, "w") as file:
            file["observations"], file["actions"], file["rewards"] = np.arange(8.0).reshape(4, 2), actions, np.ones(4)
            file["terminals"] = np.array([0, 1, 0, 1])
        return path
    rows = {"run": [0, 0, 1, 1], "x": np.arange(4) / 2, "y": [0.5] * 4, "reward": 1.0, "terminated": [False, True] * 2}
    keys = {"key": actions} if actions.ndim == 1 else {"key": actions[:, 0], "tool": actions[:, 1]}
    pd.DataFrame({**rows, **keys}).to_csv(path, index=False)
    return path


def source_of(path, discrete=(), spec=None):
    if path.suffix == ".hdf5":
        return hdf5.source(path, spec, discrete=discrete)
    is_vector = "tool" in path.read_text().splitlines()[0]
    action = ["key", "tool"] if is_vector else "key"
    return table.source(path, Columns("run", observation=["x", "y"], action=action, discrete=discrete), spec)


def actions_of(source):
    dataset = from_rows(source.read(), source.spec)
    check(dataset)
    return np.concatenate([episode_at(dataset, index).steps["action"] for index in range(2)])


@pytest.mark.parametrize("name", ["walk.csv", "walk.hdf5"])
@pytest.mark.parametrize(
    ("actions", "box", "choices"),
    [
        ([0, 1, 2, 1], Box(-np.inf, np.inf, (1,)), Discrete(3)),
        ([-1, 0, 1, 0], Box(-1, 1, (1,)), Discrete(3, start=-1)),
        ([[0, 3], [1, 4], [2, 3], [0, 3]], Box(-np.inf, np.inf, (2,)), MultiDiscrete([3, 2], start=[0, 3])),
    ],
)
def test_whole_floats_are_said_to_be_taken_for_continuous_and_may_be_choices(
    tmp_path, name, actions, box, choices, caplog
):
    path = write(tmp_path / name, actions)
    continuous = source_of(path)
    space = continuous.spec.action_space
    assert isinstance(space, Box) and (space.low == box.low).all() and (space.high == box.high).all()
    assert HINT in caplog.text
    caplog.clear()
    chosen = source_of(path, ["action"])
    assert chosen.spec.action_space == choices
    assert actions_of(chosen).tolist() == np.array(actions).tolist() and actions_of(chosen).dtype == np.int64
    assert "whole numbers" not in caplog.text
    assert chosen.identity != continuous.identity


@pytest.mark.parametrize("name", ["walk.csv", "walk.hdf5"])
def test_actions_with_fractions_are_no_choices(tmp_path, name, caplog):
    path = write(tmp_path / name, [0, 0.5, 1, 0])
    assert isinstance(source_of(path).spec.action_space, Box) and "whole numbers" not in caplog.text
    with pytest.raises(DataError, match="action holds something else than whole numbers: only these are choices") as e:
        source_of(path, ["action"])
    assert e.value.option == "discrete"
    write(path, [0, np.inf, 1, 0])
    with pytest.raises(DataError, match="action holds something else than whole numbers: only these are choices"):
        source_of(path, ["action"])


@pytest.mark.parametrize("name", ["walk.csv", "walk.hdf5"])
def test_an_environment_says_whether_whole_floats_are_choices(tmp_path, name, caplog):
    path = write(tmp_path / name, [0, 1, 2, 1])
    spec = EnvironmentSpec(Box(-np.inf, np.inf, (2,)), Discrete(3))
    assert actions_of(source_of(path, spec=spec)).tolist() == [0, 1, 2, 1] and "whole numbers" not in caplog.text
    with pytest.raises(UsageError, match="the environment says which actions are choices: leave discrete out") as e:
        source_of(path, ["action"], spec)
    assert e.value.option == "discrete"
    write(path, [0, 1, 0.5, 1])
    with pytest.raises(DataError, match="float64 with fractions|hold float64 .*, the action space is Discrete"):
        actions_of(source_of(path, spec=spec))


@pytest.mark.parametrize("name", ["walk.csv", "walk.hdf5"])
def test_a_leaf_that_is_not_there_is_no_choice(tmp_path, name):
    path = write(tmp_path / name, [0, 1, 2, 1])
    with pytest.raises(UsageError, match="no leaf .* is called 'acton'; did you mean 'action'"):
        source_of(path, ["acton"])


def test_a_single_entry_of_hdf5_is_one_choice(tmp_path):
    path = write(tmp_path / "walk.hdf5", [[0], [1], [2], [1]])
    assert source_of(path, ["action"]).spec.action_space == Discrete(3)
    assert actions_of(source_of(path, ["action"])).tolist() == [0, 1, 2, 1]


def test_observed_whole_floats_may_be_choices_too(tmp_path):
    path = write(tmp_path / "walk.csv", [0, 1, 2, 1])
    columns = Columns("run", observation={"observation.at": "x", "observation.key": "key"}, action="key",
                      discrete=["observation.key", "action"])  # fmt: skip
    spec = table.source(path, columns).spec
    assert spec.observation_space["key"] == Discrete(3) and spec.action_space == Discrete(3)
    assert isinstance(spec.observation_space["at"], Box)
