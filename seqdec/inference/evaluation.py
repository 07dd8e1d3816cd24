"""How well a policy does what it is asked: one target after the other, on the same environment seeds.

    asked 500  ->  32 episodes on seeds 0..31  ->  mean, interval, score
    asked 200  ->  the same 32 seeds           ->  ...

so that two targets, or two policies, differ by what they do and not by the luck of their starts. Failed episodes are
counted and named; the mean is over the others. Of models it knows the data's returns and the layout; it asks actors.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import numpy as np
from gymnasium.vector import VectorEnv

from seqdec.data.episode import MAX_MAGNITUDE, Episode
from seqdec.errors import UsageError
from seqdec.inference.report import Report, TargetResult, in_words
from seqdec.model.sequence_model import SequenceModel
from seqdec.play import Actor, make_envs, rollout
from seqdec.play.closing import closing_envs
from seqdec.play.make import check_spaces, parse_id
from seqdec.play.rollouts import Failure
from seqdec.play.starts import Options
from seqdec.sequence.layout import Layout
from seqdec.spaces.spec import EnvironmentSpec

NUM_RESAMPLES = 2000
Target = float | str | None
logger = logging.getLogger(__name__)


class Place(TypedDict, total=False):
    """Where a policy acts, the data's environment by default.

    `env` is the id of another, which has no known scores unless it is the same; `trust_env` makes what the data name
    even where nothing on this machine vouches for it; `max_steps` is the longest episode; `asynchronous` environments
    have processes of their own, in two batches that take turns, and `step_seconds` for a step.
    """

    env: str | None
    trust_env: bool
    max_steps: int | None
    asynchronous: bool
    step_seconds: float


def evaluate_policy(
    make_policy: Callable[[Target], Actor],
    model: SequenceModel,
    target_return: Target | Sequence[Target],
    *,
    num_episodes: int = 32,
    num_envs: int = 16,
    seed: int = 0,
    reset_options: Options | Sequence[Options] | None = None,
    progress: Callable[[int], None] | None = None,
    **place: Unpack[Place],
) -> Report:
    """Make the environment that a model's data name, ask policies for each target in it, and report.

    Args:
        make_policy: returns a fresh policy around the model that asks for one target.
        model: names the environment, the data's returns and the unit of returns.
        target_return: numbers or words, as `targets_for` takes them.
        num_episodes: of each target.
        num_envs: that run at once; it changes the speed, not the result.
        seed: of the first episode.
        reset_options: as `rollout` has it.
        progress: called with the number of episodes that ended since the last call.
        place: where they act, see `Place`.

    Raises:
        UsageError: the environment cannot be made or has other spaces, or a target is none.
    """
    targets = targets_for(target_return, model.layout, model.data.returns)
    spec, envs = open_envs(model.data.spec, min(num_envs, num_episodes), **place)
    with ExitStack() as stack:
        for batch in envs:
            stack.enter_context(closing_envs(batch))
        return evaluate(
            make_policy, envs, targets=targets, num_episodes=num_episodes, seed=seed, spec=spec,
            data_returns=model.data.returns, discount=model.layout.discount,
            delayed_reward=model.layout.delayed_reward, reset_options=reset_options, progress=progress,
        )  # fmt: skip


def open_envs(spec: EnvironmentSpec, num_envs: int, **place: Unpack[Place]) -> tuple[EnvironmentSpec, list[VectorEnv]]:
    """Return environments to act in, and the spec that they have.

    Raises:
        UsageError: the environment cannot be made, or its spaces are not the data's.
    """
    env = place.pop("env", None)
    sizes = [num_envs - num_envs // 2, num_envs // 2] if place.get("asynchronous") and num_envs > 1 else [num_envs]
    envs = [make_envs(spec, size, env_id=env, **place) for size in sizes]  # pyright: ignore[reportCallIssue]
    check_spaces(spec, envs[0])
    if env and parse_id(env)[0].split(":")[-1] != spec.id:  # package:ID is the same environment
        spec = replace(spec, id=env, reference_returns=None)
    return spec, envs


def targets_for(asked: Target | Sequence[Target], layout: Layout, data_returns: Mapping[str, float]) -> list[Target]:
    """Return what to ask for, in raw units, and warn of targets far from the data's returns.

    Args:
        asked: one target or several: a number; a word such as "median", "q90" or "max" for a quantile of the data's
            returns; "expert" for what an expert would get; None for nothing.
        layout: a policy whose layout reads no return is asked for nothing, once.
        data_returns: quantiles by name.

    Raises:
        UsageError: a word is neither a finite number nor a name in `data_returns`.
    """
    if not reads_return(layout):
        return [None]
    several = list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]
    targets = [target if target is None else resolve_targets([target], data_returns)[0] for target in several]
    for target in targets:
        if isinstance(target, float) and not data_returns["min"] <= target <= data_returns["max"]:
            low, high = data_returns["min"], data_returns["max"]
            logger.warning("asked %g; the data's returns are %g to %g: expect extrapolation", target, low, high)
    return targets


def reads_return(layout: Layout) -> bool:
    """Return whether a sequence has a place for the return that is asked for."""
    return bool({"return_to_go", "target_return"} & {*layout.step_names, *layout.prompt_names})


def evaluate(
    make_actor: Callable[[Target], Actor],
    envs: VectorEnv | Sequence[VectorEnv],
    *,
    targets: Sequence[Target],
    num_episodes: int,
    seed: int,
    spec: EnvironmentSpec,
    data_returns: Mapping[str, float],
    discount: float = 1.0,
    delayed_reward: bool = False,
    reset_options: Options | Sequence[Options] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Ask for each target in turn, on the same environment seeds, and report.

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
        reset_options: What `reset` is given, as `rollout` has it, for every target alike.
        progress: Called as `rollout` calls it.

    Raises:
        UsageError: No targets, no episodes, or every episode of a target failed.
    """
    if not targets:
        raise UsageError("no target returns to evaluate: give at least one")
    if num_episodes < 1:
        raise UsageError(f"{num_episodes} episodes asked for: give at least 1")
    batches = envs if isinstance(envs, Sequence) else [envs]
    started, how = time.perf_counter(), {"seed": seed, "reset_options": reset_options, "progress": progress}
    played = [_play(target, [make_actor(target) for _ in batches], batches, num_episodes, **how) for target in targets]
    seconds = time.perf_counter() - started
    everything = [episode for _, episodes, _ in played for episode in episodes]
    is_judged = any(episode.metadata.get("success") is not None for episode in everything)
    results = [_result_of(*part, seed, spec, discount, delayed_reward, is_judged) for part in played]
    asked = [(result.target_return, result.mean) for result in results if isinstance(result.target_return, float)]
    correlation = spearman([target for target, _ in asked], [mean for _, mean in asked])
    return Report(
        env=spec.id or "an unnamed environment",
        seed=seed,
        num_episodes=num_episodes,
        targets=results,
        rank_correlation=None if math.isnan(correlation) else correlation,
        data_returns=dict(data_returns),
        env_steps_per_second=sum(map(len, everything)) / max(seconds, 1e-9),
        discount=discount,
    )


def _play(
    target: Target, actors: list[Actor], batches: Sequence[VectorEnv], num_episodes: int, **how: Any
) -> tuple[Target, list[Episode], list[Failure]]:
    """Play the episodes of one target; those that failed stand apart."""
    failures: list[Failure] = []
    episodes = rollout(actors, batches, num_episodes=num_episodes, failures=failures, **how)
    if not episodes:
        asked = "" if target is None else f" for target {in_words(target)}"
        message = f"the first with: {failures[0].message}; mend the environment"
        raise UsageError(f"all {num_episodes} episodes{asked} failed, {message}")
    return target, episodes, failures


def _result_of(
    target: Target,
    episodes: Sequence[Episode],
    failures: Sequence[Failure],
    seed: int,
    spec: EnvironmentSpec,
    discount: float,
    delayed_reward: bool,
    is_judged: bool,
) -> TargetResult:
    """Return the numbers of one target's episodes: returns in the unit of the target, the score in full rewards."""
    undiscounted = [float(episode.total_return) for episode in episodes]
    returns = undiscounted
    # where the environment judges any, an episode of which it does not say so is no success
    num_successes = sum(episode.metadata.get("success") is True for episode in episodes)
    if discount != 1:
        returns = [float(episode.returns_to_go(discount, delayed_reward)[0]) for episode in episodes]
    return TargetResult(
        target_return=float(target) if isinstance(target, int | float) else target,
        mean=float(np.mean(returns)),
        std=float(np.std(returns)),
        ci95=bootstrap_interval(returns, seed),
        score=score(float(np.mean(undiscounted)), spec.reference_returns),
        episode_returns=returns,
        episode_lengths=[len(episode) for episode in episodes],
        failures=[{"episode": failure.episode, "message": failure.message} for failure in failures],
        success_rate=num_successes / len(episodes) if is_judged else None,
        success_ci95=wilson_interval(num_successes, len(episodes)) if is_judged else None,
    )


def resolve_targets(words: Sequence[str | float], data_returns: Mapping[str, float]) -> list[float | str]:
    """Return the targets that numbers and words such as "100", "q90", "median" or "max" stand for, in raw units.

    "expert" stays.

    Raises:
        UsageError: A word is neither a finite number nor a name in `data_returns`.
    """
    named = {**data_returns, "median": data_returns["q50"]}
    targets: list[float | str] = []
    for word in words:
        try:
            target = named[word] if word in named else word if word == "expert" else float(word)
        except (TypeError, ValueError):
            target = math.nan
        if not isinstance(target, str) and MAX_MAGNITUDE < abs(target) < math.inf:
            raise UsageError(f"target return {word!r} is too large: give a number from -1e18 to 1e18")
        if not isinstance(target, str) and not math.isfinite(target):
            names = ", ".join([*named, "expert"])
            raise UsageError(
                f"target return {word!r} is neither a finite number nor one of {names}: give a number or one of these "
                "quantiles of the data's returns"
            )
        targets.append(target if isinstance(target, str) else float(target))
    return targets


def bootstrap_interval(returns: Sequence[float], seed: int) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the mean (2000 seeded resamples)."""
    values = np.asarray(returns, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def wilson_interval(num_successes: int, num_episodes: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate by Wilson's score (1927): honest where all or none succeeded."""
    z, rate = 1.959964, num_successes / num_episodes
    scale = 1 + z**2 / num_episodes
    centre = (rate + z**2 / (2 * num_episodes)) / scale
    reach = z * math.sqrt(rate * (1 - rate) / num_episodes + (z / (2 * num_episodes)) ** 2) / scale
    return max(0.0, centre - reach), min(1.0, centre + reach)


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
