"""From --data to what is trained on: words, sources and data sets in; tasks with their sequence and windows out.

A slip in the words is told before anything heavy is imported, and one in the data before torch is.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seqdec.cli import folders
from seqdec.errors import DataError, UsageError, suggest

if TYPE_CHECKING:
    from datasets import Dataset

    from seqdec.cli.data import DataTable
    from seqdec.cli.train import Train
    from seqdec.formats.columns import Columns
    from seqdec.sequence.layout import Layout
    from seqdec.sequence.stream import StreamWindows
    from seqdec.sequence.windows import Windows
    from seqdec.spaces.spec import EnvironmentSpec


PROMPT_DROPOUT = 0.2  # where the prompt has facts


@dataclass(frozen=True)
class Task:
    """What one task of a run is trained on: its sequence and its windows. An only task has no name.

    `told` says in words how much data there is, `identity` which data it is, as config.json keeps it.
    """

    name: str
    layout: "Layout"
    windows: "Windows | StreamWindows"
    heldout: "Windows | None"
    weight: float
    told: str
    identity: Mapping[str, object]

    @property
    def spec(self) -> "EnvironmentSpec":
        """Return the environment that the data came from."""
        return self.windows.spec


def load_tasks(given: "Train") -> list[Task]:
    """Return the tasks that --data names: `a=PATH b=PATH` are tasks a and b, paths alone are all one task."""
    names = [folders.split_task(word) for word in given.data]
    twice = next((word for word in given.data if given.data.count(word) > 1), None)
    if twice is not None:
        raise UsageError(f"--data names {twice} twice: give it once, and how often it is drawn by --weights")
    weights = numbers(given.weights, "--weights")
    if weights and len(weights) != len(names):
        raise UsageError(f"--weights has {len(weights)} numbers for {len(names)} data sets: give one for each")
    if weights and (not all(0 <= weight < math.inf for weight in weights) or not any(weights)):
        raise UsageError(f"--weights is {' '.join(given.weights)}: give numbers of 0 or more, not all 0")
    tasks = list(dict.fromkeys(task for task, _ in names))
    if "" in tasks and len(tasks) > 1:
        raise UsageError("--data names a task for some data sets only: name all of them, or none")
    if given.streaming:
        if len(names) > 1 or given.fraction is not None or given.best is not None:
            raise UsageError("--streaming reads one source as it comes: leave other --data, --fraction and --best out")
        if tasks[0]:
            raise UsageError("--streaming trains one task without a name: leave NAME= out of --data")
        return [_stream_task(given, *names[0])]
    for flag, value in (("--columns", given.columns), ("--heldout-episodes", given.heldout_episodes)):
        if value:
            raise UsageError(f"{flag} is for --streaming: add it, or convert the data first (seqdec data)")
    found = []
    for task in tasks:
        here = [index for index, (name, _) in enumerate(names) if name == task]
        own = [weights[index] for index in here] if weights else None
        found.append(_load_task(given, task, [names[index][1] for index in here], own))
    return found


def _load_task(given: "Train", task: str, places: Sequence[str], weights: Sequence[float] | None) -> Task:
    from seqdec.data import schema
    from seqdec.data.select import chosen, mix
    from seqdec.formats.load import load_dataset

    parts = [load_dataset(place) for place in places]
    dataset, episode_weights = mix(parts, weights if len(parts) > 1 else None)
    spec = schema.environment_of(dataset)
    layout = make_layout(
        given, spec, [name for name in _texts_of(spec) if schema.changing_episode(dataset, name) is None]
    )
    rows = chosen(dataset, fraction=given.fraction, best=given.best, seed=given.seed)

    from seqdec.sequence.windows import Windows, split_episodes

    trained, held = (rows[part] for part in split_episodes(len(rows), given.heldout_fraction, given.seed))
    is_weighted = weights is not None and len(parts) > 1
    windows = Windows(
        dataset,
        layout,
        episodes=trained,
        weights=episode_weights if is_weighted else None,
        text=task,
    )
    counts = schema.lengths(dataset)
    num_timesteps = int(counts.sum())
    told = f"{len(dataset):,} episodes, {num_timesteps:,} timesteps"
    if len(rows) < len(dataset):
        told = f"{len(rows):,} of {len(dataset):,} episodes, {int(counts[rows].sum()):,} timesteps"
    return Task(
        name=task,
        layout=layout,
        windows=windows,
        heldout=windows.select(held) if len(held) else None,
        weight=sum(weights) if weights else 1.0,
        told=told,
        identity={"episodes": len(dataset), "timesteps": num_timesteps, "sha256": _digest(dataset, spec)},
    )


def _digest(dataset: "Dataset", spec: "EnvironmentSpec") -> str:
    from seqdec.data import schema

    digest = hashlib.sha256(schema.lengths(dataset).data)
    for name in ("reward", *spec.action_leaves):
        for values in schema.column(dataset, name):
            digest.update(values.data)
    return digest.hexdigest()


def _stream_task(given: "Train", task: str, place: str) -> Task:
    """Return a task whose episodes are read while it is trained; the first --heldout-episodes are held out."""
    from seqdec.formats.columns import columns_from_json
    from seqdec.formats.load import source_of
    from seqdec.storage.files import read_json

    described: dict[str, object] = {}
    if given.columns:
        described["columns"] = columns_from_json(read_json(Path(given.columns)), given.columns)
    if given.env and place.startswith(("hdf5:", "table:")):  # the others name their spaces themselves
        described["spec"] = spec_of(given.env)
    source = source_of(place, **described)
    if source is None:
        raise UsageError(
            f"--streaming reads a source, not {place!r}: give minari:ID, hdf5:FILE, table:NAME or lerobot:NAME"
        )
    # a text that changes within an episode is refused when it is read
    layout = make_layout(given, source.spec, _texts_of(source.spec))

    from seqdec.sequence.stream import StreamWindows
    from seqdec.training.processes import join_processes

    processes = join_processes()
    windows = StreamWindows(
        source,
        layout,
        buffer=given.buffer,
        reuse=given.reuse,
        num_heldout=given.heldout_episodes,
        process_index=processes.process_index,
        num_processes=processes.num_processes,
        text=task,
    )
    counted = "" if source.num_episodes is None else f"{source.num_episodes:,} episodes, "
    return Task(
        name=task,
        layout=layout,
        windows=windows,
        heldout=windows.heldout,
        weight=1.0,
        told=f"{counted}read as they come; of the first {len(windows.lengths):,}",
        identity={"source": json.loads(json.dumps(dict(source.identity)))},
    )


def prompt_dropout(given: "Train", layout: "Layout") -> float:
    """Return how often a fact of the prompt is unknown."""
    if given.prompt_dropout is not None:
        return given.prompt_dropout
    is_whole = any(layout.variable(name).role == "observation" for name in layout.predicted)  # and may plan
    return PROMPT_DROPOUT if layout.facts or is_whole else 0.0


def _texts_of(spec: "EnvironmentSpec") -> list[str]:
    from seqdec.spaces.leaves import leaf_kind

    return [name for name, leaf in spec.observation_leaves.items() if leaf_kind(leaf) == "text"]


def make_layout(given: "Train", spec: "EnvironmentSpec", steady: Sequence[str]) -> "Layout":
    """Return the preset that --layout names, or what its JSON file says; `steady` leaves stand in the prompt."""
    from seqdec.sequence.presets import PRESETS, layout_from_spaces

    if given.layout in PRESETS:
        layout = layout_from_spaces(
            given.layout,
            spec.observation_space,
            spec.action_space,
            context_length=given.context_length,
            head=given.head,
            return_head=given.return_head,
            prompt=[*given.prompt, *(name for name in steady if name not in given.prompt)],
            fuse=given.fuse,
            missing=spec.missing,
            text_tokens=given.text_tokens,
            goal_of=given.goal_of,
            goal_entries=whole_numbers(given.goal_entries, "--goal-entries"),
            demo_length=given.demo_length,
        )
    else:
        layout = _layout_from_file(given)
    return replace(
        layout,
        discount=given.discount,
        delayed_reward=given.delayed_reward,
        prompt_dropout=prompt_dropout(given, layout),
        demo_group=given.demo_group,
        demo_part=given.demo_part,
    )


def _layout_from_file(given: "Train") -> "Layout":
    from seqdec.sequence.layout import Layout
    from seqdec.sequence.presets import PRESETS
    from seqdec.storage.files import read_json

    if not Path(given.layout).is_file():
        raise UsageError(
            f"no layout {given.layout!r}{suggest(given.layout, PRESETS)} "
            f"(give one of {', '.join(PRESETS)}, or a layout.json)"
        )
    value = read_json(Path(given.layout))
    try:
        return Layout.from_json(value)
    except (DataError, UsageError) as error:
        raise type(error)(f"{given.layout}: {error}") from error


def spec_of(env_id: str) -> "EnvironmentSpec":
    """Return the spec of an environment that the user typed; it is made once, to be looked at."""
    import gymnasium
    from gymnasium.vector import SyncVectorEnv

    from seqdec.play import make_envs
    from seqdec.play.guarded import Guarded
    from seqdec.play.make import spec_of_env
    from seqdec.spaces.spec import EnvironmentSpec

    unknown = EnvironmentSpec(gymnasium.spaces.Discrete(1), gymnasium.spaces.Discrete(1))
    envs = make_envs(unknown, 1, env_id=env_id)
    assert isinstance(envs, SyncVectorEnv)
    try:
        guarded = envs.envs[0]
        assert isinstance(guarded, Guarded)
        return spec_of_env(guarded.env)
    finally:
        envs.close()


def table_columns(given: "DataTable") -> "Columns":
    """Return which column is what, as the words of `data table` say it."""
    from seqdec.formats.columns import Columns

    def none(word: str) -> str | None:
        return None if word in ("none", "") else word

    def names(words: Sequence[str], role: str) -> "str | list[str] | dict[str, list[str] | str]":
        if not any("=" in word for word in words):
            return words[0] if len(words) == 1 else list(words)
        pairs = [word.partition("=")[::2] for word in words]
        wrong = next((key for key, columns in pairs if not key or not columns), None)
        if wrong is not None:
            raise UsageError(f"--{role}: {wrong!r} stands beside KEY=COLUMN words: give all of them a key, or none")
        _refuse_twice([key for key, _ in pairs], role)
        return {f"{role}.{key}": columns.split(",") if "," in columns else columns for key, columns in pairs}

    missing = [word.partition("=")[::2] for word in given.missing]
    _refuse_twice([leaf for leaf, _ in missing], "missing")
    return Columns(
        episode=none(given.episode),
        observation=names(given.observation, "observation"),
        action=names(given.action, "action"),
        reward=given.reward,
        terminated=none(given.terminated),
        truncated=none(given.truncated),
        final=None if given.final == ("none",) else names(given.final, "final"),
        text=none(given.text),
        metadata=given.keep,
        missing={leaf: none(column) for leaf, column in missing},
    )


def _refuse_twice(keys: Sequence[str], role: str) -> None:
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UsageError(f"--{role} gives {twice!r} twice: give each once (several columns as {twice}=A,B)")


def whole_numbers(words: Sequence[str], name: str) -> list[int]:
    """Return the whole numbers that a flag lists."""
    given = numbers(words, name)
    wrong = next((number for number in given if not number.is_integer() or number < 0), None)
    if wrong is not None:
        raise UsageError(f"{name} holds {wrong:g}: give whole numbers")
    return [int(number) for number in given]


def numbers(words: Sequence[str], name: str) -> list[float]:
    """Return the numbers that a flag lists."""
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise UsageError(f"{name} is {' '.join(words)}: give numbers") from error
