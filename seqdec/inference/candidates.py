"""Texts to choose from, scored as a tree of their tokens in one pass, which shares what was read and is forgotten.

    " take shirt\\n"                take -> shirt
    " take hat\\n"                       -> hat        the state of a token scores those that may follow it
    " open door\\n"                 open -> door

So the distribution over candidates is exact: each one's probability, word by word, over the sum of all. Where a family
cannot see a tree, each candidate is a row of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqdec.errors import UsageError
from seqdec.inference.memory import Memory
from seqdec.model.distributions import Categorical
from seqdec.model.words import Words, padded

CHUNK = 256  # states whose logits are computed at once: there is one for every token of the vocabulary
AT_ONCE = (
    64  # candidates of a sequence in one tree, whose tokens all look at each other: two trees cost half of a double one
)
Piece = Sequence[int]
Candidates = Sequence[Sequence[str] | None]  # of each sequence; None where a text is written freely


@dataclass(frozen=True, eq=False)
class Texts:
    """The candidates of each sequence, as the values that indices stand for."""

    rows: Sequence[Sequence[str]]

    def index(self, values: Sequence[str]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return which candidate each sequence's text is; raises UsageError where it is none."""
        for row, text in zip(self.rows, values, strict=True):
            if text not in row:
                raise UsageError(f"{text!r} is none of the candidates {', '.join(map(repr, row[:5]))} ...")
        return torch.tensor([list(row).index(text) for row, text in zip(self.rows, values, strict=True)])

    def value(self, index: Tensor, share: Tensor | float) -> list[str]:
        """Return the texts of indices [B]."""
        return [str(row[place]) for row, place in zip(self.rows, index.tolist(), strict=True)]

    def log_width(self, index: Tensor) -> float:
        """Return 0: a text has a probability."""
        return 0.0

    def every(self, step: int) -> "Texts":
        """Return the candidates of every so many sequences."""
        return Texts(self.rows[::step])


@dataclass(frozen=True, eq=False)
class Table:
    """The values [n] that indices stand for, the same in all sequences."""

    values: Tensor

    def index(self, values: Tensor) -> Tensor:
        """Return the indices of the nearest values."""
        return (values[..., None] - self.values).abs().argmin(-1)

    def value(self, index: Tensor, share: Tensor | float) -> Tensor:
        """Return the values of indices."""
        return self.values[index]

    def log_width(self, index: Tensor) -> float:
        """Return 0: a value has a probability."""
        return 0.0

    def every(self, step: int) -> "Table":
        """Return the same values."""
        return self


def check_candidates(name: str, rows: object, num_rows: int, *, may_be_free: bool = False) -> None:
    """Refuse candidates that are not a list of texts for each sequence."""
    lists = rows if isinstance(rows, Sequence) and not isinstance(rows, str) else [rows]
    wrong = [row for row in lists if isinstance(row, str) or not (row or (row is None and may_be_free))]
    if wrong or len(lists) != num_rows:
        what = f"one is {wrong[0]!r}" if wrong else f"there are {len(lists)}"
        raise UsageError(f"candidates of {name} are lists of texts, one for each of {num_rows} sequences: {what}")


def most_tokens(words: Words, candidates: Candidates | None) -> int:
    """Return how many tokens the longest text may have that is chosen or written."""
    if candidates is None or None in candidates:
        return words.variable.most_tokens
    return max(len(piece) for row in candidates if row is not None for piece in words.pieces_of(row))


def choices(memory: Memory, words: Words, hidden: Tensor, rows: Sequence[Sequence[str]]) -> Categorical:
    """Return the distribution over candidates of each sequence, as many as the longest list has.

    Args:
        memory: has read up to the slot; it is left as it is.
        words: codec of the variable.
        hidden: states before the slot [B, D].
        rows: candidates of each sequence; one that is named twice counts once.
    """
    most = max(map(len, rows))
    logits = torch.full((len(rows), most), -torch.inf, device=hidden.device)
    firsts = [{text: place for place, text in reversed(list(enumerate(row)))} for row in rows]
    places = [(row, place) for row, own in enumerate(firsts) for place in own.values()]
    pieces = [words.pieces_of(list(own)) for own in firsts]
    scores = log_probs(memory, words, hidden, pieces)
    logits[tuple(torch.tensor(places, device=hidden.device).T)] = scores
    return Categorical(logits, Texts(rows), is_vector=False)  # pyright: ignore[reportArgumentType]


def number_choices(memory: Memory, words: Words, hidden: Tensor) -> Categorical:
    """Return the distribution over the values that a number in digits can have."""
    values = words.choices.unique()
    pieces = words.pieces(values)
    scores = log_probs(memory, words, hidden, [pieces] * len(hidden))
    return Categorical(scores.reshape(len(hidden), 1, -1), Table(values))


def log_probs(memory: Memory, words: Words, hidden: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
    """Return the log probability of each sequence's pieces, one after the other, float32 [pieces of all]."""
    scores = torch.empty(sum(map(len, pieces)), device=hidden.device)
    firsts = np.cumsum([0, *map(len, pieces)])
    for begin in range(0, max(map(len, pieces)), AT_ONCE):
        some = [row[begin : begin + AT_ONCE] for row in pieces]
        places = [first + begin + np.arange(len(row)) for first, row in zip(firsts, some, strict=False)]
        scores[torch.from_numpy(np.concatenate(places)).to(hidden.device)] = _scores(memory, words, hidden, some)
    return scores


def _scores(memory: Memory, words: Words, hidden: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
    states, which = _tree(memory, words, hidden, pieces) if memory.has_trees else _rows(memory, words, hidden, pieces)
    every = [piece for row in pieces for piece in row]
    tokens = np.concatenate([np.array(piece, np.int64) for piece in every])
    of_piece = np.repeat(np.arange(len(every)), [len(piece) for piece in every])
    scores = _token_scores(words, states, which, torch.from_numpy(tokens).to(hidden.device))
    total = torch.zeros(len(every), device=hidden.device)
    return total.index_add(0, torch.from_numpy(of_piece).to(hidden.device), scores)


def _token_scores(words: Words, states: Tensor, which: Tensor, tokens: Tensor) -> Tensor:
    """Return the log probabilities of tokens [n], each by the state [S, D] that `which` [n] names."""
    scores = torch.empty(len(tokens), device=states.device)
    for first in range(0, len(states), CHUNK):
        here = ((which >= first) & (which < first + CHUNK)).nonzero()[:, 0]
        likely = words.predict(states[first : first + CHUNK]).logits.log_softmax(-1)
        scores[here] = likely[which[here] - first, tokens[here]]
    return scores


def _tree(memory: Memory, words: Words, hidden: Tensor, pieces: Sequence[Sequence[Piece]]) -> tuple[Tensor, Tensor]:
    """Return states [S, D], and which of them is before each token of the pieces: nodes of a tree a sequence."""
    nodes: list[list[tuple[int, int]]] = []  # of each sequence: a token, and the node before it, -1 for the root
    before: list[list[int]] = []  # of each sequence, of its pieces' tokens one after the other: the node
    for row in pieces:
        known: dict[tuple[int, int], int] = {}
        befores: list[int] = []
        for piece in row:
            node = -1
            for place, token in enumerate(piece):
                befores.append(node)
                if place < len(piece) - 1:  # the last token's own state is not needed
                    node = known.setdefault((token, node), len(known))
        nodes.append(list(known))
        before.append(befores)
    most = max(map(len, nodes))
    states = hidden[:, None]
    if most:
        ids = np.zeros((len(nodes), most), np.int64)
        depths = np.zeros_like(ids)
        sees = np.broadcast_to(np.eye(most, dtype=bool), (len(nodes), most, most)).copy()
        for row, own in enumerate(nodes):
            for node, (token, parent) in enumerate(own):
                ids[row, node] = token
                if parent >= 0:
                    sees[row, node] |= sees[row, parent]
                    depths[row, node] = depths[row, parent] + 1
        ids, depths, sees = (torch.from_numpy(part).to(hidden.device) for part in (ids, depths, sees))
        states = torch.cat([states, memory.look(words.embed_tokens(ids), depths, sees)], 1)  # [B, 1 + nodes, D]
    # states that are needed, sequence by sequence
    sizes = [1 + len(own) for own in nodes]
    is_node = torch.arange(states.shape[1]) < torch.tensor(sizes)[:, None]
    firsts = np.cumsum([0, *sizes[:-1]])
    which = np.concatenate([first + 1 + np.array(own, np.int64) for first, own in zip(firsts, before, strict=True)])
    return states[is_node.to(states.device)], torch.from_numpy(which).to(hidden.device)


def _rows(memory: Memory, words: Words, hidden: Tensor, pieces: Sequence[Sequence[Piece]]) -> tuple[Tensor, Tensor]:
    """Return states [S, D], and which of them is before each token of the pieces: a row for each piece."""
    row_of = torch.tensor([row for row, own in enumerate(pieces) for _ in own], device=hidden.device)
    ids, counts = padded([piece[:-1] for row in pieces for piece in row])
    states = hidden[row_of, None]
    if ids.shape[1]:
        scratch = memory.copy()
        scratch.select(row_of)
        tokens = words.embed_tokens(torch.from_numpy(ids).to(hidden.device))
        read = scratch.read_all(tokens, torch.from_numpy(counts).to(hidden.device))
        states = torch.cat([states, read], 1)  # [pieces, 1 + tokens, D]
    width = states.shape[1]
    which = np.concatenate([piece * width + np.arange(count + 1) for piece, count in enumerate(counts)])
    return states.flatten(0, 1), torch.from_numpy(which).to(hidden.device)
