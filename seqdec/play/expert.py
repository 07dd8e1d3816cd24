"""A scripted expert in text worlds at graded errors: what records data of good and bad games.

    noise       how often it says any candidate instead of the right one: such games idle
    misplace    how often it takes a wrong place of the room for an object's own: such games put things wrongly

Episode i has the i-th noise and the i-th place error of their lists, which repeat. In twc in one location the expert
knows from every state what to do; elsewhere it follows the game's walkthrough, and says any candidate where that leads
off it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from seqdec.errors import UsageError
from seqdec.play.info import Choices
from seqdec.play.java import folder_of
from seqdec.play.make import parse_id
from seqdec.play.scienceworld import ScienceWorld
from seqdec.play.textworlds import TextWorld
from seqdec.spaces.leaves import Batch

# Noise and place error of the episodes by default: in twc 40 % of them return 0, by a wrong place, and 11 % 50.
DEFAULTS = ((0.0, 0.0), (0.25, 0.0), (0.0, 1.0), (0.25, 1.0), (0.75, 0.5))
_PUT = re.compile("put (.*) in (.*)")
_DONE = "inventory"  # what it says once all is put away, as far as it knows
_IDLE = {"look around", "inventory", "task"}


@dataclass
class _Game:
    """What the expert knows of a running game; `places` are where it means to put each object."""

    random: np.random.Generator
    noise: float
    misplace: float
    walkthrough: list[str]
    places: dict[str, str]
    is_chosen: set[str] = field(default_factory=set)
    num_said: int = 0


class TextWorldExpert:
    """The expert of one environment, as an actor.

    Example:
        >>> expert = TextWorldExpert("TextWorldExpress/twc-v0", seed=0)
        >>> dataset = record("TextWorldExpress/twc-v0", expert, num_episodes=60, seed=0)
    """

    def __init__(self, env_id: str, *, seed: int, noise: Sequence[float] = (), misplace: Sequence[float] = ()) -> None:
        """Learn the game from an environment of its own.

        Args:
            env_id: of a text world, with its arguments, as `make_envs` takes it.
            seed: the environment seed of episode 0, and of the errors.
            noise: shares from 0 to 1.
            misplace: shares from 0 to 1; of no effect where the expert follows a walkthrough. Where neither is given,
                `DEFAULTS` are taken; where one is, the other is 0.
        """
        if not noise and not misplace:
            noise, misplace = zip(*DEFAULTS, strict=True)
        for name, shares in (("noise", noise), ("misplace", misplace)):
            wrong = [share for share in shares if not 0 <= share <= 1]
            if wrong:
                raise UsageError(f"{name} holds {wrong[0]:g}: give shares from 0 to 1", option=name)
        self._world = _world(env_id)
        self._knows_places = isinstance(self._world, TextWorld) and self._world.is_of_one_room
        self._seed, self._noise, self._misplace = seed, noise or (0.0,), misplace or (0.0,)
        self._num_begun = 0
        self._games: list[_Game] = []

    def reset(self, num_envs: int) -> None:
        self._games = [self._begin(episode) for episode in range(self._num_begun, self._num_begun + num_envs)]
        self._num_begun += num_envs

    def seek(self, episode: int) -> None:
        self._num_begun = episode

    def act(self, observations: Batch, rewards: np.ndarray | None, info: Choices | None = None) -> Batch:
        candidates = (info or {}).get("valid_actions") or [None] * len(self._games)
        pairs = zip(self._games, candidates, strict=True)
        return np.array([self._choose(game, valid or [""]) for game, valid in pairs], object)

    def keep(self, rows: np.ndarray) -> None:
        self._games = [self._games[row] for row in rows]

    def _begin(self, episode: int) -> _Game:
        walkthrough = [action for action in self._world.walkthrough(self._seed + episode) if action not in _IDLE]
        puts = [match for action in walkthrough if (match := _PUT.fullmatch(action))]
        return _Game(
            random=np.random.default_rng([self._seed, episode]),
            noise=self._noise[episode % len(self._noise)],
            misplace=self._misplace[episode % len(self._misplace)],
            walkthrough=walkthrough,
            places={match[1]: match[2] for match in puts} if self._knows_places else {},
        )

    def _choose(self, game: _Game, valid: list[str]) -> str:
        others = [action for action in valid if action not in _IDLE] or valid
        action = None if game.random.random() < game.noise else self._right(game, valid)
        if action is None:
            action = others[game.random.integers(len(others))]
        if game.walkthrough[game.num_said : game.num_said + 1] == [action]:
            game.num_said += 1
        match = _PUT.fullmatch(action)
        if match and game.places.get(match[1]) == match[2]:
            del game.places[match[1]]  # as far as the expert knows, it is done
        return action

    def _right(self, game: _Game, valid: list[str]) -> str | None:
        """Return what the expert means to say; None where it knows nothing."""
        if not self._knows_places:
            following = game.walkthrough[game.num_said] if game.num_said < len(game.walkthrough) else None
            # ScienceWorld's walkthroughs call things by names that its candidates do not
            return following if following in valid or isinstance(self._world, ScienceWorld) else None
        for thing, place in game.places.items():
            if not any(action.startswith(f"put {thing} in ") for action in valid):
                continue
            if thing not in game.is_chosen:
                game.is_chosen.add(thing)
                game.places[thing] = place = _chosen_place(game, thing, place, valid)
            wishes = [action for action in (f"put {thing} in {place}", f"open {place}") if action in valid]
            if wishes:
                return wishes[0]
        if not game.places and _DONE in valid:
            return _DONE
        return next((f"take {thing}" for thing in game.places if f"take {thing}" in valid), None)


def _chosen_place(game: _Game, thing: str, place: str, valid: list[str]) -> str:
    """Return where the expert takes an object in its hands to belong: its place, or by error another one here."""
    if game.random.random() >= game.misplace:
        return place
    here = {action.removeprefix(f"put {thing} in ") for action in valid if action.startswith(f"put {thing} in ")}
    here |= {action.removeprefix("open ") for action in valid if action.startswith("open ")}
    right = {*_right_places().get(thing, ()), place.replace(" ", "")}
    wrong = sorted(other for other in here if other.replace(" ", "") not in right)
    return wrong[game.random.integers(len(wrong))] if wrong else place


def _world(env_id: str) -> TextWorld | ScienceWorld:
    import gymnasium

    name, arguments = parse_id(env_id)
    if not name.split(":")[-1].startswith(("TextWorldExpress/", "ScienceWorld/")):
        raise UsageError(f"the expert plays text worlds (TextWorldExpress/twc-v0 and others), not {env_id}")
    world = gymnasium.make(name, disable_env_checker=True, **arguments).unwrapped  # pyright: ignore[reportArgumentType]
    assert isinstance(world, TextWorld | ScienceWorld)
    return world


@cache
def _right_places() -> dict[str, set[str]]:
    """Return each object's places as TextWorldExpress lists them, without spaces: it spells some in two ways."""
    folds = json.loads((folder_of("textworld_express") / "twc_objects.folds.json").read_text(encoding="utf-8"))
    things = {name: thing for fold in folds.values() for name, thing in fold.items()}
    return {name: {place.replace(" ", "") for place in thing["locations"]} for name, thing in things.items()}
