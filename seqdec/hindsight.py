"""What may stand in a prompt: facts of an episode, read in training from the episode's own future.

A fact has one value for the whole window, in raw units. Acting writes the same slot with what the user asks for.
"""

import numpy as np

from seqdec.errors import UsageError, suggest

FACTS = ("target_return",)


def fact(name: str, returns_to_go: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
    """Return a fact of the episodes whose first timesteps are at `episode_starts`, float32 [B, 1].

    Args:
        name: `target_return`, the return of the whole episode.
        returns_to_go: of all episodes, flat, float32.
        episode_starts: flat index of each window's episode's first timestep, int64 [B].

    Raises:
        UsageError: if no fact of that name can be read from an episode.
    """
    if name != "target_return":
        raise UsageError(f"no prompt fact is called {name!r}{suggest(name, FACTS)}: known are {', '.join(FACTS)}")
    return returns_to_go[episode_starts, None]
