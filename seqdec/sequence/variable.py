"""A named quantity of an episode, and what all values of its kind share: how they stand in a batch, for one.

Texts stand there as UTF-8 bytes, padded with zeros on the right, so that a batch is numbers alone. What a text means is
the business of `model.words`: only it knows the backbone's tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqdec.errors import UsageError
from seqdec.spaces.leaves import role_of

Head = Literal["gaussian", "mse", "binned"]
ReturnHead = Literal["gaussian", "binned"]
Numbers = Literal["embedding", "words"]
MOST_DIGITS = 16  # tokens of a number in digits


@dataclass(frozen=True)
class Kind:
    """The properties of all values of one kind.

    `dtype` is their type in a batch. A vector holds real numbers, which may be missing one by one; whole numbers name
    one of several values each. A single value has shape (), any other (size,). What is written in words takes as many
    tokens as its words have. What cannot be predicted is only ever written, never sampled.
    """

    dtype: type[np.generic] = np.float32
    is_vector: bool = False
    is_whole: bool = False
    is_single: bool = False
    is_words: bool = False
    can_be_predicted: bool = True


KINDS = {
    "gaussian": Kind(is_vector=True),
    "mse": Kind(is_vector=True),
    "binned": Kind(is_vector=True),
    "discrete": Kind(np.int64, is_whole=True, is_single=True),
    "multi_discrete": Kind(np.int64, is_whole=True),
    "image": Kind(np.uint8, can_be_predicted=False),
    "text": Kind(np.uint8, is_single=True, is_words=True),
    "number": Kind(is_vector=True, is_words=True),
    "timestep": Kind(can_be_predicted=False),
}


@dataclass(frozen=True)
class Variable:
    """A named quantity: which codec reads and writes it, how large it is, how much its prediction counts.

    `size` is the number of entries of a vector, image or multi_discrete variable, the number of values of a discrete
    one, which start at `start`, or the most tokens that a text may have. `low` and `high` bound a vector's entries,
    infinities allowed; None means that it is unbounded. `sizes` and `starts` are the number of values and the first
    value of each entry of a multi_discrete variable, `image` an image's shape as the environment gives it. An
    `optional` variable may be missing, a vector's entries one by one. A fact of the prompt that is an observation, such
    as a goal, is read from the leaf `of`, and from these `entries` of it where any are named. Of a vector of large
    numbers `offset` is subtracted, in float64, before they become float32: batches, codecs and distributions hold what
    is left. A text, and a "number", which is one real number in digits, stands between the words `before` and `end`. A
    variable with `loss_weight` 0 is only ever written, never sampled; images and timesteps always are.
    """

    name: str
    kind: str
    size: int
    loss_weight: float = 0.0
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    start: int = 0
    num_bins: int = 64
    bins: Literal["quantile", "uniform"] = "quantile"
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    image: tuple[int, ...] = ()
    optional: bool = False
    of: str = ""
    entries: tuple[int, ...] = ()
    offset: tuple[float, ...] = ()
    before: str = ""
    end: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"{self.name} has kind {self.kind!r}: use one of {', '.join(KINDS)}")
        if self.size < 1:
            raise UsageError(f"{self.name} has size {self.size}: at least 1 is needed")
        for bound in (self.low, self.high):
            if bound is not None and len(bound) != self.size:
                raise UsageError(f"{self.name} has {self.size} entries but {len(bound)} bounds")
        if self.loss_weight > 0 and not KINDS[self.kind].can_be_predicted:
            raise UsageError(f"{self.name} is {self.describe()}: it can be read, not predicted; its loss_weight is 0")
        if self.kind == "multi_discrete" and not len(self.sizes) == len(self.starts) == self.size:
            raise UsageError(f"{self.name} has {self.size} entries: give as many sizes and starts")
        if self.entries and (not self.of or len(self.entries) != self.size):
            raise UsageError(f"{self.name} has size {self.size} and {len(self.entries)} entries of {self.of!r}")
        if self.offset and not (
            self.is_vector and len(self.offset) == self.size and all(map(math.isfinite, self.offset))
        ):
            raise UsageError(
                f"{self.name} is {self.describe()}, its offset has {len(self.offset)} entries: give as many"
            )
        if self.loss_weight > 0 and self.is_words and not self.end:
            raise UsageError(f"{self.name} is predicted word by word: give it an end, such as a new line")
        if self.kind == "number" and self.size != 1:
            raise UsageError(f"{self.name} has size {self.size}: only a single number is written in digits")
        if self.kind == "image" and int(np.prod(self.image)) != self.size:
            raise UsageError(f"{self.name} has {self.size} entries, an image of shape {self.image} has others")

    @property
    def role(self) -> str:
        """What it is in the episode: "observation" of "observation.camera"."""
        return role_of(self.name)

    @property
    def dtype(self) -> type[np.generic]:
        """Type of its values in a batch."""
        return KINDS[self.kind].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value in a batch: () for a discrete variable or a text, (size,) for everything else."""
        return () if KINDS[self.kind].is_single else (self.size,)

    @property
    def is_words(self) -> bool:
        """Whether its values are written in words, which take as many tokens as there are."""
        return KINDS[self.kind].is_words

    @property
    def most_tokens(self) -> int:
        """The most tokens that a slot of this variable takes."""
        return self.size if self.kind == "text" else MOST_DIGITS if self.kind == "number" else 1

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers, which name one of several values each."""
        return KINDS[self.kind].is_whole

    @property
    def is_vector(self) -> bool:
        """Whether its values are vectors of real numbers, whose entries may be missing one by one."""
        return KINDS[self.kind].is_vector

    def has(self, low: float, high: float) -> bool:
        """Say whether numbers between these are among those that a discrete variable names; of other kinds, all are."""
        return self.kind != "discrete" or self.start <= low <= high < self.start + self.size

    def describe(self) -> str:
        """Return size and kind in words."""
        if self.kind == "discrete":
            return f"Discrete({self.size}, start={self.start})"
        if self.kind == "multi_discrete":
            return f"MultiDiscrete({list(self.sizes)}, start={list(self.starts)})"
        if self.kind == "image":
            return f"an image of {'x'.join(map(str, self.image))}"
        if self.kind in ("timestep", "number"):
            return f"a {self.kind}"
        return f"a text of at most {self.size} tokens" if self.kind == "text" else f"a vector of {self.size}"


def readable(text: str) -> str:
    """Return a text without zero bytes, and with a question mark for each half of a character."""
    return text.replace("\0", "").encode(errors="replace").decode()


def encode_texts(texts: Sequence[str]) -> np.ndarray:
    """Return the bytes of each text as it is `readable`, uint8 [texts, the longest one's bytes]."""
    written = [readable(text).encode() for text in texts]
    values = np.zeros((len(written), max(map(len, written), default=0)), np.uint8)
    for row, content in zip(values, written, strict=True):
        row[: len(content)] = np.frombuffer(content, np.uint8)
    return values


def decode_texts(values: np.ndarray) -> list[str]:
    """Return the texts of bytes [..., bytes], in order."""
    rows = values.reshape(math.prod(values.shape[:-1]), values.shape[-1])
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows]
