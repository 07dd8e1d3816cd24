"""How likely a model finds whole episodes: was this in the data, and which checkpoint is better.

Episodes are read as acting reads them, window after window; nothing is sampled, and no environment is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode
from seqdec.errors import UsageError
from seqdec.sequence.draw import Draw
from seqdec.sequence.facts import HIDDEN, is_fact
from seqdec.sequence.windows import Windows
from seqdec.spaces.leaves import MISSING

if TYPE_CHECKING:  # whoever asks has a model
    from seqdec.model.sequence_model import SequenceModel


@dataclass(frozen=True, eq=False)
class Likelihood:
    """How likely a model finds an episode: the log probability of each predicted variable at each timestep, [T].

    Of vectors it is the log of a density, in raw units.
    """

    steps: Mapping[str, np.ndarray]

    @property
    def total(self) -> float:
        """Return the log probability of everything that was predicted."""
        return float(sum(values.sum() for values in self.steps.values()))

    @property
    def mean(self) -> float:
        """Return the log probability of a timestep, averaged: it does not depend on how long the episode is."""
        return self.total / len(next(iter(self.steps.values())))


def log_prob(model: "SequenceModel", episodes: Sequence[Episode], *, batch_size: int = 64) -> list[Likelihood]:
    """Return how likely a model finds episodes, timestep by timestep, as it reads them when it acts.

    The return to go is the episode's own. Facts of the prompt are unknown, or, for a model that was trained without
    unknown ones, the episode's own as well.

    Args:
        model: in evaluation mode.
        episodes: of the model's own spaces.
        batch_size: windows that are read at once.

    Raises:
        DataError: an episode does not fit the spaces.
    """
    windows, sizes = windows_of(model, episodes), [len(episode) for episode in episodes]
    names = [name for name in model.layout.predicted if name in model.layout.step_names]
    steps = [{name: np.zeros(size, np.float64) for name in names} for size in sizes]
    indices, rows = _windows_in_turn(windows, sizes)
    for begin in range(0, len(indices), batch_size):
        draw = Draw(windows, indices[begin : begin + batch_size])
        values = model.log_probs(gather_unknown(model, windows, draw.indices))
        for name in names:
            scores = values[name].double().cpu().numpy()
            for place, (row, first) in enumerate(rows[begin : begin + batch_size]):
                start, size = draw.starts[place], draw.sizes[place]
                steps[row][name][first : start + size] = scores[place, first - start : size]
    return [Likelihood(own) for own in steps]


def _windows_in_turn(windows: Windows, sizes: Sequence[int]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return windows that cover episodes of these sizes, and of each its episode and the first timestep that it scores.

    Each goes on behind the one before, as a full context goes on with its newest half. The last is a whole one where
    its tokens allow that, and scores its second half.
    """
    indices, rows, length = [], [], windows.layout.context_length
    for row, (flat, size) in enumerate(zip(np.cumsum([0, *sizes]), sizes, strict=False)):
        first = 0
        while first < size:
            indices.append(flat + first)
            rows.append((row, first))
            draw = Draw(windows, np.array([flat + first]))
            first = int(draw.starts[0] + draw.sizes[0])
            if draw.sizes[0] == length and first < size:
                first = min(first, size - length + length // 2)
    return np.array(indices), rows


def windows_of(model: "SequenceModel", episodes: Sequence[Episode]) -> Windows:
    """Return the windows of episodes as a model was trained on them."""
    # `gather_unknown` says which facts are unknown; episodes to be judged need not say their task
    layout = replace(model.layout, prompt_dropout=0.0, demo_group="text", demo_part="random")
    windows = Windows(from_episodes(list(episodes), model.data.spec), layout, text=model.data.text)
    if layout.has_words:
        windows.count_tokens(model.count_tokens)
    return windows


def gather_unknown(model: "SequenceModel", windows: Windows, indices: np.ndarray) -> dict[str, Tensor]:
    """Return a batch whose prompt says nothing, where the model was trained so."""
    batch = {name: values.to(model.device) for name, values in windows.gather(indices).items()}
    if model.layout.prompt_dropout == 0:
        return batch
    unknown = torch.ones_like(batch["mask"][:, :1])
    batch |= {HIDDEN + name: unknown for name in model.layout.prompt_names if is_fact(name)}
    shown = [f"{MISSING}demo.{name}" for name in model.layout.demo_names]
    return batch | {name: torch.ones_like(batch[name]) for name in shown}


@dataclass(frozen=True, eq=False)
class Ranking:
    """Checkpoints by how likely they find held-out actions of the best episodes.

    `edges` [bins + 1] are returns, `scores` [checkpoints, bins] the mean log probability of an action in episodes of
    such a return, `order` the checkpoints from the best one on, by the last bin.
    """

    edges: np.ndarray
    scores: np.ndarray
    order: list[int]


def rank_checkpoints(models: "Sequence[SequenceModel]", episodes: Sequence[Episode], *, num_bins: int = 4) -> Ranking:
    """Rank models without an environment: by the likelihood of held-out actions, in bins of the episodes' return.

    A policy that is asked for a high return can only do what the model finds likely in episodes that had one.

    Args:
        models: such as the checkpoints of a run, loaded.
        episodes: that none of them was trained on.
        num_bins: of equally many episodes.

    Raises:
        UsageError: there are fewer episodes than bins.
    """
    if len(episodes) < num_bins:
        raise UsageError(f"{len(episodes)} episodes for {num_bins} bins: give more, or take fewer bins")
    returns = np.array([episode.total_return for episode in episodes])
    bins = np.argsort(np.argsort(returns, kind="stable"), kind="stable") * num_bins // len(episodes)
    scores = np.zeros((len(models), num_bins))
    for index, model in enumerate(models):
        log_probs = [
            np.sum([likelihood.steps[name] for name in model.data.spec.action_leaves], axis=0)
            for likelihood in log_prob(model, episodes)
        ]
        of_bin = [
            [values for values, own in zip(log_probs, bins, strict=True) if own == bin] for bin in range(num_bins)
        ]
        scores[index] = [np.concatenate(values).mean() for values in of_bin]
    edges = np.array([returns[bins == b].min() for b in range(num_bins)] + [returns.max()])
    return Ranking(edges, scores, np.argsort(-scores[:, -1], kind="stable").tolist())


def is_in_data(model: "SequenceModel", episode: Episode, reference: Sequence[Episode] | np.ndarray) -> float:
    """Return the share of the data's episodes that the model finds no likelier than this one, from 0 to 1.

    Of an episode that is like the data it is uniform between 0 and 1; near 0 it is like none of them.

    Args:
        model: in evaluation mode.
        episode: to be judged by its mean log probability a timestep.
        reference: episodes of the data, held out at best, or their `Likelihood.mean`, [n].
    """
    is_scored = isinstance(reference, np.ndarray)
    scores = reference if is_scored else np.array([likelihood.mean for likelihood in log_prob(model, reference)])
    return float(np.mean(scores <= log_prob(model, [episode])[0].mean))
