"""Large numbers: what float32 would make equal is kept apart by an offset; where it is not, that is said."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from gymnasium.spaces import Box, Dict, Discrete

from seqdec.data.dataset import episode_at, from_episodes, load_folder, save
from seqdec.data.description import describe
from seqdec.data.episode import Episode
from seqdec.data.schema import environment_of
from seqdec.data.select import mix
from seqdec.data.source import Source
from seqdec.errors import DataError, UsageError
from seqdec.formats.columns import Columns
from seqdec.formats.load import load_dataset
from seqdec.inference.context import Context
from seqdec.inference.policy import Policy, load_policy
from seqdec.inference.prompt import Prompt
from seqdec.model.backbone import load_backbone
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.play import record
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.stream import StreamWindows
from seqdec.sequence.variable import Head
from seqdec.sequence.windows import Windows
from seqdec.spaces.spec import EnvironmentSpec

SECONDS = 1_700_000_000 + np.arange(20)
STEPS = np.arange(20)
RANDOM = np.random.default_rng(0)
SPEC = EnvironmentSpec(Box(-np.inf, np.inf, (2,), np.float64), Discrete(2))


def kept(*episodes: np.ndarray, dtype: type = np.float64, spec: EnvironmentSpec = SPEC) -> Dataset:
    """Keep episodes of one number a step, beside one that is small."""
    rows = []
    for values in episodes:
        seen = np.stack([np.linspace(0, 1, len(values)), np.asarray(values, np.float64)], 1).astype(dtype)
        steps = {"observation": seen, "action": np.zeros(len(values), np.int64), "reward": np.ones(len(values))}
        rows.append(Episode(steps, final=seen[-1], terminated=True, truncated=False))
    return from_episodes(rows, spec)


def gathered(dataset: Dataset) -> np.ndarray:
    """Return the second entry of the observations of the first episode, as a model gets it."""
    spec = environment_of(dataset)
    spaces = spec.observation_space, spec.action_space
    layout = layout_from_spaces("fused", *spaces, context_length=len(dataset[0]["reward"]), offsets=spec.offsets)
    return Windows(dataset, layout, episodes=np.array([0])).gather(np.array([0]))["observation"][0, :, 1].numpy()


@pytest.mark.parametrize(
    "values",
    [
        SECONDS,
        1_700_000_000 + 10 * np.arange(4000),
        5_000_000 + np.cumsum(RANDOM.normal(size=500)),
        -500_000 - 0.1 * STEPS,
        2**24 + 3 * STEPS,
        1e9 + STEPS,
    ],
    ids=["seconds", "half a day", "metres north", "metres west", "counts", "ticks"],
)
def test_numbers_that_float32_does_not_tell_apart_are_kept_apart(
    values: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    dataset = kept(values, values[::-1])
    save(dataset, tmp_path / "data")
    dataset = load_folder(tmp_path / "data")
    expected = (values - values[0]).astype(np.float32)
    for data in (dataset, dataset.select([1, 0]).select([1, 0])):
        given = gathered(data)
        np.testing.assert_array_equal(given, expected)
        assert given.dtype == np.float32 and len(np.unique(given)) == len(np.unique(values))
    for row, seen in enumerate((values, values[::-1])):
        episode = episode_at(dataset, row)
        np.testing.assert_array_equal(episode.steps["observation"][:, 1], seen)
        assert episode.final["observation"][1] == seen[-1]
        assert episode[2:5].equals(Episode.from_row(episode[2:5].to_row()))
    assert environment_of(dataset).offsets == {"observation": (0.0, float(values[0]))}
    assert describe(dataset).num_episodes == 2
    assert caplog.messages == []


@pytest.mark.parametrize(
    "episodes",
    [
        [STEPS],
        [130_000 + 0.001 * STEPS],
        [1e9 * RANDOM.normal(size=300)],
        [200_000 + 1000 * (STEPS % 7 == 0)],
        [np.full(20, 1e6)],
        [np.full(20, 1e6), np.full(20, 3e6)],
    ],
    ids=["small", "up to the limit", "as wide as large", "seldom, by much", "constant", "constant within episodes"],
)
def test_numbers_that_float32_keeps_apart_are_float32(episodes: list, caplog: pytest.LogCaptureFixture):
    dataset = kept(*episodes)
    assert environment_of(dataset).offsets == {}
    np.testing.assert_array_equal(gathered(dataset), episodes[0].astype(np.float32))
    assert caplog.messages == []


def test_what_is_still_equal_is_said_once(caplog: pytest.LogCaptureFixture):
    coarse = "has numbers near 1.7e+09, float32 keeps them in steps of 128: closer ones are equal from here on"
    kept(SECONDS, SECONDS, dtype=np.float32)  # nothing can be told apart any more
    assert len(caplog.messages) == 1 and f"observation[1] {coarse}" in caplog.messages[0]
    caplog.clear()
    kept(STEPS, SECONDS)  # the first episode shows no need of an offset
    assert len(caplog.messages) == 1 and f"observation[1] {coarse}" in caplog.messages[0]
    caplog.clear()
    dataset = kept(SECONDS, 10 * SECONDS)  # one offset does not serve both
    (message,) = caplog.messages
    assert message.startswith("observation[1] less its offset of 1700000000 has numbers near 1.53e+10, float32 keeps")
    caplog.clear()
    Windows(dataset, layout_from_spaces("fused", SPEC.observation_space, SPEC.action_space, context_length=4))
    assert caplog.messages == [
        "observation has numbers too large for float32, and the layout no offset: close ones are equal"
    ]


def test_an_offset_can_be_named(caplog: pytest.LogCaptureFixture):
    spec = replace(SPEC, offsets={"observation": (0.5, 1_700_000_000.0)})
    dataset = kept(SECONDS[3:], SECONDS, spec=spec)
    assert environment_of(dataset) == EnvironmentSpec.from_json(environment_of(dataset).to_json()) == spec
    np.testing.assert_array_equal(gathered(dataset), np.arange(3, 20))
    assert caplog.messages == []
    for offsets in ({"observation": (1.0,)}, {"action": (0.0,)}, {"observations": (0.0, 0.0)}):
        with pytest.raises(UsageError, match="which is no leaf of . real numbers"):
            replace(SPEC, offsets=offsets)
    for value in ([1.0], {"observation": 1.0}, {"observation": ["a", 0]}, {"observation": [1e400, 0]}):
        with pytest.raises(DataError, match="offsets are .*: expected lists of numbers by leaf"):
            EnvironmentSpec.from_json({**SPEC.to_json(), "offsets": value})


def test_data_sets_of_other_offsets_are_one_and_without_any_are_refused(caplog: pytest.LogCaptureFixture):
    today, tomorrow = kept(SECONDS), kept(SECONDS + 86_400)
    both, _ = mix([today, tomorrow])
    np.testing.assert_array_equal(gathered(both.select([1, 0])), np.float32(86_400 + STEPS))
    with pytest.raises(UsageError, match="only some of the data sets have an offset of observation"):
        mix([today, kept(STEPS)])
    assert caplog.messages == []


def test_what_is_not_known_is_no_offset():
    spec = replace(SPEC, missing=("observation",))
    seen = np.stack([np.linspace(0, 1, 21), np.append(SECONDS, SECONDS[-1] + 1)], 1).astype(np.float64)
    seen[:3, 1] = np.nan
    episode = {"observation": seen, "action": [0] * 20, "reward": [1.0] * 20}
    dataset = from_episodes([episode], spec)
    assert environment_of(dataset).offsets == {"observation": (0.0, float(SECONDS[3]))}
    np.testing.assert_array_equal(gathered_with_missing(dataset)[3:], np.arange(17))


def gathered_with_missing(dataset: Dataset) -> np.ndarray:
    spec = environment_of(dataset)
    options = {"missing": spec.missing, "offsets": spec.offsets}
    layout = layout_from_spaces("fused", spec.observation_space, spec.action_space, context_length=20, **options)
    return Windows(dataset, layout).gather(np.array([10]))["observation"][0, :, 1].numpy()


def clocked(start: float, *, dtype: type = np.float64) -> Dataset:
    """Episodes whose observations and actions count seconds from a start, which is in the action, too."""
    spaces = (
        Dict(clock=Box(-np.inf, np.inf, (2,), dtype), lever=Box(-1, 1, (1,))),
        Box(start - 64, start + 512, (2,), dtype),
    )
    random, episodes = np.random.default_rng(0), []
    for first in (0, 40, 16):
        clock = start + first + np.stack([np.arange(13), 2 * np.arange(13)], 1)
        lever = random.uniform(-1, 1, (13, 1)).astype(np.float32)
        waits = clock[:-1] + random.integers(0, 8, (12, 2))
        observation = {"clock": clock.astype(dtype), "lever": lever}
        episodes.append({"observation": observation, "action": waits.astype(dtype), "reward": np.ones(12)})
    return from_episodes(episodes, EnvironmentSpec(*spaces))


def modelled(dataset: Dataset, head: Head) -> SequenceModel:
    spec = environment_of(dataset)
    layout = layout_from_spaces(
        "trajectory", spec.observation_space, spec.action_space, context_length=4, head=head, offsets=spec.offsets,
        prompt=["goal", "demo"], goal_of="observation.clock", goal_entries=[1], demo_length=3,
    )  # fmt: skip
    torch.manual_seed(0)
    return build_model(Windows(dataset, layout), load_backbone("small", num_layers=1)).eval()


def written(context: Context, start: float, dataset: Dataset) -> dict[str, torch.Tensor]:
    """Write and sample two timesteps, and return what was sampled, and how likely what was seen is."""
    results = {}
    goal = {"goal": np.array([[start + 9.0], [start + 30.0]]), "goal.when": [[6.0], [9.0]]}
    context.write(**goal, demo=episode_at(dataset, 1))
    for timestep in range(2):
        seen = {"observation.clock": start + np.array([[3.0, 5.0], [8.0, 2.0]]) + timestep}
        results[f"likely {timestep}"] = context.log_prob("observation.clock", seen["observation.clock"])
        context.write(**seen, **{"observation.lever": np.zeros((2, 1), np.float32)})
        results[f"action {timestep}"] = context.sample("action")
        context.write(reward=np.ones((2, 1)), return_to_go=np.full((2, 1), 9.0))
    results["clock"] = context.sample("observation.clock")
    return results


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
@pytest.mark.parametrize("head", ["gaussian", "mse", "binned"])
def test_a_model_of_large_numbers_is_that_of_small_ones(head: Head, dtype: type, tmp_path: Path):
    """Seconds of an epoch are seconds: everything that is read, sampled and asked is the same but for the offset."""
    start = 2.0**31
    data = {"small": clocked(0, dtype=dtype), "large": clocked(start, dtype=dtype)}
    assert environment_of(data["large"]).offsets.keys() == {"observation.clock", "action"}
    models = {name: modelled(dataset, head) for name, dataset in data.items()}
    asked = {name: written(Context(models[name], 2), start * (name == "large"), data[name]) for name in models}
    for name, values in asked["small"].items():
        shift = 0.0 if name.startswith("likely") else start
        torch.testing.assert_close(asked["large"][name].double() - shift, values.double(), rtol=1e-5, atol=1e-3)
    acts: dict[str, list] = {name: [] for name in models}
    for name, model in models.items():
        shift, space = start * (name == "large"), environment_of(data[name]).action_space
        prompt = Prompt(goal=[shift + 9.0], goal_in=12, demo=episode_at(data[name], 1))
        policy = Policy(model, 9.0, prompt=prompt, temperature=0)
        policy.save_pretrained(tmp_path / name)
        policy = Policy(load_policy(tmp_path / name), 9.0, prompt=prompt, temperature=0)
        policy.reset()
        for timestep in range(9):  # longer than the context
            clock = np.array([shift + timestep, shift + 2 * timestep]).astype(dtype)
            lever = np.full(1, 0.5, np.float32)
            action = policy.act({"clock": clock, "lever": lever}, 1.0 if timestep else None)
            assert space.contains(action) and action.dtype == dtype
            acts[name].append(action.astype(np.float64) - shift)
    np.testing.assert_allclose(acts["large"], acts["small"], atol=1e-3)


class Clock(gymnasium.Env):
    """Shows the time."""

    observation_space, action_space = Box(-np.inf, np.inf, (1,), np.float64), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seconds = SECONDS[0]
        return np.array([self.seconds], np.float64), {}

    def step(self, action):
        self.seconds += 1
        return np.array([self.seconds], np.float64), 0.0, self.seconds == SECONDS[-1], False, {}


class Calendar(Clock):
    """Begins in 1970 or today, by its seed."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seconds -= 0 if seed in self.today else SECONDS[0]
        return np.array([self.seconds], np.float64), {}

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, self.seconds % SECONDS[0] == 19, False, info


@pytest.mark.parametrize("today", [{0}, {1, 2}])
def test_a_recording_in_parts_is_the_one_in_one(today: set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Calendar, "today", today, raising=False)
    folders = []
    for seconds in (30.0, 0.0):
        monkeypatch.setattr("seqdec.play.parts.PART_SECONDS", seconds)
        folders.append(tmp_path / f"{seconds:g}")
        record(Calendar, lambda observation, generator: 0, num_episodes=3, num_envs=1, seed=0, folder=folders[-1])
    whole, parts = (sorted(folder.glob("*.arrow")) for folder in folders)
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in parts]
    assert environment_of(load_folder(folders[1])).offsets == ({"observation": (1.7e9,)} if 0 in today else {})


def test_recordings_tables_and_streams_keep_instants_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    dataset = record(Clock, lambda observation, generator: 0, num_episodes=4, seed=0, folder=tmp_path / "clock")
    assert np.unique(episode_at(dataset, 3).steps["observation"]).size == 19
    source = Source(environment_of(dataset), lambda: map(Episode.to_row, map(Episode.from_row, dataset)), {})
    spec = source.spec
    layout = layout_from_spaces(
        "fused", spec.observation_space, spec.action_space, context_length=4, offsets=spec.offsets
    )
    stream = StreamWindows(source, layout, buffer=3)
    given: Mapping[str, torch.Tensor] = stream.draw(0, 0, 32).gather()
    assert len(given["observation"].unique()) == 19
    path = tmp_path / "log.parquet"
    table = {"run": ["a"] * 20, "when": SECONDS, "speed": STEPS / 20, "key": [0, 1] * 10, "reward": [1.0] * 20}
    pd.DataFrame(table).to_parquet(path)
    columns = Columns(episode="run", observation=["when", "speed"], action="key")
    read = load_dataset(f"table:{path}", columns=columns)
    assert environment_of(read).offsets == {"observation": (1_700_000_000.0, 0.0)}
    assert not any("float32" in message for message in caplog.messages)
