"""Layouts by name, made for the spaces of an environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Text

from seqdec.errors import UsageError, suggest
from seqdec.sequence.facts import FACTS, WAYPOINT, WHEN, is_moment
from seqdec.sequence.layout import DemoPart, Layout
from seqdec.sequence.variable import Head, Numbers, ReturnHead, Variable
from seqdec.spaces.leaves import leaf_kind, leaves, num_entries, role_of

Leaves = Mapping[str, Space]


def check_spaces(layout: Layout, observation_space: Space, action_space: Space, missing: Sequence[str] = ()) -> None:
    """Raise UsageError where the layout does not fit the spaces of the data, or names what no data set has."""
    variables = {variable.name: variable for variable in layout.variables}
    # what every data set has: leaves, rewards and what comes of them, a text
    expected = {name: Variable(name, "mse", 1) for name in ("reward", "return_to_go", "target_return")}
    observed = leaves(observation_space, "observation")
    for name, leaf in {**observed, **leaves(action_space, "action"), "text": Text(1)}.items():
        size = variables[name].size if name in variables else 1
        expected[name] = _variable_from_leaf(name, leaf, text_tokens=size)
    # facts of the prompt that are read from a leaf
    for name in filter(is_moment, layout.prompt_names):
        if name.endswith(WHEN):
            expected[name] = Variable(name, "timestep", 1)
        else:
            leaf = _leaf_of(name, observed, variables[name].of)
            expected[name] = _moment(name, _variable_from_leaf(leaf, observed[leaf]), variables[name].entries)
    for variable in layout.variables:
        name, data = variable.name, expected.get(variable.name)
        if data is None:
            raise UsageError(f"no data set has the variable {name!r}{suggest(name, expected)}: {', '.join(expected)}")
        if _form(variable) != _form(data):
            raise UsageError(
                f"the layout's {name} is {variable.describe()}, the data's is {data.describe()}: "
                "make the layout for this data"
            )
        leaf = variable.of or name
        if leaf in missing and not variable.optional:
            raise UsageError(f"{leaf} may be missing in the data: make it optional in the layout")


def _form(variable: Variable) -> tuple[object, ...]:
    """Return what two variables share if the one can be written with the other's values."""
    kind = "vector" if variable.is_vector else variable.kind
    return kind, variable.size, variable.start, tuple(variable.sizes), tuple(variable.starts), tuple(variable.image)


@dataclass(frozen=True)
class _Preset:
    """Slots of a timestep by role, loss weights of the roles that are predicted, roles that are written a step late."""

    step: tuple[tuple[str, ...], ...]
    weights: Mapping[str, float]
    late: tuple[str, ...] = ()


_OBSERVATION, _ACTION, _REWARD, _TO_GO = ("observation",), ("action",), ("reward",), ("return_to_go",)
_PRESETS = {
    "decision_transformer": _Preset((_TO_GO, _OBSERVATION, _ACTION), {"action": 1.0}),
    "multi_game": _Preset((_OBSERVATION, _TO_GO, _ACTION), {"action": 1.0, "return_to_go": 0.01}),
    "behaviour_cloning": _Preset((_OBSERVATION, _ACTION), {"action": 1.0}),
    "trajectory": _Preset(
        (_OBSERVATION, _ACTION, _REWARD, _TO_GO),
        {"action": 1.0, "observation": 0.1, "reward": 0.1, "return_to_go": 0.01},
    ),
    "paired": _Preset((("return_to_go", "observation"), _ACTION), {"action": 1.0}),
    "fused": _Preset((("action", "return_to_go", "observation"),), {"action": 1.0}, late=_ACTION),
}
PRESETS = tuple(_PRESETS)
LINE = "\n"  # ends a text
# what stands around numbers in digits: a return is an order
_FRAMES = {"return_to_go": ("", " >"), "target_return": ("", LINE), "reward": ("reward ", LINE)}


def layout_from_spaces(
    preset: str,
    observation_space: Space,
    action_space: Space,
    *,
    context_length: int = 20,
    head: Head = "gaussian",
    return_head: ReturnHead = "binned",
    numbers: Numbers = "embedding",
    prompt: Sequence[str] = (),
    fuse: Sequence[str] = (),
    missing: Sequence[str] = (),
    offsets: Mapping[str, tuple[float, ...]] | None = None,
    text_tokens: int = 256,
    max_tokens: int = 1024,
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
        action_space: any supported space without images.
        context_length: timesteps in a full window.
        head: how Box values are predicted.
        return_head: how returns and rewards are predicted.
        numbers: how returns and rewards are written: each as an embedding, or in digits, as `words`. With these, spaces
            of texts give a language model.
        prompt: what stands in it: facts (see `hindsight`: `target_return`, `text`, `goal`, `waypoint1` and so on,
            `final`, `demo`) and leaves of the observation.
        fuse: `observation`, `action` or both: the leaves share one slot, and leaves of an action are sampled at once.
            Otherwise each has a slot, and a leaf of an action depends on those before it.
        missing: leaves of the observation that may be missing.
        offsets: of leaves of large numbers, as `EnvironmentSpec.offsets` has them.
        text_tokens: the most tokens that a text may have.
        max_tokens: the most tokens of a window whose timesteps have words; 0 sets no limit.
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
    _check_names(observed, prompt, fuse, missing)
    chosen, offsets = _PRESETS[preset], offsets or {}
    roles = {"observation": [name for name in observed if name not in prompt], "action": list(acted)}
    # slots of the prompt, and of a timestep
    facts = [name for name in prompt if name != "demo"]
    prompt_slots = [(name, name + WHEN) if is_moment(name) and name != "final" else (name,) for name in facts]
    slots = _step_slots(chosen.step, roles, fuse, {**observed, **acted})
    # their variables
    variables = []
    for name in (name for slot in (*prompt_slots, *slots) for name in slot):
        weight, leaf = chosen.weights.get(role_of(name), 0.0), observed.get(name, acted.get(name))
        if leaf is not None:
            variable = _variable_from_leaf(name, leaf, weight, head, optional=name in missing, text_tokens=text_tokens)
            variable = _less(variable, offsets.get(name, ()))
        elif name == "text":
            variable = Variable(name, "text", text_tokens, end=LINE)
        elif name.endswith(WHEN):
            variable = Variable(name, "timestep", 1)
        elif is_moment(name):
            weight = chosen.weights.get("observation", 0.0)
            of = _leaf_of(name, observed, goal_of)
            leaf = _variable_from_leaf(of, observed[of], weight, head, optional=of in missing)
            leaf = _less(leaf, offsets.get(of, ()))
            variable = _moment(name, leaf, tuple(goal_entries))
        elif numbers == "words":
            before, end = _FRAMES[name]
            variable = Variable(name, "number", 1, weight, before=before, end=end)
        else:
            variable = Variable(name, return_head, 1, weight)
        variables.append(variable)
    # a demo shows observations and actions
    can_be_shown = {variable.name for variable in variables if variable.role in roles and not variable.is_words}
    shown = tuple(name for slot in slots for name in slot if name in can_be_shown)
    has_demo = "demo" in prompt
    if has_demo and not shown:
        raise UsageError("prompt: a demo shows numbers, and here all is words: leave it out", option="prompt")
    has_words = any(variable.is_words for variable in variables if variable.name not in prompt)
    return Layout(
        tuple(variables), tuple(slots), tuple(prompt_slots),
        late=tuple(name for role in chosen.late for name in roles[role]), context_length=context_length,
        demo=(shown,) if has_demo else (), demo_length=demo_length if has_demo else 0,
        discount=discount, delayed_reward=delayed_reward, prompt_dropout=prompt_dropout,
        demo_group=demo_group, demo_part=demo_part, max_tokens=max_tokens if has_words else 0,
    )  # fmt: skip


def _check_names(observed: Leaves, prompt: Sequence[str], fuse: Sequence[str], missing: Sequence[str]) -> None:
    """Raise UsageError for a name that means nothing, or waypoints with a gap."""
    for names, known, option in (
        ([name for name in prompt if not is_moment(name)], [*FACTS, *observed], "prompt"),
        (fuse, ["observation", "action"], "fuse"),
        (missing, list(observed), "missing"),
    ):
        for name in names:
            if name not in known:
                raise UsageError(f"{option}: no {name!r}{suggest(name, known)}; there are {', '.join(known)}")
    waypoints = {name for name in prompt if WAYPOINT.fullmatch(name)}
    if waypoints != {f"waypoint{number + 1}" for number in range(len(waypoints))}:
        raise UsageError(f"prompt: {', '.join(sorted(waypoints))}: waypoints are numbered from 1 on, without a gap")


def _step_slots(
    step: Sequence[Sequence[str]], roles: Mapping[str, list[str]], fuse: Sequence[str], spaces: Leaves
) -> list[tuple[str, ...]]:
    """Return the slots of a timestep by leaf, from its slots by role."""
    slots: list[tuple[str, ...]] = []
    for slot in step:
        names = [name for role in slot for name in roles.get(role, [role])]
        texts = [name for name in names if name in spaces and leaf_kind(spaces[name]) == "text"]
        rest = [name for name in names if name not in texts]
        is_shared = len(slot) > 1 or set(slot) <= set(fuse)
        # a text comes after what it shares a timestep with: nothing late may be predicted from what follows it
        slots += [tuple(rest)] if rest and is_shared else [(name,) for name in rest]
        slots += [(name,) for name in texts]
    return slots


def _leaf_of(name: str, observed: Leaves, of: str) -> str:
    """Return the leaf of the observation that a fact is read from: `of`, or the only one."""
    if not of and len(observed) > 1:
        raise UsageError(f"{name} is one leaf of the observation: say which ({', '.join(observed)})", option="goal_of")
    if of and of not in observed:
        raise UsageError(f"{name} is read from {of!r}{suggest(of, observed)}: there are {', '.join(observed)}")
    of = of or next(iter(observed))
    if leaf_kind(observed[of]) == "text":
        raise UsageError(f"{name} would be read from {of}, which is a text: say it in words by prompt=['text']")
    return of


def _moment(name: str, leaf: Variable, entries: tuple[int, ...]) -> Variable:
    """Return the variable of a fact that is an observation of the episode, or of chosen entries of it."""
    if not entries:
        return replace(leaf, name=name, of=leaf.name)
    if not leaf.is_vector or not all(0 <= entry < leaf.size for entry in entries):
        raise UsageError(f"{name} takes entries {list(entries)} of {leaf.name}, which is {leaf.describe()}")
    offset = tuple(leaf.offset[entry] for entry in entries) if leaf.offset else ()
    return replace(leaf, name=name, of=leaf.name, size=len(entries), entries=entries, offset=offset)


def _variable_from_leaf(
    name: str,
    leaf: Space,
    weight: float = 0.0,
    head: Head = "gaussian",
    *,
    optional: bool = False,
    text_tokens: int = 1,
) -> Variable:
    """Return the variable of a leaf; an image has no loss weight."""
    kind, size = leaf_kind(leaf), num_entries(leaf)
    if kind == "text":
        before = " " if role_of(name) == "action" else ""
        return Variable(name, "text", text_tokens, weight, optional=optional, before=before, end=LINE)
    if kind == "image":
        return Variable(name, "image", size, image=tuple(leaf.shape or ()), optional=optional)
    if isinstance(leaf, Discrete):
        return Variable(name, "discrete", int(leaf.n), weight, start=int(leaf.start), optional=optional)
    if isinstance(leaf, Box):
        low = high = None
        if role_of(name) != "observation":  # environments are lax with the bounds of their observations
            low, high = (tuple(map(float, np.ravel(bound))) for bound in _bounds(leaf))
        return Variable(name, head, size, weight, low, high, optional=optional)
    sizes, starts = (2,) * size, (0,) * size  # MultiBinary
    if isinstance(leaf, MultiDiscrete):
        sizes, starts = (tuple(map(int, np.ravel(counts))) for counts in (leaf.nvec, leaf.start))
    return Variable(name, "multi_discrete", size, weight, sizes=sizes, starts=starts, optional=optional)


def _less(variable: Variable, offset: tuple[float, ...]) -> Variable:
    """Return a variable whose values, and bounds, are what is left of them less an offset."""
    if not offset:
        return variable
    low, high = (bound and tuple(np.subtract(bound, offset).tolist()) for bound in (variable.low, variable.high))
    return replace(variable, offset=offset, low=low, high=high)


def _bounds(leaf: Box) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of a Box; whole numbers that only a wide type bounds have none."""
    if leaf.dtype.kind == "f" or leaf.dtype.itemsize < 4:
        return leaf.low, leaf.high
    limits = np.iinfo(leaf.dtype.name)
    low = np.where((leaf.low == limits.min) & (limits.min < 0), -np.inf, leaf.low)
    return low, np.where(leaf.high == limits.max, np.inf, leaf.high)
