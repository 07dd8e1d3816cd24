"""Questions about vectors, and what cannot be asked; tests/test_exactness.py says whether the answers are right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import box_episodes, box_spec, make_model, prompted_model
from seqdec.data.dataset import from_episodes
from seqdec.errors import StorageError, UsageError
from seqdec.inference.context import Context
from seqdec.inference.likelihood import is_in_data, log_prob, rank_checkpoints
from seqdec.inference.planning import Planning, _Search, plan
from seqdec.inference.questions import explain, infer_goal, inverse, predict
from seqdec.inference.returns import expert_return, returns
from seqdec.model.backbone import Backbone
from seqdec.model.sequence_model import build_model
from seqdec.sequence.layout import Layout
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows


def begun(model, num_sequences: int = 2) -> Context:
    """A context at its first action, in which nothing is asked for."""
    context = Context(model, num_sequences)
    for name in model.layout.prompt_names:
        context.write(**{name: None})
    context.write(observation=np.zeros((num_sequences, 3)))
    return context


def test_futures_of_vectors_have_the_shapes_they_say(backbone: Backbone):
    model, _ = prompted_model(backbone, ["goal"], "trajectory")
    context = begun(model)
    actions = np.zeros((2, 9, 2), np.float32)  # farther than a context
    futures = predict(context, actions, num_samples=3)
    assert futures["observation"].shape == (2, 3, 9, 3) and futures["reward"].shape == (2, 3, 9, 1)
    assert predict(context, {"action": actions}, num_samples=3, mean=True)["observation"].shape == (2, 9, 3)
    certain = predict(context, actions, num_samples=2, temperature=0)["reward"]
    torch.testing.assert_close(certain[:, 0, 0], certain[:, 1, 0], atol=1e-5, rtol=1e-5)
    first = predict(context, actions, num_samples=3)
    assert (first["reward"] == futures["reward"]).all()  # the context stayed as it was


@pytest.mark.parametrize("by", ["goal", "outcome"])
def test_actions_between_vectors_and_goals_of_others(by, backbone: Backbone):
    model, _ = prompted_model(backbone, ["goal"], "trajectory")
    pair = np.zeros((2, 3)), np.ones((2, 3))
    assert inverse(model, *pair, by=by, num_samples=5).shape == (2, 5, 2)
    episode = box_episodes(1)[0]
    found = infer_goal(model, episode[:2], candidates=np.eye(3))
    assert found.candidates.shape == (3, 3) and abs(float(found.probabilities.sum()) - 1) < 1e-5
    assert infer_goal(model, episode, num_candidates=7).candidates.shape == (7, 3)


def test_actions_are_weighed_by_how_well_they_explain_what_followed(backbone: Backbone):
    """Something that hardly any action explains: a few of the samples are drawn again and again."""
    model, _ = prompted_model(backbone, [], "trajectory")
    torch.nn.init.normal_(model.codecs["observation"].head.weight, std=2.0)  # pyright: ignore
    actions = inverse(model, np.zeros((2, 3)), np.full((2, 3), 30.0), by="outcome", num_samples=64)
    assert all(len(row.unique(dim=0)) < 24 for row in actions), "64 drawn alike would be 41 different ones"


def test_evidence_that_counts_has_a_positive_shift(backbone: Backbone):
    """A Kullback-Leibler divergence: of two normal distributions, worked out from their parameters."""
    model, _ = prompted_model(backbone, ["goal"])
    torch.nn.init.normal_(model.codecs["action"].head.weight, std=1.0)  # pyright: ignore
    context = begun(model)
    context.write(return_to_go=[[9.0], [-9.0]])
    shifts = explain(context, num_samples=2000).shifts
    with torch.inference_mode():
        states = [part._state_before("action") for part in (context.branch(), context.without("return_to_go"))]
        value = context.branch(2000).sample("action")
        likely, less = (
            model.codec("action").predict(state.repeat_interleave(2000, 0)).log_prob(value) for state in states
        )
    expected = (likely - less).reshape(2, 2000).mean(1)
    assert (expected > 0.1).all()
    torch.testing.assert_close(shifts["return_to_go"], expected, rtol=0.3, atol=0.05)
    assert float(shifts["goal"].abs().max()) == 0.0, "no goal was given"


def test_possible_returns_are_the_middles_of_equal_shares(backbone: Backbone):
    model, _ = prompted_model(backbone, [])
    context = begun(model, 2)
    distribution = context.predict("return_to_go")
    middles = torch.tensor([[0.125], [0.375], [0.625], [0.875]])
    expected = torch.stack([distribution.sample(share.expand(2, 1))[:, 0] for share in middles], 1)
    torch.testing.assert_close(returns(context, 4), expected)


def test_what_cannot_be_answered_says_what_to_train(backbone: Backbone, tmp_path):
    model, _ = make_model(backbone, "decision_transformer")
    context = Context(model, 1)
    context.write(return_to_go=[1.0], observation=np.zeros((1, 3)))
    for ask, words in (
        (lambda: predict(context, np.zeros((1, 1, 2))), "layout='trajectory'"),
        (lambda: inverse(model, np.zeros((1, 3)), np.zeros((1, 3))), "layout='trajectory'"),
        (lambda: inverse(model, np.zeros((1, 3)), np.zeros((1, 3)), by="goal"), r"prompt=\['goal'\]"),
        (lambda: infer_goal(model, box_episodes(1)[0]), r"prompt=\['goal'\]"),
        (lambda: returns(context), "does not predict 'return_to_go'"),
        (lambda: explain(context), "prompt_dropout above 0"),
        (lambda: rank_checkpoints([model], box_episodes(2)), "fewer bins"),
    ):
        with pytest.raises(UsageError, match=words):
            ask()


def test_an_explanation_is_drawn(backbone: Backbone, tmp_path):
    model, _ = prompted_model(backbone, ["goal"])
    context = begun(model)
    context.write(return_to_go=[[1.0], [2.0]])
    explanation = explain(context, num_samples=8)
    explanation.plot(tmp_path / "why.png")
    assert (tmp_path / "why.png").stat().st_size > 5000
    with pytest.raises(StorageError, match="cannot write"):
        explanation.plot(tmp_path / "none" / "why.png")


def test_possible_returns_are_in_order_and_an_experts_are_higher(backbone: Backbone):
    model, _ = prompted_model(backbone, [])
    context = begun(model, 400)
    values = returns(context, 50)
    assert values.shape == (400, 50) and (values.diff(dim=1) >= 0).all()
    assert expert_return(context, kappa=10).mean() > values.mean() > expert_return(context, kappa=-10).mean()
    assert (expert_return(context, cap=0.5) <= returns(context).quantile(0.52, 1)[:, None]).all()


def test_an_episode_is_as_likely_alone_as_among_others_and_a_cut_one_up_to_its_cut(backbone: Backbone):
    model, _ = prompted_model(backbone, ["goal"], "behaviour_cloning")
    episodes = box_episodes(5)
    together = log_prob(model, episodes, batch_size=4)
    for episode, found in zip(episodes, together, strict=True):
        alone = log_prob(model, [episode])[0]
        np.testing.assert_allclose(alone.steps["action"], found.steps["action"], atol=1e-4)
        assert len(found.steps["action"]) == len(episode) and (found.steps["action"] != 0).all()
        begin = log_prob(model, [episode[:3]])[0].steps["action"]
        np.testing.assert_allclose(begin, found.steps["action"][:3], atol=1e-4)
    means = np.array([found.mean for found in together])
    assert is_in_data(model, episodes[int(means.argmax())], means - 1e-3) == 1
    assert is_in_data(model, episodes[int(means.argmin())], means + 1e-3) == 0


def test_checkpoints_are_ranked_by_the_best_episodes(backbone: Backbone):
    good, _ = make_model(backbone, "behaviour_cloning")
    bad, _ = make_model(backbone, "behaviour_cloning")
    torch.nn.init.normal_(bad.codecs["action"].head.weight, std=30.0)  # pyright: ignore
    ranking = rank_checkpoints([bad, good], box_episodes(8), num_bins=2)
    assert ranking.order == [1, 0] and ranking.scores.shape == (2, 2) and (np.diff(ranking.edges) >= 0).all()


@pytest.mark.parametrize("is_ahead", [False, True])
def test_a_plan_is_worth_its_rewards_and_what_is_left_discounted(is_ahead: bool, backbone: Backbone):
    """Rewards and returns are the same always, so the value is worked out by hand."""
    layout = box_layout(discount=0.5)
    if is_ahead:
        layout = replace(layout, step=(("observation",), ("return_to_go",), ("action",), ("reward",)))
    episodes = [
        replace(episode, steps={**episode.steps, "reward": np.full(len(episode), 2, np.float32)})
        for episode in box_episodes()
    ]
    model = build_model(Windows(from_episodes(episodes, box_spec()), layout), backbone).eval()
    torch.nn.init.zeros_(model.codecs["return_to_go"].head.weight)  # pyright: ignore
    context = Context(model, 2)
    context.write(observation=np.zeros((2, 3)), **({"return_to_go": None} if is_ahead else {}))
    state = torch.zeros(1, backbone.width)
    middles = (torch.arange(64)[:, None, None] + 0.5) / 64
    with torch.inference_mode():
        left = float(model.codec("return_to_go").predict(state).sample(middles).mean())
    found = plan(context, Planning(horizon=3, num_candidates=8, keep=2, num_outcomes=4))
    # where the return follows the reward of its own timestep, it has this reward in it
    expected = 2 * (1 + 0.5 + 0.25) + 0.125 * left if is_ahead else 2 * (1 + 0.5) + 0.25 * left
    torch.testing.assert_close(found.value, torch.full((2,), expected), atol=1e-3, rtol=1e-3)


def box_layout(**options: float) -> Layout:
    spaces = box_spec().observation_space, box_spec().action_space
    return layout_from_spaces("trajectory", *spaces, context_length=6, prompt_dropout=0.3, **options)  # pyright: ignore


def test_a_plan_keeps_the_branches_that_score_best_with_all_their_outcomes(backbone: Backbone):
    model, _ = prompted_model(backbone, [], "trajectory")
    search = _Search(begun(model), Planning(horizon=2, num_candidates=4, keep=2, num_outcomes=3), 1.0, None, {})
    search.deepen(0)
    search._scores = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 1.0, 4.0, 0.0]])
    first, earned = search._actions[0]["action"].clone(), search._earned.clone()
    search._keep_best()
    rows = [3, 4, 5, 9, 10, 11, 12, 13, 14, 18, 19, 20]  # branches 1 and 3 of the first, 0 and 2 of the second
    assert torch.equal(search._earned, earned[rows]) and torch.equal(search._actions[0]["action"], first[rows])
    search._branch(2)
    rows = [i for begin in (3, 3, 9, 9, 12, 12, 18, 18) for i in range(begin, begin + 3)]
    assert torch.equal(search._earned, earned[rows]), "outcomes of a branch stay together"


def test_a_way_to_invert_that_there_is_not_is_refused(backbone: Backbone):
    model, _ = make_model(backbone, "trajectory")
    with pytest.raises(UsageError, match="by is 'luck': give 'goal' or 'outcome'"):
        inverse(model, np.zeros((1, 3)), np.zeros((1, 3)), by="luck")  # pyright: ignore
