"""Environments that do not close, or whose processes are gone, cost neither episodes nor the end."""

import time

import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AsyncVectorEnv

from seqdec.play import random_policy, rollout
from seqdec.play.actors import FunctionActor
from seqdec.play.closing import closing_envs
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of


class Busy(CartPoleEnv):
    def close(self) -> None:
        raise RuntimeError("the port is busy")


class Endless(CartPoleEnv):
    def step(self, action):
        time.sleep(600)
        return super().step(action)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_environment_that_raises_when_it_is_closed_costs_no_episode(asynchronous: bool, caplog):
    with closing_envs(batch_of([lambda: Guarded(Busy())] * 2, asynchronous=asynchronous)) as envs:
        actor = FunctionActor(random_policy(envs.single_action_space), 0)
        assert len(rollout(actor, envs, num_episodes=2, seed=0)) == 2
    assert envs.closed and set(caplog.messages) == {"an environment did not close (RuntimeError: the port is busy)"}


def test_a_process_that_ended_by_itself_does_not_keep_its_batch_from_closing(caplog):
    with closing_envs(batch_of([lambda: Guarded(CartPoleEnv())] * 2, asynchronous=True)) as envs:
        assert isinstance(envs, AsyncVectorEnv)
        envs.processes[1].kill()
        envs.processes[1].join()
    assert envs.closed and not any(process.is_alive() for process in envs.processes)
    assert "the environments did not close" in caplog.text


def test_processes_of_environments_are_not_waited_for_where_something_else_went_wrong():
    with (
        pytest.raises(ZeroDivisionError),
        closing_envs(batch_of([lambda: Guarded(Endless())] * 2, asynchronous=True)) as envs,
    ):
        assert isinstance(envs, AsyncVectorEnv)
        envs.reset(seed=0)
        envs.step_async([0, 0])
        raise ZeroDivisionError
    assert envs.closed and not any(process.is_alive() for process in envs.processes)
