"""From the words of `train` to a task: --data is read, chosen from and mixed, or streamed; --layout orders it.

Data that are wrong fail before torch is imported.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset

from seqdec.cli.data import spec_of
from seqdec.cli.options import keywords, options_of, whole_numbers
from seqdec.data import schema
from seqdec.data.offsets import with_offsets
from seqdec.data.select import chosen, mix
from seqdec.data.source import read_along, without_damaged
from seqdec.errors import DataError, UsageError, suggest
from seqdec.finetune import Task, make_layout, split_task, with_prompt_dropout
from seqdec.formats.columns import columns_from_json
from seqdec.formats.load import load_dataset, source_of
from seqdec.sequence.layout import Layout
from seqdec.sequence.presets import PRESETS, layout_from_spaces
from seqdec.spaces.leaves import leaf_kind
from seqdec.spaces.spec import EnvironmentSpec
from seqdec.storage.files import read_json

if TYPE_CHECKING:
    from seqdec.cli.train import Train


def load_task(given: "Train", name: str, places: Sequence[str], weights: Sequence[float] | None) -> Task:
    """Return a task whose data sets are read, mixed and chosen from."""
    is_weighted = weights is not None and len(places) > 1
    dataset, episode_weights = mix([load_dataset(place) for place in places], weights if is_weighted else None)
    spec = schema.environment_of(dataset)
    layout = _layout_of(given, spec, dataset)
    rows = chosen(dataset, **keywords(given, chosen))
    options = keywords(given, split_task, rows=rows, weights=episode_weights if is_weighted else None)
    task = split_task(dataset, layout, weight=sum(weights) if weights else 1.0, text=name, **options)
    counts = schema.lengths(dataset)
    part = f"{len(rows):,} of " if len(rows) < len(dataset) else ""
    size = f"{part}{len(dataset):,} episodes, {counts[rows].sum():,} timesteps"
    identity = {"episodes": len(dataset), "timesteps": int(counts.sum()), "sha256": _digest(dataset, spec)}
    return replace(task, size=size, identity=identity)


def _digest(dataset: Dataset, spec: EnvironmentSpec) -> str:
    digest = hashlib.sha256(schema.lengths(dataset).data)
    texts = [name for name, leaf in spec.action_leaves.items() if leaf_kind(leaf) == "text"]
    for name in ("reward", *spec.action_leaves):
        if name in texts:
            for chunk in schema.text_column(dataset, name):
                digest.update("\0".join([*chunk.to_pylist(), ""]).encode())
        else:
            for values in schema.column(dataset, name):
                digest.update(values.data)
    return digest.hexdigest()


def stream_task(given: "Train", place: str) -> Task:
    """Return a task whose episodes are read while it is trained; the first --heldout-episodes are held out."""
    described: dict[str, object] = {}
    if given.columns:
        described["columns"] = columns_from_json(read_json(Path(given.columns)), given.columns)
    if given.env and place.startswith(("hdf5:", "npz:", "table:")):  # the others name their spaces themselves
        described["spec"] = spec_of(given.env)
    source = source_of(place, **described)
    if source is None:
        kinds = "minari:ID, hdf5:FILE, npz:FILE, table:NAME, lerobot:NAME or chat:NAME"
        raise UsageError(f"--streaming reads a source, not {place!r}: give {kinds}")
    source = without_damaged(source) if given.on_damaged == "drop-episode" else source
    _, spec = with_offsets(read_along(source), source.spec)
    source = replace(source, spec=spec)
    layout = _layout_of(given, spec)  # a text that changes within an episode is refused when it is read

    from seqdec.sequence.stream import StreamWindows
    from seqdec.training.processes import join_processes

    processes = join_processes()
    part = {"process_index": processes.process_index, "num_processes": processes.num_processes}
    options = keywords(given, StreamWindows, num_heldout=given.heldout_episodes, **part)
    windows = StreamWindows(source, layout, **options)
    number = "" if source.num_episodes is None else f"{source.num_episodes:,} episodes, "
    size = f"{number}read as they come; of the first {len(windows.lengths):,}"
    identity = {"source": json.loads(json.dumps(dict(source.identity)))}
    return Task(windows, windows.heldout, size=size, identity=identity)


def _layout_of(given: "Train", spec: EnvironmentSpec, dataset: Dataset | None = None) -> Layout:
    """Return the preset that --layout names, or what its JSON file says."""
    if given.layout in PRESETS:
        entries = whole_numbers(given.goal_entries, "goal_entries")
        options = keywords(given, layout_from_spaces, goal_entries=entries, backbone=given.backbone)
        return make_layout(given.layout, spec, dataset, **options)
    layout = _layout_from_file(given.layout)
    entries = options_of(type(given))  # a flag that is given stands above the file
    manner = {name: vars(given)[name] for name in ("discount", "delayed_reward", "demo_group", "demo_part")}
    layout = replace(layout, **{name: value for name, value in manner.items() if value != entries[name].default})
    return with_prompt_dropout(layout, given.prompt_dropout)


def _layout_from_file(name: str) -> Layout:
    if not Path(name).is_file():
        choices = f"give one of {', '.join(PRESETS)}, or a layout.json"
        raise UsageError(f"no layout {name!r}{suggest(name, PRESETS)} ({choices})")
    value = read_json(Path(name))
    try:
        return Layout.from_json(value)
    except (DataError, UsageError) as error:
        raise type(error)(f"{name}: {error}") from error
