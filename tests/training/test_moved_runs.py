"""Runs that are moved: the base model is gone, the data stand elsewhere."""

import shutil
from pathlib import Path

import pytest

from seqdec import finetune, load_policy
from seqdec.cli.main import main
from seqdec.data.dataset import save
from seqdec.errors import UsageError
from seqdec.play import scripted_cartpole
from small_runs import assert_same_weights

QUICK = {"context_length": 3, "batch_size": 4, "heldout_fraction": 0.0, "eval_every": 0, "checkpoint_every": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    save(scripted_cartpole(num_episodes=6, seed=1), tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("part", [{}, {"finetune": "frozen"}, {"freeze_layers": 1}])
def test_a_run_goes_on_from_the_backbone_of_its_checkpoint_as_if_it_were_unbroken(family_folder, data, part, tmp_path):
    base = shutil.copytree(family_folder("llama"), tmp_path / "base")
    finetune(str(data), str(base), **QUICK, **part, steps=5, output=tmp_path / "unbroken")
    finetune(str(data), str(base), **QUICK, **part, steps=3, output=tmp_path / "moved")
    shutil.rmtree(base)
    finetune(str(data), str(base), **QUICK, **part, steps=5, output=tmp_path / "moved", resume=True)
    assert_same_weights(*(load_policy(tmp_path / name / "policy") for name in ("moved", "unbroken")))


def test_another_backbone_than_the_runs_own_is_refused(family_folder, data, tmp_path):
    base = str(family_folder("llama"))
    finetune(str(data), base, **QUICK, steps=2, output=tmp_path / "run")
    for backbone, more in (("small", {}), (base, {"num_layers": 1}), (base, {"finetune": "frozen"})):
        with pytest.raises(UsageError, match="resume with the settings of that run"):
            finetune(str(data), backbone, **QUICK, **more, steps=4, output=tmp_path / "run", resume=True)


def test_a_run_and_its_data_that_are_moved_go_on_and_merge(family_folder, data, tmp_path, monkeypatch, capsys):
    shutil.copytree(family_folder("llama"), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    quick = "--batch-size 4 --heldout-fraction 0 --eval-every 0 --episodes 1 --num-envs 1 --max-steps 3"
    assert main(f"train --data data --output run --backbone base --steps 2 {quick}".split()) == 0
    new = tmp_path / "new"
    new.mkdir()
    shutil.move(tmp_path / "run", new / "run")
    shutil.move(tmp_path / "data", new / "sets")
    shutil.rmtree(tmp_path / "base")
    monkeypatch.chdir(new)
    capsys.readouterr()
    assert main(["train", "--output", "run", "--resume", "--steps", "3"]) == 2
    said = capsys.readouterr().err
    assert f"there is no 'data' here: run/config.json has it relative to '{tmp_path}'" in said
    assert main(["train", "--output", "run", "--resume", "--steps", "3", "--data", "sets"]) == 0
    assert main(["merge", "run"]) == 0 and main(["merge", "run"]) == 2
    assert main(["eval", "run-merged", "--episodes", "1", "--max-steps", "3", "--num-envs", "1"]) == 0
