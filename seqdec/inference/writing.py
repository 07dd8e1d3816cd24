"""A text for each sequence: one of its candidates, or a free one, written token by token until it ends."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from seqdec.inference.candidates import Candidates, choices
from seqdec.inference.memory import Memory
from seqdec.model.distributions import Categorical
from seqdec.model.words import Words

Choose = Callable[[Categorical, Tensor], Tensor | list[str]]


def chooser(temperature: float, top_k: int | None, top_p: float) -> Choose:
    """Return how values are drawn; see `Context.sample_text`."""

    def choose(expected: Categorical, numbers: Tensor) -> Tensor | list[str]:
        if temperature == 0 or top_k == 1:
            return expected.mode()
        expected = expected if temperature == 1 else expected.tempered(temperature)
        expected = expected if top_k is None else expected.top_k(top_k)
        return (expected if top_p == 1 else expected.top_p(top_p)).sample(numbers)

    return choose


def write_texts(
    memory: Memory,
    words: Words,
    hidden: Tensor,
    uniform: Tensor,
    choose: Choose,
    *,
    candidates: Candidates | None = None,
    guidance: Sequence[float] = (),
) -> list[str]:
    """Return a text for each sequence, or with guidance for each block of 1 + m sequences.

    Args:
        memory: has read up to the slot; it is left as it is.
        words: codec of the variable.
        hidden: states before the slot [B, D].
        uniform: random numbers [texts, tokens].
        choose: returns values [texts] of a distribution and random numbers [texts].
        candidates: of each text; None where it is free.
        guidance: weights [m].
    """
    block = 1 + len(guidance)
    rows = candidates if candidates is not None else [None] * (len(hidden) // block)
    texts: list[str] = [""] * len(rows)
    for is_free in (False, True):
        here = [index for index, row in enumerate(rows) if (row is None) == is_free]
        if not here:
            continue
        own, states = memory, hidden
        if len(here) < len(rows):
            kept = torch.tensor([index * block + part for index in here for part in range(block)]).to(hidden.device)
            own, states = memory.copy(), hidden[kept]
            own.select(kept)
        if is_free:
            chosen = _write_freely(own, words, states, uniform[here], choose, guidance)
        else:
            named = [row for index in here if (row := rows[index]) is not None for _ in range(block)]
            chosen = choose(guided(choices(own, words, states, named), guidance), uniform[here, 0])
        for index, text in zip(here, chosen, strict=True):
            texts[index] = str(text)
    return texts


def guided(distribution: Categorical, guidance: Sequence[float]) -> Categorical:
    """Return the distribution of each block of 1 + m sequences, which all have the same choices."""
    if not guidance:
        return distribution
    blocks = distribution.logits.unflatten(0, (-1, 1 + len(guidance))).transpose(0, 1)
    whole = replace(distribution, logits=blocks, support=distribution.support.every(1 + len(guidance)))
    return whole.guided(torch.tensor(guidance, device=blocks.device))


def _write_freely(
    memory: Memory, words: Words, hidden: Tensor, uniform: Tensor, choose: Choose, guidance: Sequence[float]
) -> list[str]:
    """Return a text for each sequence or block; one that does not end in time is cut."""
    block, end = 1 + len(guidance), words.end
    pieces: list[list[int]] = [[] for _ in range(len(hidden) // block)]
    is_open = np.ones(len(pieces), bool)
    scratch, marks = memory.copy(), [mark for mark in words.vocabulary.marks.values() if mark not in end]
    for index in range(words.variable.most_tokens - len(end)):
        expected = words.predict(hidden)
        expected.logits[:, marks] = -math.inf  # no text has them
        chosen = choose(guided(expected, guidance), uniform[:, index])
        assert isinstance(chosen, Tensor)
        for row, token in enumerate(chosen.tolist()):
            if is_open[row]:
                pieces[row].append(token)
                is_open[row] = pieces[row][-len(end) :] != end
        if not is_open.any():
            break
        tokens = words.embed_tokens(chosen.repeat_interleave(block)[:, None])
        counts = torch.from_numpy(is_open.repeat(block).astype(np.int64)).to(hidden.device)
        hidden = scratch.read(tokens, counts)
    return [words.within_room(words.text_of(piece)) for piece in pieces]
