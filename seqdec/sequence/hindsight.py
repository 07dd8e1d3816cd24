"""What may stand in a prompt: facts of an episode, read in training from the episode's own future.

    target_return   the return of the whole episode
    text            what the episode is about, in words
    goal            an observation that lies ahead      goal.when   its timestep
    waypoint1 ...   observations on the way there, in order; each with its timestep
    final           the observation after the last step
    demo            some timesteps of another episode of the same task

A fact has one value for the whole window, in raw units. Acting writes the same slot with what the user asks for. Any of
them may be unknown: in training random ones are, so that one model answers with whatever is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqdec.sequence import facts, hindsight, noise
from seqdec.sequence.facts import HIDDEN, WHEN
from seqdec.sequence.gather import Arrays, take
from seqdec.sequence.layout import Layout
from seqdec.spaces.leaves import MISSING


def target_return(returns_to_go: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
    """Return the return of the whole episode, float32 [B, 1].

    Args:
        returns_to_go: of all episodes, flat, float32.
        episode_starts: flat index of each window's episode's first timestep, int64 [B].
    """
    return returns_to_go[episode_starts, None]


def goal_timesteps(starts: np.ndarray, lengths: np.ndarray, context_length: int, numbers: np.ndarray) -> np.ndarray:
    """Return the timestep of each window's goal, int64 [B]: after its first, at most that of the final observation.

    Half of them lie within the window, where a step more or less matters, the others anywhere ahead (Andrychowicz et
    al. 2017, "future").

    Args:
        starts: first timestep of each window, int64 [B].
        lengths: timesteps of its episode; the final observation has this number, int64 [B].
        context_length: timesteps of a window.
        numbers: between 0 and 1 [B, 2].
    """
    ahead = lengths - starts
    reach = np.where(numbers[:, 0] < 0.5, np.minimum(ahead, context_length), ahead)
    return starts + 1 + (numbers[:, 1] * reach).astype(np.int64)


def waypoint_timesteps(starts: np.ndarray, goals: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the timesteps of each window's waypoints in order, int64 [B, waypoints], at most that of the goal.

    Args:
        starts: first timestep of each window, int64 [B].
        goals: timestep of its goal, int64 [B].
        numbers: between 0 and 1 [B, waypoints].
    """
    drawn = (numbers * (goals - starts)[:, None]).astype(np.int64)
    return np.sort(starts[:, None] + 1 + drawn, axis=1)


def is_dropped(numbers: np.ndarray, share: float) -> np.ndarray:
    """Return which facts of each window are unknown, bool [B, facts].

    All of them in that share of the windows, and in the others each one by itself, so that a model learns what to do
    with any subset, and with none.

    Args:
        numbers: between 0 and 1 [B, 1 + facts].
        share: between 0 and 1.
    """
    return (numbers[:, :1] < share) | (numbers[:, 1:] < share)


def best_part(rewards: np.ndarray, length: int) -> int:
    """Return where the `length` timesteps in a row begin that earn most."""
    if len(rewards) <= length:
        return 0
    earned = np.cumsum(np.concatenate([[0.0], rewards]), dtype=np.float64)
    return int(np.argmax(earned[length:] - earned[:-length]))


@dataclass(frozen=True, eq=False)
class Peers:
    """Which episodes are of one task: `order` has them task by task, each of which begins at its `first` there."""

    order: np.ndarray
    first: np.ndarray  # of each episode's task, in `order` [episodes]
    size: np.ndarray  # of each episode's task [episodes]
    place: np.ndarray  # of each episode within its task [episodes]


def peers_of(tasks: np.ndarray) -> Peers:
    """Return which episodes are of one task, by a label of each [episodes]."""
    numbers = np.unique(tasks, return_inverse=True)[1]
    order, sizes = np.argsort(numbers, kind="stable"), np.bincount(numbers)
    firsts = np.cumsum(sizes) - sizes
    place = np.empty(len(numbers), np.int64)
    place[order] = np.arange(len(numbers)) - np.repeat(firsts, sizes)
    return Peers(order, firsts[numbers], sizes[numbers], place)


def demo_rows(peers: Peers, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return an episode of the same task for each one, never itself: int64 [B], -1 where there is no other.

    Args:
        peers: of all episodes.
        rows: episodes, int64 [B].
        numbers: between 0 and 1 [B].
    """
    size = peers.size[rows]
    others = (numbers * (size - 1)).astype(np.int64)
    chosen = peers.order[peers.first[rows] + (peers.place[rows] + 1 + others) % size]
    return np.where(size > 1, chosen, -1)


@dataclass(frozen=True, eq=False)
class Facts:
    """The facts of some episodes.

    Args:
        layout: says which of them are read.
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
    def are_drawn(self) -> bool:
        """Whether there is more to read than the return: most of it is drawn anew in every round."""
        return self.layout.prompt_dropout > 0 or any(
            name == "demo" or facts.is_moment(name) for name in self.layout.facts
        )

    def read(
        self, episodes: np.ndarray, starts: np.ndarray, num_timesteps: int, rounds: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return what the prompt says of windows but the text, and which of it is unknown.

        Args:
            episodes: of each window, as its place among those here, int64 [B].
            starts: its first timestep, int64 [B].
            num_timesteps: of a window, in the batch.
            rounds: in which it is drawn, int64 [B].
        """
        layout, found = self.layout, {}
        if "target_return" in layout.prompt_names:
            returns_to_go = self.arrays.steps["return_to_go"][0][:, 0]
            found["target_return"] = hindsight.target_return(returns_to_go, self.firsts[episodes])[:, None]
        if not self.are_drawn:
            return found
        places = self.firsts[episodes] + starts + len(self.arrays.steps["return_to_go"][0]) * rounds
        waypoints = [name for name in layout.facts if facts.WAYPOINT.fullmatch(name)]
        evidence = [*layout.facts, *(name + WHEN for name in layout.facts), "return_to_go"]
        sizes = (2, len(waypoints), 2, 1 + len(evidence))
        ahead, between, of_demo, of_drop = np.split(noise.fractions(places, sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
        found |= self._moments(episodes, starts, waypoints, ahead, between)
        if layout.demo:
            found |= self._demos(episodes, of_demo)
        if self.layout.prompt_dropout == 0:
            return found
        dropped = dict(zip(evidence, hindsight.is_dropped(of_drop, self.layout.prompt_dropout).T, strict=True))
        for name, is_unknown in dropped.items():
            if name == "demo":
                for shown in layout.demo_names:
                    missing = found[f"{MISSING}demo.{shown}"]
                    missing |= is_unknown.reshape(-1, *[1] * (missing.ndim - 1))
            elif name in layout.prompt_names or (name == "return_to_go" and name in layout.step_names):
                is_unknown = is_unknown | dropped.get(name.removesuffix(WHEN), False)
                width = num_timesteps if name in layout.step_names else 1
                found[HIDDEN + name] = np.repeat(is_unknown[:, None], width, axis=1)
        return found

    def _moments(
        self,
        episodes: np.ndarray,
        starts: np.ndarray,
        waypoints: Sequence[str],
        ahead: np.ndarray,
        between: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Return goal, waypoints and final observation of each window, and their timesteps, with an axis of 1."""
        ends = self.lengths[episodes]
        when = {"final": ends}
        if "goal" in self.layout.facts:
            when["goal"] = hindsight.goal_timesteps(starts, ends, self.layout.context_length, ahead)
        if waypoints:
            found = hindsight.waypoint_timesteps(starts, when.get("goal", ends), between)
            when |= dict(zip(sorted(waypoints, key=lambda name: int(name[8:])), found.T, strict=True))
        values = {}
        for name in (name for name in self.layout.facts if facts.is_moment(name)):
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
        seen = take(self.arrays.steps[name], self.firsts[episodes] + np.minimum(timesteps, lengths - 1)).copy()
        seen[is_final] = take(self.arrays.finals[name], self.rows[episodes[is_final]])
        return seen

    def _demos(self, episodes: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Return some timesteps of another episode of the same task for each window, [B, demo_length, ...]."""
        assert self.peers is not None
        length = self.layout.demo_length
        others = hindsight.demo_rows(self.peers, episodes, numbers[:, 0])
        is_none = others < 0
        others = np.where(is_none, episodes, others)
        ends = self.lengths[others]
        if self.layout.demo_part == "best":
            begins = np.array([hindsight.best_part(self._rewards_of(row), length) for row in others])
        else:
            begins = (numbers[:, 1] * np.maximum(ends - length + 1, 1)).astype(np.int64)
        timesteps = begins[:, None] + np.arange(length)
        absent = (timesteps >= ends[:, None]) | is_none[:, None]
        timesteps = np.minimum(timesteps, ends[:, None] - 1)
        found = {}
        for name in self.layout.demo_names:
            values = self.arrays.values(name, self.firsts[others, None] + timesteps)
            found[f"demo.{name}"] = values[name].numpy()
            missing = values[MISSING + name].numpy() if MISSING + name in values else np.zeros_like(absent)
            found[f"{MISSING}demo.{name}"] = missing | absent.reshape(*absent.shape, *[1] * (missing.ndim - 2))
        return found

    def _rewards_of(self, episode: int) -> np.ndarray:
        """Return the rewards of an episode, [T]."""
        timesteps = self.firsts[episode] + np.arange(self.lengths[episode])
        return take(self.arrays.steps["reward"], timesteps)[:, 0]
