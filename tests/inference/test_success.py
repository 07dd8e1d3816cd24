"""Success in an environment's info, as a rate in a report."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from seqdec import evaluate
from seqdec.inference.evaluation import wilson_interval
from seqdec.inference.report import Report
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of
from seqdec.spaces.spec import EnvironmentSpec


class Reach(gymnasium.Env):
    """Ends at once; a success where the action is 1 and the seed no multiple of four, said in the way that is asked."""

    observation_space, action_space = Box(0, 9, (1,)), Discrete(2)

    def __init__(self, way):
        self.way = way

    def reset(self, *, seed=None, options=None):
        self.seed = seed
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if self.seed == 5:
            raise RuntimeError("broken")
        is_reached = bool(action == 1 and self.seed % 4)
        info = {"never": {}, "always": {"is_success": is_reached}, "once": {"success": True} if is_reached else {}}
        return np.zeros(1, np.float32), 1.0, True, False, info[self.way]


class Does:
    def __init__(self, action):
        self.action = action

    def reset(self, num_envs):
        pass

    def act(self, observations, rewards):
        return np.full(len(observations), int(self.action))

    def keep(self, rows):
        pass


def report_of(way, targets=(0.0, 1.0)):
    envs = batch_of([lambda: Guarded(Reach(way))] * 3)
    returns = {"min": 0.0, **{f"q{tenth}0": 0.5 for tenth in range(1, 10)}, "max": 1.0}
    spec = EnvironmentSpec(Reach.observation_space, Reach.action_space)
    return evaluate(Does, envs, targets=targets, num_episodes=9, seed=0, spec=spec, data_returns=returns)


@pytest.mark.parametrize("way", ["always", "once"])
def test_a_report_has_the_rate_of_success_among_episodes_that_did_not_fail(way):
    report = report_of(way)
    assert [result.success_rate for result in report.targets] == [0.0, 5 / 8]  # seeds 1, 2, 3, 6, 7 of all but 5
    assert report.targets[1].success_ci95 == wilson_interval(5, 8)
    header, _, nothing, all_of_it, *_ = str(report).splitlines()
    assert header.split("std")[1].split() == ["length", "success", "95", "%", "interval", "failed"]
    assert "0 %    0 % .. 32 %" in nothing and "62 %   31 % .. 86 %" in all_of_it
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_where_nothing_is_said_of_success_there_is_no_rate():
    report = report_of("never")
    assert [result.success_rate for result in report.targets] == [None, None]
    assert "success" not in str(report)


def test_reports_without_a_rate_are_still_read():
    values = report_of("never").to_json()
    for result in values["targets"]:
        del result["success_rate"], result["success_ci95"]
    assert Report.from_json(values).targets[0].success_rate is None


@pytest.mark.parametrize(  # Wilson's interval, by R's prop.test(..., correct = FALSE)
    ("num_successes", "num_episodes", "expected"),
    [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (5, 8, (0.3057, 0.8632)), (1, 2, (0.0945, 0.9055))],
)
def test_the_interval_of_a_rate_is_wilsons(num_successes, num_episodes, expected):
    assert wilson_interval(num_successes, num_episodes) == pytest.approx(expected, abs=1e-4)
