"""Folders that 0.1.0 wrote still load, act alike and go on: a data set, a run stopped half-way, a policy of two tasks.

They were made by 0.1.0 from the episodes of `conftest` (nested, box and discrete), with a llama of one layer of width
16. `expected.json` holds what their policies did then, `ended.safetensors` where the run ended when it went on to
step 8.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import box_episodes, discrete_episodes, nested_episodes
from seqdec import Episode, Policy, Prompt, load_dataset, load_policy, log_prob
from seqdec.cli.main import main
from seqdec.data.dataset import episode_at
from seqdec.inference.policy import Policy as Actor
from seqdec.model.sequence_model import SequenceModel
from seqdec.spaces.leaves import join, split

GOLDEN = Path(__file__).parent / "golden" / "0.1.0"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


def long_ones(episodes: list[Episode]) -> list[Episode]:
    return [episode for episode in episodes if len(episode) > 6][:2]


def run_policy() -> SequenceModel:
    return load_policy(GOLDEN / "run" / "checkpoints" / "step-000004" / "policy")


def task_policy(name: str) -> SequenceModel:
    return load_policy(GOLDEN / "policy-of-tasks", task=name)


def actions_of(policy: Actor, episodes: list[Episode]) -> dict[str, np.ndarray]:
    """What a policy does at the first six timesteps of two episodes, by leaf [6, 2, ...]."""
    spec = policy.model.data.spec
    policy.reset(len(episodes))
    rewards, taken = None, []
    for timestep in range(6):
        names = [name for name in episodes[0].steps if name.removeprefix("missing.").split(".")[0] == "observation"]
        seen = {name: np.stack([episode.steps[name][timestep] for episode in episodes]) for name in names}
        actions = policy.act(join(spec.observation_space, seen, "observation"), rewards)
        taken.append(split(spec.action_space, actions, "action"))
        rewards = np.array([episode.steps["reward"][timestep] for episode in episodes])
    return {name: np.stack([row[name] for row in taken]) for name in spec.action_leaves}


@pytest.mark.parametrize(
    ("name", "episodes"),
    [
        ("box", box_episodes(8, lengths=(3, 12))),
        ("discrete", discrete_episodes(4)),
        ("nested", nested_episodes(4, missing=True)),
    ],
)
def test_a_data_folder_of_0_1_0_holds_the_same_episodes(name: str, episodes: list[Episode]):
    dataset = load_dataset(GOLDEN / name)
    assert len(dataset) == len(episodes)
    for index, episode in enumerate(episodes):
        kept = episode_at(dataset, index)
        assert kept.steps.keys() == episode.steps.keys()
        for key, values in episode.steps.items():
            np.testing.assert_array_equal(kept.steps[key], values)
        assert (kept.terminated, kept.truncated, kept.text) == (episode.terminated, episode.truncated, episode.text)
        assert dict(kept.metadata) == ({"seed": index, "by": "me"} if name == "box" else {})


def test_policies_of_0_1_0_act_as_they_did():
    box = long_ones(box_episodes(30, seed=5))
    prompt = Prompt(goal=[0.1, 0.2, 0.3], goal_in=4, demo=box[0])
    found = {
        "run": actions_of(Policy(run_policy(), 3.0, prompt=prompt, seed=3), box),
        "nested": actions_of(
            Policy(task_policy("nested"), seed=3), long_ones(nested_episodes(30, seed=5, missing=True))
        ),
        "count": actions_of(Policy(task_policy("count"), seed=3), long_ones(discrete_episodes(30, seed=5))),
    }
    for name, actions in found.items():
        assert actions.keys() == EXPECTED[name].keys()
        for leaf, values in actions.items():
            np.testing.assert_allclose(values, EXPECTED[name][leaf], atol=2e-5, err_msg=f"{name} {leaf}")


def test_policies_of_0_1_0_find_episodes_as_likely_as_they_did():
    likelihoods = [
        *log_prob(run_policy(), long_ones(box_episodes(30, seed=5))),
        *log_prob(task_policy("nested"), long_ones(nested_episodes(30, seed=5, missing=True))),
        *log_prob(task_policy("count"), long_ones(discrete_episodes(30, seed=5))),
    ]
    assert [likelihood.total for likelihood in likelihoods] == pytest.approx(EXPECTED["log_prob"], rel=1e-5)


def test_a_run_of_0_1_0_goes_on_to_where_it_would_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("backbone", "box", "run"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--output", "run", "--resume", "--steps", "8"]) == 0
    ended, expected = (load_file(path) for path in ("run/policy/codecs.safetensors", GOLDEN / "ended.safetensors"))
    assert ended.keys() == expected.keys()
    for name, values in ended.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5, err_msg=name)
