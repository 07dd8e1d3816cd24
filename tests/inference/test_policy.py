"""Policies: the return counted down, what is known written, what is not sampled."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from conftest import make_model, make_windows
from seqdec.data.schema import environment_of
from seqdec.errors import UsageError
from seqdec.inference.policy import Policy
from seqdec.model.backbone import load_backbone
from seqdec.model.folder import load_policy, save_policy
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.play import make_envs, rollout, scripted_cartpole
from seqdec.sequence.presets import PRESETS, layout_from_spaces
from seqdec.sequence.windows import Windows


def listen(policy: Policy, name: str) -> list[torch.Tensor]:
    """What is written of a variable from now on, in raw units; the list grows."""
    context, heard = policy._context, []
    assert context is not None
    embed = context._embed

    def note(variable: str, value: torch.Tensor, missing: torch.Tensor | None):
        if variable == name:
            heard.append(value)
        return embed(variable, value, missing)

    context._embed = note
    return heard


def returns_asked(model, target, rewards: list[float]) -> list[list[float]]:
    """The returns to go that a policy writes, step by step, for one environment and these rewards."""
    policy = Policy(model, target)
    policy.reset(1)
    heard = listen(policy, "return_to_go")
    for timestep in range(len(rewards) + 1):
        reward = None if timestep == 0 else np.array([rewards[timestep - 1]])
        policy.act(np.zeros((1, 3)), reward)
    return [returns_to_go.flatten().tolist() for returns_to_go in heard]


@pytest.mark.parametrize(("target", "temperature"), [("most", 1.0), (np.nan, 1.0), (1.0, -1.0)])
def test_a_target_that_is_no_number_and_a_temperature_below_0_are_refused(backbone, target, temperature):
    model, _ = make_model(backbone)
    with pytest.raises(UsageError, match="finite number"):
        Policy(model, target, temperature=temperature)


def test_the_return_counts_down_by_the_rewards(backbone):
    model, _ = make_model(backbone)
    assert returns_asked(model, 10.0, [1.0, 2.5, -3.0]) == [[10.0], [9.0], [6.5], [9.5]]


def test_a_discounted_return_grows_while_it_waits(backbone):
    model, _ = make_model(backbone, discount=0.5)
    # R_0 = r_0 + R_1 / 2, so R_1 = (R_0 - r_0) * 2
    assert returns_asked(model, 10.0, [1.0, 2.0]) == [[10.0], [18.0], [32.0]]


def test_a_delayed_return_is_not_counted_down(backbone):
    model, _ = make_model(backbone, delayed_reward=True)
    assert returns_asked(model, 10.0, [1.0, 2.0]) == [[10.0], [10.0], [10.0]]


def test_the_acted_window_holds_what_the_trained_window_holds(backbone):
    """Replaying an episode of the data with its own return writes exactly the values of its window."""
    model, windows = make_model(backbone, "trajectory")
    batch = windows.gather(np.array([0]))
    assert batch["timestep"][0].tolist() == list(range(6))
    policy = Policy(model, float(batch["return_to_go"][0, 0, 0]))
    policy.reset(1)
    for timestep in range(6):
        reward = batch["reward"][0, timestep - 1].numpy() if timestep else None
        policy.act(batch["observation"][:, timestep].numpy(), reward)
        written = policy._context._embed("action", batch["action"][:, timestep], None)  # pyright: ignore
        policy._context._script.steps[-1]["action"] = written  # pyright: ignore
    for timestep, step in enumerate(policy._context._script.steps):  # pyright: ignore
        for name, written in step.items():
            expected, _ = model.embed_values(name, batch[name][:, timestep])
            torch.testing.assert_close(written.tokens, expected, atol=1e-5, rtol=1e-5, msg=f"{name} {timestep}")


def test_each_environment_has_its_own_target_and_keeps_it_when_rows_end(backbone):
    model, _ = make_model(backbone)
    policy = Policy(model, np.array([1.0, 2.0, 3.0]))
    policy.reset(3)
    policy.act(np.zeros((3, 3)), None)
    policy.keep(np.array([0, 2]))
    heard = listen(policy, "return_to_go")
    policy.act(np.zeros((2, 3)), np.array([0.5, 0.5]))
    assert heard[-1].flatten().tolist() == [0.5, 2.5]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_of_environments_acts_like_each_alone(preset: str, backbone):
    model, _ = make_model(backbone, preset)
    observations = np.random.default_rng(0).normal(size=(15, 4, 3))
    rewards = np.random.default_rng(1).normal(size=(15, 4))

    def actions(rows: list[int]) -> np.ndarray:
        policy = Policy(model, None if preset == "behaviour_cloning" else 5.0, temperature=0.0)
        policy.reset(len(rows))
        return np.stack([policy.act(observations[t, rows], rewards[t, rows] if t else None) for t in range(15)])

    together = actions([0, 1, 2, 3])
    for row in range(4):
        np.testing.assert_allclose(actions([row])[:, 0], together[:, row], atol=1e-5)


def test_actions_stay_inside_their_space_under_extreme_read_outs(backbone):
    model, _ = make_model(backbone)
    torch.nn.init.normal_(model.codecs["action"].head.weight, std=1e4)  # pyright: ignore
    policy = Policy(model, 5.0)
    policy.reset(8)
    space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    actions = policy.act(np.random.default_rng(0).normal(size=(8, 3)), None)
    assert all(space.contains(action) for action in actions)


def test_discrete_actions_start_where_their_space_does(backbone):
    model, windows = make_model(backbone, discrete=True)
    policy = Policy(model, 5.0)
    policy.reset(64)
    actions = policy.act(np.zeros(64, np.int64), None)
    assert set(np.unique(actions)) <= {1, 2, 3} and actions.dtype == np.int64
    assert windows.layout.variable("action").start == 1


@pytest.mark.parametrize("preset", ["multi_game", "fused"])
def test_returns_do_not_depend_on_the_number_of_environments(preset: str, family_folder):
    """Sampled actions, several waves, rows that end early: episode i is the same with 1, 2 and 5 environments."""
    dataset = scripted_cartpole(num_episodes=12)
    spec = environment_of(dataset)
    layout = layout_from_spaces(preset, spec.observation_space, spec.action_space, context_length=6)
    model = build_model(Windows(dataset, layout), load_backbone(str(family_folder("llama"))))
    torch.nn.init.normal_(model.codecs["action"].head.weight, std=0.3)  # pyright: ignore
    returns = [
        [episode.total_return for episode in rollout(Policy(model, 100.0), make_envs(spec, n), num_episodes=7, seed=3)]
        for n in (1, 2, 5)
    ]
    assert returns[0] == returns[1] == returns[2] and len(set(returns[0])) > 1


def test_without_a_target_a_predicted_return_is_sampled(backbone):
    model, _ = make_model(backbone, "multi_game")
    policy = Policy(model)
    policy.reset(2)
    heard = listen(policy, "return_to_go")
    policy.act(np.zeros((2, 3)), None)
    assert len(heard) == 1 and heard[0].isfinite().all()


def test_a_policy_that_needs_a_target_says_so(backbone):
    model, _ = make_model(backbone, "decision_transformer")
    with pytest.raises(UsageError, match="give a target_return"):
        Policy(model)


@pytest.mark.parametrize("target", [float("nan"), float("inf")])
def test_a_target_that_is_no_number_is_refused(target: float, backbone):
    model, _ = make_model(backbone)
    with pytest.raises(UsageError, match="a finite number is needed"):
        Policy(model, target)


def test_the_wrong_number_of_targets_is_refused(backbone):
    model, _ = make_model(backbone)
    with pytest.raises(UsageError, match="2 target returns for 3 environments"):
        Policy(model, np.array([1.0, 2.0])).reset(3)


def test_the_same_seed_gives_the_same_actions(backbone):
    windows, spec = make_windows()
    model = build_model(windows, backbone)

    def actions(seed: int) -> np.ndarray:
        policy = Policy(model, 1.0, seed=seed)
        policy.reset(3)
        return policy.act(np.zeros((3, 3)), None)

    assert np.array_equal(actions(1), actions(1)) and not np.array_equal(actions(1), actions(2))


def test_threads_that_begin_with_one_model_act_as_each_would_alone(tmp_path: Path):
    """As a server's do: what a caller needs of a model is kept on no module, and is tried out by one of them."""
    windows, spec = make_windows()
    save_policy(build_model(windows, load_backbone("small", num_layers=2)), tmp_path / "policy")
    observations = [spec.observation_space.sample() for _ in range(8)]

    def play(model: SequenceModel) -> np.ndarray:
        policy, rewards = Policy(model, 20.0, temperature=0), None
        policy.reset(1)
        actions = []
        for observation in observations:
            actions.append(policy.act(observation[None], rewards))
            rewards = np.ones(1)
        return np.concatenate(actions)

    alone = play(load_policy(tmp_path / "policy"))
    for _ in range(4):  # a fresh model each time: the first use is what can go wrong
        model = load_policy(tmp_path / "policy")
        with ThreadPoolExecutor(4) as threads:
            assert all(np.array_equal(alone, found) for found in threads.map(play, [model] * 4))
