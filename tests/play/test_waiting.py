"""Processes that end, or do not answer: their episodes have failed, the others are played."""

import os
import signal
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from seqdec.errors import NumericsError, UsageError
from seqdec.play import make_envs, rollout
from seqdec.play.actors import FunctionActor
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of
from seqdec.play.rollouts import Failure
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


class Dies(Hangs):
    """Its episodes of some seeds end their process in their third step, or at their reset."""

    def reset(self, *, seed=None, options=None):
        self.timestep, self.random = 0, np.random.default_rng(seed)
        if self.place == "reset" and seed in DEADLY:
            os._exit(3)
        return super().reset(seed=seed)

    def step(self, action):
        self.timestep += 1
        if self.place == "step" and self.seed in DEADLY and self.timestep == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        is_over = self.timestep == 5 + self.seed % 3
        return self.random.uniform(0, 9, 1).astype(np.float32), float(action), is_over, False, {}


DEADLY = (1, 2, 6)


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
    with pytest.raises(NumericsError, match="failed in episode 1: it did not answer within 0.3 seconds: mend it, or"):
        rollout(Still(), envs, num_episodes=2, seed=0)
    envs.close()
    assert time.monotonic() - begun < 20
    assert not any(process.is_alive() for process in envs.processes)


@pytest.mark.parametrize("seconds", [0, -1.0, np.nan])
def test_a_limit_is_above_0(seconds):
    with pytest.raises(UsageError, match="step_seconds"):
        make_envs("CartPole-v1", 1, step_seconds=seconds)


def drawing(observation, generator):
    return int(generator.random() < 0.5)


@pytest.mark.parametrize("num_batches", [1, 2])
def test_episodes_whose_process_ends_have_failed_and_the_others_are_those_of_one_process(num_batches):
    """Other environments of the batch are played anew: they draw what they would have drawn."""
    makers, num_ended = [lambda: Guarded(Dies("step"))] * 4, []
    failures: list[Failure] = []
    batches = [batch_of(makers, asynchronous=True) for _ in range(num_batches)]
    actors = [FunctionActor(drawing, 0) for _ in batches]
    played = rollout(actors, batches, num_episodes=10, seed=0, failures=failures, progress=num_ended.append)
    expected = rollout(
        FunctionActor(drawing, 0), batch_of([lambda: Guarded(Dies("never"))] * 4), num_episodes=10, seed=0
    )
    assert [failure.episode for failure in failures] == list(DEADLY) and sum(num_ended) == 10
    assert {failure.message for failure in failures} == {"its process ended (by SIGKILL)"}
    whole = [episode for number, episode in enumerate(expected) if number not in DEADLY]
    assert len(played) == 7 and all(one.equals(other) for one, other in zip(played, whole, strict=True))
    for batch in batches:
        batch.close()
        assert not any(process.is_alive() for process in batch.processes)


def test_a_process_that_ends_at_a_reset_is_an_episode_that_failed():
    failures: list[Failure] = []
    envs = batch_of([lambda: Guarded(Dies("reset"))] * 3, asynchronous=True)
    played = rollout(FunctionActor(drawing, 0), envs, num_episodes=9, seed=0, failures=failures)
    envs.close()
    assert [(failure.episode, failure.message) for failure in failures] == [
        (number, "its process ended (exit code 3)") for number in DEADLY
    ]
    assert len(played) == 6
    with pytest.raises(NumericsError, match=r"failed in episode 1: its process ended \(exit code 3\)"):
        rollout(Still(), batch_of([lambda: Guarded(Dies("reset"))] * 2, asynchronous=True), num_episodes=2, seed=0)


def test_a_process_that_is_killed_while_the_policy_thinks_is_a_failure_too():
    envs = batch_of([lambda: Guarded(Dies("never"))] * 2, asynchronous=True)
    victims = list(envs.processes)

    class Killer(Still):
        def act(self, observations, rewards):
            if rewards is not None and victims[1].is_alive():
                victims[1].kill()
                victims[1].join()
            return super().act(observations, rewards)

    failures: list[Failure] = []
    played = rollout(Killer(), envs, num_episodes=4, seed=0, failures=failures)
    envs.close()
    assert [failure.episode for failure in failures] == [1] and len(played) == 3
