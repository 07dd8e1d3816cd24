"""Planning: try several actions in the model, and take the one that pays best on average.

    context  ->  candidates, each an action  ->  outcomes of each  ->  rewards so far + return to go, averaged
             <-  the best action             <-  `keep` of them go on, a timestep deeper

Actions are drawn as the policy has them, with all that was asked for; what comes of them is drawn without, as a return
or a goal that is known tells how things will turn out (Paster et al. 2022). The score of a first action is averaged
over all its outcomes before anything is chosen, so that luck is not mistaken for skill: the longer a search goes on,
the more outcomes have those that it kept. With one outcome each branch has its own score, and it is a beam search
(Janner et al. 2021). All branches share what was read before them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqdec.errors import UsageError
from seqdec.inference.context import Context
from seqdec.inference.returns import returns
from seqdec.model.sequence_model import SequenceModel
from seqdec.sequence.facts import is_of_future

NUM_QUANTILES = 64  # of a predicted return, whose mean counts


@dataclass(frozen=True)
class Planning:
    """How to plan.

    Args:
        horizon: timesteps to look ahead, one at least.
        num_candidates: actions to try at each timestep, per sequence.
        keep: how many of them go on to the next timestep, each with its share of the candidates there.
        num_outcomes: what may come of each, over which the score of a first action is averaged; 1 is beam search.
        replan_every: timesteps that are acted by a plan before the next one is made.
    """

    horizon: int = 1
    num_candidates: int = 16
    keep: int = 4
    num_outcomes: int = 8
    replan_every: int = 1

    def __post_init__(self) -> None:
        for name in ("horizon", "num_candidates", "keep", "num_outcomes", "replan_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}: 1 or more is needed")
        if self.keep > self.num_candidates:
            raise UsageError(f"keep is {self.keep}, of {self.num_candidates} candidates: keep no more than there are")
        if self.replan_every > self.horizon:
            raise UsageError(f"replan_every is {self.replan_every}: a plan has {self.horizon} timesteps (horizon)")


@dataclass(frozen=True, eq=False)
class Plan:
    """The best branch: its actions by name, [B, horizon, size] or [B, horizon], and its mean return to go [B]."""

    actions: dict[str, Tensor]
    value: Tensor


def check_plannable(model: SequenceModel, acted: Sequence[str]) -> None:
    """Raise UsageError where the model does not predict what planning needs, or knows no unknown return."""
    layout = model.layout
    text = next((name for name in acted if layout.variable(name).kind == "text"), None)
    if text is not None:
        raise UsageError(f"planning tries actions in numbers, {text} is a text: act without a plan")
    seen = [name for name in layout.step_names if layout.variable(name).role == "observation"]
    for name in (*acted, "reward", *seen, "return_to_go"):
        if name not in layout.predicted:
            predicted = ", ".join(layout.predicted)
            raise UsageError(
                f"planning needs {name} predicted, this model predicts {predicted}: train with layout='trajectory'",
                option="layout",
            )
    if model.layout.prompt_dropout == 0:
        raise UsageError(
            "planning needs outcomes that know of no return: train with prompt_dropout above 0", option="prompt_dropout"
        )


@torch.inference_mode()
def plan(
    context: Context,
    planning: Planning,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    legal: Mapping[str, np.ndarray] | None = None,
) -> Plan:
    """Return the actions that the model expects to pay best from here.

    Args:
        context: written up to an action; it stays as it is.
        planning: how far and how widely to look.
        temperature: of the actions that are tried; outcomes are drawn as the model has them.
        top_k: as `Context.sample` has it, of actions.
        legal: masks of the first action by leaf, as `Context.sample` has them; what will be legal later nobody knows.

    Raises:
        UsageError: the layout does not predict actions, observations, rewards and the return to go, or the model was
            trained without unknown returns.

    Example:
        >>> context = Context(model, num_sequences=2)
        >>> context.write(observation=observations)
        >>> plan(context, Planning(horizon=3)).actions["action"][:, 0]
    """
    search = _Search(context, planning, temperature, top_k, legal or {})
    for depth in range(planning.horizon):
        search.deepen(depth)
    return search.best()


class _Search:
    """Branches of every sequence, each with a row for each of its outcomes: rows [B, branches, outcomes]."""

    def __init__(
        self,
        context: Context,
        planning: Planning,
        temperature: float,
        top_k: int | None,
        legal: Mapping[str, np.ndarray],
    ):
        layout, self._model = context.layout, context.model
        self._before, self._acted, self._after = layout.divide(self._model.data.spec.action_leaves)
        check_plannable(self._model, self._acted)
        self._planning, self._temperature, self._top_k, self._legal = planning, temperature, top_k, legal
        self._discount = self._model.layout.discount
        self._num_sequences, self._num_branches, self._num_outcomes = context.num_sequences, 1, 1
        self._actor: Context | None = context.branch()  # as long as there are actions to draw
        self._world = context.without(*filter(is_of_future, (*layout.prompt_names, *layout.step_names)))
        self._earned = torch.zeros(context.num_sequences, device=self._model.device)  # rewards so far [rows]
        self._actions: list[dict[str, Tensor]] = []  # of each timestep, [rows, ...]
        self._scores = torch.zeros(0)  # [B, branches]
        self._firsts = torch.zeros(0)  # which branches have one first action: the number of the first of them

    def deepen(self, depth: int) -> None:
        """Try actions for one more timestep, and score them."""
        if depth > 0:
            self._keep_best()
            for name in self._before:
                self._see(name)
        self._branch(self._planning.num_candidates // self._num_branches)
        self._actions.append({name: self._act(name) for name in self._acted})
        if depth + 1 == self._planning.horizon:
            self._actor = None
        if depth == 0:
            self._firsts = self._number_firsts()
            self._fork(self._planning.num_outcomes)
            self._num_outcomes = self._planning.num_outcomes
        value = self._outcome(depth)
        self._scores = value.reshape(self._num_sequences, self._num_branches, self._num_outcomes).mean(2)
        if self._num_outcomes > 1:
            is_same = (self._firsts[:, :, None] == self._firsts[:, None]).to(value.dtype)
            self._scores = (is_same @ self._scores[..., None])[..., 0] / is_same.sum(2)

    def _number_firsts(self) -> Tensor:
        """Return for each branch the first one that has the same first action, [B, branches]."""
        flat = torch.cat([value.reshape(len(value), -1).double() for value in self._actions[0].values()], 1)
        actions = flat.reshape(self._num_sequences, self._num_branches, -1)
        return (actions[:, :, None] == actions[:, None]).all(3).int().argmax(2)

    def best(self) -> Plan:
        """Return the branch of the highest score."""
        chosen = self._scores.argmax(1)  # [B]
        first = torch.arange(self._num_sequences, device=chosen.device) * self._num_branches
        rows = (first + chosen) * self._num_outcomes
        actions = {name: torch.stack([step[name][rows] for step in self._actions], 1) for name in self._acted}
        return Plan({name: value.clone() for name, value in actions.items()}, self._scores.amax(1))

    def _act(self, name: str) -> Tensor:
        """Draw a leaf of the action as the policy has it."""
        assert self._actor is not None
        legal = None if self._actions else self._legal.get(name)
        if legal is not None:
            legal = legal.repeat(self._num_branches, 0)
        value = self._actor.sample(name, temperature=self._temperature, top_k=self._top_k, legal=legal)
        self._world.write(**{name: value})
        return value

    def _see(self, name: str) -> Tensor | list[str] | None:
        """Draw what the world answers; of the future it says nothing."""
        value = None
        if is_of_future(name):
            self._world.write(**{name: None})
        elif self._world.layout.variable(name).kind == "text":
            value = self._world.sample_text(name)
        else:
            value = self._world.sample(name)
        if self._actor is not None:
            self._actor.write(**{name: value})
        return value

    def _outcome(self, depth: int) -> Tensor:
        """Draw what comes of the action; return rewards so far and the mean return that is left then, [rows]."""
        before, value = self._earned, None
        for name in self._after:
            if name == "return_to_go":  # of this timestep, whose reward is in it
                value = before + self._discount**depth * returns(self._world, NUM_QUANTILES).mean(1)
            seen = self._see(name)
            if name == "reward":
                assert isinstance(seen, Tensor)
                self._earned = before + self._discount**depth * seen[:, 0]
        if value is None:
            ahead = self._world.branch()
            for name in self._before[: self._before.index("return_to_go")]:
                if ahead.layout.variable(name).kind == "text":
                    ahead.sample_text(name)
                else:
                    ahead.sample(name)
            value = self._earned + self._discount ** (depth + 1) * returns(ahead, NUM_QUANTILES).mean(1)
        return value

    def _branch(self, num_children: int) -> None:
        """Let every branch have children; the outcomes of a branch stay together."""
        if num_children < 2:
            return
        self._fork(num_children)
        rows = torch.arange(len(self._earned), device=self._earned.device)
        shape = (self._num_sequences, self._num_branches, self._num_outcomes, num_children)
        self._select(rows.reshape(shape).transpose(2, 3).reshape(-1))
        self._num_branches *= num_children
        if len(self._firsts):
            self._firsts = self._firsts.repeat_interleave(num_children, 1)

    def _keep_best(self) -> None:
        """Go on with the branches that score best, of different first actions before any of the same."""
        num_kept = min(self._planning.keep, self._num_branches)
        scores = self._scores
        if self._num_outcomes > 1:
            before = torch.ones(self._num_branches, self._num_branches, dtype=torch.bool, device=scores.device).tril(-1)
            again = ((self._firsts[:, :, None] == self._firsts[:, None]) & before).any(2)
            scores = scores - again * (1 + scores.amax(1, keepdim=True) - scores.amin(1, keepdim=True))
        best = scores.topk(num_kept, 1).indices.sort(1).values  # [B, kept]
        self._firsts = self._firsts.gather(1, best)
        first = torch.arange(self._num_sequences, device=best.device)[:, None] * self._num_branches
        outcomes = torch.arange(self._num_outcomes, device=best.device)
        self._select(((first + best)[..., None] * self._num_outcomes + outcomes).reshape(-1))
        self._num_branches = num_kept

    def _fork(self, count: int) -> None:
        for context in filter(None, (self._actor, self._world)):
            context.fork(count)
        self._carry(torch.arange(len(self._earned), device=self._earned.device).repeat_interleave(count))

    def _select(self, rows: Tensor) -> None:
        for context in filter(None, (self._actor, self._world)):
            context.keep(rows)
        self._carry(rows)

    def _carry(self, rows: Tensor) -> None:
        self._earned = self._earned[rows]
        self._actions = [{name: value[rows] for name, value in step.items()} for step in self._actions]
