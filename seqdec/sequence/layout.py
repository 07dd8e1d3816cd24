"""The order in which an episode is written out as tokens: one factorization of one joint distribution.

    position  0       1 ...               one step                             the next step
              start | prompt ... demo ... | observation  return_to_go  action | observation  return_to_go  action | ...

A slot is one token, or as many as its text has; a position counts slots. Variables that share a slot have their
embeddings summed. The hidden state just before a slot predicts every variable in that slot, and "start" gives the first
slot a predecessor. Each leaf of a nested space is a variable. A layout is a plain value: methods such as Decision
Transformer or behaviour cloning differ in their layout and in nothing else. One of words alone is a language model.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np

from seqdec.errors import DataError, UsageError, suggest
from seqdec.sequence.facts import WHEN, is_fact
from seqdec.sequence.variable import Variable

DemoPart = Literal["random", "best"]
MOST_TIMESTEPS = 2**16


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
    most. A window has at most `max_tokens` tokens, in whole timesteps; 0 sets no limit. Words have no embedding of
    their timestep, their order says it, unless `timed_words` adds one (as policies of 0.1.0 do).

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
    max_tokens: int = 0
    timed_words: bool = False

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
            words = next((name for name in slot if self.variable(name).is_words), None)
            if words is not None and (len(slot) > 1 or words in self.late):
                raise UsageError(f"{words!r} is written in words: it needs a slot of its own, and cannot be late")
        for name in self.demo_names:
            if name not in self.step_names or self.variable(name).is_words or self.demo_names.count(name) > 1:
                raise UsageError(f"the demo shows {name!r}: it has variables of the step that are no words, each once")
        if (self.demo_length > 0) != bool(self.demo):
            raise UsageError(f"the demo has {len(self.demo)} slots, {self.demo_length} timesteps: give both, or none")
        if not 1 <= self.context_length <= MOST_TIMESTEPS or self.demo_length > MOST_TIMESTEPS:
            lengths = f"context_length is {self.context_length}, demo_length {self.demo_length}"
            raise UsageError(f"{lengths}: at least 1 timestep is needed, and at most {MOST_TIMESTEPS}")
        if self.max_tokens < 0:
            raise UsageError(f"max_tokens is {self.max_tokens}: give 0 for no limit, or more")
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
    def has_words(self) -> bool:
        """Whether something is written in words: then slots differ in size, and the backbone needs its vocabulary."""
        return any(variable.is_words for variable in self.variables)

    @cached_property
    def is_language(self) -> bool:
        """Whether everything is written in words: then a model of it is a language model."""
        return all(variable.is_words for variable in self.variables)

    @cached_property
    def predicts_words(self) -> bool:
        """Whether words are predicted: then the backbone needs its output embeddings."""
        return any(self.variable(name).is_words for name in self.predicted)

    @cached_property
    def _by_name(self) -> dict[str, Variable]:
        return {variable.name: variable for variable in self.variables}

    @cached_property
    def _offsets(self) -> dict[str, int]:
        """Index of a step variable's slot within its timestep."""
        return {name: index for index, slot in enumerate(self.step) for name in slot}

    @cached_property
    def first_demo(self) -> int:
        """Position of the first slot after "start" and the facts of the prompt."""
        return 1 + len(self.prompt)

    @cached_property
    def first_step(self) -> int:
        """Position of the first slot of the first timestep: after "start", the prompt and the demo."""
        return self.first_demo + self.demo_length * len(self.demo)

    @cached_property
    def num_tokens(self) -> int:
        """The most tokens of a window, "start", prompt and demo included."""
        before, step = (sum(self.variable(slot[0]).most_tokens for slot in slots) for slots in (self.prompt, self.step))
        most = 1 + before + self.demo_length * len(self.demo) + self.context_length * step
        return min(most, self.max_tokens) if self.max_tokens else most

    def variable(self, name: str) -> Variable:
        """Return the variable of that name; raises KeyError where there is none."""
        return self._by_name[name]

    def position(self, name: str, timestep: int = 0) -> int:
        """Index of a variable's slot at a timestep of the window; a prompt fact has one for all."""
        if name not in self._offsets:
            return 1 + next(index for index, slot in enumerate(self.prompt) if name in slot)
        return self.first_step + (timestep + (name in self.late)) * len(self.step) + self._offsets[name]

    def positions(self, name: str) -> np.ndarray:
        """Index of each of a variable's slots, int64 [K], or [1] for a prompt fact; without words, of its token.

        The last slot of a late variable lies one past the window: it can be predicted, but not be read.
        """
        if name in self.prompt_names:
            return np.array([self.position(name)])
        return self.position(name) + len(self.step) * np.arange(self.context_length)

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
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise DataError(f"this is no layout: {type(error).__name__}: {error}") from error


_TUPLES = ("sizes", "starts", "image", "entries")
_CASTS = {
    "context_length": int, "demo_length": int, "discount": float, "delayed_reward": bool, "prompt_dropout": float,
    "max_tokens": int, "timed_words": bool,
}  # fmt: skip


def _variable_from_json(entry: Mapping[str, Any]) -> Variable:
    _refuse_unknown_keys(entry, Variable)
    bounds = {bound: tuple(float(x) for x in entry[bound]) for bound in ("low", "high") if entry.get(bound) is not None}
    counts = {key: tuple(int(x) for x in entry[key]) for key in _TUPLES if key in entry}
    offset = tuple(float(x) for x in entry.get("offset", ()))
    return Variable(**{**entry, **bounds, **counts, "offset": offset})


def _refuse_unknown_keys(value: Mapping[str, object], record: type) -> None:
    known = [field.name for field in fields(record)]
    for key in value:
        if key not in known:
            raise DataError(f"unknown key {key!r} in {record.__name__.lower()}{suggest(key, known)}")
