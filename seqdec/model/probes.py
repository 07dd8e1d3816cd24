"""What a decoder can do, tried out on six tokens instead of looked up."""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

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
    logits = logits * options.get("logit_scale", 1.0) / options.get("logits_scaling", 1.0)  # Cohere, Granite
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
    with torch.no_grad():
        yield
    model.train(was_training)


def probe_tokens(seed: int, width: int, length: int = 6) -> Tensor:
    """Return two sequences of random tokens [2, length, D]."""
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(seed))


def try_out(model: PreTrainedModel, name: str, *, with_words: bool, predicts_words: bool) -> None:
    """Check that a model is a decoder with a cache, and if asked that it reads and predicts words.

    Raises:
        UsageError: it is an encoder, cannot continue from a cache, padding changes its states, or its output
            embeddings do not give its logits.
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

        cache, rows = DynamicCache(config=model.config), torch.tensor([1, 1, 0])
        read("continue from a key-value cache", tokens[:, :4], past_key_values=cache, use_cache=True)
        forked = copy.deepcopy(cache)
        rest = read("continue from a key-value cache", tokens[:, 4:], past_key_values=cache, use_cache=True)
        if not torch.allclose(states[:, 4:], rest, atol=1e-4, rtol=1e-3):
            raise UsageError(f"backbone {name!r} does not continue from a key-value cache: no rollouts are possible")
        cannot = "go on with some of the sequences that it has read, as acting must"
        with one_sentence(f"backbone {name!r} cannot {cannot}", UsageError):
            forked.batch_select_indices(rows)
        rest = read(cannot, tokens[rows, 4:], past_key_values=forked, use_cache=True)
        if not torch.allclose(states[rows, 4:], rest, atol=1e-4, rtol=1e-3):
            raise UsageError(f"backbone {name!r} cannot {cannot}: their states change")

        if predicts_words and not torch.allclose(
            model(inputs_embeds=tokens, use_cache=False).logits, logits_of(model, states), atol=1e-4, rtol=1e-3
        ):
            raise UsageError(
                f"backbone {name!r} makes more of its states than its output embeddings say: not supported"
            )

        if with_words:
            padded = torch.cat([tokens[:, :2], probe_tokens(1, width, 3), tokens[:, 2:]], 1)
            is_word = torch.tensor([[1, 1, 0, 0, 0, 1, 1, 1, 1]] * 2)
            places = {"position_ids": (is_word.cumsum(1) - 1).clamp(min=0)} if takes_positions_of(decoder) else {}
            words = read("read texts of unequal length", padded, attention_mask=is_word, **places)[:, is_word[0] == 1]
            if not torch.allclose(states, words, atol=1e-4, rtol=1e-3):
                raise UsageError(
                    f"backbone {name!r} does not skip padding: texts of unequal length would change its states"
                )
