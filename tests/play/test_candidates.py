from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from seqdec import load_dataset
from seqdec.data.dataset import episode_at, save
from seqdec.data.schema import environment_of
from seqdec.errors import NumericsError, UsageError
from seqdec.play import random_policy, record, rollout
from seqdec.play.chosen import checked_actions, idle_actions
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of
from seqdec.spaces.leaves import join, split, stack, unstack
from text_room import THINGS, Room


class First:
    """Says the first candidate, or takes things in their order where it is given none; keeps what it was given."""

    def __init__(self):
        self.given = []

    def reset(self, num_envs):
        self.rows, self.step = num_envs, 0

    def act(self, observations, rewards, info=None):
        assert len(observations) == self.rows
        self.given.append(info)
        candidates = info["valid_actions"] if info else [None] * self.rows
        assert len(candidates) == self.rows
        self.step += 1
        return [texts[0] if texts else f"take {THINGS[self.step - 1]}" for texts in candidates]

    def keep(self, rows):
        self.rows = len(rows)


def rooms(num_envs, asynchronous=False, **options):
    return batch_of([lambda: Guarded(Room(**options))] * num_envs, asynchronous=asynchronous)


def alone(seed):
    """The same policy in the plainest loop there is: what was seen and said, the last observation, the candidates."""
    env = Room()
    observation, info = env.reset(seed=seed)
    seen, said, named, is_over = [], [], [], False
    while not is_over:
        seen.append(observation)
        named.append(info["valid_actions"])
        said.append(info["valid_actions"][0])
        observation, _, is_over, _, info = env.step(said[-1])
    return seen, said, observation, named


@pytest.mark.parametrize("kind", [list, tuple, np.ndarray])
@pytest.mark.parametrize("key", ["valid_actions", "admissible_commands"])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_each_running_row_is_given_its_own_candidates_from_reset_on(num_envs, key, kind):
    actor = First()
    episodes = rollout(actor, rooms(num_envs, key=key, kind=kind), num_episodes=6, seed=0)
    given = iter(actor.given)
    assert len({len(episode) for episode in episodes}) > 1
    for first in range(0, 6, num_envs):
        wave = [alone(seed) for seed in range(first, first + num_envs)]
        for (seen, said, last, _), episode in zip(wave, episodes[first:], strict=False):
            assert episode.steps["observation"].tolist() == seen
            assert episode.steps["action"].tolist() == said
            assert episode.final["observation"].item() == last
        for step in range(max(len(said) for _, said, _, _ in wave)):
            running = [named[step] for *_, named in wave if step < len(named)]
            assert next(given) == {"valid_actions": running}
    assert next(given, None) is None


def test_processes_of_their_own_give_the_same_episodes():
    beside, apart = rooms(2), rooms(2, asynchronous=True)
    here, there = (rollout(First(), envs, num_episodes=4, seed=3) for envs in (beside, apart))
    apart.close()
    assert all(one.equals(other) for one, other in zip(here, there, strict=True))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_batch_that_is_not_ours_gives_the_same_episodes(mode):
    theirs = SyncVectorEnv([partial(Room, key="admissible_commands")] * 2, autoreset_mode=mode)
    ours, others = (rollout(First(), envs, num_episodes=5, seed=1) for envs in (rooms(2), theirs))
    assert all(one.equals(other) for one, other in zip(ours, others, strict=True))


def test_without_candidates_an_actor_is_given_none_and_its_words_are_free():
    actor = First()
    episodes = rollout(actor, rooms(2, key=None), num_episodes=2, seed=0)
    assert set(actor.given) == {None} and episodes[0].total_return >= 1


def test_some_rows_may_name_none():
    envs = batch_of([lambda: Guarded(Room()), lambda: Guarded(Room(key=None))])
    actor = First()
    rollout(actor, envs, num_episodes=2, seed=0)
    assert actor.given[0] == {"valid_actions": [alone(0)[3][0], None]}


def test_an_actor_in_numbers_takes_two_arguments_whatever_the_infos_hold():
    class Numbers(gymnasium.Env):
        observation_space = action_space = Discrete(3)

        def reset(self, *, seed=None, options=None):
            return 0, {"valid_actions": [0, 2]}

        def step(self, action):
            return 0, 1.0, True, False, {"valid_actions": 7}

    class Two(First):
        def act(self, observations, rewards):
            return np.zeros(len(observations), int)

    assert len(rollout(Two(), batch_of([lambda: Guarded(Numbers())] * 2), num_episodes=4, seed=0)) == 4


@pytest.mark.parametrize(
    ("value", "message"),
    [("take lamp", "info.'valid_actions'. is 'take lamp'"), ([1, 2], "holds '1'"), (3, "is '3': expected a list")],
)
def test_candidates_that_are_no_texts_fail_their_episode_in_one_sentence(value, message):
    class Wrong(Room):
        def candidates(self):
            return value if isinstance(value, list) else ["wait"]

        def _info(self):
            return {"valid_actions": value}

    with pytest.raises(NumericsError, match=f"episode 0: reset: .*{message}"):
        record(Wrong, random_policy(Room.action_space), num_episodes=1, seed=0)


WORDS = ["take clean brown shirt", "", "é 🙂", "two\nlines", "nul\0", "x" * 500, "שלום"]


@pytest.mark.parametrize("num_envs", [1, 3])
def test_any_text_is_said_kept_and_read_again(tmp_path, num_envs):
    said = iter(WORDS * 9)

    class Speaker(Room):
        def step(self, action):
            observation, _, _, _, info = super().step(action)
            return observation, 1.0, len(self.said) == len(WORDS), False, info

    dataset = record(
        Speaker, lambda observation, generator: next(said), num_episodes=3, seed=0, num_envs=num_envs,
        policy_name="words", folder=tmp_path / "kept",
    )  # fmt: skip
    save(dataset, tmp_path / "saved")
    for found in (dataset, load_dataset(tmp_path / "kept"), load_dataset(tmp_path / "saved")):
        spoken = [text for index in range(3) for text in episode_at(found, index).steps["action"]]
        assert sorted(spoken) == sorted(WORDS * 3)
        assert environment_of(found).action_space == Room.action_space
        for index in range(3):
            episode = episode_at(found, index)
            after = [*episode.steps["observation"][1:], episode.final["observation"].item()]
            assert after == [f"You said: {text}" for text in episode.steps["action"]]


def test_a_recording_in_words_that_was_cut_off_goes_on(tmp_path):
    class Tired(Room):
        calls = 0

        def reset(self, *, seed=None, options=None):
            type(self).calls += 1
            if type(self).calls == 4:
                raise KeyboardInterrupt
            return super().reset(seed=seed)

    request = {"num_episodes": 6, "seed": 0, "policy_name": "random", "folder": tmp_path / "set"}
    with pytest.raises(KeyboardInterrupt):
        record(Tired, random_policy(Room.action_space), **request)
    whole = record(Room, random_policy(Room.action_space), num_episodes=6, seed=0, policy_name="random")
    again = record(Tired, random_policy(Room.action_space), **request)
    assert all(episode_at(again, index).equals(episode_at(whole, index)) for index in range(6))


def test_a_function_of_three_is_given_the_candidates_of_its_row():
    dataset = record(Room, lambda observation, generator, texts: texts[-1], num_episodes=2, max_steps=3, seed=0)
    assert set(episode_at(dataset, 0).steps["action"]) == {"wait"}


def test_random_actions_are_candidates_where_there_are_some_and_letters_elsewhere():
    actions = record(Room, random_policy(Room.action_space), num_episodes=8, seed=0)["action"]
    assert {text for texts in actions for text in texts} == {*(f"take {thing}" for thing in THINGS), "wait"}
    free = record(
        partial(Room, key=None), random_policy(Room.action_space), num_episodes=1, seed=0, max_steps=3
    )["action"]  # fmt: skip
    assert all(Room.action_space.contains(text) for text in free[0])
    space = Dict(say=Text(5), move=Tuple((Discrete(2), Box(-1, 1, (2,)))))
    action = random_policy(space)(None, np.random.default_rng(0), ["a word of its own"])
    assert action["say"] == "a word of its own" and space["move"].contains(action["move"])


NESTED = Dict(arm=Box(-1, 1, (2,)), say=Text(9, min_length=2, charset="ab"))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_words_beside_numbers_reach_the_environment_and_the_data(asynchronous):
    class Arm(Room):
        action_space = NESTED

        def step(self, action):
            assert action["arm"].dtype == np.float32
            return super().step(action["say"])

    class Both(First):
        def act(self, observations, rewards, info=None):
            return {"arm": np.full((self.rows, 2), 0.5), "say": super().act(observations, rewards, info)}

    envs = batch_of([lambda: Guarded(Arm())] * 3, asynchronous=asynchronous)
    episodes = rollout(Both(), envs, num_episodes=3, seed=0)
    envs.close()
    for seed, episode in enumerate(episodes):
        assert episode.steps["action.say"].tolist() == alone(seed)[1]
        assert episode.steps["action.arm"].tolist() == [[0.5, 0.5]] * len(episode)


def test_rows_that_nobody_plays_say_something_that_is_in_the_space():
    idle = idle_actions(NESTED, 2)
    assert all(NESTED.contains(row) for row in unstack(join(NESTED, idle, "action"), 2))


def test_a_batch_of_words_survives_splitting_and_stacking():
    rows = [{"arm": np.zeros(2, np.float32), "say": text} for text in WORDS]
    arrays = split(NESTED, stack(rows), "action")
    assert arrays["action.say"].dtype == object and arrays["action.say"].tolist() == WORDS
    assert [row["say"] for row in unstack(join(NESTED, arrays, "action"), len(rows))] == WORDS  # pyright: ignore


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["go", None], "the actor gave action 'None', expected a text"),
        (["go", 3], "the actor gave action '3', expected a text"),
        (np.zeros(2), "the actor gave action '0.0', expected a text"),
        (["go"], r"the actor gave actions of shape \[1\], expected \[2\]"),
        ("go", r"the actor gave actions of shape \[\], expected \[2\]"),
    ],
)
def test_what_is_no_text_for_every_row_is_refused(chosen, message):
    with pytest.raises(UsageError, match=message):
        checked_actions(chosen, 2, Room.action_space)


@pytest.mark.parametrize(
    "chosen", [("go", "a b"), ["go", "a b"], np.array(["go", "a b"]), np.array(["go", "a b"], object)]
)
def test_a_batch_of_texts_is_a_list_a_tuple_or_an_array(chosen):
    assert checked_actions(chosen, 2, Room.action_space)["action"].tolist() == ["go", "a b"]


def test_a_model_of_numbers_is_refused_in_one_sentence():
    class Model:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros(len(observation), int), None

    with pytest.raises(UsageError, match="the actor gave action '0', expected a text"):
        record(Room, Model(), num_episodes=1, seed=0)
