"""A text that a language model goes on reading while it learns to act, so that its language stays.

    step    windows of episodes  ->  loss of what the layout predicts
          + pieces of the text   ->  loss of each next token, mixed in by its weight

Its last tenth is never trained on: perplexity is measured there.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seqdec import storage
from seqdec.errors import DataError, UsageError
from seqdec.model.probes import evaluating
from seqdec.model.sequence_model import SequenceModel

PIECE = 128  # tokens
NAME = "language"  # of its loss, beside those of variables


@dataclass(frozen=True, eq=False)
class Language:
    """A text in a model's tokens, int64 [tokens], and how much a token's loss counts."""

    ids: np.ndarray
    weight: float

    @staticmethod
    def read(path: Path, model: SequenceModel, weight: float) -> "Language":
        """Read a UTF-8 file.

        Raises:
            UsageError: the model predicts no words, or the weight is not above 0.
            DataError: the file cannot be read, or is too short.
        """
        if not model.layout.predicts_words or model.vocabulary is None:
            raise UsageError("only a model that predicts words keeps a language", option="language_text")
        if not 0 < weight < math.inf:
            raise UsageError(f"language_loss is {weight:g}: give a number above 0", option="language_loss")
        storage.check_plain(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is no text in UTF-8: {error}") from error
        ids = np.array(model.vocabulary.tokenize(text), np.int64)
        if len(ids) < 20 * PIECE:
            raise DataError(f"{path} has {len(ids)} tokens: at least {20 * PIECE} are needed to learn from")
        return Language(ids, weight)

    @property
    def num_trained(self) -> int:
        """Tokens that are trained on: all but the last tenth."""
        return len(self.ids) * 9 // 10

    def draw(self, step: int, seed: int, count: int) -> Tensor:
        """Return pieces for a step, which are a function of the seed and the step, int64 [count, PIECE]."""
        firsts = np.random.default_rng((seed, step, 2)).integers(self.num_trained - PIECE, size=count)
        return torch.from_numpy(self.ids[firsts[:, None] + np.arange(PIECE)])

    def perplexity(self, model: SequenceModel, most: int = 64) -> float:
        """Return exp of the mean loss of a token in what is not trained on, at most so many pieces of it."""
        rest = self.ids[self.num_trained :]
        pieces = torch.from_numpy(rest[: len(rest) // PIECE * PIECE].reshape(-1, PIECE)[:most])
        with evaluating(model):
            losses = [language_loss(model, piece[None].to(model.device)).item() for piece in pieces]
        return math.exp(sum(losses) / pieces.numel())


def language_loss(model: SequenceModel, ids: Tensor) -> Tensor:
    """Return the loss of each next token of pieces [n, tokens], summed, in nats."""
    vocabulary = model.vocabulary
    assert vocabulary is not None and vocabulary.logits is not None
    first = torch.full_like(ids[:, :1], vocabulary.first)
    states = model.backbone_source.read(vocabulary.table(torch.cat([first, ids[:, :-1]], 1)))
    return F.cross_entropy(vocabulary.logits(states).float().flatten(0, 1), ids.flatten(), reduction="sum")
