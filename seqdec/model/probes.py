"""What a backbone can do, tried out instead of looked up."""

import inspect
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import (
    DynamicCache,
    PreTrainedModel,
)

from seqdec.errors import UsageError

if TYPE_CHECKING:
    from peft import PeftModel


def table_of(model: "PreTrainedModel | PeftModel") -> nn.Embedding:
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return table


def scale_of(model: PreTrainedModel) -> float:
    """Return the scale of a model's token embeddings."""
    table = table_of(model)
    with torch.no_grad():
        # asked of the module, not of its weight: some families multiply on the way
        scale = table(torch.arange(min(table.num_embeddings, 4096))).std().item()
    return scale if 1e-4 < scale < 1e2 else 0.02


def takes_positions_of(model: PreTrainedModel) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters


def try_out_padding(model: PreTrainedModel, width: int, name: str, takes_positions: bool) -> None:
    """Check by trying that padding between tokens changes nothing, which texts of unequal length need."""
    tokens = torch.randn(1, 6, width)
    padded = torch.cat([tokens[:, :2], torch.randn(1, 3, width), tokens[:, 2:]], 1)
    is_word = torch.tensor([[1, 1, 0, 0, 0, 1, 1, 1, 1]])
    places = {"position_ids": (is_word.cumsum(1) - 1).clamp(min=0)} if takes_positions else {}
    model.eval()
    with torch.no_grad():
        plain = model(inputs_embeds=tokens, use_cache=False).last_hidden_state
        try:
            states = model(inputs_embeds=padded, attention_mask=is_word, use_cache=False, **places).last_hidden_state
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"backbone {name!r} cannot read texts of unequal length: {error}") from error
    model.train()
    if not torch.allclose(plain, states[:, is_word[0] == 1], atol=1e-4, rtol=1e-3):
        raise UsageError(f"backbone {name!r} does not skip padding: texts of unequal length would change its states")


def try_out(model: PreTrainedModel, width: int, name: str) -> None:
    """Check by trying that this is a decoder with a cache; six tokens are enough to tell."""
    tokens = torch.randn(2, 6, width)
    changed = tokens.clone()
    changed[:, 4:] = torch.randn(2, 2, width)
    model.eval()
    with torch.no_grad():
        try:
            full = model(inputs_embeds=tokens, use_cache=False).last_hidden_state
            other = model(inputs_embeds=changed, use_cache=False).last_hidden_state
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"backbone {name!r} cannot read embeddings: {error}") from error
        if full.shape != tokens.shape:
            raise UsageError(f"backbone {name!r} reads width {width} and gives {full.shape[-1]}: they must agree")
        if not torch.allclose(full[:, :4], other[:, :4], atol=1e-5):
            raise UsageError(f"backbone {name!r} is an encoder: its states see the future; a decoder is needed")
        cache = DynamicCache(config=model.config)
        try:
            model(inputs_embeds=tokens[:, :4], past_key_values=cache, use_cache=True)
            rest = model(inputs_embeds=tokens[:, 4:], past_key_values=cache, use_cache=True).last_hidden_state
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise UsageError(f"backbone {name!r} cannot continue from a key-value cache: {error}") from error
    if not torch.allclose(full[:, 4:], rest, atol=1e-4, rtol=1e-3):
        raise UsageError(f"backbone {name!r} does not continue from a key-value cache: no rollouts are possible")
    model.train()
