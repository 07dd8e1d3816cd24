"""How episodes begin: their seeds, and the options of their reset."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from seqdec.errors import UsageError
from seqdec.play import record, rollout
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of


class Maze(gymnasium.Env):
    """Begins in the cell that the options name, 0 without options."""

    observation_space, action_space = Box(0, 99, (1,)), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        cell, self.t = 0 if options is None else options.pop("cell"), 0
        return np.full(1, cell, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, 99, np.float32), 1.0, self.t > self.np_random.integers(3), False, {}


class Still:
    def reset(self, num_envs):
        pass

    def act(self, observations, rewards):
        return np.zeros(len(observations), int)

    def keep(self, rows):
        pass


def cells(episodes):
    return [int(episode.steps["observation"][0, 0]) for episode in episodes]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_episode_begins_with_the_one_dict_or_with_its_own(asynchronous):
    for options, expected in (
        (None, [0] * 7),
        ({"cell": 7}, [7] * 7),
        ([{"cell": cell} for cell in range(3)], [0, 1, 2, 0, 1, 2, 0]),
    ):
        envs = batch_of([lambda: Guarded(Maze())] * 3, asynchronous=asynchronous)
        assert cells(rollout(Still(), envs, num_episodes=7, seed=5, reset_options=options)) == expected
        envs.close()


def test_a_recording_that_goes_on_gives_each_episode_the_options_of_its_number(tmp_path):
    options = [{"cell": cell} for cell in (4, 5, 6)]

    def still(observation, generator):
        return 0

    class Breaks(Maze):
        def reset(self, *, seed=None, options=None):
            assert seed < 5, "cut off"
            return super().reset(seed=seed, options=options)

    asked = {"num_episodes": 7, "num_envs": 2, "seed": 0, "reset_options": options, "folder": tmp_path / "data"}
    with pytest.raises(ArithmeticError, match="cut off"):
        record(Breaks, still, **asked)
    with pytest.raises(UsageError, match="reset_options"):
        record(Maze, still, **asked | {"reset_options": {"cell": 1}})
    dataset = record(Maze, still, **asked)
    assert [int(seen[0][0]) for seen in dataset["observation"]] == [4, 5, 6, 4, 5, 6, 4]


def test_a_batch_of_another_maker_takes_one_dict_for_all():
    envs = SyncVectorEnv([Maze] * 2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(UsageError, match="one dict of reset_options for all"):
        rollout(Still(), envs, num_episodes=2, seed=0, reset_options=[{"cell": 1}, {"cell": 2}])


@pytest.mark.parametrize("options", [[], "cell", [3], 7])
def test_options_that_are_no_dict_are_refused(options):
    with pytest.raises(UsageError, match="reset_options"):
        rollout(Still(), batch_of([lambda: Guarded(Maze())]), num_episodes=1, seed=0, reset_options=options)
