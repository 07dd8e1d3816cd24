"""`seqdec eval`: what a policy is asked for, in which environments, and the report; and the same while training."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqdec.cli import folders
from seqdec.cli.console import importing, is_main_process, progress
from seqdec.cli.options import Words, debug, keywords, needed, numbers, option, reset_options, to_reset
from seqdec.errors import UsageError

if TYPE_CHECKING:
    from seqdec.cli.train import Train
    from seqdec.data.episode import Episode
    from seqdec.finetune import Task
    from seqdec.inference.planning import Planning
    from seqdec.inference.prompt import Prompt
    from seqdec.model.sequence_model import SequenceModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Eval:
    """Ask a policy for returns and report what it earns: a table, report.json, report.png."""

    run: str = needed("Run folder or policy folder.")
    task: str = option("", "Task of a policy that has several.")
    text: str = option("", "What to do, in words, for a policy with a text in its prompt (default: its data's).")
    goal: Words = option((), "Observation to reach: its numbers, or the leaf of the observation that says it.")
    goal_in: float | None = option(None, "Timesteps until the goal is reached (default: unknown).", at_least=0)
    waypoints: Words = option((), "Observations to pass, in order: what a goal has of the first, of the second, ...")
    waypoints_in: Words = option((), "Timesteps until each of them is passed (default: unknown).")
    final: Words = option((), "Observation after the last step: its numbers, or the leaf that says it.")
    demo: str = option("", "Data folder or minari:ID, whose best episode is shown as a demo: its best timesteps.")
    target_return: Words = option(
        ("q10", "median", "q90", "max"),
        "Returns to ask for: numbers, min, q10 .. q90, median, max of the data, or expert: what one would get.",
    )
    guidance: Words = option((), "How much to sharpen actions towards the evidence: a number, or NAME=NUMBER.")
    plan: int = option(0, "Timesteps to look ahead by the model's predictions (0: no planning).", at_least=0)
    plan_candidates: int = option(16, "Actions that a plan tries at a timestep.", at_least=1)
    plan_keep: int = option(4, "How many of them go on to the next timestep.", at_least=1)
    plan_outcomes: int = option(8, "Outcomes of each that a plan averages over (1: beam search).", at_least=1)
    replan_every: int = option(1, "Timesteps that are acted by a plan.", at_least=1)
    episodes: int = option(32, "Episodes a target.", at_least=1)
    num_envs: int = option(16, "Environments that run together.", at_least=1)
    async_envs: bool = option(False, "Step environments in processes of their own, half of them while the model works.")
    step_seconds: float = option(600, "Longest step of --async-envs.", at_least=1e-3)
    seed: int = option(0, "Seed of the first episode; the next one has the next seed, for every target.", at_least=0)
    reset_options: str = to_reset()
    temperature: float = option(1.0, "Temperature of sampled actions (0: the most likely).", at_least=0, at_most=1000)
    precision: Literal["no", "bf16"] = option("no", "Mixed precision; with words a third less time on many CPUs.")
    env: str = option("", "Environment id to evaluate in (default: the data's own).")
    trust_env: bool = option(False, "Make the data's environment even from an entry point (runs its code).")
    max_steps: int = option(0, "Longest episode (0: the environment's own limit).", at_least=0)
    output: str = option("", "Folder for report.json and report.png (default: the run folder).")
    debug: bool = debug()


def evaluate_run(given: Eval) -> int:
    """Ask a policy for returns, write the report and print the table."""
    policy_folder, run_folder = folders.find_policy(Path(given.run))
    output = Path(given.output) if given.output else run_folder
    folders.check_writable(output)

    with importing():
        import torch

        from seqdec import storage
        from seqdec.inference.evaluation import evaluate_policy, reads_return
        from seqdec.inference.plots import plot_report
        from seqdec.inference.policy import Policy

    model = load_model(policy_folder, given.task)
    evidence = {"prompt": make_prompt(given, model), "guidance": make_guidance(given), "planning": make_planning(given)}
    policy = partial(Policy, model, **keywords(given, Policy, **evidence))  # of a target
    num_targets = len(given.target_return)
    if not reads_return(model.layout):
        print("this policy is not asked for a return: its layout reads none")
        num_targets = 1
    place = {**_place(given), "asynchronous": given.async_envs, "step_seconds": given.step_seconds}
    starts = {"num_episodes": given.episodes, "reset_options": reset_options(given.reset_options)}
    options = keywords(given, evaluate_policy, **starts, **place)
    mixed = torch.autocast(model.device.type, torch.bfloat16, enabled=given.precision == "bf16")
    with mixed, progress(given.episodes * num_targets, "episode") as advance:
        report = evaluate_policy(policy, model, given.target_return, progress=advance, **options)
    folders.make_folder(output)
    name = f"report-{given.task}" if given.task else "report"
    storage.write_json(output / f"{name}.json", report.to_json())
    plot_report({run_folder.name: report}, output / f"{name}.png")
    print(f"{report.table()}\nreport: {output / f'{name}.json'}, {output / f'{name}.png'}", flush=True)
    return 0


def load_model(folder: Path, task: str) -> "SequenceModel":
    """Return the model of a policy folder on this machine's fastest device, its adapters merged."""
    from seqdec.model.folder import load_policy
    from seqdec.training.processes import join_processes

    model = load_policy(folder, task=task, merge_adapters=True)
    device = join_processes().device
    assert device is not None
    return model.to(device)


def make_evaluation(
    given: "Train", tasks: "Mapping[str, Task]"
) -> "Callable[[Mapping[str, SequenceModel]], dict[str, float]] | None":
    """Return what measures models in their tasks' environments while training; None where there are none to be had."""
    if given.env and len(tasks) > 1:
        raise UsageError("--env names one environment, the run has several tasks: leave it out")
    measures = {name: _make_measure(given, task) for name, task in tasks.items()}
    measures = {name: measure for name, measure in measures.items() if measure is not None}

    def measure_all(models: "Mapping[str, SequenceModel]") -> dict[str, float]:
        returns = {name: measure(models[name]) for name, measure in measures.items()}
        return {
            f"eval/return_{name}/{word}" if name else f"eval/return_{word}": value
            for name, values in returns.items()
            for word, value in values.items()
        }

    return measure_all if measures else None


def _make_measure(given: "Train", task: "Task") -> "Callable[[SequenceModel], dict[str, float]] | None":
    from seqdec.inference.evaluation import evaluate, open_envs, reads_return, targets_for
    from seqdec.inference.policy import Policy
    from seqdec.inference.prompt import check_expert
    from seqdec.model.sequence_model import summarize_returns

    data_returns, layout = summarize_returns(task.windows.returns), task.windows.layout
    targets = targets_for(given.target_return, layout, data_returns)
    if "expert" in targets:
        check_expert(layout, task.windows.spec.action_leaves)
    needed = [name for name in layout.facts if name not in ("target_return", "text")]
    if needed and layout.prompt_dropout == 0:
        logger.warning("training without evaluations: they need a %s, which seqdec eval takes", needed[0])
        return None
    if not is_main_process():
        return None
    try:
        spec, envs = open_envs(task.windows.spec, min(given.num_envs, given.episodes), **_place(given))
    except UsageError as error:
        if given.env or given.trust_env:
            raise
        # Training needs no environment; the first evaluation will.
        logger.warning("training without evaluations: %s", error)
        return None
    words = given.target_return if reads_return(layout) else ["unasked"]

    def measure(model: "SequenceModel") -> dict[str, float]:
        report = evaluate(
            partial(Policy, model, **keywords(given, Policy, "prompt")),
            envs,
            targets=targets,
            num_episodes=given.episodes,
            seed=given.seed,
            reset_options=reset_options(given.reset_options),
            spec=spec,
            data_returns=data_returns,
            discount=layout.discount,
            delayed_reward=layout.delayed_reward,
        )
        return {word: result.mean for word, result in zip(words, report.targets, strict=True)}

    return measure


def _place(given: "Eval | Train") -> dict[str, Any]:
    """Return the environment to act in, as `open_envs` takes it."""
    return {"env": given.env or None, "trust_env": given.trust_env, "max_steps": given.max_steps or None}


def make_prompt(given: "Eval", model: "SequenceModel") -> "Prompt":
    """Return what --goal, --waypoints, --final, --text and --demo ask for."""
    from seqdec.inference.prompt import Prompt

    return Prompt(
        goal=_moment(given.goal, "goal", model),
        goal_in=given.goal_in,
        waypoints=_waypoints(given, model),
        waypoints_in=numbers(given.waypoints_in, "waypoints_in"),
        final=_moment(given.final, "final", model),
        text=given.text or None,
        demo=_best_part(given.demo, model) if given.demo else None,
    )


def _moment(words: Words, name: str, model: "SequenceModel") -> list[float] | str | None:
    """Return an observation by its numbers, or the leaf that says it; None where there are no words."""
    if len(words) == 1 and words[0] in model.data.spec.observation_leaves:
        return words[0]
    return numbers(words, name) or None


def _waypoints(given: "Eval", model: "SequenceModel") -> list[list[float]]:
    """Return the observations that --waypoints has one after the other."""
    flat = numbers(given.waypoints, "waypoints")
    if "waypoint1" not in model.layout.facts:
        return [flat] if flat else []  # which is refused, by name
    size = prod(model.layout.variable("waypoint1").shape)
    if len(flat) % size:
        raise UsageError(f"--waypoints has {len(flat)} numbers: give {size} for each waypoint")
    return [flat[first : first + size] for first in range(0, len(flat), size)]


def _best_part(data: str, model: "SequenceModel") -> "Episode":
    """Return the timesteps that earn most of the best episode of a data set, as many as a demo shows."""
    from seqdec.data import schema
    from seqdec.data.episode import Episode
    from seqdec.formats.load import load_dataset
    from seqdec.sequence.hindsight import best_part

    dataset = load_dataset(data)
    episode = Episode.from_row(dataset[int(schema.returns(dataset).argmax())])
    length = max(model.layout.demo_length, 1)
    first = best_part(episode.steps["reward"], length)
    return episode[first : first + length]


def make_guidance(given: "Eval") -> float | dict[str, float]:
    """Return what --guidance says: one weight, or one for each piece of evidence that it names."""
    pairs = [word.partition("=")[::2] for word in given.guidance]
    if len(pairs) == 1 and re.fullmatch(r"[-+.\d]\S*", given.guidance[0]):
        return numbers(given.guidance, "guidance")[0]
    if not all(name and weight for name, weight in pairs):
        raise UsageError(f"--guidance is {' '.join(given.guidance)}: give a number, or NAME=NUMBER for each piece")
    return {name: numbers([weight], "guidance")[0] for name, weight in pairs}


def make_planning(given: "Eval") -> "Planning | None":
    """Return how --plan and its flags say to plan; None to act without."""
    from seqdec.inference.planning import Planning

    if not given.plan:
        return None
    return Planning(given.plan, given.plan_candidates, given.plan_keep, given.plan_outcomes, given.replan_every)
