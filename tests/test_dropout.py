"""Dropout by random bits: the function of torch.nn.Dropout."""

import pytest
import torch
from torch import nn

from seqdec.backbone import load_backbone
from seqdec.dropout import BitDropout


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
