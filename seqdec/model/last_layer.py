"""The last layer of a decoder, computed only at the tokens whose states are read.

Attention needs keys and values of every token, but what the last layer does to one token alone, its MLP, is needed
only where something is predicted: at one token of three in Decision Transformer's order, at the newest while acting.
The other states are then not what the decoder would have given, and nobody looks at them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def only_at(mlp: nn.Module, places: Tensor) -> Iterator[None]:
    """Let a layer's MLP compute these tokens of the sequence only, int64 [n], and give zeros for the others.

    Example:
        >>> with only_at(decoder.layers[-1].mlp, torch.tensor([4, 7])):
        ...     states = decoder(inputs_embeds=tokens).last_hidden_state[:, [4, 7]]
    """
    whole: list[Tensor] = []

    def select(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        (tokens,) = given  # [B, L, D]
        whole.append(tokens)
        return (tokens.index_select(1, places),)

    def spread(_: nn.Module, given: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.zeros_like(whole.pop(), dtype=output.dtype).index_copy(1, places, output)

    hooks = [mlp.register_forward_pre_hook(select), mlp.register_forward_hook(spread)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def last_mlp(model: nn.Module, num_layers: int, width: int) -> nn.Module | None:
    """Return the MLP of a decoder's last layer; None where skipping tokens in it would change others, by trial."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    mlp = stacks[0][-1]._modules.get("mlp") if stacks else None
    if mlp is None:
        return None
    tokens = torch.randn(2, 6, width, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([2, 5])
    was_training = model.training
    model.eval()
    with torch.no_grad():
        expected = model(inputs_embeds=tokens, use_cache=False).last_hidden_state[:, places]
        try:
            with only_at(mlp, places):
                states = model(inputs_embeds=tokens, use_cache=False).last_hidden_state[:, places]
            agrees = torch.allclose(expected, states, atol=1e-4, rtol=1e-3)
        except (TypeError, ValueError, IndexError, RuntimeError, AttributeError):
            agrees = False  # an MLP that takes or gives something else
    model.train(was_training)
    return mlp if agrees else None
