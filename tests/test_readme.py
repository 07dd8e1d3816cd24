"""The README's own lines run, and say what the command line does."""

import json
import re
from pathlib import Path

import gymnasium
import pytest

from minari_sets import write_minari
from seqdec.cli import demo
from seqdec.data import environment_of, episode_at
from seqdec.play import random_policy, record

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_front_door_is_ten_lines_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """On a small Hopper data set of the same id, with fewer steps of a smaller network."""
    pytest.importorskip("mujoco")
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 12
    hopper = gymnasium.make("Hopper-v5")
    played = record("Hopper-v5", random_policy(hopper.action_space), num_episodes=6, seed=0)
    env_spec = {"id": "Hopper-v5", "entry_point": hopper.spec.entry_point, "max_episode_steps": 1000, "kwargs": {}}  # pyright: ignore
    write_minari(
        tmp_path / "sets" / "mujoco" / "hopper" / "medium-v0", [episode_at(played, row) for row in range(6)],
        environment_of(played), dataset_id="mujoco/hopper/medium-v0", env_spec=json.dumps(env_spec),
    )  # fmt: skip
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)
    for typed, smaller in (('"smollm2"', '"small"'), ("steps=2_000", "steps=4")):
        assert typed in snippet
        snippet = snippet.replace(typed, smaller)
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    table = capsys.readouterr().out
    assert re.search(r"asked +achieved", table) and re.search(r"^ +1000 ", table, re.MULTILINE)
    assert (tmp_path / "my-hopper" / "policy.json").exists()
    assert hopper.action_space.contains(names["action"])
    assert names["policy"].act(names["observation"], 1.0).shape == (3,)


def test_the_demo_runs_the_commands_that_the_readme_shows():
    assert f"python train.py --data data/cartpole --output runs/demo {demo.CARTPOLE_TRAIN}" in README
    assert f"python eval.py runs/demo {demo.CARTPOLE_EVAL}" in README


def test_the_pictures_are_there():
    for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README):
        assert (Path(__file__).parent.parent / name).is_file(), name
