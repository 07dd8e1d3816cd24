"""The sequence model: codecs write a window into tokens, a backbone reads them, codecs read its states.

    batch {name: [B, K, ...]} -> codecs embed -> tokens [B, L, D] -> backbone -> states [B, L, D] -> losses by variable

Where all slots are one token each, every row has the same places; where some are words, rows are packed (`packed`).
It computes; `folder` writes and reads it, `training` moves its parameters, `inference` asks it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdec.model.backbone import Backbone
from seqdec.model.codecs import Codec, build_codec
from seqdec.model.distributions import Distribution
from seqdec.model.packed import pack_window
from seqdec.model.perception import time_frequencies, time_projection, waves
from seqdec.model.words import Words
from seqdec.sequence.facts import HIDDEN
from seqdec.sequence.layout import Layout
from seqdec.sequence.variable import Variable
from seqdec.spaces.leaves import MISSING
from seqdec.spaces.spec import EnvironmentSpec

if TYPE_CHECKING:  # acting needs no data
    from seqdec.sequence.stream import StreamWindows
    from seqdec.sequence.windows import Windows


RETURNS = ("min", *(f"q{10 * tenth}" for tenth in range(1, 10)), "max")  # quantiles, in tenths


@dataclass(frozen=True)
class DataSummary:
    """What a policy keeps of the data that it was trained on.

    `returns` has the quantiles of the episodes' returns by name: "min", "q10", ..., "q90", "max"; `text` says what
    the task is, for prompts that have a text.
    """

    spec: EnvironmentSpec
    returns: Mapping[str, float]
    text: str = ""


def summarize_returns(returns: np.ndarray) -> dict[str, float]:
    """Quantiles of the episodes' returns by name, in tenths."""
    return dict(zip(RETURNS, map(float, np.quantile(returns, np.linspace(0, 1, 11))), strict=True))


class SequenceModel(nn.Module):
    """A joint distribution over the variables of a layout, one codec each around a shared backbone.

    Example:
        >>> from seqdec import Windows, build_model, layout_from_spaces, load_backbone
        >>> from seqdec.data import environment_of
        >>> from seqdec.play import scripted_cartpole
        >>> dataset = scripted_cartpole(num_episodes=4)
        >>> spec = environment_of(dataset)
        >>> layout = layout_from_spaces("multi_game", spec.observation_space, spec.action_space)
        >>> model = build_model(Windows(dataset, layout), load_backbone("small"))
    """

    frequencies: Tensor

    def __init__(self, layout: Layout, backbone: Backbone, data: DataSummary):
        super().__init__()
        self.layout, self.data = layout, data
        self.backbone_source = backbone
        self.backbone = backbone.model
        width, scale = backbone.width, backbone.embedding_scale
        self.vocabulary = backbone.vocabulary() if layout.has_words else None  # the backbone's own
        self.codecs = nn.ModuleDict()
        for variable in layout.variables:
            self.codecs[_key(variable.name)] = self._build_codec(variable)
        self.register_buffer("frequencies", time_frequencies(), persistent=False)
        if layout.is_language:  # which has nothing but words
            return
        self.start = nn.Parameter(torch.randn(width) * scale)
        self.time_projection = time_projection(width, scale)
        if layout.demo:
            self.demo = nn.Parameter(torch.randn(width) * scale)  # tells a demo's timesteps from the episode's own

    def _build_codec(self, variable: Variable) -> nn.Module:
        width, scale = self.backbone_source.width, self.backbone_source.embedding_scale
        if not variable.is_words:
            return build_codec(variable, width, scale)
        assert self.vocabulary is not None
        return Words(variable, width, scale, self.vocabulary, is_language=self.layout.is_language)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.frequencies.device

    def codec(self, name: str) -> Codec:
        """Return the codec of a variable that is one token."""
        return cast(Codec, self.codecs[_key(name)])

    def words(self, name: str) -> Words | None:
        """Return the codec of a variable that is written in words, None for any other."""
        codec = self.codecs[_key(name)]
        return codec if isinstance(codec, Words) else None

    def count_tokens(self, name: str, values: Sequence[str] | Sequence[float]) -> np.ndarray:
        """Return how many tokens each value of a variable that is written in words takes, int64 [n]."""
        words = self.words(name)
        assert words is not None
        return words.count(values)

    def embed_start(self) -> Tensor:
        """Return what every sequence begins with, [D]: learned, or the backbone's own first token."""
        if not self.layout.is_language:
            return self.start
        assert self.vocabulary is not None
        return self.vocabulary.table(torch.tensor(self.vocabulary.first, device=self.device))

    def embed_time(self, timesteps: Tensor) -> Tensor:
        """Embed indices inside an episode by a fixed sinusoid (Vaswani et al. 2017) and a projection, [..., D]."""
        return self.time_projection(waves(timesteps, self.frequencies))

    def embed_values(self, name: str, values: Tensor, unknown: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Embed values of a variable [B, ...], without their time.

        Returns:
            tokens [B, n, D], and of words how many each value has, int64 [B]: they stand on the left.
        """
        words = self.words(name)
        if words is not None:
            return words.embed(values, unknown)
        return self.codec(name).embed(values, unknown).unsqueeze(-2), None

    def embed_window(self, batch: Mapping[str, Tensor], drop_observation: float = 0.0) -> Tensor:
        """Write a batch of windows into tokens [B, L, D], up to the last token that predicts something.

        Args:
            batch: as `Windows.gather` gives it; nothing in it is written in words.
            drop_observation: share of the observations that are written as "unknown", at random.
        """
        layout = self.layout
        time = self.embed_time(batch["timestep"])  # [B, K, D]
        parts = [self.start.expand(len(time), 1, -1)]
        parts += [self.embed_slot(slot, batch) for slot in layout.prompt]
        parts += [self.embed_demo(batch)] if layout.demo else []
        steps = [(self.embed_slot(slot, batch, drop_observation) + time).to(time.dtype) for slot in layout.step]
        parts.append(torch.stack(steps, 2).flatten(1, 2))
        tokens = torch.cat([part.to(time.dtype) for part in parts], 1)
        return tokens[:, : max(layout.position(name, time.shape[1] - 1) for name in layout.predicted)]

    def embed_demo(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Write the timesteps of another episode into tokens, [B, demo_length * slots, D].

        Args:
            batch: "demo.NAME" [B, demo_length, ...] of each variable that a demo shows, and "missing.demo.NAME", True
                where there is no such timestep or the value is not known.
        """
        # counted within the demo: it may be a part of an episode
        time = self.embed_time(torch.arange(self.layout.demo_length, device=self.device))
        extra = (time + self.demo)[:, None]  # [demo_length, 1, D]
        slots = []
        for slot in self.layout.demo:
            shown = [(name, batch[f"demo.{name}"], batch[f"{MISSING}demo.{name}"]) for name in slot]
            parts = [self.codec(name).embed(values, missing) for name, values, missing in shown]
            slots.append((torch.stack(parts).sum(0) + extra[:, 0]).to(extra.dtype))  # [B, demo_length, D]
        return torch.stack(slots, 2).flatten(1, 2)

    def embed_slot(self, slot: tuple[str, ...], batch: Mapping[str, Tensor], drop_observation: float = 0.0) -> Tensor:
        """Embed a slot of one token of every timestep [B, K, D]."""
        parts: list[Tensor] = []
        for name in slot:
            embedded = self.codec(name).embed(batch[name], self.unknown(name, batch, drop_observation))
            if name in self.layout.late:  # in the slot of the next timestep; the first has none
                embedded = F.pad(embedded[:, :-1], (0, 0, 1, 0))
            parts.append(embedded)
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def unknown(self, name: str, batch: Mapping[str, Tensor], drop_observation: float) -> Tensor | None:
        """Return where a variable is written as "unknown", [B, K], or [B, K, size] entry by entry."""
        unknown, hidden = batch.get(MISSING + name), batch.get(HIDDEN + name)
        if drop_observation > 0 and self.layout.variable(name).role == "observation":
            hidden = torch.rand(batch[name].shape[:2], device=self.device) < drop_observation
        if hidden is not None and unknown is not None:  # of a vector, an entry may be missing by itself
            unknown = unknown | hidden.reshape(*hidden.shape, *[1] * (unknown.ndim - 2))
        return hidden if unknown is None else unknown

    def forward(self, batch: Mapping[str, Tensor], drop_observation: float = 0.0) -> dict[str, Tensor]:
        """Return each predicted variable's loss, summed over the slots that are there.

        It is in nats per entry, of words in nats per text. A slot of padding is not there, nor is one whose value is
        missing, even in part, nor words that are hidden.
        """
        losses = {}
        for name, prediction in self._predictions(batch, drop_observation).items():
            loss = prediction.by_slot(prediction.distribution.loss(prediction.values))  # [B, K]
            losses[name] = loss.masked_fill(~self._is_there(name, batch), 0.0).sum()
        return losses

    @torch.inference_mode()
    def log_probs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the log probability of each predicted value in raw units, [B, K], 0 where there is none."""
        values = {}
        for name, prediction in self._predictions(batch).items():
            value = prediction.by_slot(prediction.distribution.log_prob(prediction.values))
            values[name] = value.masked_fill(~self._is_there(name, batch), 0.0)
        return values

    def _is_there(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Return where a variable has a value that is known, [B, K], or [B, 1] of the prompt's."""
        mask = batch["mask"] if name in self.layout.step_names else torch.ones_like(batch["mask"][:, :1])
        if MISSING + name not in batch:
            return mask
        return mask & ~batch[MISSING + name].reshape(*mask.shape, -1).any(2)

    def _predictions(self, batch: Mapping[str, Tensor], drop_observation: float = 0.0) -> "dict[str, _Prediction]":
        """Return what is predicted of each variable at each of its slots, [B, K], or [B, 1] of the prompt's."""
        if self.layout.has_words:
            return self._packed_predictions(batch, drop_observation)
        tokens = self.embed_window(batch, drop_observation)
        num_timesteps = batch["mask"].shape[1]
        before = {name: self.layout.positions(name)[:num_timesteps] - 1 for name in self.layout.predicted}
        places = torch.as_tensor(np.unique(np.concatenate([*before.values()])), device=tokens.device)
        hidden = self.backbone_source.read(tokens, places=places)
        predictions = {}
        for name, positions in before.items():
            states = hidden.index_select(1, torch.as_tensor(positions, device=hidden.device))
            predictions[name] = _Prediction(self.codec(name).predict(states), batch[name])
        return predictions

    def _packed_predictions(self, batch: Mapping[str, Tensor], drop_observation: float) -> "dict[str, _Prediction]":
        window = pack_window(self, batch, drop_observation)
        lower = self.backbone_source.lower if self.layout.is_language else None
        hidden = self.backbone_source.read(window.tokens) if lower is None else lower.read(window.tokens, window.keys())
        predictions = {}
        for name in self.layout.predicted:
            positions = self.layout.positions(name)[: batch["mask"].shape[1]]
            words = self.words(name)
            if words is None:  # a padded timestep has no slot: whatever it gets is not counted
                before = torch.from_numpy((window.slots.begins[:, positions] - 1).clip(0, hidden.shape[1] - 1))
                states = hidden.gather(1, before.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[2]))
                predictions[name] = _Prediction(self.codec(name).predict(states), batch[name])
                continue
            rows, steps, places, ids = window.words_of(name, positions)
            states = hidden[torch.from_numpy(rows), torch.from_numpy(places - 1)]
            shape = len(hidden), len(positions)
            of_slot = torch.from_numpy(rows * shape[1] + steps).to(hidden.device)
            values = torch.from_numpy(ids).to(hidden.device)
            predictions[name] = _Prediction(words.predict(states), values, of_slot, shape)
        return predictions

    def own_state(self) -> dict[str, Tensor]:
        """Everything but the backbone, as `state_dict` has it."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("backbone.")}


@dataclass(frozen=True, eq=False)
class _Prediction:
    """The distributions of some values: one a slot, or of words one a token, each of which belongs to a slot."""

    distribution: Distribution
    values: Tensor
    of_slot: Tensor | None = None
    shape: tuple[int, int] = (0, 0)

    def by_slot(self, numbers: Tensor) -> Tensor:
        """Return numbers of the slots [B, K]: those of its tokens, summed."""
        if self.of_slot is None:
            return numbers
        sums = numbers.new_zeros(self.shape[0] * self.shape[1]).index_add(0, self.of_slot, numbers)
        return sums.reshape(self.shape)


def build_model(windows: "Windows | StreamWindows", backbone: Backbone, *, seed: int = 0) -> SequenceModel:
    """Return a new model for these windows, its codecs fitted to them.

    Args:
        windows: the training data; they carry the layout and the environment that the data came from.
        backbone: what `load_backbone` gave.
        seed: of the new weights.
    """
    data = DataSummary(windows.spec, summarize_returns(windows.returns), windows.text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SequenceModel(windows.layout, backbone, data)
    for name, values in windows.statistics().items():
        model.codec(name).fit(values)
    if windows.layout.has_words:
        windows.count_tokens(model.count_tokens)
    return model


@cache
def _key(name: str) -> str:
    """Return a variable's name as torch allows it for a module; no two names become one."""
    return name.replace("%", "%25").replace("/", "%2F").replace(".", "/")
