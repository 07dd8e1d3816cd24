"""The columns of a data set as arrays, gathered by index: a row for each timestep of all episodes, or for each episode.

    steps    "observation"   of every timestep, one array a chunk: views of the memory-mapped Arrow buffers
    finals   "observation"   of every episode, after its last step
    texts    "observation.mission"   of every timestep, as Arrow strings; `episode_texts`, of every episode

Where values may be missing, "missing.NAME" has a column of its own.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor

from seqdec.data import schema
from seqdec.data.episode import final_name
from seqdec.errors import DataError
from seqdec.sequence.layout import Layout
from seqdec.sequence.variable import encode_texts
from seqdec.spaces.leaves import MISSING

Chunks = list[np.ndarray]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Arrays:
    """The columns that a layout names.

    `num_tokens` [timesteps] is how many tokens each timestep takes, once somebody who knows words has counted, and
    `prompt_tokens` the most that a prompt takes.
    """

    steps: dict[str, Chunks]
    finals: dict[str, Chunks]
    texts: dict[str, list[pa.StringArray]]
    episode_texts: list[pa.StringArray]
    num_tokens: Chunks = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)

    @staticmethod
    def of(dataset: Dataset, layout: Layout, missing: Sequence[str], computed: Mapping[str, Chunks]) -> "Arrays":
        """Return the columns of a data set that a layout names, beside those that were computed from the reward.

        Args:
            dataset: rows of `sources`.
            layout: names what is read.
            missing: leaves of the observation some of whose values may be missing.
            computed: the reward, the return to go.
        """
        arrays = Arrays(dict(computed), {}, {}, [])
        for variable in layout.variables:
            name = variable.of or variable.name
            if name == "text":
                arrays.episode_texts.extend(schema.text_column(dataset, "text"))
            elif variable.kind == "text":
                arrays.texts[name] = schema.text_column(dataset, name)
            elif name not in arrays.steps and name != "target_return" and variable.kind != "timestep":
                arrays.steps[name] = _reals(dataset, name, layout)
            if name in missing:
                arrays.steps[MISSING + name] = schema.column(dataset, MISSING + name)
            if variable.of:
                for leaf in {name, MISSING + name} & arrays.steps.keys():
                    arrays.finals[leaf] = _reals(dataset, leaf, layout, final_name(leaf))
        return arrays

    @staticmethod
    def joined(parts: Sequence["Arrays"], computed: Mapping[str, Chunks]) -> "Arrays":
        """Return the columns of several data sets, one after the other, not copied; `computed` replaces its own."""

        def join(mappings: Sequence[Mapping[str, list]]) -> dict[str, list]:
            return {name: [chunk for each in mappings for chunk in each[name]] for name in mappings[0]}

        return Arrays(
            join([part.steps for part in parts]) | dict(computed),
            join([part.finals for part in parts]),
            join([part.texts for part in parts]),
            [chunk for part in parts for chunk in part.episode_texts],
            [chunk for part in parts for chunk in part.num_tokens],
            [max(sizes)] if (sizes := [size for part in parts for size in part.prompt_tokens]) else [],
        )

    def count_tokens(self, of_timesteps: np.ndarray, of_prompt: int) -> None:
        """Say how many tokens each timestep takes [timesteps], and the prompt at most."""
        self.num_tokens[:], self.prompt_tokens[:] = [of_timesteps], [of_prompt]
        self.__dict__.pop("token_ends", None)

    @cached_property
    def token_ends(self) -> np.ndarray:
        """The tokens of all timesteps before each one, and at last of all; empty where they are not counted."""
        return np.cumsum(np.concatenate([[0], *self.num_tokens])) if self.num_tokens else np.zeros(0, np.int64)

    def values(self, name: str, flat: np.ndarray) -> dict[str, Tensor]:
        """Return a variable at flat indices [B, K], and which values are missing where some may be."""
        if name in self.texts:
            content = torch.from_numpy(encode_texts(take_texts(self.texts[name], flat.reshape(-1))))
            values = {name: content.reshape(*flat.shape, -1)}
        else:
            values = {name: torch.from_numpy(take(self.steps[name], flat))}
        missing = self.missing(name, flat)
        return values if missing is None else values | {MISSING + name: torch.from_numpy(missing)}

    def missing(self, name: str, flat: np.ndarray) -> np.ndarray | None:
        """Return which values are missing at flat indices, bool; None where none ever is."""
        return take(self.steps[MISSING + name], flat).astype(bool) if MISSING + name in self.steps else None

    def known(self, name: str, flat: np.ndarray) -> np.ndarray:
        """Return a variable's values at flat indices without those that are missing.

        Entries of a vector can be missing one by one: in their places stand values of the same entry, evenly chosen.
        """
        values, missing = take(self.steps[name], flat), self.missing(name, flat)
        if missing is None:
            return values
        if missing.all():
            raise DataError(f"{name} is never known: leave it out of the data")
        if missing.ndim == 1:
            return values[~missing]
        for entry in np.flatnonzero(missing.any(axis=0)):
            unknown = missing[:, entry]
            known, num_unknown = values[~unknown, entry], int(unknown.sum())
            if len(known):
                values[unknown, entry] = known[np.arange(num_unknown) * len(known) // num_unknown]
        return values

    def num_bytes(self, name: str) -> int:
        """Return how many bytes a timestep of a variable takes."""
        return self.steps[name][0][:1].nbytes


def _reals(dataset: Dataset, leaf: str, layout: Layout, name: str = "") -> Chunks:
    """Return the numbers of a leaf's column, or of another one of it; those of float64 less their offset as float32."""
    chunks = schema.column(dataset, name or leaf)
    if all(chunk.dtype != np.float64 for chunk in chunks):
        return chunks
    offset = np.zeros(chunks[0].shape[1:])
    for variable in layout.variables:
        if variable.offset and (variable.of or variable.name) == leaf:
            offset[list(variable.entries) or slice(None)] = variable.offset
    if not offset.any():
        logger.warning("%s has numbers too large for float32, and the layout no offset: close ones are equal", leaf)
    return [(chunk - offset).astype(np.float32) for chunk in chunks]


def take(chunks: Chunks, flat: np.ndarray) -> np.ndarray:
    """Gather rows by flat index from consecutive arrays; a copy is made of what is taken only."""
    if len(chunks) == 1:
        return chunks[0][flat]
    rows = np.empty((flat.size, *chunks[0].shape[1:]), chunks[0].dtype)
    for index, here, inside in _by_chunk([len(chunk) for chunk in chunks], flat.reshape(-1)):
        rows[here] = chunks[index][inside]
    return rows.reshape(*flat.shape, *rows.shape[1:])


def take_texts(chunks: list[pa.StringArray], flat: np.ndarray) -> list[str]:
    """Gather texts by index [N] from consecutive arrays."""
    rows = np.empty(flat.shape, dtype=object)
    for index, here, inside in _by_chunk([len(chunk) for chunk in chunks], flat):
        rows[here] = chunks[index].take(pa.array(inside)).to_pylist()
    return rows.tolist()


def _by_chunk(sizes: Sequence[int], flat: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield each chunk that is meant, which of the indices [N] mean it, and where in it."""
    ends = np.cumsum(sizes)
    chunk_of = np.searchsorted(ends, flat, side="right")
    order = np.argsort(chunk_of, kind="stable")
    firsts = np.flatnonzero(np.diff(chunk_of[order], prepend=-1))
    for here in np.split(order, firsts)[1:]:
        index = int(chunk_of[here[0]])
        yield index, here, flat[here] - (ends[index] - sizes[index])
