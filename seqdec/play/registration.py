"""Text worlds by their Gymnasium ids, such as TextWorldExpress/twc-v0; registering imports nothing that plays them.

Whatever has imported `seqdec.play` can make them; who has not writes "seqdec.play:TextWorldExpress/twc-v0". Gymnasium
finds environments by an import alone: since its version 1.0 it reads no entry points of packages.
"""

import gymnasium

# A game's own parameters where they are not its defaults, and the longest episode.
TEXT_WORLDS: dict[str, tuple[dict[str, int], int]] = {
    "arithmetic": ({}, 50),
    "coin": ({}, 50),
    "cookingworld": ({}, 100),
    "mapreader": ({}, 50),
    "peckingorder": ({}, 50),
    "simonsays": ({}, 50),
    "sorting": ({}, 50),
    "twc": ({"numLocations": 1, "numItemsToPutAway": 1}, 5),
}


SCIENCE_TASKS = (
    *("boil", "change-the-state-of-matter-of", "chemistry-mix", "chemistry-mix-paint-secondary-color"),
    *("chemistry-mix-paint-tertiary-color", "find-animal", "find-living-thing", "find-non-living-thing", "find-plant"),
    *("freeze", "grow-fruit", "grow-plant", "identify-life-stages-1", "identify-life-stages-2"),
    *("inclined-plane-determine-angle", "inclined-plane-friction-named-surfaces"),
    *("inclined-plane-friction-unnamed-surfaces", "lifespan-longest-lived"),
    *("lifespan-longest-lived-then-shortest-lived", "lifespan-shortest-lived", "measure-melting-point-known-substance"),
    *("measure-melting-point-unknown-substance", "melt", "mendelian-genetics-known-plant"),
    *("mendelian-genetics-unknown-plant", "power-component", "power-component-renewable-vs-nonrenewable-energy"),
    *("test-conductivity", "test-conductivity-of-unknown-substances", "use-thermometer"),
)
SCIENCE_STEPS = 100


def register_text_worlds() -> None:
    """Register each game of TextWorldExpress and each task of ScienceWorld under its id."""
    for game, (parameters, limit) in TEXT_WORLDS.items():
        gymnasium.register(
            f"TextWorldExpress/{game}-v0",
            entry_point="seqdec.play.textworlds:TextWorld",
            kwargs={"game": game, **parameters},
            max_episode_steps=limit,
        )
    for task in SCIENCE_TASKS:
        gymnasium.register(
            f"ScienceWorld/{task}-v0",
            entry_point="seqdec.play.scienceworld:ScienceWorld",
            kwargs={"task": task},
            max_episode_steps=SCIENCE_STEPS,
            nondeterministic=True,
        )
