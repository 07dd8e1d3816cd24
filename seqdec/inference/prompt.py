"""What to ask a policy for, checked against what its model was trained with, and as the rows that are written.

A prompt is evidence: a return, a goal, words, somebody else's episode. Any of it may be left out where the model was
trained with unknown evidence; what the model does not know at all is refused.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seqdec.data.episode import MAX_MAGNITUDE, Episode
from seqdec.errors import UsageError
from seqdec.model.sequence_model import SequenceModel
from seqdec.sequence.facts import WHEN
from seqdec.sequence.layout import Layout
from seqdec.spaces.leaves import num_entries

EXPERT = "expert"
Moment = np.ndarray | Sequence[float] | float | int | str


@dataclass(frozen=True, eq=False)
class Prompt:
    """What to ask for: whatever is None is left to the model.

    Args:
        target_return: at the first step, in raw units: one number, or one for each environment; "expert" lets the model
            choose what an expert would get from here, anew at every step (see `expert_return`).
        goal: an observation to reach, whole or the entries that the model was trained with: [size], or [N, size] for N
            environments; or the name of a leaf of the observation, which says it at the first step.
        goal_in: timesteps from the first one until the goal is reached.
        waypoints: observations to pass on the way, in order, each as `goal`.
        waypoints_in: timesteps from the first one until each of them is passed; None where it is not known.
        final: the observation after the last step, as `goal`.
        text: what to do, in words: one for all environments, or one for each; the data's own by default.
        demo: an episode to do alike, or one for each environment (then `rollout` plays as many environments, and a
            multiple of so many episodes); of a longer one the first timesteps are shown.
    """

    target_return: float | np.ndarray | str | None = None
    goal: Moment | None = None
    goal_in: float | np.ndarray | None = None
    waypoints: Sequence[Moment] = ()
    waypoints_in: Sequence[float | np.ndarray | None] = ()
    final: Moment | None = None
    text: str | Sequence[str] | None = None
    demo: Episode | Sequence[Episode] | None = None

    def facts(self) -> dict[str, object]:
        """Return what is asked for by the names that the variables of a layout have.

        Raises:
            UsageError: there are not as many timesteps of waypoints as waypoints.
        """
        given: dict[str, object] = {
            name: getattr(self, name) for name in ("target_return", "goal", "final", "text", "demo")
        }
        given["goal" + WHEN] = self.goal_in
        times = list(self.waypoints_in) or [None] * len(self.waypoints)
        if len(times) != len(self.waypoints):
            counts = f"{len(times)} timesteps for {len(self.waypoints)} waypoints"
            raise UsageError(f"waypoints_in has {counts}: give one for each, or none")
        for number, (waypoint, when) in enumerate(zip(self.waypoints, times, strict=True), start=1):
            given |= {f"waypoint{number}": waypoint, f"waypoint{number}{WHEN}": when}
        return {name: value for name, value in given.items() if value is not None}


def rows_of(
    model: SequenceModel, name: str, value: object, seen: Mapping[str, np.ndarray], num_envs: int
) -> np.ndarray | None:
    """Return a fact, or the demos, as they are written: one row for each environment; None where it is unknown.

    Args:
        model: has the fact in its prompt.
        name: of a variable of the prompt, or "demo".
        value: what was asked for.
        seen: leaves of the observation of the first step, one of which may say it.
        num_envs: N.
    """
    if name in ("demo", "text"):
        several = value is not None and not isinstance(value, str | Episode)
        listed = list(value) if several else [value] * num_envs  # pyright: ignore[reportArgumentType]
        if len(listed) != num_envs:
            raise UsageError(f"{name} has {len(listed)} for {num_envs} environments: give one, or one for each")
        rows = np.empty(num_envs, object)
        rows[:] = listed
        return rows
    if value is None:
        return None
    variable = model.layout.variable(name)
    if isinstance(value, str):
        if value not in seen:
            raise UsageError(f"{name} is to be read from {value!r}: the observation has {', '.join(seen)}")
        value = seen[value]
    try:
        given = np.asarray(value)
    except ValueError as error:  # of parts that do not fit together
        raise UsageError(f"{name} is {value!r}: {variable.describe()} is expected") from error
    if variable.entries:
        whole = num_entries(model.data.spec.observation_leaves[variable.of])
        if whole != variable.size and given.ndim and given.shape[-1] == whole:
            given = given.reshape(-1, whole)[:, list(variable.entries)]
    shape = (num_envs, *variable.shape)
    each = int(np.prod(variable.shape))
    is_each = given.shape[:1] == (num_envs,) and (given.ndim > 1 or each == 1) and given.size == num_envs * each
    if given.size != each and not is_each:
        raise UsageError(f"{name} has shape {given.shape}: {variable.describe()} is expected, or {num_envs} of them")
    if not variable.has(float(given.min()), float(given.max())):
        raise UsageError(f"{name} is {given.tolist()}: {variable.describe()} is expected")
    return np.broadcast_to(given.reshape(-1, *variable.shape), shape).copy()


def checked_facts(model: SequenceModel, given: dict[str, object]) -> dict[str, object]:
    """Return what is asked for, with the data's own text where none is given.

    Raises:
        UsageError: the model was not trained with such a fact, or with it alone and it is not given.
    """
    layout, facts = model.layout, dict(given)
    read = "return_to_go" in layout.step_names
    known = dict.fromkeys(["target_return"] * read + list(layout.facts))
    for name, value in facts.items():
        fact = name.removesuffix(WHEN)
        if fact not in known:
            takes = f"what it can be asked for: {', '.join(known)}" if known else "it cannot be asked for anything"
            raise UsageError(f"this policy was not trained with {fact} in its prompt; {takes}", option="prompt")
        if fact == name:
            continue
        if fact not in facts:
            raise UsageError(f"{fact}_in needs a {fact}")
        times = np.asarray(value)
        if times.dtype.kind not in "iuf" or not np.isfinite(times).all() or (times < 0).any():
            raise UsageError(f"{fact} is to be reached in {value!r} timesteps: a number of 0 or more is needed")
    target = facts.get("target_return")
    if isinstance(target, str) and target == EXPERT:
        check_expert(layout, model.data.spec.action_leaves)
    elif target is not None:
        asked = np.asarray(target)
        if asked.dtype.kind not in "iuf" or not (np.abs(asked) <= MAX_MAGNITUDE).all():
            raise UsageError(f"target_return is {target!r}: a finite number is needed, from -1e18 to 1e18")
    facts.setdefault("text", model.data.text)
    if model.layout.prompt_dropout == 0:
        is_asked = read and "return_to_go" not in layout.predicted
        for name in [*(["target_return"] * is_asked), *layout.facts]:
            if name not in facts:
                what = "asked for a return" if name == "target_return" else f"given a {name}"
                raise UsageError(f"this policy was trained to be {what}: give a {name}")
    return facts


def check_expert(layout: Layout, acted: Collection[str]) -> None:
    """Raise UsageError where no expert's return can be chosen: it needs one that is predicted before each action."""
    before, _, _ = layout.divide(acted)
    if "target_return" in layout.prompt_names:
        raise UsageError("an expert's return is chosen step by step, this policy reads one in its prompt: give that")
    if "return_to_go" not in before or "return_to_go" not in layout.predicted:
        raise UsageError(
            "an expert's return is chosen before each action, from what the model predicts: train with "
            "layout='multi_game'",
            option="layout",
        )


def less_evidence(
    model: SequenceModel, facts: Mapping[str, object], guidance: float | Mapping[str, float]
) -> tuple[dict[str, np.ndarray], tuple[float, ...]]:
    """Return in which sequences of a block each piece of evidence is unknown, and the weight of all but the first."""
    pieces = [name for name in facts if name in model.layout.facts]
    if "target_return" in facts and "return_to_go" in model.layout.step_names:
        pieces.append("return_to_go")
    given = dict(guidance) if isinstance(guidance, Mapping) else {"": float(guidance)}
    for name, weight in given.items():
        if not np.isfinite(weight) or weight < 0:
            raise UsageError(f"guidance is {weight}: 0 or more is needed")
        if name and name not in pieces:
            raise UsageError(f"guidance by {name!r}, which is no evidence here: there is {', '.join(pieces) or 'none'}")
    given = {name: float(weight) for name, weight in given.items() if weight > 0}
    if given and not pieces:
        raise UsageError("guidance needs evidence, and none is given: ask for something")
    if given and model.layout.prompt_dropout == 0:
        raise UsageError(
            "guidance needs a model that can act without evidence: train with prompt_dropout above 0",
            option="prompt_dropout",
        )
    hidden: dict[str, np.ndarray] = {}
    for index, name in enumerate(given, start=1):
        for piece in [name] if name else pieces:
            for part in (piece, piece + WHEN):
                hidden.setdefault(part, np.zeros(1 + len(given), bool))[index] = True
    return hidden, tuple(given.values())


def in_blocks(
    value: np.ndarray, missing: np.ndarray | None, is_hidden: np.ndarray | None, block: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return values and their mask, one an environment, for all sequences of its block.

    Args:
        value: [N, ...].
        missing: which are not known, [N] or [N, ...]; None where all are.
        is_hidden: in which sequences of a block they are left out, [block]; None where in none.
        block: sequences that an environment has.
    """
    value = np.repeat(value, block, 0)
    missing = None if missing is None else np.repeat(missing, block, 0)
    if is_hidden is not None:
        left_out = np.tile(is_hidden, len(value) // block)
        missing = left_out if missing is None else (missing.T | left_out).T  # [B] or [B, ...]
        if value.dtype == object:  # texts
            value[left_out] = None
    return value, missing
