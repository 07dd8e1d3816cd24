"""Reading on: a decoder reads a few new tokens; keys and values of the others stand in memory with room for a context.

        memory  | start  observation  action  ...  newest |   room for more   |
                  read before                       new

transformers' own cache joins old and new tokens in fresh memory at every step, and its decoders spend most of a short
pass in Python. So keys and values are written into memory that was given, and the pass is recorded. Both are tried out
against the plain decoder; where a family cannot do the one or the other, it reads as transformers has it.
"""

import copy
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from seqdec.inference.recorded import record
from seqdec.model.backbone import Backbone
from seqdec.model.shortcuts import only_at

logger = logging.getLogger(__name__)
# Sequences, new tokens and tokens before them: what a pass is tried out with. The first is recorded, with lengths that
# no decoder has among its own numbers.
TRIALS = ((11, 13, 24), (1, 1, 6), (3, 5, 0), (2, 1, 9))


class Memory:
    """What a batch of sequences has read.

    Args:
        backbone: in evaluation mode.
        num_sequences: B.
        num_tokens: the most that a sequence has.

    Example:
        >>> memory = Memory(backbone, num_sequences=2, num_tokens=60)
        >>> states = memory.read(tokens)  # of the newest token, [2, D]
    """

    def __init__(self, backbone: Backbone, num_sequences: int, num_tokens: int):
        self._backbone, self._num_tokens = backbone, num_tokens
        self._pass = _pass_of(backbone)
        self._held: Tensor | None = None  # keys and values of each layer, [2 * layers, B, heads, num_tokens, width]
        self._cache: Cache | None = None
        self.num_sequences = num_sequences
        weight = next(backbone.model.parameters())
        self._places = torch.arange(num_tokens, device=weight.device)[None]
        self._mask = _future(num_tokens, weight)
        self.forget()

    def forget(self) -> None:
        """Begin anew, in the same room."""
        self.num_read = 0
        self._is_word: Tensor | None = None  # False on the padding of texts, [B, num_read]; None where there is none
        if self._pass is None:
            self._cache = DynamicCache(config=self._backbone.config)

    def read(self, tokens: Tensor, is_word: Tensor | None = None) -> Tensor:
        """Read new tokens [B, n, D], which of them are words [B, n]; return the state of the newest, [B, D]."""
        begin, end = self.num_read, self.num_read + tokens.shape[1]
        assert end <= self._num_tokens, "there is no room for so many tokens"
        if is_word is not None:
            self._is_word = is_word if self._is_word is None else torch.cat([self._is_word, is_word], 1)
        self.num_read = end
        newest = self._places[0, end - begin - 1 : end - begin]
        if self._pass is None:
            return self._backbone.read(tokens, self._is_word, self._cache, places=newest)[:, -1]
        if self._held is None:
            self._held = self._pass.room(tokens, self.num_sequences, self._num_tokens)
        places = self._places[:, begin:end]
        mask = self._mask[:, :, begin:end, :end].clone()  # [1, 1, n, end]; kernels want rows that are aligned
        if self._is_word is not None:
            places = (self._is_word.cumsum(1) - 1).clamp(min=0)[:, begin:]
            itself = torch.eye(end, dtype=torch.bool, device=tokens.device)[begin:]  # padding reads itself alone
            mask = mask.masked_fill(~(self._is_word[:, None, None] | itself), -torch.inf)
        return self._pass(tokens, places, mask, newest, self._held)

    def copy(self) -> "Memory":
        """Return a memory of the same, which goes on by itself once it has selected rows."""
        other = copy.copy(self)
        other._cache = copy.deepcopy(self._cache)  # transformers' own changes in place
        return other

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, int64 [B']."""
        self.num_sequences = len(rows)
        if self._is_word is not None:
            self._is_word = self._is_word[rows]
        if self._pass is None:
            assert self._cache is not None
            if self.num_read > 0:
                self._cache.batch_select_indices(rows)
            return
        if self._held is not None:
            kept = self._held[:, rows, :, : self.num_read]
            self._held = self._pass.room(kept, len(rows), self._num_tokens)
            self._held[:, :, :, : self.num_read] = kept


class _Given(DynamicLayer):
    """A layer's keys and values in memory that was given, and the places in it for the new ones."""

    def __init__(self, keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor):
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self._new_keys, self._new_values = new_keys, new_values

    def update(self, key_states: Tensor, value_states: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        self._new_keys.copy_(key_states)
        self._new_values.copy_(value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return 0  # nobody need count: places and mask are given


class _Pass:
    """A decoder's pass over new tokens; `shape` is that of what is held of a token, [2 * layers, heads, width]."""

    def __init__(self, backbone: Backbone, shape: tuple[int, int, int]):
        self._decoder, self._mlp, self._shape = backbone.model, backbone.last_mlp, shape
        self._run = self._forward

    def room(self, like: Tensor, num_sequences: int, num_tokens: int) -> Tensor:
        """Return memory for keys and values of every layer, of the type of `like`."""
        num_parts, num_heads, width = self._shape
        return like.new_empty(num_parts, num_sequences, num_heads, num_tokens, width)

    def __call__(self, tokens: Tensor, places: Tensor, mask: Tensor, newest: Tensor, held: Tensor) -> Tensor:
        """Return the state of the newest of tokens [B, n, D], whose keys and values go into `held`."""
        num_sequences, num_new, end = *tokens.shape[:2], mask.shape[-1]  # end: of all tokens, the new ones included
        run = self._run if tokens.device.type == "cpu" and not self._decoder.training else self._forward
        known = held.narrow(3, 0, end)
        return run(tokens, places, mask, newest, known, num_sequences * num_new, num_sequences, num_new, end)

    def _forward(
        self, tokens: Tensor, places: Tensor, mask: Tensor, newest: Tensor, known: Tensor, *lengths: int
    ) -> Tensor:
        """Read; `lengths` are there for the recording, which names them."""
        parts, new = known.unbind(), known.narrow(3, -tokens.shape[1], tokens.shape[1]).unbind()
        layers = [_Given(*four) for four in zip(parts[::2], parts[1::2], new[::2], new[1::2], strict=True)]
        with nullcontext() if self._mlp is None else only_at(self._mlp, newest):
            read = self._decoder(
                inputs_embeds=tokens,
                position_ids=places,
                attention_mask=mask,
                past_key_values=Cache(layers=layers),  # pyright: ignore[reportArgumentType]
                use_cache=True,
            )
        return read.last_hidden_state[:, -1]

    def agrees(self, tokens: Tensor, num_new: int, expected: Tensor) -> bool:
        """Return whether reading the old tokens and then the new gives this state, as reading all at once does."""
        num_old = tokens.shape[1] - num_new
        new = self.inputs(tokens, num_new)
        if num_old > 0:
            self(*self.inputs(tokens[:, :num_old], num_old)[:4], new[4])
        return torch.allclose(self(*new), expected, atol=1e-4, rtol=1e-3)

    def inputs(self, tokens: Tensor, num_new: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what a pass takes to read the newest of these tokens [B, L, D]; keys and values are zeros."""
        num_sequences, end, _ = tokens.shape
        places = torch.arange(end - num_new, end, device=tokens.device)[None]
        mask = _future(end, tokens)[:, :, -num_new:]
        newest = torch.tensor([num_new - 1], device=tokens.device)
        return tokens[:, -num_new:], places, mask, newest, self.room(tokens, num_sequences, end + 2).zero_()

    def record(self, trials: Sequence[tuple[Tensor, int]]) -> None:
        """Replay the pass from now on, where that does the same."""
        examples = []
        for tokens, num_new in trials:
            *new, held = self.inputs(tokens, num_new)
            known = held[:, :, :, : tokens.shape[1]]
            lengths = (len(tokens) * num_new, len(tokens), num_new, tokens.shape[1])
            examples.append((*new, known, *lengths))
            # as where rows have words and padding of their own
            places, mask = (part.expand(len(tokens), *part.shape[1:]) for part in new[1:3])
            examples.append((new[0], places, mask, new[3], known, *lengths))
        self._run = record(self._forward, examples)


def _future(num_tokens: int, like: Tensor) -> Tensor:
    """Return what attention adds where a token looks at another one: minus infinity at those after it, [1, 1, L, L]."""
    return torch.full((1, 1, num_tokens, num_tokens), -torch.inf, dtype=like.dtype, device=like.device).triu(1)


# by backbone: the pass of one, None where it cannot be made
_PASSES: WeakKeyDictionary[Backbone, _Pass | None] = WeakKeyDictionary()


def _pass_of(backbone: Backbone) -> _Pass | None:
    if backbone not in _PASSES:
        was_training = backbone.model.training
        backbone.model.eval()
        with torch.inference_mode():
            _PASSES[backbone] = _make_pass(backbone)
        backbone.model.train(was_training)
    return _PASSES[backbone]


def _make_pass(backbone: Backbone) -> _Pass | None:
    cache = DynamicCache(config=backbone.config)
    if not backbone.takes_positions or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    decoder, random = backbone.model, torch.Generator().manual_seed(0)
    device = next(decoder.parameters()).device
    trials = []
    for num_sequences, num_new, num_old in TRIALS:
        tokens = torch.randn(num_sequences, num_old + num_new, backbone.width, generator=random)
        trials.append(((tokens * backbone.embedding_scale).to(device), num_new))
    decoder(inputs_embeds=trials[0][0], past_key_values=cache, use_cache=True)
    shapes: set[tuple[int, int]] = set()
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
        shapes |= {(part.shape[1], part.shape[-1]) for part in (layer.keys, layer.values)}
    if len(shapes) > 1:
        return None  # a family whose layers, or keys and values, differ in size
    made = _Pass(backbone, (2 * len(cache.layers), *shapes.pop()))
    try:
        for tokens, num_new in trials:
            expected = decoder(inputs_embeds=tokens, use_cache=False).last_hidden_state[:, -1]
            if not made.agrees(tokens, num_new, expected):
                return None
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        logger.debug("%s reads by its own cache: %s", backbone.source.name, error)
        return None  # a family whose attention wants something else
    if device.type == "cpu":  # elsewhere a call does not wait for the one before
        made.record(trials)
    return made
