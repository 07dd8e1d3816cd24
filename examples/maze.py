"""Stitching: trips through a maze that are at least twice as long as any in the data.

    python examples/maze.py maze.png     # PointMaze, 3 seeds, minutes on two cores

A controller made the data: trips of four cells at most. Whoever asks for success, the goal in sight, or for a goal in
so many timesteps, asks of a long trip for what no episode has shown. A route asks for what many have: it is a chain of
places that the data's episodes pass one after the other, planned by breadth-first search, and the policy is asked for
the third place ahead, anew every three timesteps. Asking anew for the goal itself shows what is due to asking often.
Needs `pip install gymnasium-robotics`.
"""

import sys
import tempfile
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import gymnasium
import gymnasium_robotics
import numpy as np
import torch
from matplotlib.figure import Figure

from seqdec import (
    Episode,
    Layout,
    Policy,
    Prompt,
    Variable,
    Windows,
    build_model,
    load_backbone,
    record,
    rollout,
    train,
)
from seqdec.data import environment_of
from seqdec.model.sequence_model import SequenceModel
from seqdec.play import make_envs

MAZE = (
    "#######",
    "#     #",
    "### # #",
    "#   # #",
    "# ### #",
    "#  #  #",
    "#######",
)
SIZE = len(MAZE)
SHORT, LONG = 4, 8  # cells of a trip: at most in the data, at least where it counts
REPEAT = 5  # timesteps of the maze in which an action is held, which are one here
AGAIN, AHEAD, PACE = 3, 3, 3.5  # timesteps between two looks at the route, cells ahead, timesteps for a cell
SEEDS, NUM_EPISODES = (0, 1, 2), 100
PLACE, GOAL = "observation.observation", "observation.desired_goal"
SEEN, ACTION = Variable(PLACE, "gaussian", 4), Variable("action", "gaussian", 2, 1.0, low=(-1.0,) * 2, high=(1.0,) * 2)
LAYOUTS = {
    "return": Layout(
        (Variable("return_to_go", "binned", 1), Variable(GOAL, "gaussian", 2), SEEN, ACTION),
        (("return_to_go", GOAL, PLACE), ("action",)),
        context_length=5,
    ),
    "goal": Layout(
        (Variable("goal", "gaussian", 2, of=PLACE, entries=(0, 1)), Variable("goal.when", "timestep", 1), SEEN, ACTION),
        ((PLACE,), ("action",)),
        prompt=(("goal", "goal.when"),),
        context_length=5,
    ),
}

Cell = tuple[int, int]
Neighbours = Mapping[Cell, set[Cell]]


def cell_of(position: np.ndarray) -> Cell:
    """Return the row and the column of a position."""
    return int(SIZE / 2 - position[1]), int(position[0] + SIZE / 2)


def centre_of(cell: Cell) -> np.ndarray:
    """Return the position of the middle of a cell."""
    return np.array([cell[1] + 0.5 - SIZE / 2, SIZE / 2 - cell[0] - 0.5])


def routes_to(goal: Cell, neighbours: Neighbours) -> dict[Cell, list[Cell]]:
    """Return the shortest way to a cell from every other one, both ends included."""
    routes, waiting = {goal: [goal]}, deque([goal])
    while waiting:
        cell = waiting.popleft()
        for other in sorted(neighbours[cell] - routes.keys()):
            routes[other] = [other, *routes[cell]]
            waiting.append(other)
    return routes


FREE = {(row, column) for row in range(SIZE) for column in range(SIZE) if MAZE[row][column] == " "}
BESIDE = {(i, j): {(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)} & FREE for i, j in FREE}
ROUTES = {goal: routes_to(goal, BESIDE) for goal in sorted(FREE)}


class Trips(gymnasium.Wrapper):
    """The maze, with a trip of at least and at most so many cells to make; arriving pays 1 and ends the episode."""

    def __init__(self, shortest: int, longest: int):
        walls = [[int(cell == "#") for cell in row] for row in MAZE]
        super().__init__(gymnasium.make("PointMaze_UMaze-v3", maze_map=walls, continuing_task=False))
        self._trips = [
            (start, goal)
            for goal, routes in ROUTES.items()
            for start, route in routes.items()
            if shortest < len(route) <= longest + 1
        ]

    def reset(self, *, seed=None, options=None):
        """Choose where from and where to."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        start, goal = self._trips[self._random.integers(len(self._trips))]
        return self.env.reset(seed=seed, options={"reset_cell": np.array(start), "goal_cell": np.array(goal)})

    def step(self, action):
        """Hold the action for some timesteps of the maze."""
        for _ in range(REPEAT):
            observation, reward, terminated, truncated, info = self.env.step(action)
            if terminated:
                break
        return observation, reward, terminated, truncated, info


gymnasium.register_envs(gymnasium_robotics)
gymnasium.register("ShortTrips-v0", lambda: Trips(1, SHORT), max_episode_steps=15)
gymnasium.register("LongTrips-v0", lambda: Trips(LONG, SIZE**2), max_episode_steps=80)


def steer(observation: Mapping[str, np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Act as the data's controller does: towards the middle of the next cell on the way, and not steadily."""
    place, goal = observation["observation"], observation["desired_goal"]
    route = ROUTES[cell_of(goal)].get(cell_of(place[:2]), [])
    target = goal if len(route) < 3 else centre_of(route[1])
    return np.clip(6 * (target - place[:2]) - place[2:] + 0.5 * random.normal(size=2), -1, 1).astype(np.float32)


def passages(episodes: Sequence[Episode]) -> Neighbours:
    """Return for every cell those from which some episode came to it."""
    found = defaultdict(set)
    for episode in episodes:
        cells = [cell_of(place) for place in episode.steps[PLACE]]
        for one, other in zip(cells[:-1], cells[1:], strict=True):
            if one != other:
                found[other].add(one)
    return found


class RoutePolicy:
    """Asks a policy for a place on the way, anew every few timesteps: an `Actor` for `rollout`.

    Args:
        model: has a goal in its prompt.
        neighbours: for every cell those from which it can be reached.
        cells: how far ahead the place is, the goal at most.
        seed: of the samples.
    """

    def __init__(self, model: SequenceModel, neighbours: Neighbours, cells: int, seed: int):
        self._model, self._neighbours, self._cells, self._seed = model, neighbours, cells, seed

    def reset(self, num_envs: int) -> None:
        """Begin an episode in every environment."""
        self._time = 0

    def act(self, observations: Mapping[str, np.ndarray], rewards: np.ndarray | None, info: None = None) -> np.ndarray:
        """Act as the policy does that was asked for the place ahead."""
        if self._time % AGAIN == 0:
            pairs = zip(observations["observation"], observations["desired_goal"], strict=True)
            places, cells = zip(*(self._ahead(place, goal) for place, goal in pairs), strict=True)
            prompt = Prompt(goal=np.array(places), goal_in=PACE * np.array(cells))
            self._seed += 1
            self._policy = Policy(self._model, prompt=prompt, seed=self._seed)
            self._policy.reset(len(places))
            rewards = None
        self._time += 1
        return self._policy.act(observations, rewards)

    def keep(self, rows: np.ndarray) -> None:
        """Go on with these of the environments."""
        self._policy.keep(rows)

    def _ahead(self, place: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the place on the way to ask for, and how many cells it is ahead."""
        route = routes_to(cell_of(goal), self._neighbours).get(cell_of(place[:2]), [])
        points = [*map(centre_of, route[:-1]), goal]
        ahead = min(self._cells, len(points) - 1)
        return points[ahead], max(ahead, 1)


def play(seed: int, steps: int = 2500, num_episodes: int = 3000) -> dict[str, list[Episode]]:
    """Train on short trips; return some of them, and the long ones that each way of asking makes."""
    torch.set_num_threads(1)
    data = record("ShortTrips-v0", steer, num_episodes=num_episodes, seed=10**6 * seed)
    spec, models = environment_of(data), {}
    for name, layout in LAYOUTS.items():
        windows = Windows(data, layout)
        model = build_model(windows, load_backbone("small", num_layers=2, dropout=0.0, seed=seed), seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            train(model, windows, out=folder, steps=steps, learning_rate=2e-3, schedule="cosine", seed=seed)
        models[name] = model
    shown = [Episode.from_row(row) for row in data]
    ways = {
        "asked for success": Policy(models["return"], 1.0, seed=seed),
        "asked for the goal": Policy(models["goal"], prompt=Prompt(goal=GOAL, goal_in=PACE * LONG), seed=seed),
        "for the goal, anew": RoutePolicy(models["goal"], passages(shown), SIZE**2, seed),
        "asked for a route": RoutePolicy(models["goal"], passages(shown), AHEAD, seed),
    }
    envs, first = make_envs(spec, 50, env_id="LongTrips-v0"), 10**6 * (seed + 100)
    played = {name: rollout(actor, envs, num_episodes=NUM_EPISODES, seed=first) for name, actor in ways.items()}
    return {"the data": shown[:60], **played}


def success(episodes: Sequence[Episode]) -> float:
    """Return the share of episodes that arrive."""
    return float(np.mean([episode.total_return for episode in episodes]))


def draw(results: Sequence[Mapping[str, Sequence[Episode]]], path: str) -> None:
    """Draw the data and the first seed's trips by each way of asking, and how many of each seed's arrive."""
    figure = Figure(figsize=(14.0, 3.6), dpi=130, layout="constrained")
    for axes, (name, episodes) in zip(figure.subplots(1, 5), results[0].items(), strict=True):
        half, is_data = SIZE / 2, name == "the data"
        axes.imshow([[cell == "#" for cell in row] for row in MAZE], "Greys", extent=(-half, half, -half, half), vmax=2)
        for episode in episodes if is_data else episodes[:20]:
            places = np.vstack([episode.steps[PLACE], episode.final["observation.observation"]])
            colour = "#666666" if is_data else "#2f8f5b" if episode.total_return else "#c8591b"
            axes.plot(places[:, 0], places[:, 1], color=colour, lw=1.0, alpha=0.6)
            if not is_data:
                axes.plot(*places[0, :2], "o", ms=4, mfc="white", color=colour)
                axes.plot(*episode.steps[GOAL][0], "*", ms=7, color=colour)
        rates = [success(result[name]) for result in results]
        told = f"at most {SHORT} cells a trip" if is_data else f"{np.mean(rates):.0%} arrive"
        axes.set_title(f"{name.capitalize()}: {told}", loc="left", fontsize=10)
        seeds = f"{len(episodes)} of its trips" if is_data else "seeds: " + ", ".join(f"{rate:.0%}" for rate in rates)
        axes.set(xticks=(), yticks=(), xlabel=seeds)
    figure.suptitle(f"New trips of {LONG} cells or more (\N{WHITE CIRCLE} start, \N{BLACK STAR} goal)", fontsize=11)
    figure.savefig(path)


if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(play, SEEDS))
    for name in list(results[0])[1:]:
        print(f"{name:<20}", "  ".join(f"{success(result[name]):.0%}" for result in results))
    draw(results, sys.argv[1] if len(sys.argv) > 1 else "maze.png")
