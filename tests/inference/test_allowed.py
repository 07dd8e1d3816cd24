"""What may be done now: of values that are not legal none is ever sampled, planned or evaluated."""

from functools import partial

import numpy as np
import pytest
import torch

from card_table import SPACES, Cards
from seqdec import Context, Planning, Policy, Windows, build_model, evaluate, layout_from_spaces, record, rollout
from seqdec.data.schema import environment_of
from seqdec.errors import DataError, UsageError
from seqdec.play import random_policy
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of


def trained_nothing(backbone, kind="discrete", shows="info", preset="multi_game"):
    """A model of the card table with read-outs at random, which knows of no mask."""
    data = record(partial(Cards, kind, shows), random_policy(SPACES[kind]), num_episodes=4, seed=0)
    spec = environment_of(data)
    layout = layout_from_spaces(
        preset,
        spec.observation_space,
        spec.action_space,
        context_length=4,
        prompt_dropout=0.3 * (preset == "trajectory"),
    )
    model = build_model(Windows(data, layout), backbone)
    torch.manual_seed(1)
    for name in layout.predicted:
        torch.nn.init.normal_(model.codecs[name.replace(".", "/")].head.weight, std=0.3)
    return model.eval(), data


def tables(kind, shows, num_envs=3):
    return batch_of([lambda: Guarded(Cards(kind, shows))] * num_envs)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.0}, {"top_k": 2}, {"temperature": 50.0}])
@pytest.mark.parametrize("shows", ["info", "leaf"])
@pytest.mark.parametrize("kind", list(SPACES))
def test_a_policy_does_what_is_legal(backbone, kind, shows, how):
    model, _ = trained_nothing(backbone, kind, shows)
    assert len(rollout(Policy(model, target_return=5, **how), tables(kind, shows), num_episodes=5, seed=0)) == 5


@pytest.mark.parametrize("replan_every", [1, 2])
@pytest.mark.parametrize("kind", ["discrete", "multi_discrete"])
def test_a_plan_is_legal_and_one_that_is_not_any_more_is_made_anew(backbone, kind, replan_every):
    model, _ = trained_nothing(backbone, kind, "info", "trajectory")
    planning = Planning(horizon=2, num_candidates=4, keep=2, num_outcomes=2, replan_every=replan_every)
    policy = Policy(model, target_return=5, planning=planning)
    assert len(rollout(policy, tables(kind, "info"), num_episodes=5, seed=0)) == 5


def test_guidance_and_an_evaluation_keep_to_the_mask(backbone):
    model, data = trained_nothing(backbone, preset="trajectory")
    report = evaluate(
        lambda target: Policy(model, target, guidance={"return_to_go": 3.0}), tables("discrete", "info"),
        targets=[2.0, 5.0], num_episodes=4, seed=0, spec=environment_of(data), data_returns=model.data.returns,
    )  # fmt: skip
    assert [result.failures for result in report.targets] == [[], []]


@pytest.mark.parametrize("shows", ["info", "leaf"])
@pytest.mark.parametrize("is_single", [True, False])
def test_so_does_a_loop_of_ones_own(backbone, is_single, shows):
    policy = Policy(trained_nothing(backbone, "nested", shows)[0], target_return=5)
    for seed in range(3):
        env, is_over = Cards("nested", shows), False
        seen, info = env.reset(seed=seed)
        policy.reset(None if is_single else 1)
        reward = None
        while not is_over:
            if is_single:
                action = policy.act(seen, reward, info)
            else:
                mask = {} if shows == "leaf" else {"action_mask": [info["action_mask"]]}
                batch = policy.act({name: part[None] for name, part in seen.items()}, reward, mask)
                action = {name: part[0] for name, part in batch.items()}
            seen, reward, is_over, _, info = env.step(action)


def test_values_that_are_legal_keep_their_odds(backbone):
    model, data = trained_nothing(backbone)
    context = Context(model, 1)
    context.write(**{"observation.hand": np.zeros((1, 2)), "return_to_go": [3.0]})
    likely = context.predict("action").logits[0].softmax(0).double()
    legal = torch.tensor([True, False, True, True, False, False])
    expected = torch.where(legal, likely, 0.0) / likely[legal].sum()
    many = context.branch(20_000)
    values = many.sample("action", legal=legal.expand(20_000, -1)) - 2
    assert (values.bincount(minlength=6) / 20_000 - expected).abs().max() < 0.015
    assert context.sample("action", temperature=0, legal=legal[None]).item() - 2 == expected.argmax()


def test_a_mask_that_fits_nothing_is_refused(backbone):
    model, _ = trained_nothing(backbone)
    policy, seen = Policy(model, target_return=5), {"hand": np.zeros((2, 2), np.float32)}
    for mask, kind, words in (
        (np.ones((3, 6)), UsageError, "action_mask of 3 environments, 2 run"),
        (np.ones((2, 5)), DataError, "expected 0 or 1 for each of 6 values"),
        (np.eye(6)[:2] * 0, DataError, "leaves no action to choose"),
    ):
        policy.reset(2)
        with pytest.raises(kind, match=words):
            policy.act(seen, None, {"action_mask": mask})
    context = Context(model, 2)
    context.write(**{"observation.hand": np.zeros((2, 2))})
    with pytest.raises(UsageError, match="only a choice among values has a mask"):
        context.sample("return_to_go", legal=np.ones((2, 4)))
    context.write(return_to_go=[3.0, 3.0])
    with pytest.raises(UsageError, match="has shape .2, 5.: .2, 6. is expected"):
        context.sample("action", legal=np.ones((2, 5)))
