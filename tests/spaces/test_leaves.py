import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdec.data.arrow import from_rows
from seqdec.data.dataset import episode_at, from_episodes, save
from seqdec.data.episode import Episode
from seqdec.data.schema import column, text_column
from seqdec.data.source import drop_nonfinite
from seqdec.errors import DataError, UsageError
from seqdec.formats.load import load_dataset
from seqdec.spaces.leaves import MISSING, join, leaf_dtype, leaf_kind, leaves, num_entries, split
from seqdec.spaces.spec import EnvironmentSpec

NESTED = Dict(
    camera=Box(0, 255, (4, 5, 3), np.uint8),
    hand=Tuple((Box(-1, 1, (2, 2)), Discrete(3, start=2))),
    switches=MultiBinary(3),
    dials=MultiDiscrete([2, 4]),
    mission=Text(20),
    height=Box(0, 9, ()),
)
ACTION = Dict(arm=Box(-1, 1, (3,)), grip=Discrete(2))


def sample_batch(space, size, seed=0):
    batched = batch_space(space, size)
    batched.seed(seed)
    return batched.sample()


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, tuple) and isinstance(second, tuple):
        return all(same(*pair) for pair in zip(first, second, strict=True))
    return np.array_equal(np.asarray(first), np.asarray(second))


def nested_episode(num_steps=5, seed=0, **changes):
    seen = split(NESTED, sample_batch(NESTED, num_steps + 1, seed), "observation")
    done = split(ACTION, sample_batch(ACTION, num_steps, seed), "action")
    steps = {**{name: values[:-1] for name, values in seen.items()}, **done, "reward": np.ones(num_steps)}
    return Episode(
        steps, final={name: values[-1] for name, values in seen.items()}, terminated=True, truncated=False, **changes
    )


def test_leaves_are_named_by_their_path_in_the_order_of_the_space():
    found = leaves(NESTED, "observation")
    assert list(found) == [f"observation.{key}" for key in NESTED.spaces for key in
                           ([f"{key}.0", f"{key}.1"] if key == "hand" else [key])]  # fmt: skip
    assert list(leaves(Discrete(2), "action")) == ["action"]
    kinds = {name.removeprefix("observation."): leaf_kind(leaf) for name, leaf in found.items()}
    assert kinds == {
        "camera": "image", "dials": "multi_discrete", "hand.0": "vector", "hand.1": "discrete", "height": "vector",
        "mission": "text", "switches": "multi_discrete",
    }  # fmt: skip
    assert num_entries(found["observation.hand.0"]) == 4
    assert num_entries(found["observation.height"]) == 1
    assert leaf_dtype(found["observation.camera"]) == np.uint8


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 100))
def test_join_undoes_split(size, seed):
    batch = sample_batch(NESTED, size, seed)
    assert same(join(NESTED, split(NESTED, batch, "observation"), "observation"), batch)


def test_what_is_missing_is_said_beside_a_zero_and_comes_back():
    space = Dict(camera=Box(0, 255, (2, 2, 1), np.uint8), joints=Box(-1, 1, (2,)), mode=Discrete(3), say=Text(9))
    camera = np.full((2, 2, 2, 1), 7.0)
    camera[1] = np.nan
    batch = {
        "camera": camera,
        "joints": np.array([[0.5, np.nan], [0.25, 0.75]], np.float32),
        "mode": np.array([None, 2], dtype=object),
        "say": (None, "go"),
    }
    found = split(space, batch, "observation")
    assert found["observation.camera"].dtype == np.uint8 and (found["observation.camera"][1] == 0).all()
    assert found[MISSING + "observation.camera"].tolist() == [False, True]
    assert found["observation.joints"].tolist() == [[0.5, 0.0], [0.25, 0.75]]
    assert found[MISSING + "observation.joints"].tolist() == [[False, True], [False, False]]
    assert found["observation.mode"].dtype == np.int64 and found["observation.mode"].tolist() == [0, 2]
    assert found[MISSING + "observation.mode"].tolist() == [True, False]
    assert found["observation.say"].tolist() == ["", "go"]
    again = split(space, join(space, found, "observation"), "observation")
    assert again.keys() == found.keys() and all(np.array_equal(again[name], found[name]) for name in found)


@pytest.mark.parametrize(
    ("space", "batch", "message"),
    [
        (Dict(a=Discrete(2)), {"b": [1]}, "observation has no 'a'; it has b"),
        (Dict(a=Discrete(2)), {"a": [1], "b": [2]}, "observation has 'b', which its space has not"),
        (Tuple((Discrete(2), Discrete(2))), ([1],), "observation is no tuple of 2 parts"),
        (Box(-1, 1, (2,)), np.array([[1, 2], [3]], dtype=object), "observation is ragged"),
        (Box(-1, 1, (1,)), np.array([["x"]]), "observation has type <U1"),
        (Discrete(3), np.array([0.5]), "observation has type float64 with fractions"),
        (Text(3), [1], "observation holds int where a text is expected"),
    ],
)
def test_a_batch_that_does_not_fit_its_space_is_refused_by_leaf(space, batch, message):
    with pytest.raises(DataError, match=message):
        split(space, batch, "observation")


def test_nested_episodes_survive_rows_and_a_folder(tmp_path):
    spec = EnvironmentSpec(NESTED, ACTION)
    episodes = [
        nested_episode(5, 0, metadata={"seed": 3, "policy": "a"}),
        nested_episode(2, 1, metadata={"seed": 4, "policy": "b"}),
    ]
    save(from_episodes(episodes, spec), tmp_path / "nested")
    dataset = load_dataset(tmp_path / "nested")
    assert column(dataset, "observation.camera")[0].shape == (7, 60)
    assert column(dataset, "observation.camera")[0].dtype == np.uint8
    assert [text for chunk in text_column(dataset, "observation.mission") for text in chunk.to_pylist()] == [
        text for episode in episodes for text in episode.steps["observation.mission"]
    ]
    assert dataset["metadata.policy"][:] == ["a", "b"]
    for index, episode in enumerate(episodes):
        assert episode_at(dataset, index).equals(episode)


def test_missing_values_are_kept_where_the_spec_says_that_they_may_be():
    values = np.array([[1.0, 2.0], [3.0, np.nan], [np.nan, np.nan]], np.float32)
    missing = np.isnan(values)
    steps = {"observation": values, "missing.observation": missing, "action": [0, 1, 0], "reward": [1.0, 1.0, 1.0]}
    episode = Episode(steps, final=[0.0, 0.0], terminated=True, truncated=False)
    assert episode.steps["observation"].tolist() == [[1, 2], [3, 0], [0, 0]]
    space = Box(-9, 9, (2,))
    dataset = from_episodes([episode], EnvironmentSpec(space, Discrete(2), missing=("observation",)))
    assert column(dataset, "missing.observation")[0].tolist() == missing.astype(int).tolist()
    assert episode_at(dataset, 0).equals(episode)
    with pytest.raises(DataError, match=r"episode 0, step 1: observation\[1\] is nan \(1 of 1"):
        from_episodes([episode], EnvironmentSpec(space, Discrete(2)))
    with pytest.raises(UsageError, match="no leaf of the observation is called 'observation.x'"):
        EnvironmentSpec(space, Discrete(2), missing=("observation.x",))


def test_a_value_outside_the_mask_must_be_finite():
    steps = {"observation": [[np.nan], [1.0]], "missing.observation": [False, True], "action": [0, 1], "reward": [1, 1]}
    with pytest.raises(DataError, match=r"step 0: observation\[0\] is nan"):
        Episode(steps, final=[0.0], terminated=True, truncated=False)


def test_metadata_that_the_first_episode_does_not_know_have_the_type_of_the_next(monkeypatch):
    spec = EnvironmentSpec(NESTED, ACTION)
    facts = [{"seed": None, "late": None}, {"seed": 3, "late": None}, {"seed": 4, "late": 5}]
    episodes = [nested_episode(2, seed, metadata=metadata) for seed, metadata in enumerate(facts)]
    dataset = from_episodes(episodes, spec)
    assert (dataset["metadata.seed"][:], dataset["metadata.late"][:]) == ([None, 3, 4], [None, None, 5])
    monkeypatch.setattr("seqdec.data.arrow.CHUNK_BYTES", 2 * 400)  # two episodes a chunk: too late to choose a type for
    dataset = from_episodes(episodes, spec)
    assert (dataset["metadata.seed"][:], dataset["metadata.late"][:]) == ([None, 3, 4], [None, None, "5"])


@pytest.mark.parametrize("space", [Text(9), Discrete(3), Box(0, 255, (2, 2), np.uint8)], ids=["text", "mode", "image"])
def test_a_last_observation_that_is_missing_is_kept_or_dropped(space):
    values = sample_batch(space, 2)
    seen = {"observation": np.asarray(values, object if isinstance(space, Text) else None)[:1]}
    final = {"observation": seen["observation"][0], "missing.observation": np.array(True)}
    steps = {**seen, "missing.observation": [False], "action": [0], "reward": [1.0]}
    row = Episode(steps, final=final, terminated=True, truncated=False).to_row()
    kept = from_rows([row], EnvironmentSpec(space, Discrete(2), missing=("observation",)))
    assert episode_at(kept, 0).final["missing.observation"].tolist() is True
    with pytest.raises(DataError, match="final is missing"):
        from_rows([row], EnvironmentSpec(space, Discrete(2)))
    with pytest.raises(DataError, match="nothing is left"):
        list(drop_nonfinite([row], EnvironmentSpec(space, Discrete(2))))


def collected(**changes):
    seen = {"camera": np.zeros((3, 4, 5, 3), np.uint8), "joints": np.zeros((3, 2))}
    return {"observation": seen, "action": np.zeros((2, 1)), "reward": [1.0, 2.0], "terminated": True, **changes}


ROBOT = Dict(camera=Box(0, 255, (4, 5, 3), np.uint8), joints=Box(-np.inf, np.inf, (2,)))


@pytest.mark.parametrize(
    "camera", [lambda images: [images[0], None, images[2]], lambda images: [None, images[1], images[2]]]
)
def test_frames_that_are_none_may_stand_in_a_list_or_in_dicts_step_by_step(camera):
    spec = EnvironmentSpec(ROBOT, Box(-1, 1, (1,)), missing=("observation.camera",))
    frames, joints = camera(np.full((3, 4, 5, 3), 7, np.uint8)), np.ones((3, 2))
    columns = collected(observation={"camera": frames, "joints": joints})
    steps = collected(observation=[{"camera": f, "joints": j} for f, j in zip(frames, joints, strict=True)])
    first, second = (episode_at(from_episodes([episode], spec), 0) for episode in (columns, steps))
    assert first.equals(second)
    unknown = [frame is None for frame in frames]
    assert [*first.steps["missing.observation.camera"], first.final["missing.observation.camera"]] == unknown


def test_what_is_missing_only_after_the_last_step_is_not_kept_as_zero():
    final = {"camera": np.zeros((4, 5, 3), np.uint8), "joints": [np.nan, 1.0]}
    seen = {name: values[:2] for name, values in collected()["observation"].items()}
    episode = collected(observation=seen, final=final)
    with pytest.raises(DataError, match=r"final.joints\[0\] is nan"):
        from_episodes([episode], EnvironmentSpec(ROBOT, Box(-1, 1, (1,))))
    spec = EnvironmentSpec(ROBOT, Box(-1, 1, (1,)), missing=("observation.joints",))
    kept = episode_at(from_episodes([episode], spec), 0)
    assert kept.final["missing.observation.joints"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": [[0.0], [np.nan]]}, r"episode 0, step 1: action\[0\] is nan \(1 of 1 episodes"),
        ({"action": [[0.0], [1.0, 2.0]]}, "action is ragged"),
        ({"observation": [{"camera": 0, "joints": 0}, {"camera": 0}]}, "some steps have 'joints' and others have not"),
        ({"observation": {"camera": np.full((3, 4, 5, 3), 256), "joints": np.zeros((3, 2))}}, "camera holds 256"),
        ({"observation": {"camera": np.zeros((3, 4, 5, 3)), "joints": [[0.0, 1.0], [1.0], [0.0, 0.0]]}}, "ragged"),
        ({"observation": {"camera": 3, "joints": 4}}, "observation.camera is a single value: expected one a step"),
        ({"reward": None}, "reward has type object|has 3 rows for 1 rewards"),
        ({"observation": [], "action": [], "reward": []}, "episode 0: it has no steps"),
        ({"metadata": [1]}, "metadata is a list: expected a dict"),
        ({"terminated": [False, True]}, "terminated is a list: say of the whole episode"),
    ],
)
def test_a_wrong_part_of_what_was_collected_is_named(changes, message):
    with pytest.raises(DataError, match=message):
        from_episodes([collected(**changes)], EnvironmentSpec(ROBOT, Box(-1, 1, (1,))))


def test_images_of_an_episode_that_leave_their_range_are_refused():
    steps = {"observation": np.full((2, 4, 4, 3), 300), "action": [0, 1], "reward": [0.0, 0.0]}
    episode = Episode(steps, final=steps["observation"][0], terminated=True, truncated=False)
    with pytest.raises(DataError, match="observation leaves 0 to 255"):
        from_episodes([episode], EnvironmentSpec(Box(0, 255, (4, 4, 3), np.uint8), Discrete(2)))
