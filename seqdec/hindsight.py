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

import re
from dataclasses import dataclass

import numpy as np

FACTS = ("target_return", "text", "goal", "waypoint1", "waypoint2", "final", "demo")
WHEN = ".when"
HIDDEN = "hidden."  # written as unknown, though the value is there to be predicted
WAYPOINT = re.compile(r"waypoint[1-9]\d?")


def is_moment(name: str) -> bool:
    """Say whether a variable is an observation of the episode, or the timestep of one."""
    fact = name.removesuffix(WHEN)
    return fact in ("goal", "final") or WAYPOINT.fullmatch(fact) is not None


def is_of_future(name: str) -> bool:
    """Say whether a variable tells how the episode goes on, so that what is sampled after it would know."""
    return name in ("return_to_go", "target_return") or is_moment(name)


def is_fact(name: str) -> bool:
    """Say whether a variable of the prompt is a fact of the episode, which no environment tells."""
    return name in FACTS or is_moment(name)


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
