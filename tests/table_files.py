"""Episodes as rows of tables, one row a step or one an episode, in files of every kind."""

import csv
import inspect
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from seqdec.data.episode import Episode

# What lets a page of Parquet hold all rows; pyarrow 21 has no limit, and no such option.
ROWS_OF_A_PAGE = dict.fromkeys(
    inspect.signature(parquet.ParquetWriter).parameters.keys() & {"max_rows_per_page"}, 10**7
)


def make_episode(num_steps, seed=0, action="box"):
    """Two observations that float32 and every text format hold exactly."""
    random = np.random.default_rng(seed)
    observations = random.integers(-64, 64, (num_steps + 1, 2)) / 8 + 1 / 16
    actions = random.integers(-4, 5, (num_steps, 2)) / 4 if action == "box" else random.integers(2, 5, num_steps)
    steps = {"observation": observations[:-1], "action": actions, "reward": random.integers(-9, 9, num_steps) / 4}
    metadata = {"seed": seed, "policy": "odd" if seed % 2 else "even"}
    ends = {"terminated": seed % 2 == 0, "truncated": seed % 2 == 1}
    return Episode(steps, final=observations[-1], text=f"walk {seed}, then stop", metadata=metadata, **ends)


def make_episodes(lengths=(3, 1, 7, 4), action="box"):
    return [make_episode(length, seed, action) for seed, length in enumerate(lengths)]


def step_rows(episodes, final="row"):
    """One row a step; the final observation is a row without an action, a column, or left out."""
    found = []
    for index, episode in enumerate(episodes):
        observations = [*episode.steps["observation"], episode.final["observation"]]
        for step in range(len(episode) + (final == "row")):
            is_end = step == len(episode) - 1
            row = {"run": f"run {index}", "observation": observations[step].tolist(), "action": None, "reward": None}
            if step < len(episode):
                row |= {name: episode.steps[name][step].tolist() for name in ("action", "reward")}
            row |= {"terminated": is_end and episode.terminated, "truncated": is_end and episode.truncated}
            row |= {"text": episode.text, **episode.metadata}
            found.append(row | ({"final": observations[step + 1].tolist()} if final == "column" else {}))
    return found


def episode_rows(episodes, final="row"):
    """One row an episode, its observations one more than its actions or the last in a column of its own."""
    found = []
    for episode in episodes:
        row = {name: values.tolist() for name, values in episode.steps.items()}
        row |= {"terminated": episode.terminated, "truncated": episode.truncated, "text": episode.text}
        if final == "row":
            row["observation"] = [*row["observation"], episode.final["observation"].tolist()]
        found.append(
            row
            | dict(episode.metadata)
            | ({"final": episode.final["observation"].tolist()} if final == "column" else {})
        )
    return found


def flat_rows(found):
    """The same with a column an entry, as CSV has them."""
    names = {"observation": ("x", "y"), "action": ("left", "right"), "final": ("next x", "next y")}
    flat = []
    for row in found:
        wide = {}
        for name, value in row.items():
            parts = names.get(name, (name,))
            wide |= dict(zip(parts, value if isinstance(value, list) else [value] * len(parts), strict=True))
        flat.append(wide)
    return flat


def write(found, path, **options):
    """Write rows as the name of the file says; a name without an end is a folder of `datasets`."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(found), path, **options)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
    else:
        datasets.Dataset.from_list(found).save_to_disk(str(path))
    return path
