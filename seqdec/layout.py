"""The order in which an episode is written out as tokens: one factorization of one joint distribution.

    position  0       1 ...        one step                              the next step
              start | prompt ... | observation  return_to_go  action  |  observation  return_to_go  action | ...

A slot is one token; variables that share a slot have their embeddings summed. The hidden state just before a
slot predicts every variable in that slot, and "start" gives the first slot a predecessor. A layout is a plain
value: methods such as Decision Transformer or behaviour cloning differ in their layout and in nothing else.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

import gymnasium
import numpy as np

from seqdec.errors import DataError, UsageError, suggest

Kind = Literal["gaussian", "mse", "binned", "discrete"]
Head = Literal["gaussian", "mse", "binned"]
ReturnHead = Literal["gaussian", "binned"]


@dataclass(frozen=True)
class Variable:
    """A named quantity: which codec reads and writes it, how large it is, how much its prediction counts.

    `size` is the number of entries of a vector, or the number of values of a discrete variable, which start at
    `start`. `low` and `high` bound a vector's entries, infinities allowed; None means that it is unbounded.
    A variable with `loss_weight` 0 is only ever written, never sampled.
    """

    name: str
    kind: Kind
    size: int
    loss_weight: float = 0.0
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    start: int = 0
    num_bins: int = 64
    bins: Literal["quantile", "uniform"] = "quantile"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"{self.name} has kind {self.kind!r}: use one of {', '.join(get_args(Kind))}")
        if self.size < 1:
            raise UsageError(f"{self.name} has size {self.size}: at least 1 is needed")
        for bound in (self.low, self.high):
            if bound is not None and len(bound) != self.size:
                raise UsageError(f"{self.name} has {self.size} entries but {len(bound)} bounds")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value: () for a discrete variable, (size,) for a vector."""
        return () if self.kind == "discrete" else (self.size,)

    def describe(self) -> str:
        """Return size and kind in words."""
        return f"Discrete({self.size}, start={self.start})" if self.kind == "discrete" else f"a vector of {self.size}"


@dataclass(frozen=True)
class Layout:
    """Which variables are written, in which slots, for how many timesteps.

    `late` names variables of the step that are written one step later, in their slot of the next timestep:
    that is how an action can share the one token of a timestep with the observation that follows it.

    Example:
        >>> observation, action = Variable("observation", "gaussian", 4), Variable("action", "discrete", 2, 1.0)
        >>> layout = Layout((observation, action), step=(("observation",), ("action",)), context_length=3)
        >>> layout.positions("action").tolist()
        [2, 4, 6]
    """

    variables: tuple[Variable, ...]
    step: tuple[tuple[str, ...], ...]
    prompt: tuple[tuple[str, ...], ...] = ()
    late: tuple[str, ...] = ()
    context_length: int = 20

    def __post_init__(self) -> None:
        placed = [name for slot in (*self.prompt, *self.step) for name in slot]
        names = [variable.name for variable in self.variables]
        for name in placed:
            if name not in names:
                raise UsageError(f"the layout places {name!r}, which is no variable of it{suggest(name, names)}")
        for name in names:
            if placed.count(name) != 1:
                raise UsageError(f"the layout places {name!r} {placed.count(name)} times: once is needed")
        for name in self.late:
            if name not in self.step_names:
                raise UsageError(f"late variable {name!r} is in no slot of the step")
        if self.context_length < 1:
            raise UsageError(f"context_length is {self.context_length}: at least 1 timestep is needed")
        if not self.predicted:
            raise UsageError("no variable of the layout has a loss_weight above 0: nothing would be learned")

    @property
    def step_names(self) -> tuple[str, ...]:
        """Names of the variables of a timestep, in the order in which they are written."""
        return tuple(name for slot in self.step for name in slot)

    @property
    def prompt_names(self) -> tuple[str, ...]:
        """Names of the facts written before the first step."""
        return tuple(name for slot in self.prompt for name in slot)

    @property
    def predicted(self) -> tuple[str, ...]:
        """Names of the variables that the model learns to sample."""
        return tuple(variable.name for variable in self.variables if variable.loss_weight > 0)

    @property
    def num_tokens(self) -> int:
        """Tokens of a full window, "start" and prompt included."""
        return 1 + len(self.prompt) + self.context_length * len(self.step)

    def variable(self, name: str) -> Variable:
        """Return the variable of that name; raises KeyError where there is none."""
        return next(variable for variable in self.variables if variable.name == name)

    def position(self, name: str, timestep: int = 0) -> int:
        """Token index of a variable's slot at a timestep of the window; a prompt fact has one for all."""
        for index, slot in enumerate(self.prompt):
            if name in slot:
                return 1 + index
        slot_index = next(index for index, slot in enumerate(self.step) if name in slot)
        timestep += name in self.late
        return 1 + len(self.prompt) + timestep * len(self.step) + slot_index

    def positions(self, name: str) -> np.ndarray:
        """Token indices of a variable's slots, int64 [K], or [1] for a prompt fact.

        The last slot of a late variable lies one past the window: it can be predicted, but not be read.
        """
        if name in self.prompt_names:
            return np.array([self.position(name)])
        return self.position(name) + len(self.step) * np.arange(self.context_length)

    def check_spaces(self, observation_space: gymnasium.Space, action_space: gymnasium.Space) -> None:
        """Raise UsageError where the layout does not fit the spaces of the data, or names what no data set has."""
        returns = Variable("return", "gaussian", 1)
        written = {
            "observation": _variable_from_space("observation", observation_space, 0.0, "gaussian", bounded=False),
            "action": _variable_from_space("action", action_space, 0.0, "gaussian", bounded=True),
            **dict.fromkeys(("reward", "return_to_go", "target_return"), returns),
        }
        for variable in self.variables:
            if variable.name not in written:
                known = ", ".join(written)
                raise UsageError(
                    f"no data set has the variable {variable.name!r}{suggest(variable.name, written)}: {known}"
                )
            data = written[variable.name]
            if (variable.shape, variable.start) != (data.shape, data.start) or variable.size != data.size:
                raise UsageError(
                    f"the layout's {variable.name} is {variable.describe()}, the data's is {data.describe()}: "
                    "make the layout for this data"
                )

    def to_json(self) -> dict[str, object]:
        """Return the layout as plain JSON values; infinite bounds become strings."""
        value = asdict(self)
        for variable in value["variables"]:
            for bound in ("low", "high"):
                if variable[bound] is not None:
                    variable[bound] = [x if np.isfinite(x) else str(x) for x in variable[bound]]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a layout; raises DataError naming the entry that is missing, unknown or malformed."""
        try:
            _refuse_unknown_keys(value, cls)
            return cls(
                variables=tuple(_variable_from_json(entry) for entry in value["variables"]),
                step=tuple(tuple(slot) for slot in value["step"]),
                prompt=tuple(tuple(slot) for slot in value.get("prompt", ())),
                late=tuple(value.get("late", ())),
                context_length=int(value.get("context_length", 20)),
            )
        except DataError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"this is no layout: {type(error).__name__}: {error}") from error


def _variable_from_json(entry: Mapping[str, Any]) -> Variable:
    _refuse_unknown_keys(entry, Variable)
    bounds = {bound: tuple(float(x) for x in entry[bound]) for bound in ("low", "high") if entry.get(bound) is not None}
    return Variable(**{**entry, **bounds})


def _refuse_unknown_keys(value: Mapping[str, object], record: type) -> None:
    known = [field.name for field in fields(record)]
    for key in value:
        if key not in known:
            raise DataError(f"unknown key {key!r} in {record.__name__.lower()}{suggest(key, known)}")


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
) -> Layout:
    """Return a preset layout for an environment's spaces.

    Args:
        preset: `decision_transformer` (Chen et al. 2021), `multi_game` (Lee et al. 2022: the return is predicted
            before the action), `behaviour_cloning`, `trajectory` (Janner et al. 2021) or `fused` (one token a
            timestep: the previous action, the return to go and the observation summed).
        observation_space: a Box vector or Discrete.
        action_space: a Box vector or Discrete.
        context_length: timesteps in a full window.
        head: how Box values are predicted.
        return_head: how returns and rewards are predicted.

    Raises:
        UsageError: for an unknown preset or a space that is not supported.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown layout {preset!r}{suggest(preset, PRESETS)}: use one of {', '.join(PRESETS)}")
    step, late, weights = _STEPS[preset]
    variables = []
    for name in (name for slot in step for name in slot):
        weight = weights.get(name, 0.0)
        if name == "observation":
            variables.append(_variable_from_space(name, observation_space, weight, head, bounded=False))
        elif name == "action":
            variables.append(_variable_from_space(name, action_space, weight, head, bounded=True))
        else:
            variables.append(Variable(name, return_head, 1, weight))
    return Layout(tuple(variables), step, late=late, context_length=context_length)


def _variable_from_space(
    name: str, space: gymnasium.Space, loss_weight: float, head: Head, *, bounded: bool
) -> Variable:
    if isinstance(space, gymnasium.spaces.Discrete):
        return Variable(name, "discrete", int(space.n), loss_weight, start=int(space.start))
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        low, high = (tuple(map(float, bound)) if bounded else None for bound in (space.low, space.high))
        return Variable(name, head, space.shape[0], loss_weight, low, high)
    raise UsageError(f"{space} {name}s are not supported yet: Box vectors and Discrete are")
