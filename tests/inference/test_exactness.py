"""A trained model's answers against exact enumeration of the data's joint distribution, for every question.

Three states, two actions, three timesteps: there are few enough episodes to count them all. The model is trained on
them for some seconds; what it answers is compared with what the counts say.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode
from seqdec.errors import UsageError
from seqdec.inference.context import Context
from seqdec.inference.likelihood import is_in_data, log_prob
from seqdec.inference.planning import Planning, plan
from seqdec.inference.policy import Policy
from seqdec.inference.prompt import Prompt
from seqdec.inference.questions import explain, infer_goal, inverse, predict
from seqdec.inference.returns import expert_return, returns, tilted
from seqdec.model.backbone import load_backbone
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.sequence.layout import Layout
from seqdec.sequence.variable import Variable
from seqdec.sequence.windows import Windows
from seqdec.spaces.spec import EnvironmentSpec
from seqdec.training.loop import train

STATES, ACTIONS, STEPS = 3, 2, 3
SPEC = EnvironmentSpec(gymnasium.spaces.Discrete(STATES), gymnasium.spaces.Discrete(ACTIONS))
LAYOUT = Layout(
    variables=(
        Variable("goal", "discrete", STATES, 1.0, of="observation"),
        Variable("goal.when", "timestep", 1),
        Variable("observation", "discrete", STATES, 1.0),
        Variable("return_to_go", "binned", 1, 1.0, num_bins=128),
        Variable("action", "discrete", ACTIONS, 4.0),
        Variable("reward", "binned", 1, 1.0),
    ),
    prompt=(("goal", "goal.when"),),
    step=(("observation",), ("return_to_go",), ("action",), ("reward",)),
    context_length=STEPS,
)
History = tuple[tuple[int, int, int], ...]  # of every timestep observation, action, reward; ends with (final, -1, -1)


def draw_histories(num_episodes: int) -> list[History]:
    """Episodes of a walk to the right or left: a step right (1) pays 2 by luck or nothing, one left pays 1 mostly."""
    rng = np.random.default_rng(0)
    histories = []
    for _ in range(num_episodes):
        state, history = int(rng.integers(STATES)), []
        boldness = rng.choice([0.25, 0.75])  # of this episode's player
        for _ in range(STEPS):
            action = int(rng.random() < boldness)
            reward = 2 * int(rng.random() < 0.4) if action else int(rng.random() < 0.9)
            history.append((state, action, reward))
            step = (1 if action else -1) * int(rng.random() < 0.8)
            state = min(max(state + step, 0), STATES - 1)
        histories.append((*history, (state, -1, -1)))
    return histories


def episode_of(history: History) -> Episode:
    states, actions, rewards = (np.array(column) for column in zip(*history, strict=True))
    steps = {"observation": states[:-1], "action": actions[:-1], "reward": rewards[:-1].astype(np.float32)}
    return Episode(steps, final=states[-1], terminated=True, truncated=False)


class World:
    """The data's joint distribution, by counting."""

    def __init__(self, histories: list[History]):
        self.counts = Counter(histories)

    def probability(self, value, given) -> dict:
        """p(value | given): `value` maps a history to what is asked, `given` to whether it is one of those meant."""
        found: Counter = Counter()
        for history, count in self.counts.items():
            if given(history):
                found[value(history)] += count
        total = sum(found.values())
        return {key: count / total for key, count in sorted(found.items())}


def return_of(history: History, first: int = 0) -> int:
    return sum(reward for _, _, reward in history[first:-1])


@pytest.fixture(scope="module")
def world() -> World:
    return World(draw_histories(6000))


@pytest.fixture(scope="module")
def model(
    world: World, family_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> SequenceModel:
    episodes = [episode_of(history) for history in world.counts.elements()]
    windows = Windows(from_episodes(episodes, SPEC), replace(LAYOUT, prompt_dropout=0.3))
    found = build_model(windows, load_backbone(str(family_folder("llama"))))
    train(
        found,
        windows,
        out=tmp_path_factory.mktemp("exact"),
        steps=2000,
        batch_size=128,
        learning_rate=1e-2,
        backbone_learning_rate=1e-2,
        schedule="cosine",
        clip_norm=10.0,
        eval_every=0,
        checkpoint_every=0,
    )
    return found.eval()


def begun(model: SequenceModel, states: list[int], **facts: object) -> Context:
    """A context at its first observation, with a goal only if one is given."""
    context = Context(model, len(states))
    context.write(**{"goal": facts.get("goal"), "goal.when": facts.get("when")})
    context.write(observation=states)
    return context


def shares(values: torch.Tensor, size: int) -> np.ndarray:
    return np.bincount(values.reshape(-1).numpy().astype(int), minlength=size) / values.numel()


def probabilities(context: Context, name: str) -> np.ndarray:
    """The model's own distribution of a discrete variable, [B, size]."""
    with torch.inference_mode():
        return context.predict(name).logits.softmax(-1).numpy()  # pyright: ignore


def distance(found: np.ndarray, exact: dict[int, float]) -> float:
    """Half of the summed differences of two distributions (total variation)."""
    expected = np.array([exact.get(value, 0.0) for value in range(len(found))])
    return float(np.abs(found - expected).sum() / 2)


CLOSE = 0.08  # what training for seconds and sampling leave


@pytest.mark.parametrize("state", range(STATES))
def test_possible_returns_are_those_of_the_data(state: int, model: SequenceModel, world: World):
    found = shares(returns(begun(model, [state]), 2000), 7)
    assert distance(found, world.probability(return_of, lambda h: h[0][0] == state)) < CLOSE


@pytest.mark.parametrize("state", range(STATES))
def test_an_experts_return_is_the_datas_tilted_below_its_cap(state: int, model: SequenceModel, world: World):
    kappa, cap = 3.0, 0.9
    exact = world.probability(return_of, lambda h: h[0][0] == state)
    top = max(return_of(history) for history in world.counts)
    below, weights = 0.0, {}
    for value, probability in exact.items():
        weights[value] = max(0.0, min(probability, cap - below)) * np.exp(kappa * value / top)
        below += probability
    expected = {value: weight / sum(weights.values()) for value, weight in weights.items()}
    values, found = tilted(begun(model, [state]), kappa=kappa, cap=cap)
    assert distance(np.bincount(values[0].numpy().astype(int), found[0].numpy(), 7), expected) < CLOSE
    sampled = expert_return(begun(model, [state] * 2000), kappa=kappa, cap=cap)
    assert distance(shares(sampled, 7), expected) < CLOSE
    mode = expert_return(begun(model, [state]), kappa=kappa, cap=cap, mode=True)
    assert int(mode) == max(expected, key=lambda value: expected[value])


def test_the_policy_for_a_return_is_the_datas(model: SequenceModel, world: World):
    """Of returns that are common; a policy that did not listen to them would be at 0.1 on average."""
    distances = []
    for state, target in product(range(STATES), [1, 2, 3, 4]):
        exact = world.probability(
            lambda h: h[0][1], lambda h, at=state, asked=target: h[0][0] == at and return_of(h) == asked
        )
        context = begun(model, [state])
        context.write(return_to_go=[float(target)])
        distances.append(distance(probabilities(context, "action")[0], exact))
    assert np.mean(distances) < 0.06 and max(distances) < 0.15


def test_without_a_return_the_policy_is_that_of_all_episodes(model: SequenceModel, world: World):
    context = begun(model, [0, 1, 2])
    context.write(return_to_go=None)
    for state, found in enumerate(probabilities(context, "action")):
        assert distance(found, world.probability(lambda h: h[0][1], lambda h, at=state: h[0][0] == at)) < CLOSE


def test_a_goal_that_is_none_of_the_states_is_refused(model: SequenceModel):
    policy = Policy(model, prompt=Prompt(goal=STATES))
    policy.reset(1)
    with pytest.raises(UsageError, match=r"goal is 3: Discrete\(3"):
        policy.act(np.zeros(1, np.int64), None)


def test_the_policy_for_a_goal_is_the_datas(model: SequenceModel, world: World):
    """Of a goal that is reached some time: at timestep 1, 2 or 3, each as often."""
    for state, goal in [(0, 2), (1, 0), (1, 2), (2, 0)]:
        context = begun(model, [state], goal=[goal])
        context.write(return_to_go=None)
        weights = np.zeros(ACTIONS)
        for history, count in world.counts.items():
            if history[0][0] == state:
                weights[history[0][1]] += count * sum(step[0] == goal for step in history[1:])
        assert distance(probabilities(context, "action")[0], dict(enumerate(weights / weights.sum()))) < CLOSE


@pytest.mark.parametrize("by", ["goal", "outcome"])
def test_inverse_dynamics_are_the_datas(by, model: SequenceModel, world: World):
    distances = []
    for state, following in [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]:
        found = inverse(model, torch.tensor([state]), torch.tensor([following]), by=by, num_samples=4000)
        exact = world.probability(lambda h: h[0][1], lambda h, seen=(state, following): (h[0][0], h[1][0]) == seen)
        distances.append(distance(shares(found, ACTIONS), exact))
    assert np.mean(distances) < CLOSE and max(distances) < 0.25  # one that did not look would be at 0.35


@pytest.mark.parametrize("action", range(ACTIONS))
def test_predictions_are_the_datas(action: int, model: SequenceModel, world: World):
    context = begun(model, [1])
    context.write(return_to_go=None)
    actions = torch.tensor([[action, 1]])
    future = predict(context, actions, num_samples=4000)

    def taken(history: History) -> bool:
        return history[0][:2] == (1, action)

    assert distance(shares(future["reward"][:, :, 0], 3), world.probability(lambda h: h[0][2], taken)) < CLOSE
    assert distance(shares(future["observation"][:, :, 0], 3), world.probability(lambda h: h[1][0], taken)) < CLOSE
    both = world.probability(lambda h: h[2][0], lambda h: taken(h) and h[1][1] == 1)
    assert distance(shares(future["observation"][:, :, 1], 3), both) < CLOSE
    mean = predict(context, actions, num_samples=4000, mean=True)["reward"]
    expected = sum(value * share for value, share in world.probability(lambda h: h[0][2], taken).items())
    assert mean.shape == (1, 2, 1) and abs(float(mean[0, 0, 0]) - expected) < 2 * CLOSE


def test_inferred_goals_have_the_datas_probabilities(model: SequenceModel, world: World):
    """A goal is the observation at timestep 1, 2 or 3, each as often; two timesteps have been seen."""
    begins: Counter[History] = Counter()
    for history, count in world.counts.items():
        begins[history[:2]] += count
    distances = []
    for begin, _ in begins.most_common(6):
        counts = np.zeros(STATES)
        for history, count in world.counts.items():
            if history[:2] == begin:
                counts += count * np.bincount([step[0] for step in history[1:]], minlength=STATES)
        episode = episode_of((*begin, (2, -1, -1)))  # what comes last is not read
        sampled = infer_goal(model, episode, num_candidates=4000)
        found = np.bincount(sampled.candidates.numpy(), sampled.probabilities.numpy(), STATES)
        distances.append(distance(found, dict(enumerate(counts / counts.sum()))))
    assert np.mean(distances) < CLOSE and max(distances) < 0.15


def value_of(world: World, state: int, action: int) -> float:
    exact = world.probability(return_of, lambda h: h[0][:2] == (state, action))
    return sum(value * share for value, share in exact.items())


@pytest.mark.parametrize("state", range(STATES))
def test_a_plan_takes_the_better_action_and_knows_its_value(state: int, model: SequenceModel, world: World):
    """Asked for 6, the data's policy plays the lottery, for only luck earns so much; on average the other is better."""
    context = begun(model, [state])
    context.write(return_to_go=[6.0])
    assert probabilities(context, "action")[0, 1] > 0.9
    context = begun(model, [state])
    context.write(return_to_go=None)
    found = plan(context, Planning(horizon=1, num_candidates=16, num_outcomes=128))
    best = max(range(ACTIONS), key=lambda action: value_of(world, state, action))
    assert int(found.actions["action"][0, 0]) == best == 0
    assert abs(float(found.value[0]) - value_of(world, state, best)) < 0.2
    deep = plan(context, Planning(horizon=3, num_candidates=8, keep=2, num_outcomes=64))
    assert int(deep.actions["action"][0, 0]) == 0 and deep.actions["action"].shape == (1, 3)


def act_through(policy: Policy, num_envs: int = 64) -> np.ndarray:
    """The actions of an episode in which nothing depends on them."""
    policy.reset(num_envs)
    states = np.random.default_rng(0).integers(STATES, size=(STEPS, num_envs))
    return np.stack([policy.act(states[t], np.full(num_envs, 1.0) if t else None) for t in range(STEPS)])  # pyright: ignore


def test_a_plan_of_one_candidate_and_one_outcome_is_the_plain_policy(model: SequenceModel):
    single = Planning(horizon=1, num_candidates=1, keep=1, num_outcomes=1)
    assert np.array_equal(act_through(Policy(model, 3.0, planning=single)), act_through(Policy(model, 3.0)))


def test_without_guidance_the_policy_is_the_plain_one_bit_for_bit(model: SequenceModel):
    prompt = Prompt(target_return=3.0, goal=1, goal_in=2)
    plain = act_through(Policy(model, prompt=prompt))
    assert np.array_equal(act_through(Policy(model, prompt=prompt, guidance=0.0)), plain)
    assert np.array_equal(act_through(Policy(model, prompt=prompt, guidance={"goal": 0.0})), plain)
    assert not np.array_equal(act_through(Policy(model, prompt=prompt, guidance=3.0)), plain)


def guided(model: SequenceModel, guidance: float | dict[str, float]) -> np.ndarray:
    """First actions from state 0 of a policy that is asked for a return and a goal."""
    policy = Policy(model, prompt=Prompt(target_return=3.0, goal=1, goal_in=2), guidance=guidance)
    policy.reset(4000)
    return shares(torch.as_tensor(policy.act(np.zeros(4000, np.int64), None)), ACTIONS)


def test_guidance_sharpens_what_evidence_says(model: SequenceModel):
    def likely(goal: bool, target: bool) -> np.ndarray:
        context = begun(model, [0], **({"goal": [1], "when": [[2.0]]} if goal else {}))
        context.write(return_to_go=[3.0] if target else None)
        return np.log(probabilities(context, "action")[0])

    full, nothing = likely(True, True), likely(False, False)
    together = np.exp(full + 1.5 * (full - nothing))
    assert distance(guided(model, 1.5), dict(enumerate(together / together.sum()))) < 0.03
    each = np.exp(full + 2.0 * (full - likely(False, True)) + 0.5 * (full - likely(True, False)))
    assert distance(guided(model, {"goal": 2.0, "return_to_go": 0.5}), dict(enumerate(each / each.sum()))) < 0.03


def test_an_explanation_is_how_far_the_policies_above_lie_apart(model: SequenceModel):
    """The policies for a return and for a goal are the data's, as tested above; here, how far one is from the other."""

    def policy(goal: bool, target: bool) -> tuple[Context, np.ndarray]:
        context = begun(model, [2], **({"goal": [2], "when": [[1.0]]} if goal else {}))
        context.write(return_to_go=[4.0] if target else None)
        return context, probabilities(context.branch(), "action")[0]

    context, told = policy(True, True)
    shifts = explain(context, num_samples=4000).shifts
    assert set(shifts) == {"goal", "return_to_go"}
    for name, (_, less) in (("goal", policy(False, True)), ("return_to_go", policy(True, False))):
        assert abs(float(shifts[name]) - float((told * np.log(told / less)).sum())) < 0.05
    unasked = explain(policy(True, False)[0], num_samples=100).shifts
    assert float(unasked["return_to_go"]) == 0.0  # it was unknown already


def test_the_likelihood_of_an_episode_is_its_share_of_the_data(model: SequenceModel, world: World):
    """Of all that is predicted; returns to go are told by the rewards, and the final observation is not scored."""
    total = world.counts.total()
    for history, count in world.counts.most_common(8):
        steps = log_prob(model, [episode_of(history)])[0].steps
        alike = sum(n for other, n in world.counts.items() if other[:-1] == history[:-1])
        assert abs(sum(values.sum() for values in steps.values()) - np.log(alike / total)) < 0.4, count


def test_episodes_of_the_data_lie_in_it_and_strange_ones_do_not(model: SequenceModel):
    histories = draw_histories(340)
    reference = np.array([found.mean for found in log_prob(model, [episode_of(h) for h in histories[:300]])])
    own = [is_in_data(model, episode_of(history), reference) for history in histories[300:]]
    assert 0.3 < np.mean(own) < 0.7
    strange = ((0, 0, 0), (2, 0, 0), (1, 0, 0), (0, -1, -1))  # goes backwards, and is never paid
    assert is_in_data(model, episode_of(strange), reference) < 0.02


NEXT = ({"action": [1, 0, 1], "reward": [2.0, 0.0, 1.0]}, {"observation": [2, 0, 1]}, {"return_to_go": None})


def test_branches_that_are_forked_and_kept_go_on_as_if_alone(model: SequenceModel):
    context = begun(model, [0, 1, 2], goal=[0, 1, 2], when=[[1.0], [2.0], [3.0]])
    context.write(return_to_go=[[1.0], [2.0], [3.0]])
    context.fork(2)
    context.keep(torch.tensor([5, 0, 3]))
    for values in NEXT:
        context.write(**values)
    together = probabilities(context, "action")
    for row, state in enumerate([2, 0, 1]):
        alone = begun(model, [state], goal=[state], when=[[state + 1.0]])
        alone.write(return_to_go=[[state + 1.0]])
        for values in NEXT:
            alone.write(**{name: None if value is None else [value[row]] for name, value in values.items()})
        np.testing.assert_allclose(probabilities(alone, "action")[0], together[row], atol=1e-5)
