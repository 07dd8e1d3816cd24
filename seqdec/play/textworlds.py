"""TextWorldExpress as Gymnasium environments: text in, text out, and in the info which texts would be understood.

    seed of reset   ->   a game of the fold: seed n is the n-th in an order that was shuffled once for all
    observation     "Your task is to ... bedroom: dressing table, chest of drawers (closed), clean brown shirt"
    reward          100 times the change of the game's score: an episode's return is 0 to 100

Which ids there are is in `registration`, the Java process behind them in `java`.
"""

import json
import random
import string
from collections.abc import Mapping
from functools import cache
from itertools import count

import gymnasium
from gymnasium.spaces import Text

from seqdec.errors import UsageError
from seqdec.play.brief import brief
from seqdec.play.candidates import VALID_ACTIONS
from seqdec.play.java import Interface, new_interface
from seqdec.spaces.space import quote

# Games of this kind share what they should not (1.1.0): one is played anew up to its turn if another was at turn.
_SHARED = {"sorting"}
_at_turn: dict[str, int] = {}
_numbers = count()
FOLDS = {"train": "getSeedsTrain", "dev": "getSeedsDev", "test": "getSeedsTest"}


class TextWorld(gymnasium.Env[str, str]):
    """A game of TextWorldExpress.

    `info` has "valid_actions", sorted, and "score", 0 to 100. A text that the game does not understand costs a step.

    Example:
        >>> env = gymnasium.make("seqdec.play:TextWorldExpress/twc-v0", fold="test", distinct=True)
        >>> observation, info = env.reset(seed=0)
    """

    metadata = {"render_modes": [], "reference_returns": (0.0, 100.0)}

    def __init__(
        self, game: str, fold: str = "train", distinct: bool = False, brief: bool = True, **parameters: int
    ) -> None:
        """Choose among a game's seeds.

        Args:
            game: "twc", "coin", ...: as the id has it.
            fold: "train", "dev" or "test".
            distinct: only games whose objects are in none of the others; of "twc" in one location.
            brief: drop the observation's filler words: about 30 tokens a room instead of 112.
            parameters: the game's own, such as numLocations.

        Raises:
            UsageError: an argument that cannot be, or the packages or Java are missing.
        """
        self.observation_space = Text(10_000, min_length=0, charset=string.printable)
        self.action_space = Text(1_000, min_length=0, charset=string.printable)
        check_fold(fold)
        self.game, self.is_of_one_room = game, game == "twc" and parameters.get("numLocations") == 1
        if distinct and not self.is_of_one_room:
            raise UsageError("distinct games are those of twc in one location: give numLocations=1, or distinct=False")
        self._fold, self._brief = fold, brief
        for name, value in parameters.items():
            if not isinstance(value, int):
                raise UsageError(f"{name} is {quote(value)}: expected a whole number")
        words = ",".join(f"{name}={int(value)}" for name, value in parameters.items())
        self._seeds = _distinct_seeds(words, fold) if distinct else _seeds(game, words, fold)
        self._interface = _loaded(game, words)
        self._number = next(_numbers)
        self._game_seed, self._score = 0, 0.0
        self._said: list[str] = []

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        """Begin the game that the seed stands for, or one at random; the task is the first sentence."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        return self._begin(seed, with_walkthrough=False)

    def walkthrough(self, seed: int) -> list[str]:
        """Begin the game that a seed stands for and return actions that solve it."""
        self._begin(seed, with_walkthrough=True)
        return list(self._interface.getGoldActionSequence())

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """Say something to the game."""
        before = self._score
        if self.game in _SHARED and _at_turn.get(self.game) != self._number:
            self._interface.generateNewGameJSON(self._game_seed, self._fold, False)
            for earlier in self._said:
                self._interface.stepJSON(earlier)
        _at_turn[self.game] = self._number
        self._said.append(action)
        state = json.loads(self._interface.stepJSON(action))
        observation, info = self._shown(state)
        is_over = bool(state["tasksuccess"] or state["taskfailure"])
        return observation, self._score - before, is_over, False, info

    def _begin(self, seed: int, *, with_walkthrough: bool) -> tuple[str, dict]:
        self._game_seed, self._said = self._seeds[seed % len(self._seeds)], []
        _at_turn[self.game] = self._number
        state = json.loads(self._interface.generateNewGameJSON(self._game_seed, self._fold, with_walkthrough))
        room, info = self._shown(state)
        task = self._interface.getTaskDescription().strip()
        return (f"{' '.join(task.split())} {room}" if self._brief else f"{task}\n{room}"), info

    def _shown(self, state: Mapping) -> tuple[str, dict]:
        # a game that is lost has a score below 0
        self._score = 100.0 * max(0.0, state["score"])
        text = state["observation"].strip()
        observation = brief(text) if self._brief else text
        return observation, {VALID_ACTIONS: sorted({*state["validActions"]}), "score": self._score}


def check_fold(fold: str) -> None:
    """Refuse a fold that there is not."""
    if fold not in FOLDS:
        raise UsageError(f"the fold is {quote(fold)}: expected {', '.join(FOLDS)}")


def _loaded(game: str, parameters: str) -> Interface:
    interface = new_interface("textworld_express")
    problem: str = interface.load(game, parameters)
    if problem:
        raise UsageError(f"{game} does not take {parameters or 'no parameters'}: {' '.join(problem.split())}")
    return interface


@cache
def _seeds(game: str, parameters: str, fold: str) -> tuple[int, ...]:
    """Return the seeds of a fold's games in their order; Python keeps to its shuffle of a seeded generator."""
    seeds = [int(seed) for seed in getattr(_loaded(game, parameters), FOLDS[fold])()]
    random.Random(0).shuffle(seeds)
    return tuple(seeds)


@cache
def _distinct_seeds(parameters: str, fold: str) -> tuple[int, ...]:
    """Return the seeds whose objects no game before has, in the order of `_seeds`: each object once."""
    interface, known, seeds = _loaded("twc", parameters), set(), []
    for seed in _seeds("twc", parameters, fold):
        valid = json.loads(interface.generateNewGameJSON(seed, fold, False))["validActions"]
        objects = {action for action in valid if action.startswith("take ")}
        if not objects & known:
            seeds.append(seed)
            known |= objects
    return tuple(seeds)
