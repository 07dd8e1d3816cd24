"""Data sets on disk: a file to convert, and what tells whether a folder holds the same or was touched."""

from pathlib import Path

import h5py
import numpy as np

from seqdec.data.dataset import episode_at


def file_times(folder: Path) -> dict[str, tuple[int, int]]:
    paths = [folder, *folder.rglob("*")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def assert_same(one, other) -> None:
    assert len(one) == len(other)
    for index in range(len(one)):
        assert episode_at(one, index).equals(episode_at(other, index)), index


def flat_file(path: Path, num_rows: int = 3000, dim: int = 3, every: int = 30, seed: int = 0) -> Path:
    """Episodes of `every` steps in one flat HDF5 file."""
    random = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file["observations"] = random.normal(size=(num_rows, dim)).astype(np.float32)
        file["actions"] = random.uniform(-1, 1, (num_rows, 2)).astype(np.float32)
        file["rewards"] = np.ones(num_rows, np.float32)
        file["terminals"] = np.arange(1, num_rows + 1) % every == 0
    return path
