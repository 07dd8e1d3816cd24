"""The door: `finetune` is the verb `train` in Python, and leaves nothing behind that nobody asked for."""

import inspect
import tempfile
from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict
from gymnasium.spaces import Text

from conftest import box_episodes, box_spec, discrete_episodes, discrete_spec
from seqdec.cli.main import main
from seqdec.cli.options import options_of
from seqdec.cli.train import Train
from seqdec.data.dataset import from_episodes, save
from seqdec.data.episode import Episode
from seqdec.errors import UsageError
from seqdec.finetune import backbone_rate, finetune, make_layout, make_models, split_task
from seqdec.inference.policy import Policy
from seqdec.model.backbone import load_backbone
from seqdec.sequence.presets import layout_from_spaces
from seqdec.spaces.spec import EnvironmentSpec
from seqdec.training.loop import train

SMALL = {"num_layers": 1, "steps": 3, "batch_size": 4, "context_length": 4}
BOX = from_episodes(box_episodes(8), box_spec())


def weights(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))]


def test_the_verb_and_the_function_train_the_same_policy(tmp_path: Path):
    save(BOX, tmp_path / "box")
    finetune(tmp_path / "box", "small", output=tmp_path / "a", **SMALL)
    words = "--backbone small --num-layers 1 --steps 3 --batch-size 4 --context-length 4 --num-envs 1 --episodes 1"
    assert main(f"train --data {tmp_path}/box --output {tmp_path}/b {words}".split()) == 0
    assert weights(tmp_path / "a" / "policy") == weights(tmp_path / "b" / "policy")


def test_without_an_output_the_policy_acts_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    policy = finetune(BOX, "small", **SMALL)
    assert list(tmp_path.iterdir()) == []
    policy.reset(2)
    assert policy.act(np.zeros((2, 3), np.float32), None).shape == (2, 2)


def test_a_layout_that_cannot_choose_asks_for_the_best_return_of_the_data():
    assert finetune(BOX, "small", **SMALL).target_return is None
    policy = finetune(BOX, "small", layout="decision_transformer", **SMALL)
    assert policy.target_return == policy.model.data.returns["max"]


def test_several_tasks_share_a_backbone_and_stand_in_the_output_by_name(tmp_path: Path):
    tasks = {"box": BOX, "count": from_episodes(discrete_episodes(6), discrete_spec())}
    with pytest.raises(UsageError, match="need an output"):
        finetune(tasks, "small", **SMALL)
    first = finetune(tasks, "small", output=tmp_path / "a", **SMALL)
    assert first.model.data.spec == box_spec()
    loaded = Policy.from_pretrained(tmp_path / "a", task="count")
    assert loaded.model.data.spec == discrete_spec()


def test_the_splits_of_one_data_set_are_no_tasks():
    with pytest.raises(UsageError, match="several data sets"):
        finetune(DatasetDict(train=BOX), "small", **SMALL)


def test_pretrained_weights_move_at_a_tenth_of_the_rate_and_random_ones_alike():
    backbone = load_backbone("small", num_layers=1)
    assert backbone.source.init == "random" and backbone_rate(None, 1e-3, "random") == 1e-3
    assert backbone_rate(3e-5, 1e-3, "pretrained") == 3e-5
    assert backbone_rate(None, 1e-3, "pretrained") == pytest.approx(1e-4)


def test_python_and_the_command_line_have_the_same_defaults():
    flags = options_of(Train)
    nothing = {"num_layers": 0, "output": "", "resume": "no"}
    keywords = {**inspect.signature(train).parameters, **inspect.signature(finetune).parameters}
    for name, parameter in keywords.items():
        if name in flags and name not in ("weights", "config", "keep_checkpoints"):  # of files, and of a run's folder
            assert parameter.default == flags[name].default or flags[name].default == nothing[name], name


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path):
    finetune(BOX, "small", output=tmp_path / "a", **SMALL)
    before = weights(tmp_path / "a")
    with pytest.raises(UsageError, match="already holds a run: choose another output"):
        finetune(BOX, "small", output=tmp_path / "a", **SMALL)
    assert weights(tmp_path / "a") == before
    with pytest.raises(UsageError, match="there are no tasks"):
        finetune({}, "small", output=tmp_path / "b", **SMALL)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_layers", 0, "num_layers is 0: give 1 or more"),
        ("heldout_fraction", -0.1, "heldout_fraction is -0.1: give a share"),
        ("heldout_fraction", 1.5, "heldout_fraction is 1.5: give a share"),
        ("heldout_fraction", float("nan"), "heldout_fraction is nan: give a share"),
        ("seed", -1, "seed is -1: give 0 or more"),
    ],
)
def test_a_number_that_cannot_be_is_refused_before_the_data_are_read(name: str, value: float, expected: str):
    with pytest.raises(UsageError, match=expected):
        finetune("no/such/folder", "small", **{**SMALL, name: value})


def test_a_policy_that_could_not_act_is_refused_before_it_is_trained(tmp_path: Path):
    spec = box_spec()
    layout = layout_from_spaces("multi_game", spec.observation_space, spec.action_space, prompt=["goal"])
    with pytest.raises(UsageError, match="give a goal"):
        finetune(BOX, "small", layout=layout, output=tmp_path / "a", num_layers=1, steps=3)
    assert not (tmp_path / "a").exists()


def test_random_weights_are_not_frozen_unless_that_is_asked_for():
    spec = EnvironmentSpec(Text(20), Text(20))
    steps = {"observation": np.array(["a"] * 2, object), "action": np.array(["b"] * 2, object), "reward": np.ones(2)}
    dataset = from_episodes([Episode(steps, final="c", terminated=True, truncated=False)], spec)
    task = split_task(dataset, make_layout("multi_game", spec, dataset), heldout_fraction=0.0, seed=0, text="")
    frozen = {}
    for init in ("pretrained", "random"):
        (model,) = make_models({"": task}, "smollm2", init=init, num_layers=None, freeze_layers=None, seed=0).values()
        frozen[init] = model.backbone_source.source.freeze_layers
    assert frozen == {"pretrained": 20, "random": 0}
