"""One bad episode in thousands: it is named with how many are like it, left out on demand, or not asked for."""

import json
import re

import h5py
import numpy as np
import pandas as pd
import pytest
from gymnasium.spaces import Box, Discrete

import minari_sets
from lerobot_sets import make_episodes
from lerobot_sets import write as write_lerobot
from seqdec.cli.main import main
from seqdec.data.source import MANY, Source, source_of_attempts, without_damaged
from seqdec.data.source import read as read_source
from seqdec.errors import DataError, UsageError
from seqdec.formats.columns import Columns
from seqdec.formats.load import load_dataset
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.stream import StreamWindows
from seqdec.spaces.spec import EnvironmentSpec

SPEC = EnvironmentSpec(Box(-np.inf, np.inf, (1,)), Discrete(2))


def write_table(folder):
    """Six episodes; the second has a text for a number."""
    rows = [
        {"run": run, "observation": [float(run), 0.0], "action": step % 2, "reward": 1.0}
        for run in range(6)
        for step in range(3)
    ]
    rows[4]["observation"] = [1.0]
    path = folder / "walk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"table:{path}", {"columns": Columns("run")}


def write_maze(folder):
    """As Minari's antmaze sets: an episode has T observations instead of T + 1."""
    episodes = minari_sets.make_episodes((3, 4, 2, 5, 3, 2))
    place = minari_sets.write_minari(folder / "maze-v0", episodes)
    with h5py.File(folder / "maze-v0/data/main_data.hdf5", "a") as file:
        observations = file["episode_1/observations"][:-1]
        del file["episode_1/observations"]
        file["episode_1/observations"] = observations
    return f"minari:{place}", {}


def write_frames(folder):
    """A LeRobot data set of six episodes; a file lacks a frame of the second."""
    episodes = make_episodes(lengths=(3, 4, 2, 5, 3, 2))
    place = write_lerobot(folder / "set", episodes, change=lambda index, table: table.slice(index == 1))
    return f"lerobot:{place}", {}


def write_chats(folder):
    turns = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": str(index)}] for index in range(6)]
    turns[1] = turns[1][:1]
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps({"messages": turn, "reward": 1}) + "\n" for turn in turns))
    return f"chat:{path}", {}


def write_outside(folder):
    """What is wrong shows when it is compared with the space: an action that is no choice."""
    rows = pd.DataFrame({"run": np.repeat(np.arange(6), 3), "observation": 0.5, "action": 1, "reward": 1.0})
    rows.loc[4, "action"] = 7
    rows.to_parquet(folder / "walk.parquet")
    spec = EnvironmentSpec(Box(-np.inf, np.inf, (1,)), Discrete(2))
    return f"table:{folder / 'walk.parquet'}", {"columns": Columns("run"), "spec": spec}


WRITERS = [write_table, write_maze, write_frames, write_chats, write_outside]


@pytest.mark.parametrize("write", WRITERS)
def test_a_damaged_episode_is_named_left_out_or_not_asked_for(tmp_path, write, caplog):
    word, options = write(tmp_path)
    with pytest.raises(DataError, match="1 of 6 episodes are affected") as caught:
        load_dataset(word, **options)
    assert re.search(r"episode '?1\b|line 2\b", str(caught.value)) and "\n" not in str(caught.value)
    rest = load_dataset(word, on_damaged="drop-episode", **options)
    assert len(rest) == 5 and "dropped 1 of 6 episodes that are damaged; the first: " in caplog.text
    assert load_dataset(word, episodes=[0, 2, 3, 4, 5], **options)[:] == rest[:]
    assert load_dataset(word, episodes=[5], **options)[0] == rest[4]
    for episodes in ([6], [0, 0], []):
        with pytest.raises(UsageError, match="episode"):
            load_dataset(word, episodes=episodes, **options)


def test_the_command_line_leaves_out_a_damaged_episode(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    word, _ = write_maze(tmp_path)
    place = word.removeprefix("minari:")
    assert main(f"data minari {place} --on-damaged drop-episode --output a".split()) == 0
    assert main(f"data minari {place} --episodes 0 2-5 --output b".split()) == 0
    assert load_dataset("a")[:] == load_dataset("b")[:]


def test_after_a_hundred_damaged_episodes_the_others_are_not_read():
    read = []

    def attempts():
        for index in range(1000):
            read.append(index)
            yield DataError(f"episode {index}: it is damaged")

    source = source_of_attempts(SPEC, attempts, {})
    with pytest.raises(DataError, match=r"episode 0: it is damaged \(100 of the first 100 episodes are affected\)"):
        list(source.read())
    assert len(read) == MANY
    with pytest.raises(DataError, match="all 1000 episodes are damaged: episode 0"):
        read_source(source, on_damaged="drop-episode")


def test_a_stream_stops_at_the_first_damage_or_goes_on_without_it():
    sound = [
        {
            "observation": np.full((3, 1), index, np.float32),
            "action": np.array([0, 1, 0]),
            "reward": np.ones(3, np.float32),
            "final": np.zeros(1, np.float32),
            "terminated": True,
            "truncated": False,
            "text": "",
        }
        for index in range(40)
    ]
    read = []

    def attempts():
        for index, row in enumerate(sound):
            read.append(index)
            yield DataError("episode 20: it is damaged") if index == 20 else row

    layout = layout_from_spaces("multi_game", SPEC.observation_space, SPEC.action_space)
    source = source_of_attempts(SPEC, attempts, {})
    windows = StreamWindows(source, layout, buffer=16)
    with pytest.raises(DataError, match="^episode 20: it is damaged$"):
        for step in range(100):
            windows.draw(step, 0, 8)
    assert max(read) == 20
    rest = Source(SPEC, lambda: iter(sound[:20] + sound[21:]), {})
    streams = [StreamWindows(one, layout, buffer=16) for one in (without_damaged(source), rest)]
    for step in range(0, 100, 9):
        drawn, expected = (stream.draw(step, 0, 8).gather() for stream in streams)
        assert all((drawn[name] == expected[name]).all() for name in expected)


def test_what_breaks_off_the_file_is_no_damaged_episode():
    def attempts():
        yield DataError("episode 0: it is damaged")
        raise DataError("the file is cut off")

    source = source_of_attempts(SPEC, attempts, {})
    with pytest.raises(DataError, match="episode 0: it is damaged"):
        list(source.read())
    with pytest.raises(DataError, match="cut off"):
        read_source(source, on_damaged="drop-episode")


def test_a_source_of_rows_alone_can_be_picked_from_and_cleaned():
    def row(index):
        steps = {
            "observation": np.full((2, 1), index, np.float32),
            "action": np.array([0, 2 * (index == 1)]),
            "reward": np.ones(2, np.float32),
        }
        return {**steps, "final": np.zeros(1, np.float32), "terminated": True, "truncated": False, "text": ""}

    source = Source(SPEC, lambda: map(row, range(4)), {})
    assert len(read_source(source, on_damaged="drop-episode")) == 3
    with pytest.raises(DataError, match="action is 2, outside"):
        read_source(source)
