"""Masks of legal actions, on their way from an environment to whoever acts."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from card_table import SPACES, Cards
from seqdec.data.dataset import episode_at
from seqdec.errors import NumericsError
from seqdec.play import random_policy, record, rollout
from seqdec.play.guarded import Guarded


class Given:
    """Plays the first legal card of a Discrete hand, and keeps what it was given."""

    def __init__(self):
        self.given = []

    def reset(self, num_envs):
        pass

    def act(self, observations, rewards, info=None):
        self.given.append(info)
        return 2 + info["action_mask"].argmax(1)

    def keep(self, rows):
        pass


@pytest.mark.parametrize("name", ["action_mask", "legal_actions_mask"])
@pytest.mark.parametrize("shows", ["info", "leaf"])
@pytest.mark.parametrize("kind", list(SPACES))
def test_who_plays_at_random_plays_what_is_legal(kind, shows, name):
    policy = random_policy(SPACES[kind])
    dataset = record(lambda: Cards(kind, shows, name), policy, num_episodes=6, num_envs=3, seed=0)
    actions = [name for name in dataset.column_names if name.startswith("action")]
    assert all(len(np.unique(np.concatenate([*map(np.asarray, dataset[name])]))) > 1 for name in actions)


def test_a_function_of_three_is_given_the_mask_of_its_row_and_one_of_two_is_not():
    def first(observation, generator, mask):
        return 2 + int(np.flatnonzero(mask)[0])

    def alike(observation, generator):
        return 2 + int(np.flatnonzero(observation["action_mask"])[0])

    one = record(lambda: Cards(shows="leaf"), first, num_episodes=4, num_envs=2, seed=0)
    other = record(lambda: Cards(shows="leaf"), alike, num_episodes=4, num_envs=2, seed=0)
    assert all(episode_at(one, row).equals(episode_at(other, row)) for row in range(4))


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("guarded", [True, False])
def test_a_batch_of_any_kind_gives_each_running_row_its_mask(guarded, mode):
    # what nothing guards is stepped on where nobody plays
    envs = SyncVectorEnv([lambda: Guarded(Cards()) if guarded else Cards(raises=False)] * 3, autoreset_mode=mode)
    actor = Given()
    plain = rollout(Given(), SyncVectorEnv([lambda: Guarded(Cards())]), num_episodes=7, seed=0)
    for episode, alone in zip(rollout(actor, envs, num_episodes=7, seed=0), plain, strict=True):
        assert episode.equals(alone)
    assert all(info["action_mask"].shape[1] == 6 and info["action_mask"].any(1).all() for info in actor.given)
    assert all(info.keys() == {"action_mask"} for info in actor.given)


class Says(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(0, 9, (1,)), gymnasium.spaces.Discrete(3)

    def __init__(self, mask):
        self.mask = mask

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {"action_mask": self.mask}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, True, False, {}


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ([0, 0, 0], "action_mask leaves no action to choose"),
        ([1, 1], "expected 0 or 1 for each of 3 values of Discrete"),
        ([0.5, 1, 1], "expected 0 or 1"),
        ("all", "expected 0 or 1"),
    ],
)
def test_what_is_no_mask_of_these_actions_fails_the_episode(mask, words):
    with pytest.raises(NumericsError, match=f"episode 0: reset: .*{words}"):
        record(lambda: Says(mask), lambda observation, generator: 0, num_episodes=1, seed=0)


def test_where_nothing_is_chosen_among_values_a_mask_is_the_environments_own():
    env = Says("whatever")
    env.action_space = gymnasium.spaces.Box(0, 1, (1,))
    assert len(record(lambda: env, lambda observation, generator: np.zeros(1), num_episodes=1, seed=0)) == 1
