"""Text worlds by their Gymnasium ids: TextWorldExpress/twc-v0 and others, registered without importing what plays them.

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


def register_text_worlds() -> None:
    """Register each game of TextWorldExpress under its id."""
    for game, (parameters, limit) in TEXT_WORLDS.items():
        gymnasium.register(
            f"TextWorldExpress/{game}-v0",
            entry_point="seqdec.play.textworlds:TextWorld",
            kwargs={"game": game, **parameters},
            max_episode_steps=limit,
        )
