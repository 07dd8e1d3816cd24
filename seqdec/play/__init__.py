"""An actor in environments, and the episodes that it plays there.

    a batch of N environments               episode i starts from the environment seed `seed + i`
    wave 0   episode 0 |-------|            rows that end leave the batch, so that an actor's memory stays
             episode 1 |----------------|   a rectangle and every episode that started is counted
    wave 1   episode 2 |---|
             episode 3 |----------|

`make_envs` makes a batch of the environment that a data set names, `rollout` lets an actor play in it, `record` keeps
what is played as a data set. Here is no training, and no policy is made: ours, a function of one observation and a
model of Stable-Baselines3 play alike. An environment is foreign code: its failure ends its own episode, never the
others.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqdec.play.actors import Actor, random_policy
    from seqdec.play.make import make_envs
    from seqdec.play.recording import record
    from seqdec.play.rollouts import rollout
    from seqdec.play.sample import scripted_cartpole
    from seqdec.play.sb3 import from_sb3

_MODULES = {
    "Actor": "actors",
    "from_sb3": "sb3",
    "make_envs": "make",
    "random_policy": "actors",
    "record": "recording",
    "rollout": "rollouts",
    "scripted_cartpole": "sample",
}
__all__ = ["Actor", "from_sb3", "make_envs", "random_policy", "record", "rollout", "scripted_cartpole"]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"seqdec.play.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'seqdec.play' has no attribute {name!r}")
