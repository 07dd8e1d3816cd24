"""An actor in environments, and the episodes that it plays there.

    a batch of N environments               episode i starts from the environment seed `seed + i`
    wave 0   episode 0 |-------|            rows that end leave the batch, so that an actor's memory stays
             episode 1 |----------------|   a rectangle and every episode that started is counted
    wave 1   episode 2 |---|
             episode 3 |----------|

`make_envs` makes a batch of the environment that a data set names, `rollout` lets an actor play in it, `record` keeps
what is played as a data set. Here is no training, and no policy is made: ours, a function of one observation and a
model of Stable-Baselines3 play alike. An environment is foreign code: its failure ends its own episode, never the
others. Importing the room registers text worlds with Gymnasium.
"""

from typing import TYPE_CHECKING

from seqdec import door
from seqdec.play.registration import register_text_worlds

if TYPE_CHECKING:
    from seqdec.play.actors import Actor, random_policy
    from seqdec.play.expert import TextWorldExpert
    from seqdec.play.make import make_envs
    from seqdec.play.recording import record
    from seqdec.play.rollouts import rollout
    from seqdec.play.sample import scripted_cartpole
    from seqdec.play.sb3 import from_sb3

_HOMES = {
    "play.actors": ["Actor", "random_policy"],
    "play.expert": ["TextWorldExpert"],
    "play.make": ["make_envs"],
    "play.recording": ["record"],
    "play.rollouts": ["rollout"],
    "play.sample": ["scripted_cartpole"],
    "play.sb3": ["from_sb3"],
}
__all__ = [
    "Actor", "TextWorldExpert", "from_sb3", "make_envs", "random_policy", "record", "rollout", "scripted_cartpole",
]  # fmt: skip
__getattr__ = door(__name__, _HOMES)

register_text_worlds()
