"""What a decoder can do, tried out on six tokens instead of looked up."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from seqdec.errors import UsageError

if TYPE_CHECKING:
    from peft import PeftModel

FOREIGN = (TypeError, ValueError, AttributeError, KeyError, RuntimeError)  # what a model raises that cannot do it


def table_of(model: "PreTrainedModel | PeftModel") -> nn.Embedding:
    """Return the table of a model's token embeddings."""
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return table


def scale_of(model: PreTrainedModel) -> float:
    """Return the standard deviation of a model's token embeddings."""
    table = table_of(model)
    with torch.no_grad():
        # asked of the module, not of its weight: some families multiply on the way
        scale = table(torch.arange(min(table.num_embeddings, 4096))).std().item()
    return scale if 1e-4 < scale < 1e2 else 0.02


def takes_positions_of(model: PreTrainedModel) -> bool:
    """Return whether a model can be told the place of each token."""
    return "position_ids" in inspect.signature(model.forward).parameters


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Let a model read without dropout and gradients for a while."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(was_training)


def probe_tokens(seed: int, width: int, length: int = 6) -> Tensor:
    """Return two sequences of random tokens [2, length, D]."""
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(seed))


def try_out(model: PreTrainedModel, name: str, *, with_padding: bool) -> None:
    """Check that a model is a decoder with a cache, and if asked that it skips padding between tokens.

    Raises:
        UsageError: it is an encoder, cannot continue from a cache, or padding changes its states.
    """
    width = table_of(model).embedding_dim
    tokens = probe_tokens(0, width)
    changed = torch.cat([tokens[:, :4], probe_tokens(1, width, 2)], 1)

    def read(cannot: str, embeddings: Tensor, **options: object) -> Tensor:
        try:
            return model(inputs_embeds=embeddings, **{"use_cache": False, **options}).last_hidden_state
        except FOREIGN as error:
            raise UsageError(f"backbone {name!r} cannot {cannot}: {error}") from error

    with evaluating(model):
        states = read("read embeddings", tokens)
        if states.shape != tokens.shape:
            raise UsageError(f"backbone {name!r} reads width {width} and gives {states.shape[-1]}: they must agree")
        if not torch.allclose(states[:, :4], read("read embeddings", changed)[:, :4], atol=1e-5):
            raise UsageError(f"backbone {name!r} is an encoder: its states see the future; a decoder is needed")

        cached = {"past_key_values": DynamicCache(config=model.config), "use_cache": True}
        read("continue from a key-value cache", tokens[:, :4], **cached)
        rest = read("continue from a key-value cache", tokens[:, 4:], **cached)
        if not torch.allclose(states[:, 4:], rest, atol=1e-4, rtol=1e-3):
            raise UsageError(f"backbone {name!r} does not continue from a key-value cache: no rollouts are possible")

        if with_padding:
            padded = torch.cat([tokens[:, :2], probe_tokens(1, width, 3), tokens[:, 2:]], 1)
            is_word = torch.tensor([[1, 1, 0, 0, 0, 1, 1, 1, 1]] * 2)
            places = {"position_ids": (is_word.cumsum(1) - 1).clamp(min=0)} if takes_positions_of(model) else {}
            words = read("read texts of unequal length", padded, attention_mask=is_word, **places)[:, is_word[0] == 1]
            if not torch.allclose(states, words, atol=1e-4, rtol=1e-3):
                raise UsageError(
                    f"backbone {name!r} does not skip padding: texts of unequal length would change its states"
                )
