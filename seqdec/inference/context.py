"""A batch of sequences being written, with its key-value cache: write what is known, sample what is not.

    context = Context(model, num_sequences=16)
    context.write(observation=observations, return_to_go=targets)
    actions = context.sample("action")

`sample` runs the backbone once over all that was queued since the last time, so a step of acting costs one forward
of a few tokens. A full context keeps the prompt and the newest half of its timesteps and reads them again, which is
exact: the model sees a window such as it was trained on.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from seqdec.errors import UsageError, suggest
from seqdec.inference.memory import Memory
from seqdec.inference.values import demo_batch, tensor_of
from seqdec.model.distributions import Distribution
from seqdec.model.perception import marks_of
from seqdec.model.sequence_model import SequenceModel
from seqdec.sequence import noise
from seqdec.sequence.facts import WHEN
from seqdec.sequence.layout import Layout
from seqdec.spaces.leaves import MISSING

# Timesteps beyond a window whose embeddings are made at once, because a call costs more than its work.
AHEAD = 32
PROMPT = -1  # in the place of a timestep's index in the window: before the first one


class _Written(NamedTuple):
    """A value as tokens [B, n, D], without their time; of a text, also which of them are words [B, n]."""

    tokens: Tensor
    words: Tensor | None


class Context:
    """Sequences that share one timestep, written slot after slot in the layout's order.

    Args:
        model: in evaluation mode.
        num_sequences: B.
        keys: of random numbers, one for each sequence (see `noise`); those of seed 0 by default.
        use_cache: False reads everything again for every sample, which is slow and serves as the reference.

    Example:
        >>> context = Context(model, num_sequences=2)
        >>> context.write(observation=observations, return_to_go=[500.0, 20.0])
        >>> context.sample("action").shape
        torch.Size([2])
    """

    def __init__(
        self, model: SequenceModel, num_sequences: int, *, keys: np.ndarray | None = None, use_cache: bool = True
    ):
        self.model, self.layout = model, model.layout
        self.num_sequences = num_sequences
        self._draws = noise.Draws(noise.keys(0, 0, num_sequences) if keys is None else keys, model.device)
        self.timestep = 0  # inside the episode, of the newest timestep that is being written
        self._names = (*self.layout.prompt_names, *(["demo"] if self.layout.demo else []), *self.layout.step_names)
        self._window = _slots_of(self.layout)
        self._prompt = {"start": _Written(model.start.detach().expand(num_sequences, 1, -1), None)}
        self._steps: list[dict[str, _Written]] = [{}]  # the timesteps of the window, the last one open
        self._times: tuple[int, tuple[Tensor, ...]] = 0, ()  # embeddings of a range of timesteps from the first on
        self._memory = Memory(model.backbone_source, num_sequences, self.layout.num_tokens) if use_cache else None
        # actions of vectors whose space holds whole numbers: what is sampled is what is done
        self._whole = {
            name: [torch.as_tensor(bound.reshape(-1), dtype=torch.float32) for bound in (leaf.low, leaf.high)]
            for name, leaf in model.data.spec.action_leaves.items()
            if isinstance(leaf, Box) and leaf.dtype.kind != "f"
        }
        self._restart()

    def _restart(self) -> None:
        """Forget what the backbone has read; the values stay and are read again."""
        self._num_read = 0  # tokens
        self._hidden: Tensor | None = None  # state after the last token read, [B, D]
        if self._memory is not None:
            self._memory.forget()

    @torch.inference_mode()
    def write(self, **values: object) -> None:
        """Write variables, each [B, size] or [B] in raw units, images in their own shape, texts as B strings.

        None writes "unknown"; so does NaN, and None among texts, in its row. `missing.NAME`, [B] or [B, size], says
        the same of any variable. Names with a dot are passed as `write(**{"observation.camera": images})`. `demo` is an
        episode, or one for each sequence, None where there is none; of a longer one the first timesteps are shown.

        Writing a variable that the newest timestep has already begins the next timestep.

        Raises:
            UsageError: for a name that the layout does not have, or values of another shape.
        """
        for name in values:
            variable = name.removeprefix(MISSING)
            if variable not in self._names:
                has = ", ".join(self._names)
                raise UsageError(f"the layout has no {name!r}{suggest(name, self._names)}: it has {has}")
            if variable not in values:
                raise UsageError(f"{name} has no {variable} beside it: write both")
        for name in self._names:
            if name not in values:
                continue
            if name not in self.layout.step_names and (self._num_read > self._position(name) or self._steps != [{}]):
                raise UsageError(f"{name} belongs to the prompt: write it before the first step, in order")
            if name == "demo":
                self._prompt[name] = self._embed_demo(values[name], values.get(MISSING + name))
            else:
                self._set(name, *self._value(name, values[name], values.get(MISSING + name)))

    def _position(self, name: str) -> int:
        """Return where a slot begins in the window, of a step variable in the newest timestep."""
        return self.layout.first_demo if name == "demo" else self.layout.position(name, len(self._steps) - 1)

    def _set(self, name: str, value: Tensor, missing: Tensor | None = None) -> None:
        if name in self.layout.prompt_names:
            self._prompt[name] = self._embed(name, value, missing)
            return
        if name in self._steps[-1]:
            absent = [other for other in self.layout.step_names if other not in self._steps[-1]]
            if absent:
                raise UsageError(f"{name} of timestep {self.timestep} is written already; {absent[0]} is missing")
            self._begin_timestep()
        self._steps[-1][name] = self._embed(name, value, missing)

    def _embed(self, name: str, value: Tensor, missing: Tensor | None) -> _Written:
        return _Written(*self.model.embed_values(name, value, missing))

    def _embed_demo(self, value: object, missing: object = None) -> _Written:
        """Return the tokens of an episode, or of one for each sequence."""
        batch = demo_batch(self.layout, value, missing, self.num_sequences)
        return _Written(self.model.embed_demo({name: part.to(self.model.device) for name, part in batch.items()}), None)

    def _begin_timestep(self) -> None:
        self.timestep += 1
        if len(self._steps) == self.layout.context_length:
            keep = self.layout.context_length // 2
            self._steps = self._steps[len(self._steps) - keep :]
            self._restart()
        self._steps.append({})

    def _value(self, name: str, value: object, mask: object = None) -> tuple[Tensor, Tensor | None]:
        return tensor_of(self.layout.variable(name), value, mask, self.num_sequences, self.model.device)

    def sample(
        self, name: str, *, temperature: float = 1.0, top_k: int | None = None, guidance: Sequence[float] = ()
    ) -> Tensor:
        """Sample a variable given all slots before its own, and write it; raw units, [B, size] or [B].

        Args:
            name: a variable that the layout predicts.
            temperature: 1 samples the model's distribution, 0 takes its mode.
            top_k: keeps the most likely values or bins only; 1 takes the mode.
            guidance: weights [m], for sequences in blocks of 1 + m: the first has all evidence, each other one less. A
                block is given one value, drawn from log p_0 + sum of guidance_i (log p_0 - log p_i).

        Raises:
            UsageError: if the layout does not predict it, or a slot before it has not been written.
        """
        size = 1 + len(guidance)
        with torch.inference_mode():
            distribution = self._predict(name, guidance)
            if temperature == 0 or top_k == 1:
                self._draws.skip()  # so that the next sample has the numbers of its own
                value = distribution.mode()
            else:
                uniform = self.draw(self.layout.variable(name).shape)[::size]
                distribution = distribution if top_k is None else distribution.top_k(top_k)
                distribution = distribution if temperature == 1 else distribution.tempered(temperature)
                value = distribution.sample(uniform)
            if name in self._whole:
                value = value.round().clamp(*self._whole[name])
            if guidance:
                value = value.repeat_interleave(size, 0)
            self._set(name, value)
        return value.clone()  # outside of inference mode, so that it can be used in any way

    def _predict(self, name: str, guidance: Sequence[float] = ()) -> Distribution:
        """Return the distribution of a value of each sequence, or with guidance of each block of 1 + m sequences."""
        hidden, codec = self._state_before(name), self.model.codec(name)
        if not guidance:
            return codec.predict(hidden)
        blocks = hidden.unflatten(0, (-1, 1 + len(guidance))).transpose(0, 1)  # [1 + m, B / (1 + m), D]
        if not any(guidance):
            return codec.predict(blocks[0])
        return codec.predict(blocks).guided(torch.tensor(guidance, device=hidden.device))

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Return the random numbers of the next draw, [B, *shape]."""
        return self._draws.next(math.prod(shape)).reshape(self.num_sequences, *shape)

    @torch.inference_mode()
    def predict(self, name: str) -> Distribution:
        """Return the distribution of a variable's next value given all slots before its own, B of them.

        Raises:
            UsageError: if the layout does not predict it, or a slot before it has not been written.
        """
        return self._predict(name)

    def _state_before(self, name: str) -> Tensor:
        """Return the hidden state that predicts a variable's next value, [B, D], reading what is queued."""
        if name not in self.layout.predicted:
            raise UsageError(f"the model does not predict {name!r}: it predicts {', '.join(self.layout.predicted)}")
        if name in self._prompt:
            raise UsageError(f"{name} is written already")
        if name in self._steps[-1]:
            if all(other in self._steps[-1] for other in self.layout.step_names):
                self._begin_timestep()
            else:
                raise UsageError(f"{name} of timestep {self.timestep} is written already")
        position = self._position(name)
        if self._num_read > position:
            raise UsageError(f"{name} of timestep {self.timestep} came too late: later slots have been read")
        if self._num_read < position:
            self._read(position)
        assert self._hidden is not None
        return self._hidden

    @torch.inference_mode()
    def _read(self, end: int) -> None:
        """Let the backbone read the tokens up to `end`, which is the beginning of a slot."""
        slots = list(self._slots(self._num_read if self._memory is not None else 0, end))
        tokens = torch.cat([slot.tokens for slot in slots], 1)  # [B, new, D]
        is_word = torch.cat([marks_of(*slot) for slot in slots], 1) if self.layout.has_text else None
        if self._memory is not None:
            self._hidden = self._memory.read(tokens, is_word)
        else:
            self._hidden = self.model.backbone_source.read(tokens, is_word)[:, -1]
        self._num_read = end

    def _slots(self, first: int, end: int) -> Iterator[_Written]:
        """Return the tokens of the slots between two positions."""
        position = first
        while position < end:
            slot = self._slot(*self._window[position])
            yield slot
            position += slot.tokens.shape[1]

    def _time(self, timestep: int) -> Tensor:
        """Return the embedding of an index inside the episode, [D]; they are made many at a time."""
        first, block = self._times
        if not first <= timestep < first + len(block):
            first, last = timestep, timestep + self.layout.context_length + AHEAD
            block = self.model.embed_time(torch.arange(first, last, device=self.model.device)).unbind()
            self._times = first, block
        return block[timestep - first]

    def _slot(self, index: int, names: tuple[str, ...]) -> _Written:
        """Return what stands in a slot of the window: the sum of its variables, and of the time within the episode."""
        if index == PROMPT:
            return _sum([self._written(name, PROMPT) for name in names])
        time = self._time(self._first_timestep + index)
        at = [(name, index - (name in self.layout.late)) for name in names]
        written = [self._written(name, written_at) for name, written_at in at if written_at >= 0]
        if not written:
            return _Written(time.expand(self.num_sequences, self.layout.variable(names[0]).num_tokens, -1), None)
        tokens, words = _sum(written)
        return _Written(tokens + time, words)

    def _written(self, name: str, index: int) -> _Written:
        values = self._prompt if index == PROMPT else self._steps[index]
        if name not in values:
            where = "the prompt" if index == PROMPT else f"timestep {self._first_timestep + index}"
            raise UsageError(f"{name} of {where} has not been written: the layout reads it before what was asked")
        return values[name]

    @property
    def _first_timestep(self) -> int:
        """Timesteps that left the window."""
        return self.timestep - (len(self._steps) - 1)

    def fork(self, num_branches: int) -> None:
        """Repeat every sequence: row i becomes rows i * num_branches to (i + 1) * num_branches - 1.

        Each branch samples by itself; the first one as the sequence would have without the others.
        """
        keys = noise.branches(self._draws.keys, num_branches)
        self._select(torch.arange(self.num_sequences).repeat_interleave(num_branches))
        self._draws = self._draws.by(keys)

    def branch(self, num_branches: int = 1) -> "Context":
        """Return a context in which every sequence is repeated, as `fork` does; this one stays as it is."""
        other = copy.copy(self)
        other._prompt = dict(self._prompt)
        other._steps = [dict(step) for step in self._steps]
        other._memory = None if self._memory is None else self._memory.copy()
        other.fork(num_branches)
        return other

    @torch.inference_mode()
    def without(self, *names: str) -> "Context":
        """Return a context in which variables, or the demo, are unknown wherever they were written; this one stays."""
        other = self.branch()
        for name in names:
            if name == "demo":
                other._prompt[name] = other._embed_demo(None)
            for part in (name, name + WHEN):
                for values in (other._prompt, *other._steps):
                    if name != "demo" and part in values:
                        values[part] = other._embed(part, *other._value(part, None))
        other._restart()
        return other

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order; a row may be named more than once."""
        self._select(torch.as_tensor(rows, dtype=torch.long))

    def _select(self, rows: Tensor) -> None:
        self._draws = self._draws.by(self._draws.keys[rows.cpu().numpy()])
        rows = rows.to(self.model.device)
        for values in (self._prompt, *self._steps):
            for name, value in values.items():
                values[name] = _Written(value.tokens[rows], None if value.words is None else value.words[rows])
        if self._memory is not None:
            self._memory.select(rows)
        if self._hidden is not None:
            self._hidden = self._hidden[rows]
        self.num_sequences = len(rows)


def _slots_of(layout: Layout) -> dict[int, tuple[int, tuple[str, ...]]]:
    """Return the slots of a window by the position of their first token: the timestep's index, and the variables."""
    slots = {0: (PROMPT, ("start",))} | {layout.position(slot[0]): (PROMPT, slot) for slot in layout.prompt}
    if layout.demo:
        slots[layout.first_demo] = PROMPT, ("demo",)
    position = layout.first_step
    for index in range(layout.context_length):
        for slot, size in zip(layout.step, layout.slot_sizes(layout.step), strict=True):
            slots[position] = index, slot
            position += size
    return slots


def _sum(written: list[_Written]) -> _Written:
    """Return what several values that share a slot look like; a text has a slot of its own."""
    tokens = written[0].tokens
    for other in written[1:]:
        tokens = tokens + other.tokens
    return _Written(tokens, written[0].words)
