"""Declared sizes are compared with what is there before anything is made: one sentence, and hardly any memory."""

import json
import os
import resource
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import make_windows
from seqdec import storage
from seqdec.data import load_folder, save
from seqdec.errors import DataError
from seqdec.formats.guard import hdf5_array, opened_hdf5
from seqdec.formats.table_formats import read_files
from seqdec.model.backbone import load_backbone
from seqdec.model.folder import load_policy, save_policy
from seqdec.model.sequence_model import build_model
from seqdec.play import scripted_cartpole
from seqdec.training.checkpoints import newest_sound

MOST_MORE = 50 * 1024  # kB


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes") / "policy"
    windows, _ = make_windows()
    save_policy(build_model(windows, load_backbone("small", num_layers=1)), folder)
    load_policy(folder)  # what is imported and kept for good is there
    return folder


@pytest.fixture
def little_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + MOST_MORE


def changed(policy: Path, folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a policy with another JSON file in it, and a manifest that fits."""
    shutil.copytree(policy, folder)
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))
    storage.write_manifest(folder)
    return folder


def enlarge(kind: str, **sizes: object) -> Callable[[dict[str, Any]], object]:
    return lambda layout: next(each for each in layout["variables"] if each["name"] == kind).update(
        low=None, high=None, **sizes
    )


@pytest.mark.parametrize("size", [10**7, 10**9, 10**12])
@pytest.mark.parametrize("name", ["observation", "action", "return_to_go"])
def test_a_layout_larger_than_its_tensors_is_refused(
    size: int, name: str, policy: Path, tmp_path: Path, little_memory: None
):
    folder = changed(policy, tmp_path / "p", "layout.json", enlarge(name, size=size))
    with pytest.raises(DataError, match=r"should have shape \(.*\), found \(|is no policy that this seqdec can load"):
        load_policy(folder)


@pytest.mark.parametrize("key", ["context_length", "num_bins"])
def test_numbers_that_nothing_needs_are_refused(key: str, policy: Path, tmp_path: Path, little_memory: None):
    def change(layout: dict[str, Any]) -> None:
        if key in layout:
            layout[key] = 10**9
        else:
            next(each for each in layout["variables"] if each["kind"] == "binned")[key] = 10**9

    with pytest.raises(DataError, match="at most 65536|should have shape"):
        load_policy(changed(policy, tmp_path / "p", "layout.json", change))


@pytest.mark.parametrize(
    ("key", "value"), [("n_layer", 10**6), ("n_positions", 10**7), ("n_embd", 10**5), ("n_inner", 10**8)]
)
def test_a_backbone_larger_than_its_tensors_is_refused(
    key: str, value: int, policy: Path, tmp_path: Path, little_memory: None
):
    folder = changed(policy, tmp_path / "p", "backbone/config.json", lambda config: config.update({key: value}))
    with pytest.raises(DataError, match=r"declares .*, \d+ (tensors|numbers) are stored: it is not read"):
        load_policy(folder)


def unnamed(folder: Path, name: str) -> Path:
    """Take a file out of the manifest of its folder."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("name", ["layout.json", "codecs.safetensors", "backbone/source.json", "backbone/config.json"])
@pytest.mark.parametrize("is_link", [True, False])
def test_what_the_manifest_does_not_name_is_not_read(name: str, is_link: bool, policy: Path, tmp_path: Path):
    folder = tmp_path / "p"
    shutil.copytree(policy, folder)
    unnamed(folder, name)
    if is_link:
        (folder / name).unlink()
        (folder / name).symlink_to("/etc/passwd")
    words = "is a link, only files are read" if is_link else "is not in .*manifest.json, so it is not read"
    with pytest.raises(DataError, match=f"{name} {words}"):
        load_policy(folder)


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_what_the_manifest_of_data_does_not_name_is_not_read(name: str, tmp_path: Path):
    save(scripted_cartpole(num_episodes=2), tmp_path / "d")
    with pytest.raises(DataError, match=f"{name} is not in .*manifest.json, so it is not read"):
        load_folder(unnamed(tmp_path / "d", name))


@pytest.mark.parametrize("name", ["train/state.json", "train/optimizer.safetensors"])
def test_what_the_manifest_of_a_checkpoint_does_not_name_is_not_read(name: str, tmp_path: Path):
    folder = tmp_path / "checkpoints" / "step-000001"
    with storage.publish(folder) as open_folder:
        (open_folder / "train").mkdir()
        storage.write_text(open_folder / name, "{}")
    assert newest_sound(tmp_path) == folder
    unnamed(folder, name)
    with pytest.raises(DataError, match=f"{name} is not in .*manifest.json, so it is not read"):
        newest_sound(tmp_path)


def test_pickles_beside_a_policy_stay_ignored(policy: Path, tmp_path: Path):
    shutil.copytree(policy, tmp_path / "p")
    for name in ("pytorch_model.bin", "notes.txt", "backbone/pytorch_model.bin", "backbone/.DS_Store"):
        (tmp_path / "p" / name).write_bytes(b"\x80\x04N.")
    load_policy(tmp_path / "p")
    (tmp_path / "p" / "backbone" / "added_tokens.json").write_text("{}")
    with pytest.raises(DataError, match=r"added_tokens.json is not in"):
        load_policy(tmp_path / "p")


def chunked(path: Path, shape: tuple[int, int], chunks: tuple[int, int], times: int = 1) -> Path:
    """One array [20, 4] in a chunk that is packed more than once."""
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(chunks)
        for _ in range(times):
            plist.set_deflate(1)
        space = h5py.h5s.create_simple(shape, (h5py.h5s.UNLIMITED,) * 2)
        data = h5py.Dataset(h5py.h5d.create(file.id, b"observations", h5py.h5t.NATIVE_FLOAT, space, plist))
        content = np.zeros(min(chunks[0] * chunks[1], 80), np.float32).tobytes()
        for _ in range(times):
            content = zlib.compress(content)
        data.id.write_direct_chunk((0, 0), content)
    return path


@pytest.mark.parametrize(
    ("chunks", "times", "message"),
    [
        ((2**26, 4), 1, "has 320 bytes in chunks of 1073741824: it is not read"),
        ((20, 4), 2, "is packed more than once"),
    ],
)
def test_chunks_larger_than_their_array_are_not_unpacked(chunks, times, message, tmp_path: Path, little_memory: None):
    path = chunked(tmp_path / "d.hdf5", (20, 4), chunks, times)
    with opened_hdf5(path) as file, pytest.raises(DataError, match=message):
        hdf5_array(file, "observations")


def test_ordinary_chunks_are_read(tmp_path: Path):
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        packing = {"compression": "gzip", "shuffle": True, "fletcher32": True, "maxshape": (None, 4)}
        file.create_dataset("observations", data=np.ones((20, 4)), chunks=(5000, 4), **packing)
    with opened_hdf5(tmp_path / "d.hdf5") as file:
        assert hdf5_array(file, "observations")[:].sum() == 80


@pytest.mark.parametrize("is_list", [True, False])
def test_a_table_that_unpacks_to_more_than_it_can_hold_is_refused(is_list: bool, tmp_path: Path, little_memory: None):
    column = pa.DictionaryArray.from_arrays(
        pa.array([0] * 100_000, pa.int32()), pa.array(["x" * (2**16 if is_list else 2**20)])
    )
    if is_list:
        column = pa.ListArray.from_arrays(pa.array(range(0, 100_001, 10), pa.int32()), column)
    path = tmp_path / "bomb.parquet"
    pa.parquet.write_table(pa.table({"text": column}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 4000
    with pytest.raises(DataError, match=r"bomb.parquet declares \d+ bytes, \d+ are stored: it is not read"):
        for _ in read_files([path], ["text"], {}):
            pass


def test_texts_of_all_shapes_come_back_from_parquet(tmp_path: Path):
    rows = [{"a": f"{row % 3}", "b": [f"{row}", None], "c": {"d": "e", "f": row}, "g": row} for row in range(9)]
    table = pa.Table.from_pylist(rows)
    table = table.append_column("h", table["a"].cast(pa.large_string())).append_column(
        "i", table["a"].dictionary_encode()
    )
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    blocks = list(read_files([tmp_path / "t.parquet"], table.column_names, {}))
    assert [row for block in blocks for row in block.rows.to_pylist()] == table.to_pylist()


def snapshot_of(folder: Path, home: Path) -> Path:
    """Lay a folder out as the Hub's cache does: a snapshot of links to blobs."""
    snapshot = home / "models--someone--policy" / "snapshots" / ("0" * 40)
    blobs = snapshot.parent.parent / "blobs"
    shutil.copytree(folder, snapshot)
    blobs.mkdir()
    for number, path in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        path.rename(blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    return snapshot


@pytest.mark.parametrize("place", [".", "runs/policy"])
def test_a_policy_in_the_hubs_cache_is_read_through_its_links_alone(place: str, policy: Path, tmp_path: Path):
    shutil.copytree(policy, tmp_path / "mine" / place)
    (tmp_path / "mine" / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    folder = snapshot_of(tmp_path / "mine", tmp_path / "hub") / place
    expected = load_policy(policy).state_dict()
    assert all(value.equal(expected[name]) for name, value in load_policy(folder).state_dict().items())
    (tmp_path / "blobs").mkdir()  # of no repository
    shutil.copy(policy / "layout.json", tmp_path / "blobs")
    for target in (policy / "layout.json", tmp_path / "blobs" / "layout.json"):  # the very same content
        (folder / "layout.json").unlink()
        (folder / "layout.json").symlink_to(target)
        with pytest.raises(DataError, match=r"layout.json is a link, only files are read"):
            load_policy(folder)


def test_masks_that_are_worked_out_count_as_no_weights(tmp_path: Path):
    config = GPT2Config(vocab_size=16, n_positions=1024, n_embd=4, n_layer=12, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)  # 12 million entries of masks, 10 thousand weights
    assert load_backbone(str(tmp_path)).width == 4
