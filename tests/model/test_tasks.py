"""Several tasks around one backbone: batches of one task each, one policy folder, each task as if it were alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import box_episodes, box_spec, discrete_episodes, discrete_spec, nested_episodes, nested_spec
from seqdec.data.dataset import from_episodes
from seqdec.errors import DataError, UsageError
from seqdec.inference.policy import Policy
from seqdec.model.backbone import Backbone, load_backbone
from seqdec.model.folder import load_policy, load_tasks, save_policy, write_policy
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.model.tasks import check_tasks
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows
from seqdec.storage import publish, read_tensors, write_json
from seqdec.training.checkpoints import checkpoints
from seqdec.training.loop import train
from seqdec.training.run import heldout_losses
from seqdec.training.step import TaskModels, shares_of, task_of_step

SETS = {
    "box": (box_spec(), box_episodes(), "fused"),
    "count": (discrete_spec(), discrete_episodes(), "multi_game"),
    "nested": (nested_spec(), nested_episodes(), "behaviour_cloning"),
}


def windows_of(name: str) -> Windows:
    spec, episodes, preset = SETS[name]
    prompt = ("observation.mission", "text") if name == "nested" else ("text",)
    layout = layout_from_spaces(
        preset, spec.observation_space, spec.action_space, context_length=4, prompt=prompt, text_tokens=30
    )
    return Windows(from_episodes(episodes, spec), layout, text=name)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("small", vocabulary=True, num_layers=1)


def build(backbone: Backbone) -> tuple[dict[str, SequenceModel], dict[str, Windows]]:
    windows = {name: windows_of(name) for name in SETS}
    return {name: build_model(part, backbone) for name, part in windows.items()}, windows


def test_tasks_are_drawn_by_their_weights(backbone):
    _, windows = build(backbone)
    shares = shares_of(windows, {"box": 3.0, "count": 1.0, "nested": 0.0})
    drawn = [task_of_step(shares, step, 0) for step in range(400)]
    assert "nested" not in drawn
    assert abs(drawn.count("box") / 400 - 0.75) < 0.07  # three standard deviations of a share of 400 draws
    assert {task_of_step(shares_of(windows, None), step, 3) for step in range(12)} == set(SETS)


def test_the_order_in_which_tasks_are_given_does_not_change_what_is_drawn():
    weights = {"box": 3.0, "count": 1.0, "nested": 2.0}
    turned = dict(reversed(weights.items()))
    for step in range(12):
        first, second = (task_of_step(shares_of(each, each), step, 3) for each in (weights, turned))  # pyright: ignore
        assert first == second


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"box": 1.0}, "there are weights of box, the tasks are box, count, nested"),
        ({"box": 0.0, "count": 0.0, "nested": 0.0}, "finite ones, not all 0"),
    ],
)
def test_weights_that_say_nothing_are_refused(weights, words, backbone, tmp_path: Path):
    models, windows = build(backbone)
    with pytest.raises(UsageError, match=words):
        train(models, windows, weights=weights, out=tmp_path, steps=1, batch_size=4)
    with pytest.raises(UsageError, match="models of box, count, nested, windows of box"):
        train(models, {"box": windows["box"]}, out=tmp_path, steps=1, batch_size=4)


def test_a_tasks_losses_are_those_of_its_own_model(backbone):
    models, windows = build(backbone)
    together = TaskModels(models).eval()
    for name, part in windows.items():
        batch = part.draw(0, 0, 5).gather()
        with torch.no_grad():
            assert together(name, batch, 0.0) == models[name](batch)


def all_state(models: dict[str, SequenceModel]) -> dict[str, torch.Tensor]:
    """Everything that is learned, by task and name."""
    return {f"{task} {name}": value for task, model in models.items() for name, value in model.state_dict().items()}


def test_training_moves_the_batchs_task_and_the_backbone_and_resumes_exactly(tmp_path: Path):
    def run(out: str, *legs: int) -> tuple[dict[str, SequenceModel], set[str]]:
        for index, steps in enumerate(legs):
            models, windows = build(load_backbone("small", vocabulary=True, num_layers=1))
            before = {name: value.clone() for name, value in all_state(models).items()}
            options = {"batch_size": 4, "log_every": 1, "warmup_steps": 1}
            train(models, windows, out=tmp_path / out, steps=steps, resume=index > 0, **options)
        return models, {name for name, value in all_state(models).items() if not torch.equal(value, before[name])}

    _, moved = run("one", 1)
    name = task_of_step(dict.fromkeys(SETS, 1 / 3), 0, 0)
    others = set(SETS) - {name}
    assert any(key.startswith(f"{name} backbone.") for key in moved)
    assert any(key.startswith(f"{name} codecs") for key in moved)
    assert not any(key.startswith(f"{other} codecs") for key in moved for other in others)
    unbroken, _ = run("unbroken", 9)
    resumed, _ = run("resumed", 4, 9)
    assert len(checkpoints(tmp_path / "resumed")) == 1
    ours, theirs = all_state(unbroken), all_state(resumed)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    moments = read_tensors(tmp_path / "one" / "checkpoints" / "step-000001" / "train" / "optimizer.safetensors")
    assert {key.split(":")[1].split(".")[0] for key in moments} == {"backbone", "tasks"}, "as 0.1.0 called them"


def test_a_policy_folder_holds_all_tasks_and_the_backbone_once(backbone, tmp_path: Path):
    models, _ = build(backbone)
    save_policy(models, tmp_path / "policy")
    assert len(list((tmp_path / "policy").rglob("model.safetensors"))) == 1
    loaded = load_tasks(tmp_path / "policy")
    assert list(loaded) == list(SETS) and loaded["box"].backbone is loaded["count"].backbone
    actions = []
    for given in (models["box"], load_policy(tmp_path / "policy", task="box")):
        policy = Policy(given, 1.0)
        policy.reset(2)
        actions.append(policy.act(np.zeros((2, 3)), None))
    assert np.array_equal(*actions)
    assert loaded["count"].data.text == "count"


def test_a_task_must_be_named_where_there_are_several(backbone, tmp_path: Path):
    models, _ = build(backbone)
    save_policy(models, tmp_path / "several")
    with pytest.raises(UsageError, match="several tasks: name one of them .box, count, nested"):
        load_policy(tmp_path / "several")
    with pytest.raises(UsageError, match="no task 'boxx'; did you mean 'box'"):
        load_policy(tmp_path / "several", task="boxx")
    save_policy(models["box"], tmp_path / "single")
    assert list(load_tasks(tmp_path / "single")) == [""]
    with pytest.raises(UsageError, match="one task only"):
        load_policy(tmp_path / "single", task="box")
    save_policy({"box": models["box"]}, tmp_path / "named")
    assert load_policy(tmp_path / "named").data.text == load_policy(tmp_path / "named", task="box").data.text == "box"
    with pytest.raises(UsageError, match="a task is called 'a/b'"):
        check_tasks({"a/b": models["box"]})
    with pytest.raises(UsageError, match="backbones of their own"):
        twin = build_model(windows_of("box"), load_backbone("small", vocabulary=True, num_layers=1))
        check_tasks({"box": models["box"], "twin": twin})


def test_a_folder_that_names_no_tasks_is_no_policy_of_several(backbone, tmp_path: Path):
    models, _ = build(backbone)
    with publish(tmp_path / "policy") as folder:
        write_policy(models, folder)
        write_json(folder / "policy.json", {"format": 2, "tasks": ["../box"]})
    with pytest.raises(DataError, match="is no policy of several tasks"):
        load_tasks(tmp_path / "policy")


def test_heldout_losses_are_told_by_task(backbone):
    models, windows = build(backbone)
    losses = heldout_losses(models, windows)
    alone = heldout_losses({"": models["count"]}, {"": windows["count"]})
    assert losses["heldout/loss_count/action"] == alone["heldout/loss_action"]
    assert {key.split("_")[1].split("/")[0] for key in losses} == set(SETS)


def test_a_prompts_text_is_the_episodes_own_or_else_the_tasks_name(backbone):
    spec, episodes, _ = SETS["box"]
    assert not any(episode.text for episode in episodes)
    batch = windows_of("box").gather(np.array([0, 5]))
    assert [bytes(row.tolist()).decode() for row in batch["text"][:, 0]] == ["box", "box"]
    batch = windows_of("nested").gather(np.array([0]))
    assert bytes(batch["text"][0, 0].tolist()).decode() == SETS["nested"][1][0].text
