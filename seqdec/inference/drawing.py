"""One value of each sequence, or of each block of guided ones: what is predicted of it, and how it is drawn."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from seqdec.errors import UsageError
from seqdec.inference.candidates import number_choices
from seqdec.inference.memory import Memory
from seqdec.inference.writing import guided
from seqdec.model.codecs import Discrete
from seqdec.model.distributions import Categorical, Distribution
from seqdec.model.sequence_model import SequenceModel


def predicted(
    model: SequenceModel, memory: Memory, name: str, hidden: Tensor, guidance: Sequence[float]
) -> Distribution:
    """Return the distribution of a value of each sequence, or with guidance of each block of 1 + m sequences.

    Args:
        model: predicts it.
        memory: has read up to the slot; it is left as it is.
        name: of the variable.
        hidden: states before the slot [B, D].
        guidance: weights [m].

    Raises:
        UsageError: it is a text.
    """
    words = model.words(name)
    if words is not None:
        if words.variable.kind == "text":
            raise UsageError(f"{name} is a text: give candidates, ask log_prob of a text, or sample_text")
        return guided(number_choices(memory, words, hidden), guidance)
    codec = model.codec(name)
    if not guidance:
        return codec.predict(hidden)
    blocks = hidden.unflatten(0, (-1, 1 + len(guidance))).transpose(0, 1)  # [1 + m, B / (1 + m), D]
    if not any(guidance):
        return codec.predict(blocks[0])
    return codec.predict(blocks).guided(torch.tensor(guidance, device=hidden.device))


def among_legal(
    model: SequenceModel, name: str, distribution: Distribution, legal: Tensor | np.ndarray
) -> Distribution:
    """Return the distribution over those values alone that a mask allows.

    Args:
        model: predicts the variable.
        name: of the variable, whose values are counted.
        distribution: of the variable's value.
        legal: bool [N, values], those of several entries one after the other.

    Raises:
        UsageError: the variable is no choice among values, or the mask has another shape.
    """
    codec, mask = model.codec(name), torch.as_tensor(legal, dtype=torch.bool, device=model.device)
    if not isinstance(codec, Discrete) or not isinstance(distribution, Categorical):
        raise UsageError(f"{name} is {model.layout.variable(name).describe()}: only a choice among values has a mask")
    shape = (len(distribution.logits), len(codec.embedding.weight))
    if mask.shape != shape:
        raise UsageError(f"the mask of {name} has shape {tuple(mask.shape)}: {shape} is expected")
    return distribution.among(codec.by_entry(mask))


def drawn(distribution: Distribution, uniform: Tensor, *, temperature: float, top_k: int | None) -> Tensor:
    """Return values drawn by uniform numbers; see `Context.sample`."""
    distribution = distribution if top_k is None else distribution.top_k(top_k)
    distribution = distribution if temperature == 1 else distribution.tempered(temperature)
    return distribution.sample(uniform)
