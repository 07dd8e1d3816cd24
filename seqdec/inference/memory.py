"""Reading on: a decoder reads a few new tokens; keys and values of the others stand in memory with room for a context.

        memory  | start  observation  action  ...  newest |   room for more   |
                  read before                       new

transformers' own cache joins old and new tokens in fresh memory at every step, and its decoders spend most of a short
pass in Python. So keys and values are written into memory that was given, and the pass is recorded. Both are tried out
against the plain decoder (`passes`); where a family cannot do the one or the other, it reads as transformers has it,
and where that cannot go on as acting must, everything is read again each time (`caches`).
Rows may have read different numbers of tokens: each one's stand together, from the first place on.
"""

import copy

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from seqdec.inference.caches import continues
from seqdec.inference.passes import Pass, future, pass_of
from seqdec.model.backbone import Backbone
from seqdec.model.packed import pack


class Memory:
    """What a batch of sequences has read.

    Args:
        backbone: in evaluation mode.
        num_sequences: B.
        num_tokens: the most that a sequence is expected to have.
        use_cache: False keeps tokens instead, and reads all of them again each time: slow, and the reference.

    Example:
        >>> memory = Memory(backbone, num_sequences=2, num_tokens=60)
        >>> states = memory.read(tokens)  # of the newest token, [2, D]
    """

    def __init__(self, backbone: Backbone, num_sequences: int, num_tokens: int, *, use_cache: bool = True):
        self._backbone, self._num_tokens = backbone, num_tokens
        self._pass: Pass | None = pass_of(backbone) if use_cache else None
        self._use_cache = use_cache and (self._pass is not None or continues(backbone))
        self._held: Tensor | None = None  # keys and values of each layer, [2 * layers, B, heads, num_tokens, width]
        self._cache: Cache | None = None
        self.num_sequences = num_sequences
        weight = next(backbone.model.parameters())
        self._places = torch.arange(num_tokens, device=weight.device)[None]
        self._mask = future(num_tokens, weight)
        self.forget()

    def forget(self) -> None:
        """Begin anew, in the same room."""
        self.num_read = 0  # tokens of the longest row
        self._lengths: Tensor | None = None  # tokens of each row, [B]; None where they have read equally many
        self._is_token: Tensor | None = None  # False on padding between tokens, [B, places], of transformers' own cache
        self._tokens: Tensor | None = None  # what was read, where all is read again
        if self._pass is None and self._use_cache:
            self._cache = DynamicCache(config=self._backbone.config)

    @property
    def has_trees(self) -> bool:
        """Whether `look` works."""
        return self._pass is not None

    def read(self, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """Read new tokens; return the state of the newest, [B, D].

        Args:
            tokens: [B, n, D].
            counts: how many of them each row has, int64 [B], padding behind; all by default. The state of a row without
                any is no state.
        """
        if counts is None and self._lengths is None and self._pass is not None:
            return self._read_evenly(self._pass, tokens)
        if counts is None:
            counts = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
        states = self.read_all(tokens, counts)
        return states[torch.arange(len(states), device=states.device), (counts - 1).clamp(min=0)]

    def _read_evenly(self, run: Pass, tokens: Tensor) -> Tensor:
        begin, end = self.num_read, self.num_read + tokens.shape[1]
        assert end <= self._num_tokens, "there is no room for so many tokens"
        self.num_read = end
        newest = self._places[0, end - begin - 1 : end - begin]
        if self._held is None:
            self._held = run.room(tokens, self.num_sequences, self._num_tokens)
        places = self._places[:, begin:end]
        mask = self._mask[:, :, begin:end, :end].clone()  # [1, 1, n, end]; kernels want rows that are aligned
        return run(tokens, places, mask, newest, self._held)

    def read_all(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Read new tokens [B, n, D], of which each row has `counts` [B]; return the states of all, [B, n, D]."""
        num_new = tokens.shape[1]
        lengths = self._lengths_of(tokens)
        self._lengths = lengths + counts
        if self._pass is not None:
            places = lengths[:, None] + torch.arange(num_new, device=tokens.device)
            self.num_read = max(self.num_read, int(self._lengths.max()))
            end = int(places[:, -1].max()) + 1
            sees = torch.arange(end, device=tokens.device) <= places[..., None]  # [B, n, end]
            held = self._with_room(self._pass, tokens, end)
            return self._pass.at(tokens, places, places, _added(sees, tokens), held)
        self.num_read = int(self._lengths.max())
        if self._use_cache:
            is_new = torch.arange(num_new, device=tokens.device) < counts[:, None]
            self._is_token = is_new if self._is_token is None else torch.cat([self._is_token, is_new], 1)
            is_token = None if self._is_token.all() else self._is_token
            return self._backbone.read(tokens, is_token, self._cache)
        parts = [(tokens, counts)] if self._tokens is None else [(self._tokens, lengths), (tokens, counts)]
        self._tokens, _ = pack(parts)
        states = self._backbone.read(self._tokens)
        places = (lengths[:, None] + torch.arange(num_new, device=tokens.device)).clamp(max=states.shape[1] - 1)
        return states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))

    def look(self, tokens: Tensor, depths: Tensor, sees: Tensor) -> Tensor:
        """Return the states [B, n, D] of tokens that go on from here in several ways; nothing of it is remembered.

        Args:
            tokens: [B, n, D].
            depths: how many of the new tokens stand before each one, int64 [B, n].
            sees: which of the new tokens each one sees: itself, and those before it, bool [B, n, n].
        """
        assert self._pass is not None
        lengths, num_new = self._lengths_of(tokens), tokens.shape[1]
        end = int(lengths.max()) + num_new
        held = self._with_room(self._pass, tokens, end)
        places = lengths[:, None] + torch.arange(num_new, device=tokens.device)
        every = (torch.arange(end, device=tokens.device) < lengths[:, None])[:, None].repeat(1, num_new, 1)
        every.scatter_(2, places[:, None].expand(-1, num_new, -1), sees)
        return self._pass.at(tokens, lengths[:, None] + depths, places, _added(every, tokens), held)

    def _lengths_of(self, tokens: Tensor) -> Tensor:
        if self._lengths is not None:
            return self._lengths
        return torch.full((len(tokens),), self.num_read, device=tokens.device)

    def _with_room(self, run: Pass, like: Tensor, num_tokens: int) -> Tensor:
        """Return the memory with room for so many tokens, at least."""
        if self._held is None:
            self._held = run.room(like, self.num_sequences, max(self._num_tokens, num_tokens))
        if self._held.shape[3] < num_tokens:
            held = run.room(like, self.num_sequences, max(num_tokens, 2 * self._held.shape[3]))
            held[:, :, :, : self._held.shape[3]] = self._held
            self._held = held
        return self._held

    def copy(self) -> "Memory":
        """Return a memory of the same, which goes on by itself.

        Both write into the same room, each over what the other has read since, until one has selected rows: one of
        them is to be given up before the other reads.
        """
        other = copy.copy(self)
        other._cache = copy.deepcopy(self._cache)  # transformers' own changes in place
        return other

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, int64 [B']."""
        self.num_sequences = len(rows)
        self._lengths, self._is_token, self._tokens = (
            None if part is None else part[rows] for part in (self._lengths, self._is_token, self._tokens)
        )
        if self._cache is not None and self.num_read > 0:
            self._cache.batch_select_indices(rows)
        if self._pass is not None and self._held is not None:
            num_tokens = self._held.shape[3] if self._lengths is not None else self._num_tokens
            kept = self._held[:, rows, :, : self.num_read]
            self._held = self._pass.room(kept, len(rows), num_tokens)
            self._held[:, :, :, : self.num_read] = kept


def _added(sees: Tensor, like: Tensor) -> Tensor:
    """Return what attention adds for each place that a token sees, bool [B, n, end], or does not: [B, 1, n, end]."""
    return torch.zeros(sees.shape, dtype=like.dtype, device=like.device).masked_fill(~sees, -torch.inf)[:, None]
