"""Words: texts, and numbers in digits, in the backbone's own tokens, read by its table and predicted by its outputs.

    before  text        end
    " take  blue shirt" "\n"     a piece is tokenized alone, so that no seam depends on what stands beside it

Training, scoring and acting all take a piece's tokens from here. What is not known is one learned embedding; where all
is words, which have no embeddings beside the backbone's own, it is a question mark.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from seqdec.errors import DataError
from seqdec.model.distributions import Categorical, Numbers
from seqdec.sequence.variable import MOST_DIGITS, Variable, decode_texts

UNKNOWN = -1  # in the place of a token's id: the learned embedding that stands for what is not known
DIGITS = 4  # that count, of a number
NUM_CHOICES = 64  # of a predicted number


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """How a backbone reads and writes words.

    `first` is the token that a sequence of words begins with, `marks` are tokens that no text has, `table` has the
    embeddings of tokens, and `logits` gives those of the next token by hidden states, None where the backbone was
    loaded without its output embeddings.
    """

    tokenize: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    first: int
    marks: Sequence[int]
    table: nn.Module
    logits: Callable[[Tensor], Tensor] | None = None


class Words(nn.Module):
    """A text, or a number in digits.

    Of a number that is predicted, at most 64 values of the data are what it can be.
    """

    CACHED = 100_000  # texts whose tokens are remembered
    choices: Tensor

    def __init__(self, variable: Variable, width: int, scale: float, vocabulary: Vocabulary, *, is_language: bool):
        super().__init__()
        self.variable, self.vocabulary = variable, vocabulary
        self.unknown = None if is_language else nn.Parameter(torch.randn(width) * scale)
        self.end = vocabulary.tokenize(variable.end) if variable.end else []
        self._tokens: dict[str, list[int]] = {}
        if variable.kind == "number" and variable.loss_weight > 0:
            self.register_buffer("choices", torch.zeros(NUM_CHOICES))

    def fit(self, values: np.ndarray) -> None:
        """Refuse texts that are too long; of a number that is predicted, choose the values that it can have."""
        if self.variable.kind == "text":
            for text in values:
                self.tokenize(str(text))
        elif self.variable.loss_weight > 0:
            numbers = np.unique([float(in_digits(value)) for value in values[:, 0]])
            places = np.linspace(0, len(numbers) - 1, min(NUM_CHOICES, len(numbers))).round().astype(int)
            self.choices.copy_(torch.from_numpy(np.pad(numbers[places], (0, NUM_CHOICES - len(places)), mode="edge")))

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a piece, `end` included.

        Raises:
            DataError: they are more than the variable has room for.
        """
        if text not in self._tokens:
            if len(self._tokens) >= self.CACHED:
                self._tokens.clear()
            tokens, most = self._piece(text), self.variable.most_tokens
            if len(tokens) > most:
                raise DataError(
                    f"{self.variable.name} has a text of {len(tokens)} tokens, there is room for {most} "
                    f"({text[:60]!r}): make room for {len(tokens)}",
                    option="text_tokens",
                )
            self._tokens[text] = tokens
        return self._tokens[text]

    def count(self, values: Sequence[str] | Sequence[float]) -> np.ndarray:
        """Return how many tokens each value takes, int64 [n]."""
        written = (value if isinstance(value, str) else in_digits(value) for value in values)
        return np.array([len(self.tokenize(text)) or 1 for text in written], np.int64)

    def within_room(self, text: str) -> str:
        """Return as much of a text as there is room for."""
        while len(self._piece(text)) > self.variable.most_tokens:
            text = text[:-1]
        return text

    def _piece(self, text: str) -> list[int]:
        words = self.variable.before + text
        return (self.vocabulary.tokenize(words) if words else []) + self.end

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the text of a piece's tokens, with its `end` or without."""
        words = list(tokens)
        if self.end and words[-len(self.end) :] == self.end:
            words = words[: -len(self.end)]
        return self.vocabulary.decode(words).removeprefix(self.variable.before)

    def pieces(self, values: Tensor, unknown: Tensor | None = None) -> list[list[int]]:
        """Return the tokens of each value [...], in order: of bytes [..., bytes] (see `variable`), or numbers [..., 1].

        A piece without tokens, and one that is unknown, are `UNKNOWN`, or a question mark.
        """
        if self.variable.kind == "text":
            rows = [self.tokenize(text) for text in decode_texts(values.cpu().numpy())]
        else:
            rows = [self.tokenize(in_digits(value)) for value in values.flatten().tolist()]
        if unknown is not None:
            is_unknown = unknown.reshape(len(rows), -1).any(1).tolist()
            rows = [[] if own else row for row, own in zip(rows, is_unknown, strict=True)]
        nothing = [UNKNOWN] if self.unknown is not None else self._piece("?")
        return [row or nothing for row in rows]

    def embed(self, values: Tensor, unknown: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return embeddings of values [N, ...], [N, tokens, D], and how many tokens each one has, int64 [N].

        They stand on the left, padding on the right.
        """
        ids, counts = padded(self.pieces(values, unknown))
        return self.embed_tokens(torch.from_numpy(ids).to(values.device)), torch.from_numpy(counts).to(values.device)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Return the embeddings of tokens [...], [..., D]."""
        embedded = self.vocabulary.table(ids.clamp(min=0))
        if self.unknown is None:
            return embedded
        return torch.where((ids == UNKNOWN)[..., None], self.unknown.to(embedded.dtype), embedded)

    def predict(self, hidden: Tensor) -> Categorical:
        """Return the distribution of the next token by hidden states [..., D]."""
        assert self.vocabulary.logits is not None, "the backbone was loaded without its output embeddings"
        zero = torch.zeros((), dtype=torch.long, device=hidden.device)
        return Categorical(self.vocabulary.logits(hidden).float(), Numbers(zero), is_vector=False)


def padded(pieces: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens of pieces as int64 [pieces, the longest one's tokens], padded on the right, and their counts."""
    counts = np.array([len(piece) for piece in pieces], np.int64)
    ids = np.zeros((len(pieces), counts.max(initial=0)), np.int64)
    ids[np.arange(ids.shape[1]) < counts[:, None]] = np.concatenate([*pieces, np.zeros(0, np.int64)])
    return ids, counts


def in_digits(value: float) -> str:
    """Return a number as a policy reads it, with four digits that count: 12.3456 is 12.35."""
    return f"{float(f'{value:.{DIGITS}g}') + 0.0:.{MOST_DIGITS}g}"
