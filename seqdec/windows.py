"""Windows of the data as batches: contiguous slices of episodes, gathered from the memory-mapped Arrow buffers.

Every timestep of the data is the candidate for one window: the window that has it in the middle, moved inside the
episode. So long episodes weigh by their length, and a window is padded, on the right, only where the whole episode
is shorter than the context. The windows of step n are a function of the seed and n alone.
"""

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from torch import Tensor

from seqdec import hindsight, sources
from seqdec.episode import delay_rewards, returns_to_go
from seqdec.errors import DataError
from seqdec.layout import Layout

STATISTICS_SAMPLE = 1_000_000  # timesteps read for means, deviations and quantiles


class Windows:
    """The windows of a data set, one for each of its timesteps.

    Args:
        dataset: rows of `sources`, one an episode.
        layout: names the variables to gather and the length of a window; must fit the data's spaces.
        episodes: the rows to use, all of them by default.
        discount: of the returns to go.
        delayed_reward: pay all of an episode's reward at its last step.

    Example:
        >>> from seqdec import layout_from_spaces, scripted_cartpole, environment_of
        >>> dataset = scripted_cartpole(num_episodes=4)
        >>> spec = environment_of(dataset)
        >>> layout = layout_from_spaces("multi_game", spec.observation_space, spec.action_space)
        >>> windows = Windows(dataset, layout)
        >>> windows.gather(windows.draw(step=0, seed=0, batch_size=8))["observation"].shape
        torch.Size([8, 20, 4])
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        layout: Layout,
        *,
        episodes: Sequence[int] | np.ndarray | None = None,
        discount: float = 1.0,
        delayed_reward: bool = False,
    ):
        self.layout, self.discount, self.delayed_reward = layout, discount, delayed_reward
        spec = sources.environment_of(dataset)
        layout.check_spaces(spec.observation_space, spec.action_space)
        all_lengths = sources.lengths(dataset)
        chosen = np.arange(len(all_lengths)) if episodes is None else np.sort(np.asarray(episodes))
        if len(chosen) == 0:
            raise DataError("no episodes to take windows from")
        self.lengths = all_lengths[chosen]
        self._firsts = (np.cumsum(all_lengths) - all_lengths)[chosen]  # flat index of each episode's timestep 0
        self._ends = np.cumsum(self.lengths)
        rewards = np.concatenate(sources.column(dataset, "reward"))
        to_go = returns_to_go(rewards, all_lengths, discount, delayed_reward)
        if delayed_reward:
            rewards = delay_rewards(rewards, all_lengths)
        self.returns = to_go[self._firsts]
        self._chunks = {"reward": [rewards[:, None]], "return_to_go": [to_go[:, None]]}
        for name in ("observation", "action"):
            self._chunks[name] = sources.column(dataset, name)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def draw(self, step: int, seed: int, batch_size: int) -> np.ndarray:
        """Return the indices of the windows of an optimizer step, uniform over timesteps, int64 [B]."""
        return np.random.default_rng((seed, step)).integers(len(self), size=batch_size)

    def num_valid(self, indices: np.ndarray) -> int:
        """Count the timesteps of these windows that are not padding."""
        lengths = self.lengths[np.searchsorted(self._ends, indices, side="right")]
        return int(np.minimum(lengths, self.layout.context_length).sum())

    def gather(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return windows as a batch, in raw units.

        Returns:
            every variable of the layout: [B, K, size] float32, or [B, K] int64 where it is discrete; prompt facts
            [B, 1, size]; "timestep" [B, K] int64, counted from the episode's start; "mask" [B, K], False on
            padding, where the other entries repeat the window's last timestep.
        """
        rows = np.searchsorted(self._ends, indices, side="right")
        middles = indices - (self._ends[rows] - self.lengths[rows])
        length = self.layout.context_length
        starts = np.clip(middles - length // 2, 0, np.maximum(self.lengths[rows] - length, 0))
        sizes = np.minimum(self.lengths[rows], length)
        offsets = np.arange(length)
        timesteps = starts[:, None] + np.minimum(offsets, sizes[:, None] - 1)  # [B, K]
        flat = self._firsts[rows, None] + timesteps
        batch = {
            "timestep": torch.from_numpy(timesteps),
            "mask": torch.from_numpy(offsets < sizes[:, None]),
        }
        for name in self.layout.step_names:
            batch[name] = torch.from_numpy(_take(self._chunks[name], flat))
        for name in self.layout.prompt_names:
            (to_go,) = self._chunks["return_to_go"]
            batch[name] = torch.from_numpy(hindsight.fact(name, to_go[:, 0], self._firsts[rows]))[:, None]
        return batch

    def statistics(self) -> dict[str, np.ndarray]:
        """Return the values that codecs are fitted to, by variable: all of them, or a fixed sample of many."""
        rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
        flat = np.arange(len(self)) + (self._firsts - (self._ends - self.lengths))[rows]
        if len(flat) > STATISTICS_SAMPLE:
            flat = np.sort(np.random.default_rng(0).choice(flat, STATISTICS_SAMPLE, replace=False))
        values = {name: _take(self._chunks[name], flat) for name in self.layout.step_names}
        for name in self.layout.prompt_names:
            (to_go,) = self._chunks["return_to_go"]
            values[name] = hindsight.fact(name, to_go[:, 0], self._firsts)
        return values


def _take(chunks: list[np.ndarray], flat: np.ndarray) -> np.ndarray:
    """Gather rows by flat index from consecutive arrays; a copy is made of what is taken only."""
    if len(chunks) == 1:
        return chunks[0][flat]
    ends = np.cumsum([len(chunk) for chunk in chunks])
    chunk_of = np.searchsorted(ends, flat, side="right")
    taken = np.empty((*flat.shape, *chunks[0].shape[1:]), chunks[0].dtype)
    for index in np.unique(chunk_of):
        here = chunk_of == index
        taken[here] = chunks[index][flat[here] - (ends[index] - len(chunks[index]))]
    return taken


def split_episodes(num_episodes: int, heldout_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split row indices at random into those to train on and those held out, whole episodes each.

    Raises:
        DataError: if a fraction above 0 leaves no episode on either side.
    """
    num_heldout = round(num_episodes * heldout_fraction)
    if heldout_fraction > 0:
        num_heldout = max(num_heldout, 1)
    if num_heldout >= num_episodes:
        raise DataError(
            f"the data set needs more episodes, it has only {num_episodes}: too few to hold out {num_heldout}; "
            "record more, or give --heldout-fraction 0"
        )
    order = np.random.default_rng(seed).permutation(num_episodes)
    return np.sort(order[num_heldout:]), np.sort(order[:num_heldout])
