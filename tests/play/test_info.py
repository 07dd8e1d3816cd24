"""An environment's info: what is read of it, and that nothing else in it reaches a batch."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from seqdec import load_dataset
from seqdec.data.dataset import save
from seqdec.play import record, rollout
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of


class Tells(gymnasium.Env):
    """Three steps; `tell(seed, timestep)` is its info."""

    observation_space, action_space = Box(0, 9, (1,)), Discrete(2)

    def __init__(self, tell):
        self.tell = tell

    def reset(self, *, seed=None, options=None):
        self.seed, self.t = seed, 0
        return np.zeros(1, np.float32), self.tell(seed, 0)

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t == 3, False, self.tell(self.seed, self.t)


def still(observation, generator):
    return 0


class Still:
    def reset(self, num_envs):
        pass

    def act(self, observations, rewards):
        return np.zeros(len(observations), int)

    def keep(self, rows):
        pass


@pytest.mark.parametrize("asynchronous", [False, True])
def test_infos_that_cannot_be_joined_do_not_end_a_batch(asynchronous):
    odd = [1, "text", np.zeros((2, 2)), {"inner": 1}, {"inner": "text"}, lambda: 0]

    def tell(seed, timestep):
        return {"_own": 3, "own": odd[((seed or 0) + timestep) % len(odd)], "success": "soon", "is_success": [1, 2]}

    batch = batch_of([lambda: Guarded(Tells(tell))] * 3, asynchronous=asynchronous)
    episodes = rollout(Still(), batch, num_episodes=6, seed=0)
    batch.close()
    assert [len(episode) for episode in episodes] == [3] * 6
    assert all(episode.metadata == {} for episode in episodes)  # these words are its own


SAYS = {  # by timestep, 0 is the reset
    "success": ([0, 1, 0, 0], True),  # reached once, and left again
    "is_success": ([0, 1, 0, 0], False),
}


@pytest.mark.parametrize("kind", [bool, float, np.bool_, np.int64, lambda value: np.array([value], np.float32)])
@pytest.mark.parametrize("key", list(SAYS))
def test_an_episode_keeps_whether_it_succeeded(key, kind):
    values, expected = SAYS[key]
    dataset = record(lambda: Tells(lambda _, t: {key: kind(values[t])}), still, num_episodes=2, num_envs=2, seed=0)
    assert dataset["metadata.success"] == [expected] * 2
    never = record(lambda: Tells(lambda _, t: {key: kind(0)}), still, num_episodes=2, num_envs=2, seed=0)
    assert never["metadata.success"] == [False] * 2


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_batch_that_nothing_guards_says_it_too(mode):
    def tell(seed, timestep):
        return {"is_success": timestep == 3 and (seed or 0) % 2 == 1}

    envs = SyncVectorEnv([lambda: Tells(tell)] * 2, autoreset_mode=mode)
    episodes = rollout(Still(), envs, num_episodes=4, seed=0)
    assert [episode.metadata["success"] for episode in episodes] == [False, True] * 2


def test_what_only_some_episodes_say_is_unknown_of_the_others(tmp_path):
    def tell(seed, timestep):
        return {"success": True} if seed == 2 and timestep == 3 else {}

    dataset = record(lambda: Tells(tell), still, num_episodes=4, seed=0, folder=tmp_path / "data")
    assert dataset["metadata.success"] == [None, None, True, None]
    save(dataset, tmp_path / "again")
    assert load_dataset(tmp_path / "again")["metadata.success"] == [None, None, True, None]
