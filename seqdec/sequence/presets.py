"""Layouts by name, made for the spaces of an environment."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from seqdec.errors import UsageError, suggest
from seqdec.sequence.facts import FACTS, WAYPOINT, WHEN, is_moment
from seqdec.sequence.layout import KINDS, DemoPart, Head, Layout, ReturnHead, Variable
from seqdec.spaces.leaves import leaf_kind, leaves, num_entries, role_of


def check_spaces(
    layout: Layout, observation_space: gymnasium.Space, action_space: gymnasium.Space, missing: Sequence[str] = ()
) -> None:
    """Raise UsageError where the layout does not fit the spaces of the data, or names what no data set has."""
    own = {variable.name: variable for variable in layout.variables}
    written: dict[str, Variable | None] = dict.fromkeys(("reward", "return_to_go"), Variable("return", "mse", 1))
    observed = leaves(observation_space, "observation")
    for name, leaf in {**observed, **leaves(action_space, "action")}.items():
        size = own[name].size if name in own else 1
        written[name] = _variable_from_leaf(name, leaf, 0.0, "gaussian", text_tokens=size)
    written |= {"target_return": Variable("return", "mse", 1), "text": None}
    for name in filter(is_moment, layout.prompt_names):
        if name.endswith(WHEN):
            written[name] = Variable(name, "timestep", 1)
        else:
            written[name] = _moment(name, observed, own[name].of, own[name].entries, 0.0, "gaussian")
    for variable in layout.variables:
        if variable.name not in written:
            known = ", ".join(written)
            raise UsageError(
                f"no data set has the variable {variable.name!r}{suggest(variable.name, written)}: {known}"
            )
        data = written[variable.name] or Variable("text", "text", variable.size)
        if _form(variable) != _form(data):
            raise UsageError(
                f"the layout's {variable.name} is {variable.describe()}, the data's is {data.describe()}: "
                "make the layout for this data"
            )
        if (variable.of or variable.name) in missing and not variable.optional:
            raise UsageError(
                f"{variable.of or variable.name} may be missing in the data: make it optional in the layout"
            )


def _form(variable: Variable) -> tuple[object, ...]:
    """Return what two variables share if the one can be written with the other's values."""
    kind = "vector" if variable.is_vector else variable.kind
    return kind, variable.size, variable.start, tuple(variable.sizes), tuple(variable.starts), tuple(variable.image)


# step slots and late variables of each preset; loss weights of the variables it predicts
_STEPS: dict[str, tuple[tuple[tuple[str, ...], ...], tuple[str, ...], dict[str, float]]] = {
    "decision_transformer": ((("return_to_go",), ("observation",), ("action",)), (), {"action": 1.0}),
    "multi_game": (
        (("observation",), ("return_to_go",), ("action",)),
        (),
        {"action": 1.0, "return_to_go": 0.01},
    ),
    "behaviour_cloning": ((("observation",), ("action",)), (), {"action": 1.0}),
    "trajectory": (
        (("observation",), ("action",), ("reward",), ("return_to_go",)),
        (),
        {"action": 1.0, "observation": 0.1, "reward": 0.1, "return_to_go": 0.01},
    ),
    "paired": ((("return_to_go", "observation"), ("action",)), (), {"action": 1.0}),
    "fused": ((("action", "return_to_go", "observation"),), ("action",), {"action": 1.0}),
}
PRESETS = tuple(_STEPS)


def layout_from_spaces(
    preset: str,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    context_length: int = 20,
    head: Head = "gaussian",
    return_head: ReturnHead = "binned",
    prompt: Sequence[str] = (),
    fuse: Sequence[str] = (),
    missing: Sequence[str] = (),
    text_tokens: int = 32,
    goal_of: str = "",
    goal_entries: Sequence[int] = (),
    demo_length: int = 10,
    discount: float = 1.0,
    delayed_reward: bool = False,
    prompt_dropout: float = 0.0,
    demo_group: str = "text",
    demo_part: DemoPart = "random",
) -> Layout:
    """Return a preset layout for an environment's spaces; each leaf of a Dict or Tuple is a variable of its own.

    Args:
        preset: `decision_transformer` (Chen et al. 2021), `multi_game` (Lee et al. 2022: the return is predicted
            before the action), `behaviour_cloning`, `trajectory` (Janner et al. 2021), `paired` (two tokens a
            timestep: the return to go and the observation summed, then the action) or `fused` (one: the previous
            action, the return to go and the observation summed).
        observation_space: any supported space (see `spaces`).
        action_space: any supported space without images and texts.
        context_length: timesteps in a full window.
        head: how Box values are predicted.
        return_head: how returns and rewards are predicted.
        prompt: what stands in it: facts (see `hindsight`: `target_return`, `text`, `goal`, `waypoint1` and so on,
            `final`, `demo`) and leaves of the observation.
        fuse: `observation`, `action` or both: the leaves share one slot, and leaves of an action are sampled at once.
            Otherwise each has a slot, and a leaf of an action depends on those before it.
        missing: leaves of the observation that may be missing.
        text_tokens: the most tokens that a text may have.
        goal_of: leaf of the observation that goals, waypoints and the final state are read from; the only one by
            default.
        goal_entries: the entries of it that are meant; all by default.
        demo_length: timesteps of a demo.
        discount: of the returns to go.
        delayed_reward: pay all of an episode's reward at its last step.
        prompt_dropout: share in which each fact of the prompt, and the return to go, is unknown, and in which all are.
        demo_group: column of the data that says which episodes are of one task, for demos: "text", or one of the
            metadata ("metadata.velocity").
        demo_part: which timesteps of an episode are its demo: any, or those in a row that earn most.

    Raises:
        UsageError: for an unknown preset or name, or a space that is not supported.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown layout {preset!r}{suggest(preset, PRESETS)}: use one of {', '.join(PRESETS)}")
    observed, acted = leaves(observation_space, "observation"), leaves(action_space, "action")
    for names, known, what in (
        ([name for name in prompt if not is_moment(name)], [*FACTS, *observed], "prompt"),
        (fuse, ["observation", "action"], "fuse"),
        (missing, list(observed), "missing"),
    ):
        for name in names:
            if name not in known:
                raise UsageError(f"{what}: no {name!r}{suggest(name, known)}; there are {', '.join(known)}")
    waypoints = {name for name in prompt if WAYPOINT.fullmatch(name)}
    if waypoints != {f"waypoint{number + 1}" for number in range(len(waypoints))}:
        raise UsageError(f"prompt: {', '.join(sorted(waypoints))}: waypoints are numbered from 1 on, without a gap")
    step, late, weights = _STEPS[preset]
    roles = {"observation": [name for name in observed if name not in prompt], "action": list(acted)}
    slots: list[tuple[str, ...]] = []
    for slot in step:
        names = [name for role in slot for name in roles.get(role, [role])]
        texts = [name for name in names if name in observed and leaf_kind(observed[name]) == "text"]
        together = len(slot) > 1 or set(slot) <= set(fuse)
        rest = [name for name in names if name not in texts]
        # a text comes after what it shares a timestep with: nothing late may be predicted from what follows it
        slots += ([tuple(rest)] if together else [(name,) for name in rest]) if rest else []
        slots += [(name,) for name in texts]
    facts = [(name, name + WHEN) if is_moment(name) and name != "final" else (name,) for name in prompt]
    facts = [slot for slot in facts if slot != ("demo",)]
    variables = []
    for name in (name for slot in (*facts, *slots) for name in slot):
        weight, leaf = weights.get(role_of(name), 0.0), observed.get(name, acted.get(name))
        if leaf is not None:
            may_miss = name in missing
            variables.append(_variable_from_leaf(name, leaf, weight, head, optional=may_miss, text_tokens=text_tokens))
        elif name == "text":
            variables.append(Variable(name, "text", text_tokens))
        elif name.endswith(WHEN):
            variables.append(Variable(name, "timestep", 1))
        elif is_moment(name):
            weight = weights.get("observation", 0.0)
            variables.append(_moment(name, observed, goal_of, tuple(goal_entries), weight, head, missing))
        else:
            variables.append(Variable(name, return_head, 1, weight))
    placed = {name for slot in slots for name in slot}
    shown = tuple(
        variable.name
        for variable in variables
        if variable.name in placed and variable.kind != "text" and variable.role in roles
    )
    return Layout(
        tuple(variables),
        tuple(slots),
        prompt=tuple(facts),
        late=tuple(name for role in late for name in roles.get(role, [role])),
        context_length=context_length,
        demo=(shown,) if "demo" in prompt else (),
        demo_length=demo_length if "demo" in prompt else 0,
        discount=discount,
        delayed_reward=delayed_reward,
        prompt_dropout=prompt_dropout,
        demo_group=demo_group,
        demo_part=demo_part,
    )


def _moment(
    name: str,
    observed: Mapping[str, gymnasium.Space],
    of: str,
    entries: tuple[int, ...],
    loss_weight: float,
    head: Head,
    missing: Sequence[str] = (),
) -> Variable:
    """Return the variable of a fact that is an observation of the episode, or of chosen entries of it."""
    if not of and len(observed) > 1:
        raise UsageError(f"{name} is one leaf of the observation: say which by --goal-of ({', '.join(observed)})")
    of = of or next(iter(observed))
    if of not in observed:
        raise UsageError(f"{name} is read from {of!r}{suggest(of, observed)}: there are {', '.join(observed)}")
    leaf = _variable_from_leaf(of, observed[of], 0.0, head, optional=of in missing)
    whole = replace(leaf, name=name, of=of, loss_weight=loss_weight if KINDS[leaf.kind].can_be_predicted else 0.0)
    if not entries:
        return whole
    if not whole.is_vector or not all(0 <= entry < whole.size for entry in entries):
        raise UsageError(f"{name} takes entries {list(entries)} of {of}, which is {whole.describe()}")
    return replace(whole, size=len(entries), entries=entries)


def _variable_from_leaf(
    name: str,
    leaf: gymnasium.Space,
    loss_weight: float,
    head: Head,
    *,
    optional: bool = False,
    text_tokens: int = 1,
) -> Variable:
    kind = leaf_kind(leaf)
    if kind == "text":
        return Variable(name, "text", text_tokens, optional=optional)
    if kind == "image":
        shape = tuple(leaf.shape or ())
        return Variable(name, "image", num_entries(leaf), image=shape, optional=optional)
    if isinstance(leaf, Discrete):
        return Variable(name, "discrete", int(leaf.n), loss_weight, start=int(leaf.start), optional=optional)
    size = num_entries(leaf)
    if isinstance(leaf, MultiDiscrete):
        sizes, starts = (tuple(map(int, np.ravel(counts))) for counts in (leaf.nvec, leaf.start))
        return Variable(name, "multi_discrete", size, loss_weight, sizes=sizes, starts=starts, optional=optional)
    if not isinstance(leaf, Box):  # MultiBinary
        return Variable(
            name, "multi_discrete", size, loss_weight, sizes=(2,) * size, starts=(0,) * size, optional=optional
        )
    if role_of(name) == "observation":  # environments are lax with the bounds of their observations
        return Variable(name, head, size, loss_weight, optional=optional)
    low, high = (tuple(map(float, np.ravel(bound))) for bound in (leaf.low, leaf.high))
    return Variable(name, head, size, loss_weight, low, high)
