"""Facts of a prompt: read from the episode's own future, drawn anew in every round, unknown at random."""

import numpy as np
import pytest

from conftest import box_spec
from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode
from seqdec.errors import UsageError
from seqdec.sequence import hindsight
from seqdec.sequence.facts import HIDDEN
from seqdec.sequence.layout import Layout
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows, concatenate
from seqdec.spaces.leaves import MISSING


def telling_episode(number: int, length: int, task: str = "") -> Episode:
    """An episode whose observations tell its number and their timestep, the final one included."""
    seen = np.stack([np.full(length + 1, number), np.arange(length + 1), np.zeros(length + 1)], 1).astype(np.float32)
    steps = {"observation": seen[:-1], "action": np.zeros((length, 2), np.float32)}
    steps["reward"] = np.arange(length, dtype=np.float32)
    return Episode(steps, final=seen[-1], terminated=True, truncated=False, text=task, metadata={"task": task})


def telling_windows(prompt: list[str], *, lengths=(12, 3, 30, 7), context_length: int = 5, **options) -> Windows:
    spec = box_spec()
    layout = layout_from_spaces(
        "trajectory", spec.observation_space, spec.action_space, context_length=context_length, prompt=prompt,
        demo_length=4, **options,
    )  # fmt: skip
    episodes = [telling_episode(number, length, "ab"[number % 2]) for number, length in enumerate(lengths)]
    return Windows(from_episodes(episodes, spec), layout)


def batches(windows: Windows, num_steps: int = 30) -> dict[str, np.ndarray]:
    """Many windows as one batch, longest first so that all have one length."""
    found = [windows.draw(step, 0, 32).gather() for step in range(num_steps)]
    found = [batch for batch in found if batch["mask"].shape[1] == windows.layout.context_length]
    return {name: np.concatenate([batch[name].numpy() for batch in found]) for name in found[0]}


def test_goals_and_waypoints_lie_ahead_in_the_same_episode_and_in_order():
    windows = telling_windows(["goal", "waypoint1", "waypoint2", "final"])
    batch = batches(windows)
    lengths = np.array([12, 3, 30, 7])
    starts = batch["timestep"][:, 0]
    numbers = batch["observation"][:, 0, 0].astype(int)
    when = {name: batch[name][:, 0, 1] for name in ("goal", "waypoint1", "waypoint2", "final")}
    for name, timesteps in when.items():
        assert (batch[name][:, 0, 0] == numbers).all() and (timesteps > starts).all()
        if name != "final":
            assert (batch[f"{name}.when"][:, 0, 0] == timesteps).all()
    assert (when["final"] == lengths[numbers]).all()
    assert (when["waypoint1"] <= when["waypoint2"]).all() and (when["waypoint2"] <= when["goal"]).all()
    is_long = numbers == 2
    assert (when["goal"] == lengths[numbers]).any()  # the final observation is one of them
    assert (when["goal"] - starts)[is_long].max() > 5 and ((when["goal"] - starts)[is_long] <= 5).mean() > 0.5


def test_a_goal_may_be_chosen_entries():
    windows = telling_windows(["goal"], goal_entries=[1])
    assert windows.layout.variable("goal").size == 1
    batch = batches(windows)
    assert (batch["goal"][:, 0, 0] == batch["goal.when"][:, 0, 0]).all()
    assert windows.statistics()["goal"].shape[1] == 1


def test_a_demo_is_a_part_of_another_episode_of_the_same_task():
    batch = batches(telling_windows(["demo"], lengths=(12, 3, 30, 7, 9, 3), demo_group="metadata.task"))
    own, shown = batch["observation"][:, 0, 0], batch["demo.observation"][:, :, 0]
    is_there = ~batch[f"{MISSING}demo.observation"]
    assert (shown != own[:, None]).all() and (shown % 2 == own[:, None] % 2).all()
    timesteps = batch["demo.observation"][:, :, 1]
    assert (np.diff(timesteps, axis=1)[is_there[:, 1:]] == 1).all() and len(np.unique(timesteps[:, 0])) > 5
    of_short = np.isin(shown[:, 0], [1, 5])
    assert (is_there[of_short].sum(1) == 3).all() and (is_there[~of_short].sum(1) == 4).all()


def test_the_best_part_of_a_demo_is_what_earns_most():
    batch = batches(telling_windows(["demo"], lengths=(12, 9), demo_group="metadata.task", demo_part="best"))
    assert batch[f"{MISSING}demo.observation"].all()  # each is the only one of its task
    batch = batches(telling_windows(["demo"], lengths=(12, 3, 30, 7), demo_part="best"))
    first = batch["demo.observation"][:, 0, 1]
    assert (first == np.array([8, 0, 26, 3])[batch["demo.observation"][:, 0, 0].astype(int)]).all()
    assert hindsight.best_part(np.array([1.0, 5.0, 5.0, 1.0]), 2) == 1


def test_facts_are_unknown_as_often_as_asked_and_all_of_them_too():
    batch = batches(telling_windows(["target_return", "goal", "demo"], prompt_dropout=0.25), 60)
    names = ["target_return", "goal", "return_to_go"]
    hidden = np.stack([batch[HIDDEN + name][:, 0] for name in names], 1)
    hidden = np.concatenate([hidden, batch[f"{MISSING}demo.action"].all(1, keepdims=True)], 1)
    np.testing.assert_allclose(hidden.mean(0), 1 - 0.75**2, atol=0.06)
    assert abs(hidden.all(1).mean() - 0.25) < 0.06  # and a little more
    assert (batch[HIDDEN + "return_to_go"].all(1) | ~batch[HIDDEN + "return_to_go"].any(1)).all()
    assert (batch[HIDDEN + "goal.when"] >= batch[HIDDEN + "goal"]).all()
    assert (batch["goal"][:, 0, 0] == batch["observation"][:, 0, 0]).all()  # the value is there, to be predicted


def test_the_facts_of_a_window_depend_on_its_round_alone():
    windows = telling_windows(["goal", "demo"], prompt_dropout=0.3)
    indices = windows.draw(3, 0, 64).indices
    assert (indices >= len(windows)).any()
    together, again = windows.gather(indices), windows.gather(indices)
    assert all((together[name] == again[name]).all() for name in together)
    alone = windows.gather(indices[5:6])
    for name in ("goal", "goal.when", "demo.observation", HIDDEN + "goal"):
        assert (alone[name] == together[name][5:6]).all()
    other = windows.gather(indices % len(windows))
    assert (other["observation"] == together["observation"]).all() and (other["goal"] != together["goal"]).any()


def test_joined_windows_have_their_own_facts():
    windows = telling_windows(["goal", "demo"], lengths=(12, 8, 30, 7))
    joined = concatenate([windows, windows])
    batch = batches(joined)
    assert (batch["goal"][:, 0, 0] == batch["observation"][:, 0, 0]).all()
    assert (batch["goal"][:, 0, 1] == batch["goal.when"][:, 0, 0]).all()


def test_without_facts_windows_are_drawn_as_before():
    windows = telling_windows([])
    assert (windows.draw(0, 0, 64).indices < len(windows)).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ["goal"], "goal_entries": [3]}, "takes entries"),
        ({"prompt": ["gaol"]}, "did you mean 'goal'"),
        ({"prompt": ["waypoint2", "goal"]}, "waypoint2: waypoints are numbered from 1 on"),
        ({"prompt": ["demo"], "demo_group": "metadata.tsak"}, "did you mean 'metadata.task'"),
        ({"prompt": ["demo"], "demo_group": "task"}, "did you mean 'metadata.task'"),
        ({"prompt": ["goal"], "prompt_dropout": 1.0}, "give a share"),
    ],
)
def test_what_no_prompt_can_have_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        telling_windows(**options)


def test_a_layout_with_facts_and_a_demo_goes_through_json():
    layout = telling_windows(["target_return", "goal", "demo"], goal_entries=[0, 2]).layout
    assert Layout.from_json(layout.to_json()) == layout
    assert layout.first_step == 1 + 2 + 4  # start, two facts, four timesteps of a token each
    assert layout.position("action") == layout.first_step + 1
    assert layout.facts == ("target_return", "goal", "demo")
