"""The columns of a data set: what each holds, and its numbers without a copy.

    observation, observation.camera, ...   [T, entries] float32, float64 (large numbers, see `offsets`), uint8 (images)
                                           or int64; [T] int64 (Discrete) or text
    action, action.gripper, ...            the same
    reward                                 [T] float32
    missing.observation...                 [T, entries] or [T], 1 where a value is missing; of leaves that can be
    final, final.camera, missing.final...  the observation after the last step
    terminated, truncated, text            metadata.seed, ...: what else the source knew of the episode
    info.description                       the EnvironmentSpec as JSON

The Arrow buffers are the arrays: `column` hands out all timesteps of all episodes without copying them.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Array2D, Dataset, DatasetInfo, Features, List, Value
from datasets.table import Table
from gymnasium.spaces import Discrete

from seqdec.data.episode import METADATA, final_name
from seqdec.errors import DataError, UsageError, suggest
from seqdec.spaces.leaves import MISSING, leaf_dtype, leaf_kind, num_entries, role_of
from seqdec.spaces.space import quote
from seqdec.spaces.spec import EnvironmentSpec


@dataclass(frozen=True)
class Column:
    """What one column holds: `size` entries a value, None for a plain number or text; one value a step or one."""

    dtype: str
    size: int | None
    of_steps: bool

    def feature(self) -> Array2D | List | Value:
        if self.of_steps:
            return List(Value(self.dtype)) if self.size is None else Array2D((None, self.size), self.dtype)
        return Value(self.dtype) if self.size is None else List(Value(self.dtype), length=self.size)


def columns_of(spec: EnvironmentSpec) -> dict[str, Column]:
    """Return what the columns of an environment's data hold, metadata and ends aside."""
    columns = {"reward": Column("float32", None, True)}
    for name, leaf in {**spec.observation_leaves, **spec.action_leaves}.items():
        plain = isinstance(leaf, Discrete) or leaf_kind(leaf) == "text"
        dtype = "string" if leaf_kind(leaf) == "text" else str(leaf_dtype(leaf))
        dtype = "float64" if name in spec.offsets else dtype
        size = None if plain else num_entries(leaf)
        columns[name] = Column(dtype, size, True)
        if name in spec.observation_leaves:
            columns[final_name(name)] = Column(dtype, size, False)
        if name in spec.missing:
            entries = num_entries(leaf) if leaf_kind(leaf) == "vector" else None
            columns[MISSING + name] = Column("uint8", entries, True)
            columns[MISSING + final_name(name)] = Column("uint8", entries, False)
    return columns


METADATA_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}


def features_of(spec: EnvironmentSpec, schema: pa.Schema) -> Features:
    """Return the columns of an environment's data, and the metadata that an Arrow schema has, in its types."""
    features: dict[str, Array2D | List | Value] = {name: kind.feature() for name, kind in columns_of(spec).items()}
    features |= {"terminated": Value("bool"), "truncated": Value("bool"), "text": Value("string")}
    words = {kind: word for word, kind in METADATA_TYPES.items()}
    for name in schema.names:
        if name.startswith(METADATA):
            kind = schema.field(name).type
            if kind not in words:
                raise DataError(f"the column {quote(name)} holds no text, number or truth value: leave it out")
            features[name] = Value(words[kind])
    return Features({name: features[name] for name in sorted(features, key=_order)})


def _order(name: str) -> tuple[int, str]:
    roles = ("observation", "action", "reward", "final", "terminated", "truncated", "text", "metadata")
    return roles.index(role_of(name)), name


def dataset_of(table: Table, spec: EnvironmentSpec, fingerprint: str | None = None) -> Dataset:
    description = json.dumps(spec.to_json(), allow_nan=False)
    features = features_of(spec, table.schema)
    return Dataset(table, info=DatasetInfo(description=description, features=features), fingerprint=fingerprint)


def environment_of(dataset: Dataset) -> EnvironmentSpec:
    """Return the spec of the environment that a data set was recorded in."""
    try:
        value = json.loads(dataset.info.description)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "the data set does not describe its environment: make it with load_dataset or from_episodes, which keep "
            "the environment as JSON in info.description"
        ) from error
    return EnvironmentSpec.from_json(value)


def column(dataset: Dataset, name: str) -> list[np.ndarray]:
    """Return the timesteps of all episodes, one array an Arrow chunk: [timesteps, entries] or [timesteps].

    Not a copy, but a view of the data set's memory, unless episodes were selected out of order. For texts, see
    `text_column`.
    """
    return [flat(chunk) for chunk in arrow_chunks(dataset, name)]


def text_column(dataset: Dataset, name: str) -> list[pa.StringArray]:
    """Return the texts of all timesteps, one Arrow array a chunk, not copied."""
    return [chunk.flatten() if isinstance(chunk, pa.ListArray) else chunk for chunk in arrow_chunks(dataset, name)]


def changing_episode(dataset: Dataset, name: str) -> int | None:
    """Return the first episode within which a column's values change, or None: then it may stand in a prompt."""
    is_text = leaf_kind(environment_of(dataset).observation_leaves[name]) == "text"
    num_before = 0
    for chunk in arrow_chunks(dataset, name):
        # equal texts have equal numbers: those of a dictionary
        values = chunk.flatten().dictionary_encode().indices.to_numpy() if is_text else flat(chunk)
        counts = chunk.value_lengths().to_numpy()
        ends = np.cumsum(counts)
        differs = (values != values[np.repeat(ends - counts, counts)]).reshape(len(values), -1).any(axis=1)
        if differs.any():
            return num_before + int(np.searchsorted(ends, np.argmax(differs), side="right"))
        num_before += len(counts)
    return None


def lengths(dataset: Dataset) -> np.ndarray:
    """Return the number of timesteps of each episode: [episodes] int64."""
    counts = [chunk.value_lengths().to_numpy() for chunk in arrow_chunks(dataset, "reward")]
    return np.concatenate([np.zeros(0, np.int64), *counts])


def returns(dataset: Dataset) -> np.ndarray:
    """Return the undiscounted return of each episode: [episodes] float64."""
    counts, rewards = lengths(dataset), np.concatenate([np.zeros(0), *column(dataset, "reward")])
    return np.add.reduceat(rewards, np.cumsum(counts) - counts) if len(counts) else rewards


def num_bytes(dataset: Dataset) -> int:
    """Return what the episodes take up in memory or in the file they are mapped from."""
    return sum(chunk.nbytes for name in dataset.column_names for chunk in arrow_chunks(dataset, name))


def arrow_chunks(dataset: Dataset, name: str) -> list[pa.Array]:
    if name not in dataset.column_names:
        raise UsageError(f"the data set has no column {name!r}{suggest(name, dataset.column_names)}")
    # Episodes selected out of order are an index over the table: only the gathered table has them in order.
    table = dataset.data.table if dataset._indices is None else _gathered(dataset)
    chunks = table.column(name).chunks
    return [chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in chunks if len(chunk)]


def _gathered(dataset: Dataset) -> pa.Table:
    table = dataset.with_format("arrow")[:]
    assert isinstance(table, pa.Table)
    return table


def flat(chunk: pa.Array) -> np.ndarray:
    """Return the numbers of a chunk: episodes of vectors, episodes of numbers, vectors or numbers."""
    depth, dim = 0, None
    values = chunk
    while isinstance(values, pa.ListArray | pa.FixedSizeListArray):
        inner, depth = values.flatten(), depth + 1
        if depth == 2 or isinstance(values, pa.FixedSizeListArray):
            dim = len(inner) // max(len(values), 1)
        values = inner
    flat = values.to_numpy(zero_copy_only=True)
    return flat if dim is None else flat.reshape(-1, dim)
