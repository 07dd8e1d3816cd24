"""The README's own lines run, and say what the command line does."""

import re
from pathlib import Path

import pytest

from seqdec.cli import demo

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_python_lines_run_and_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    returns = [float(word) for word in re.findall(r"[\d.]+", capsys.readouterr().out)]
    assert len(returns) == 8 and min(returns) >= 8
    assert sum(returns) / 8 > 100  # random actions earn 22, the recorded ones about 160, and 300 were asked for


def test_the_demo_runs_the_commands_that_the_readme_shows():
    assert f"python train.py --data data/cartpole --output runs/demo {demo.DEMO_TRAIN}" in README
    assert f"python eval.py runs/demo {demo.DEMO_EVAL}" in README


def test_the_pictures_are_there():
    for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README):
        assert (Path(__file__).parent.parent / name).is_file(), name
