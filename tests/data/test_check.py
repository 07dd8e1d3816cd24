"""Thresholds of the checks, each from both sides."""

import numpy as np
import pytest
from datasets.table import InMemoryTable
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from seqdec.data.arrow import from_rows
from seqdec.data.check import check
from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode
from seqdec.data.schema import dataset_of
from seqdec.errors import DataError
from seqdec.spaces.spec import EnvironmentSpec

FREE = Box(-np.inf, np.inf, (2,))


def dataset(actions, space, observations=None, rewards=None):
    num_steps = len(actions)
    seen = np.zeros((num_steps + 1, 2)) if observations is None else observations
    rewards = np.zeros(num_steps) if rewards is None else rewards
    episode = {"observation": seen, "action": np.asarray(actions), "reward": rewards, "terminated": True}
    return from_episodes([episode], EnvironmentSpec(FREE, space))


@pytest.mark.parametrize("bound", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("side", [-1, 1])
def test_an_action_may_leave_its_bounds_by_a_rounding_step_and_by_no_more(bound, side):
    """Bounds and actions may have been rounded separately: a millionth of the bound, or of 1, is let pass."""
    space = Box(-bound, bound, (2,))
    rounded = np.nextafter(np.float32(side * bound), np.float32(side * np.inf))
    dataset([[0.0, rounded], [rounded, 0.0]], space)
    with pytest.raises(DataError, match=r"episode 0, step 1: action\[0\] is .*, outside Box\(2\) .*1 of 1") as caught:
        dataset([[0.0, 0.0], [side * (bound + 1e-3), 0.0]], space)
    assert caught.value.option == "clip_actions"
    with pytest.raises(DataError, match="outside"):
        dataset([[side * (bound + 1e-5 * max(1, bound)), 0.0]], space)


def test_each_entry_of_an_action_has_its_own_bounds():
    space = Box(np.array([-1, -100], np.float32), np.array([1, 100], np.float32))
    dataset([[1.0, 100.0], [-1.0, -100.0]], space)
    with pytest.raises(DataError, match=r"step 0: action\[0\] is 1.001, outside"):
        dataset([[1.001, 100.0]], space)


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (Discrete(3, start=2), [2, 4], [1, 5]),
        (MultiDiscrete([2, 4]), [[0, 0], [1, 3]], [[-1, 0], [2, 3], [0, 4]]),
    ],
)
def test_a_whole_number_is_in_its_space_or_refused(space, good, bad):
    dataset(good, space)
    for value in bad:
        with pytest.raises(DataError, match="step 1: action.* is .*, outside"):
            dataset([good[0], value], space)


@pytest.mark.parametrize("where", ["observation", "final", "reward"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_numbers_are_trained_on_up_to_their_limit(where, sign):
    def with_value(value):
        seen, rewards = np.zeros((3, 2)), np.zeros(2)
        if where == "reward":
            rewards[1] = value
        else:
            seen[2 if where == "final" else 1, 1] = value
        return dataset([0, 1], Discrete(2), seen, rewards)

    with_value(sign * 9e17)
    with pytest.raises(DataError, match=rf"episode 0.*{where}.* is {'-' if sign < 0 else ''}2e\+18, too large"):
        with_value(sign * 2e18)
    with pytest.raises(DataError, match=f"episode 0.*{where}.* is {'-' if sign < 0 else ''}inf .*1 of 1") as caught:
        with_value(sign * np.inf)
    assert caught.value.option == "on_nonfinite"


def test_the_first_offender_is_named_by_its_episode_and_each_episode_counts_once():
    spec = EnvironmentSpec(FREE, Box(-1, 1, (1,)))
    actions = [[[0.0]], [[0.5], [2.0], [3.0]], [[0.0], [0.0]], [[4.0]]]
    episodes = [
        {"observation": np.zeros((len(part) + 1, 2)), "action": np.array(part), "reward": np.zeros(len(part))}
        for part in actions
    ]
    with pytest.raises(DataError, match=r"^episode 1, step 1: action\[0\] is 2, .* \(2 of 4 episodes are affected\)"):
        from_episodes(episodes, spec)


def test_numbers_name_episodes_elsewhere():
    whole = dataset([[0.0, 0.0]], FREE)
    narrow = dataset_of(whole.data, EnvironmentSpec(FREE, Box(-1, 1, (2,))))
    check(narrow, [7])
    wrong = dataset_of(dataset([[0.0, 5.0]], FREE).data, EnvironmentSpec(FREE, Box(-1, 1, (2,))))
    with pytest.raises(DataError, match=r"^episode 7, step 0: action\[1\] is 5"):
        check(wrong, [7])


def test_the_first_offender_behind_other_chunks_is_named_by_its_own_number(monkeypatch):
    monkeypatch.setattr("seqdec.data.arrow.CHUNK_BYTES", 1)  # an episode a chunk
    spec = EnvironmentSpec(FREE, Box(-1, 1, (1,)))
    episodes = [
        {"observation": np.zeros((3, 2)), "action": np.array([[0.0], [value]]), "reward": np.zeros(2)}
        for value in (0, 0, 2, 3)
    ]
    with pytest.raises(DataError, match=r"^episode 2, step 1: action\[0\] is 2, .* \(2 of 4 episodes are affected\)"):
        from_episodes(episodes, spec)


def test_the_first_step_of_a_later_episode_is_its_own():
    spec = EnvironmentSpec(FREE, Box(-1, 1, (1,)))
    episodes = [
        {"observation": np.zeros((2, 2)), "action": np.array([[value]]), "reward": np.zeros(1)} for value in (0, 2)
    ]
    with pytest.raises(DataError, match="^episode 1, step 0: action"):
        from_episodes(episodes, spec)


@pytest.mark.parametrize("num_actions", [1, 3])
def test_a_column_with_more_or_fewer_steps_than_rewards_is_named(num_actions):
    spec = EnvironmentSpec(FREE, FREE)
    rows = [
        [{"observation": np.zeros((n + 1, 2)), "action": np.zeros((n, 2)), "reward": np.zeros(n)} for n in (2, last)]
        for last in (2, num_actions)
    ]
    table, other = (from_episodes(each, spec).data.table for each in rows)
    place = table.schema.get_field_index("action")
    mixed = table.set_column(place, table.schema.field("action"), other.column("action"))
    message = rf"^episode 8: action has {num_actions} steps, reward has 2 \(1 of 2 episodes"
    with pytest.raises(DataError, match=message):
        check(dataset_of(InMemoryTable(mixed), spec), [7, 8])


def test_an_episode_without_steps_is_named():
    ends = {"terminated": True, "truncated": False}
    rows = [
        {"observation": np.zeros((n, 2)), "action": np.zeros((n, 2)), "reward": np.zeros(n), "final": np.zeros(2)}
        | ends
        for n in (1, 0)
    ]
    with pytest.raises(DataError, match="^episode 8 has no steps"):
        check(from_rows(rows, EnvironmentSpec(FREE, FREE)), [7, 8])


def test_a_missing_value_is_outside_of_nothing_and_its_neighbours_are_checked():
    spec = EnvironmentSpec(MultiDiscrete([5, 5], start=[1, 1]), Discrete(2), missing=("observation",))
    seen = np.array([[1, 5], [9, 9], [2, 2]])  # 5 is the largest there is
    steps = {"observation": seen[:2], "missing.observation": [False, True], "action": [0, 1], "reward": [0.0, 0.0]}
    from_episodes([Episode(steps, final=seen[2], terminated=True, truncated=False)], spec)
    steps["observation"] = np.array([[1, 9], [9, 9]])
    with pytest.raises(DataError, match=r"^episode 0, step 0: observation\[1\] is 9, outside"):
        from_episodes([Episode(steps, final=seen[2], terminated=True, truncated=False)], spec)
