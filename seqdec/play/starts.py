"""How episodes begin: episode i from the environment seed `seed + i`, with the options that its reset is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium.vector import VectorEnv

from seqdec.errors import UsageError
from seqdec.play.guarded import OPTIONS, PARK
from seqdec.play.waiting import Start, reset_in_time

Options = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Starts:
    """The seed of episode 0, and options of `reset`: one for all, or a list of which episode i has the i-th, again and
    again.

    Raises:
        UsageError: options that are neither.
    """

    seed: int
    options: Options | Sequence[Options] | None = None

    def __post_init__(self) -> None:
        several = [self.options] if self.options is None or isinstance(self.options, Mapping) else self.options
        if isinstance(several, str) or not isinstance(several, Sequence) or not several:
            raise UsageError(f"reset_options are {several!r}: give a dict, or a list of dicts", option="reset_options")
        wrong = [options for options in several if not isinstance(options, Mapping | None)]
        if wrong:
            raise UsageError(f"reset_options hold {wrong[0]!r}: give a dict for each episode", option="reset_options")

    def options_of(self, episode: int) -> Options | None:
        """Return what the reset of an episode is given."""
        if self.options is None or isinstance(self.options, Mapping):
            return self.options
        return self.options[episode % len(self.options)]

    def reset(self, envs: VectorEnv, first: int, is_played: np.ndarray) -> Start:
        """Begin the episodes from `first` on in the first rows of a batch, if they are played; others begin anyhow.

        Of a batch of ours, rows among the first that are not played rest.

        Raises:
            UsageError: a batch that is not ours cannot give each row options of its own.
        """
        seed, own = self.seed + first, [self.options_of(first + row) for row in range(len(is_played))]
        if envs.metadata.get(PARK):
            own = [
                options if is_row_played else {PARK: True}
                for options, is_row_played in zip(own, is_played, strict=True)
            ]
        if all(options is own[0] for options in own):
            return reset_in_time(envs, seed, None if own[0] is None else dict(own[0]))
        if not envs.metadata.get(PARK):
            raise UsageError("these environments take one dict of reset_options for all: make them by make_envs")
        # the seed tells a row which options are its own
        return reset_in_time(envs, seed, {OPTIONS: {seed + row: options for row, options in enumerate(own)}})
