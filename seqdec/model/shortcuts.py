"""The same function for less work: dropout from raw random bits, and a last layer only where its states are read.

Dropout: on a CPU torch draws a random number for each entry; a mask needs 16 bits of one. Elsewhere torch's own kernel
is used. Attention on a CPU is learned by separate operations where these are quicker.

GPT-2's linear layers: one call of torch for each, not three, because acting is short passes of many calls.

Linear layers that do not learn: on a CPU, where precisions are mixed, torch casts their weights at each use. It is done
once while others learn.

Last layer: attention needs keys and values of every token, but what the last layer does to one token alone, its MLP,
is needed only where something is predicted: at one token of three in Decision Transformer's order, at the newest while
acting. The other states are then not those of the decoder, and nobody reads them.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from seqdec.model.probes import FOREIGN, evaluating, layers_of, probe_tokens

ATTENTION = "seqdec"  # the name that transformers knows `attend` by
SHORT = 256  # tokens: of longer sequences, separate operations gain less, and their memory grows with the square
LEVELS = 1 << 16  # the probability is rounded to one of so many; scaling makes up for it exactly


class BitDropout(nn.Dropout):
    """Zeroes entries at random while training and scales the others, so that the mean stays.

    Example:
        >>> BitDropout(0.1).eval()(torch.ones(2)).tolist()
        [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the entries [...] that are kept, scaled."""
        return drop(input, self.p) if self.training else input


def drop(values: Tensor, p: float) -> Tensor:
    """Return values [...] with entries zeroed with probability p, and the others scaled."""
    dropped = round(p * LEVELS)
    if dropped == 0:
        return values
    if values.device.type != "cpu" or dropped == LEVELS:
        return F.dropout(values, p)
    words = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: values.numel()].view(values.shape)
    kept = (bits >= dropped - LEVELS // 2).to(values.dtype)
    return values * kept.mul_(LEVELS / (LEVELS - dropped))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **words: object,
) -> tuple[Tensor, Tensor | None]:
    """Attend as transformers' "sdpa" does; on a CPU, causal attention is learned quicker by separate operations.

    Where weights are dropped, torch's own falls back to them anyway, with a mask of drawn numbers among them; of short
    sequences in bfloat16 its backward pass takes several times as long.
    """
    is_plain = attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    is_plain = is_plain and query.shape[2:] == key.shape[2:] and query.device.type == "cpu"
    is_plain = is_plain and all(words.get(word) is None for word in ("position_bias", "softcap", "cache"))
    is_slow = query.requires_grad and query.shape[2] <= SHORT and torch.bfloat16 in (query.dtype, _mixed_with())
    if not is_plain or (dropout == 0.0 and not is_slow):
        words |= {"dropout": dropout, "scaling": scaling, "is_causal": is_causal}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **words)  # pyright: ignore
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    times, length = query.shape[1] // key.shape[1], query.shape[2]  # so many heads read the same keys and values
    future = query.new_full((length, length), -torch.inf).triu(1).repeat(times, 1)
    heads = query.reshape(-1, times * length, query.shape[3])
    scores = torch.baddbmm(future, heads, key.flatten(0, 1).transpose(1, 2), alpha=scale)
    read = torch.bmm(drop(scores.softmax(-1), dropout), value.flatten(0, 1))  # [B * heads of keys, times * L, width]
    return read.view(*query.shape[:3], value.shape[3]).transpose(1, 2), None


def _mixed_with() -> torch.dtype | None:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class Affine(Conv1D):
    """GPT-2's linear layer, whose weight is stored transposed; without its calls to flatten and to restore."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., nf] of [..., nx]."""
        return F.linear(x, self.weight.t(), self.bias)


class _Training(threading.local):
    """Whether a thread computes, without gradients, what is kept for training."""

    is_frozen_part: bool = False


_training = _Training()


@contextmanager
def frozen_part() -> Iterator[None]:
    """Compute a part of training in which nothing learns."""
    _training.is_frozen_part = True
    try:
        yield
    finally:
        _training.is_frozen_part = False


class CastOnce(nn.Linear):
    """A linear layer whose weight, where it does not learn, is cast once for all steps of training on a CPU.

    Other passes cast it as torch does: they may come when adapters were added to weights, which nothing tells.
    """

    _cast: tuple[int, int, Tensor] | None = None  # the weight's version, its place, and what was made of it

    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out_features] of [..., in_features]."""
        is_training = torch.is_grad_enabled() or _training.is_frozen_part
        mixed = _mixed_with() if is_training and input.device.type == "cpu" else None
        if mixed is None or self.weight.requires_grad or self.weight.dtype == mixed:
            return super().forward(input)
        key = self.weight._version, self.weight.data_ptr()
        if self._cast is None or self._cast[:2] != key or self._cast[2].dtype != mixed:
            with torch.inference_mode(False):  # else nothing could be learned by it
                self._cast = *key, self.weight.detach().to(mixed)
        return F.linear(input, self._cast[2], self.bias)


def use_shortcuts(model: PreTrainedModel) -> None:
    """Give a decoder quicker modules of the same function, in place: dropout, attention and linear layers."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = BitDropout
        elif type(module) is Conv1D:
            module.__class__ = Affine
        elif type(module) is nn.Linear:
            module.__class__ = CastOnce
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)


class _Reading(threading.local):
    """The tokens that a thread needs of an MLP; a model is shared, so nothing of its callers is kept on it."""

    mlp: nn.Module | None = None
    places: Tensor
    whole: Tensor


_reading = _Reading()


@contextmanager
def only_at(mlp: nn.Module, places: Tensor) -> Iterator[None]:
    """Let an MLP that `last_mlp` gave compute these tokens only, int64 [n], for this thread; others get anything.

    Example:
        >>> with only_at(last_mlp(decoder, 12, 768), torch.tensor([4, 7])):
        ...     states = decoder(inputs_embeds=tokens).last_hidden_state[:, [4, 7]]
    """
    _reading.mlp, _reading.places = mlp, places
    try:
        yield
    finally:
        vars(_reading).clear()


def _select(mlp: nn.Module, given: tuple[Tensor]) -> tuple[Tensor] | None:
    if _reading.mlp is not mlp:
        return None
    (_reading.whole,) = given  # [B, L, D]
    return (_reading.whole.index_select(1, _reading.places),)


def _spread(mlp: nn.Module, given: tuple[Tensor], output: Tensor) -> Tensor | None:
    if _reading.mlp is not mlp:
        return None
    tokens, places = _reading.whole, _reading.places
    if len(places) == 1:
        return output.expand_as(tokens)
    return torch.zeros_like(tokens, dtype=output.dtype).index_copy(1, places, output)


def last_mlp(model: nn.Module, num_layers: int, width: int) -> nn.Module | None:
    """Return the MLP of a decoder's last layer; None where skipping tokens in it would change others, by trial."""
    layers = layers_of(model, num_layers)
    mlp = None if layers is None else layers[-1]._modules.get("mlp")
    if mlp is None:
        return None
    tokens, places = probe_tokens(2, width), torch.tensor([2, 5])
    with evaluating(model):
        expected = model(inputs_embeds=tokens, use_cache=False).last_hidden_state[:, places]
        hooks = [mlp.register_forward_pre_hook(_select), mlp.register_forward_hook(_spread)]
        try:
            with only_at(mlp, places):
                states = model(inputs_embeds=tokens, use_cache=False).last_hidden_state[:, places]
            works = torch.allclose(expected, states, atol=1e-4, rtol=1e-3)
        except FOREIGN:
            works = False  # an MLP that takes or gives something else
    if not works:
        for hook in hooks:
            hook.remove()
    return mlp if works else None
