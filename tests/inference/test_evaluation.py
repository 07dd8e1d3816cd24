"""Evaluation: numbers worked out by hand, the same seeds for every target, failures counted, reports that return."""

import json
import math
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from seqdec.errors import DataError, StorageError, UsageError
from seqdec.inference.evaluation import bootstrap_interval, evaluate, resolve_targets, score, spearman
from seqdec.inference.plots import _title, plot_report
from seqdec.inference.report import Report, TargetResult
from seqdec.play import make_envs
from seqdec.play.make import spec_of_env
from seqdec.spaces.spec import EnvironmentSpec

DATA_RETURNS = {"min": 10.0, **{f"q{tenth}0": 50.0 * tenth for tenth in range(1, 10)}, "max": 500.0}


class Pushes:
    """Balances CartPole for `target` timesteps, then pushes to the right until the pole falls."""

    def __init__(self, target: float | None):
        self.target = 10**6 if target is None else target
        self.starts: list[np.ndarray] = []

    def reset(self, num_envs: int) -> None:
        self.timestep = 0

    def act(self, observations: np.ndarray, rewards: np.ndarray | None) -> np.ndarray:
        if self.timestep == 0:
            self.starts.extend(observations)
        self.timestep += 1
        if self.timestep > self.target:
            return np.ones(len(observations), np.int64)
        return (observations @ np.array([0.05, 0.3, 1.0, 1.2]) > 0).astype(np.int64)

    def keep(self, rows: np.ndarray) -> None:
        pass


class Breaks(gymnasium.Wrapper):
    """Raises at timestep 7 of the episodes whose seed is odd."""

    def reset(self, *, seed=None, options=None):
        self.seed, self.timestep = seed or 0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        self.timestep += 1
        if self.seed % 2 and self.timestep == 7:
            raise ZeroDivisionError("the motor is gone")
        return self.env.step(action)


def cartpole_spec(reference_returns: tuple[float, float] | None = (0.0, 500.0)) -> EnvironmentSpec:
    spec = spec_of_env(gymnasium.make("CartPole-v1"))
    return replace(spec, reference_returns=reference_returns)


def report_of(actors: dict[float | None, Pushes], num_envs: int = 4) -> Report:
    spec = cartpole_spec()
    return evaluate(
        lambda target: actors.setdefault(target, Pushes(target)),
        make_envs(spec, num_envs),
        targets=[20.0, 60.0, 120.0],
        num_episodes=6,
        seed=3,
        spec=spec,
        data_returns=DATA_RETURNS,
    )


def test_every_target_starts_from_the_same_seeds_whatever_the_number_of_environments():
    four: dict[float | None, Pushes] = {}
    one: dict[float | None, Pushes] = {}
    first, second = report_of(four), report_of(one, num_envs=1)
    expected = [gymnasium.make("CartPole-v1").reset(seed=3 + index)[0] for index in range(6)]
    for actors in (four, one):
        for actor in actors.values():
            np.testing.assert_array_equal(actor.starts, expected)
    assert [result.episode_returns for result in first.targets] == [result.episode_returns for result in second.targets]


def test_asking_for_more_is_reported_as_earning_more_with_the_numbers_of_its_episodes():
    report = report_of({})
    means = [result.mean for result in report.targets]
    assert means == sorted(means)
    assert report.rank_correlation == pytest.approx(1.0)
    assert report.env == "CartPole-v1" and report.seed == 3 and report.env_steps_per_second > 0
    for result in report.targets:
        assert len(result.episode_returns) == len(result.episode_lengths) == 6
        assert result.episode_returns == result.episode_lengths  # CartPole pays 1 a timestep
        assert result.mean == pytest.approx(sum(result.episode_returns) / 6)
        assert result.ci95[0] <= result.mean <= result.ci95[1]
        assert result.score == pytest.approx(result.mean / 5)


def test_achieved_returns_are_in_the_unit_that_was_asked_for_and_scores_are_not():
    spec = cartpole_spec()
    given = {"targets": [20.0], "num_episodes": 3, "seed": 3, "spec": spec, "data_returns": DATA_RETURNS}
    plain = evaluate(Pushes, make_envs(spec, 3), **given)
    discounted = evaluate(Pushes, make_envs(spec, 3), discount=0.9, **given)
    delayed = evaluate(Pushes, make_envs(spec, 3), discount=0.9, delayed_reward=True, **given)
    lengths = np.array(plain.targets[0].episode_lengths)  # CartPole pays 1 a timestep
    assert discounted.targets[0].episode_returns == pytest.approx((1 - 0.9**lengths) / (1 - 0.9))
    assert delayed.targets[0].episode_returns == pytest.approx(0.9 ** (lengths - 1) * lengths)
    for report in (plain, discounted, delayed):
        assert report.targets[0].ci95 == bootstrap_interval(report.targets[0].episode_returns, 3)
        assert report.targets[0].std == pytest.approx(np.std(report.targets[0].episode_returns))
    assert plain.targets[0].score == discounted.targets[0].score == delayed.targets[0].score
    assert "discounted by 0.9 a step, scores are not" in discounted.table()
    assert "discounted" not in plain.table()


def test_a_failed_episode_is_counted_and_named_and_the_mean_is_over_the_others():
    gymnasium.register("Breaks-v0", lambda: Breaks(gymnasium.make("CartPole-v1").unwrapped))
    try:
        spec = cartpole_spec(None)
        report = evaluate(
            Pushes,
            make_envs(spec, 2, env_id="Breaks-v0", max_steps=50),
            targets=[30.0],
            num_episodes=4,
            seed=0,
            spec=spec,
            data_returns=DATA_RETURNS,
        )
    finally:
        del gymnasium.registry["Breaks-v0"]
    (result,) = report.targets
    assert [failure["episode"] for failure in result.failures] == [1, 3]
    assert "ZeroDivisionError: the motor is gone" in str(result.failures[0]["message"])
    assert len(result.episode_returns) == 2 and result.mean == pytest.approx(np.mean(result.episode_returns))
    assert result.score is None
    assert "2 of 4" in report.table() and "episode 1 failed" in report.table()
    assert report.rank_correlation is None, "one target has no rank"


def test_a_policy_that_reads_no_return_is_reported_as_asked_for_nothing(tmp_path: Path):
    spec = cartpole_spec()
    report = evaluate(
        Pushes,
        make_envs(spec, 2),
        targets=[None],
        num_episodes=2,
        seed=0,
        spec=spec,
        data_returns=DATA_RETURNS,
    )
    assert report.targets[0].target_return is None and "nothing" in report.table()
    plot_report({"a": report}, tmp_path / "report.png")


def test_a_report_survives_json():
    report = report_of({})
    again = Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False)))
    assert again == report
    assert set(report.to_json()) == {
        "env",
        "seed",
        "num_episodes",
        "targets",
        "rank_correlation",
        "data_returns",
        "env_steps_per_second",
        "discount",
    }
    plain = {name: value for name, value in report.to_json().items() if name != "discount"}
    assert Report.from_json(plain) == report, "reports written before returns could be discounted"


@pytest.mark.parametrize(
    ("change", "named"), [({"env": None}, "env"), ({"extra": 1}, "extra"), ({"targets": [3]}, "targets")]
)
def test_a_report_that_is_not_one_is_refused_by_name(change: dict, named: str):
    value = {**report_of({}).to_json(), **change}
    if change == {"env": None}:
        del value["env"]
    with pytest.raises(DataError, match=named):
        Report.from_json(value)


def test_no_targets_no_episodes_and_nothing_but_failures_are_refused():
    spec = cartpole_spec()
    envs = make_envs(spec, 1)
    given = {"seed": 0, "spec": spec, "data_returns": DATA_RETURNS}
    with pytest.raises(UsageError, match="no target returns"):
        evaluate(Pushes, envs, targets=[], num_episodes=1, **given)
    with pytest.raises(UsageError, match="0 episodes"):
        evaluate(Pushes, envs, targets=[1.0], num_episodes=0, **given)
    gymnasium.register("Breaks-v0", lambda: Breaks(gymnasium.make("CartPole-v1").unwrapped))
    try:
        broken = make_envs(spec, 1, env_id="Breaks-v0")
        with pytest.raises(UsageError, match="all 1 episodes for target 30 failed.*the motor is gone"):
            evaluate(Pushes, broken, targets=[30.0], num_episodes=1, **{**given, "seed": 1})
    finally:
        del gymnasium.registry["Breaks-v0"]


def test_targets_are_numbers_or_quantiles_of_the_data():
    words = ["100", "-2.5", "1e3", "q90", "median", "min", "max"]
    assert resolve_targets(words, DATA_RETURNS) == [100.0, -2.5, 1000.0, 450.0, 250.0, 10.0, 500.0]


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "best", "q95", "", "1,5"])
def test_a_target_that_is_no_finite_number_is_refused_and_the_quantiles_are_named(word: str):
    with pytest.raises(UsageError, match=r"neither a finite number nor one of min, q10, .*max, median"):
        resolve_targets(["100", word], DATA_RETURNS)


def test_rank_correlation_by_hand():
    assert spearman([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman([1, 2, 3], [5, 4, 3]) == pytest.approx(-1)
    # ranks of the second are 1.5, 1.5, 3: covariance 1.5, variances 2 and 1.5
    assert spearman([1, 2, 3], [7, 7, 9]) == pytest.approx(1.5 / math.sqrt(2 * 1.5))
    # ranks of the second are 1, 2.5, 2.5, 4: covariance 4.5, variances 5 and 4.5
    assert spearman([1, 2, 3, 4], [0, 7, 7, 9]) == pytest.approx(4.5 / math.sqrt(5 * 4.5))
    assert math.isnan(spearman([1, 2, 3], [4, 4, 4])) and math.isnan(spearman([], []))


def test_the_interval_of_a_mean_is_seeded_and_covers_it_as_often_as_it_says():
    assert bootstrap_interval([3.0], seed=0) == (3.0, 3.0)
    assert bootstrap_interval([1.0, 5.0, 9.0], seed=4) == bootstrap_interval([1.0, 5.0, 9.0], seed=4)
    low, high = bootstrap_interval([0.0, 1.0], seed=0)  # means of two are 0, 0.5 and 1, a quarter, half and a quarter
    assert (low, high) == (0.0, 1.0)
    low, high = bootstrap_interval([0.0] * 50 + [1.0] * 50, seed=0)
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015) and high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015)
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(generator.normal(10, 3, size=40).tolist(), seed)
        covered += low <= 10 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_score_by_hand():
    assert score(250.0, (0.0, 500.0)) == pytest.approx(50)
    assert score(-20.0, (-20.0, 80.0)) == pytest.approx(0)
    assert score(130.0, (-20.0, 80.0)) == pytest.approx(150)
    assert score(1.0, None) is None and score(1.0, (2.0, 2.0)) is None


def a_result(target: float, mean: float) -> TargetResult:
    returns = [mean - 4.0, mean, mean + 4.0]
    return TargetResult(target, mean, 4.0, (mean - 3, mean + 3), None, returns, [3, 3, 3])


def test_the_figure_is_a_png_for_one_run_and_for_several(tmp_path: Path):
    first = Report("CartPole-v1", 0, 3, [a_result(100, 90), a_result(300, 280)], 1.0, DATA_RETURNS, 9.0)
    second = Report("CartPole-v1", 0, 3, [a_result(100, 60), a_result(700, 280)], 1.0, DATA_RETURNS, 9.0)
    for reports in ({"pretrained": first}, {"pretrained": first, "random": second}):
        plot_report(reports, tmp_path / "report.png")
        assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StorageError, match="cannot write"):
        plot_report({"pretrained": first}, tmp_path / "missing" / "report.png")
    with pytest.raises(UsageError, match="no reports"):
        plot_report({}, tmp_path / "report.png")


def test_the_table_says_asked_achieved_and_where_the_data_was():
    report = Report("CartPole-v1", 0, 3, [a_result(100, 90), a_result(300, 280.55)], 1.0, DATA_RETURNS, 9.0)
    lines = report.table().splitlines()
    assert lines[0].split() == ["asked", "achieved", "95", "%", "interval", "std", "length"]
    assert lines[2].split() == ["100", "90", "87", "..", "93", "4", "3"]
    assert lines[3].split()[:2] == ["300", "280.6"]
    assert "returns 10 to 500, median 250" in report.table()
    assert "rank correlation of asked and achieved: 1.00" in report.table()


def test_a_picture_without_a_target_does_not_say_that_one_was_asked_for():
    spec = spec_of_env(gymnasium.make("CartPole-v1"))
    envs = make_envs(spec, 2, max_steps=30)
    words = {"num_episodes": 2, "seed": 0, "spec": spec, "data_returns": DATA_RETURNS}
    unasked, asked = (evaluate(Pushes, envs, targets=[target], **words) for target in (None, 20.0))  # pyright: ignore
    assert _title({"a": unasked}) == "CartPole-v1: achieved, nothing asked, 2 episodes"
    assert _title({"a": unasked, "b": asked}) == "CartPole-v1: asked against achieved, 2 episodes a target"
