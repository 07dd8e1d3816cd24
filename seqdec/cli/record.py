"""`seqdec data record`: an actor plays in an environment, and its episodes become a data folder."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqdec.cli import folders
from seqdec.cli.console import progress
from seqdec.cli.data import missing_leaves, show_folder, spec_of
from seqdec.cli.evaluate import load_model
from seqdec.cli.options import Words, debug, keywords, needed, numbers, option, reset_options, to_reset
from seqdec.errors import UsageError

if TYPE_CHECKING:
    from seqdec.play import Actor

RECORDED_EPISODES = 100  # where neither episodes nor timesteps are asked for


@dataclass(frozen=True)
class DataRecord:
    """Record episodes of a Gymnasium environment; the same command goes on where it was cut off."""

    env_id: str = needed("Registered environment id; its arguments may follow, as in ID,NAME=VALUE,NAME=VALUE.")
    output: str = option("", "Folder to write (default: data/ and the id).")
    policy: str = option(
        "random", "Who acts: random, expert (text worlds), a run or policy folder, or a Stable-Baselines3 zip file."
    )
    noise: Words = option((), "How often the expert says anything instead; episode i takes the i-th share, and so on.")
    misplace: Words = option((), "How often the expert chooses a wrong place, likewise (default of both: a mixture).")
    target_return: str = option("max", "Return a trained policy is asked for: a number or a quantile of its data.")
    task: str = option("", "Which task of a policy that has several.")
    algorithm: str = option("", "What saved the zip file: ppo, sac, dqn, ...")
    trust_policy: bool = option(False, "Open the zip file, which runs code that is in it.")
    episodes: int | None = option(None, "How many episodes (default: 100, unless --timesteps is given).", at_least=1)
    timesteps: int = option(0, "Record whole episodes until so many timesteps (0: count episodes).", at_least=0)
    num_envs: int = option(1, "Environments that run together.", at_least=1)
    seed: int = option(0, "Seed of the first episode; the next one has the next seed.", at_least=0)
    max_steps: int = option(0, "Longest episode (0: the environment's own limit).", at_least=0)
    missing: Words = missing_leaves()
    reset_options: str = to_reset()
    debug: bool = debug()


def data_record(given: DataRecord) -> int:
    """Record episodes of an environment, acted in at random or by a policy; go on where a recording was cut off."""
    output = folders.check_data_folder(given.output or folders.default_data_folder(given.env_id.partition(",")[0]))

    from seqdec.play import record

    policy, name = _recorded_policy(given)
    if given.timesteps and given.episodes is not None:
        raise UsageError("--episodes and --timesteps both say how much to record: give one of them")
    num_episodes = None if given.timesteps else given.episodes or RECORDED_EPISODES
    with progress(num_episodes, "episode") as advance:
        amount = {"num_episodes": num_episodes, "num_timesteps": given.timesteps or None}
        starts = {"max_steps": given.max_steps or None, "reset_options": reset_options(given.reset_options)}
        options = keywords(given, record, **starts, **amount)
        record(given.env_id, policy, policy_name=name, folder=output, progress=advance, **options)
    return show_folder(output)


def _recorded_policy(given: DataRecord) -> "tuple[Actor | Callable[..., object], str]":
    """Return who acts, and a name for it that no other policy has."""
    if given.policy == "expert":
        from seqdec.play import TextWorldExpert

        errors = {name: numbers(getattr(given, name), name) for name in ("noise", "misplace")}
        words = [f"{name} {' '.join(f'{share:g}' for share in shares)}" for name, shares in errors.items() if shares]
        return TextWorldExpert(given.env_id, seed=given.seed, **errors), f"expert ({', '.join(words) or 'mixture'})"
    if given.noise or given.misplace:
        raise UsageError("--noise and --misplace are of the expert: add --policy expert")
    path = Path(given.policy)
    if path.is_file() or path.suffix == ".zip":
        from seqdec.play import from_sb3
        from seqdec.play.sb3 import load_sb3

        model = load_sb3(path, given.algorithm, trust_policy=given.trust_policy)
        return from_sb3(model), f"{path.stem} ({given.algorithm} {_digest(path)})"
    if given.policy == "random":
        from seqdec.play import random_policy

        return random_policy(spec_of(given.env_id).action_space), "random"
    folder, _ = folders.find_policy(path)

    from seqdec.inference.evaluation import targets_for
    from seqdec.inference.policy import Policy
    from seqdec.play.closing import closing_envs
    from seqdec.play.make import check_spaces, make_envs

    model = load_model(folder, given.task)
    with closing_envs(make_envs(model.data.spec, 1, env_id=given.env_id)) as envs:
        check_spaces(model.data.spec, envs)
    target = targets_for(given.target_return, model.layout, model.data.returns)[0]
    place = folder.resolve()
    shown = f"{target:g}" if isinstance(target, float) else target
    words = [_digest(folder / "manifest.json"), given.task, "" if target is None else f"asked for {shown}"]
    name = place.parent.name if place.name == "policy" else place.name
    return Policy(model, target, seed=given.seed), f"{name} ({', '.join(filter(None, words))})"


def _digest(path: Path) -> str:
    """Return the beginning of a file's sha256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
