"""The windows that a step draws: which they are, how large, and as a batch."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seqdec.sequence.facts import HIDDEN, is_fact
from seqdec.sequence.variable import encode_texts
from seqdec.spaces.leaves import MISSING

if TYPE_CHECKING:
    from seqdec.sequence.windows import Windows


@dataclass(frozen=True, eq=False)
class Draw:
    """Some windows, as a step draws them: `indices` [B] of `windows`, all of one `task`."""

    windows: "Windows"
    indices: np.ndarray
    task: str = ""

    def part(self, places: np.ndarray | slice) -> "Draw":
        """Return those of the windows that stand at these places, of 0 to B - 1."""
        return replace(self, indices=self.indices[places])

    @property
    def starts(self) -> np.ndarray:
        """The first timestep of each of the windows, int64 [B]."""
        return self._spans[0]

    @property
    def sizes(self) -> np.ndarray:
        """How many timesteps each of the windows has, padding apart, int64 [B]."""
        return self._spans[1]

    @property
    def work(self) -> np.ndarray:
        """How much of each window is to be read, padding apart, int64 [B]: its tokens where these are counted."""
        ends = self.windows._arrays.token_ends
        if not len(ends):
            return self.sizes
        firsts = self.windows._firsts[self._episodes] + self._spans[0]
        return ends[firsts + self.sizes] - ends[firsts]

    @property
    def num_valid(self) -> int:
        """How many timesteps are not padding."""
        return int(self.sizes.sum())

    def num_known(self) -> dict[str, int]:
        """Count, for each variable that the layout predicts, the timesteps at which it is known."""
        windows, facts, counts = self.windows, self._facts(), {}
        inside, flat = self._inside, self._flat
        for name in windows.layout.predicted:
            is_known = inside if name in windows.layout.step_names else np.ones((len(flat), 1), bool)
            missing = facts.get(MISSING + name)
            if missing is None:
                missing = windows._arrays.missing(name, flat)
            if missing is not None:
                is_known = is_known & ~missing.reshape(*is_known.shape, -1).any(-1)
            if windows.layout.variable(name).is_words and HIDDEN + name in facts:
                is_known = is_known & ~facts[HIDDEN + name]  # words that are hidden cannot be predicted one by one
            counts[name] = int(is_known.sum())
        return counts

    def gather(self) -> dict[str, Tensor]:
        """Return the windows as a batch, in raw units, K timesteps each: as many as the longest of them has.

        Returns:
            every variable of the layout: [B, K, size] float32, uint8 for an image, int64 where it is multi_discrete;
            [B, K] int64 where it is discrete; bytes [B, K, bytes] of a text (see `variable`). What stands in the prompt
            has an axis of 1 in the place of K. "missing.NAME" [B, K] or [B, K, size], bool, of what may be missing;
            "hidden.NAME" [B, K] says what is to be written as unknown though its value is there. "demo.NAME"
            [B, demo_length, ...] is what a demo shows of a variable, "missing.demo.NAME" where it shows nothing.
            "timestep" [B, K] int64, counted from the episode's start; "mask" [B, K], False on padding, where the
            other entries repeat the window's last timestep.
        """
        windows, layout, flat = self.windows, self.windows.layout, self._flat
        batch = {"timestep": torch.from_numpy(self._timesteps), "mask": torch.from_numpy(self._inside)}
        for name in layout.step_names:
            batch |= windows._arrays.values(name, flat)
        for name in layout.prompt_names:
            if name == "text":
                batch[name] = torch.from_numpy(encode_texts(windows._texts_of(self._episodes)))[:, None]
            elif not is_fact(name):
                batch |= windows._arrays.values(name, flat[:, :1])
        return batch | {name: torch.from_numpy(value) for name, value in self._facts().items()}

    def _facts(self) -> dict[str, np.ndarray]:
        """Return the facts of each window's episode but its text, and which of them are unknown."""
        rounds, timesteps = self.indices // len(self.windows), self._timesteps
        return self.windows._hindsight.read(self._episodes, timesteps[:, 0], timesteps.shape[1], rounds)

    @cached_property
    def _episodes(self) -> np.ndarray:
        """The episode of each window, as its place among those chosen, [B]."""
        return self.windows._episodes_of(self.indices % len(self.windows))

    @cached_property
    def _spans(self) -> tuple[np.ndarray, np.ndarray]:
        """The first timestep of each window, and how many timesteps it has, [B] each."""
        windows, length = self.windows, self.windows.layout.context_length
        lengths, firsts = windows.lengths[self._episodes], windows._firsts[self._episodes]
        middles = self.indices % len(windows) - (windows._ends[self._episodes] - lengths)
        starts = np.clip(middles - length // 2, 0, np.maximum(lengths - length, 0))
        sizes = np.minimum(lengths, length)
        if len(windows._arrays.token_ends):
            spans = zip(firsts + starts, sizes, middles - starts, strict=True)
            cuts = np.array([windows._within_limit(*span) for span in spans]).reshape(-1, 2)
            return starts + cuts[:, 0], cuts[:, 1]
        return starts, sizes

    @cached_property
    def _timesteps(self) -> np.ndarray:
        """The timesteps of the windows [B, K]; padding repeats the last one."""
        starts, sizes = self._spans
        return starts[:, None] + np.minimum(np.arange(sizes.max(initial=1)), sizes[:, None] - 1)

    @property
    def _inside(self) -> np.ndarray:
        """Which timesteps are not padding [B, K]."""
        return np.arange(self._timesteps.shape[1]) < self.sizes[:, None]

    @property
    def _flat(self) -> np.ndarray:
        """The timesteps as indices into the columns [B, K]."""
        return self.windows._firsts[self._episodes, None] + self._timesteps
