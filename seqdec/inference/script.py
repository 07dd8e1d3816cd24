"""What a batch of sequences has written so far: the prompt, and the timesteps of the window, as tokens without places.

start | target_return  text | observation  return_to_go  action | observation ...
        prompt                 the oldest timestep of the window   the newest one, open
"""

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqdec.errors import UsageError
from seqdec.model.sequence_model import SequenceModel
from seqdec.sequence.layout import Layout

# Timesteps beyond a window whose embeddings are made at once, because a call costs more than its work.
AHEAD = 32
PROMPT = -1  # in the place of a timestep's index in the window: before the first one


class Written(NamedTuple):
    """A value as tokens [B, n, D], without their time; of words, also how many each sequence has, [B]."""

    tokens: Tensor
    counts: Tensor | None


class Script:
    """The values that sequences hold, slot by slot.

    Args:
        model: whose layout says what stands where.
        num_sequences: B.
    """

    def __init__(self, model: SequenceModel, num_sequences: int):
        self._model, self._layout = model, model.layout
        self.timestep = 0  # inside the episode, of the newest timestep that is being written
        self.prompt = {"start": Written(model.embed_start().detach().expand(num_sequences, 1, -1), None)}
        self.steps: list[dict[str, Written]] = [{}]  # the timesteps of the window, the last one open
        self._window = _slots_of(self._layout)
        self._times: tuple[int, tuple[Tensor, ...]] = 0, ()  # embeddings of a range of timesteps from the first on

    def position(self, name: str) -> int:
        """Return where a slot stands in the window, of a step variable in the newest timestep."""
        return self._layout.first_demo if name == "demo" else self._layout.position(name, len(self.steps) - 1)

    @property
    def absent(self) -> str | None:
        """The first variable that the newest timestep lacks, None where it is whole."""
        return next((name for name in self._layout.step_names if name not in self.steps[-1]), None)

    def begin_timestep(self) -> bool:
        """Open the next timestep; return whether the older half of a full window was dropped for it."""
        self.timestep += 1
        is_full = len(self.steps) == self._layout.context_length
        if is_full:
            keep = self._layout.context_length // 2
            self.steps = self.steps[len(self.steps) - keep :]
        self.steps.append({})
        return is_full

    def shorten(self, num_tokens: int) -> bool:
        """Keep the newest timesteps of sequences that have no room for so many more tokens; say whether it did.

        They are then within half their room, or a single one.
        """
        most = self._layout.max_tokens - num_tokens
        of_prompt = sum(_sizes(value) for value in self.prompt.values())
        of_steps = [sum((_sizes(value) for value in step.values()), np.zeros(1)) for step in self.steps]
        ahead = np.stack(np.broadcast_arrays(*of_steps))[::-1].cumsum(0)[::-1]
        lengths = (of_prompt + ahead).max(1)  # of the longest sequence, if it began at each timestep
        if lengths[0] <= most:
            return False
        first = next((step for step, length in enumerate(lengths) if length <= most // 2), len(lengths) - 1)
        self.steps = self.steps[first:]
        return first > 0

    def slots(self, first: int, end: int) -> list[Written]:
        """Return the slots between two positions.

        Raises:
            UsageError: one of them has not been written.
        """
        slots, position = [], first
        while position < end:
            index, names = self._window[position]
            slots.append(self._slot(index, names))
            position += slots[-1].tokens.shape[1] if names == ("demo",) else 1
        return slots

    def _slot(self, index: int, names: tuple[str, ...]) -> Written:
        """Return what stands in a slot of the window: the sum of its variables, and of the time within the episode."""
        if index == PROMPT:
            return _sum([self._written(name, PROMPT) for name in names])
        at = [(name, index - (name in self._layout.late)) for name in names]
        written = [self._written(name, written_at) for name, written_at in at if written_at >= 0]
        if written and written[0].counts is not None and not self._layout.timed_words:
            return written[0]
        time = self._time(self._first_timestep + index)
        if not written:
            return Written(time.expand(len(self.prompt["start"].tokens), 1, -1), None)
        tokens, counts = _sum(written)
        return Written(tokens + time, counts)

    def _time(self, timestep: int) -> Tensor:
        """Return the embedding of an index inside the episode, [D]; they are made many at a time."""
        first, block = self._times
        if not first <= timestep < first + len(block):
            first, last = timestep, timestep + self._layout.context_length + AHEAD
            block = self._model.embed_time(torch.arange(first, last, device=self._model.device)).unbind()
            self._times = first, block
        return block[timestep - first]

    def _written(self, name: str, index: int) -> Written:
        values = self.prompt if index == PROMPT else self.steps[index]
        if name not in values:
            where = "the prompt" if index == PROMPT else f"timestep {self._first_timestep + index}"
            raise UsageError(f"{name} of {where} has not been written: the layout reads it before what was asked")
        return values[name]

    @property
    def _first_timestep(self) -> int:
        """Timesteps that left the window."""
        return self.timestep - (len(self.steps) - 1)

    def copy(self) -> "Script":
        """Return a script of the same values, which goes on by itself."""
        other = copy.copy(self)
        other.prompt, other.steps = dict(self.prompt), [dict(step) for step in self.steps]
        return other

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, int64 [B']."""
        for values in (self.prompt, *self.steps):
            for name, value in values.items():
                values[name] = Written(value.tokens[rows], None if value.counts is None else value.counts[rows])


def _slots_of(layout: Layout) -> list[tuple[int, tuple[str, ...]]]:
    """Return the slots of a window by position: the timestep's index, and the variables."""
    slots = [(PROMPT, ("start",)), *((PROMPT, slot) for slot in layout.prompt)]
    slots += [(PROMPT, ("demo",))] * (layout.first_step - layout.first_demo)
    return slots + [(index, slot) for index in range(layout.context_length) for slot in layout.step]


def _sum(written: list[Written]) -> Written:
    """Return what several values that share a slot look like; words have a slot of their own."""
    tokens = written[0].tokens
    for other in written[1:]:
        tokens = tokens + other.tokens
    return Written(tokens, written[0].counts)


def _sizes(value: Written) -> np.ndarray:
    """Return how many tokens a value takes in each sequence, [B], or [1] for all."""
    return np.array([value.tokens.shape[1]]) if value.counts is None else value.counts.cpu().numpy()
