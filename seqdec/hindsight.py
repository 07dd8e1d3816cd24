"""What may stand in a prompt: facts of an episode, read in training from the episode's own future.

    target_return   the return of the whole episode        text   what the episode is about, in words

A fact has one value for the whole window, in raw units. Acting writes the same slot with what the user asks for.
"""

import numpy as np

FACTS = ("target_return", "text")


def target_return(returns_to_go: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
    """Return the return of the whole episode, float32 [B, 1].

    Args:
        returns_to_go: of all episodes, flat, float32.
        episode_starts: flat index of each window's episode's first timestep, int64 [B].
    """
    return returns_to_go[episode_starts, None]
