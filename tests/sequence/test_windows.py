"""Windows: what a batch holds, how they are drawn, what they cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import (
    box_episodes,
    box_spec,
    counting_episode,
    discrete_episodes,
    make_windows,
    nested_episodes,
    nested_spec,
)
from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode
from seqdec.errors import DataError, UsageError
from seqdec.sequence.draw import Draw
from seqdec.sequence.layout import Layout
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.variable import Variable
from seqdec.sequence.windows import Windows, concatenate, split_episodes


def counting_windows(lengths: list[int], context_length: int = 4, **options) -> Windows:
    episodes = [counting_episode(length, 100 * (i + 1)) for i, length in enumerate(lengths)]
    spec = box_spec()
    layout = layout_from_spaces("multi_game", spec.observation_space, spec.action_space, context_length=context_length)
    return Windows(from_episodes(episodes, spec), layout, **options)


@pytest.mark.parametrize("episodes", [[99], [-1], [1, 1]])
def test_episodes_that_are_no_rows_or_named_twice_are_refused(episodes):
    with pytest.raises(UsageError, match="episodes are rows of the data set, 0 to 11, each named once"):
        make_windows(episodes=episodes)


def test_one_golden_window_written_out():
    windows = counting_windows([6, 2])
    batch = windows.gather(np.array([3]))  # the middle of timesteps 1 to 4 of the first episode
    assert batch["observation"][0, :, 0].tolist() == [101, 102, 103, 104]
    assert batch["return_to_go"][0, :, 0].tolist() == [5, 4, 3, 2]
    assert batch["timestep"][0].tolist() == [1, 2, 3, 4]
    assert batch["mask"][0].tolist() == [True] * 4


def test_an_episode_shorter_than_the_context_is_padded_on_the_right():
    batch = counting_windows([6, 2]).gather(np.array([0, 7]))
    assert batch["mask"].tolist() == [[True] * 4, [True, True, False, False]]
    assert batch["observation"][1, :2, 0].tolist() == [200, 201]
    assert batch["return_to_go"][1, :2, 0].tolist() == [2, 1]


def test_a_batch_is_as_long_as_its_longest_window():
    windows = counting_windows([6, 2, 3])
    for indices, length in (([7], 2), ([7, 9], 3), ([7, 9, 0], 4)):
        found = windows.gather(np.array(indices))
        assert {values.shape[1] for values in found.values()} == {length}
        assert found["mask"].sum(1).tolist() == Draw(windows, np.array(indices)).sizes.tolist()


def test_windows_never_leave_their_episode():
    windows = counting_windows([7, 3, 5, 1])
    batch = windows.gather(np.arange(len(windows)))
    hundreds = batch["observation"][:, :, 0].div(100).floor()
    assert (hundreds == hundreds[:, :1]).all()
    assert batch["timestep"].min() == 0


def test_every_timestep_of_the_data_is_in_some_window_and_none_is_rare():
    windows = counting_windows([9, 2])
    batch = windows.gather(np.arange(len(windows)))
    values, counts = torch.unique(batch["observation"][..., 0][batch["mask"]], return_counts=True)
    assert values.tolist() == [*range(100, 109), 200, 201]
    assert counts.min() >= 2


def test_long_episodes_weigh_by_their_length():
    lengths = np.array([40, 10, 30, 20])
    windows = counting_windows(list(lengths))
    draws = np.concatenate([windows.draw(step, 0, 64).indices for step in range(100)])
    episode = windows.gather(draws)["observation"][:, 0, 0].numpy() // 100
    observed = np.array([(episode == i + 1).sum() for i in range(4)])
    expected = len(draws) * lengths / lengths.sum()
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert chi_square < 16.3  # the 0.999 quantile with 3 degrees of freedom


def test_the_windows_of_a_step_depend_on_seed_and_step_alone():
    first, second = counting_windows([30]), counting_windows([30])
    first.draw(3, 0, 8)
    assert first.draw(7, 1, 8).indices.tolist() == second.draw(7, 1, 8).indices.tolist()
    assert first.draw(7, 1, 8).indices.tolist() != first.draw(8, 1, 8).indices.tolist()
    assert first.draw(7, 1, 8).indices.tolist() != first.draw(7, 2, 8).indices.tolist()


def test_num_valid_counts_what_the_mask_shows():
    windows = counting_windows([6, 2, 3])
    indices = np.arange(len(windows))
    assert Draw(windows, indices).num_valid == int(windows.gather(indices)["mask"].sum())


def test_many_arrow_chunks_give_the_same_windows_as_one():
    spec, episodes = box_spec(), box_episodes(9)
    layout = layout_from_spaces("trajectory", spec.observation_space, spec.action_space, context_length=5)
    whole = Windows(from_episodes(episodes, spec), layout)
    import datasets

    parts = [from_episodes(episodes[i : i + 2], spec) for i in range(0, 9, 2)]
    chunked = Windows(datasets.concatenate_datasets(parts), layout)
    indices = np.arange(len(whole))
    for name, values in whole.gather(indices).items():
        assert torch.equal(values, chunked.gather(indices)[name]), name


@pytest.mark.parametrize("options", [{}, {"episodes": [0, 2]}])
def test_the_windows_of_several_data_sets_are_those_of_one(options):
    missing = ("observation.joints",)
    spec = nested_spec(missing)
    layout = layout_from_spaces(
        "trajectory", spec.observation_space, spec.action_space, context_length=5, missing=missing, prompt=("text",)
    )
    episodes = [replace(episode, text=f"episode {number}") for number, episode in enumerate(nested_episodes(9))]
    parts = [Windows(from_episodes(episodes[i : i + 3], spec), layout, **options) for i in (0, 3, 6)]
    chosen = [i + row for i in (0, 3, 6) for row in options.get("episodes", range(3))]
    whole, joined = Windows(from_episodes(episodes, spec), layout, episodes=chosen), concatenate(parts)
    indices = np.arange(len(whole))
    assert len(joined) == len(whole) and np.array_equal(joined.returns, whole.returns)
    for name, values in whole.gather(indices).items():
        assert torch.equal(values, joined.gather(indices)[name]), name
    assert len(parts[0]) < len(whole)  # and the parts are still what they were


def test_observations_are_read_without_a_copy():
    windows, _ = make_windows()
    (chunk,) = windows._arrays.steps["observation"]
    assert not chunk.flags.owndata and not chunk.flags.writeable


def test_chosen_episodes_give_the_windows_of_those_alone():
    windows = counting_windows([6, 4, 5], episodes=[2, 0])
    assert len(windows) == 11
    observations = windows.gather(np.arange(11))["observation"][..., 0]
    assert set((observations // 100).unique().tolist()) == {1, 3}


def test_delayed_reward_is_paid_at_the_last_step():
    spec = box_spec()
    layout = layout_from_spaces(
        "trajectory", spec.observation_space, spec.action_space, context_length=4, delayed_reward=True
    )
    dataset = from_episodes([counting_episode(4, 0)], spec)
    batch = Windows(dataset, layout).gather(np.array([0]))
    assert batch["reward"][0, :, 0].tolist() == [0, 0, 0, 4]
    assert batch["return_to_go"][0, :, 0].tolist() == [4, 4, 4, 4]


def test_the_target_return_of_a_prompt_is_the_return_of_the_whole_episode():
    spec = box_spec()
    base = layout_from_spaces("behaviour_cloning", spec.observation_space, spec.action_space, context_length=4)
    target = Variable("target_return", "gaussian", 1)
    layout = Layout((*base.variables, target), base.step, prompt=(("target_return",),), context_length=4)
    dataset = from_episodes([counting_episode(9, 0), counting_episode(3, 50)], spec)
    batch = Windows(dataset, layout).gather(np.array([6, 10]))
    assert batch["target_return"][:, 0, 0].tolist() == [9, 3]


def test_held_out_episodes_are_never_trained_on():
    kept, heldout = split_episodes(20, 0.1, seed=3)
    assert len(heldout) == 2 and sorted([*kept, *heldout]) == list(range(20))
    assert split_episodes(20, 0.1, seed=3)[1].tolist() == heldout.tolist()


def test_too_few_episodes_to_hold_one_out_is_an_error():
    with pytest.raises(DataError, match="has only 1: too few"):
        split_episodes(1, 0.1, seed=0)


def test_episodes_of_one_step_and_discrete_values_make_windows():
    windows, _ = make_windows(discrete=True)
    batch = windows.draw(0, 0, 4).gather()
    assert batch["action"].dtype == torch.int64 and batch["action"].shape == (4, 6)
    assert int(batch["action"].min()) >= 1
    assert discrete_episodes()[0].steps["action"].min() >= 1


def test_each_entry_has_the_statistics_of_its_known_values():
    missing = np.array([[True, False, True], [False, True, True]] * 4)  # never known as a whole
    seen = np.stack([np.arange(8.0), np.arange(8.0) + 100, np.zeros(8)], 1)
    steps = {"observation": seen, "missing.observation": missing, "action": np.zeros((8, 2)), "reward": np.ones(8)}
    spec = replace(box_spec(), missing=("observation",))
    layout = layout_from_spaces("fused", spec.observation_space, spec.action_space, missing=spec.missing)
    episode = Episode(steps, final=np.zeros(3), terminated=True, truncated=False)
    values = Windows(from_episodes([episode], spec), layout).statistics()["observation"]
    assert sorted(values[:, 0].tolist()) == [1, 1, 3, 3, 5, 5, 7, 7]
    assert sorted(values[:, 1].tolist()) == [100, 100, 102, 102, 104, 104, 106, 106]
    assert not values[:, 2].any()
