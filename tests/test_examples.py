"""The examples run as their first lines say, made small."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import gymnasium
import numpy as np
import pytest

from seqdec.cli.main import main
from seqdec.data.dataset import save
from seqdec.data.schema import environment_of
from seqdec.formats.load import load_dataset
from seqdec.play import random_policy, record
from seqdec.spaces.leaves import leaf_kind

ROOT = Path(__file__).parent.parent
TINY = "--backbone small --num-layers 1 --steps 4 --batch-size 8 --context-length 4 --episodes 2 --num-envs 2"


def play(script: str, *words: str, cwd: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SDL_VIDEODRIVER": "dummy"}
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *words], check=True, cwd=cwd, env=environment, timeout=120
    )


def test_the_bots_episodes_train_a_policy_that_reads_its_mission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("minigrid")
    monkeypatch.chdir(tmp_path)
    play("minigrid_bot.py", "--episodes", "12", "--noise", "0.5", "--output", "data/tiny", cwd=tmp_path)
    dataset = load_dataset("data/tiny")
    spec = environment_of(dataset)
    assert {name: leaf_kind(leaf) for name, leaf in spec.observation_leaves.items()} == {
        "observation.direction": "discrete", "observation.image": "image", "observation.mission": "text",
    }  # fmt: skip
    assert dataset["metadata.seed"][:] == list(range(12))
    words = ["--data", "data/tiny", "--output", "runs/tiny", "--env", f"minigrid:{spec.id}", *TINY.split()]
    assert main(["train", *words]) == 0
    assert main(["eval", "runs/tiny", "--env", f"minigrid:{spec.id}", "--episodes", "2"]) == 0
    assert main(["eval", "runs/tiny", "--episodes", "2"]) == 0  # registered by now: the data's own id is enough


def test_the_dials_are_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    play("dials.py", cwd=tmp_path)
    assert len(load_dataset("data/dials")) == 600
    monkeypatch.syspath_prepend(str(ROOT))
    words = ["--data", "data/dials", "--output", "runs/dials", "--env", "examples.dials:Dials-v0", *TINY.split()]
    assert main(["train", *words, "--layout", "fused", "--target-return", "max"]) == 0


def load_example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import an example; it is played with fewer steps and episodes than its first lines say."""
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module(f"examples.{name}")
    monkeypatch.setattr(module, "NUM_EPISODES", 4)
    return module


def test_the_lottery_is_played_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    luck = load_example("luck", monkeypatch)
    result = luck.play(0, steps=2)
    assert len(result) == 5 and all(0 <= lotteries <= 1 <= len(name) for name, (_, lotteries) in result.items())
    luck.draw([result, result], str(tmp_path / "luck.png"))
    assert (tmp_path / "luck.png").stat().st_size > 10_000


def test_the_t_maze_is_played_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    memory = load_example("memory", monkeypatch)
    rate = memory.success(4, 0, steps=2)
    assert 0 <= rate <= 1
    memory.draw({4: [rate], 60: [1.0]}, str(tmp_path / "memory.png"))
    assert (tmp_path / "memory.png").stat().st_size > 10_000


def test_demos_of_new_goals_are_given_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    demos = load_example("demos", monkeypatch)
    monkeypatch.setattr(demos, "NUM_EPISODES", 8)
    goals, shown, played = demos.play(0, steps=2)
    assert len(goals) == 2 and {demo.total_return for demo in shown} == {1.0}  # whoever made the demos knew the way
    assert all(len(episodes) == 8 and 0 <= demos.success(episodes) <= 1 for episodes in played.values())
    starts = [[episode.steps["observation"][0].tolist() for episode in episodes] for episodes in played.values()]
    assert all(each == starts[0] for each in starts)  # whatever the prompt, the same four
    demos.draw([(goals, shown, played)] * 2, str(tmp_path / "demos.png"))
    assert (tmp_path / "demos.png").stat().st_size > 10_000


def test_long_trips_are_made_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gymnasium_robotics")
    maze = load_example("maze", monkeypatch)
    played = maze.play(0, steps=2, num_episodes=20)
    assert list(played) == [
        "the data",
        "asked for success",
        "asked for the goal",
        "for the goal, anew",
        "asked for a route",
    ]
    for name, episodes in list(played.items())[1:]:
        assert len(episodes) == 4 and 0 <= maze.success(episodes) <= 1, name
        for episode in episodes:
            goal, start = episode.steps[maze.GOAL][0], episode.steps[maze.PLACE][0]
            assert len(maze.ROUTES[maze.cell_of(goal)][maze.cell_of(start)]) > maze.LONG  # both ends count
    maze.draw([played, played], str(tmp_path / "maze.png"))
    assert (tmp_path / "maze.png").stat().st_size > 10_000


def hopper(folder: Path) -> str:
    """Keep some episodes of a random player, who falls soon."""
    pytest.importorskip("mujoco")
    spec = gymnasium.spec("Hopper-v5")
    assert spec is not None
    save(record("Hopper-v5", random_policy(spec.make().action_space), num_episodes=50, seed=0), folder)
    return str(folder)


def test_rewards_are_delayed_and_what_comes_of_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    delayed, data = load_example("delayed", monkeypatch), hopper(tmp_path / "data")
    results = {reading: [delayed.earn((reading, 0), data, steps=2)] * 2 for reading in delayed.READINGS}
    for reading, seeds in results.items():
        assert list(seeds[0]) == ([None] if reading == delayed.CLONING else [*delayed.TARGETS, "expert"])
        assert np.isfinite(list(seeds[0].values())).all()
    delayed.draw(results, str(tmp_path / "delayed.png"))
    assert (tmp_path / "delayed.png").stat().st_size > 10_000


def test_checkpoints_are_ranked_played_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoints, data = load_example("checkpoints", monkeypatch), hopper(tmp_path / "data")
    scores, earned = checkpoints.judge(0, data, steps=20)
    assert scores.shape == earned.shape == (10,) and scores[-1] > scores[0]  # even 20 steps make likelier what was done
    checkpoints.draw([(scores, earned)] * 3, str(tmp_path / "checkpoints.png"))
    assert (tmp_path / "checkpoints.png").stat().st_size > 10_000
