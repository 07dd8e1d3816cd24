"""What `language.py` runs: the recipe, the methods, and the cells, the most telling first.

cell = method x train games x what is asked        with a seed: one line of the results
"""

import json
from dataclasses import asdict, dataclass, replace

import language_games as games

from seqdec.play.expert import DEFAULTS

SEEDS = (0, 1, 2)

# How everything is trained. A method or a cell may have other values.
RECIPE = {
    "backbone": "smollm2", "layout": "multi_game", "context_length": 10, "heldout_fraction": 0.0,
    "steps": 400, "batch_size": 8, "schedule": "cosine", "warmup_steps": 20,
    "clip_norm": 1.0, "weight_decay": 0.01, "precision": "bf16",
}  # fmt: skip
# "pace": steps in the time that a pretrained step takes, so that all methods train for the same CPU seconds.
METHODS: dict[str, dict[str, object]] = {
    "pretrained": {
        "init": "pretrained", "finetune": "lora", "freeze_layers": 20, "backbone_learning_rate": 2e-3, "pace": 1.0,
    },
    "random-4": {"init": "random", "num_layers": 4, "backbone_learning_rate": 1e-3, "pace": 1.6},
    "random-10": {"init": "random", "num_layers": 10, "backbone_learning_rate": 1e-3, "pace": 0.8},
    "random-30": {"init": "random", "backbone_learning_rate": 1e-3, "pace": 0.3},
}  # fmt: skip
METHODS["trial"] = {
    "backbone": "small", "init": "random", "backbone_learning_rate": 1e-3, "pace": 0.5, "steps": 8, "batch_size": 4,
}  # fmt: skip
STEP_SECONDS = 2.7  # of a pretrained step, to estimate by
GAME_SECONDS = {"pretrained": 0.5, "random-4": 0.2, "random-10": 0.3, "random-30": 0.5, "trial": 0.2}  # of playing one
FREE_FACTOR = 2.0  # writing freely takes so much longer than choosing
WITHOUT_MODEL = (*games.SCORES, "any", "oracle")
ACTION_TOKENS = 64  # the most of an action that is written freely


@dataclass(frozen=True)
class Asking:
    """A fold's games, each played once: the returns that are asked for, and how actions are chosen."""

    fold: str = "test"
    asked: tuple[float, ...] = (0.0, 50.0, 100.0)
    temperature: float = 0.0
    is_free: bool = False


@dataclass(frozen=True)
class Cell:
    """A method on a number of games.

    `settings` stand before the recipe's and the method's; `length` multiplies the steps, and without pace they are
    those of the pretrained model: the same tokens. `limit` plays fewer games of a fold, for a trial.
    """

    name: str
    method: str
    games: int
    askings: tuple[Asking, ...] = (Asking(),)
    settings: tuple[tuple[str, object], ...] = ()
    length: float = 1.0
    keeps_pace: bool = True
    asks_places: bool = True
    items: int = 1
    best: float | None = None
    seeds: tuple[int, ...] = SEEDS
    limit: int | None = None

    @property
    def reads_return(self) -> bool:
        """Whether there is a return to ask for."""
        return self.method not in WITHOUT_MODEL and self.recipe["layout"] != "behaviour_cloning"

    @property
    def recipe(self) -> dict[str, object]:
        """What `finetune` is given, and the layout's name."""
        if self.method in WITHOUT_MODEL:
            return {}
        every = {**RECIPE, **METHODS[self.method], **dict(self.settings)}
        pace = number(every.pop("pace"))
        return {**every, "steps": round(number(every["steps"]) * (pace if self.keeps_pace else 1.0) * self.length)}

    @property
    def identity(self) -> dict[str, object]:
        """What a line must agree in to be this cell's, as JSON has it."""
        names = ("method", "games", "items", "best", "limit", "asks_places")
        value = {name: getattr(self, name) for name in names}
        askings = [asdict(asking) for asking in self.askings]
        data = {"errors": DEFAULTS, "recipe": self.recipe, "askings": askings}
        return json.loads(json.dumps({**value, **data}))

    def num_games(self, fold: str) -> int:
        """How many of a fold's games are played."""
        return min(games.NUM_GAMES[self.items][fold], self.limit or 1000)

    @property
    def estimate(self) -> float:
        """Seconds that a seed will take."""
        if self.method in WITHOUT_MODEL:
            return 4.0
        every = [*self.askings, *([Asking(asked=(100.0,))] if self.asks_places else [])]
        played = sum(
            self.num_games(asking.fold) * len(self.asked(asking)) * (FREE_FACTOR if asking.is_free else 1)
            for asking in every
        )
        step = STEP_SECONDS / number(METHODS[self.method]["pace"])
        return 20 + number(self.recipe["steps"]) * step + played * GAME_SECONDS[self.method]

    def asked(self, asking: Asking) -> tuple[float | None, ...]:
        """The returns to ask for; None where there is nothing to ask."""
        return asking.asked if self.reads_return else (None,)


def number(value: object) -> float:
    """Return a value of a recipe that is a number."""
    assert isinstance(value, int | float)
    return float(value)


_FULL = (Asking(), Asking(asked=(100.0,), temperature=1.0), Asking(asked=(100.0,), is_free=True))
_CLONING = (("layout", "behaviour_cloning"),)
_CURVE = (("heldout_fraction", 0.1),)


def _baselines(num_games: int, items: int = 1) -> list[Cell]:
    """Return what needs games but no model; the expert and any action need none of them either."""
    suffix = "" if items == 1 else "-two"  # the things to put away
    return [
        Cell(f"{method}-{num_games}{suffix}", method, num_games, (Asking(), Asking("dev")), items=items)
        for method in games.SCORES
    ]


def _rates(method: str) -> list[Cell]:
    """Return the runs by which a method's rate is chosen, on the dev objects; its place is in `METHODS`."""
    return [
        Cell(
            f"{method}-rate-{rate}", method, 800, (Asking("dev", asked=(100.0,)),),
            (("backbone_learning_rate", float(rate)),), length=0.25, asks_places=False, seeds=(0,),
        )
        for rate in (("5e-4", "1e-3", "2e-3") if method != "pretrained" else ("5e-4", "1e-3", "2e-3", "4e-3"))
    ]  # fmt: skip


# The most telling first; what `--list` prints last may be left out.
CELLS: list[Cell] = [
    Cell("oracle", "oracle", 200, (Asking(), Asking("dev")), asks_places=False),
    Cell("any", "any", 200, (Asking(), Asking("dev")), asks_places=False),
    *(cell for num_games in (800, 200, 50, 20) for cell in _baselines(num_games)),
    Cell("pretrained-800", "pretrained", 800, _FULL),
    Cell("pretrained-800-twice", "pretrained", 800, length=2.0),
    *_rates("random-4"),
    Cell("random-4-800", "random-4", 800),
    Cell("random-4-800-twice", "random-4", 800, length=2.0),
    Cell("pretrained-200", "pretrained", 200),
    Cell("random-4-200", "random-4", 200),
    *_rates("random-10"),
    Cell("random-10-800", "random-10", 800),
    Cell("random-10-200", "random-10", 200),
    Cell("cloning-800", "pretrained", 800, settings=_CLONING, best=0.25),
    Cell("pretrained-50", "pretrained", 50),
    Cell("random-30-800", "random-30", 800),
    *_rates("random-30"),
    *_rates("pretrained"),
    Cell("random-4-800-long", "random-4", 800, settings=_CURVE, length=10.0, keeps_pace=False),
    Cell("cloning-200", "pretrained", 200, settings=_CLONING, best=0.25),
    Cell("pretrained-800-context-1", "pretrained", 800, settings=(("context_length", 1),), asks_places=False),
    Cell("pretrained-800-context-2", "pretrained", 800, settings=(("context_length", 2),), asks_places=False),
    Cell("pretrained-800-context-4", "pretrained", 800, settings=(("context_length", 4),), asks_places=False),
    Cell("pretrained-20", "pretrained", 20),
    Cell("random-4-50", "random-4", 50),
    Cell("random-4-20", "random-4", 20),
    Cell("random-10-800-long", "random-10", 800, settings=_CURVE, length=10.0, keeps_pace=False, seeds=(0,)),
    *_baselines(800, items=2),
    Cell("pretrained-800-two", "pretrained", 800, items=2, asks_places=False),
    Cell("random-10-800-two", "random-10", 800, items=2, asks_places=False),
    Cell("random-30-200", "random-30", 200),
    Cell("random-10-50", "random-10", 50),
    Cell("random-10-20", "random-10", 20),
    Cell("random-4-200-long", "random-4", 200, settings=_CURVE, length=10.0, keeps_pace=False),
    Cell("random-10-200-long", "random-10", 200, settings=_CURVE, length=10.0, keeps_pace=False),
    Cell("cloning-50", "pretrained", 50, settings=_CLONING, best=0.25),
    Cell("cloning-20", "pretrained", 20, settings=_CLONING, best=0.25),
    Cell("random-30-50", "random-30", 50),
    Cell("random-30-20", "random-30", 20),
    Cell("random-30-800-long", "random-30", 800, settings=_CURVE, length=10.0, keeps_pace=False, seeds=(0,)),
]
# `--smoke`: everything that a cell may have, on a tiny backbone that knows nothing.
_TRIAL = (
    Asking(), Asking("dev", asked=(100.0,), temperature=1.0), Asking(asked=(100.0,), is_free=True),
)  # fmt: skip
_SHORT = {"limit": 4, "seeds": (0,)}
SMOKE: list[Cell] = [
    *(replace(cell, **_SHORT) for cell in (*CELLS[:2], *_baselines(12), *_baselines(12, items=2))),
    Cell("pretrained-12", "trial", 12, _TRIAL, **_SHORT),
    Cell("cloning-12", "trial", 12, (Asking(),), _CLONING, best=0.25, **_SHORT),
    Cell("random-4-12-long", "trial", 12, settings=_CURVE, length=2.0, keeps_pace=False, asks_places=False, **_SHORT),
]
