"""`seqdec data record`: an actor plays in an environment, and its episodes become a data folder."""

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqdec.cli import assembly, folders
from seqdec.cli.console import progress
from seqdec.cli.data import missing_leaves, show_folder
from seqdec.cli.options import debug, needed, option
from seqdec.errors import UsageError, suggest

if TYPE_CHECKING:
    from seqdec.play import Actor

RECORDED_EPISODES = 100  # where neither episodes nor timesteps are asked for


@dataclass(frozen=True)
class DataRecord:
    """Record episodes of a Gymnasium environment; the same command goes on where it was cut off."""

    env_id: str = needed("Registered environment id.")
    output: str = option("", "Folder to write (default: data/ and the id).")
    policy: str = option(
        "random", "Who acts: random, a run or policy folder, or the zip file of a Stable-Baselines3 model."
    )
    target_return: str = option("max", "Return a trained policy is asked for: a number or a quantile of its data.")
    task: str = option("", "Which task of a policy that has several.")
    algorithm: str = option("", "What saved the zip file: ppo, sac, dqn, ...")
    trust_policy: bool = option(False, "Open the zip file, which runs code that is in it.")
    episodes: int | None = option(None, "How many episodes (default: 100, unless --timesteps is given).", at_least=1)
    timesteps: int = option(
        0, "Record whole episodes until there are so many timesteps (0: count episodes instead).", at_least=0
    )
    num_envs: int = option(1, "Environments that run together.", at_least=1, at_most=65536)
    seed: int = option(0, "Seed of the first episode; the next one has the next seed.", at_least=0)
    max_steps: int = option(0, "Longest episode (0: the environment's own limit).", at_least=0)
    missing: tuple[str, ...] = missing_leaves()
    debug: bool = debug()


def data_record(given: DataRecord) -> int:
    """Record episodes of an environment, acted in at random or by a policy; go on where a recording was cut off."""
    output = folders.check_new_folder(given.output or folders.default_data_folder(given.env_id))

    import gymnasium

    from seqdec.play import record

    if given.env_id not in gymnasium.registry and ":" not in given.env_id:
        raise UsageError(
            f"no environment {given.env_id!r} is registered{suggest(given.env_id, gymnasium.registry)}; "
            "an environment of another package is named PACKAGE:ID"
        )
    policy, name = _recorded_policy(given)
    if given.timesteps and given.episodes is not None:
        raise UsageError("--episodes and --timesteps both say how much to record: give one of them")
    num_episodes = None if given.timesteps else given.episodes or RECORDED_EPISODES
    with progress(num_episodes, "episode") as advance:
        record(
            given.env_id,
            policy,
            num_episodes=num_episodes,
            num_timesteps=given.timesteps or None,
            seed=given.seed,
            num_envs=given.num_envs,
            max_steps=given.max_steps or None,
            missing=given.missing,
            policy_name=name,
            folder=output,
            progress=advance,
        )
    return show_folder(output)


def _recorded_policy(given: DataRecord) -> "tuple[Actor | Callable[..., object], str]":
    """Return who acts, and a name for it that no other policy has."""
    path = Path(given.policy)
    if path.is_file() or path.suffix == ".zip":
        from seqdec.play import from_sb3
        from seqdec.play.sb3 import load_sb3

        model = load_sb3(path, given.algorithm, trust_policy=given.trust_policy)
        return from_sb3(model), f"{path.stem} ({given.algorithm} {_digest(path)})"
    is_random = given.policy == "random"
    folder = None if is_random else folders.find_policy(path)[0]

    from gymnasium.spaces import Discrete

    from seqdec.play import make_envs, random_policy
    from seqdec.play.make import check_spaces
    from seqdec.spaces.spec import EnvironmentSpec

    if folder is None:
        # made once, only to know its actions
        unknown = EnvironmentSpec(Discrete(1), Discrete(1))
        with closing(make_envs(unknown, 1, env_id=given.env_id)) as envs:
            return random_policy(envs.single_action_space), "random"

    from seqdec.inference.evaluation import resolve_targets
    from seqdec.inference.policy import Policy
    from seqdec.model.folder import load_policy
    from seqdec.training.processes import join_processes

    model = load_policy(folder, task=given.task, merge_adapters=True)
    with closing(make_envs(model.data.spec, 1, env_id=given.env_id)) as envs:
        check_spaces(model.data.spec, envs)
    device = join_processes().device
    assert device is not None
    model.to(device)
    target = None
    if assembly.reads_return(model.layout):
        target = resolve_targets([given.target_return], model.data.returns)[0]
    place = folder.resolve()
    words = [_digest(folder / "manifest.json"), given.task, "" if target is None else f"asked for {target:g}"]
    name = place.parent.name if place.name == "policy" else place.name
    return Policy(model, target, seed=given.seed), f"{name} ({', '.join(filter(None, words))})"


def _digest(path: Path) -> str:
    """Return the beginning of a file's sha256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
