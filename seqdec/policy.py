"""A policy: for each slot of the step, write it if it is known, else sample it.

What is known is the observation, the reward of the step before, and the return that is left of the target.
"""

import numpy as np
import torch

from seqdec import noise
from seqdec.context import Context
from seqdec.errors import UsageError
from seqdec.model import SequenceModel


class Policy:
    """Acts in any number of environments at once, asking for a return: an `Actor` for `rollout`.

    Args:
        model: a trained model; it is put into evaluation mode.
        target_return: what to ask for at the first step, in raw units: one number, or one for each environment.
            None lets the model choose the return itself where its layout predicts it.
        temperature: 1 samples actions as the model has learned them, 0 takes the most likely one.
        top_k: keeps the most likely values only (discrete and binned variables).
        seed: of the samples.

    Raises:
        UsageError: if the layout reads a return and none is given, or the target is not a finite number.

    Example:
        >>> envs = make_envs(model.data.spec, num_envs=4)
        >>> episodes = rollout(Policy(model, target_return=200), envs, num_episodes=8, seed=0)
    """

    def __init__(
        self,
        model: SequenceModel,
        target_return: float | np.ndarray | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ):
        layout = model.layout
        is_asked = "return_to_go" in layout.step_names and "return_to_go" not in layout.predicted
        if target_return is None and (is_asked or layout.prompt):
            raise UsageError("this policy was trained to be asked for a return: give a target_return")
        if target_return is not None and not np.isfinite(target_return).all():
            raise UsageError(f"target_return is {target_return}: a finite number is needed")
        self.model = model.eval()
        self.target_return, self.temperature, self.top_k = target_return, temperature, top_k
        # the order of writing inside a timestep; late variables come last
        self._names = [name for name in layout.step_names if name not in layout.late] + list(layout.late)
        self._seed, self._num_begun = seed, 0
        self._context: Context | None = None

    def reset(self, num_envs: int) -> None:
        """Begin an episode in every environment."""
        layout = self.model.layout
        # episode i has random numbers of its own, whatever number of environments it is played beside
        self._context = Context(self.model, num_envs, streams=noise.streams(self._seed, self._num_begun, num_envs))
        self._num_begun += num_envs
        self._returns_to_go: np.ndarray | None = None
        if self.target_return is not None:
            targets = np.asarray(self.target_return, np.float64)
            if targets.ndim and len(targets) != num_envs:
                raise UsageError(f"{len(targets)} target returns for {num_envs} environments: give one for each")
            self._returns_to_go = np.broadcast_to(targets, (num_envs,)).copy()
        for name in layout.prompt_names:
            self._context.write(**{name: self._returns_to_go})

    def act(self, observations: np.ndarray, rewards: np.ndarray | None) -> np.ndarray:
        """Return an action for every running environment, in raw units.

        Args:
            observations: [N, ...].
            rewards: of the step before [N]; None at the first.
        """
        assert self._context is not None, "reset comes first"
        if rewards is not None:
            self._complete_timestep(np.asarray(rewards, np.float64))
        known = {"observation": observations, "return_to_go": self._returns_to_go}
        for name in self._names[: self._names.index("action")]:
            self._write_or_sample(name, known.get(name))
        return self._sample("action").cpu().numpy()

    def _complete_timestep(self, rewards: np.ndarray) -> None:
        """Write what comes after the action, now that its reward is here, and count the return down."""
        if self.model.data.delayed_reward:
            rewards = np.zeros_like(rewards)  # it is all paid at the end, and then nobody asks any more
        known = {"reward": rewards, "return_to_go": self._returns_to_go}
        for name in self._names[self._names.index("action") + 1 :]:
            self._write_or_sample(name, known.get(name))
        if self._returns_to_go is not None:
            self._returns_to_go = (self._returns_to_go - rewards) / self.model.data.discount

    def _write_or_sample(self, name: str, value: np.ndarray | None) -> None:
        assert self._context is not None
        if value is not None:
            self._context.write(**{name: value})
        else:
            self._sample(name)

    def _sample(self, name: str) -> torch.Tensor:
        assert self._context is not None
        return self._context.sample(name, temperature=self.temperature, top_k=self.top_k)

    def keep(self, rows: np.ndarray) -> None:
        """Go on with these of the running environments."""
        assert self._context is not None, "reset comes first"
        self._context.keep(torch.as_tensor(rows))
        if self._returns_to_go is not None:
            self._returns_to_go = self._returns_to_go[rows]
