"""A key-value cache with its room reserved, so that a step of acting writes its few tokens and copies nothing else.

transformers' own cache joins old and new tokens in fresh memory at every step: with long contexts that costs more than
the attention. Layers that are no plain attention (sliding, recurrent) keep their own kind of cache.
"""

from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer


def make_cache(config: PretrainedConfig, num_tokens: int) -> DynamicCache:
    """Return an empty cache for a decoder, with room for a context of `num_tokens` tokens; it grows beyond them."""
    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer(num_tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class ReservedLayer(DynamicLayer):
    """One layer's keys and values [B, heads, tokens, width], views of memory that has room for more tokens."""

    def __init__(self, num_tokens: int):
        super().__init__()
        self._num_tokens = num_tokens
        self._memory: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append new tokens; return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        memory = self._memory
        # what was selected, repeated or cut in front lies elsewhere by now
        if memory is None or memory[0].data_ptr() != self.keys.data_ptr() or end > memory[0].shape[-2]:
            memory = self._reserved(key_states, end, self.keys), self._reserved(value_states, end, self.values)
        memory[0][..., begin:end, :] = key_states
        memory[1][..., begin:end, :] = value_states
        self.keys, self.values, self._memory = memory[0][..., :end, :], memory[1][..., :end, :], memory
        return self.keys, self.values

    def _reserved(self, new: Tensor, end: int, held: Tensor) -> Tensor:
        memory = new.new_empty(*new.shape[:-2], max(self._num_tokens, end), new.shape[-1])
        if held.numel() > 0:
            memory[..., : held.shape[-2], :] = held
        return memory
