"""Gradient checkpointing: the same losses and gradients, and less that is kept."""

import numpy as np
import pytest
import torch

from conftest import FAMILIES, make_windows
from seqdec.errors import UsageError
from seqdec.model.backbone import load_backbone
from seqdec.model.recompute import recomputing
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.training.loop import train
from word_episodes import language


def gradients(model: SequenceModel, batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], int]:
    """Return the losses and gradients of a batch, and how many bytes were kept for them."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = model.train()(batch)
    found = torch.autograd.grad(sum(losses.values()), trained, allow_unused=True, materialize_grads=True)
    return [*losses.values(), *found], sum(size for place, size in kept.items() if place not in weights)


def check_same(model: SequenceModel, batch: dict[str, torch.Tensor]) -> float:
    """Compare losses and gradients bit for bit, and return which share is still kept."""
    plain, all_bytes = gradients(model, batch)
    with recomputing(model.backbone_source):
        again, num_bytes = gradients(model, batch)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert gradients(model, batch)[1] == all_bytes, "it is over"
    return num_bytes / all_bytes


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_the_same_bits_in_every_family(family: str, family_folder):
    windows, _ = make_windows(context_length=12)
    model = build_model(windows, load_backbone(str(family_folder(family)), dropout=0.1))
    try:
        check_same(model, windows.gather(np.arange(8)))
    except UsageError as error:
        assert "cannot be computed again: leave gradient_checkpointing out" in str(error)


def test_most_of_what_a_deep_backbone_keeps_is_not_kept_any_more():
    windows, _ = make_windows(context_length=20)
    model = build_model(windows, load_backbone("small", num_layers=3, dropout=0.1))
    assert check_same(model, windows.gather(np.arange(16))) < 0.6


@pytest.mark.parametrize("options", [{}, {"finetune": "lora", "lora_rank": 2}, {"freeze_layers": 1}], ids=str)
def test_words_adapters_and_frozen_layers_are_the_same_bits(options: dict):
    backbone = load_backbone("small", num_layers=3, dropout=0.1, predicts_words=True, **options)
    model, windows = language(backbone, max_tokens=120)
    check_same(model, windows.gather(np.arange(6)))


def test_training_with_it_leaves_the_same_policy(tmp_path):
    results = []
    for is_on in (False, True):
        windows, _ = make_windows(context_length=12)
        model = build_model(windows, load_backbone("small", num_layers=3, dropout=0.1))
        train(model, windows, out=tmp_path / str(is_on), steps=3, batch_size=8, gradient_checkpointing=is_on)
        results.append(model.state_dict())
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())
