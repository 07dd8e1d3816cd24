"""A decoder's pass over a few new tokens, with keys and values in memory that is given; recorded where that works.

A pass is tried out against the plain decoder once for each backbone. The keys and values of new tokens stand behind the
old ones, evenly in all rows, or `at` places of each row's own.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from seqdec.inference.recorded import Arguments, Function, record
from seqdec.inference.trials import tried_once
from seqdec.model.backbone import Backbone
from seqdec.model.probes import FOREIGN
from seqdec.model.shortcuts import only_at

logger = logging.getLogger(__name__)
# Sequences, new tokens and tokens before them: what a pass is tried out with. The first is what is recorded, with
# lengths that no decoder has among its own numbers.
TRIALS = ((11, 13, 24), (1, 1, 6), (3, 5, 0), (2, 1, 9))


class _Given(DynamicLayer):
    """A layer's keys and values in memory that was given, and the places in it for the new ones.

    The places are a part of the memory, or their numbers, int64 [B, 1, n, 1].
    """

    def __init__(self, keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, places: Tensor | None):
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self._new_keys, self._new_values, self._places = new_keys, new_values, places

    def update(self, key_states: Tensor, value_states: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        if self._places is None:
            self._new_keys.copy_(key_states)
            self._new_values.copy_(value_states)
        else:
            places = self._places.expand_as(key_states)
            self.keys.scatter_(2, places, key_states.to(self.keys))  # which mixed precision has in another type
            self.values.scatter_(2, places, value_states.to(self.values))
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return 0  # nobody need count: places and mask are given


class Pass:
    """A decoder's pass over new tokens; `shape` is that of what is held of a token, [2 * layers, heads, width]."""

    def __init__(self, backbone: Backbone, shape: tuple[int, int, int]):
        self._decoder, self._mlp, self._shape = backbone.decoder, backbone.last_mlp, shape
        self._trials = partial(_trials, backbone.decoder, backbone.width, backbone.embedding_scale)

    def room(self, like: Tensor, num_sequences: int, num_tokens: int) -> Tensor:
        """Return memory for keys and values of every layer, of the type of `like`."""
        num_parts, num_heads, width = self._shape
        return like.new_zeros(num_parts, num_sequences, num_heads, num_tokens, width)

    def __call__(self, tokens: Tensor, places: Tensor, mask: Tensor, newest: Tensor, held: Tensor) -> Tensor:
        """Return the state of the newest of tokens [B, n, D], whose keys and values go into `held`, evenly."""
        run = self._run if self._is_recordable(tokens) else self._forward
        return run(*self._arguments(tokens, places, mask, newest, held))

    def at(self, tokens: Tensor, positions: Tensor, places: Tensor, mask: Tensor, held: Tensor) -> Tensor:
        """Return the states of tokens [B, n, D], whose keys and values go into `held` at `places`, int64 [B, n].

        Args:
            tokens: new ones.
            positions: which each one is in its sequence, int64 [B, n].
            places: of its keys and values.
            mask: what attention adds for each place: minus infinity where it is not seen, [B, 1, n, end].
            held: what `room` gave.
        """
        run = self._run_at if self._is_recordable(tokens) else self._forward_at
        return run(*self._arguments_at(tokens, positions, places, mask, held))

    def _is_recordable(self, tokens: Tensor) -> bool:
        is_mixed = torch.is_autocast_enabled(tokens.device.type)  # which a replay, of one precision, knows nothing of
        return tokens.device.type == "cpu" and not self._decoder.training and not is_mixed

    def _arguments(self, tokens: Tensor, places: Tensor, mask: Tensor, newest: Tensor, held: Tensor) -> tuple[Any, ...]:
        return (tokens, places, mask, newest, *self._parts_of(tokens, mask, held))

    def _arguments_at(
        self, tokens: Tensor, positions: Tensor, places: Tensor, mask: Tensor, held: Tensor
    ) -> tuple[Any, ...]:
        return (tokens, positions, places[:, None, :, None], mask, *self._parts_of(tokens, mask, held))

    def _parts_of(self, tokens: Tensor, mask: Tensor, held: Tensor) -> tuple[Tensor, int, int, int, int]:
        """Return what is held of all tokens, the new ones included, and the lengths that a recording names."""
        num_sequences, num_new, end = *tokens.shape[:2], mask.shape[-1]
        return held.narrow(3, 0, end), num_sequences * num_new, num_sequences, num_new, end

    def _forward(
        self, tokens: Tensor, places: Tensor, mask: Tensor, newest: Tensor, known: Tensor, *lengths: int
    ) -> Tensor:
        parts, new = known.unbind(), known.narrow(3, -tokens.shape[1], tokens.shape[1]).unbind()
        layers = [_Given(*four, None) for four in zip(parts[::2], parts[1::2], new[::2], new[1::2], strict=True)]
        with nullcontext() if self._mlp is None else only_at(self._mlp, newest):
            return self._decode(tokens, places, mask, layers)[:, -1]

    def _forward_at(
        self, tokens: Tensor, positions: Tensor, places: Tensor, mask: Tensor, known: Tensor, *lengths: int
    ) -> Tensor:
        parts = known.unbind()
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return self._decode(tokens, positions, mask, [_Given(*pair, *pair, places) for pair in pairs])

    def _decode(self, tokens: Tensor, positions: Tensor, mask: Tensor, layers: list[_Given]) -> Tensor:
        return self._decoder(
            inputs_embeds=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=Cache(layers=layers),  # pyright: ignore[reportArgumentType]
            use_cache=True,
        ).last_hidden_state

    def agrees(self, tokens: Tensor, num_new: int, expected: Tensor) -> bool:
        """Return whether reading the old tokens and then the new gives these states, as reading all at once does.

        Args:
            tokens: [B, L, D].
            num_new: of them.
            expected: of the new tokens, [B, num_new, D].
        """
        num_old = tokens.shape[1] - num_new
        new, new_at = self.inputs(tokens, num_new), self.inputs_at(tokens, num_new)
        if num_old > 0:
            old = tokens[:, :num_old]
            self._forward(*self._arguments(*self.inputs(old, num_old)[:4], new[4]))
            self._forward_at(*self._arguments_at(*self.inputs_at(old, num_old)[:4], new_at[4]))
        states, states_at = self._forward(*self._arguments(*new)), self._forward_at(*self._arguments_at(*new_at))
        pairs = (states, expected[:, -1]), (states_at, expected)
        return all(torch.allclose(*pair, atol=1e-4, rtol=1e-3) for pair in pairs)

    def inputs(self, tokens: Tensor, num_new: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what a pass takes to read the newest of these tokens [B, L, D]; keys and values are zeros."""
        num_sequences, end, _ = tokens.shape
        places = torch.arange(end - num_new, end, device=tokens.device)[None]
        mask = future(end, tokens)[:, :, -num_new:]
        newest = torch.tensor([num_new - 1], device=tokens.device)
        return tokens[:, -num_new:], places, mask, newest, self.room(tokens, num_sequences, end + 2)

    def inputs_at(self, tokens: Tensor, num_new: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what `at` takes to read the newest of these tokens [B, L, D]."""
        new, places, mask, _, held = self.inputs(tokens, num_new)
        places = places.expand(len(tokens), -1).contiguous()
        return new, places, places, mask.expand(len(tokens), -1, -1, -1).contiguous(), held

    @cached_property
    def _run(self) -> Function:
        """The pass as a replay, where that does the same; made when first used, which mixed precision never does."""
        return _recorded(self._forward, [self._arguments(*self.inputs(*trial)) for trial in self._trials()])

    @cached_property
    def _run_at(self) -> Function:
        return _recorded(self._forward_at, [self._arguments_at(*self.inputs_at(*trial)) for trial in self._trials()])


def _recorded(function: Function, examples: Sequence[Arguments]) -> Function:
    with torch.inference_mode():
        return record(function, examples)


def _trials(decoder: nn.Module, width: int, scale: float) -> list[tuple[Tensor, int]]:
    """Return tokens [B, L, D] to try a pass out with, and how many of them are new."""
    random, device = torch.Generator().manual_seed(0), next(decoder.parameters()).device
    trials = []
    for num_sequences, num_new, num_old in TRIALS:
        tokens = torch.randn(num_sequences, num_old + num_new, width, generator=random)
        trials.append(((tokens * scale).to(device), num_new))
    return trials


def future(num_tokens: int, like: Tensor) -> Tensor:
    """Return what attention adds where a token looks at another one: minus infinity at those after it, [1, 1, L, L]."""
    return torch.full((1, 1, num_tokens, num_tokens), -torch.inf, dtype=like.dtype, device=like.device).triu(1)


@tried_once
def pass_of(backbone: Backbone) -> Pass | None:
    """Return the pass of a backbone; None where it cannot be made."""
    cache = DynamicCache(config=backbone.config)
    if not backbone.takes_positions or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    decoder = backbone.decoder
    trials = _trials(decoder, backbone.width, backbone.embedding_scale)[1:]
    try:
        decoder(inputs_embeds=trials[0][0], past_key_values=cache, use_cache=True)
        parts = [
            part for layer in cache.layers if isinstance(layer, DynamicLayer) for part in (layer.keys, layer.values)
        ]
        shapes = {None if part is None else (part.shape[1], part.shape[-1]) for part in parts}
        shape = shapes.pop()
        if shapes or shape is None:
            return None  # a family whose layers, or keys and values, differ in size
        made = Pass(backbone, (2 * len(cache.layers), *shape))
        for tokens, num_new in trials:
            expected = decoder(inputs_embeds=tokens, use_cache=False).last_hidden_state[:, -num_new:]
            if not made.agrees(tokens, num_new, expected):
                return None
    except FOREIGN as error:
        logger.debug("%s reads by its own cache: %s", backbone.source.name, error)
        return None  # a family whose attention wants something else
    return made
