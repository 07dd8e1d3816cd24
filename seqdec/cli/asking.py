"""What `eval` asks a policy for: flags in; a prompt, guidance and a plan out.

Heavy imports stand inside the functions, so that a slip in the flags is told at once.
"""

import re
from math import prod
from typing import TYPE_CHECKING

from seqdec.cli.loading import numbers
from seqdec.errors import UsageError

if TYPE_CHECKING:
    from seqdec.cli.evaluate import Eval
    from seqdec.data.episode import Episode
    from seqdec.inference.planning import Planning
    from seqdec.inference.prompt import Prompt
    from seqdec.model.sequence_model import SequenceModel


def make_prompt(given: "Eval", model: "SequenceModel") -> "Prompt":
    """Return what --goal, --waypoints, --final, --text and --demo ask for."""
    from seqdec.inference.prompt import Prompt

    return Prompt(
        goal=_moment(given.goal, "--goal", model),
        goal_in=given.goal_in,
        waypoints=_waypoints(given, model),
        waypoints_in=numbers(given.waypoints_in, "--waypoints-in"),
        final=_moment(given.final, "--final", model),
        text=given.text or None,
        demo=_best_part(given.demo, model) if given.demo else None,
    )


def _moment(words: tuple[str, ...], flag: str, model: "SequenceModel") -> list[float] | str | None:
    """Return an observation by its numbers, or the leaf that says it; None where there are no words."""
    if len(words) == 1 and words[0] in model.data.spec.observation_leaves:
        return words[0]
    return numbers(words, flag) or None


def _waypoints(given: "Eval", model: "SequenceModel") -> list[list[float]]:
    """Return the observations that --waypoints has one after the other."""
    flat = numbers(given.waypoints, "--waypoints")
    if "waypoint1" not in model.layout.facts:
        return [flat] if flat else []  # which is refused, by name
    size = prod(model.layout.variable("waypoint1").shape)
    if len(flat) % size:
        raise UsageError(f"--waypoints has {len(flat)} numbers: give {size} for each waypoint")
    return [flat[first : first + size] for first in range(0, len(flat), size)]


def _best_part(data: str, model: "SequenceModel") -> "Episode":
    """Return the timesteps that earn most of the best episode of a data set, as many as a demo shows."""
    from seqdec.data import schema
    from seqdec.data.episode import Episode
    from seqdec.formats.load import load_dataset
    from seqdec.sequence.hindsight import best_part

    dataset = load_dataset(data)
    episode = Episode.from_row(dataset[int(schema.returns(dataset).argmax())])
    length = max(model.layout.demo_length, 1)
    first = best_part(episode.steps["reward"], length)
    return episode[first : first + length]


def make_guidance(given: "Eval") -> float | dict[str, float]:
    """Return what --guidance says: one weight, or one for each piece of evidence that it names."""
    pairs = [word.partition("=")[::2] for word in given.guidance]
    if len(pairs) == 1 and re.fullmatch(r"[-+.\d]\S*", given.guidance[0]):
        return numbers(given.guidance, "--guidance")[0]
    if not all(name and weight for name, weight in pairs):
        raise UsageError(f"--guidance is {' '.join(given.guidance)}: give a number, or NAME=NUMBER for each piece")
    return dict(zip((name for name, _ in pairs), numbers([w for _, w in pairs], "--guidance"), strict=True))


def make_planning(given: "Eval") -> "Planning | None":
    """Return how --plan and its flags say to plan; None to act without."""
    from seqdec.inference.planning import Planning

    if not given.plan:
        return None
    return Planning(given.plan, given.plan_candidates, given.plan_keep, given.plan_outcomes, given.replan_every)
