"""`seqdec eval`: ask a policy for returns, write the report and print the table."""

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from seqdec.cli import asking, assembly, folders
from seqdec.cli.console import importing, progress
from seqdec.cli.options import debug, needed, option


@dataclass(frozen=True)
class Eval:
    """Ask a policy for returns and report what it earns: a table, report.json, report.png."""

    run: str = needed("Run folder or policy folder.")
    task: str = option("", "Task of a policy that has several.")
    text: str = option("", "What to do, in words, for a policy with a text in its prompt (default: its data's).")
    goal: tuple[str, ...] = option(
        (), "Observation to reach: its numbers, or the leaf of the observation that says it."
    )
    goal_in: float | None = option(None, "Timesteps until the goal is reached (default: unknown).", at_least=0)
    waypoints: tuple[str, ...] = option(
        (), "Observations to pass on the way, in order: what a goal has of the first, of the second, and so on."
    )
    waypoints_in: tuple[str, ...] = option((), "Timesteps until each of them is passed (default: unknown).")
    final: tuple[str, ...] = option(
        (), "Observation after the last step: its numbers, or the leaf of the observation that says it."
    )
    demo: str = option("", "Data folder or minari:ID, whose best episode is shown as a demo: its best timesteps.")
    target_return: tuple[str, ...] = option(
        ("q10", "median", "q90", "max"),
        "Returns to ask for: numbers, min, q10 .. q90, median, max of the data, or expert: what one would get.",
    )
    guidance: tuple[str, ...] = option(
        (), "How much to sharpen actions towards the evidence: a number, or NAME=NUMBER for pieces of it."
    )
    plan: int = option(
        0,
        "Timesteps to look ahead by the model's own predictions (0: act without planning).",
        at_least=0,
        at_most=10000,
    )
    plan_candidates: int = option(16, "Actions that a plan tries at a timestep.", at_least=1, at_most=65536)
    plan_keep: int = option(4, "How many of them go on to the next timestep.", at_least=1, at_most=65536)
    plan_outcomes: int = option(
        8, "What may come of each, over which a plan averages (1: beam search).", at_least=1, at_most=65536
    )
    replan_every: int = option(1, "Timesteps that are acted by a plan.", at_least=1, at_most=10000)
    episodes: int = option(32, "Episodes a target.", at_least=1)
    num_envs: int = option(16, "Environments that run together.", at_least=1, at_most=65536)
    async_envs: bool = option(
        False, "Step each environment in a process of its own, half of them while the model works for the others."
    )
    seed: int = option(0, "Seed of the first episode; the next one has the next seed, for every target.", at_least=0)
    temperature: float = option(1.0, "Temperature of sampled actions (0: the most likely).", at_least=0, at_most=1000)
    env: str = option("", "Environment id to evaluate in (default: the data's own).")
    trust_env: bool = option(
        False, "Make the environment that the policy names, even from an entry point (runs its code)."
    )
    max_steps: int = option(0, "Longest episode (0: the environment's own limit).", at_least=0)
    output: str = option("", "Folder for report.json and report.png (default: the run folder).")
    debug: bool = debug()


def evaluate_run(given: Eval) -> int:
    """Ask a policy for returns, write the report and print the table."""
    policy_folder, run_folder = folders.find_policy(Path(given.run))
    output = Path(given.output) if given.output else run_folder
    folders.check_writable(output)

    with importing():
        from seqdec import storage
        from seqdec.inference.evaluation import evaluate, resolve_targets
        from seqdec.inference.plots import plot_report
        from seqdec.inference.policy import Policy
        from seqdec.model.folder import load_policy
        from seqdec.play.make import check_spaces
        from seqdec.training.processes import join_processes

    model = load_policy(policy_folder, task=given.task, merge_adapters=True)
    targets: list[float | str | None] = [*resolve_targets(given.target_return, model.data.returns)]
    prompt = asking.make_prompt(given, model)
    guidance, planning = asking.make_guidance(given), asking.make_planning(given)
    if assembly.reads_return(model.layout):
        assembly.note_far_targets(targets, model.data.returns)
    else:
        print("this policy is not asked for a return: its layout reads none")
        targets = [None]
    device = join_processes().device
    assert device is not None
    model.to(device)
    num_envs = min(given.num_envs, given.episodes)
    spec, envs = assembly.open_envs(given, model.data.spec, num_envs, asynchronous=given.async_envs)
    with ExitStack() as stack:
        for batch in envs:
            stack.enter_context(closing(batch))
        check_spaces(model.data.spec, envs[0])
        advance = stack.enter_context(progress(given.episodes * len(targets), "episode"))
        report = evaluate(
            lambda target: Policy(
                model,
                target,
                prompt=prompt,
                guidance=guidance,
                planning=planning,
                temperature=given.temperature,
                seed=given.seed,
            ),
            envs,
            targets=targets,
            num_episodes=given.episodes,
            seed=given.seed,
            spec=spec,
            data_returns=model.data.returns,
            discount=model.layout.discount,
            delayed_reward=model.layout.delayed_reward,
            progress=advance,
        )
    folders.make_folder(output)
    name = f"report-{given.task}" if given.task else "report"
    storage.write_json(output / f"{name}.json", report.to_json())
    plot_report({run_folder.name: report}, output / f"{name}.png")
    print(f"{report.table()}\nreport: {output / f'{name}.json'}, {output / f'{name}.png'}", flush=True)
    return 0
