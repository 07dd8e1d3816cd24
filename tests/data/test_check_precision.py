"""Large numbers in float32: distinct values that fall together are said, all others are silent."""

from pathlib import Path

import gymnasium
import numpy as np
import pandas as pd
import pytest
from gymnasium.spaces import Box, Discrete

from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode
from seqdec.data.schema import environment_of
from seqdec.data.source import Source
from seqdec.formats.columns import Columns
from seqdec.formats.load import load_dataset
from seqdec.play import record
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.stream import StreamWindows
from seqdec.spaces.spec import EnvironmentSpec

SECONDS = 1_700_000_000 + np.arange(20)
STEPS = np.arange(20)
RANDOM = np.random.default_rng(0)


def keep(*episodes: np.ndarray) -> None:
    """Keep episodes of one number a step, beside one that is small."""
    rows = []
    for values in episodes:
        seen = np.stack([np.linspace(0, 1, len(values)), np.asarray(values, np.float64)], 1)
        steps = {"observation": seen, "action": np.zeros(len(values), np.int64), "reward": np.ones(len(values))}
        rows.append(Episode(steps, final=seen[-1], terminated=True, truncated=False))
    from_episodes(rows, EnvironmentSpec(Box(-np.inf, np.inf, (2,), np.float64), Discrete(2)))


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
def test_numbers_that_float32_does_not_tell_apart_are_said_once(values: np.ndarray, caplog: pytest.LogCaptureFixture):
    keep(values, values)
    (message,) = caplog.messages
    assert "observation[1] has numbers near" in message and "float32 keeps them in steps of" in message


def test_the_sentence_says_how_coarse_the_numbers_are(caplog: pytest.LogCaptureFixture):
    keep(SECONDS)
    assert caplog.messages == [
        "observation[1] has numbers near 1.7e+09, float32 keeps them in steps of 128: closer ones are equal from here "
        "on; subtract an offset from all of them first"
    ]


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
def test_numbers_that_stay_apart_are_kept_in_silence(episodes: list, caplog: pytest.LogCaptureFixture):
    keep(*episodes)
    assert caplog.messages == []


def test_a_table_of_instants_is_read_and_names_its_column(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "log.parquet"
    table = {"run": ["a"] * 20, "when": SECONDS, "speed": STEPS / 20, "key": [0, 1] * 10, "reward": [1.0] * 20}
    pd.DataFrame(table).to_parquet(path)
    columns = Columns(episode="run", observation=["when", "speed"], action="key")
    assert len(load_dataset(f"table:{path}", columns=columns)) == 1
    assert sum(message.startswith("observation[0] has numbers near 1.7e+09") for message in caplog.messages) == 1


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


def test_recordings_and_streams_say_it_once_for_all_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    dataset = record(Clock, lambda observation, generator: 0, num_episodes=4, seed=0, folder=tmp_path / "clock")
    assert len(caplog.messages) == 1
    caplog.clear()
    source = Source(environment_of(dataset), lambda: map(Episode.to_row, map(Episode.from_row, dataset)), {})
    layout = layout_from_spaces("fused", Clock.observation_space, Clock.action_space, context_length=4)
    StreamWindows(source, layout, buffer=3)
    assert len(caplog.messages) == 1
