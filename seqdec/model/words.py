"""Words: texts, and numbers in digits, in the backbone's own tokens, read by its table and predicted by its outputs.

    before  text        end
    " take  blue shirt" "\n"     a piece is tokenized alone, so that no seam depends on what stands beside it

Training, scoring and acting all take a piece's tokens from here. A text that is predicted ends at its first `end`:
where that is a new line, those inside the text are written as a backslash and an n. What is not known is one learned
embedding; where all is words, which have no embeddings beside the backbone's own, it is a question mark.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from seqdec.errors import DataError, UsageError
from seqdec.model.distributions import Categorical, Numbers
from seqdec.sequence.presets import LINE
from seqdec.sequence.variable import MOST_DIGITS, Variable, decode_texts, readable

UNKNOWN = -1  # in the place of a token's id: the learned embedding that stands for what is not known
DIGITS = 4  # that count, of a number
NUM_CHOICES = 64  # of a predicted number
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """How a backbone reads and writes words.

    `tokenize` reads the words of marks, such as <|im_end|>, as those marks; `spell` reads them letter by letter, as
    they are meant inside a text. `first` is the token that a sequence of words begins with, `marks` are tokens that no
    text has, by their words, `table` has the embeddings of tokens, and `logits` gives those of the next token by hidden
    states, None where the backbone was loaded without its output embeddings.
    """

    tokenize: Callable[[str], list[int]]
    spell: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    first: int
    marks: Mapping[str, int]
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
        self._ends_in_line = variable.loss_weight > 0 and variable.end == LINE
        # some tokenizers put a space before the first word, or take it away: what comes back has this before it
        back = vocabulary.decode(vocabulary.tokenize(f"{variable.before}a"))
        self._lead = back[:-1] if back.endswith("a") else variable.before
        self._tokens: dict[str, list[int]] = {}
        self._has_cut = False
        if variable.loss_weight > 0:
            _check_end(variable, self.end, vocabulary)
        if variable.kind == "number" and variable.loss_weight > 0:
            self.register_buffer("choices", torch.zeros(NUM_CHOICES))

    def fit(self, values: np.ndarray) -> None:
        """Refuse texts that cannot be written; of a number that is predicted, choose the values that it can have."""
        if self.variable.kind == "text":
            texts = [str(text) for text in values]
            pieces = [self.tokenize(text) for text in texts]
            if self.variable.loss_weight > 0:
                self._check_predictable(texts, pieces)
        elif self.variable.loss_weight > 0:
            numbers = np.unique([float(in_digits(value)) for value in values[:, 0]])
            places = np.linspace(0, len(numbers) - 1, min(NUM_CHOICES, len(numbers))).round().astype(int)
            self.choices.copy_(torch.from_numpy(np.pad(numbers[places], (0, NUM_CHOICES - len(places)), mode="edge")))

    def _check_predictable(self, texts: Sequence[str], pieces: Sequence[Sequence[int]]) -> None:
        """Refuse texts that would end before their end, and warn of those that do not come back as they were."""
        name, is_warned = self.variable.name, False
        for text, piece in zip(texts, pieces, strict=True):
            if _place_of(self.end, piece) < len(piece) - len(self.end):
                raise DataError(
                    f"{name} has the text {text[:60]!r}, in which its end {self.variable.end!r} stands: it would end "
                    "there; give the variable another end"
                )
            back = self.text_of(piece)
            if not is_warned and back != readable(text):
                is_warned = True
                words = "%s has the text %r, which the backbone's tokenizer gives back as %r: free texts will look so"
                logger.warning(words, name, text[:60], back[:60])

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a piece, `end` included.

        Raises:
            DataError: they are more than the variable has room for.
        """
        tokens, most = self._piece(text), self.variable.most_tokens
        if self.variable.kind == "text" and len(tokens) > most:
            raise DataError(
                f"{self.variable.name} has a text of {len(tokens)} tokens, there is room for {most} "
                f"({text[:60]!r}): make room for {len(tokens)}",
                option="text_tokens",
            )
        return tokens

    def count(self, values: Sequence[str] | Sequence[float]) -> np.ndarray:
        """Return how many tokens each value takes, int64 [n]; raises DataError as `tokenize` does."""
        written = (value if isinstance(value, str) else in_digits(value) for value in values)
        return np.array([len(self.tokenize(text)) or 1 for text in written], np.int64)

    def within_room(self, text: str) -> str:
        """Return as much of a text as there is room for; a warning says once that some was left out."""
        num_tokens, most = len(self._piece(text)), self.variable.most_tokens
        if num_tokens <= most:
            return text
        if not self._has_cut:
            self._has_cut = True
            words = (
                "%s has a text of %d tokens, there is room for %d: of such texts the beginning is read (text_tokens)"
            )
            logger.warning(words, self.variable.name, num_tokens, most)
        shorter = self.text_of(self._piece(text)[: most - len(self.end)])
        while shorter and len(self._piece(shorter)) > most:
            shorter = shorter[:-1]
        return shorter

    def _piece(self, text: str) -> list[int]:
        if text in self._tokens:
            return self._tokens[text]
        before, written = self.variable.before, readable(text)
        if self._ends_in_line:
            written = _INNER_LINE.sub(_with_line_spelt, written)
        tokens = self.end
        has_marks = [any(mark in part for mark in self.vocabulary.marks) for part in (before, written)]
        if all(has_marks):
            tokens = self.vocabulary.tokenize(before) + self.vocabulary.spell(written) + tokens
        elif before + written:
            read = self.vocabulary.spell if has_marks[1] else self.vocabulary.tokenize
            tokens = read(before + written) + tokens
        if len(tokens) <= self.variable.most_tokens:
            if len(self._tokens) >= self.CACHED:
                self._tokens.clear()
            self._tokens[text] = tokens
        return tokens

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the text of a piece's tokens, with its `end` or without."""
        words = list(tokens)
        if self.end and words[-len(self.end) :] == self.end:
            words = words[: -len(self.end)]
        text = self.vocabulary.decode(words).removeprefix(self._lead)
        return _SPELT_LINE.sub(_with_line, text) if self._ends_in_line else text

    def pieces_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, or of as much of it as there is room for."""
        return [self._piece(self.within_room(text)) for text in texts]

    def pieces(self, values: Tensor, unknown: Tensor | None = None) -> list[list[int]]:
        """Return the tokens of each value [...], in order: of bytes [..., bytes] (see `variable`), or numbers [..., 1].

        A piece without tokens, and one that is unknown, are `UNKNOWN`, or a question mark.
        """
        if self.variable.kind == "text":
            rows = self.pieces_of(decode_texts(values.cpu().numpy()))
        else:
            rows = [self._piece(in_digits(value)) for value in values.flatten().tolist()]
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


# A new line, or the letter n, and the backslashes before it: they are doubled, and one more makes a line of an n.
_INNER_LINE, _SPELT_LINE = re.compile(r"(\\*)(\n|(?<=\\)n)"), re.compile(r"(\\+)n")


def _with_line_spelt(match: re.Match[str]) -> str:
    slashes = match[1] * 2
    return f"{slashes}\\n" if match[2] == LINE else f"{slashes}n"


def _with_line(match: re.Match[str]) -> str:
    half, is_line = divmod(len(match[1]), 2)
    return "\\" * half + (LINE if is_line else "n")


def _check_end(variable: Variable, end: Sequence[int], vocabulary: Vocabulary) -> None:
    """Refuse a tokenizer that cannot write where a text ends."""
    back = vocabulary.decode(end)
    if back.replace(" ", "") != variable.end.replace(" ", ""):
        raise UsageError(
            f"the backbone's tokenizer writes the end of {variable.name}, {variable.end!r}, as {back!r}: no text would "
            "end; give the variable another end, or use another backbone"
        )


def _place_of(part: Sequence[int], whole: Sequence[int]) -> int:
    """Return where a part first stands."""
    places = (place for place in range(len(whole)) if whole[place : place + len(part)] == part)
    return next(places)


def padded(pieces: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens of pieces as int64 [pieces, the longest one's tokens], padded on the right, and their counts."""
    counts = np.array([len(piece) for piece in pieces], np.int64)
    ids = np.zeros((len(pieces), counts.max(initial=0)), np.int64)
    ids[np.arange(ids.shape[1]) < counts[:, None]] = np.concatenate([*pieces, np.zeros(0, np.int64)])
    return ids, counts


def in_digits(value: float) -> str:
    """Return a number as a policy reads it, with four digits that count: 12.3456 is 12.35."""
    return f"{float(f'{value:.{DIGITS}g}') + 0.0:.{MOST_DIGITS}g}"
