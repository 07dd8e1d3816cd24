"""Any JSON value in any place of a file that is read ends in a value or in one of our errors, never in another one."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

import minari_sets
from conftest import box_episodes, box_spec, make_windows
from lerobot_sets import make_episodes, write
from seqdec import load_dataset, load_policy, storage
from seqdec.cli.config import check_places, check_same_run, from_config, to_config
from seqdec.cli.train import Train
from seqdec.data.dataset import from_episodes, save
from seqdec.errors import DataError, NumericsError, StorageError, UsageError
from seqdec.formats.columns import columns_from_json
from seqdec.inference.report import Report
from seqdec.model.backbone import load_backbone
from seqdec.model.sequence_model import build_model
from seqdec.sequence.layout import Layout
from seqdec.storage.folders import write_manifest
from seqdec.training.checkpoints import restore_checkpoint, restore_sums
from seqdec.training.loop import train
from seqdec.training.metrics import Metrics

Value = Any  # of JSON
Place = tuple[str | int, ...]
Reader = tuple[Value, Callable[[Value], object]]

CONFIG = {
    "flags": to_config(Train()),
    "data": {"episodes": 3, "timesteps": 4, "sha256": "x"},
    "machine": {"processes": 1, "directory": "/x"},
}
RESULT = {
    "target_return": 1.0, "mean": 1.0, "std": 0.0, "ci95": [1.0, 1.0], "score": None, "episode_returns": [1.0],
    "episode_lengths": [1], "failures": [],
}  # fmt: skip
REPORT = {
    "env": "x", "seed": 0, "num_episodes": 1, "targets": [RESULT], "rank_correlation": None,
    "data_returns": {"min": 0.0, "q50": 1.0, "max": 2.0}, "env_steps_per_second": 1.0,
}  # fmt: skip
IN_POLICY = ("policy.json", "layout.json", "backbone/source.json", "backbone/config.json")
IN_DATA = ("state.json", "dataset_info.json")
QUICK = ("layout", "report", "columns", "config", "metrics", "minari", "lerobot")
SLOW = ("state", *IN_POLICY, *IN_DATA)
NASTY = st.sampled_from([None, True, 0, -1, 1.5, 10**30, 10**400, "", "nan", "\ud800", [], [[]], {}, [{}]])
VALUES = NASTY | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


def places(value: Value, place: Place = ()) -> Iterator[Place]:
    """Return the way to every part of a JSON value."""
    yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


def changed(value: Value, place: Place, do: Callable[[Value, str | int], None]) -> Value:
    """Return a copy in which something was done to the part that stands at a place."""
    whole = {"": copy.deepcopy(value)}
    *way, last = ("", *place)
    part: Value = whole
    for key in way:
        part = part[key]
    do(part, last)
    return whole.get("", {})


def sealed(path: Path, *folders: Path) -> Reader:
    """Return a file's value, and how to write it into folders whose manifests fit it."""

    def put(value: Value) -> None:
        path.write_text(json.dumps(value))
        for folder in folders:
            (folder / "manifest.json").unlink()
            write_manifest(folder)

    return json.loads(path.read_text()), put


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Reader]]:
    """What is read, and the way to read it with another value in its place."""
    folder, number = tmp_path_factory.mktemp("readers"), [0]
    windows, _ = make_windows()
    model = build_model(windows, load_backbone("small", num_layers=1))
    train(model, windows, out=folder / "run", steps=3, batch_size=4, log_every=2)
    policy, checkpoint = folder / "run" / "policy", folder / "run" / "checkpoints" / "step-000003"
    save(from_episodes(box_episodes(3), box_spec()), folder / "data")
    minari = minari_sets.write_minari(folder / "set-v0", minari_sets.make_episodes())
    lerobot = write(folder / "lerobot", make_episodes())
    optimizer = torch.optim.AdamW(model.parameters())

    def restore() -> None:
        restore_checkpoint(folder / "run", {"": model}, optimizer)
        restore_sums(folder / "run", 3, Accelerator())

    def read_config(value: Value) -> None:
        storage.write_json(folder / "config.json", value)
        check_places(from_config(Train, value, "config.json"), value, "config.json")
        check_same_run(Train(), folder, CONFIG)

    def read_metrics(value: Value) -> None:
        number[0] += 1
        run = folder / f"metrics-{number[0]}"
        run.mkdir()
        (run / "metrics.jsonl").write_text(json.dumps(value) + "\n")
        Metrics(run, step=9, tracker="none", config={})

    def reader(place: Reader, read: Callable[[], object]) -> Reader:
        return place[0], lambda value: (place[1](value), read())

    def beside(folder: Path, name: str, load: Callable[[Path], object]) -> Reader:
        """A copy of a folder for each of its files, so that none is damaged by the others."""
        own = shutil.copytree(folder, folder.with_name(name.replace("/", "-")))
        return reader(sealed(own / name, own), lambda: load(own))

    layout = json.loads((policy / "layout.json").read_text())
    yield {
        "layout": (layout, Layout.from_json),
        "report": (REPORT, Report.from_json),
        "columns": ({"observation": ["a"], "action": "b"}, lambda value: columns_from_json(value, "columns.json")),
        "config": (CONFIG, read_config),
        "metrics": ({"step": 1, "train/loss": 1.0, "eval/x": None}, read_metrics),
        "state": reader(sealed(checkpoint / "train" / "state.json", checkpoint), restore),
        "minari": reader(sealed(minari / "data" / "metadata.json"), lambda: load_dataset(str(minari))),
        "lerobot": reader(sealed(lerobot / "meta" / "info.json"), lambda: load_dataset(f"lerobot:{lerobot}")),
        **{name: beside(policy, name, load_policy) for name in IN_POLICY},
        **{name: beside(folder / "data", name, load_dataset) for name in IN_DATA},
    }


def put(part: Value, key: str | int, value: Value) -> None:
    part[key] = value


def check_any_value(name: str, data: st.DataObject, readers: dict[str, Reader]) -> None:
    """Put some value into some place, or take it away, and read."""
    value, read = readers[name]
    place = data.draw(st.sampled_from([place for place in places(value) if place]))
    new = data.draw(st.none() | st.tuples(VALUES))
    other = changed(value, place, lambda part, key: part.__delitem__(key) if new is None else put(part, key, new[0]))
    try:
        read(other)
    except (DataError, NumericsError, StorageError, UsageError) as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused_by_us(name: str, data: st.DataObject, readers: dict[str, Reader]):
    check_any_value(name, data, readers)


@pytest.mark.parametrize("name", SLOW)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_value_in_any_file_of_a_folder_is_read_or_refused_by_us(name: str, data: st.DataObject, readers):
    check_any_value(name, data, readers)


def test_an_interval_that_is_no_list_is_refused():
    with pytest.raises(DataError, match="intervals must be lists of two"):
        Report.from_json({**REPORT, "targets": [{**RESULT, "ci95": 3}]})
