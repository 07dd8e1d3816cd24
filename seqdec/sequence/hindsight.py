"""The facts of a prompt, read in training from the episode's own future, or from another episode of its task.

A fact has one value for the whole window, in raw units. Some are drawn, and random ones are unknown, so that one model
answers with whatever it knows. The random numbers belong to the window and its round: what else is in the batch makes
no difference. `facts` names the facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqdec.sequence import noise
from seqdec.sequence.facts import HIDDEN, WAYPOINT, WHEN, is_moment
from seqdec.sequence.gather import Arrays, take
from seqdec.sequence.layout import Layout
from seqdec.spaces.leaves import MISSING


@dataclass(frozen=True, eq=False)
class Peers:
    """Which episodes are of one task.

    `order` has the episodes task by task. Of each episode, `firsts` says where its task begins there, `sizes` how many
    episodes the task has, and `places` which of them it is.
    """

    order: np.ndarray
    firsts: np.ndarray
    sizes: np.ndarray
    places: np.ndarray

    @staticmethod
    def of(tasks: np.ndarray) -> "Peers":
        """Return which episodes are of one task, by a label of each [episodes]."""
        numbers = np.unique(tasks, return_inverse=True)[1]
        order, sizes = np.argsort(numbers, kind="stable"), np.bincount(numbers)
        firsts = np.cumsum(sizes) - sizes
        places = np.empty(len(numbers), np.int64)
        places[order] = np.arange(len(numbers)) - np.repeat(firsts, sizes)
        return Peers(order, firsts[numbers], sizes[numbers], places)

    def choose(self, episodes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return another episode of each one's task by numbers from 0 to 1, int64 [B]; -1 where there is no other."""
        sizes = self.sizes[episodes]
        steps = 1 + (numbers * (sizes - 1)).astype(np.int64)
        others = self.order[self.firsts[episodes] + (self.places[episodes] + steps) % sizes]
        return np.where(sizes > 1, others, -1)


@dataclass(frozen=True, eq=False)
class Hindsight:
    """Reads the facts of some episodes.

    Args:
        layout: says which facts are read.
        arrays: the columns of the data set, the return to go in one piece.
        rows: the episodes' rows in the data set [episodes].
        firsts: the flat index of each one's first timestep [episodes].
        lengths: their timesteps [episodes].
        peers: which of them are of one task; None where the layout has no demo.
    """

    layout: Layout
    arrays: Arrays
    rows: np.ndarray
    firsts: np.ndarray
    lengths: np.ndarray
    peers: Peers | None

    @property
    def is_drawn(self) -> bool:
        """Whether a fact is drawn anew in every round; the return and the text never are."""
        return self.layout.prompt_dropout > 0 or any(name == "demo" or is_moment(name) for name in self.layout.facts)

    def read(
        self, episodes: np.ndarray, starts: np.ndarray, num_timesteps: int, rounds: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the facts of windows but the text, and which of them are unknown.

        Args:
            episodes: of each window, as its place among those here, int64 [B].
            starts: its first timestep, int64 [B].
            num_timesteps: of a window, in the batch.
            rounds: in which it is drawn, int64 [B].
        """
        layout, values, returns_to_go = self.layout, {}, self.arrays.steps["return_to_go"][0]
        if "target_return" in layout.prompt_names:
            values["target_return"] = returns_to_go[self.firsts[episodes], None]
        if not self.is_drawn:
            return values
        # each window has random numbers of its own, the same ones for the same purpose
        waypoints = [name for name in layout.facts if WAYPOINT.fullmatch(name)]
        evidence = [*layout.facts, *(name + WHEN for name in layout.facts), "return_to_go"]
        sizes = (2, len(waypoints), 2, 1 + len(evidence))
        windows = self.firsts[episodes] + starts + len(returns_to_go) * rounds
        numbers = noise.fractions(windows, sum(sizes))
        ahead, between, of_demo, of_drop = np.split(numbers, np.cumsum(sizes)[:-1], axis=1)
        values |= self._moments(episodes, starts, waypoints, ahead, between)
        if layout.demo:
            values |= self._demos(episodes, of_demo)
        if layout.prompt_dropout > 0:
            # all facts are unknown in that share of the windows, and in the others each one by itself
            unknown = (of_drop[:, :1] < layout.prompt_dropout) | (of_drop[:, 1:] < layout.prompt_dropout)
            self._hide(values, dict(zip(evidence, unknown.T, strict=True)), num_timesteps)
        return values

    def _hide(self, values: dict[str, np.ndarray], unknown: dict[str, np.ndarray], num_timesteps: int) -> None:
        """Add to the facts which of them are unknown: bool [B] by name."""
        for shown in self.layout.demo_names:
            missing = values[f"{MISSING}demo.{shown}"]
            missing |= unknown["demo"].reshape(-1, *[1] * (missing.ndim - 1))
        for name, mask in unknown.items():
            is_of_step = name in self.layout.step_names
            if name in self.layout.prompt_names or is_of_step:
                mask = mask | unknown.get(name.removesuffix(WHEN), False)  # who knows no goal knows no time of it
                values[HIDDEN + name] = np.repeat(mask[:, None], num_timesteps if is_of_step else 1, axis=1)

    def _moments(
        self, episodes: np.ndarray, starts: np.ndarray, waypoints: Sequence[str], ahead: np.ndarray, between: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return goal, waypoints and final observation of each window, and their timesteps, with an axis of 1."""
        ends = self.lengths[episodes]
        when = {"final": ends, "goal": ends}
        if "goal" in self.layout.facts:
            # half of the goals lie within the window, where a step more or less matters, the others anywhere ahead
            # (Andrychowicz et al. 2017, "future")
            reach = ends - starts
            reach = np.where(ahead[:, 0] < 0.5, np.minimum(reach, self.layout.context_length), reach)
            when["goal"] = starts + 1 + (ahead[:, 1] * reach).astype(np.int64)
        # waypoints lie between the window's first timestep and the goal
        steps = (between * (when["goal"] - starts)[:, None]).astype(np.int64)
        timesteps = np.sort(starts[:, None] + 1 + steps, axis=1)
        when |= zip(sorted(waypoints, key=lambda name: int(name[8:])), timesteps.T, strict=True)
        values = {}
        for name in (name for name in self.layout.facts if is_moment(name)):
            variable = self.layout.variable(name)
            for prefix in ("", MISSING):
                if prefix + variable.of in self.arrays.finals:
                    seen = self._seen(prefix + variable.of, episodes, when[name])
                    if variable.entries and seen.ndim > 1:
                        seen = seen[:, list(variable.entries)]
                    values[prefix + name] = (seen.astype(bool) if prefix else seen)[:, None]
            if name + WHEN in self.layout.prompt_names:
                values[name + WHEN] = when[name].astype(np.float32)[:, None, None]
        return values

    def _seen(self, name: str, episodes: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """Return a leaf of the observation at timesteps [B], of which the last comes after the last step."""
        lengths = self.lengths[episodes]
        is_final = timesteps == lengths
        seen = take(self.arrays.steps[name], self.firsts[episodes] + np.minimum(timesteps, lengths - 1))
        seen[is_final] = take(self.arrays.finals[name], self.rows[episodes[is_final]])
        return seen

    def _demos(self, episodes: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Return some timesteps of another episode of the same task for each window, [B, demo_length, ...]."""
        assert self.peers is not None
        length = self.layout.demo_length
        others = self.peers.choose(episodes, numbers[:, 0])
        is_alone = others < 0
        others = np.where(is_alone, episodes, others)
        ends = self.lengths[others]
        if self.layout.demo_part == "best":
            begins = np.array([best_part(self._rewards_of(episode), length) for episode in others])
        else:
            begins = (numbers[:, 1] * np.maximum(ends - length + 1, 1)).astype(np.int64)
        timesteps = begins[:, None] + np.arange(length)
        absent = (timesteps >= ends[:, None]) | is_alone[:, None]
        flat = self.firsts[others, None] + np.minimum(timesteps, ends[:, None] - 1)
        demos = {}
        for name in self.layout.demo_names:
            values = self.arrays.values(name, flat)
            demos[f"demo.{name}"] = values[name].numpy()
            missing = values[MISSING + name].numpy() if MISSING + name in values else np.zeros_like(absent)
            demos[f"{MISSING}demo.{name}"] = missing | absent.reshape(*absent.shape, *[1] * (missing.ndim - 2))
        return demos

    def _rewards_of(self, episode: int) -> np.ndarray:
        """Return the rewards of an episode, [T]."""
        timesteps = self.firsts[episode] + np.arange(self.lengths[episode])
        return take(self.arrays.steps["reward"], timesteps)[:, 0]


def best_part(rewards: np.ndarray, length: int) -> int:
    """Return where the `length` timesteps in a row begin that earn most."""
    if len(rewards) <= length:
        return 0
    earned = np.cumsum(np.concatenate([[0.0], rewards]), dtype=np.float64)
    return int(np.argmax(earned[length:] - earned[:-length]))
