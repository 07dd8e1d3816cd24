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
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.model.tasks import MultiTaskModel, TaskWindows, load_policy, task_of
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows
from seqdec.training.checkpoints import checkpoints
from seqdec.training.loop import heldout_losses, train

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


def build(backbone: Backbone, weights=None) -> tuple[MultiTaskModel, TaskWindows]:
    windows = {name: windows_of(name) for name in SETS}
    models = {name: build_model(part, backbone) for name, part in windows.items()}
    return MultiTaskModel(models), TaskWindows(windows, weights)


def test_a_batch_holds_one_task_and_the_windows_that_it_would_have_alone(backbone):
    _, windows = build(backbone)
    tasks = set()
    for step in range(12):
        batch = windows.gather(windows.draw(step, seed=3, batch_size=6))
        name = list(SETS)[int(batch.pop("task"))]
        tasks.add(name)
        alone = windows.tasks[name]
        expected = alone.gather(alone.draw(step, seed=3, batch_size=6))
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[key], expected[key]) for key in batch)
    assert tasks == set(SETS)


def test_tasks_are_drawn_by_their_weights(backbone):
    _, windows = build(backbone, {"box": 3.0, "count": 1.0, "nested": 0.0})
    drawn = [int(windows.gather(windows.draw(step, 0, 1))["task"]) for step in range(400)]
    shares = np.bincount(drawn, minlength=3) / 400
    assert shares[2] == 0
    assert abs(shares[0] - 0.75) < 0.07  # three standard deviations of a share of 400 draws


def test_the_order_in_which_tasks_are_given_does_not_change_what_is_drawn(backbone):
    _, windows = build(backbone, {"box": 3.0, "count": 1.0, "nested": 2.0})
    turned = TaskWindows(dict(reversed(windows.tasks.items())), {"nested": 2.0, "box": 3.0, "count": 1.0})
    for step in range(12):
        first, second = (given.gather(given.draw(step, seed=3, batch_size=6)) for given in (windows, turned))
        assert list(windows.tasks)[int(first["task"])] == list(turned.tasks)[int(second["task"])]
        assert torch.equal(first["timestep"], second["timestep"])


def test_a_tasks_losses_are_those_of_its_own_model(backbone):
    model, windows = build(backbone)
    model.eval()
    for step in range(6):
        batch = windows.gather(windows.draw(step, 0, 5))
        name = list(SETS)[int(batch["task"])]
        with torch.no_grad():
            assert {f"{name}/{key}": value for key, value in model.task(name)(batch).items()} == model(batch)


def test_training_moves_the_batchs_task_and_the_backbone_and_resumes_exactly(tmp_path: Path):
    def run(out: str, *legs: int) -> tuple[MultiTaskModel, set[str]]:
        for index, steps in enumerate(legs):
            model, windows = build(load_backbone("small", vocabulary=True, num_layers=1))
            before = {name: value.clone() for name, value in model.state_dict().items()}
            options = {"batch_size": 4, "log_every": 1, "warmup_steps": 1}
            train(model, windows, out=tmp_path / out, steps=steps, resume=index > 0, **options)
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        return model, moved

    first, moved = run("one", 1)
    _, windows = build(first.backbone_source)
    name = list(SETS)[int(windows.gather(windows.draw(0, 0, 4))["task"])]
    others = set(SETS) - {name}
    assert any(key.startswith("backbone.") for key in moved)
    assert any(key.startswith(f"tasks.{name}.codecs") for key in moved)
    assert not any(key.startswith(f"tasks.{other}.codecs") for key in moved for other in others)
    unbroken, _ = run("unbroken", 9)
    resumed, _ = run("resumed", 4, 9)
    assert len(checkpoints(tmp_path / "resumed")) == 1
    ours, theirs = unbroken.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_policy_folder_holds_all_tasks_and_the_backbone_once(backbone, tmp_path: Path):
    model, _ = build(backbone)
    model.save(tmp_path / "policy")
    assert len(list((tmp_path / "policy").rglob("model.safetensors"))) == 1
    loaded = load_policy(tmp_path / "policy")
    assert isinstance(loaded, MultiTaskModel) and loaded.names == list(SETS)
    actions = []
    for given in (model, loaded):
        policy = Policy(task_of(given, "box"), 1.0)
        policy.reset(2)
        actions.append(policy.act(np.zeros((2, 3)), None))
    assert np.array_equal(*actions)
    assert task_of(loaded, "count").data.text == "count"


def test_a_task_must_be_named_where_there_are_several(backbone, tmp_path: Path):
    model, _ = build(backbone)
    with pytest.raises(UsageError, match="several tasks: choose one with --task .box, count, nested"):
        task_of(model, "")
    with pytest.raises(UsageError, match="no task 'boxx'; did you mean 'box'"):
        task_of(model, "boxx")
    with pytest.raises(UsageError, match="one task only: leave --task box out"):
        task_of(model.task("box"), "box")
    model.task("box").save(tmp_path / "single")
    assert isinstance(load_policy(tmp_path / "single"), SequenceModel)
    with pytest.raises(DataError, match="is no policy of several tasks"):
        MultiTaskModel.load(tmp_path / "single")
    with pytest.raises(UsageError, match="a task is called 'a/b'"):
        MultiTaskModel({"a/b": model.task("box")})


def test_heldout_losses_are_told_by_task(backbone):
    model, windows = build(backbone)
    found = heldout_losses(model, windows)
    alone = heldout_losses(model.task("count"), windows.tasks["count"])
    assert found["heldout/loss_count/action"] == alone["heldout/loss_action"]
    assert {key.split("_")[1].split("/")[0] for key in found} == set(SETS)


def test_a_prompts_text_is_the_episodes_own_or_else_the_tasks_name(backbone):
    spec, episodes, _ = SETS["box"]
    assert not any(episode.text for episode in episodes)
    batch = windows_of("box").gather(np.array([0, 5]))
    assert [bytes(row.tolist()).decode() for row in batch["text"][:, 0]] == ["box", "box"]
    batch = windows_of("nested").gather(np.array([0]))
    assert bytes(batch["text"][0, 0].tolist()).decode() == SETS["nested"][1][0].text
