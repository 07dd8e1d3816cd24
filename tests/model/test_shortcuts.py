"""Dropout by random bits is dropout; the last layer where it is read has the same states and gradients."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import seqdec.model.backbone
from conftest import FAMILIES, make_model
from seqdec.model.backbone import load_backbone, reload_backbone, save_backbone
from seqdec.model.shortcuts import ATTENTION, BitDropout, CastOnce, attend, frozen_part, last_mlp, only_at
from word_episodes import language


@pytest.mark.parametrize("p", [0.1, 0.5, 0.003])
def test_entries_are_dropped_with_the_probability_asked_for_and_the_mean_stays(p: float):
    torch.manual_seed(0)
    kept = BitDropout(p)(torch.ones(1001, 997))
    share = (kept == 0).double().mean().item()
    deviation = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(share - p) < 5 * deviation + 1 / 65536
    assert kept.double().mean().item() == pytest.approx(1.0, abs=5 * deviation / (1 - p))
    assert kept[kept > 0].unique().numel() == 1


def test_rows_and_columns_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (BitDropout(0.5)(torch.ones(512, 512)) == 0).double() - 0.5
    for shift in (1, 2, 3, 4):  # four masks are cut from one random number
        assert abs((dropped[:, :-shift] * dropped[:, shift:]).mean().item()) < 0.003
        assert abs((dropped[:-shift] * dropped[shift:]).mean().item()) < 0.003


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(0)
    values = torch.ones(7, 5, requires_grad=True)
    kept = BitDropout(0.4)(values)
    kept.sum().backward()
    assert torch.equal(values.grad, kept.detach())


def test_nothing_is_dropped_while_acting_or_at_zero_and_all_at_one():
    values = torch.randn(6)
    assert torch.equal(BitDropout(0.5).eval()(values), values)
    assert torch.equal(BitDropout(0.0)(values), values)
    assert not BitDropout(1.0)(values).any()


def test_a_seed_repeats_its_masks():
    masks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks.append(BitDropout(0.5)(torch.ones(64)))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_a_backbone_drops_by_bits():
    model = load_backbone("small", dropout=0.3).model
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Dropout)}
    assert kinds == {BitDropout} and model.drop.p == 0.3


def attention_inputs() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, 2, 7, 4) for _ in range(3)]


def test_attention_by_bits_is_attention():
    module = load_backbone("small").model.h[0].attn
    plain, _ = sdpa_attention_forward(module, *attention_inputs(), None)
    found, _ = attend(module, *attention_inputs(), None, dropout=1e-9)  # too rare to be drawn, but goes our way
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-5)
    assert torch.equal(attend(module, *attention_inputs(), None)[0], plain)
    scaled, _ = sdpa_attention_forward(module, *attention_inputs(), None, scaling=0.1)
    torch.testing.assert_close(attend(module, *attention_inputs(), None, 1e-9, 0.1)[0], scaled, atol=1e-6, rtol=1e-5)


def test_attention_that_is_more_than_causal_is_left_to_transformers():
    module, bias = load_backbone("small").model.h[0].attn, torch.randn(1, 2, 7, 7)
    expected, _ = sdpa_attention_forward(module, *attention_inputs(), None, position_bias=bias)
    found, _ = attend(module, *attention_inputs(), None, dropout=1e-9, position_bias=bias)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_attention_drops_weights_and_keeps_their_mean():
    module, inputs = load_backbone("small").model.h[0].attn, attention_inputs()
    plain, _ = attend(module, *inputs, None)
    many = torch.stack([attend(module, *inputs, None, dropout=0.3)[0] for _ in range(4000)])
    assert not torch.allclose(many[0], plain, atol=1e-2)
    torch.testing.assert_close(many.mean(0), plain, atol=0.05, rtol=0.0)
    # the first token reads itself alone: its weight is dropped whole, or kept and scaled
    first = many[:, :, 0] / inputs[2].transpose(1, 2)[:, 0]
    assert abs((first == 0).double().mean().item() - 0.3) < 0.02
    torch.testing.assert_close(first[first != 0], torch.full_like(first[first != 0], 1 / 0.7), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.parametrize("num_keys", [1, 2, 4])
def test_short_attention_in_bfloat16_is_learned_by_separate_operations(num_keys: int, is_mixed: bool):
    """Heads that share keys, and mixed precision, too: the same within bfloat16's digits."""
    module = load_backbone("small").model.h[0].attn
    module.num_key_value_groups = 4 // num_keys
    torch.manual_seed(0)
    inputs, upstream = [torch.randn(3, heads, 9, 8) for heads in (4, num_keys, num_keys)], torch.randn(3, 9, 4, 8)
    found = {}
    for function in (attend, sdpa_attention_forward):
        leaves = [(part if is_mixed else part.bfloat16()).clone().requires_grad_() for part in inputs]
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            states, _ = function(module, *leaves, None)
        (states * upstream).sum().backward()
        found[function] = [states.detach(), *(leaf.grad for leaf in leaves)]
        kernels = {type(node).__name__ for node in _nodes(states.grad_fn)}
        assert any("DotProduct" in kernel for kernel in kernels) == (function is sdpa_attention_forward)
    for mine, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(mine.float(), other.float(), atol=0.03, rtol=0.03)


def _nodes(node) -> list:
    return [] if node is None else [node, *(each for follower, _ in node.next_functions for each in _nodes(follower))]


def test_a_backbone_attends_our_way_and_is_saved_without_it(tmp_path):
    for dropout in (0.1, 0.0):
        assert load_backbone("small", dropout=dropout).model.config._attn_implementation == ATTENTION
    save_backbone(load_backbone("small"), tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()
    assert reload_backbone(tmp_path).model.config._attn_implementation == ATTENTION


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
    batch = windows.draw(0, 0, 16).gather()
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


def test_a_weight_that_does_not_learn_is_cast_once_and_follows_what_changes_it():
    torch.manual_seed(0)
    plain, given = nn.Linear(6, 5), torch.randn(4, 6, requires_grad=True)
    plain.weight.requires_grad_(False)
    once = nn.Linear(6, 5)
    once.load_state_dict(plain.state_dict())
    once.weight.requires_grad_(False)
    once.__class__ = CastOnce
    assert isinstance(once, CastOnce)

    def gradients(layer: nn.Linear) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(given)
        assert output.dtype == torch.bfloat16
        return [output, *torch.autograd.grad(output.float().square().sum(), [given, layer.bias])]

    def agree() -> bool:
        return all(torch.equal(one, other) for one, other in zip(gradients(plain), gradients(once), strict=True))

    with torch.inference_mode(), frozen_part(), torch.autocast("cpu", torch.bfloat16):
        once(given)  # what is kept then can be learned by, too
    kept = once._cast
    assert kept is not None and agree() and once._cast is kept
    for layer in (plain, once):
        layer.load_state_dict({"weight": torch.ones(5, 6), "bias": torch.zeros(5)})
    assert agree() and once._cast is not kept
    for layer in (plain, once):
        layer.weight = nn.Parameter(torch.full((5, 6), 0.1), requires_grad=False)
    assert agree()
    once.weight.data += 1.0  # as adapters are added to weights, which leaves no trace
    plain.weight.data += 1.0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(once(given), plain(given))
    once.weight.requires_grad_(True)
    plain.weight.requires_grad_(True)
    assert agree() and torch.equal(once(given), plain(given)), "it learns, and without mixing nothing is cast"


def test_losses_and_gradients_of_a_language_policy_are_those_of_plain_layers(monkeypatch):
    """Its upper layers learn by adapters, its lower ones are kept: both in mixed precision."""

    def results() -> list[torch.Tensor]:
        backbone = load_backbone(
            "small", num_layers=3, dropout=0.0, predicts_words=True, freeze_layers=1, finetune="lora", lora_rank=2
        )
        model, windows = language(backbone, max_tokens=120)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found = []
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                loss = sum(model(windows.gather(np.arange(6))).values())
            found += [loss, *torch.autograd.grad(loss, trained)]
        is_used.append(any(layer._cast is not None for layer in model.modules() if isinstance(layer, CastOnce)))
        return found

    is_used: list[bool] = []

    once = results()
    assert is_used == [True]
    monkeypatch.setattr(CastOnce, "forward", nn.Linear.forward)
    assert all(torch.equal(one, other) for one, other in zip(once, results(), strict=True))
