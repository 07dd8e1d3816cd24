"""What a decoder can do, tried out on six tokens instead of looked up."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqdec.errors import UsageError
from seqdec.model.pretrained import one_sentence

if TYPE_CHECKING:
    from peft import PeftModel

# what a model raises that cannot do it
FOREIGN = (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError, AssertionError)


def table_of(model: "PreTrainedModel | PeftModel") -> nn.Embedding:
    """Return the table of a model's token embeddings."""
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return table


def decoder_of(model: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    """Return the part of a model that gives hidden states, without adapters around it and without a head."""
    inner = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    return inner.base_model  # pyright: ignore[reportReturnType]


def layers_of(model: nn.Module, num_layers: int) -> nn.ModuleList | None:
    """Return the layers of a decoder, None where they do not stand in one list."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next((layers for layers in lists if len(layers) == num_layers), None)


def logits_of(model: "PreTrainedModel | PeftModel", hidden: Tensor) -> Tensor:
    """Return a causal language model's logits of the next token by its decoder's states [..., D]."""
    options = model.config.to_dict()
    outputs = model.get_output_embeddings()
    assert outputs is not None, "the model was loaded without its head"
    logits = outputs(hidden)
    scale = options.get("logit_scale", 1.0) / options.get("logits_scaling", 1.0)  # Cohere, Granite
    logits = logits if scale == 1.0 else logits * scale
    cap = options.get("final_logit_softcapping")  # Gemma
    return logits if cap is None else torch.tanh(logits / cap) * cap


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
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def probe_tokens(seed: int, width: int, length: int = 6) -> Tensor:
    """Return two sequences of random tokens [2, length, D]."""
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(seed))


def try_out(model: PreTrainedModel, name: str, *, predicts_words: bool) -> None:
    """Check that a model is a decoder of embeddings, and if asked that it predicts words by its output embeddings.

    Raises:
        UsageError: it is not.
    """
    width, decoder = table_of(model).embedding_dim, decoder_of(model)
    tokens = probe_tokens(0, width)
    changed = torch.cat([tokens[:, :4], probe_tokens(1, width, 2)], 1)

    def read(cannot: str, embeddings: Tensor, **options: object) -> Tensor:
        with one_sentence(f"backbone {name!r} cannot {cannot}", UsageError):
            return decoder(inputs_embeds=embeddings, **{"use_cache": False, **options}).last_hidden_state

    with evaluating(model):
        states = read("read embeddings", tokens)
        if states.shape != tokens.shape:
            raise UsageError(f"backbone {name!r} reads width {width} and gives {states.shape[-1]}: they must agree")
        if not torch.allclose(states[:, :4], read("read embeddings", changed)[:, :4], atol=1e-5):
            raise UsageError(f"backbone {name!r} is an encoder: its states see the future; a decoder is needed")

        if predicts_words and not torch.allclose(
            model(inputs_embeds=tokens, use_cache=False).logits, logits_of(model, states), atol=1e-4, rtol=1e-3
        ):
            raise UsageError(
                f"backbone {name!r} makes more of its states than its output embeddings say: not supported"
            )
