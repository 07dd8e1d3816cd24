"""Texts as tensors: UTF-8 bytes, padded with zeros on the right, so that a batch is numbers alone.

What a text means is the codec's business: only it knows the backbone's tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def encode(texts: Sequence[str]) -> Tensor:
    """Return the bytes of each text, uint8 [texts, the longest one's bytes]; a zero byte in a text is left out."""
    written = [text.replace("\0", "").encode() for text in texts]
    values = np.zeros((len(written), max(map(len, written), default=0)), np.uint8)
    for row, content in zip(values, written, strict=True):
        row[: len(content)] = np.frombuffer(content, np.uint8)
    return torch.from_numpy(values)


def decode(values: Tensor) -> list[str]:
    """Return the texts of bytes [..., bytes], in order."""
    rows = values.flatten(0, -2).cpu().numpy()
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]
