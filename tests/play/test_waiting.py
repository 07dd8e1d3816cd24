"""Processes that do not answer."""

import time

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from seqdec.errors import NumericsError, UsageError
from seqdec.play import make_envs, rollout
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of
from seqdec.play.waiting import LIMIT


class Hangs(gymnasium.Env):
    observation_space, action_space = Box(0, 9, (1,)), Discrete(2)

    def __init__(self, place):
        self.place = place

    def reset(self, *, seed=None, options=None):
        self.seed = seed
        if self.place == "reset" and seed == 1:
            time.sleep(30)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if self.place == "step" and self.seed == 1:
            time.sleep(30)
        return np.zeros(1, np.float32), 1.0, True, False, {}


class Still:
    def reset(self, num_envs):
        pass

    def act(self, observations, rewards):
        return np.zeros(len(observations), int)

    def keep(self, rows):
        pass


@pytest.mark.parametrize("place", ["reset", "step"])
def test_an_environment_that_hangs_is_given_up_and_leaves_no_process(place):
    envs = batch_of([lambda: Guarded(Hangs(place))] * 2, asynchronous=True)
    envs.metadata[LIMIT] = 0.3
    begun = time.monotonic()
    with pytest.raises(NumericsError, match="environment 1 of 2 did not answer within 0.3 seconds"):
        rollout(Still(), envs, num_episodes=2, seed=0)
    envs.close()
    assert time.monotonic() - begun < 20
    assert not any(process.is_alive() for process in envs.processes)


@pytest.mark.parametrize("seconds", [0, -1.0, np.nan])
def test_a_limit_is_above_0(seconds):
    with pytest.raises(UsageError, match="step_seconds"):
        make_envs("CartPole-v1", 1, step_seconds=seconds)
