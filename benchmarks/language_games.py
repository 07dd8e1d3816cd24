"""The games of `language.py`: rooms, data, what plays without a model, and the question where a thing belongs.

    train games of a seed   ->  record(expert at graded errors)   ->  data
    dev, test               ->  one game an object, each played once by everything that plays

Nothing here trains. A place is right where the game pays for it.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache

import gymnasium
import numpy as np
from datasets import Dataset

from seqdec import Context, Policy, record
from seqdec.data import returns
from seqdec.play import Actor, TextWorldExpert
from seqdec.play.info import Choices
from seqdec.play.make import parse_id
from seqdec.spaces.leaves import Batch

ENV = "TextWorldExpress/twc-v0"
# distinct games of each fold, by the things to put away in each
NUM_GAMES = {1: {"dev": 113, "test": 104}, 2: {"dev": 47, "test": 43}}
# data of the seeds begin so many train games apart (of 1000): those of up to 200 games share none
APART = 333
HINTS = {"dirty", "wet", "clean"}  # words that name a place: laundry basket, clothesline, wardrobe
NUM_ENVS = 16
Score = Callable[[str, str], float]  # of a thing and a place
Drawn = Callable[[str, np.random.Generator, list[str]], str]  # an action of an observation, a generator, candidates


@dataclass(frozen=True)
class Riddle:
    """A thing in the hands, and where it could be put: `choices` are the actions that begin to put it in each place.

    `room` is the first observation, after which it was taken; `taken` is what was seen then. Containers are closed, so
    that their choices are to open them; or all are open.
    """

    thing: str
    room: str
    taken: str
    choices: dict[str, str]
    right: frozenset[str]


def env_id(items: int, fold: str = "train", *, distinct: bool = False, limit: int | None = None) -> str:
    """Return the environment's id with its arguments; two things take at most 8 steps, one thing 5."""
    limit = limit or (5 if items == 1 else 8)
    return f"{ENV},numItemsToPutAway={items},max_episode_steps={limit},fold={fold},distinct={str(distinct).lower()}"


def training_data(num_games: int, items: int, seed: int) -> Dataset:
    """Record the train games of a seed; those of fewer games are the first of those of more."""
    first, name = APART * seed, env_id(items)
    return record(name, TextWorldExpert(name, seed=first), num_episodes=num_games, seed=first, num_envs=NUM_ENVS)


def play(actor: Actor | Drawn, items: int, fold: str, num_games: int) -> list[float]:
    """Return what the games of a fold returned, once each, in their order."""
    name = env_id(items, fold, distinct=True)
    episodes = record(name, actor, num_episodes=num_games, seed=0, num_envs=min(num_games, NUM_ENVS))
    return [float(total) for total in returns(episodes)]


def _after(valid: Sequence[str], verb: str) -> list[str]:
    return [action.removeprefix(verb) for action in valid if action.startswith(verb)]


def _puts(valid: Sequence[str]) -> list[tuple[str, str]]:
    """Return the thing and the place of each "put THING in PLACE"."""
    pairs = [action.split(" in ", 1) for action in _after(valid, "put ")]
    return [(thing, place) for thing, place in pairs]


@cache
def things(items: int, fold: str, first: int, num_games: int) -> tuple[tuple[str, ...], ...]:
    """Return what is to be put away in each game; of "train" from game `first` on, else of the distinct games."""
    with closing(_make(env_id(items, fold, distinct=fold != "train"))) as env:
        infos = [env.reset(seed=seed)[1] for seed in range(first, first + num_games)]
    return tuple(tuple(_after(info["valid_actions"], "take ")) for info in infos)


def is_met(items: int, fold: str, num_games: int, num_train: int, seed: int) -> list[bool]:
    """Return of each game whether the last words of its things ("shirt") stand in names of the train games."""
    known = {name.split()[-1] for game in things(items, "train", APART * seed, num_train) for name in game}
    return [all(name.split()[-1] in known for name in game) for game in things(items, fold, 0, num_games)]


def has_hint(items: int, fold: str, num_games: int) -> list[bool]:
    """Return of each game whether a thing is called dirty, wet or clean."""
    return [any(HINTS & set(name.split()) for name in game) for game in things(items, fold, 0, num_games)]


# ---- programs


class Program:
    """The hand-written program: take a thing, open the place that scores best, put it there, go on with the next.

    With `again`, a thing whose place was not paid is taken once more and put in the place that scores next; without,
    what was put stays where it is.
    """

    def __init__(self, score: Score, *, again: bool) -> None:
        self._score, self._again = score, again

    def reset(self, num_envs: int) -> None:
        self._is_over: list[set[str]] = [set() for _ in range(num_envs)]  # things that are not taken any more
        self._wrong: list[set[tuple[str, str]]] = [set() for _ in range(num_envs)]
        self._actions = [""] * num_envs

    def act(self, observations: Batch, rewards: np.ndarray | None, info: Choices | None = None, /) -> Batch:
        assert info is not None and "valid_actions" in info
        for row, valid in enumerate(info["valid_actions"]):
            for thing, place in _puts([self._actions[row]]):
                if self._again and rewards is not None and rewards[row] <= 0:
                    self._wrong[row].add((thing, place))
                else:
                    self._is_over[row].add(thing)
            self._actions[row] = self._choose(row, valid or [""])
        return np.array(self._actions, object)

    def keep(self, rows: np.ndarray) -> None:
        self._is_over, self._wrong, self._actions = (
            [of_all[row] for row in rows] for of_all in (self._is_over, self._wrong, self._actions)
        )

    def _choose(self, row: int, valid: list[str]) -> str:
        puts, takes = _puts(valid), [thing for thing in _after(valid, "take ") if thing not in self._is_over[row]]
        if not puts:
            return f"take {takes[0]}" if takes else valid[0]
        thing = puts[0][0]
        here = {place for name, place in puts if name == thing}
        places = sorted(place for place in here | {*_after(valid, "open ")} if (thing, place) not in self._wrong[row])
        best = max(places or sorted(here), key=lambda place: self._score(thing, place))
        return f"put {thing} in {best}" if best in here else f"open {best}"


def any_action(seed: int) -> Drawn:
    """Return what says any valid action."""

    def act(observation: str, generator: np.random.Generator, valid: list[str]) -> str:
        return valid[np.random.default_rng([seed, int(generator.integers(2**31))]).integers(len(valid))]

    return act


def _paid_puts(data: Dataset) -> Iterator[tuple[str, str, bool]]:
    """Yield the thing and the place of every put in the data, and whether it was paid."""
    for actions, rewards in zip(data["action"], data["reward"], strict=True):
        for action, reward in zip(actions, rewards, strict=True):
            for thing, place in _puts([action]):
                yield thing, place, reward > 0


def majority(data: Dataset) -> Score:
    """Return how often a place was right, whatever the thing."""
    counts = Counter(place for _, place, is_right in _paid_puts(data) if is_right)
    return lambda thing, place: float(counts[place])


def neighbour(data: Dataset) -> Score:
    """Return how much the data's puts speak for a place, each by the words that its thing shares with this one.

    Shared words count by their rarity, as a share of all words of both; a put that was not paid speaks against it.
    """
    puts = list(_paid_puts(data))
    counts = Counter(word for thing, _, _ in puts for word in set(thing.split()))

    def weight(words: set[str]) -> float:
        return sum(math.log(1 + len(puts) / (1 + counts[word])) for word in words)

    def score(thing: str, place: str) -> float:
        words, total = set(thing.split()), 0.0
        for other, where, is_right in puts:
            if where == place:
                others = set(other.split())
                alike = weight(words & others) / weight(words | others)
                total += (1 if is_right else -1) * (alike + 0.02)  # all of them speak a little
        return total

    return score


SCORES = {"neighbour": neighbour, "neighbour-again": neighbour, "majority": majority}


# ---- the place alone


@cache
def riddles(items: int, fold: str, num_games: int, *, is_open: bool) -> tuple[Riddle, ...]:
    """Return a fold's things, each in the hands; with `is_open` every container was open before."""
    with closing(_make(env_id(items, fold, distinct=True, limit=100))) as env:
        return tuple(_riddle(env, seed, is_open) for seed in range(num_games))


def _riddle(env: gymnasium.Env, seed: int, is_open: bool) -> Riddle:
    first, info = env.reset(seed=seed)
    thing = _after(info["valid_actions"], "take ")[0]
    containers = _after(info["valid_actions"], "open ")
    opened = ["look around", *(f"open {name}" for name in containers), "look around"]
    seen = [env.step(action)[0] for action in opened]
    _, _, _, _, info = env.step(f"take {thing}")
    choices = {place: f"put {thing} in {place}" for name, place in _puts(info["valid_actions"]) if name == thing}
    right = set()
    for place, action in choices.items():
        env.reset(seed=seed)
        for before in (*opened, f"take {thing}"):
            env.step(before)
        if float(env.step(action)[1]) > 0:
            right.add(place)
    if not is_open:
        choices.update({name: f"open {name}" for name in containers})
    room = first.removesuffix(seen[0]) + seen[-1] if is_open else first
    env.reset(seed=seed)
    return Riddle(thing, room, env.step(f"take {thing}")[0], choices, frozenset(right))


def _make(name: str) -> gymnasium.Env:
    env, arguments = parse_id(name)
    return gymnasium.make(env, disable_env_checker=True, **arguments)  # pyright: ignore[reportArgumentType]


def chance(asked: Sequence[Riddle]) -> float:
    """Return how often a place drawn at random is right."""
    return float(np.mean([len(riddle.right) / len(riddle.choices) for riddle in asked]))


def places_by(score: Score, asked: Sequence[Riddle]) -> list[bool]:
    """Return of each riddle whether the place that scores best is right."""
    return [max(riddle.choices, key=lambda place: score(riddle.thing, place)) in riddle.right for riddle in asked]


def places_of(policy: Policy, asked: Sequence[Riddle]) -> list[bool]:
    """Return of each riddle whether the model's likeliest place is right, where 100 was asked for at the start."""
    chunks = [asked[first : first + NUM_ENVS] for first in range(0, len(asked), NUM_ENVS)]
    return [is_right for chunk in chunks for is_right in _places_of(policy, chunk)]


def _places_of(policy: Policy, asked: Sequence[Riddle]) -> list[bool]:
    context, names = Context(policy.model, len(asked)), policy.model.layout.step_names
    for observations, to_go in (([riddle.room for riddle in asked], 100.0), ([riddle.taken for riddle in asked], 50.0)):
        known = {"observation": observations, "return_to_go": np.full(len(asked), to_go, np.float32)}
        context.write(**{name: value for name, value in known.items() if name in names})
        if to_go == 100.0:
            context.write(action=[f"take {riddle.thing}" for riddle in asked])
    likeliest = context.predict("action", candidates=[list(riddle.choices.values()) for riddle in asked]).mode()
    right = [{riddle.choices[place] for place in riddle.right} for riddle in asked]
    return [action in actions for action, actions in zip(likeliest, right, strict=True)]
