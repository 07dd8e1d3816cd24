"""A batch of sequences being written, with its key-value cache: write what is known, sample what is not.

    context = Context(model, num_sequences=16)
    context.write(observation=observations, return_to_go=targets)
    actions = context.sample("action")

`sample` runs the backbone once over all that was queued since the last time, so a step of acting costs one forward
of a few tokens. A full context keeps the prompt and the newest half of its timesteps and reads them again, which is
exact: the model sees a window such as it was trained on.
"""

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from seqdec import noise
from seqdec.errors import UsageError, suggest
from seqdec.model import SequenceModel


class Context:
    """Sequences that share one timestep, written slot after slot in the layout's order.

    Args:
        model: in evaluation mode.
        num_sequences: B.
        streams: of random numbers, one for each sequence (see `noise`); those of seed 0 by default.
        use_cache: False reads everything again for every sample, which is slow and serves as the reference.

    Example:
        >>> context = Context(model, num_sequences=2)
        >>> context.write(observation=observations, return_to_go=[500.0, 20.0])
        >>> context.sample("action").shape
        torch.Size([2])
    """

    def __init__(
        self,
        model: SequenceModel,
        num_sequences: int,
        *,
        streams: np.ndarray | None = None,
        use_cache: bool = True,
    ):
        self.model, self.layout = model, model.layout
        self.num_sequences, self.use_cache = num_sequences, use_cache
        self._streams = noise.streams(0, 0, num_sequences) if streams is None else streams
        self._num_draws = 0
        self.timestep = 0  # inside the episode, of the newest timestep that is being written
        self._prompt: dict[str, Tensor | None] = {}
        self._steps: list[dict[str, Tensor | None]] = [{}]  # the timesteps of the window, the last one open
        self._restart()

    def _restart(self) -> None:
        """Forget what the backbone has read; the values stay and are read again."""
        self._cache = DynamicCache(config=self.model.backbone.config) if self.use_cache else None
        self._num_read = 0  # tokens
        self._hidden: Tensor | None = None  # state after the last token read, [B, D]

    def write(self, **values: object) -> None:
        """Write variables, each [B, size] or [B] in raw units; None writes "unknown".

        Writing a variable that the newest timestep has already begins the next timestep.

        Raises:
            UsageError: for a name that the layout does not have, or values of another shape.
        """
        names = [*self.layout.prompt_names, *self.layout.step_names]
        for name in values:
            if name not in names:
                raise UsageError(f"the layout has no {name!r}{suggest(name, names)}: it has {', '.join(names)}")
        for name in self.layout.prompt_names:
            if name in values:
                if self._num_read > 1 or len(self._steps) > 1 or self._steps[0]:
                    raise UsageError(f"{name} belongs to the prompt: write it before the first step")
                self._prompt[name] = self._tensor(name, values[name])
        for name in self.layout.step_names:
            if name in values:
                self._set(name, self._tensor(name, values[name]))

    def _set(self, name: str, value: Tensor | None) -> None:
        if name in self._steps[-1]:
            missing = [other for other in self.layout.step_names if other not in self._steps[-1]]
            if missing:
                raise UsageError(f"{name} of timestep {self.timestep} is written already; {missing[0]} is missing")
            self._begin_timestep()
        self._steps[-1][name] = value

    def _begin_timestep(self) -> None:
        self.timestep += 1
        if len(self._steps) == self.layout.context_length:
            keep = self.layout.context_length // 2
            self._steps = self._steps[len(self._steps) - keep :]
            self._restart()
        self._steps.append({})

    def _tensor(self, name: str, value: object) -> Tensor | None:
        if value is None:
            return None
        variable = self.layout.variable(name)
        dtype = torch.long if variable.kind == "discrete" else torch.float32
        tensor = torch.as_tensor(value, dtype=dtype, device=self.model.device)
        if tensor.ndim == 1 and variable.shape == (1,):
            tensor = tensor[:, None]
        if tensor.shape != (self.num_sequences, *variable.shape):
            raise UsageError(
                f"{name} has shape {tuple(tensor.shape)}: {(self.num_sequences, *variable.shape)} is expected"
            )
        return tensor

    @torch.no_grad()
    def sample(self, name: str, *, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
        """Sample a variable given all slots before its own, and write it; raw units, [B, size] or [B].

        Args:
            name: a variable that the layout predicts.
            temperature: 1 samples the model's distribution, 0 takes its mode.
            top_k: keeps the most likely values or bins only.

        Raises:
            UsageError: if the layout does not predict it, or a slot before it has not been written.
        """
        hidden = self.predict(name)
        shape = self.layout.variable(name).shape
        uniform = noise.uniform(self._streams, self._num_draws, shape, hidden.device)
        self._num_draws += 1
        value = self.model.codec(name).sample(hidden, uniform, temperature, top_k)
        self._set(name, value)
        return value

    @torch.no_grad()
    def predict(self, name: str) -> Tensor:
        """Return the hidden state that predicts a variable's next value, [B, D], reading what is queued."""
        if name not in self.layout.predicted:
            raise UsageError(f"the model does not predict {name!r}: it predicts {', '.join(self.layout.predicted)}")
        if name in self._steps[-1]:
            if all(other in self._steps[-1] for other in self.layout.step_names):
                self._begin_timestep()
            else:
                raise UsageError(f"{name} of timestep {self.timestep} is written already")
        position = self.layout.position(name, len(self._steps) - 1)
        if self._num_read > position:
            raise UsageError(f"{name} of timestep {self.timestep} came too late: later slots have been read")
        if self._num_read < position:
            self._read(position)
        assert self._hidden is not None
        return self._hidden

    def _read(self, end: int) -> None:
        """Let the backbone read the tokens up to `end`."""
        first = self._num_read if self.use_cache else 0
        tokens = torch.stack([self._token(position) for position in range(first, end)], 1)  # [B, new, D]
        if self._cache is None:
            output = self.model.backbone(inputs_embeds=tokens, use_cache=False)
        else:
            output = self.model.backbone(inputs_embeds=tokens, past_key_values=self._cache, use_cache=True)
        self._hidden = output.last_hidden_state[:, -1]
        self._num_read = end

    def _token(self, position: int) -> Tensor:
        """Embed one token [B, D] from the values written for its slot."""
        if position == 0:
            return self.model.start.expand(self.num_sequences, -1)
        first_step = 1 + len(self.layout.prompt)
        if position < first_step:
            names = self.layout.prompt[position - 1]
            return torch.stack([self._embed(name, self._prompt, "the prompt") for name in names]).sum(0)
        index, slot = divmod(position - first_step, len(self.layout.step))
        timestep = self.timestep - (len(self._steps) - 1) + index
        token = self.model.embed_time(torch.tensor(timestep, device=self.model.device)).expand(self.num_sequences, -1)
        for name in self.layout.step[slot]:
            written_at = index - (name in self.layout.late)
            if written_at >= 0:
                token = token + self._embed(name, self._steps[written_at], f"timestep {timestep}")
        return token

    def _embed(self, name: str, values: dict[str, Tensor | None], where: str) -> Tensor:
        if name not in values:
            raise UsageError(f"{name} of {where} has not been written: the layout reads it before what was asked")
        value = values[name]
        if value is None:
            shape = (self.num_sequences, *self.layout.variable(name).shape)
            dtype = torch.long if self.layout.variable(name).kind == "discrete" else torch.float32
            start = self.layout.variable(name).start
            placeholder = torch.full(shape, start, dtype=dtype, device=self.model.device)
            unknown = torch.ones(self.num_sequences, dtype=torch.bool, device=self.model.device)
            return self.model.codec(name).embed(placeholder, unknown)
        return self.model.codec(name).embed(value)

    def fork(self, num_branches: int) -> None:
        """Repeat every sequence: row i becomes rows i * num_branches to (i + 1) * num_branches - 1.

        Each branch samples by itself; the first one as the sequence would have without the others.
        """
        streams = noise.branches(self._streams, num_branches)
        self._select(torch.arange(self.num_sequences).repeat_interleave(num_branches))
        self._streams = streams

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order; a row may be named more than once."""
        self._select(torch.as_tensor(rows, dtype=torch.long))

    def _select(self, rows: Tensor) -> None:
        self._streams = self._streams[rows.cpu().numpy()]
        rows = rows.to(self.model.device)
        for values in (self._prompt, *self._steps):
            for name, value in values.items():
                values[name] = None if value is None else value[rows]
        if self._cache is not None and self._num_read > 0:
            self._cache.batch_select_indices(rows)
        if self._hidden is not None:
            self._hidden = self._hidden[rows]
        self.num_sequences = len(rows)
