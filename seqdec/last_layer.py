"""The last layer of a decoder, computed only at the tokens whose states are read.

Attention needs keys and values of every token, but what the last layer does to one token alone, its MLP, is needed
only where something is predicted: at one token of three in Decision Transformer's order, at the newest while acting.
The rest of the states is then not what the decoder would have given, and nobody looks at it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class LastLayer:
    """Lets the MLP of a decoder's last layer skip tokens; no code of the decoder is changed.

    Example:
        >>> with last_layer.only_at(torch.tensor([4, 7])):
        ...     states = decoder(inputs_embeds=tokens).last_hidden_state[:, [4, 7]]
    """

    def __init__(self, mlp: nn.Module):
        self._places: Tensor | None = None
        self._num_tokens = 0
        self._hooks = [mlp.register_forward_pre_hook(self._select), mlp.register_forward_hook(self._spread)]

    @contextmanager
    def only_at(self, places: Tensor) -> Iterator[None]:
        """Compute only these tokens of the sequence, int64 [n], within the block."""
        self._places = places
        try:
            yield
        finally:
            self._places = None

    def remove(self) -> None:
        """Give the decoder back as it was."""
        for hook in self._hooks:
            hook.remove()

    def _select(self, _: nn.Module, given: tuple[Tensor]) -> tuple[Tensor] | None:
        if self._places is None:
            return None
        (tokens,) = given  # [B, L, D]
        self._num_tokens = tokens.shape[1]
        return (tokens.index_select(1, self._places),)

    def _spread(self, _: nn.Module, given: tuple[Tensor], output: Tensor) -> Tensor | None:
        if self._places is None:
            return None
        whole = output.new_zeros(len(output), self._num_tokens, output.shape[2])
        return whole.index_copy(1, self._places, output)


def find_last_layer(model: nn.Module, num_layers: int, width: int) -> LastLayer | None:
    """Return the handle to a decoder's last layer; None where skipping tokens would change the others, by trial."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    mlp = stacks[0][-1]._modules.get("mlp") if stacks else None
    if mlp is None:
        return None
    found = LastLayer(mlp)
    was_training = model.training
    tokens = torch.randn(2, 6, width, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([2, 5])
    model.eval()
    with torch.no_grad():
        expected = model(inputs_embeds=tokens, use_cache=False).last_hidden_state[:, places]
        try:
            with found.only_at(places):
                states = model(inputs_embeds=tokens, use_cache=False).last_hidden_state[:, places]
            agrees = torch.allclose(expected, states, atol=1e-4, rtol=1e-3)
        except (TypeError, ValueError, IndexError, RuntimeError, AttributeError):
            agrees = False  # an MLP that takes or gives something else
    model.train(was_training)
    if agrees:
        return found
    found.remove()
    return None
