"""The sequence model: causality, padding, losses by hand, and its folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import FAMILIES, make_model, make_windows
from seqdec.errors import DataError, UsageError
from seqdec.inference.policy import Policy
from seqdec.model.backbone import load_backbone
from seqdec.model.folder import load_policy, save_policy
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.sequence.draw import Draw
from seqdec.sequence.layout import Layout
from seqdec.sequence.presets import PRESETS
from seqdec.sequence.variable import Variable


def hidden_states(model: SequenceModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.backbone_source.read(model.embed_window(batch))


def one_batch(model_and_windows, count: int = 3) -> tuple[SequenceModel, dict[str, torch.Tensor]]:
    model, windows = model_and_windows
    long = np.flatnonzero([bool(windows.gather(np.array([i]))["mask"].all()) for i in range(len(windows))])
    return model, windows.gather(long[:count])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_future_never_changes_a_past_prediction(family: str, preset: str, family_folder):
    model, batch = one_batch(make_model(load_backbone(str(family_folder(family))), preset))
    layout = model.layout
    before = hidden_states(model, batch)
    for name in layout.step_names:
        for timestep in (0, 2, 5):
            position = layout.position(name, timestep)
            if position >= before.shape[1]:
                continue
            changed = {key: value.clone() for key, value in batch.items()}
            changed[name][:, timestep] += 1.5
            after = hidden_states(model, changed)
            # experts are grouped by their tokens, which rounds differently when other tokens change
            tolerance = 1e-5 if family == "mixtral" else 0.0
            torch.testing.assert_close(after[:, :position], before[:, :position], atol=tolerance, rtol=0)
            assert not torch.allclose(after[:, position], before[:, position]), (name, timestep)


@pytest.mark.parametrize("preset", PRESETS)
def test_padding_changes_neither_the_losses_nor_a_prediction(preset: str, backbone):
    model, windows = make_model(backbone, preset, context_length=12)
    sizes = Draw(windows, np.arange(len(windows))).sizes
    batch = windows.gather(np.array([*np.flatnonzero(sizes < 12)[:4], sizes.argmax()]))
    assert not batch["mask"].all()
    poisoned = {key: value.clone() for key, value in batch.items()}
    for name in model.layout.step_names:
        poisoned[name][~batch["mask"]] = 1e4
    expected, actual = model(batch), model(poisoned)
    for name in expected:
        assert torch.equal(expected[name], actual[name]), name


def test_the_loss_equals_a_computation_by_hand(backbone):
    model, windows = make_model(backbone, "multi_game")
    batch = windows.gather(np.array([0, 20]))
    hidden = hidden_states(model, batch)
    total = 0.0
    for row in range(2):
        for timestep in range(6):
            if batch["mask"][row, timestep]:
                before_action = hidden[row, 3 * timestep + 2]  # start o R a: the state at R predicts a
                action = batch["action"][row, timestep]
                total += model.codec("action").predict(before_action[None]).loss(action[None]).item()
    assert model(batch)["action"].item() == pytest.approx(total, rel=1e-5)


def test_only_predicted_variables_have_a_loss(backbone):
    for preset, names in (("behaviour_cloning", {"action"}), ("multi_game", {"return_to_go", "action"})):
        model, windows = make_model(backbone, preset)
        assert set(model(windows.gather(np.array([0])))) == names


def test_new_embeddings_start_at_the_scale_of_the_backbones_own(family_folder):
    backbone = load_backbone(str(family_folder("llama")))
    windows, spec = make_windows()
    model = build_model(windows, backbone)
    weights = torch.cat([codec.embed_values.projection.weight.flatten() for codec in model.codecs.values()])  # pyright: ignore
    assert weights.std().item() == pytest.approx(backbone.embedding_scale, rel=0.25)


def actions_of(model: SequenceModel, seed: int = 0) -> np.ndarray:
    """Fifty steps of a policy on fixed observations, [50, 2, 2]."""
    rng = np.random.default_rng(seed)
    policy = Policy(model, target_return=5.0, seed=seed)
    policy.reset(2)
    return np.stack([policy.act(rng.normal(size=(2, 3)), rng.normal(size=2) if t else None) for t in range(50)])


def test_a_saved_policy_acts_the_same_bit_for_bit(backbone, tmp_path: Path):
    model, _ = make_model(backbone)
    save_policy(model, tmp_path / "policy")
    assert np.array_equal(actions_of(load_policy(tmp_path / "policy")), actions_of(model))


def test_a_saved_policy_acts_the_same_in_a_new_process(backbone, tmp_path: Path):
    model, _ = make_model(backbone)
    save_policy(model, tmp_path / "policy")
    script = (
        "import sys; sys.path[:0] = ['tests', 'tests/model']; import numpy as np;"
        "from test_sequence_model import actions_of;"
        "from seqdec.model.folder import load_policy;"
        f"np.save({str(tmp_path / 'actions.npy')!r}, actions_of(load_policy({str(tmp_path / 'policy')!r})))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
    assert np.array_equal(np.load(tmp_path / "actions.npy"), actions_of(model))


def test_a_saved_adapter_acts_the_same_and_merged_almost_the_same(family_folder, tmp_path: Path):
    pytest.importorskip("peft")
    model, _ = make_model(load_backbone(str(family_folder("llama")), finetune="lora"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # an adapter fresh from its making does nothing
    save_policy(model, tmp_path / "policy")
    files = {path.name for path in (tmp_path / "policy" / "backbone").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    assert np.array_equal(actions_of(load_policy(tmp_path / "policy")), actions_of(model))
    merged = load_policy(tmp_path / "policy", merge_adapters=True)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    np.testing.assert_allclose(actions_of(merged), actions_of(model), atol=1e-4)


def test_an_adapter_whose_base_has_changed_is_refused(family_folder, tmp_path: Path):
    pytest.importorskip("peft")
    base = shutil.copytree(family_folder("llama"), tmp_path / "base")
    model, _ = make_model(load_backbone(str(base), finetune="lora"))
    save_policy(model, tmp_path / "policy")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] += 0.5
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="not those that"):
        load_policy(tmp_path / "policy")


def test_saving_into_the_folder_that_was_loaded_from_is_safe(backbone, tmp_path: Path):
    model, _ = make_model(backbone)
    save_policy(model, tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    with torch.no_grad():
        loaded.start += 1.0
    save_policy(loaded, tmp_path / "policy")
    assert torch.equal(load_policy(tmp_path / "policy").start, loaded.start)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def damage(folder: Path, how: str) -> None:
    path = folder / "codecs.safetensors"
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "flipped":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    elif how == "newer":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["format"] = 99
        (folder / "manifest.json").write_text(json.dumps(manifest))
    else:
        (folder / "manifest.json").unlink()


@pytest.mark.parametrize("how", ["missing", "cut", "flipped", "newer", "unfinished"])
def test_a_damaged_policy_folder_is_refused(how: str, backbone, tmp_path: Path):
    model, _ = make_model(backbone)
    save_policy(model, tmp_path / "policy")
    damage(tmp_path / "policy", how)
    with pytest.raises(DataError, match="policy"):
        load_policy(tmp_path / "policy")


def test_weights_that_are_not_numbers_are_refused_by_name(backbone, tmp_path: Path):
    model, _ = make_model(backbone)
    with torch.no_grad():
        model.start[0] = float("nan")
    save_policy(model, tmp_path / "policy")
    with pytest.raises(DataError, match="'start'"):
        load_policy(tmp_path / "policy")


def test_prompt_facts_reach_the_model(backbone):
    windows, spec = make_windows("behaviour_cloning")
    target = Variable("target_return", "gaussian", 1)
    base = windows.layout
    layout = Layout((*base.variables, target), base.step, prompt=(("target_return",),), context_length=6)
    model, windows = make_model(backbone, layout=layout)
    batch = windows.gather(np.array([4]))
    changed = {**batch, "target_return": batch["target_return"] + 5}
    assert not torch.allclose(model(batch)["action"], model(changed)["action"])
    with pytest.raises(UsageError, match="give a target_return"):
        Policy(model)


def test_leaves_whose_names_differ_in_a_slash_alone_have_codecs_of_their_own(backbone):
    names = ("observation.a.b", "observation.a/b", "observation.a%2Fb")
    variables = (
        *(Variable(name, "gaussian", size) for size, name in enumerate(names, 1)),
        Variable("action", "mse", 1, 1.0),
    )
    layout = Layout(variables, (*((name,) for name in names), ("action",)), context_length=2)
    model = SequenceModel(layout, backbone, make_model(backbone)[0].data)
    assert [model.codec(name).embed_values.mean.numel() for name in names] == [1, 2, 3]


def test_a_value_that_is_both_missing_and_hidden_is_unknown_for_either_reason(backbone):
    variables = (Variable("observation", "gaussian", 3, optional=True), Variable("action", "mse", 1, 1.0))
    layout = Layout(variables, (("observation",), ("action",)), context_length=2)
    model = SequenceModel(layout, backbone, make_model(backbone)[0].data).eval()
    values = {"observation": torch.randn(1, 2, 3), "action": torch.zeros(1, 2, 1)}
    values |= {"timestep": torch.arange(2)[None], "mask": torch.ones(1, 2, dtype=torch.bool)}
    in_part = {"missing.observation": torch.tensor([[[True, False, False], [False, False, False]]])}
    shown, hidden = ({"hidden.observation": torch.full((1, 2), is_hidden)} for is_hidden in (False, True))
    with torch.no_grad():
        whole, part, part_shown, part_hidden, whole_hidden = (
            model.embed_window(values | more) for more in ({}, in_part, in_part | shown, in_part | hidden, hidden)
        )
    assert torch.equal(part_shown, part) and not torch.equal(part, whole)
    assert torch.equal(part_hidden, whole_hidden)
