import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdec.data.discounting import delay_rewards, returns_to_go
from seqdec.data.episode import Episode
from seqdec.errors import DataError, UsageError


def make_episode(num_steps=4, text="", terminated=True, truncated=False):
    return Episode(
        steps={
            "observation": np.arange(2.0 * num_steps).reshape(num_steps, 2),
            "action": np.arange(num_steps) % 2,
            "reward": np.arange(1.0, num_steps + 1),
        },
        final=np.array([9.0, 9.5]),
        terminated=terminated,
        truncated=truncated,
        text=text,
    )


def test_returns_to_go_by_hand():
    rewards, lengths = np.array([1.0, 2.0, 3.0, 10.0, 20.0]), np.array([3, 2])
    assert returns_to_go(rewards, lengths).tolist() == [6, 5, 3, 30, 20]


def test_discounted_returns_to_go_by_hand():
    # 3; 2 + 0.5 * 3 = 3.5; 1 + 0.5 * 3.5 = 2.75 | 20; 10 + 0.5 * 20 = 20
    rewards, lengths = np.array([1.0, 2.0, 3.0, 10.0, 20.0]), np.array([3, 2])
    assert returns_to_go(rewards, lengths, discount=0.5).tolist() == [2.75, 3.5, 3, 20, 20]


def test_delayed_returns_to_go_by_hand():
    # Sums 6 and 30 are paid at the last step; before it they count half as much a step.
    rewards, lengths = np.array([1.0, 2.0, 3.0, 10.0, 20.0]), np.array([3, 2])
    assert returns_to_go(rewards, lengths, delayed_reward=True).tolist() == [6, 6, 6, 30, 30]
    assert returns_to_go(rewards, lengths, 0.5, delayed_reward=True).tolist() == [1.5, 3, 6, 15, 30]


def test_delayed_rewards_by_hand():
    rewards, lengths = np.array([1.0, 2.0, 3.0, 10.0, 20.0], np.float32), np.array([3, 2])
    delayed = delay_rewards(rewards, lengths)
    assert delayed.tolist() == [0, 0, 6, 0, 30]
    assert delayed.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    discount=st.sampled_from([1.0, 0.99, 0.5, 0.01]),
    delayed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_returns_to_go_of_many_episodes_equal_the_definition_step_by_step(lengths, discount, delayed, seed):
    rewards = np.random.default_rng(seed).normal(size=sum(lengths)).astype(np.float32)
    expected, start = [], 0
    for length in lengths:
        episode = rewards[start : start + length].astype(np.float64)
        if delayed:
            episode = np.append(np.zeros(length - 1), episode.sum())
        ahead = np.zeros(length + 1)
        for step in reversed(range(length)):
            ahead[step] = episode[step] + discount * ahead[step + 1]
        expected.append(ahead[:-1])
        start += length
    found = returns_to_go(rewards, np.array(lengths), discount, delayed)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-6, atol=1e-6)


def test_an_episode_of_a_million_steps_beside_one_of_one_step_is_summed_exactly():
    lengths = np.array([1, 1_000_000, 1])
    rewards = np.ones(lengths.sum(), np.float32)
    found = returns_to_go(rewards, lengths)
    assert found[[0, 1, 2, -2, -1]].tolist() == [1, 1_000_000, 999_999, 1, 1]


def test_huge_rewards_of_one_episode_do_not_disturb_another():
    found = returns_to_go(np.array([1e17, 1.0, 1.0, 1.0]), np.array([2, 2]))
    assert found[2:].tolist() == [2, 1]


def test_no_episodes_have_no_returns():
    assert returns_to_go(np.zeros(0), np.zeros(0, int)).shape == (0,)


@pytest.mark.parametrize(
    ("rewards", "lengths", "message"),
    [([1.0, 2.0], [3], "3 steps in all, there are 2 rewards"), ([1.0], [1, 0], "an episode has 0 steps")],
)
def test_lengths_that_do_not_fit_are_refused(rewards, lengths, message):
    with pytest.raises(DataError, match=message):
        returns_to_go(np.array(rewards), np.array(lengths))


@pytest.mark.parametrize("discount", [0.0, -1.0, 1.01, float("nan")])
def test_a_discount_outside_0_to_1_is_refused(discount):
    with pytest.raises(UsageError, match="discount is"):
        returns_to_go(np.ones(2), np.array([2]), discount)


def test_an_episode_knows_its_length_and_return():
    episode = make_episode(4)
    assert len(episode) == 4
    assert episode.total_return == 10
    assert episode.returns_to_go().tolist() == [10, 9, 7, 4]
    assert episode.returns_to_go(delayed_reward=True).tolist() == [10, 10, 10, 10]


def test_numbers_are_kept_as_float32_and_int64():
    steps = make_episode().steps
    assert {name: str(values.dtype) for name, values in steps.items()} == {
        "observation": "float32",
        "action": "int64",
        "reward": "float32",
    }


def test_a_row_gives_the_episode_back():
    episode = make_episode(3, text="left, then right")
    assert Episode.from_row(episode.to_row()).equals(episode)


def test_a_row_of_plain_lists_gives_the_episode_back():
    episode = make_episode(3, terminated=False, truncated=True)
    row = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in episode.to_row().items()}
    assert Episode.from_row(row).equals(episode)


@pytest.mark.parametrize("change", ["reward", "final", "terminated", "text"])
def test_episodes_that_differ_anywhere_are_not_equal(change):
    row = make_episode().to_row()
    row[change] = {"reward": row["reward"] + 1, "final": row["final"] + 1, "terminated": False, "text": "x"}[change]
    assert not Episode.from_row(row).equals(make_episode())


def test_a_slice_in_the_middle_ends_where_the_next_step_begins():
    episode = make_episode(4)
    part = episode[1:3]
    assert part.steps["reward"].tolist() == [2, 3]
    assert part.final["observation"].tolist() == episode.steps["observation"][3].tolist()
    assert (part.terminated, part.truncated) == (False, True)


def test_a_slice_to_the_end_keeps_how_the_episode_ended():
    part = make_episode(4)[2:]
    assert part.final["observation"].tolist() == [9.0, 9.5]
    assert (part.terminated, part.truncated) == (True, False)
    assert make_episode(4)[:].equals(make_episode(4))


@pytest.mark.parametrize("window", [slice(2, 2), slice(0, 4, 2), 1, slice(9, 12)])
def test_what_is_no_window_is_refused(window):
    with pytest.raises(UsageError, match="slice"):
        make_episode(4)[window]


def test_repr_shows_shapes():
    assert repr(make_episode(4)) == (
        "Episode(4 steps, return 10, terminated, observation: [4, 2], action: [4], reward: [4])"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros(3)}, "action has 3 rows for 4 rewards: give one per reward"),
        ({"observation": np.full((4, 2), np.nan)}, r"step 0: observation\[0\] is nan"),
        ({"reward": np.array([0, 0, 0, np.inf])}, "step 3: reward is inf"),
        ({"reward": np.array([0, 0, 1e300, 0])}, "step 2: reward is inf"),
        ({"reward": np.zeros((4, 1))}, r"reward has type float32 and shape \[4, 1\]: give one number per step"),
        ({"action": np.array(["a", 1, "c", "d"], object)}, "action has type object: only numbers and texts"),
        ({"reward": np.array(["a", "b", "c", "d"])}, "reward has type <U1: only numbers are"),
        ({"observation": np.float32(1)}, "observation has no rows for 4 rewards"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(change, message):
    episode = make_episode(4)
    with pytest.raises(DataError, match=message):
        Episode(steps={**episode.steps, **change}, final=episode.final, terminated=True, truncated=False)


def test_an_episode_without_steps_or_columns_is_refused():
    empty = {"observation": np.zeros((0, 2)), "action": np.zeros(0), "reward": np.zeros(0)}
    with pytest.raises(DataError, match="no steps"):
        Episode(steps=empty, final=np.zeros(2), terminated=True, truncated=False)
    with pytest.raises(DataError, match="reward is missing"):
        Episode(steps={"observation": 0, "action": 0}, final=np.zeros(2), terminated=True, truncated=False)


def test_a_final_observation_of_another_shape_or_that_is_nan_is_refused():
    steps = make_episode(4).steps
    with pytest.raises(DataError, match=r"final has shape \[3\], an observation has \[2\]"):
        Episode(steps=steps, final=np.zeros(3), terminated=True, truncated=False)
    with pytest.raises(DataError, match=r"final\[1\] is nan"):
        Episode(steps=steps, final=np.array([0, np.nan]), terminated=True, truncated=False)
