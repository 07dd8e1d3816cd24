"""Adapters that become part of what is under them: a policy that needs no other backbone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_model
from seqdec.inference.policy import Policy
from seqdec.model.backbone import load_backbone
from seqdec.model.folder import load_policy, save_policy


@pytest.fixture
def adapted(family_folder, tmp_path: Path):
    """A model with adapters that do something, around a base that can be taken away."""
    pytest.importorskip("peft")
    base = shutil.copytree(family_folder("llama"), tmp_path / "base")
    model, _ = make_model(load_backbone(str(base), finetune="lora"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model, base


def actions_of(model) -> np.ndarray:
    policy = Policy(model, 3.0, temperature=0)
    policy.reset(4)
    return policy.act(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))


def test_a_policy_saved_merged_acts_without_its_base_and_goes_on_with_adapters_itself(adapted, tmp_path: Path):
    model, base = adapted
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Policy(model, 3.0).save_pretrained(tmp_path / "whole", merge=True)
    shutil.rmtree(base)
    again = load_policy(tmp_path / "whole")
    np.testing.assert_allclose(actions_of(again), actions_of(model), atol=1e-4)
    assert again.backbone_source.source.finetune == "full"
    assert "finetuned: full" in (tmp_path / "whole" / "README.md").read_text()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert any(parameter.requires_grad for name, parameter in model.named_parameters() if "lora" in name)


def test_a_policy_that_was_loaded_merged_is_saved_whole(adapted, tmp_path: Path):
    model, base = adapted
    save_policy(model, tmp_path / "policy")
    merged = Policy.from_pretrained(tmp_path / "policy", 3.0)
    merged.save_pretrained(tmp_path / "whole")
    shutil.rmtree(base)
    again = load_policy(tmp_path / "whole")
    assert np.array_equal(actions_of(again), actions_of(merged.model))
    assert json.loads((tmp_path / "whole" / "backbone" / "source.json").read_text())["finetune"] == "full"


def test_merging_what_has_no_adapters_changes_nothing(backbone, tmp_path: Path):
    model, _ = make_model(backbone)
    save_policy(model, tmp_path / "whole", merge=True)
    assert np.array_equal(actions_of(load_policy(tmp_path / "whole")), actions_of(model))
