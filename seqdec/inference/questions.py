"""The other questions: each one writes what is known, and samples or scores what is not.

    predict      observation  a a a  ->  what is seen and paid next
    inverse      observation  next observation  ->  the action between
    infer_goal   what was seen and done  ->  which goal it was done for
    explain      an action  ->  which evidence moved it

Acting is `policy`, looking ahead `planning`; possible returns are in `return_distribution`, scores in `likelihood`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from seqdec.data.episode import Episode
from seqdec.errors import StorageError, UsageError
from seqdec.inference.context import Context
from seqdec.inference.likelihood import gather_unknown, windows_of
from seqdec.inference.values import less_offset
from seqdec.model.sequence_model import SequenceModel
from seqdec.sequence import noise
from seqdec.sequence.facts import HIDDEN, WHEN

NUM_SAMPLES = 256


@torch.inference_mode()
def predict(
    context: Context,
    actions: Tensor | np.ndarray | Mapping[str, Tensor],
    *,
    num_samples: int = 1,
    mean: bool = False,
    temperature: float = 1.0,
) -> dict[str, Tensor | np.ndarray]:
    """Return what the model expects to see and to be paid for actions.

    Args:
        context: written up to an action; it stays as it is.
        actions: to be taken, [B, k, ...], texts as an array of str; or by leaf where they are nested.
        num_samples: futures of each sequence.
        mean: return the mean over the futures, of vectors and rewards, instead of the futures.
        temperature: 1 samples, 0 takes the most likely next value each time.

    Returns:
        "reward" and each leaf of the observation, [B, num_samples, k, ...], texts as arrays of str; with `mean`
        [B, k, ...], without texts.

    Raises:
        UsageError: the layout does not predict rewards and observations.
    """
    before, acted, after = context.layout.divide(context.model.data.spec.action_leaves)
    by_leaf = actions if isinstance(actions, Mapping) else {acted[0]: actions}
    is_text = {name: context.layout.variable(name).kind == "text" for name in by_leaf}
    given = {name: np.asarray(value) if is_text[name] else torch.as_tensor(value) for name, value in by_leaf.items()}
    seen = [name for name in before if context.layout.variable(name).role == "observation"]
    for name in (*seen, "reward"):
        if name not in context.layout.predicted:
            raise UsageError(f"the model does not predict {name}: train with layout='trajectory'", option="layout")
    future = context.branch(num_samples)
    samples: dict[str, list[Tensor | list[str]]] = {name: [] for name in (*seen, "reward")}
    for time in range(next(iter(given.values())).shape[1]):
        rows = np.arange(context.num_sequences).repeat(num_samples)
        future.write(**{name: value[rows, time] for name, value in given.items()})
        for name in (*after, *before):
            value = _sample_or_leave(future, name, temperature)
            if name in samples and value is not None:
                samples[name].append(value)
    numbers = {name: torch.stack(values, 1) for name, values in samples.items() if not isinstance(values[0], list)}  # pyright: ignore
    futures = {name: values.unflatten(0, (-1, num_samples)) for name, values in numbers.items()}
    if mean:
        return {name: value.float().mean(1) for name, value in futures.items()}
    texts = {name: np.array(values, object).T for name, values in samples.items() if name not in numbers}
    shaped = {name: rows.reshape(-1, num_samples, rows.shape[1]) for name, rows in texts.items()}
    return {**{name: value.clone() for name, value in futures.items()}, **shaped}


def _sample_or_leave(context: Context, name: str, temperature: float) -> Tensor | list[str] | None:
    """Sample a variable that the model predicts; write "unknown" where it does not."""
    if name not in context.layout.predicted:
        context.write(**{name: None})
        return None
    if context.layout.variable(name).kind == "text":
        return context.sample_text(name, temperature=temperature)
    return context.sample(name, temperature=temperature)


@torch.inference_mode()
def inverse(
    model: SequenceModel,
    observation: Tensor | np.ndarray | Sequence[str],
    next_observation: Tensor | np.ndarray | Sequence[str],
    *,
    by: Literal["goal", "outcome"] | None = None,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
) -> Tensor:
    """Return actions that lead from one observation to the next, [B, num_samples, ...].

    Args:
        model: predicts observations, or has a goal in its prompt.
        observation: of the first step of an episode [B, ...], or B texts.
        next_observation: [B, ...], or B texts.
        by: "goal" writes the next observation as a goal one timestep ahead, and samples actions; "outcome" samples
            actions, weighs them by how likely the model finds what comes of them, and draws again by these weights.
            By default the goal, where the model has one in its prompt.
        num_samples: of each pair.
        seed: of the samples.

    Raises:
        UsageError: the model can do neither.
    """
    has_goal = "goal" in model.layout.facts and not model.layout.variable("goal").entries
    by = by or ("goal" if has_goal else "outcome")
    if by not in ("goal", "outcome"):
        raise UsageError(f"by is {by!r}: give 'goal' or 'outcome'")
    if by == "goal" and not has_goal:
        raise UsageError(
            "this model has no whole observation as a goal in its prompt: train with prompt=['goal']", option="prompt"
        )
    if by == "outcome" and "observation" not in model.layout.predicted:
        raise UsageError(
            "this model predicts no observations: train with layout='trajectory', or with prompt=['goal']",
            option="layout",
        )
    num_pairs = len(observation)
    context = Context(model, num_pairs, keys=noise.keys(seed, 0, num_pairs))
    ahead = {"goal": next_observation, "goal" + WHEN: torch.ones(num_pairs, 1)} if by == "goal" else {}
    _write_known(context, [*model.layout.prompt_names, *(["demo"] if model.layout.demo else [])], ahead)
    before, acted, after = context.layout.divide(context.model.data.spec.action_leaves)
    if len(acted) > 1 or "observation" not in before:
        raise UsageError(f"inverse is for one action and one observation: here are {', '.join((*before, *acted))}")
    _write_known(context, before, {"observation": observation})
    context.fork(num_samples)
    action = context.sample(acted[0]).unflatten(0, (-1, num_samples))
    if by == "goal":
        return action.clone()
    for name in after:
        _sample_or_leave(context, name, 1.0)
    following = next_observation if isinstance(next_observation, Tensor) else np.asarray(next_observation)
    scores = context.log_prob("observation", following[np.arange(num_pairs).repeat(num_samples)])
    drawn = torch.multinomial(
        scores.unflatten(0, (-1, num_samples)).softmax(1).cpu(),
        num_samples,
        replacement=True,
        generator=torch.Generator().manual_seed(seed),
    ).to(action.device)
    return torch.stack([own[index] for own, index in zip(action, drawn, strict=True)])


@dataclass(frozen=True, eq=False)
class Inferred:
    """Candidates for a goal, [n, size], and how probable each is, [n], summing to 1."""

    candidates: Tensor
    probabilities: Tensor


@torch.inference_mode()
def infer_goal(
    model: SequenceModel,
    episode: Episode,
    *,
    candidates: Tensor | np.ndarray | None = None,
    num_candidates: int = NUM_SAMPLES,
    seed: int = 0,
) -> Inferred:
    """Return which goal an episode, or the beginning of one, was acted for: p(goal | observations, actions).

    By Bayes' rule: each candidate is written as the goal, and weighed by the probability of all that the model
    predicts: what was done, and what was seen where the layout predicts that.

    Args:
        model: with a goal in its prompt.
        episode: at most `context_length` timesteps of it, from the first one on, are read.
        candidates: goals to choose from, [n, size], equally likely before; sampled from the model where None is given,
            which needs a goal that it predicts.
        num_candidates: how many are sampled.
        seed: of the samples.

    Raises:
        UsageError: the model has no goal in its prompt, or does not predict it and no candidates are given.
    """
    layout = model.layout
    if "goal" not in layout.facts:
        raise UsageError("this model has no goal in its prompt: train with prompt=['goal']", option="prompt")
    if candidates is None:
        context = Context(model, num_candidates, keys=noise.keys(seed, 0, num_candidates))
        _write_known(context, layout.prompt_names[: layout.prompt_names.index("goal")], {})
        goals = context.sample("goal")
    else:
        goals = torch.as_tensor(candidates, device=model.device)
    windows = windows_of(model, [episode[: layout.context_length]])
    batch = gather_unknown(model, windows, np.zeros(len(goals), np.int64))
    told, untold = torch.zeros_like(batch["mask"][:, :1]), torch.ones_like(batch["mask"])
    batch |= {"goal": goals[:, None].to(batch["goal"].dtype), HIDDEN + "goal": told}
    scored = [name for name in layout.predicted if name in layout.step_names]
    if model.layout.prompt_dropout > 0:  # nobody knows what a beginning will have earned
        batch[HIDDEN + "return_to_go"] = untold
        scored = [name for name in scored if name != "return_to_go"]
    log_probs = model.log_probs(batch)
    scores = torch.stack([log_probs[name].sum(1) for name in scored]).sum(0)
    return Inferred(goals, scores.double().softmax(0).float())


def _write_known(context: Context, names: Sequence[str], known: Mapping[str, object]) -> None:
    """Write these variables in order: those that are known, and "unknown" for the others."""
    for name in names:
        context.write(**{name: known.get(name)})


@dataclass(frozen=True, eq=False)
class Explanation:
    """How far each piece of evidence moves the next action: nats, [B], by name."""

    shifts: Mapping[str, Tensor]

    def plot(self, path: Path | str) -> None:
        """Draw the mean shift of each piece as bars, as a PNG.

        Raises:
            StorageError: the file cannot be written.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 1.2 + 0.5 * len(self.shifts)), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        values = [float(shift.mean()) for shift in self.shifts.values()]
        bars = axes.barh(list(self.shifts), values, color="#1f5fa8", height=0.6)
        axes.bar_label(bars, fmt="%.2f", padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("shift of the action when it is unknown (nats)")
        axes.spines[["top", "right"]].set_visible(False)
        try:
            figure.savefig(path, format="png")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


@torch.inference_mode()
def explain(context: Context, *, num_samples: int = NUM_SAMPLES) -> Explanation:
    """Return which evidence moves the action that comes next.

    For each piece, the Kullback-Leibler divergence from the action's distribution with all evidence to the one in which
    that piece is unknown, estimated by samples.

    Args:
        context: written up to an action; it stays as it is.
        num_samples: actions of each sequence.

    Raises:
        UsageError: the model was not trained with unknown evidence.
    """
    layout, model = context.layout, context.model
    if model.layout.prompt_dropout == 0:
        raise UsageError(
            "this model cannot act without evidence: train with prompt_dropout above 0", option="prompt_dropout"
        )
    _, acted, _ = layout.divide(model.data.spec.action_leaves)
    pieces = [*layout.facts, *(name for name in layout.step_names if name == "return_to_go")]
    full = context.branch(num_samples)
    others = {name: context.without(name).branch(num_samples) for name in pieces}
    shifts = {name: torch.zeros(context.num_sequences, device=model.device) for name in pieces}
    for leaf in acted:
        value, likely = _sample_scored(full, leaf)
        for name, other in others.items():
            less = other.log_prob(leaf, value)
            other.write(**{leaf: value})
            shifts[name] += (likely - less).unflatten(0, (-1, num_samples)).mean(1)
    return Explanation({name: shift.clone() for name, shift in shifts.items()})


def _sample_scored(context: Context, name: str) -> tuple[Tensor | list[str], Tensor]:
    """Sample a variable, write it, and return it with its log probability."""
    if context.layout.variable(name).kind != "text":
        distribution, variable = context.predict(name), context.layout.variable(name)
        value = context.sample(name)
        return value, distribution.log_prob(less_offset(variable, value))
    texts = context.branch().sample_text(name)
    likely = context.log_prob(name, texts)
    context.write(**{name: texts})
    context.draw((1,))  # as sampling does, so that the next one has others
    return texts, likely
