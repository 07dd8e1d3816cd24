"""How well a policy does what it is asked: one target after the other, on the same environment seeds.

    asked 500  ->  32 episodes on seeds 0..31  ->  mean, interval, score
    asked 200  ->  the same 32 seeds           ->  ...

so that two targets, or two policies, differ by what they do and not by the luck of their starts. Failed episodes are
counted and named; the mean is over the others. Nothing here knows about models: an actor for a target is all it needs.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.vector import VectorEnv

from seqdec.errors import DataError, UsageError
from seqdec.play import Actor, rollout
from seqdec.play.rollouts import Failure
from seqdec.spaces.spec import EnvironmentSpec

if TYPE_CHECKING:
    pass


NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class TargetResult:
    """What came of asking for one return.

    A `target_return` of None says that nothing was asked, "expert" that the policy chose what an expert would get. All
    returns are in the unit that was asked for: discounted where the policy's are. `ci95` is a bootstrap interval of the
    mean; `score` is 0 at the first reference return and 100 at the second, and counts every reward in full.
    """

    target_return: float | str | None
    mean: float
    std: float
    ci95: tuple[float, float]
    score: float | None
    episode_returns: list[float]
    episode_lengths: list[int]
    failures: list[dict[str, int | str]] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What came of asking for several returns: `report.json`, the printed table and the figure.

    >>> report = Report.from_json(read_json(Path("runs/demo/report.json")))
    >>> print(report.table())
    """

    env: str
    seed: int
    num_episodes: int
    targets: list[TargetResult]
    rank_correlation: float | None
    data_returns: dict[str, float]
    env_steps_per_second: float
    discount: float = 1.0

    def to_json(self) -> dict[str, object]:
        """Return what `report.json` holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> "Report":
        """Read what `to_json` returned.

        Raises:
            DataError: A key is missing or unknown, or a value is not what it must be.
        """
        _check_keys(value, cls, "a report")
        results = value["targets"]
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            raise DataError("a report's targets must be a list of objects; write it again with `seqdec eval`")
        targets = []
        for result in results:
            _check_keys(result, TargetResult, "a report's target")
            targets.append(TargetResult(**{**result, "ci95": tuple(result["ci95"])}))
        return cls(**{**value, "targets": targets})  # pyright: ignore[reportArgumentType]

    def table(self) -> str:
        """Return asked against achieved as lines of text, with the rank correlation and the data's returns below."""
        failed = any(result.failures for result in self.targets)
        scored = any(result.score is not None for result in self.targets)
        rows = [["asked", "achieved", "95 % interval", "std", "length"]]
        rows[0] += ["score"] * scored + ["failed"] * failed
        for result in self.targets:
            low, high = result.ci95
            row = [_asked(result.target_return), _number(result.mean), f"{_number(low)} .. {_number(high)}"]
            row += [_number(result.std), _number(float(np.mean(result.episode_lengths)))]
            row += ["" if result.score is None else f"{result.score:.1f}"] * scored
            row += [f"{len(result.failures)} of {self.num_episodes}"] * failed
            rows.append(row)
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        lines += [
            "",
            f"{self.env}: {self.num_episodes} episodes a target, from seed {self.seed} on",
            f"data: returns {_number(self.data_returns['min'])} to {_number(self.data_returns['max'])}, "
            f"median {_number(self.data_returns['q50'])}",
        ]
        if self.discount != 1:
            lines.append(f"returns are discounted by {self.discount:g} a step" + ", scores are not" * scored)
        if self.rank_correlation is not None:
            lines.append(f"rank correlation of asked and achieved: {self.rank_correlation:.2f}")
        for result in self.targets:
            for failure in result.failures[:1]:
                lines.append(
                    f"asked {_asked(result.target_return)}: episode {failure['episode']} failed: {failure['message']}"
                )
        return "\n".join(lines)


def evaluate(
    make_actor: Callable[[float | str | None], Actor],
    envs: VectorEnv | Sequence[VectorEnv],
    *,
    targets: Sequence[float | str | None],
    num_episodes: int,
    seed: int,
    spec: EnvironmentSpec,
    data_returns: Mapping[str, float],
    discount: float = 1.0,
    delayed_reward: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Ask for each target in turn, on the same environment seeds, and report what came.

    Args:
        make_actor: Returns a fresh actor for one target return.
        envs: Environments of `spec`, in one batch or several that take turns (see `rollout`); their number changes
            the speed, not the result.
        targets: Returns to ask for, in raw units; None asks for nothing, "expert" for what an expert would get.
        num_episodes: Episodes a target; episode i is reset with seed `seed + i`.
        seed: First seed.
        spec: Names the environment and its reference returns.
        data_returns: Return quantiles of the training data: "min", "q10", ..., "q90", "max".
        discount: Of the returns that are asked for; those achieved are reported alike.
        delayed_reward: Whether the return that is asked for has all reward at the episode's end.
        progress: Called as `rollout` calls it.

    Raises:
        UsageError: No targets, no episodes, or every episode of a target failed.
    """
    if not targets:
        raise UsageError("no target returns to evaluate: give at least one")
    if num_episodes < 1:
        raise UsageError(f"{num_episodes} episodes asked for: give at least 1")
    results = []
    batches = envs if isinstance(envs, Sequence) else [envs]
    num_steps, started = 0, time.perf_counter()
    for target in targets:
        failures: list[Failure] = []
        episodes = rollout(
            [make_actor(target) for _ in batches],
            batches,
            num_episodes=num_episodes,
            seed=seed,
            progress=progress,
            failures=failures,
        )
        if not episodes:
            asked = "" if target is None else f" for target {_asked(target)}"
            raise UsageError(
                f"all {num_episodes} episodes{asked} failed, the first with: "
                f"{failures[0].message}; mend the environment"
            )
        undiscounted = [float(episode.total_return) for episode in episodes]
        returns = undiscounted
        if discount != 1:
            returns = [float(episode.returns_to_go(discount, delayed_reward)[0]) for episode in episodes]
        lengths = [len(episode) for episode in episodes]
        num_steps += sum(lengths)
        mean = float(np.mean(returns))
        results.append(
            TargetResult(
                target_return=float(target) if isinstance(target, int | float) else target,
                mean=mean,
                std=float(np.std(returns)),
                ci95=bootstrap_interval(returns, seed),
                score=score(float(np.mean(undiscounted)), spec.reference_returns),
                episode_returns=returns,
                episode_lengths=lengths,
                failures=[{"episode": failure.episode, "message": failure.message} for failure in failures],
            )
        )
    asked = [(result.target_return, result.mean) for result in results if isinstance(result.target_return, float)]
    correlation = spearman([target for target, _ in asked], [mean for _, mean in asked])
    return Report(
        env=spec.id or "an unnamed environment",
        seed=seed,
        num_episodes=num_episodes,
        targets=results,
        rank_correlation=None if math.isnan(correlation) else correlation,
        data_returns=dict(data_returns),
        env_steps_per_second=num_steps / max(time.perf_counter() - started, 1e-9),
        discount=discount,
    )


def resolve_targets(words: Sequence[str], data_returns: Mapping[str, float]) -> list[float | str]:
    """Return the targets that words such as "100", "q90", "median" or "max" stand for, in raw units; "expert" stays.

    Raises:
        UsageError: A word is neither a finite number nor a name in `data_returns`.
    """
    named = {**data_returns, "median": data_returns["q50"]}
    targets: list[float | str] = []
    for word in words:
        if word == "expert":
            targets.append(word)
            continue
        if word in named:
            targets.append(float(named[word]))
            continue
        try:
            target = float(word)
        except ValueError:
            target = math.nan
        if not math.isfinite(target):
            raise UsageError(
                f"target return {word!r} is neither a finite number nor one of {', '.join(named)}, expert: "
                "give a number or one of these quantiles of the data's returns"
            )
        targets.append(target)
    return targets


def bootstrap_interval(returns: Sequence[float], seed: int) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the mean (2000 seeded resamples)."""
    values = np.asarray(returns, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the rank correlation, ties sharing their average rank; nan where either side is constant."""
    if len(first) == 0:
        return math.nan
    ranks = [_average_ranks(np.asarray(values, dtype=np.float64)) for values in (first, second)]
    centred = [values - values.mean() for values in ranks]
    scale = math.sqrt(float((centred[0] ** 2).sum()) * float((centred[1] ** 2).sum()))
    return float(centred[0] @ centred[1]) / scale if scale > 0 else math.nan


def score(mean: float, reference_returns: tuple[float, float] | None) -> float | None:
    """Return the mean on the scale where the first reference return is 0 and the second 100 (as D4RL does)."""
    if reference_returns is None or reference_returns[0] == reference_returns[1]:
        return None
    low, high = reference_returns
    return 100.0 * (mean - low) / (high - low)


def _average_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _asked(target: float | str | None) -> str:
    return "nothing" if target is None else target if isinstance(target, str) else _number(target)


def _number(value: float) -> str:
    """Return a number as a reader wants it in a table: no decimals where they say nothing."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _check_keys(value: Mapping[str, object], kind: type, what: str) -> None:
    names = {entry.name for entry in fields(kind)}
    needed = {entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING}
    wrong = [f"no {name!r}" for name in sorted(needed - set(value))]
    wrong += [f"an unknown {name!r}" for name in sorted(set(value) - names)]
    if wrong:
        raise DataError(f"{what} has {', '.join(wrong)}; write it again with `seqdec eval`")
