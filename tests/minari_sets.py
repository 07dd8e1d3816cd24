"""Data sets as Minari 0.5 lays them out, written without Minari."""

import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from gymnasium.spaces import Box, Discrete

from seqdec.data.episode import Episode
from seqdec.spaces.space import space_to_json
from seqdec.spaces.spec import EnvironmentSpec

BOX = EnvironmentSpec(Box(-np.inf, np.inf, (3,)), Box(-1, 1, (2,)))
DISCRETE = EnvironmentSpec(Discrete(5), Discrete(3, start=1))


def make_episode(num_steps, spec=BOX, seed=0, text=""):
    random = np.random.default_rng(seed)
    if spec is BOX:
        observations = random.normal(size=(num_steps + 1, 3)).astype(np.float32)
        actions = random.uniform(-1, 1, size=(num_steps, 2)).astype(np.float32)
    else:
        observations, actions = random.integers(0, 5, num_steps + 1), random.integers(1, 4, num_steps)
    steps = {"observation": observations[:-1], "action": actions, "reward": random.normal(size=num_steps)}
    return Episode(steps, final=observations[-1], terminated=seed % 2 == 0, truncated=seed % 2 == 1, text=text)


def make_episodes(lengths=(3, 1, 7, 4), spec=BOX):
    return [make_episode(length, spec, seed, f"number {seed}") for seed, length in enumerate(lengths)]


def metadata_of(episodes, spec, stored_as, **changes):
    def space(value):
        # Minari writes every bound, and infinities as JSON's forbidden literals, inside a text.
        bounds = {"low": value.low.tolist(), "high": value.high.tolist()} if isinstance(value, Box) else {}
        return json.dumps({**space_to_json(value), **bounds})

    env_spec = {
        "id": "CartPole-v1",
        "entry_point": "gymnasium.envs.classic_control.cartpole:CartPoleEnv",
        "max_episode_steps": 500,
        "kwargs": {},
        "additional_wrappers": [],
        "vector_entry_point": None,
    }
    metadata = {
        "total_episodes": len(episodes),
        "total_steps": sum(map(len, episodes)),
        "data_format": stored_as,
        "observation_space": space(spec.observation_space),
        "action_space": space(spec.action_space),
        "env_spec": json.dumps(env_spec),
        "dataset_id": "tiny/set-v0",
        "ref_min_score": 2.5,
        "ref_max_score": 10.0,
        "requirements": ["gymnasium>=1.0"],
        **changes,
    }
    return {key: value for key, value in metadata.items() if value is not None}


def minari_arrays(episode):
    ends = np.zeros((2, len(episode)), bool)
    ends[:, -1] = episode.terminated, episode.truncated
    return {
        "observations": np.concatenate([episode.steps["observation"], episode.final["observation"][None]]),
        "actions": episode.steps["action"],
        "rewards": episode.steps["reward"].astype(np.float64),
        "terminations": ends[0],
        "truncations": ends[1],
    }


def write_minari(folder, episodes, spec=BOX, data_format="hdf5", change=None, **changes):
    """Write a set as Minari 0.5 lays it out; `change` may spoil the arrays of an episode."""
    data = folder / "data"
    data.mkdir(parents=True)
    (data / "metadata.json").write_text(json.dumps(metadata_of(episodes, spec, data_format, **changes)))
    file = h5py.File(data / "main_data.hdf5", "w", track_order=True) if data_format == "hdf5" else None
    for index, episode in enumerate(episodes):
        arrays = minari_arrays(episode)
        if change is not None:
            change(index, arrays)
        if file is not None:
            group = file.create_group(f"episode_{index}")
            group.attrs["id"] = index
            for name, values in arrays.items():
                group.create_dataset(name, data=values, chunks=True, maxshape=(None, *values.shape[1:]))
        else:
            write_table(data / str(index), arrays, data_format)
    if file is not None:
        file.close()
    return folder


def write_table(folder, arrays, data_format):
    folder.mkdir()
    num_rows = len(arrays["observations"])
    columns = {}
    for name, values in arrays.items():
        padded = np.concatenate([values, np.zeros((num_rows - len(values), *values.shape[1:]), values.dtype)])
        flat = pa.array(padded.reshape(-1))
        columns[name] = flat if padded.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, padded.shape[1])
    table = pa.table(columns)
    path = folder / f"part-0.{data_format}"
    if data_format == "parquet":
        pa.parquet.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    (folder / "metadata.json").write_text("{}")


def spoil(index, name, value, row=0):
    def change(episode, arrays):
        if episode == index:
            arrays[name][row] = value

    return change
