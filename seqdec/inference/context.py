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
from collections.abc import Sequence

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from seqdec.errors import UsageError, suggest
from seqdec.inference.candidates import Candidates, check_candidates, choices, log_probs, most_tokens
from seqdec.inference.drawing import among_legal, drawn, predicted
from seqdec.inference.memory import Memory
from seqdec.inference.script import Script, Written
from seqdec.inference.values import as_done, demo_batch, tensor_of, with_offset
from seqdec.inference.writing import chooser, write_texts
from seqdec.model.distributions import Distribution
from seqdec.model.packed import pack
from seqdec.model.sequence_model import SequenceModel
from seqdec.model.words import Words
from seqdec.sequence import noise
from seqdec.sequence.facts import WHEN
from seqdec.spaces.leaves import MISSING

ROOM = 256  # tokens, to begin with, where nobody knows how many there will be


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
        self._names = (*self.layout.prompt_names, *(["demo"] if self.layout.demo else []), *self.layout.step_names)
        self._script = Script(model, num_sequences)
        room = min(ROOM, self.layout.num_tokens) if self.layout.has_words else self.layout.num_tokens
        self._memory = Memory(model.backbone_source, num_sequences, room, use_cache=use_cache)
        # actions that their space's type does not hold as they are sampled: what is done is written
        leaves = model.data.spec.action_leaves.items()
        self._coarse = {
            name: leaf for name, leaf in leaves if isinstance(leaf, Box) and not np.can_cast(np.float32, leaf.dtype)
        }
        self._restart()

    def _restart(self) -> None:
        """Forget what the backbone has read; the values stay and are read again."""
        self._num_read = 0  # slots
        self._hidden: Tensor | None = None  # state after the last token read, [B, D]
        self._memory.forget()

    @property
    def timestep(self) -> int:
        """Index inside the episode of the newest timestep that is being written."""
        return self._script.timestep

    @torch.inference_mode()
    def write(self, **values: object) -> None:
        """Write variables, each [B, size] or [B] in raw units, images in their own shape, texts as B strings.

        None writes "unknown"; so does NaN, and None among texts, in its row. `missing.NAME`, [B] or [B, size], says
        the same of any variable. Names with a dot are passed as `write(**{"observation.camera": images})`. `demo` is an
        episode, or one for each sequence, None where there is none; of a longer one the first timesteps are shown. Of a
        text that is longer than there is room for, the beginning is written, and a warning says so once.

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
        script = self._script
        for name in self._names:
            if name not in values:
                continue
            if name not in self.layout.step_names and (self._num_read > script.position(name) or script.steps != [{}]):
                raise UsageError(f"{name} belongs to the prompt: write it before the first step, in order")
            if name == "demo":
                script.prompt[name] = self._embed_demo(values[name], values.get(MISSING + name))
            else:
                self._set(name, *self._value(name, values[name], values.get(MISSING + name)))

    def _set(self, name: str, value: Tensor, missing: Tensor | None = None) -> None:
        script = self._script
        if name in self.layout.prompt_names:
            script.prompt[name] = self._embed(name, value, missing)
            return
        if name in script.steps[-1]:
            self._begin_timestep(name)
        script.steps[-1][name] = self._embed(name, value, missing)

    def _begin_timestep(self, name: str) -> None:
        """Open the next timestep for a variable that the newest has already."""
        absent = self._script.absent
        if absent is not None:
            raise UsageError(f"{name} of timestep {self.timestep} is written already; {absent} is missing")
        if self._script.begin_timestep():
            self._restart()

    def _embed(self, name: str, value: Tensor, missing: Tensor | None) -> Written:
        return Written(*self.model.embed_values(name, value, missing))

    def _embed_demo(self, value: object, missing: object = None) -> Written:
        """Return the tokens of an episode, or of one for each sequence."""
        batch = demo_batch(self.layout, value, missing, self.num_sequences)
        return Written(self.model.embed_demo({name: part.to(self.model.device) for name, part in batch.items()}), None)

    def _value(self, name: str, value: object, mask: object = None) -> tuple[Tensor, Tensor | None]:
        return tensor_of(self.layout.variable(name), value, mask, self.num_sequences, self.model.device)

    def sample(
        self,
        name: str,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: Sequence[float] = (),
        legal: Tensor | np.ndarray | None = None,
    ) -> Tensor:
        """Sample a variable given all slots before its own, and write it; raw units, [B, size] or [B].

        Values of a variable with an offset are float64.

        Args:
            name: a variable that the layout predicts, no text: see `sample_text`.
            temperature: 1 samples the model's distribution, 0 takes its mode.
            top_k: keeps the most likely values or bins only; 1 takes the mode.
            guidance: weights [m], for sequences in blocks of 1 + m: the first has all evidence, each other one less. A
                block is given one value, drawn from log p_0 + sum of guidance_i (log p_0 - log p_i).
            legal: which values may be drawn, bool [B, values], or a row a block; of a choice among values. Those of a
                MultiDiscrete stand one after the other.

        Raises:
            UsageError: if the layout does not predict it, a slot before it has not been written, or it has no mask.
        """
        size = 1 + len(guidance)
        with torch.inference_mode():
            distribution = self._predict(name, guidance)
            if legal is not None:
                distribution = among_legal(self.model, name, distribution, legal)
            if temperature == 0 or top_k == 1:
                self._draws.skip()  # so that the next sample has the numbers of its own
                value = distribution.mode()
            else:
                uniform = self.draw(self.layout.variable(name).shape)[::size]
                value = drawn(distribution, uniform, temperature=temperature, top_k=top_k)
            variable = self.layout.variable(name)
            if name in self._coarse:
                value = as_done(self._coarse[name], variable, value)
            if guidance:
                value = value.repeat_interleave(size, 0)
            self._set(name, value)
        return with_offset(variable, value).clone()  # outside of inference mode, so that it can be used in any way

    @torch.inference_mode()
    def sample_text(
        self,
        name: str,
        *,
        candidates: Candidates | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        guidance: Sequence[float] = (),
    ) -> list[str]:
        """Sample a text given all slots before its own, and write it; return B texts.

        Args:
            name: a text that the layout predicts.
            candidates: what each sequence, or each block, may choose from; None where it writes freely. Their
                distribution is the exact one: of each candidate its probability word by word, over the sum of all.
            temperature: 1 samples the model's distribution, 0 takes the likeliest candidate, or next word.
            top_k: keeps the most likely candidates, or next words.
            top_p: keeps the most likely ones, which together have this probability.
            guidance: as `sample` has it.

        Raises:
            UsageError: if the layout does not predict it, or a slot before it has not been written.
        """
        size, words = 1 + len(guidance), self._words_of(name)
        if words is None or words.variable.kind != "text":
            raise UsageError(f"{name} is no text: it is {self.layout.variable(name).describe()}")
        if candidates is not None:
            check_candidates(name, candidates, self.num_sequences // size, may_be_free=True)
        hidden = self._state_before(name, most_tokens(words, candidates))
        uniform = self.draw((words.variable.most_tokens,))[::size]  # as many for each, whatever the others write
        choose = chooser(temperature, top_k, top_p)
        texts = write_texts(self._memory, words, hidden, uniform, choose, candidates=candidates, guidance=guidance)
        texts = [text for text in texts for _ in range(size)]
        self._set(name, *self._value(name, texts))
        return texts

    def _predict(self, name: str, guidance: Sequence[float] = ()) -> Distribution:
        """Return the distribution of a value of each sequence, or with guidance of each block of 1 + m sequences."""
        words = self._words_of(name)
        hidden = self._state_before(name, 1 if words is None else words.variable.most_tokens)
        return predicted(self.model, self._memory, name, hidden, guidance)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Return the random numbers of the next draw, [B, *shape]."""
        return self._draws.next(math.prod(shape)).reshape(self.num_sequences, *shape)

    @torch.inference_mode()
    def predict(self, name: str, *, candidates: Sequence[Sequence[str]] | None = None) -> Distribution:
        """Return the distribution of a variable's next value given all slots before its own, B of them.

        Of a variable with an offset it is the one of its values less that.

        Args:
            name: a variable that the layout predicts.
            candidates: of a text, what each sequence may choose from.

        Raises:
            UsageError: if the layout does not predict it, a slot before it has not been written, or it is a text
                without candidates.
        """
        words = self._words_of(name)
        if candidates is None or words is None:
            return self._predict(name)
        check_candidates(name, candidates, self.num_sequences)
        hidden = self._state_before(name, most_tokens(words, candidates))
        return choices(self._memory, words, hidden, candidates)

    @torch.inference_mode()
    def log_prob(self, name: str, values: object) -> Tensor:
        """Return how likely values are to come next, [B]: of a text among all texts, word by word.

        Args:
            name: a variable that the layout predicts.
            values: as `write` takes them.

        Raises:
            UsageError: as `predict`.
        """
        words, (value, _) = self._words_of(name), self._value(name, values)
        if words is None or words.variable.kind == "number":
            return self._predict(name).log_prob(value)
        pieces = words.pieces(value)
        hidden = self._state_before(name, max(map(len, pieces)))
        return log_probs(self._memory, words, hidden, [[piece] for piece in pieces])

    def _words_of(self, name: str) -> Words | None:
        """Return the codec of a predicted variable that is written in words, None for any other."""
        if name not in self.layout.predicted:
            raise UsageError(f"the model does not predict {name!r}: it predicts {', '.join(self.layout.predicted)}")
        return self.model.words(name)

    def _state_before(self, name: str, num_tokens: int = 1) -> Tensor:
        """Return the hidden state that predicts a variable's next value, [B, D], reading what is queued.

        Args:
            name: of the variable.
            num_tokens: that may come next, for which there is to be room.
        """
        script = self._script
        if name in script.prompt:
            raise UsageError(f"{name} is written already")
        if name in script.steps[-1]:
            self._begin_timestep(name)
        if self.layout.max_tokens and script.shorten(num_tokens):
            self._restart()
        position = script.position(name)
        if self._num_read > position:
            raise UsageError(f"{name} of timestep {self.timestep} came too late: later slots have been read")
        if self._num_read < position:
            self._read(position)
        assert self._hidden is not None
        return self._hidden

    @torch.inference_mode()
    def _read(self, end: int) -> None:
        """Let the backbone read the slots up to `end`."""
        slots = self._script.slots(self._num_read, end)
        if not self.layout.has_words:
            self._hidden = self._memory.read(torch.cat([slot.tokens for slot in slots], 1))  # [B, new, D]
        else:
            self._hidden = self._memory.read(*pack(slots))
        self._num_read = end

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
        other._script, other._memory = self._script.copy(), self._memory.copy()
        other.fork(num_branches)
        return other

    @torch.inference_mode()
    def without(self, *names: str) -> "Context":
        """Return a context in which variables, or the demo, are unknown wherever they were written; this one stays."""
        other = self.branch()
        for name in names:
            if name == "demo":
                other._script.prompt[name] = other._embed_demo(None)
            for part in (name, name + WHEN):
                for values in (other._script.prompt, *other._script.steps):
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
        self._script.select(rows)
        self._memory.select(rows)
        if self._hidden is not None:
            self._hidden = self._hidden[rows]
        self.num_sequences = len(rows)
