"""What the prompts of windows say, read from the episodes that the windows are from.

    target_return  goal  goal.when  ...  demo   |  hidden.goal, missing.demo.action: what is unknown of it

`hindsight` says which timesteps are meant and what is dropped, here their values are gathered. What is drawn for a
window depends on its place in the data set and its round alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqdec import hindsight, noise
from seqdec.arrays import Arrays, take
from seqdec.hindsight import HIDDEN, WHEN, Peers
from seqdec.layout import Layout
from seqdec.leaves import MISSING

DemoPart = Literal["random", "best"]


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
        dropout: share in which each fact, and the return to go, is unknown, and in which all are.
        demo_part: which timesteps of an episode are its demo.
    """

    layout: Layout
    arrays: Arrays
    rows: np.ndarray
    firsts: np.ndarray
    lengths: np.ndarray
    peers: Peers | None
    dropout: float
    demo_part: DemoPart

    @property
    def are_drawn(self) -> bool:
        """Whether there is more to read than the return: most of it is drawn anew in every round."""
        return self.dropout > 0 or any(name == "demo" or hindsight.is_moment(name) for name in self.layout.facts)

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
        waypoints = [name for name in layout.facts if hindsight.WAYPOINT.fullmatch(name)]
        evidence = [*layout.facts, *(name + WHEN for name in layout.facts), "return_to_go"]
        sizes = (2, len(waypoints), 2, 1 + len(evidence))
        ahead, between, of_demo, of_drop = np.split(noise.fractions(places, sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
        found |= self._moments(episodes, starts, waypoints, ahead, between)
        if layout.demo:
            found |= self._demos(episodes, of_demo)
        if self.dropout == 0:
            return found
        dropped = dict(zip(evidence, hindsight.is_dropped(of_drop, self.dropout).T, strict=True))
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
        for name in (name for name in self.layout.facts if hindsight.is_moment(name)):
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
        if self.demo_part == "best":
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
