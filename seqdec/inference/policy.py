"""A policy: for each slot of the step, write it if it is known, else sample it.

What is known is the observation, the reward of the step before, the return that is left of the target, and what the
prompt says. Leaves of an action are sampled one after the other, in the order of the layout.

With guidance, every environment has a block of sequences: one with all evidence, others with less of it.

    target_return  goal  | o R a ...        target_return  ?  | o R a ...        ?  goal  | o ? a ...
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from seqdec.errors import UsageError
from seqdec.inference.allowed import Allowed, allowed_by
from seqdec.inference.context import Context
from seqdec.inference.evaluation import Place, Target, evaluate_policy, resolve_targets
from seqdec.inference.planning import Planning, check_plannable, plan
from seqdec.inference.prompt import Prompt, checked_facts, in_blocks, less_evidence, rows_of
from seqdec.inference.report import Report
from seqdec.inference.returns import expert_return
from seqdec.inference.values import check_observations, checked_rewards, count_down, in_space
from seqdec.model.folder import load_policy, save_policy
from seqdec.model.sequence_model import SequenceModel
from seqdec.play.legal import mask_leaves
from seqdec.play.starts import Options
from seqdec.sequence import noise
from seqdec.spaces.leaves import MISSING, Batch, join, split, stack, unstack


class Policy:
    """Acts in one environment or in a batch of them, asking for what a prompt says: an `Actor` for `rollout`.

    Args:
        model: a trained model; it is put into evaluation mode.
        target_return: short for `Prompt(target_return=...)`. Without a target the model chooses the return itself
            where its layout predicts it.
        prompt: what to ask for.
        guidance: how much to sharpen actions towards the evidence, w in log p(a|evidence) + w (log p(a|evidence) -
            log p(a)): one number for all evidence together, or one for each piece by name, such as {"goal": 2.0,
            "return_to_go": 0.5}. 0 is the plain policy.
        planning: try actions in the model before acting, by a layout that predicts everything.
        temperature: 1 samples actions as the model has learned them, 0 takes the most likely one.
        top_k: keeps the most likely values only (discrete and binned variables).
        seed: of the samples.

    Raises:
        UsageError: the model was not trained to be asked for that, needs a fact that is not given, or a number is out
            of range.

    Example:
        >>> policy = Policy.from_pretrained("my-hopper", target_return=3000)
        >>> observation, _ = env.reset(seed=0)
        >>> policy.reset()
        >>> action = policy.act(observation)  # then act(observation, reward)
    """

    def __init__(
        self,
        model: SequenceModel,
        target_return: float | np.ndarray | str | None = None,
        *,
        prompt: Prompt | None = None,
        guidance: float | Mapping[str, float] = 0.0,
        planning: Planning | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ):
        prompt = prompt or Prompt()
        if target_return is not None:
            if prompt.target_return is not None:
                raise UsageError("target_return is given twice: beside the prompt, and in it")
            prompt = replace(prompt, target_return=target_return)
        if not 0 <= temperature < math.inf:
            raise UsageError(f"temperature is {temperature}: a finite number of 0 or more is needed")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise UsageError(f"top_k is {top_k}: a whole number of 1 or more is needed, or None")
        if isinstance(prompt.target_return, str):
            (target,) = resolve_targets([prompt.target_return], model.data.returns)
            prompt = replace(prompt, target_return=target)
        self.model, self.prompt, self.guidance = model.eval(), prompt, guidance
        self._facts = checked_facts(model, prompt.facts())
        self.target_return = prompt.target_return
        self.temperature, self.top_k, self.planning = temperature, top_k, planning
        self._before, self._acted, self._after = model.layout.divide(model.data.spec.action_leaves)
        self._masks = mask_leaves(model.data.spec.observation_space, model.data.spec.action_space)
        self._is_expert = isinstance(self.target_return, str)
        if planning is not None:
            check_plannable(model, self._acted)
        self._hidden_of, self._guidance = less_evidence(model, self._facts, guidance)
        if planning is not None and self._guidance:
            raise UsageError("planning tries the model's own actions: leave out guidance, or planning")
        self._block = 1 + len(self._guidance)  # sequences that an environment has
        self._seed, self._num_begun = seed, 0
        self._context: Context | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        target_return: float | np.ndarray | str | None = None,
        *,
        task: str = "",
        **asked: object,
    ) -> "Policy":
        """Return the policy of a folder that `save_pretrained` wrote, or of a run; its adapters are merged, for speed.

        Args:
            folder: of a policy, or of the run that trained it.
            target_return: and `asked`, as the class takes them.
            task: which one, of a policy that was trained on several.

        Raises:
            DataError: the folder holds no policy, or one that is damaged.
            UsageError: there is no such task, or the policy cannot be asked for that.
        """
        folder = Path(folder)
        folder = folder / "policy" if (folder / "policy").is_dir() else folder
        return cls(load_policy(folder, task=task, merge_adapters=True), target_return, **asked)  # pyright: ignore[reportArgumentType]

    def save_pretrained(self, folder: Path | str, *, merge: bool = False) -> None:
        """Write the model as a policy folder, replacing what is there; with `merge`, LoRA's base becomes part of it."""
        save_policy(self.model, folder, merge=merge)

    def evaluate(
        self,
        target_return: Target | Sequence[Target] = None,
        *,
        num_episodes: int = 32,
        num_envs: int = 16,
        seed: int = 0,
        reset_options: Options | Sequence[Options] | None = None,
        progress: Callable[[int], None] | None = None,
        **place: Unpack[Place],
    ) -> Report:
        """Ask for returns in the environment that the data name, with everything else as this policy has it.

        Args:
            target_return: numbers, or words such as "median", "q90", "max" and "expert"; the policy's own by default.
            num_episodes: of each target, on the environment seeds from `seed` on.
            num_envs: that run at once; it changes the speed, not the result.
            seed: of environments and samples.
            reset_options: what the environments' `reset` is given: one dict for all episodes, or a list of their own.
            progress: called with the number of episodes that ended since the last call.
            place: `env`, `trust_env`, `max_steps`, `asynchronous` and `step_seconds`, as `Place` has them.

        Raises:
            UsageError: the environment cannot be made or has other spaces, or a target is none.
        """
        asked = self.target_return if target_return is None else target_return
        return evaluate_policy(
            lambda target: self._asking(target, seed), self.model, asked,  # pyright: ignore[reportArgumentType]
            num_episodes=num_episodes, num_envs=num_envs, seed=seed, reset_options=reset_options,
            progress=progress, **place,
        )  # fmt: skip

    def _asking(self, target: Target, seed: int) -> "Policy":
        """Return a policy such as this one that asks for another return."""
        return Policy(
            self.model, target, prompt=replace(self.prompt, target_return=None), guidance=self.guidance,
            planning=self.planning, temperature=self.temperature, top_k=self.top_k, seed=seed,
        )  # fmt: skip

    def reset(self, num_envs: int | None = None) -> None:
        """Begin an episode: in one environment, or without batches in each of a number of them."""
        self._is_single, num_envs = num_envs is None, 1 if num_envs is None else num_envs
        # episode i has random numbers of its own, whatever number of environments it is played beside
        keys = noise.keys(self._seed, self._num_begun, num_envs).repeat(self._block)
        self._context = Context(self.model, num_envs * self._block, keys=keys)
        self._num_begun += num_envs
        self._has_acted = False
        self._returns_to_go: np.ndarray | None = None
        self._planned: list[dict[str, torch.Tensor]] = []
        if self.target_return is not None and not self._is_expert:
            targets = np.asarray(self.target_return, np.float64)
            if targets.ndim and len(targets) != num_envs:
                raise UsageError(f"{len(targets)} target returns for {num_envs} environments: give one for each")
            self._returns_to_go = np.broadcast_to(targets, (num_envs,)).copy()

    @property
    def _num_rows(self) -> int:
        """Environments that still run."""
        return 0 if self._context is None else self._context.num_sequences // self._block

    def seek(self, episode: int) -> None:
        """Let the next episode that begins have the random numbers of this one; 0 is the first."""
        self._num_begun = episode

    def act(self, observation: Batch, reward: np.ndarray | float | None = None, info: object = None) -> Batch:
        """Return an action in the space's own type, nested as the action space is.

        Args:
            observation: one after `reset()`, a batch [N, ...] after `reset(num_envs)`, nested as the observation space
                is; NaN, and None among texts, where unknown.
            reward: of the step before, a number or [N]; None at the first step.
            info: of one environment, or of a batch as `Actor.act` has it: texts under "valid_actions", of which one is
                chosen, else a text is written freely; a mask of legal values under "action_mask".

        Returns:
            an action for one environment, or a batch of them for all that run.

        Raises:
            UsageError: nothing was reset, or the reward or the number of observations is not as expected.
            DataError: what the info or a mask says cannot be, or leaves nothing to choose.
        """
        if self._context is None:
            raise UsageError("no episode has begun: call reset() before the first act")
        if self._has_acted and reward is None:
            raise UsageError("the reward of the step before is missing: act(observation, reward)")
        if not self._has_acted and reward is not None:
            raise UsageError("an episode's first step has no reward before it: act(observation)")
        rewards = None if reward is None else checked_rewards(reward, self._num_rows)
        return self._act(observation, rewards, info, is_first=reward is None)

    def _act(self, observation: Batch, rewards: np.ndarray | None, info: object, *, is_first: bool) -> Batch:
        """Return actions; rewards of None are not known."""
        spec, layout = self.model.data.spec, self.model.layout
        seen = split(spec.observation_space, stack([observation]) if self._is_single else observation, "observation")
        check_observations(seen, spec.observation_leaves, layout, self._num_rows, is_single=self._is_single)
        shown, counts = [seen[name] for name in self._masks], {"num_rows": self._num_rows, "is_single": self._is_single}
        allowed = allowed_by(info, shown, spec.action_space, spec.action_leaves, **counts)
        if is_first:
            self._write_prompt(seen)
        else:
            self._complete_timestep(rewards)
        self._write_or_sample(self._before, self._with_return(seen))
        drawn = self._acted if self.planning is None else ()
        sampled = {name: self._sample(name, allowed) for name in drawn} or self._plan(allowed)
        self._has_acted = True
        leaves = spec.action_leaves
        actions = {name: in_space(leaves[name], sampled[name][:: self._block]) for name in self._acted}
        batch = join(spec.action_space, actions, "action")
        return unstack(batch, 1)[0] if self._is_single else batch

    def predict(
        self,
        observation: Batch,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[Batch, tuple[np.ndarray, ...]]:
        """Return an action and a state, as the `predict` of Stable-Baselines3 does, for one observation or a batch.

        The policy itself remembers the episode: without a state, or where `episode_start` is true, a new one begins in
        all rows. No reward is seen, so the return that is asked for stays as it is: `act` counts it down.
        """
        spec = self.model.data.spec
        name, leaf = next(iter(spec.observation_leaves.items()))
        shape = split(spec.observation_space, stack([observation]), "observation")[name].shape
        num_rows = None if shape == (1, *(leaf.shape or ())) else shape[-1 - len(leaf.shape or ())]
        is_new = state is None or self._context is None or bool(np.any(episode_start))
        if is_new:
            self.reset(num_rows)
        temperature, self.temperature = self.temperature, 0.0 if deterministic else self.temperature
        try:
            action = self._act(observation, None, None, is_first=is_new)
        finally:
            self.temperature = temperature
        assert self._context is not None
        return action, (np.array([self._context.timestep]),)

    def _plan(self, allowed: Allowed) -> dict[str, torch.Tensor]:
        """Write the actions of the running plan, or of a new one, and return them."""
        context, planning = self._context, self.planning
        assert context is not None and planning is not None
        if not self._planned or not allowed.admits(self._planned[0], self.model.data.spec.action_leaves):
            how = {"temperature": self.temperature, "top_k": self.top_k}
            steps = plan(context, planning, legal=allowed.values, **how).actions
            times = range(planning.replan_every)
            self._planned = [{name: value[:, time] for name, value in steps.items()} for time in times]
        actions = self._planned.pop(0)
        for name, value in actions.items():
            context.write(**{name: value})
            context.draw(self.model.layout.variable(name).shape)  # as sampling does, so that the next one has others
        return actions

    def _write_prompt(self, seen: dict[str, np.ndarray]) -> None:
        layout = self.model.layout
        names = [*layout.prompt_names, *(["demo"] if layout.demo else [])]
        known = {"target_return": self._returns_to_go, **seen}
        facts = [name for name in names if name not in known]
        rows = {name: rows_of(self.model, name, self._facts.get(name), seen, self._num_rows) for name in facts}
        self._write(names, {**known, **rows})

    def _complete_timestep(self, rewards: np.ndarray | None) -> None:
        """Write what comes after the action, now that its reward is here, and count the return down."""
        if rewards is not None and self.model.layout.delayed_reward:
            rewards = np.zeros_like(rewards)  # it is all paid at the end, and then nobody asks any more
        self._write_or_sample(self._after, self._with_return({"reward": rewards}))
        if self._returns_to_go is not None and rewards is not None:
            self._returns_to_go = count_down(self._returns_to_go, rewards, self.model.layout.discount)

    def _with_return(self, known: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray | None]:
        """Return what is known, and the return that is left where one is asked for."""
        return {**known} if self._returns_to_go is None else {**known, "return_to_go": self._returns_to_go}

    def _write_or_sample(self, names: Sequence[str], known: Mapping[str, np.ndarray | None]) -> None:
        """Write variables in order: what is known, what the model samples where it can, and that nothing is known."""
        assert self._context is not None
        waiting: list[str] = []
        for name in names:
            # with planning, actions of all returns are tried, not of one that was drawn
            is_free = name == "return_to_go" and self.planning is not None and not self._is_expert
            if name not in known and name in self.model.layout.predicted and not is_free:
                self._write(waiting, known)
                waiting = []
                if name != "return_to_go" or not self._is_expert:
                    self._sample(name)
                    continue
                known = {**known, name: expert_return(self._context)[:: self._block].cpu().numpy()}
            waiting.append(name)
        self._write(waiting, known)

    def _write(self, names: Sequence[str], known: Mapping[str, np.ndarray | None]) -> None:
        """Write one value an environment into its block of sequences, but where it is evidence that is left out."""
        assert self._context is not None
        values: dict[str, np.ndarray | None] = {}
        for name in names:
            value, missing = known.get(name), known.get(MISSING + name)
            if self._block > 1 and value is not None:
                value, missing = in_blocks(value, missing, self._hidden_of.get(name), self._block)
            values |= {name: value, MISSING + name: missing}
        self._context.write(**values)

    def _sample(self, name: str, allowed: Allowed | None = None) -> torch.Tensor | list[str]:
        assert self._context is not None
        allowed = (allowed if name in self._acted else None) or Allowed()
        guidance = self._guidance if name in self._acted else (0.0,) * len(self._guidance)
        how = {"temperature": self.temperature, "top_k": self.top_k, "guidance": guidance}
        if self.model.layout.variable(name).kind != "text":
            return self._context.sample(name, legal=allowed.values.get(name), **how)
        return self._context.sample_text(name, candidates=allowed.texts, **how)

    def keep(self, rows: np.ndarray) -> None:
        """Go on with these of the running environments."""
        assert self._context is not None, "reset comes first"
        kept = torch.as_tensor(rows)
        self._planned = [{name: value[kept] for name, value in step.items()} for step in self._planned]
        blocks = kept[:, None] * self._block + torch.arange(self._block)
        self._context.keep(blocks.reshape(-1))
        if self._returns_to_go is not None:
            self._returns_to_go = self._returns_to_go[rows]
