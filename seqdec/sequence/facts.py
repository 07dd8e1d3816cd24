"""Which facts of an episode may stand in a prompt, by name; any of them may be unknown.

    target_return   the return of the whole episode
    text            what the episode is about, in words
    goal            an observation that lies ahead      goal.when   its timestep
    waypoint1 ...   observations on the way there, in order; each with its timestep
    final           the observation after the last step
    demo            some timesteps of another episode of the same task

Training reads them in hindsight (`hindsight`); acting writes the same slots with what the user asks for.
"""

import re

FACTS = ("target_return", "text", "goal", "waypoint1", "waypoint2", "final", "demo")
WHEN = ".when"
HIDDEN = "hidden."  # written as unknown, though the value is there to be predicted
WAYPOINT = re.compile(r"waypoint[1-9]\d?")


def is_moment(name: str) -> bool:
    """Say whether a variable is an observation of the episode, or the timestep of one."""
    fact = name.removesuffix(WHEN)
    return fact in ("goal", "final") or WAYPOINT.fullmatch(fact) is not None


def is_of_future(name: str) -> bool:
    """Say whether a variable tells how the episode goes on, so that what is sampled after it would know."""
    return name in ("return_to_go", "target_return") or is_moment(name)


def is_fact(name: str) -> bool:
    """Say whether a variable of the prompt is a fact of the episode, which no environment tells."""
    return name in FACTS or is_moment(name)
