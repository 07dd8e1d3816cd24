"""Prompts: what is asked for is written as training reads it, what the model does not know is refused."""

import json

import gymnasium
import numpy as np
import pytest
import torch

from conftest import box_episodes, discrete_episodes, prompted_model
from read_states import states_before
from seqdec.cli import options
from seqdec.cli.evaluate import Eval, make_prompt
from seqdec.cli.main import main
from seqdec.data.dataset import save
from seqdec.data.episode import Episode
from seqdec.errors import UsageError
from seqdec.inference.context import Context
from seqdec.inference.planning import Planning
from seqdec.inference.policy import Policy
from seqdec.inference.prompt import Prompt
from seqdec.model.backbone import Backbone, load_backbone
from seqdec.model.codecs import build_codec
from seqdec.model.folder import load_policy
from seqdec.model.sequence_model import SequenceModel
from seqdec.play import scripted_cartpole
from seqdec.sequence.facts import HIDDEN
from seqdec.sequence.variable import Variable

FACTS = ["target_return", "goal", "waypoint1", "final", "text", "demo"]


@pytest.mark.parametrize("use_cache", [True, False])
def test_what_acting_writes_is_what_training_reads(use_cache: bool, backbone: Backbone):
    """Goal, waypoint, final state, return and demo of a window, written into a context, give its own states."""
    prompt = ["target_return", "goal", "waypoint1", "final", "demo"]
    model, windows = prompted_model(backbone, prompt)
    batch = windows.draw(2, 0, 6).gather()
    num_timesteps = int(batch["mask"].shape[1])
    expected = states_before(model, batch)["action"]
    context = Context(model, 6, use_cache=use_cache)
    episodes = []
    for row in range(6):
        missing = batch["missing.demo.action"][row]
        size = int((~missing).sum())
        if size == 0:
            episodes.append(None)
            continue
        steps = {name: batch[f"demo.{name}"][row, :size].numpy() for name in ("observation", "action")}
        steps["reward"] = np.zeros(size, np.float32)
        episodes.append(Episode(steps, final=np.zeros(3), terminated=True, truncated=False))
    for name in model.layout.prompt_names:
        context.write(**{name: batch[name][:, 0], f"missing.{name}": batch[HIDDEN + name][:, 0]})
    context.write(demo=episodes)
    rows = [row for row in range(6) if int(batch["timestep"][row, 0]) == 0]
    assert rows, "no window begins its episode"
    for timestep in range(num_timesteps):
        hidden = {f"missing.{name}": batch[HIDDEN + name][:, timestep] for name in ("return_to_go",)}
        context.write(observation=batch["observation"][:, timestep])
        context.write(return_to_go=batch["return_to_go"][:, timestep], **hidden)
        found = context._state_before("action")
        for row in rows:
            if batch["mask"][row, timestep]:
                torch.testing.assert_close(found[row], expected[row, timestep], atol=2e-5, rtol=1e-4)
        context.write(action=batch["action"][:, timestep])


@pytest.mark.parametrize("preset", ["multi_game", "fused", "trajectory"])
def test_a_policy_takes_any_subset_of_what_it_was_trained_with(preset: str):
    model, _ = prompted_model(load_backbone("small", num_layers=1, vocabulary=True), FACTS, preset)
    demo = box_episodes(1)[0]
    given = {"target_return": 1.0, "goal": np.zeros(3), "final": np.ones(3), "text": "stop", "demo": demo}
    given["waypoints"] = [np.zeros(3)]
    actions = []
    for name in [None, *given]:
        policy = Policy(model, prompt=Prompt(**({name: given[name]} if name else {})), temperature=0)
        policy.reset(2)
        for timestep in range(9):  # past a full context
            found = policy.act(np.full((2, 3), 0.5), np.ones(2) if timestep else None)
        policy.keep(np.array([1]))
        policy.act(np.zeros((1, 3)), np.ones(1))
        actions.append(found)
    assert all(np.isfinite(found).all() for found in actions)  # pyright: ignore
    assert sum(np.abs(found - actions[0]).max() > 1e-6 for found in actions[1:]) >= 5  # pyright: ignore


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt(demo=box_episodes(1)[0]), "not trained with demo in its prompt.*asked for: target_return, goal"),
        (Prompt(goal_in=3), "goal_in needs a goal"),
        (Prompt(goal=[0.0, 0.0, 0.0], goal_in=-1), "a number of 0 or more"),
        (Prompt(goal=[0.0, 0.0, 0.0], goal_in=np.nan), "a number of 0 or more"),
        (Prompt(waypoints=[[0.0, 0.0, 0.0]]), "not trained with waypoint1"),
        (Prompt(waypoints=[[0.0, 0.0, 0.0]], waypoints_in=[1, 2]), "2 timesteps for 1 waypoints"),
        (Prompt(goal=[1.0, 2.0]), "a vector of 3 is expected"),
        (Prompt(goal=([1.0, 2.0, 3.0], 5)), "a vector of 3 is expected"),
        (Prompt(goal="observation.nothing"), "is to be read from"),
        (Prompt(target_return="best"), "neither a finite number nor one of"),
    ],
)
def test_what_the_model_does_not_know_is_refused(prompt: Prompt, words: str, backbone: Backbone):
    model, _ = prompted_model(backbone, ["goal"])
    with pytest.raises(UsageError, match=words):
        policy = Policy(model, prompt=prompt)
        policy.reset(2)
        policy.act(np.zeros((2, 3)), None)


def test_waypoints_have_the_names_of_the_layouts_variables():
    given = Prompt(waypoints=[[1.0], "observation"], waypoints_in=[5, None], goal_in=9).facts()
    assert given == {"waypoint1": [1.0], "waypoint1.when": 5, "waypoint2": "observation", "goal.when": 9}


def test_a_demo_of_other_spaces_is_refused(backbone: Backbone):
    model, _ = prompted_model(backbone, ["demo"])
    policy = Policy(model, prompt=Prompt(demo=discrete_episodes(1)[0]))
    policy.reset(2)
    with pytest.raises(UsageError, match="should be a vector of 3: show an episode of the same spaces"):
        policy.act(np.zeros((2, 3)), None)


def test_a_model_without_unknown_facts_needs_all_of_them(backbone: Backbone):
    model, _ = prompted_model(backbone, ["goal"], prompt_dropout=0.0)
    with pytest.raises(UsageError, match="give a goal"):
        Policy(model, 1.0)
    Policy(model, prompt=Prompt(target_return=1.0, goal=np.zeros(3)))
    with pytest.raises(UsageError, match="prompt_dropout above 0"):
        Policy(model, prompt=Prompt(target_return=1.0, goal=np.zeros(3)), guidance=1.0)


def test_a_goal_can_be_given_whole_or_by_its_entries_and_for_each_environment(backbone: Backbone):
    model, _ = prompted_model(backbone, ["goal"], goal_entries=[0, 2])

    def act(goal) -> np.ndarray:
        policy = Policy(model, prompt=Prompt(target_return=1.0, goal=goal, goal_in=4), temperature=0)
        policy.reset(2)
        return policy.act(np.tile([0.1, 0.7, 0.3], (2, 1)), None)  # pyright: ignore

    whole, own = np.array([1.0, 9.0, 2.0]), np.array([1.0, 2.0])
    np.testing.assert_array_equal(act(whole), act(own))
    with pytest.raises(UsageError, match="a vector of 2 is expected"):
        act(np.zeros(4))
    each = act(np.stack([own, -own]))
    np.testing.assert_allclose(each[0], act(own)[0], atol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 1e-4
    policy = Policy(model, prompt=Prompt(target_return=1.0, goal="observation", goal_in=4), temperature=0)
    policy.reset(2)
    seen = np.tile([0.1, 0.7, 0.3], (2, 1))
    np.testing.assert_allclose(policy.act(seen, None), act(seen[0]), atol=1e-6)


@pytest.mark.parametrize("guidance", [{"demo": 1.0}, -1.0, {"goal": np.inf}])
def test_guidance_that_cannot_be_is_refused(guidance, backbone: Backbone):
    model, _ = prompted_model(backbone, ["goal"])
    with pytest.raises(UsageError, match="guidance"):
        Policy(model, prompt=Prompt(goal=np.zeros(3)), guidance=guidance)


def test_guided_environments_act_alone_as_together_and_leave_the_batch(backbone: Backbone):
    model, _ = prompted_model(backbone, ["goal"])

    def play(num_envs: int) -> np.ndarray:
        prompt = Prompt(target_return=3.0, goal=np.ones(3), goal_in=5)
        policy = Policy(model, prompt=prompt, guidance={"goal": 1.0, "return_to_go": 2.0})
        policy.reset(num_envs)
        for timestep in range(8):
            found = policy.act(np.full((num_envs, 3), timestep / 8), np.ones(num_envs) if timestep else None)
        if num_envs > 1:
            policy.keep(np.array([0]))
        policy.act(np.zeros((1, 3)), np.ones(1))
        return found[0]  # pyright: ignore

    np.testing.assert_allclose(play(1), play(3), atol=1e-5)


def test_gaussians_are_guided_in_closed_form_and_keep_a_variance():
    """Against the density p^(1+w) / q^w on a grid."""
    variable = Variable("x", "gaussian", 1, 1.0)
    codec = build_codec(variable, 8, 1.0)
    torch.manual_seed(0)
    torch.nn.init.normal_(codec.head.weight, std=1.0)  # pyright: ignore
    hidden = torch.randn(2, 400, 8)
    grid = torch.linspace(-60, 60, 24001)[:, None, None]
    with torch.inference_mode():
        log_std = codec.predict(hidden).log_std  # pyright: ignore
        proper = (1.5 * (-2 * log_std[0]).exp() - 0.5 * (-2 * log_std[1]).exp()) > 0.26 * (-2 * log_std[0]).exp()
        rows = proper[:, 0].nonzero()[:20, 0]
        log_p = [codec.predict(hidden[i, rows]).log_prob(grid) for i in (0, 1)]  # pyright: ignore
        weights = (log_p[0] + 0.5 * (log_p[0] - log_p[1])).softmax(0)
        expected = (weights * grid[..., 0]).sum(0)
        found = codec.predict(hidden[:, rows]).guided(torch.tensor([0.5])).mode()  # pyright: ignore
        torch.testing.assert_close(found[:, 0], expected, atol=1e-2, rtol=1e-2)
        assert len(rows) > 0 and (~proper).any()
        wild = codec.predict(hidden).guided(torch.tensor([50.0])).sample(torch.full((400, 1), 0.9))  # pyright: ignore
    assert wild.isfinite().all()


@pytest.mark.parametrize(
    ("preset", "options", "words"),
    [
        ("multi_game", {}, "planning needs"),
        ("trajectory", {"prompt_dropout": 0.0}, "prompt_dropout above 0"),
    ],
)
def test_a_model_that_cannot_plan_says_what_is_missing(preset: str, options: dict, words: str, backbone: Backbone):
    model, _ = prompted_model(backbone, [], preset, **options)
    with pytest.raises(UsageError, match=words):
        Policy(model, 1.0, planning=Planning())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"horizon": 0}, "1 or more"), ({"keep": 20}, "no more than"), ({"replan_every": 2}, "has 1 timesteps")],
)
def test_plans_that_cannot_be_are_refused(options: dict, words: str):
    with pytest.raises(UsageError, match=words):
        Planning(**options)


@pytest.mark.parametrize("num_outcomes", [1, 3])
def test_a_planned_policy_acts_past_a_full_context_and_when_rows_end(num_outcomes: int, backbone: Backbone):
    model, _ = prompted_model(backbone, ["goal"], "trajectory")
    planning = Planning(horizon=3, num_candidates=4, keep=2, num_outcomes=num_outcomes, replan_every=2)
    policy = Policy(model, prompt=Prompt(goal=np.zeros(3)), planning=planning)
    policy.reset(3)
    space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    for timestep in range(9):
        actions = policy.act(np.full((3, 3), 0.1 * timestep), np.ones(3) if timestep else None)
        assert all(space.contains(action) for action in actions)
    policy.keep(np.array([2]))
    assert policy.act(np.zeros((1, 3)), np.ones(1)).shape == (1, 2)  # pyright: ignore


def test_goals_demos_guidance_and_plans_from_the_command_line(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(scripted_cartpole(num_episodes=12), tmp_path / "data" / "tiny")
    words = "--data data/tiny --backbone small --num-layers 1 --steps 4 --batch-size 8 --context-length 4 --episodes 2"
    prompt = "--prompt goal demo --goal-entries 0 2 --demo-length 3"
    assert main(["train", *words.split(), *prompt.split(), "--layout", "trajectory", "--output", "runs/a"]) == 0
    asked = "--episodes 2 --max-steps 6"
    goal = "--goal 0 0.1 --goal-in 20 --demo data/tiny --guidance goal=1 demo=0.5 --target-return q50"
    assert main(["eval", "runs/a", *asked.split(), *goal.split()]) == 0
    plan = "--plan 2 --plan-candidates 2 --plan-keep 1 --plan-outcomes 2 --goal 0 0 0 0"
    assert main(["eval", "runs/a", *asked.split(), *plan.split(), "--target-return", "20"]) == 0
    capsys.readouterr()
    assert main(["eval", "runs/a", *asked.split(), "--text", "left"]) == 2
    assert (
        "not trained with text in its prompt; what it can be asked for: target_return, goal, demo"
        in capsys.readouterr().err
    )
    assert main(["train", *words.split(), "--output", "runs/b"]) == 0
    assert main(["eval", "runs/b", *asked.split(), "--target-return", "expert", "20"]) == 0
    report = json.loads((tmp_path / "runs" / "b" / "report.json").read_text())
    assert [target["target_return"] for target in report["targets"]] == ["expert", 20.0]
    assert main(["train", *words.split(), "--layout", "fused", "--target-return", "expert", "--output", "runs/c"]) == 2
    assert "layout='multi_game' (--layout)" in capsys.readouterr().err
    assert main(["eval", "runs/b", *asked.split(), "--guidance", "goal"]) == 2
    assert "NAME=NUMBER" in capsys.readouterr().err
    assert main(["eval", "runs/b", *asked.split(), "--guidance", "1"]) == 2
    assert "train with prompt_dropout above 0" in capsys.readouterr().err


def test_waypoints_and_the_final_state_from_the_command_line(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(scripted_cartpole(num_episodes=12), tmp_path / "data" / "tiny")
    words = "--data data/tiny --backbone small --num-layers 1 --steps 4 --batch-size 8 --context-length 4 --episodes 2"
    prompt = "--prompt waypoint1 waypoint2 goal final --goal-entries 0 2 --prompt-dropout 0.2 --output runs/a"
    assert main(["train", *words.split(), *prompt.split()]) == 0
    asked = ["eval", "runs/a", "--episodes", "2", "--max-steps", "6", "--target-return", "20"]
    ways = "--waypoints -0.5 0 0.5 0.1 --waypoints-in 5 10 --goal 1 0 --final observation"
    assert main([*asked, *ways.split()]) == 0
    model = load_policy(tmp_path / "runs" / "a" / "policy")
    assert isinstance(model, SequenceModel)
    given = make_prompt(options.parse(Eval, ["runs/a", *ways.split()]), model)
    assert (given.waypoints, given.waypoints_in) == ([[-0.5, 0.0], [0.5, 0.1]], [5.0, 10.0])
    assert (given.goal, given.final) == ([1.0, 0.0], "observation")
    assert make_prompt(options.parse(Eval, ["runs/a", "--waypoints", "1", "2"]), model).waypoints == [[1, 2]]
    capsys.readouterr()
    for wrong, told in (
        ("--waypoints 1 2 3", "has 3 numbers: give 2 for each waypoint"),
        ("--waypoints 1 2 --waypoints-in 5 6", "has 2 timesteps for 1 waypoints"),
        ("--waypoints-in 5", "has 1 timesteps for 0 waypoints"),
        ("--waypoints 1 2 --waypoints-in -5", "a number of 0 or more"),
        ("--waypoints 1 2 3 4 5 6", "not trained with waypoint3 in its prompt"),
    ):
        assert main([*asked, *wrong.split()]) == 2
        assert told in capsys.readouterr().err
