"""A policy: for each slot of the step, write it if it is known, else sample it.

What is known is the observation, the reward of the step before, the return that is left of the target, and what the
prompt says. Leaves of an action are sampled one after the other, in the order of the layout.
"""

import numpy as np
import torch

from seqdec import noise
from seqdec.context import Context
from seqdec.errors import UsageError
from seqdec.leaves import MISSING, Batch, join, split
from seqdec.model import SequenceModel


class Policy:
    """Acts in any number of environments at once, asking for a return: an `Actor` for `rollout`.

    Args:
        model: a trained model; it is put into evaluation mode.
        target_return: what to ask for at the first step, in raw units: one number, or one for each environment.
            None lets the model choose the return itself where its layout predicts it.
        text: what to do, in words, where the layout has a text in its prompt: one for all environments; the data's
            own by default.
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
        text: str | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ):
        layout = model.layout
        is_asked = "return_to_go" in layout.step_names and "return_to_go" not in layout.predicted
        if target_return is None and (is_asked or "target_return" in layout.prompt_names):
            raise UsageError("this policy was trained to be asked for a return: give a target_return")
        if target_return is not None:
            asked = np.asarray(target_return)
            if asked.dtype.kind not in "iuf" or not np.isfinite(asked).all():
                raise UsageError(f"target_return is {target_return!r}: a finite number is needed")
        if temperature < 0:
            raise UsageError(f"temperature is {temperature}: 0 or more is needed")
        if text is not None and "text" not in layout.prompt_names:
            raise UsageError("this policy was not trained with a text in its prompt (--prompt text): leave text out")
        self.model = model.eval()
        self.text = model.data.text if text is None else text
        self.target_return, self.temperature, self.top_k = target_return, temperature, top_k
        # the order of writing inside a timestep; late variables come last
        names = [name for name in layout.step_names if name not in layout.late] + list(layout.late)
        acted = [name for name in names if name in model.data.spec.action_leaves]
        first, last = names.index(acted[0]), names.index(acted[-1])
        self._before, self._acted, self._after = names[:first], names[first : last + 1], names[last + 1 :]
        self._seed, self._num_begun = seed, 0
        self._context: Context | None = None

    def reset(self, num_envs: int) -> None:
        """Begin an episode in every environment."""
        # episode i has random numbers of its own, whatever number of environments it is played beside
        self._context = Context(self.model, num_envs, streams=noise.streams(self._seed, self._num_begun, num_envs))
        self._num_begun += num_envs
        self._returns_to_go: np.ndarray | None = None
        if self.target_return is not None:
            targets = np.asarray(self.target_return, np.float64)
            if targets.ndim and len(targets) != num_envs:
                raise UsageError(f"{len(targets)} target returns for {num_envs} environments: give one for each")
            self._returns_to_go = np.broadcast_to(targets, (num_envs,)).copy()

    def seek(self, episode: int) -> None:
        """Let the next episode that begins have the random numbers of this one; 0 is the first."""
        self._num_begun = episode

    def act(self, observations: Batch, rewards: np.ndarray | None) -> Batch:
        """Return an action for every running environment, in raw units, nested as the action space is.

        Args:
            observations: [N, ...], nested as the observation space is; NaN, and None among texts, where unknown.
            rewards: of the step before [N]; None at the first.
        """
        assert self._context is not None, "reset comes first"
        spec = self.model.data.spec
        seen = split(spec.observation_space, observations, "observation")
        if rewards is None:
            self._write_prompt(seen)
        else:
            self._complete_timestep(np.asarray(rewards, np.float64))
        for name in self._before:
            self._write_or_sample(name, self._returns_to_go if name == "return_to_go" else seen.get(name), seen)
        actions = {}
        for name in self._acted:
            value = self._sample(name).cpu().numpy()
            if name in spec.action_leaves:
                actions[name] = value.reshape(len(value), *(spec.action_leaves[name].shape or ()))
        return join(spec.action_space, actions, "action")

    def _write_prompt(self, seen: dict[str, np.ndarray]) -> None:
        assert self._context is not None
        known = {**seen, "target_return": self._returns_to_go, "text": self.text}
        for name in self.model.layout.prompt_names:
            self._context.write(**{name: known[name], MISSING + name: seen.get(MISSING + name)})

    def _complete_timestep(self, rewards: np.ndarray) -> None:
        """Write what comes after the action, now that its reward is here, and count the return down."""
        if self.model.data.delayed_reward:
            rewards = np.zeros_like(rewards)  # it is all paid at the end, and then nobody asks any more
        known = {"reward": rewards, "return_to_go": self._returns_to_go}
        for name in self._after:
            self._write_or_sample(name, known.get(name), {})
        if self._returns_to_go is not None:
            self._returns_to_go = (self._returns_to_go - rewards) / self.model.data.discount

    def _write_or_sample(self, name: str, value: np.ndarray | None, seen: dict[str, np.ndarray]) -> None:
        assert self._context is not None
        if value is not None:
            self._context.write(**{name: value, MISSING + name: seen.get(MISSING + name)})
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
