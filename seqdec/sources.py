"""Where episodes come from: Minari's data sets, an environment played here, the sample, a folder.

Each source gives a data set as in `rows`, checked. Only `from_minari` may reach for the network, and only for an id
that is not on this machine.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium
import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from seqdec import minari_files, storage
from seqdec.environment import EnvironmentSpec, Guarded, make_envs, spec_of_env
from seqdec.errors import DataError, UsageError, suggest
from seqdec.hub import hub_host, is_hub_reachable
from seqdec.rollouts import Actor, rollout
from seqdec.rows import Row, drop_nonfinite, from_rows, num_bytes, open_folder
from seqdec.rows import check as check
from seqdec.rows import column as column
from seqdec.rows import environment_of as environment_of
from seqdec.rows import from_episodes as from_episodes
from seqdec.rows import lengths as lengths
from seqdec.rows import returns as returns
from seqdec.rows import save as save
from seqdec.spaces import describe_space, quote

QUANTILES = ("min", "q10", "q20", "q30", "q40", "q50", "q60", "q70", "q80", "q90", "max")


def from_minari(
    name: str, *, on_nonfinite: Literal["refuse", "drop-episode"] = "refuse", clip_actions: bool = False
) -> Dataset:
    """Read a Minari data set: a local folder or an id, which is fetched once if it is not here.

    Args:
        name: a folder, or an id such as "mujoco/hopper/medium-v0" below MINARI_DATASETS_PATH.
        on_nonfinite: what becomes of an episode that holds nan or an infinity.
        clip_actions: bring actions that leave the action space back to its bounds instead of refusing them.
    """
    if on_nonfinite not in ("refuse", "drop-episode"):
        raise UsageError(f"on_nonfinite is {quote(on_nonfinite)}: expected 'refuse' or 'drop-episode'")
    folder = _minari_folder(name)
    spec = minari_files.read_spec(folder)
    rows: Iterator[Row] = minari_files.read_rows(folder, spec)
    if clip_actions and isinstance(spec.action_space, Box):
        low, high = spec.action_space.low, spec.action_space.high
        rows = ({**row, "action": np.clip(row["action"], low, high)} for row in rows)
    dataset = from_rows(rows, spec)
    if on_nonfinite == "drop-episode":
        dataset = drop_nonfinite(dataset)
    check(dataset)
    return dataset


def record(
    env: str | Callable[[], gymnasium.Env],
    policy: Actor | Callable[[np.ndarray, np.random.Generator], np.ndarray | int],
    *,
    num_episodes: int,
    seed: int,
    num_envs: int = 1,
    max_steps: int | None = None,
    reference_returns: tuple[float, float] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """Play episodes and return them as a data set.

    Args:
        env: a registered id, or a function that makes the environment.
        policy: an `Actor`, or a function of one observation and a random generator; each episode has its own
            generator, so that the number of environments changes nothing.
        num_episodes: how many.
        seed: of the first episode; the others follow.
        num_envs: how many environments play side by side.
        max_steps: the longest episode.
        reference_returns: the returns of score 0 and score 100, where they are known.
        progress: called with the number of episodes that ended since the last call.
    """
    plain = EnvironmentSpec(Discrete(1), Discrete(1))
    if isinstance(env, str):
        envs = make_envs(plain, num_envs, env_id=env, max_steps=max_steps)
    else:
        limit = {} if max_steps is None else {"max_steps": max_steps}
        envs = SyncVectorEnv([lambda: Guarded(env(), **limit)] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
    try:
        assert isinstance(envs, SyncVectorEnv)
        guarded = envs.envs[0]
        assert isinstance(guarded, Guarded)
        spec = spec_of_env(guarded.env, reference_returns)
        actor = policy if isinstance(policy, Actor) else _FunctionActor(policy, seed)
        episodes = rollout(actor, envs, num_episodes=num_episodes, seed=seed, progress=progress)
    finally:
        envs.close()
    return from_episodes(episodes, spec)


def scripted_cartpole(num_episodes: int = 260, seed: int = 0) -> Dataset:
    """Make the sample data: CartPole-v1 by a scripted controller at evenly graded noise, returns 10 to 500.

    The noise of an episode is how far its controller misjudges the cart's velocity, which lets the cart drift
    off the track or the pole fall sooner or later, and how often it acts at random. So behaviour tells the
    return, all along the scale.
    """
    return record(
        "CartPole-v1",
        _NoisyController(num_episodes, seed),
        num_episodes=num_episodes,
        seed=seed,
        num_envs=min(num_episodes, 20),
        # A uniformly random policy's mean, and the time limit.
        reference_returns=(22.2, 500.0),
    )


def load(folder_or_id: str | Path) -> Dataset:
    """Open a data set: "minari:ID", a folder that `save` wrote (memory-mapped), or a folder of Minari's."""
    name = str(folder_or_id)
    if name.startswith("minari:"):
        return from_minari(name.removeprefix("minari:"))
    folder = Path(name)
    if not folder.is_dir():
        parent = folder.parent
        siblings = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
        nearest = suggest(folder.name, siblings)
        raise UsageError(f"no folder {quote(name)}{nearest or '; for a Minari data set write minari:ID'}")
    if not (folder / "state.json").exists() and (folder / "data" / "metadata.json").exists():
        return from_minari(name)
    storage.verify(folder)
    dataset = open_folder(folder)
    check(dataset)
    return dataset


@dataclass(frozen=True)
class Description:
    """What a data set holds; as text, the table that `seqdec data show` prints.

    Example:
        >>> print(describe(scripted_cartpole()))  # doctest: +SKIP
    """

    env_id: str | None
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    num_episodes: int
    num_timesteps: int
    length_quantiles: Mapping[str, int]
    return_quantiles: Mapping[str, float]
    fraction_terminated: float
    fraction_truncated: float
    num_bytes: int
    reference_returns: tuple[float, float] | None

    def __str__(self) -> str:
        """Return the table."""
        reference = self.reference_returns
        lines = [
            ("environment", "not named" if self.env_id is None else quote(self.env_id)[1:-1]),
            ("observation", describe_space(self.observation_space)),
            ("action", describe_space(self.action_space)),
            ("episodes", f"{self.num_episodes:,}"),
            ("timesteps", f"{self.num_timesteps:,}"),
            ("terminated", f"{self.fraction_terminated:.0%}, truncated {self.fraction_truncated:.0%}"),
            ("size", f"{self.num_bytes / 1e6:.1f} MB"),
            ("score 0 / 100", "not known" if reference is None else f"{reference[0]:g} / {reference[1]:g}"),
            ("", "".join(f"{name:>8}" for name in QUANTILES)),
            ("length", "".join(f"{self.length_quantiles[name]:>8}" for name in QUANTILES)),
            ("return", "".join(f"{_short(self.return_quantiles[name]):>8}" for name in QUANTILES)),
        ]
        return "\n".join(f"{name:<14} {text}" for name, text in lines)


def describe(dataset: Dataset) -> Description:
    """Count and measure a data set."""
    spec = environment_of(dataset)
    episode_lengths = lengths(dataset)
    ends = {name: np.asarray(dataset.with_format("numpy")[name][:]) for name in ("terminated", "truncated")}
    return Description(
        env_id=spec.id,
        observation_space=spec.observation_space,
        action_space=spec.action_space,
        num_episodes=len(dataset),
        num_timesteps=int(episode_lengths.sum()),
        length_quantiles={name: round(value) for name, value in quantiles(episode_lengths).items()},
        return_quantiles=quantiles(returns(dataset)),
        fraction_terminated=float(ends["terminated"].mean()),
        fraction_truncated=float(ends["truncated"].mean()),
        num_bytes=num_bytes(dataset),
        reference_returns=spec.reference_returns,
    )


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Return min, the nine deciles and max by name ("q10", "q50")."""
    found = np.quantile(values, np.linspace(0, 1, len(QUANTILES)))
    return dict(zip(QUANTILES, found.tolist(), strict=True))


class _FunctionActor:
    """A function of one observation as an actor, with one random generator an episode."""

    def __init__(self, policy: Callable[[np.ndarray, np.random.Generator], np.ndarray | int], seed: int) -> None:
        self._policy = policy
        self._seed = seed
        self._num_started = 0
        self._generators: list[np.random.Generator] = []

    def reset(self, num_envs: int) -> None:
        first = self._num_started
        self._num_started += num_envs
        self._generators = [_generator(self._seed, first + row) for row in range(num_envs)]

    def act(self, observations: np.ndarray, rewards: np.ndarray | None) -> np.ndarray:
        rows = zip(observations, self._generators, strict=True)
        return np.stack([np.asarray(self._policy(observation, generator)) for observation, generator in rows])

    def keep(self, rows: np.ndarray) -> None:
        self._generators = [self._generators[row] for row in rows]


class _NoisyController:
    """Balances CartPole for as long as its noise, one level an episode, lets it."""

    # At noise 0 to 1: how far the cart's velocity is misjudged (m/s) and the share of random actions. Chosen so
    # that evenly spaced noise gives about evenly spaced returns.
    _LEVELS = (0.0, 0.16, 0.28, 0.42, 0.54, 0.64, 0.70, 0.78, 0.86, 0.92, 1.0)
    _DRIFTS = (0.0, 0.30, 0.50, 0.70, 1.05, 2.00, 2.80, 1.20, 0.50, 3.60, 5.0)
    _RANDOM = (0.0, 0.10, 0.10, 0.10, 0.10, 0.15, 0.20, 0.60, 0.80, 0.60, 0.3)
    # On x, its velocity, the pole's angle and its velocity; the cart's place is left free to drift.
    _GAINS = np.array([0.0, 0.3, 5.0, 1.0])

    def __init__(self, num_episodes: int, seed: int) -> None:
        order = np.random.default_rng(seed)
        noise = order.permutation(np.linspace(0, 1, num_episodes))
        side = order.choice([-1.0, 1.0], num_episodes)
        self._drifts = side * np.interp(noise, self._LEVELS, self._DRIFTS)
        self._random = np.interp(noise, self._LEVELS, self._RANDOM)
        self._seed = seed
        self._num_started = 0
        self._running: list[tuple[int, np.random.Generator]] = []

    def reset(self, num_envs: int) -> None:
        episodes = range(self._num_started, self._num_started + num_envs)
        self._num_started += num_envs
        self._running = [(episode, _generator(self._seed, episode)) for episode in episodes]

    def act(self, observations: np.ndarray, rewards: np.ndarray | None) -> np.ndarray:
        episodes = [episode for episode, _ in self._running]
        chance, coin = np.array([generator.random(2) for _, generator in self._running]).T
        seen = observations - self._drifts[episodes, None] * np.array([0.0, 1.0, 0.0, 0.0])
        steady = seen @ self._GAINS > 0
        return np.where(chance < self._random[episodes], coin < 0.5, steady).astype(np.int64)

    def keep(self, rows: np.ndarray) -> None:
        self._running = [self._running[row] for row in rows]


def _generator(seed: int, episode: int) -> np.random.Generator:
    return np.random.default_rng([seed, episode])


def _minari_folder(name: str) -> Path:
    """Return the folder that holds metadata.json, fetching an id that is not here."""
    for folder in (Path(name) / "data", Path(name)):
        if (folder / "metadata.json").is_file():
            return folder
    if not re.fullmatch(r"(?:[\w.-]+/)*[\w.-]+-v\d+", name) or ".." in name.split("/"):
        raise UsageError(f"{quote(name)} is neither a folder with a Minari data set nor an id like 'name/set-v0'")
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    folder = root / name / "data"
    if not (folder / "metadata.json").is_file():
        _download(name, folder)
    return folder


def _download(name: str, folder: Path) -> None:
    import minari

    try:
        if not is_hub_reachable():
            raise ConnectionError("out of reach")
        with contextlib.redirect_stdout(sys.stderr):  # Minari prints; a library's output is its caller's
            minari.download_dataset(name, force_download=folder.parent.exists())
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"no Minari data set {quote(name)} in {folder.parents[1]}, and fetching it from {hub_host()} failed "
            f"({type(error).__name__}: {reason}); put it there or set MINARI_DATASETS_PATH"
        ) from error
    if not (folder / "metadata.json").is_file():
        raise DataError(f"Minari fetched {quote(name)}, but {folder / 'metadata.json'} is missing")


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
