"""The sequence model: codecs write a window into tokens, a backbone reads them, codecs read its states.

    batch {name: [B, K, ...]} -> codecs embed -> tokens [B, L, D] -> backbone -> states [B, L, D] -> losses by variable

It computes; `folder` writes and reads it, `training` moves its parameters, `inference` asks it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdec.model.backbone import Backbone
from seqdec.model.codecs import Codec, build_codec
from seqdec.model.perception import Text, Vocabulary, marks_of, time_frequencies, time_projection, waves
from seqdec.sequence.facts import HIDDEN
from seqdec.sequence.layout import Layout
from seqdec.spaces.leaves import MISSING
from seqdec.spaces.spec import EnvironmentSpec

if TYPE_CHECKING:  # acting needs no data
    from seqdec.sequence.stream import StreamWindows
    from seqdec.sequence.windows import Windows


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
    names = ["min", *(f"q{10 * tenth}" for tenth in range(1, 10)), "max"]
    return dict(zip(names, map(float, np.quantile(returns, np.linspace(0, 1, 11))), strict=True))


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
        vocabulary = None
        if layout.has_text:
            vocabulary = Vocabulary(backbone.tokenize, self.backbone.get_input_embeddings())
        self.codecs = nn.ModuleDict()
        for variable in layout.variables:
            self.codecs[_key(variable.name)] = build_codec(variable, width, scale, vocabulary)
        self.start = nn.Parameter(torch.randn(width) * scale)
        self.time_projection = time_projection(width, scale)
        self.register_buffer("frequencies", time_frequencies(), persistent=False)
        if layout.demo:
            self.demo = nn.Parameter(torch.randn(width) * scale)  # tells a demo's timesteps from the episode's own

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.start.device

    def codec(self, name: str) -> Codec:
        """Return the codec of a variable."""
        return cast(Codec, self.codecs[_key(name)])

    def embed_time(self, timesteps: Tensor) -> Tensor:
        """Embed indices inside an episode by a fixed sinusoid (Vaswani et al. 2017) and a projection, [..., D]."""
        return self.time_projection(waves(timesteps, self.frequencies))

    def embed_values(self, name: str, values: Tensor, unknown: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Embed values of a variable, [..., tokens of its slot, D]; of a text, also which tokens are words [..., n]."""
        codec = self.codec(name)
        if isinstance(codec, Text):
            return codec.embed_tokens(values, unknown)
        return codec.embed(values, unknown).unsqueeze(-2), None

    def embed_window(self, batch: Mapping[str, Tensor], drop_observation: float = 0.0) -> tuple[Tensor, Tensor | None]:
        """Write a batch of windows into tokens [B, L, D], up to the last token that predicts something.

        Args:
            batch: as `Windows.gather` gives it.
            drop_observation: share of the observations that are written as "unknown", at random.

        Returns:
            the tokens, and False where a token is padding of a text [B, L], None where there are no texts.
        """
        layout = self.layout
        time = self.embed_time(batch["timestep"])  # [B, K, D]
        prompt = [self._embed_slot(slot, batch) for slot in layout.prompt]
        steps = [self._embed_slot(slot, batch, drop_observation) for slot in layout.step]
        # start, prompt, demo, timesteps
        parts = [self.start.expand(len(time), 1, -1), *(fact.flatten(1, 2) for fact, _ in prompt)]
        parts += [self.embed_demo(batch)] if layout.demo else []
        slots = [(tokens + time[:, :, None]).to(time.dtype) for tokens, _ in steps]  # [B, K, n, D] each
        parts.append(torch.cat(slots, 2).flatten(1, 2))
        tokens = torch.cat([part.to(time.dtype) for part in parts], 1)
        num_tokens = max(layout.position(name, time.shape[1] - 1) for name in layout.predicted)
        if not layout.has_text:
            return tokens[:, :num_tokens], None
        # which of them are words, or no text at all
        marks = [torch.ones_like(tokens[:, :1, 0], dtype=torch.bool)]
        marks += [marks_of(fact, words).flatten(1) for fact, words in prompt]
        marks += [marks[0].expand(-1, layout.first_step - layout.first_demo)]
        marks += [torch.cat([marks_of(step, words) for step, words in steps], 2).flatten(1)]
        return tokens[:, :num_tokens], torch.cat(marks, 1)[:, :num_tokens]

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
            parts = [self.embed_values(name, values, missing)[0] for name, values, missing in shown]
            slots.append((torch.stack(parts).sum(0) + extra).to(extra.dtype))  # [B, demo_length, 1, D]
        return torch.cat(slots, 2).flatten(1, 2)

    def _embed_slot(
        self, slot: tuple[str, ...], batch: Mapping[str, Tensor], drop_observation: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        """Embed a slot of every timestep [B, K, n, D]; of a text, also which tokens are words [B, K, n]."""
        parts: list[Tensor] = []
        words = None
        for name in slot:
            unknown, hidden = batch.get(MISSING + name), batch.get(HIDDEN + name)
            if drop_observation > 0 and self.layout.variable(name).role == "observation":
                hidden = torch.rand(batch["timestep"].shape, device=self.device) < drop_observation
            if hidden is not None and unknown is not None:  # of a vector, an entry may be missing by itself
                unknown = unknown | hidden.reshape(*hidden.shape, *[1] * (unknown.ndim - 2))
            unknown = hidden if unknown is None else unknown
            embedded, words = self.embed_values(name, batch[name], unknown)
            if name in self.layout.late:  # in the slot of the next timestep; the first has none
                embedded = F.pad(embedded[:, :-1], (0, 0, 0, 0, 1, 0))
            parts.append(embedded)
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0), words

    def forward(self, batch: Mapping[str, Tensor], drop_observation: float = 0.0) -> dict[str, Tensor]:
        """Return each predicted variable's loss, summed over the slots that are there, in nats per entry.

        A slot of padding is not there, nor is one whose value is missing, even in part.
        """
        losses = {}
        for name, states in self._predicting(batch, drop_observation).items():
            loss = self.codec(name).predict(states).loss(batch[name])  # [B, K]
            losses[name] = loss.masked_fill(~self._is_there(name, batch), 0.0).sum()
        return losses

    @torch.inference_mode()
    def log_probs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the log probability of each predicted value in raw units, [B, K], 0 where there is none."""
        values = {}
        for name, states in self._predicting(batch).items():
            value = self.codec(name).predict(states).log_prob(batch[name])
            values[name] = value.masked_fill(~self._is_there(name, batch), 0.0)
        return values

    def _is_there(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Return where a variable has a value that is known, [B, K], or [B, 1] of the prompt's."""
        mask = batch["mask"] if name in self.layout.step_names else torch.ones_like(batch["mask"][:, :1])
        if MISSING + name not in batch:
            return mask
        return mask & ~batch[MISSING + name].reshape(*mask.shape, -1).any(2)

    def _predicting(self, batch: Mapping[str, Tensor], drop_observation: float = 0.0) -> dict[str, Tensor]:
        """Return the states that predict each variable, [B, K, D], or [B, 1, D] of the prompt's."""
        tokens, is_word = self.embed_window(batch, drop_observation)
        num_timesteps = batch["mask"].shape[1]
        before = {name: self.layout.positions(name)[:num_timesteps] - 1 for name in self.layout.predicted}
        if is_word is not None:  # what is padding in every sequence need not be read
            is_read = is_word.any(0)
            places = (is_read.cumsum(0) - 1).cpu().numpy()
            before = {name: places[positions] for name, positions in before.items()}
            tokens, is_word = tokens[:, is_read], is_word[:, is_read]
        places = torch.as_tensor(np.unique(np.concatenate([*before.values()])), device=tokens.device)
        hidden = self.backbone_source.read(tokens, is_word, places=places)
        return {
            name: hidden.index_select(1, torch.as_tensor(positions, device=hidden.device))
            for name, positions in before.items()
        }

    def own_state(self) -> dict[str, Tensor]:
        """Everything but the backbone, as `state_dict` has it."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("backbone.")}


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
    return model


@cache
def _key(name: str) -> str:
    """Return a variable's name as torch allows it for a module; no two names become one."""
    return name.replace("%", "%25").replace("/", "%2F").replace(".", "/")
