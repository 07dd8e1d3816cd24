"""The front door: a policy from a folder, one observation in, one action out, in the space's own type."""

import gc
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import psutil
import pytest
from datasets import Dataset

from conftest import make_model, nested_episodes, nested_spec
from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode
from seqdec.data.schema import environment_of
from seqdec.errors import UsageError
from seqdec.inference.evaluation import evaluate
from seqdec.inference.policy import Policy
from seqdec.inference.report import Report
from seqdec.model.backbone import Backbone, load_backbone
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.play import make_envs, rollout, scripted_cartpole
from seqdec.play.closing import closing_envs
from seqdec.sequence.layout import Layout
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.variable import Head
from seqdec.sequence.windows import Windows
from seqdec.spaces.spec import EnvironmentSpec


@pytest.fixture(scope="module")
def cartpole() -> SequenceModel:
    dataset = scripted_cartpole(num_episodes=12)
    spec = Windows(dataset, layout_of(dataset)).spec
    model = build_model(Windows(dataset, layout_of(dataset)), load_backbone("small", num_layers=1))
    model.data = replace(model.data, spec=replace(spec, reference_returns=(0.0, 500.0)))
    return model


def layout_of(dataset: Dataset) -> Layout:
    spec = environment_of(dataset)
    return layout_from_spaces("decision_transformer", spec.observation_space, spec.action_space, context_length=6)


def model_of(
    action_space: gymnasium.Space, actions: np.ndarray, observation_space=None, head: Head = "gaussian"
) -> SequenceModel:
    """A model of random behaviour in a space of actions."""
    spec = EnvironmentSpec(observation_space or gymnasium.spaces.Box(-9, 9, (3,)), action_space)
    seen = np.random.default_rng(0).normal(size=(len(actions) + 1, 3)).astype(np.float32)
    steps = {"observation": seen[:-1], "action": actions, "reward": np.ones(len(actions), np.float32)}
    episode = Episode(steps, final={"observation": seen[-1]}, terminated=True, truncated=False)
    layout = layout_from_spaces("fused", spec.observation_space, spec.action_space, context_length=4, head=head)
    return build_model(Windows(from_episodes([episode] * 2, spec), layout), load_backbone("small", num_layers=1))


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (gymnasium.spaces.Discrete(3, start=1), [1, 2, 3]),
        (gymnasium.spaces.Box(-1, 1, (2,), np.float32), [[-1, 0.5], [0, 1], [1, 1]]),
        (gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float64), [[-0.1, 0.05], [0, 0.1], [0.1, 0.1]]),
        (gymnasium.spaces.Box(-3, 5, (2, 1), np.int32), [[[-3], [5]], [[0], [1]], [[2], [4]]]),
        (gymnasium.spaces.Box(0, 1, (2,), np.uint8), [[0, 1], [1, 1], [0, 0]]),
        (gymnasium.spaces.MultiDiscrete([2, 3]), [[0, 2], [1, 1], [1, 0]]),
        (gymnasium.spaces.MultiBinary(2), [[0, 1], [1, 1], [0, 0]]),
    ],
    ids=str,
)
def test_an_action_is_one_of_its_space_and_the_row_of_a_batch(space: gymnasium.Space, values: list):
    kind = np.int64 if not isinstance(space, gymnasium.spaces.Box) else np.float32
    model = model_of(space, np.array(values * 4, kind).astype(space.dtype if kind == np.int64 else np.float32))
    seen = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    alone, batch = Policy(model, 5.0), Policy(model, 5.0)
    alone.reset()
    batch.reset(3)
    for timestep, observation in enumerate(seen):
        if timestep == 0:
            action, actions = alone.act(observation), batch.act(np.stack([observation] * 3))
        else:
            action = alone.act(observation, 1.0)
            actions = batch.act(np.stack([observation] * 3), np.ones(3))
        assert space.contains(action), action
        row = actions[0]  # pyright: ignore
        assert np.asarray(action).dtype == row.dtype
        np.testing.assert_allclose(action, row, atol=1e-6)  # pyright: ignore


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, np.bool_, np.float16])
@pytest.mark.parametrize("head", ["gaussian", "mse", "binned"])
def test_an_action_of_whole_numbers_is_remembered_as_it_was_done(dtype: type, head: Head):
    low, high = (0, 1) if dtype is np.bool_ else (1, 5)
    space = gymnasium.spaces.Box(low, high, (2,), dtype)
    actions = np.random.default_rng(0).integers(low, high + 1, size=(12, 2)).astype(np.float32)
    policy = Policy(model_of(space, actions, head=head), 5.0)
    policy.reset(2)
    done = policy.act(np.zeros((2, 3)))
    assert all(space.contains(row) for row in done)  # pyright: ignore
    assert policy._context is not None
    written = policy._context._script.steps[-1]["action"].tokens
    expected, _ = policy.model.embed_values("action", policy._context._value("action", done)[0])
    np.testing.assert_array_equal(written, expected.detach())


def test_whole_numbers_that_only_their_type_bounds_are_predicted_near_the_data():
    space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.int64)
    actions = np.random.default_rng(0).integers(-9, 10, size=(40, 2)).astype(np.float32)
    policy = Policy(model_of(space, actions, head="mse"), 5.0)
    policy.reset(2)
    assert (np.abs(policy.act(np.zeros((2, 3)))) < 20).all()  # pyright: ignore


def test_nested_spaces_are_acted_in_one_by_one():
    spec = nested_spec()
    layout = layout_from_spaces("fused", spec.observation_space, spec.action_space, context_length=4)
    windows = Windows(from_episodes(nested_episodes(), spec), layout)
    model = build_model(windows, load_backbone("small", num_layers=1, vocabulary=True))
    policy = Policy(model, 1.0)
    policy.reset()
    observation = spec.observation_space.sample() | {"mission": "go"}
    assert spec.action_space.contains(policy.act(observation))
    assert spec.action_space.contains(policy.act(observation, 0.5))
    action, state = policy.predict(observation, deterministic=True)
    assert spec.action_space.contains(action) and len(state) == 1


def test_misuse_of_single_and_batched_acting_is_answered(backbone: Backbone):
    model, _ = make_model(backbone)
    policy = Policy(model, 1.0)
    with pytest.raises(UsageError, match=r"call reset\(\) before the first act"):
        policy.act(np.zeros(3))
    policy.reset()
    with pytest.raises(UsageError, match=r"shape \(1, 3\): one of shape \(3,\) is expected.*reset\(num_envs\)"):
        policy.act(np.zeros((1, 3)))
    with pytest.raises(UsageError, match="first step has no reward before it"):
        policy.act(np.zeros(3), 1.0)
    policy.act(np.zeros(3))
    with pytest.raises(UsageError, match="reward of the step before is missing"):
        policy.act(np.zeros(3))
    policy.reset(2)
    with pytest.raises(UsageError, match=r"shape \(3,\): \(2, 3\) is expected.*for one observation, call reset\(\)"):
        policy.act(np.zeros(3))


def test_predict_is_act_without_rewards(backbone: Backbone):
    model, _ = make_model(backbone, "multi_game")
    model.layout = replace(model.layout, delayed_reward=True)
    seen = np.random.default_rng(0).normal(size=(7, 3))
    acting, predicting = Policy(model, 1.0, temperature=0), Policy(model, 1.0)
    acting.reset()
    state = None
    for timestep, observation in enumerate(seen):
        action = acting.act(observation, 0.0 if timestep else None)
        other, state = predicting.predict(observation, state, np.array([timestep == 0]), deterministic=True)
        np.testing.assert_array_equal(action, other)
    actions, _ = predicting.predict(seen, deterministic=True)
    assert actions.shape == (7, 2) and predicting.temperature == 1  # pyright: ignore


def test_a_policy_survives_its_folder(backbone: Backbone, tmp_path):
    model, _ = make_model(backbone)
    Policy(model, 1.0).save_pretrained(tmp_path / "run" / "policy")
    for folder in (tmp_path / "run" / "policy", str(tmp_path / "run")):
        policies = Policy(model, 2.0, seed=3), Policy.from_pretrained(folder, 2.0, seed=3)
        for policy in policies:
            policy.reset(2)
        np.testing.assert_array_equal(*(policy.act(np.ones((2, 3))) for policy in policies))
    with pytest.raises(UsageError, match="one task only"):
        Policy.from_pretrained(tmp_path / "run", task="walk")


def test_evaluating_a_policy_is_evaluating_its_model_in_the_datas_environment(cartpole: SequenceModel, tmp_path):
    report = Policy(cartpole, 20.0, temperature=0.5).evaluate([30, "max"], num_episodes=3, num_envs=2, seed=4)
    expected = evaluate(
        lambda target: Policy(cartpole, target, temperature=0.5, seed=4),  # pyright: ignore
        make_envs(cartpole.data.spec, 3),
        targets=[30.0, cartpole.data.returns["max"]],
        num_episodes=3,
        seed=4,
        spec=cartpole.data.spec,
        data_returns=cartpole.data.returns,
    )
    assert replace(report, env_steps_per_second=0.0) == replace(expected, env_steps_per_second=0.0)
    assert str(report) == report.table() and isinstance(report, Report)
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    own = Policy(cartpole, 20.0).evaluate(num_episodes=1, max_steps=5)
    assert [result.target_return for result in own.targets] == [20.0] and own.targets[0].episode_lengths == [5]


def test_a_loop_of_ones_own_is_a_rollout(cartpole: SequenceModel):
    expected = rollout(Policy(cartpole, 20.0), make_envs(cartpole.data.spec, 2), num_episodes=2, seed=0)
    policy = Policy(cartpole, 20.0)
    for seed, episode in enumerate(expected):
        env = gymnasium.make("CartPole-v1")
        observation, _ = env.reset(seed=seed)
        policy.reset()
        action, actions, is_over = policy.act(observation), [], False
        while not is_over:
            assert env.action_space.contains(action)
            actions.append(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            is_over = terminated or truncated
            action = None if is_over else policy.act(observation, float(reward))
        assert actions == episode.steps["action"].tolist()


def test_numbers_that_are_not_finite_never_reach_the_model(cartpole: SequenceModel):
    policy, observation = Policy(cartpole, 20.0), np.zeros(4, np.float32)
    policy.reset()
    with pytest.raises(UsageError, match=r"observation\[1\] is inf: a finite number is needed"):
        policy.act(np.array([0, np.inf, 0, 0], np.float32))
    for missing in ([np.nan] * 4, [0, np.nan, 0, 0]):
        with pytest.raises(UsageError, match="observation is not known, and the model has not learned that: train on"):
            policy.act(np.array(missing, np.float32))
    policy.act(observation)
    for reward in (np.nan, np.inf, "x", [1.0, 1.0]):
        with pytest.raises(UsageError, match="a finite number is needed for each of 1 environments"):
            policy.act(observation, reward)
    policy.act(observation, 1.0)
    assert policy._returns_to_go == [19.0], "what was refused is not counted"
    policy.reset(2)
    with pytest.raises(UsageError, match="observation of environment 1 is not known"):
        policy.act(np.array([[0.0] * 4, [np.nan] * 4]))


def test_predict_leaves_the_target_and_the_temperature_as_they_were():
    dataset = scripted_cartpole(num_episodes=4)
    layout = replace(layout_of(dataset), discount=0.9)
    policy = Policy(build_model(Windows(dataset, layout), load_backbone("small", num_layers=1)), 5.0)
    _, state = policy.predict(np.zeros(4, np.float32))
    for _ in range(3):
        _, state = policy.predict(np.zeros(4, np.float32), state)
    assert policy._returns_to_go == [5.0]
    with pytest.raises(UsageError):
        policy.predict(np.zeros(3, np.float32), deterministic=True)
    assert policy.temperature == 1.0


def test_a_target_is_a_number_of_any_type_or_a_word(cartpole: SequenceModel):
    returns = cartpole.data.returns
    assert Policy(cartpole, "max").target_return == returns["max"]
    reports = [
        Policy(cartpole, 20.0).evaluate(target, num_episodes=2, num_envs=2, max_steps=10)
        for target in (np.float32(20), np.int64(20), 20, [20.0])
    ]
    assert len({str(report.targets) for report in reports}) == 1
    for options, words in (
        ({"temperature": np.nan}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
    ):
        with pytest.raises(UsageError, match=words):
            Policy(cartpole, 20.0, **options)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is counted as on Linux")
def test_memory_does_not_grow_with_the_number_of_episodes(cartpole: SequenceModel):
    policy, held = Policy(cartpole, 50.0), []
    gc.freeze()  # so that looking for garbage is quick
    with closing_envs(make_envs("CartPole-v1", 20, max_steps=3)) as envs:
        for _ in range(13):
            rollout(policy, envs, num_episodes=40, seed=0)
            gc.collect()
            held.append(psutil.Process().memory_info().rss)
    gc.unfreeze()
    slope = np.polyfit(np.arange(10), held[3:], 1)[0]
    assert slope < 2**17, "bytes in 40 episodes"
