"""Rows of tokens whose slots differ in size, because some of them are words: which token stands where.

    slot     0      1        2  3          4
    row 0    start  o o o o  R  a a a      o o
    row 1    start  o o      R  a a a a a  o o o

Tokens are packed to the left. Padding stands at the end of a row, where no token sees it; a timestep of padding has no
tokens at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seqdec.model.words import UNKNOWN, padded

if TYPE_CHECKING:
    from seqdec.model.sequence_model import SequenceModel

NO_WORD = -2  # in the place of a token's id


@dataclass(frozen=True, eq=False)
class Slots:
    """The slots of some rows, in order: how many tokens each has, int64 [B, S], and where it begins, [B, S + 1].

    Behind the last one, where the next would begin.
    """

    counts: np.ndarray
    begins: np.ndarray

    @staticmethod
    def of(counts: np.ndarray) -> "Slots":
        """Return slots of so many tokens each, [B, S]."""
        return Slots(counts, np.pad(counts.cumsum(1), ((0, 0), (1, 0))))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, [B]."""
        return self.counts.sum(1)

    def tokens(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the tokens of some slots [n] one by one, in order: row, which slot, which token of it, its place."""
        counts = self.counts[:, slots]  # [B, n]
        rows, which, tokens = np.nonzero(np.arange(counts.max(initial=0)) < counts[..., None])
        return rows, which, tokens, self.begins[:, slots][rows, which] + tokens


@dataclass(frozen=True, eq=False)
class Window:
    """A batch of windows as tokens [B, L, D]; `ids` [B, L] are of words, `hidden` says which are not predicted."""

    tokens: Tensor
    slots: Slots
    ids: np.ndarray
    hidden: Mapping[str, np.ndarray]

    def keys(self) -> list[bytes]:
        """Return what each row's tokens depend on, where all of them are words."""
        return [row[:length].tobytes() for row, length in zip(self.ids, self.slots.lengths, strict=True)]

    def words_of(self, name: str, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the words of a variable that are to be predicted, one by one: row, timestep, place, id."""
        rows, steps, _, places = self.slots.tokens(positions)
        shown = ~self.hidden[name][rows, steps]
        rows, steps, places = rows[shown], steps[shown], places[shown]
        return rows, steps, places, self.ids[rows, places]


def pack_window(model: "SequenceModel", batch: Mapping[str, Tensor], drop_observation: float = 0.0) -> Window:
    """Write a batch of windows some of whose slots are words into tokens.

    Args:
        model: whose codecs write.
        batch: as `Windows.gather` gives it.
        drop_observation: share of the observations that are written as "unknown", at random.
    """
    layout, inside = model.layout, batch["mask"].cpu().numpy()
    num_rows, num_timesteps = inside.shape
    sections = [(slot, np.ones((num_rows, 1), bool), 0.0) for slot in layout.prompt]
    sections += [(slot, inside, drop_observation) for slot in layout.step]
    # ids of the words, and how many tokens each slot has
    ids_of, hidden, counts = dict[str, np.ndarray](), dict[str, np.ndarray](), list[np.ndarray]()
    for (name, *_), is_there, drop in sections:
        words, count = model.words(name), is_there.astype(np.int64)
        if words is not None:
            unknown = model.unknown(name, batch, drop)
            own, lengths = padded(words.pieces(batch[name], unknown))
            ids_of[name], count = own.reshape(*is_there.shape, -1), lengths.reshape(is_there.shape) * is_there
            mask = np.zeros((*is_there.shape, 1), bool)
            if unknown is not None:
                mask = unknown.cpu().numpy().reshape(*is_there.shape, -1)
            hidden[name] = np.asarray(mask.any(2))
        counts.append(count)
    num_facts = len(layout.prompt)
    ahead = np.ones((num_rows, 1), np.int64), np.ones((num_rows, layout.first_step - layout.first_demo), np.int64)
    steps = np.stack(counts[num_facts:], 2).reshape(num_rows, -1)
    slots = Slots.of(np.concatenate([ahead[0], *counts[:num_facts], ahead[1], steps], 1))
    # a row for each sequence
    ids = np.full((num_rows, slots.lengths.max()), NO_WORD)
    for name, own in ids_of.items():
        rows, which, tokens, places = slots.tokens(layout.positions(name)[:num_timesteps])
        ids[rows, places] = own[rows, which, tokens]
    assert model.vocabulary is not None
    if layout.is_language:
        ids[:, 0] = model.vocabulary.first
    tokens = model.vocabulary.table(torch.from_numpy(ids).to(model.device).clamp(min=0))
    if not layout.is_language:
        tokens = _with_other_tokens(model, batch, drop_observation, tokens, slots, ids)
    return Window(tokens, slots, ids, hidden)


def _with_other_tokens(
    model: "SequenceModel",
    batch: Mapping[str, Tensor],
    drop_observation: float,
    tokens: Tensor,
    slots: Slots,
    ids: np.ndarray,
) -> Tensor:
    """Return tokens [B, L, D] with embeddings of the model's own in the places of those that are no words."""
    layout, num_timesteps = model.layout, batch["mask"].shape[1]

    def put(rows: np.ndarray, places: np.ndarray, values: Tensor, *, add: bool = False) -> Tensor:
        where = torch.from_numpy(rows).to(tokens.device), torch.from_numpy(places).to(tokens.device)
        return tokens.index_put(where, values.to(tokens.dtype), accumulate=add)

    every = np.arange(len(ids))
    tokens = put(every, np.zeros_like(every), model.start)
    time = model.embed_time(batch["timestep"])
    for index, slot in enumerate((*layout.prompt, *layout.step)):
        words, is_of_step = model.words(slot[0]), index >= len(layout.prompt)
        first = layout.first_step + index - len(layout.prompt)
        positions = first + len(layout.step) * np.arange(num_timesteps) if is_of_step else np.array([1 + index])
        rows, which, _, places = slots.tokens(positions)
        if words is None:
            own = model.embed_slot(slot, batch, drop_observation if is_of_step else 0.0)
            tokens = put(rows, places, (own + time if is_of_step else own)[rows, which])
            continue
        assert words.unknown is not None
        is_unknown = ids[rows, places] == UNKNOWN  # where none is, its gradient is zero, on every process alike
        tokens = put(rows[is_unknown], places[is_unknown], words.unknown)
        if layout.timed_words and is_of_step:
            tokens = put(rows, places, time[rows, which], add=True)
    if layout.demo:
        rows, _, _, places = slots.tokens(np.arange(layout.first_demo, layout.first_step))
        tokens = put(rows, places, model.embed_demo(batch).flatten(0, 1))
    return tokens


def pack(parts: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor]:
    """Return parts [B, n, D], of which each row has `counts` tokens [B] (all where None), as rows without gaps.

    Returns:
        tokens [B, L, D], and how many each row has, int64 [B].
    """
    is_token = torch.cat([_marks(part, counts) for part, counts in parts], 1)  # [B, sum of n]
    counts = is_token.sum(1)
    order = (~is_token).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(counts.max())]
    tokens = torch.cat([part for part, _ in parts], 1)
    return tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[-1])), counts


def _marks(part: Tensor, counts: Tensor | None) -> Tensor:
    if counts is None:
        return torch.ones(part.shape[:2], dtype=torch.bool, device=part.device)
    return torch.arange(part.shape[1], device=part.device) < counts[:, None]
