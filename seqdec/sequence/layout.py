"""The order in which an episode is written out as tokens: one factorization of one joint distribution.

    position  0       1 ...               one step                             the next step
              start | prompt ... demo ... | observation  return_to_go  action | observation  return_to_go  action | ...

A slot is one token, or as many as its text may have; variables that share a slot have their embeddings summed. The
hidden state just before a slot predicts every variable in that slot, and "start" gives the first slot a predecessor.
Each leaf of a nested space is a variable. A layout is a plain value: methods such as Decision Transformer or behaviour
cloning differ in their layout and in nothing else.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np

from seqdec.errors import DataError, UsageError, suggest
from seqdec.sequence.facts import WHEN, is_fact
from seqdec.spaces.leaves import role_of

Head = Literal["gaussian", "mse", "binned"]
ReturnHead = Literal["gaussian", "binned"]
DemoPart = Literal["random", "best"]


@dataclass(frozen=True)
class Kind:
    """The properties of all values of one kind.

    `dtype` is their type in a batch. A vector holds real numbers, which may be missing one by one; whole numbers name
    one of several values each. A single value has shape (), any other (size,). What cannot be predicted is only ever
    written, never sampled.
    """

    dtype: type[np.generic] = np.float32
    is_vector: bool = False
    is_whole: bool = False
    is_single: bool = False
    can_be_predicted: bool = True


KINDS = {
    "gaussian": Kind(is_vector=True),
    "mse": Kind(is_vector=True),
    "binned": Kind(is_vector=True),
    "discrete": Kind(np.int64, is_whole=True, is_single=True),
    "multi_discrete": Kind(np.int64, is_whole=True),
    "image": Kind(np.uint8, can_be_predicted=False),
    "text": Kind(np.uint8, is_single=True, can_be_predicted=False),
    "timestep": Kind(can_be_predicted=False),
}


@dataclass(frozen=True)
class Variable:
    """A named quantity: which codec reads and writes it, how large it is, how much its prediction counts.

    `size` is the number of entries of a vector, image or multi_discrete variable, the number of values of a discrete
    one, which start at `start`, or the most tokens that a text may have. `low` and `high` bound a vector's entries,
    infinities allowed; None means that it is unbounded. `sizes` and `starts` are the number of values and the first
    value of each entry of a multi_discrete variable, `image` an image's shape as the environment gives it. An
    `optional` variable may be missing, a vector's entries one by one. A fact of the prompt that is an observation, such
    as a goal, is read from the leaf `of`, and from these `entries` of it where any are named. A variable with
    `loss_weight` 0 is only ever written, never sampled; images, texts and timesteps always are.
    """

    name: str
    kind: str
    size: int
    loss_weight: float = 0.0
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    start: int = 0
    num_bins: int = 64
    bins: Literal["quantile", "uniform"] = "quantile"
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    image: tuple[int, ...] = ()
    optional: bool = False
    of: str = ""
    entries: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"{self.name} has kind {self.kind!r}: use one of {', '.join(KINDS)}")
        if self.size < 1:
            raise UsageError(f"{self.name} has size {self.size}: at least 1 is needed")
        for bound in (self.low, self.high):
            if bound is not None and len(bound) != self.size:
                raise UsageError(f"{self.name} has {self.size} entries but {len(bound)} bounds")
        if self.loss_weight > 0 and not KINDS[self.kind].can_be_predicted:
            raise UsageError(f"{self.name} is {self.describe()}: it can be read, not predicted; its loss_weight is 0")
        if self.kind == "multi_discrete" and not len(self.sizes) == len(self.starts) == self.size:
            raise UsageError(f"{self.name} has {self.size} entries: give as many sizes and starts")
        if self.entries and (not self.of or len(self.entries) != self.size):
            raise UsageError(f"{self.name} has size {self.size} and {len(self.entries)} entries of {self.of!r}")
        if self.kind == "image" and int(np.prod(self.image)) != self.size:
            raise UsageError(f"{self.name} has {self.size} entries, an image of shape {self.image} has others")

    @property
    def role(self) -> str:
        """What it is in the episode: "observation" of "observation.camera"."""
        return role_of(self.name)

    @property
    def dtype(self) -> type[np.generic]:
        """Type of its values in a batch."""
        return KINDS[self.kind].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value in a batch: () for a discrete variable or a text, (size,) for everything else."""
        return () if KINDS[self.kind].is_single else (self.size,)

    @property
    def num_tokens(self) -> int:
        """How many tokens a slot of this variable takes."""
        return self.size if self.kind == "text" else 1

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers, which name one of several values each."""
        return KINDS[self.kind].is_whole

    @property
    def is_vector(self) -> bool:
        """Whether its values are vectors of real numbers, whose entries may be missing one by one."""
        return KINDS[self.kind].is_vector

    def has(self, low: float, high: float) -> bool:
        """Say whether numbers between these are among those that a discrete variable names; of other kinds, all are."""
        return self.kind != "discrete" or self.start <= low <= high < self.start + self.size

    def describe(self) -> str:
        """Return size and kind in words."""
        if self.kind == "discrete":
            return f"Discrete({self.size}, start={self.start})"
        if self.kind == "multi_discrete":
            return f"MultiDiscrete({list(self.sizes)}, start={list(self.starts)})"
        if self.kind == "image":
            return f"an image of {'x'.join(map(str, self.image))}"
        if self.kind == "timestep":
            return "a timestep"
        return f"a text of at most {self.size} tokens" if self.kind == "text" else f"a vector of {self.size}"


@dataclass(frozen=True)
class Layout:
    """Which variables are written, in which slots, for how many timesteps, and how an episode's facts are told.

    `late` names variables of the step that are written one step later, in their slot of the next timestep:
    that is how an action can share the one token of a timestep with the observation that follows it. `demo` has the
    slots of a timestep of another episode, made of variables of the step, which stand `demo_length` times behind the
    prompt. Returns to go are discounted by `discount`; with `delayed_reward` all of an episode's reward is paid at its
    last step. In a share of the windows, `prompt_dropout`, each fact of the prompt and the return to go is unknown, and
    in as many all of them are. A demo is of an episode of the same task, as the column `demo_group` says it: "text", or
    one of the metadata ("metadata.velocity"); `demo_part` says which of its timesteps: any, or those in a row that earn
    most.

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
    demo: tuple[tuple[str, ...], ...] = ()
    demo_length: int = 0
    discount: float = 1.0
    delayed_reward: bool = False
    prompt_dropout: float = 0.0
    demo_group: str = "text"
    demo_part: DemoPart = "random"

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
        for slot in (*self.prompt, *self.step):
            text = next((name for name in slot if self.variable(name).kind == "text"), None)
            if text is not None and (len(slot) > 1 or text in self.late):
                raise UsageError(f"the text {text!r} needs a slot of its own, and cannot be late")
        for name in self.demo_names:
            if name not in self.step_names or self.variable(name).kind == "text" or self.demo_names.count(name) > 1:
                raise UsageError(f"the demo shows {name!r}: it has variables of the step that are no texts, each once")
        if (self.demo_length > 0) != bool(self.demo):
            raise UsageError(f"the demo has {len(self.demo)} slots, {self.demo_length} timesteps: give both, or none")
        if self.context_length < 1:
            raise UsageError(f"context_length is {self.context_length}: at least 1 timestep is needed")
        if not 0 < self.discount <= 1:
            raise UsageError(f"discount is {self.discount}: it must be above 0 and at most 1")
        if not 0 <= self.prompt_dropout < 1:
            raise UsageError(f"prompt_dropout is {self.prompt_dropout}: give a share from 0 to below 1")
        if self.demo_part not in get_args(DemoPart):
            raise UsageError(f"demo_part is {self.demo_part!r}: use one of {', '.join(get_args(DemoPart))}")
        if not self.predicted:
            raise UsageError("no variable of the layout has a loss_weight above 0: nothing would be learned")

    @cached_property
    def step_names(self) -> tuple[str, ...]:
        """Names of the variables of a timestep, in the order in which they are written."""
        return tuple(name for slot in self.step for name in slot)

    def divide(self, acted: Collection[str]) -> tuple[list[str], list[str], list[str]]:
        """Return a timestep's variables in the order of writing: before an action, of it, and after it.

        Late variables come last; what stands between two leaves of the action counts to it.
        """
        names = [name for name in self.step_names if name not in self.late] + list(self.late)
        places = [place for place, name in enumerate(names) if name in acted]
        first, last = places[0], places[-1]
        return names[:first], names[first : last + 1], names[last + 1 :]

    @cached_property
    def prompt_names(self) -> tuple[str, ...]:
        """Names of the facts written before the first step."""
        return tuple(name for slot in self.prompt for name in slot)

    @cached_property
    def demo_names(self) -> tuple[str, ...]:
        """Names of the variables that a demo shows."""
        return tuple(name for slot in self.demo for name in slot)

    @cached_property
    def facts(self) -> tuple[str, ...]:
        """What the prompt says of the episode itself, in order; "demo" where it shows another one, too."""
        facts = tuple(name for name in self.prompt_names if is_fact(name) and not name.endswith(WHEN))
        return (*facts, "demo") if self.demo else facts

    @cached_property
    def predicted(self) -> tuple[str, ...]:
        """Names of the variables that the model learns to sample."""
        return tuple(variable.name for variable in self.variables if variable.loss_weight > 0)

    @cached_property
    def has_text(self) -> bool:
        """Whether a text is among the variables: then the backbone needs its vocabulary and an attention mask."""
        return any(variable.kind == "text" for variable in self.variables)

    @cached_property
    def _by_name(self) -> dict[str, Variable]:
        return {variable.name: variable for variable in self.variables}

    @cached_property
    def _offsets(self) -> dict[str, int]:
        """Index of a step variable's first token within its timestep."""
        sizes = self.slot_sizes(self.step)
        return {name: sum(sizes[:index]) for index, slot in enumerate(self.step) for name in slot}

    def slot_sizes(self, slots: Sequence[Sequence[str]]) -> list[int]:
        """Tokens of each slot."""
        return [self.variable(slot[0]).num_tokens for slot in slots]

    @cached_property
    def first_demo(self) -> int:
        """Position of the first token after "start" and the facts of the prompt."""
        return 1 + sum(self.slot_sizes(self.prompt))

    @cached_property
    def first_step(self) -> int:
        """Position of the first token of the first timestep: after "start", the prompt and the demo."""
        return self.first_demo + self.demo_length * len(self.demo)

    @cached_property
    def step_tokens(self) -> int:
        """Tokens of one timestep."""
        return sum(self.slot_sizes(self.step))

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of a full window, "start", prompt and demo included."""
        return self.first_step + self.context_length * self.step_tokens

    def variable(self, name: str) -> Variable:
        """Return the variable of that name; raises KeyError where there is none."""
        return self._by_name[name]

    def position(self, name: str, timestep: int = 0) -> int:
        """Index of the first token of a variable's slot at a timestep of the window; a prompt fact has one for all."""
        if name not in self._offsets:
            before = next(index for index, slot in enumerate(self.prompt) if name in slot)
            return 1 + sum(self.slot_sizes(self.prompt[:before]))
        return self.first_step + (timestep + (name in self.late)) * self.step_tokens + self._offsets[name]

    def positions(self, name: str) -> np.ndarray:
        """Index of the first token of each of a variable's slots, int64 [K], or [1] for a prompt fact.

        The last slot of a late variable lies one past the window: it can be predicted, but not be read.
        """
        if name in self.prompt_names:
            return np.array([self.position(name)])
        return self.position(name) + self.step_tokens * np.arange(self.context_length)

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
            slots = {
                key: tuple(tuple(slot) for slot in value[key]) for key in ("step", "prompt", "demo") if key in value
            }
            variables = tuple(_variable_from_json(entry) for entry in value["variables"])
            numbers = {key: kind(value[key]) for key, kind in _CASTS.items() if key in value}
            return cls(**{**value, **slots, **numbers, "variables": variables, "late": tuple(value.get("late", ()))})
        except DataError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"this is no layout: {type(error).__name__}: {error}") from error


_TUPLES = ("sizes", "starts", "image", "entries")
_CASTS = {"context_length": int, "demo_length": int, "discount": float, "delayed_reward": bool, "prompt_dropout": float}


def _variable_from_json(entry: Mapping[str, Any]) -> Variable:
    _refuse_unknown_keys(entry, Variable)
    bounds = {bound: tuple(float(x) for x in entry[bound]) for bound in ("low", "high") if entry.get(bound) is not None}
    counts = {key: tuple(int(x) for x in entry[key]) for key in _TUPLES if key in entry}
    return Variable(**{**entry, **bounds, **counts})


def _refuse_unknown_keys(value: Mapping[str, object], record: type) -> None:
    known = [field.name for field in fields(record)]
    for key in value:
        if key not in known:
            raise DataError(f"unknown key {key!r} in {record.__name__.lower()}{suggest(key, known)}")
