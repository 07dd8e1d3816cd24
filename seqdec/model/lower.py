"""Frozen lower layers: they give the same states for the same words each time, so they are computed once and kept.

    words -> table -> lower layers | states, kept by the words | -> upper layers -> states

A sequence's states are computed of it alone, without dropout, so that they depend on nothing but the sequence: a
resumed run goes on with the same ones.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seqdec.model.probes import FOREIGN, evaluating, probe_tokens
from seqdec.model.shortcuts import frozen_part

LIMIT = 4 * 2**30  # bytes of states that are kept


class _Captured(Exception):
    """The layer above the lower ones is reached: nothing further is computed."""


class LowerLayers:
    """The first layers of a decoder, which are not trained, and what they gave."""

    def __init__(self, decoder: nn.Module, layers: nn.ModuleList, num_lower: int):
        self._decoder, self._lower, self._next = decoder, list(layers[:num_lower]), layers[num_lower]
        self._gives_tuple = False
        self._kept: dict[tuple[bytes, bool], Tensor] = {}  # by a row's words, and whether precision was mixed
        self._num_bytes = 0

    def read(self, tokens: Tensor, keys: Sequence[bytes]) -> Tensor:
        """Return the decoder's states [B, L, D] of tokens [B, L, D].

        Args:
            tokens: of words alone, with padding at the end.
            keys: the ids of the words of each row, int64, as bytes.
        """
        states = torch.zeros_like(tokens)
        for row, key in enumerate(keys):
            length = len(key) // 8
            states[row, :length] = self._states_of(key, tokens[row : row + 1, :length]).to(states)
        return self._above(tokens, states)

    def _states_of(self, key: bytes, tokens: Tensor) -> Tensor:
        """Return the states [length, D] that one row's tokens [1, length, D] have below."""
        is_mixed = torch.is_autocast_enabled(tokens.device.type)
        states = self._kept.get((key, is_mixed))
        if states is None:
            states = self._below(tokens)[0]
            states = (states.to(torch.bfloat16) if is_mixed else states).cpu()
            if self._num_bytes + states.nbytes <= LIMIT:
                self._kept[key, is_mixed] = states
                self._num_bytes += states.nbytes
        return states

    def _below(self, tokens: Tensor) -> Tensor:
        """Return what the layer above the lower ones would read [B, L, D]."""
        captured: list[Tensor] = []

        def capture(_: nn.Module, values: tuple[Tensor, ...], options: dict[str, Tensor]) -> None:
            captured.append(values[0] if values else options["hidden_states"])
            raise _Captured

        hook = self._next.register_forward_pre_hook(capture, with_kwargs=True)
        try:
            with evaluating(self._decoder), frozen_part():
                self._decoder(inputs_embeds=tokens, use_cache=False)
        except _Captured:
            return captured[0]
        finally:
            hook.remove()
        raise RuntimeError("the layer was not reached")

    def _above(self, tokens: Tensor, states: Tensor) -> Tensor:
        """Return the decoder's states where the layer above the lower ones reads these."""

        def replace(
            _: nn.Module, values: tuple[Tensor, ...], options: dict[str, Tensor]
        ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
            if values:
                return (states, *values[1:]), options
            return values, {**options, "hidden_states": states}

        hook = self._next.register_forward_pre_hook(replace, with_kwargs=True)
        try:
            with self._skipped():
                return self._decoder(inputs_embeds=tokens, use_cache=False).last_hidden_state
        finally:
            hook.remove()

    @contextmanager
    def _skipped(self) -> Iterator[None]:
        """Let the lower layers give what they are given."""
        for layer in self._lower:
            layer.forward = lambda hidden, *_, **__: (hidden,) if self._gives_tuple else hidden
        try:
            yield
        finally:
            for layer in self._lower:
                del layer.forward

    def works(self, width: int) -> bool:
        """Return whether the decoder gives the same states this way, by trial."""
        device = next(self._decoder.parameters()).device
        tokens = probe_tokens(3, width).to(device)

        def look(_: nn.Module, __: object, output: object) -> None:
            self._gives_tuple = isinstance(output, tuple)

        hook = self._lower[0].register_forward_hook(look)
        try:
            with evaluating(self._decoder):
                expected = self._decoder(inputs_embeds=tokens, use_cache=False).last_hidden_state
                states = self._above(tokens, self._below(tokens))
        except FOREIGN:
            return False  # layers that give or take something else
        finally:
            hook.remove()
        return torch.allclose(expected, states, atol=1e-4, rtol=1e-3)
