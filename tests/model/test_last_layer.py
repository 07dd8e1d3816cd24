"""The last layer at the tokens that are read: the same states there, the same gradients, less work."""

import pytest
import torch

import seqdec.model.backbone
from conftest import FAMILIES, make_model
from seqdec.model.backbone import load_backbone
from seqdec.model.last_layer import last_mlp, only_at

SKIPPING = ("gpt2", "llama", "qwen3", "gpt_neox", "mistral", "gemma3_text", "phi", "mixtral")


@pytest.mark.parametrize("family", FAMILIES)
def test_states_that_are_read_are_those_of_the_whole_layer(family: str, family_folder):
    backbone = load_backbone(str(family_folder(family)))
    assert (backbone.last_mlp is not None) == (family in SKIPPING)
    if backbone.last_mlp is None:
        return
    model, tokens, places = backbone.model.eval(), torch.randn(3, 7, 32), torch.tensor([0, 3, 4])
    expected = model(inputs_embeds=tokens, use_cache=False).last_hidden_state
    with only_at(backbone.last_mlp, places):
        found = model(inputs_embeds=tokens, use_cache=False).last_hidden_state
    assert torch.allclose(expected[:, places], found[:, places], atol=1e-5)
    assert not torch.allclose(expected[:, 1], found[:, 1], atol=1e-3), "nothing was skipped"
    assert torch.equal(model(inputs_embeds=tokens, use_cache=False).last_hidden_state, expected)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("preset", ["decision_transformer", "multi_game", "fused"])
def test_losses_and_gradients_are_those_of_the_whole_layer(family: str, preset: str, family_folder, monkeypatch):
    backbone = load_backbone(str(family_folder(family)), dropout=0.0)
    model, windows = make_model(backbone, preset)
    batch = windows.gather(windows.draw(0, 0, 16))
    found = {}
    for is_whole in (False, True):
        if is_whole:
            monkeypatch.setattr(seqdec.model.backbone, "WORTH_SKIPPING", 10**9)
        model.zero_grad()
        losses = model(batch)
        sum(losses.values()).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found[is_whole] = {**losses, **gradients}
    assert found[False].keys() == found[True].keys()
    for name, value in found[True].items():
        assert torch.allclose(found[False][name], value, atol=1e-4, rtol=1e-4), name


def test_an_error_in_between_leaves_the_layer_whole(family_folder):
    backbone = load_backbone(str(family_folder("llama")))
    model, tokens = backbone.model.eval(), torch.randn(1, 4, 32)
    expected = model(inputs_embeds=tokens, use_cache=False).last_hidden_state
    with pytest.raises(RuntimeError), only_at(backbone.last_mlp, torch.tensor([9])):
        model(inputs_embeds=tokens, use_cache=False)
    assert torch.equal(model(inputs_embeds=tokens, use_cache=False).last_hidden_state, expected)


def test_a_decoder_without_such_a_layer_is_left_as_it_is(family_folder):
    model = load_backbone(str(family_folder("opt"))).model
    assert last_mlp(model, 2, 32) is None
    assert last_mlp(model, 9, 32) is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
