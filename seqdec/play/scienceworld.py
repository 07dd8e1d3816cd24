"""ScienceWorld as Gymnasium environments: thirty tasks of elementary science in a house, text in and text out.

Seeds, folds, rewards and infos are those of `textworlds`. Objects have several names here, hundreds of sentences are
valid at a time, and which of its names an object has among them may differ from one run to the next, as may the order
in which an ambiguous sentence is asked back.
"""

import json
import random
import string
from functools import cache

import gymnasium
from gymnasium.spaces import Text

from seqdec.errors import UsageError
from seqdec.play.brief import brief
from seqdec.play.candidates import VALID_ACTIONS
from seqdec.play.java import Interface, new_interface
from seqdec.play.textworlds import check_fold
from seqdec.spaces.space import quote


class ScienceWorld(gymnasium.Env[str, str]):
    """A task of ScienceWorld; a seed of `reset` is one of the task's variations.

    Example:
        >>> env = gymnasium.make("seqdec.play:ScienceWorld/lifespan-longest-lived-v0", verbs="go|focus")
        >>> observation, info = env.reset(seed=0)
    """

    metadata = {"render_modes": [], "reference_returns": (0.0, 100.0)}

    def __init__(
        self, task: str, fold: str = "train", simplifications: str = "easy", verbs: str = "", brief: bool = True
    ) -> None:
        """Choose among a task's variations.

        Args:
            task: as the id has it.
            fold: "train", "dev" or "test".
            simplifications: of the simulator, separated by "|", such as "openDoors|teleportAction"; "easy" is all.
            verbs: with which words candidates begin, separated by "|"; by default all do, up to a thousand and more.
            brief: drop the observation's filler words.

        Raises:
            UsageError: an argument that cannot be, or the packages or Java are missing.
        """
        self.observation_space = Text(100_000, min_length=0, charset=string.printable)
        self.action_space = Text(1_000, min_length=0, charset=string.printable)
        check_fold(fold)
        self._task, self._brief = task, brief
        self._verbs = tuple(f"{verb} " for verb in verbs.split("|") if verb)
        self._simplifications = simplifications.replace("|", ",")
        self._variations = _variations(task, fold)
        self._interface = new_interface("scienceworld")
        possible = ["easy", *self._interface.getPossibleSimplifications().split(", ")]
        wrong = next((word for word in self._simplifications.split(",") if word not in ("", *possible)), None)
        if wrong is not None:
            raise UsageError(f"there is no simplification {quote(wrong)}: expected {', '.join(possible)}")
        self._score = 0.0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        """Begin the variation that the seed stands for, or one at random; the task is the first sentence."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        return self._begin(seed, with_walkthrough=False)

    def walkthrough(self, seed: int) -> list[str]:
        """Begin the variation that a seed stands for and return actions that solve it."""
        self._begin(seed, with_walkthrough=True)
        return list(self._interface.getGoldActionSequence())

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """Say something to the world."""
        before, observation = self._score, self._interface.step(action)
        score = self._interface.getScore()
        info = self._info(score)
        self._score = info["score"]
        is_over = bool(self._interface.getCompleted()) or score < 0
        return self._shown(observation), self._score - before, is_over, False, info

    def _begin(self, seed: int, *, with_walkthrough: bool) -> tuple[str, dict]:
        variation = self._variations[seed % len(self._variations)]
        self._interface.load(self._task, variation, self._simplifications, with_walkthrough)
        room = self._shown(self._interface.step("look around"))
        task = " ".join(self._interface.getTaskDescription().split())
        self._score = 0.0  # some tasks pay for where one begins: with the first step, so that returns are scores
        return (f"{task} {room}" if self._brief else f"{task}\n{room}"), self._info(self._interface.getScore())

    def _info(self, score: float) -> dict:
        valid = {
            entry["action"]
            for entry in json.loads(self._interface.getValidActionObjectCombinationsJSON())["validActions"]
        }
        chosen = sorted(action for action in valid if not self._verbs or f"{action} ".startswith(self._verbs))
        return {VALID_ACTIONS: chosen, "score": 100.0 * max(0.0, score)}

    def _shown(self, text: str) -> str:
        return brief(text) if self._brief else text.strip()


@cache
def _variations(task: str, fold: str) -> tuple[int, ...]:
    """Return a fold's variations of a task, in an order that was shuffled once for all."""
    interface: Interface = new_interface("scienceworld")
    problem = interface.load(task, 0, "", False)
    if problem:
        raise UsageError(f"ScienceWorld has no task {quote(task)}: {', '.join(interface.getTaskNames())}")
    numbers = [int(number) for number in getattr(interface, f"getVariations{fold.title()}")()]
    random.Random(0).shuffle(numbers)
    return tuple(numbers)
