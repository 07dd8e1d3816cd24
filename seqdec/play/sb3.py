"""Models of Stable-Baselines3 as actors.

A model's `predict` chooses the actions of all running episodes at once; a recurrent one gets its state back. Opening a
model's zip file runs code that is in it, so `load_sb3` wants the user's word for that.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import gymnasium
import numpy as np

from seqdec.errors import DataError, UsageError, in_words, suggest
from seqdec.play.actors import Actor
from seqdec.play.info import Choices
from seqdec.spaces.leaves import Batch, stack, unstack

OWN = {"a2c": "A2C", "ddpg": "DDPG", "dqn": "DQN", "ppo": "PPO", "sac": "SAC", "td3": "TD3"}
CONTRIB = {"qrdqn": "QRDQN", "recurrent_ppo": "RecurrentPPO", "tqc": "TQC", "trpo": "TRPO"}  # of sb3-contrib
States = tuple[np.ndarray, ...]


@runtime_checkable
class Predictor(Protocol):
    """What has the `predict` of a Stable-Baselines3 model or policy."""

    def predict(
        self,
        observation: Batch,
        state: States | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, States | None]:
        """Return actions for a batch of observations, or for one, and a recurrent policy's state.

        Args:
            observation: [rows, ...], or one observation.
            state: what came back the time before: arrays [layers, rows, width], as sb3-contrib has them.
            episode_start: [rows], true at an episode's first timestep.
            deterministic: take the most likely action.
        """
        ...


@runtime_checkable
class _Trained(Protocol):
    """A model that knows what it was trained in; a bare policy does not."""

    action_space: gymnasium.Space

    def get_vec_normalize_env(self) -> "_Normalizing | None": ...


class _Normalizing(Protocol):
    def normalize_obs(self, obs: Batch) -> Batch: ...


def from_sb3(model: Predictor, *, deterministic: bool = True, seed: int = 0) -> Actor:
    """Return a Stable-Baselines3 model, or whatever has its `predict`, as an actor.

    A model that was loaded with a `VecNormalize` environment (`PPO.load(path, env=...)`) sees observations normalized
    by it. Sampled actions are predicted row by row, each episode with random numbers of its own.

    Args:
        model: with `predict`; recurrent ones of sb3-contrib too.
        deterministic: take the most likely action instead of sampling.
        seed: of sampled actions.
    """
    return _ModelActor(model, deterministic, seed)


def load_sb3(path: Path | str, algorithm: str, *, trust_policy: bool = False) -> Predictor:
    """Open a model that Stable-Baselines3 saved.

    Args:
        path: the zip file.
        algorithm: which one saved it: "ppo", "sac", "recurrent_ppo", ...
        trust_policy: the user's word that whoever made the file is trusted: opening it unpickles its content.

    Raises:
        UsageError: no such word or algorithm, a package is missing, or the model needs statistics that lie beside it.
        DataError: Stable-Baselines3 cannot open the file.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no file '{path}': give the zip file of a Stable-Baselines3 model")
    if not trust_policy:
        raise UsageError(
            f"'{path}' is opened by Stable-Baselines3, which runs code that is in the file (it holds pickles): pass "
            "trust_policy=True if you trust whoever made it", option="trust_policy",
        )  # fmt: skip
    if algorithm not in OWN | CONTRIB:
        problem = f"is {algorithm!r}{suggest(algorithm, OWN | CONTRIB)}" if algorithm else "is missing"
        choices = ", ".join(OWN | CONTRIB)
        raise UsageError(f"the algorithm {problem} (give what saved '{path}': {choices})", option="algorithm")
    statistics = next(path.parent.glob("*vecnormalize*.pkl"), None)
    if statistics is not None:
        raise UsageError(
            f"'{statistics}' lies beside the model, which was then trained on normalized observations. Load both in "
            "Python: model = PPO.load(path, env=VecNormalize.load(statistics, envs)), then record(env, model, ...)"
        )
    kind = _algorithm(algorithm)
    try:
        return kind.load(path)
    except Exception as error:  # foreign code and a foreign file: whatever it raises
        raise DataError(f"'{path}' cannot be opened as {algorithm} ({in_words(error)})") from error


def _algorithm(name: str) -> type:
    try:
        if name in OWN:
            import stable_baselines3 as module  # pyright: ignore[reportMissingImports]
        else:
            import sb3_contrib as module  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        package = '"seqdec[sb3]"' if name in OWN else "sb3-contrib"
        raise UsageError(f"{name} models need a package that is not installed: pip install {package}") from error
    return getattr(module, (OWN | CONTRIB)[name])


class _ModelActor:
    """A model, its state for each running episode, and what counts its random numbers."""

    def __init__(self, model: Predictor, deterministic: bool, seed: int) -> None:
        self._model, self._deterministic, self._seed = model, deterministic, seed
        self._trained = model if isinstance(model, _Trained) else None
        normalizing = self._trained.get_vec_normalize_env() if self._trained else None
        self._normalize: Callable[[Batch], Batch] = normalizing.normalize_obs if normalizing else lambda seen: seen
        self._num_begun = self._timestep = 0
        self._episodes = np.arange(0)
        self._states: States | None = None

    def reset(self, num_envs: int) -> None:
        self._episodes = np.arange(self._num_begun, self._num_begun + num_envs)
        self._num_begun += num_envs
        self._timestep, self._states = 0, None

    def seek(self, episode: int) -> None:
        self._num_begun = episode

    def act(self, observations: Batch, rewards: np.ndarray | None, info: Choices | None = None) -> Batch:
        try:
            seen = self._normalize(observations)
            if self._deterministic:
                actions, self._states = self._predict(seen, len(self._episodes), self._states)
            else:
                actions, self._states = self._sample(seen)
        except (ValueError, AssertionError, KeyError, TypeError) as error:  # how it says that spaces do not fit
            words = " ".join(str(error).split())[:300]
            raise UsageError(f"the model cannot act on what this environment shows: {words}") from error
        self._timestep += 1
        return actions

    def keep(self, rows: np.ndarray) -> None:
        self._episodes = self._episodes[rows]
        if self._states is not None:
            self._states = tuple(state[:, rows] for state in self._states)

    def _predict(self, seen: Batch, num_rows: int, states: States | None) -> tuple[np.ndarray, States | None]:
        starts = np.full(num_rows, self._timestep == 0)
        return self._model.predict(seen, state=states, episode_start=starts, deterministic=self._deterministic)

    def _sample(self, seen: Batch) -> tuple[np.ndarray, States | None]:
        """Predict row by row, each seeded: the model draws from generators that all of a process share."""
        import torch

        rows: list[tuple[np.ndarray, States | None]] = []
        with _restored_generators():
            for row, observation in enumerate(unstack(seen, len(self._episodes))):
                numbers = np.random.SeedSequence([self._seed, int(self._episodes[row]), self._timestep])
                seed = int(numbers.generate_state(1)[0])
                torch.manual_seed(seed)
                np.random.seed(seed)  # noqa: NPY002 - DQN explores by it
                if self._trained:
                    self._trained.action_space.seed(seed)
                states = self._states and tuple(state[:, [row]] for state in self._states)
                rows.append(self._predict(stack([observation]), 1, states))
        parts = [states for _, states in rows if states is not None]
        states = tuple(np.concatenate(layers, axis=1) for layers in zip(*parts, strict=True)) if parts else None
        return np.concatenate([actions for actions, _ in rows]), states


@contextmanager
def _restored_generators() -> Iterator[None]:
    """Leave the process's generators as they were."""
    import torch

    before = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
