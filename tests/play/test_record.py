"""Recordings: the single loop's episodes whoever plays them, as many as asked for, whole after any stop."""

import base64
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from conftest import nested_episodes, nested_spec
from seqdec.cli.main import main
from seqdec.data.arrow import write_joined, write_rows
from seqdec.data.dataset import episode_at, from_episodes
from seqdec.data.episode import Episode
from seqdec.data.schema import column, environment_of, lengths, returns
from seqdec.errors import DataError, NumericsError, StorageError, UsageError
from seqdec.formats.load import load_dataset
from seqdec.inference.policy import Policy
from seqdec.model.backbone import load_backbone
from seqdec.model.folder import save_policy
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.play import Actor, from_sb3, random_policy, record, scripted_cartpole
from seqdec.play.actors import Seekable
from seqdec.play.make import spec_of_env
from seqdec.play.sb3 import load_sb3
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows
from seqdec.storage.files import read_json

ROOT = Path(__file__).parents[2]


class Walk(gymnasium.Env):
    """A walk whose start and length (1 to 9 steps) follow from the seed; fails in the episodes of some seeds."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Box(-1, 1, (2,))

    def __init__(self, fails=()):
        self.fails = fails

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.left = seed, int(self.np_random.integers(1, 10))
        self.place = self.np_random.normal(size=3).astype(np.float32)
        return self.place, {}

    def step(self, action):
        assert self.action_space.contains(action)
        if self.seed in self.fails:
            raise OSError("the simulator is gone")
        self.left -= 1
        self.place = (self.place + action.sum() / 10).astype(np.float32)
        return self.place, float(self.place[0]), self.left == 0, False, {}


class Stopping(Walk):
    """A walk that somebody stops by Ctrl-C in the episode of one seed."""

    stop_at: int | None = None

    def step(self, action):
        if self.seed == Stopping.stop_at:
            raise KeyboardInterrupt
        return super().step(action)


class Nested(gymnasium.Env):
    """Every kind of action there is; what was done is seen, some of it now and then missing."""

    observation_space = spaces.Dict(OrderedDict(done=spaces.Box(-np.inf, np.inf, (2,)), words=spaces.Text(9)))
    action_space = spaces.Dict(
        OrderedDict(
            arm=spaces.Box(-1, 1, (2,)),
            grip=spaces.Tuple((spaces.Discrete(3, start=-1), spaces.MultiDiscrete([2, 4]))),
            lamps=spaces.MultiBinary(3),
            speed=spaces.Box(-np.inf, np.inf, (1,)),
        )
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(2, 6))
        return {"done": np.full(2, np.nan, np.float32), "words": "wait"}, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.left -= 1
        return {"done": action["arm"], "words": "go"}, float(action["grip"][0]), False, self.left == 0, {}


def drift(observation, generator):
    return np.clip(generator.normal(size=2) - observation[:2], -1, 1)


def rows_of(dataset):
    return [episode_at(dataset, index) for index in range(len(dataset))]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(rows_of(found), rows_of(expected), strict=True):
        assert one.equals(other), (one, other)


def arrow(folder):
    return (folder / "data-00000.arrow").read_bytes()


@pytest.fixture
def often(monkeypatch):
    """A part after every wave."""
    monkeypatch.setattr("seqdec.play.parts.PART_SECONDS", 0)


def test_recording_is_the_single_loop_for_any_number_of_environments():
    def policy(observation, generator):
        return int(generator.random() < 0.5 + observation[2])

    datasets = [record("CartPole-v1", policy, num_episodes=7, seed=5, num_envs=num_envs) for num_envs in (1, 3)]
    expected = []
    for index in range(7):
        env, generator = gymnasium.make("CartPole-v1"), np.random.default_rng([5, index])
        observation, end, total = env.reset(seed=5 + index)[0], False, 0.0
        while not end:
            observation, reward, terminated, truncated, _ = env.step(policy(observation, generator))
            end, total = terminated or truncated, total + float(reward)
        expected.append(total)
    for dataset in datasets:
        assert returns(dataset).tolist() == expected
    assert environment_of(datasets[0]) == spec_of_env(gymnasium.make("CartPole-v1"))


def test_any_function_that_makes_an_environment_can_be_recorded():
    def make():
        return gymnasium.make("Pendulum-v1", g=5.0)

    def policy(observation, generator):
        return generator.uniform(-9, 9, 1)

    dataset = record(make, policy, num_episodes=2, seed=0, max_steps=11, reference_returns=(-1500.0, -150.0))
    assert lengths(dataset).tolist() == [11, 11]
    assert np.abs(column(dataset, "action")[0]).max() == 2
    spec = environment_of(dataset)
    assert (spec.id, spec.kwargs["g"], spec.reference_returns) == ("Pendulum-v1", 5.0, (-1500.0, -150.0))


@pytest.mark.parametrize("num_timesteps", [1, 20, 61])
def test_timesteps_are_the_fewest_whole_episodes_for_any_number_of_environments(num_timesteps):
    whole = record(Walk, drift, num_episodes=40, seed=3)
    enough = int(np.searchsorted(np.cumsum(lengths(whole)), num_timesteps)) + 1
    for num_envs in (1, 3, 7):
        dataset = record(Walk, drift, num_timesteps=num_timesteps, seed=3, num_envs=num_envs)
        assert_equal(dataset, whole.select(range(enough)))


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "neither a number of episodes nor of timesteps is given"),
        ({"num_episodes": 3, "num_timesteps": 3}, "both numbers are given"),
        ({"num_episodes": 0}, "0 episodes were asked for: give at least 1"),
        ({"num_timesteps": -5}, "-5 timesteps were asked for: give at least 1"),
    ],
)
def test_exactly_one_count_is_given(counts, said):
    with pytest.raises(UsageError, match=said):
        record(Walk, drift, seed=0, **counts)


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_a_failing_environment_is_told_by_its_episode_and_harmless_behind_the_last(num_envs):
    fails = partial(Walk, fails={13})
    with pytest.raises(NumericsError, match="failed in episode 3: step 0: OSError: the simulator is gone"):
        record(fails, drift, num_episodes=5, seed=10, num_envs=num_envs)
    dataset = record(fails, drift, num_timesteps=2, seed=10, num_envs=num_envs)
    assert len(dataset) <= 3


def test_each_episode_knows_its_seed_and_its_policy():
    dataset = record(Walk, drift, num_episodes=3, seed=7, num_envs=2, policy_name="drift")
    assert [episode.metadata for episode in rows_of(dataset)] == [
        {"seed": seed, "policy": "drift"} for seed in (7, 8, 9)
    ]
    assert rows_of(record(Walk, drift, num_episodes=1, seed=7))[0].metadata == {"seed": 7}
    sample = scripted_cartpole(2, seed=4)
    assert list(sample["metadata.seed"]) == [4, 5] and set(sample["metadata.policy"]) == {"scripted"}


def test_random_actions_fill_a_nested_space_and_are_each_episodes_own():
    policy = random_policy(Nested.action_space)
    one, four = (
        record(Nested, policy, num_episodes=9, seed=1, num_envs=num_envs, missing=("observation.done",))
        for num_envs in (1, 4)
    )
    assert_equal(one, four)
    drawn = {name: np.concatenate(column(one, name)) for name in environment_of(one).action_leaves}
    assert set(drawn["action.grip.0"].tolist()) == {-1, 0, 1}
    assert [set(values) for values in drawn["action.grip.1"].T.tolist()] == [{0, 1}, {0, 1, 2, 3}]
    assert [set(values) for values in drawn["action.lamps"].T.tolist()] == [{0, 1}] * 3
    assert drawn["action.arm"].min() < -0.5 and drawn["action.arm"].max() > 0.5 and drawn["action.speed"].max() > 1
    first = [episode.steps["action.arm"][0].tolist() for episode in rows_of(one)]
    assert len({tuple(values) for values in first}) == 9, "no two episodes draw alike"
    missing = rows_of(one)[0].steps["missing.observation.done"]
    assert missing[0].all() and not missing[1:].any()


def test_random_actions_leave_the_environments_own_space_alone():
    space = spaces.Box(-1, 1, (2,), seed=3)
    expected = spaces.Box(-1, 1, (2,), seed=3).sample()
    random_policy(space)(None, np.random.default_rng(0))
    assert space.sample().tolist() == expected.tolist()


def test_what_is_no_policy_is_told_what_is():
    with pytest.raises(UsageError, match="of type int: give a function of an observation and a generator, an Actor"):
        record(Walk, 3, num_episodes=1, seed=0)  # pyright: ignore[reportArgumentType]


def make_policy():
    """A tiny model that samples its actions."""
    dataset = record(Walk, drift, num_episodes=6, seed=0)
    spec = environment_of(dataset)
    layout = layout_from_spaces("fused", spec.observation_space, spec.action_space, context_length=4)
    model = build_model(Windows(dataset, layout), load_backbone("small", num_layers=1))
    return Policy(model, 3.0, seed=5)


def stop_at(last, make, policy, folder, **counts):
    """Play until the episode of the seed `last` begins, which Ctrl-C ends."""
    Stopping.stop_at = last
    try:
        with pytest.raises(KeyboardInterrupt):
            record(make, policy, folder=folder, **counts)
    finally:
        Stopping.stop_at = None


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_recording_stopped_anywhere_goes_on_to_the_same_bytes(num_envs, tmp_path, often, caplog):
    caplog.set_level(logging.INFO)
    counts = {"num_episodes": 8, "seed": 20, "num_envs": num_envs}
    record(Stopping, drift, folder=tmp_path / "whole", **counts)
    assert_equal(load_dataset(tmp_path / "whole"), record(Stopping, drift, **counts))
    for episode in range(8):
        folder = tmp_path / f"at-{episode}"
        stop_at(20 + episode, Stopping, drift, folder, **counts)
        assert not folder.exists()
        caplog.clear()
        record(Stopping, drift, folder=folder, **counts)
        kept = episode // num_envs * num_envs
        assert [record.message for record in caplog.records] == [f"going on after {kept} episodes"] * bool(kept)
        assert arrow(folder) == arrow(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", *(f"at-{episode}" for episode in range(8))}


def test_a_recording_stopped_twice_by_timesteps_goes_on_to_the_same_bytes(tmp_path, often):
    counts = {"num_timesteps": 40, "seed": 0, "num_envs": 2}
    record(Stopping, drift, folder=tmp_path / "whole", **counts)
    for seed in (2, 5):
        stop_at(seed, Stopping, drift, tmp_path / "cut", **counts)
    record(Stopping, drift, folder=tmp_path / "cut", **counts)
    assert arrow(tmp_path / "cut") == arrow(tmp_path / "whole")


def test_a_policys_samples_go_on_where_they_stopped(tmp_path, often):
    counts = {"num_episodes": 8, "seed": 0, "num_envs": 2}
    policy = make_policy()
    record(Stopping, policy, folder=tmp_path / "whole", **counts)
    assert_equal(record(Stopping, policy, **counts), load_dataset(tmp_path / "whole"))
    for name, again in (("same", policy), ("new", Policy(policy.model, 3.0, seed=5))):
        stop_at(5, Stopping, again, tmp_path / name, **counts)
        record(Stopping, again, folder=tmp_path / name, **counts)
        assert arrow(tmp_path / name) == arrow(tmp_path / "whole")


def test_what_was_played_since_the_last_part_is_kept_when_it_is_stopped(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    stop_at(5, Stopping, drift, tmp_path / "a", num_episodes=9, seed=0)
    assert [path.name for path in (tmp_path / ".recording-a").glob("part-*")] == ["part-000000"]
    assert caplog.messages == ["5 episodes are kept: the same command goes on behind them"]
    with pytest.raises(NumericsError, match="failed in episode 7"):
        record(partial(Walk, fails={7}), drift, num_episodes=9, seed=0, folder=tmp_path / "a")
    assert caplog.messages[1:] == [
        "going on after 5 episodes",
        "7 episodes are kept: the same command goes on behind them",
    ]


def test_the_number_asked_for_may_change_on_the_way(tmp_path, often):
    whole = record(Stopping, drift, num_episodes=9, seed=0)
    for number, num_envs in ((9, 1), (3, 4)):
        folder = tmp_path / str(number)
        stop_at(5, Stopping, drift, folder, num_episodes=6, seed=0)
        progressed: list[int] = []
        record(
            Stopping, drift, num_episodes=number, seed=0, folder=folder, num_envs=num_envs, progress=progressed.append
        )
        assert_equal(load_dataset(folder), whole.select(range(number)))
        assert sum(progressed) == max(5, number)


def test_a_killed_process_leaves_parts_that_the_same_command_goes_on_from(tmp_path, often, capsys):
    words = ["data", "record", "CartPole-v1", "--num-envs", "4", "--seed", "2", "--output"]
    code = f"""
import sys
from seqdec.play import parts
from seqdec.cli.main import main
parts.PART_SECONDS = 0
sys.exit(main({[*words, str(tmp_path / "cut"), "--episodes", "100000"]!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not (tmp_path / ".recording-cut" / "part-000008").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    num_kept = 4 * len(list((tmp_path / ".recording-cut").glob("part-*")))
    episodes = ["--episodes", str(num_kept + 6)]
    assert main([*words, str(tmp_path / "cut"), *episodes]) == 0
    assert f"seqdec: going on after {num_kept} episodes" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "whole"), *episodes]) == 0
    assert arrow(tmp_path / "cut") == arrow(tmp_path / "whole")
    assert not (tmp_path / ".recording-cut").exists()


@pytest.mark.parametrize("chunk_bytes", [1, 4000, 2**27])
def test_parts_joined_are_the_bytes_of_one_writing(chunk_bytes, tmp_path, monkeypatch):
    spec, episodes = nested_spec(("observation.joints", "observation.image")), nested_episodes(9)
    given = [replace(episode, metadata={"seed": seed}) for seed, episode in enumerate(episodes)]
    split = [from_episodes(part, spec) for part in (given[:1], given[1:6], given[6:])]
    monkeypatch.setattr("seqdec.data.arrow.CHUNK_BYTES", chunk_bytes)
    for name, number in (("all", 9), ("some", 4)):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}-joined").mkdir()
        write_rows(map(Episode.to_row, given[:number]), spec, tmp_path / name)
        write_joined(split, tmp_path / f"{name}-joined", num_episodes=number)
        assert arrow(tmp_path / name) == arrow(tmp_path / f"{name}-joined")


def test_another_recording_in_the_way_is_refused(tmp_path, often):
    asked = {"num_episodes": 9, "seed": 0, "policy_name": "drift"}
    stop_at(4, Stopping, drift, tmp_path / "a", **asked)
    begun = read_json(tmp_path / ".recording-a" / "request.json")
    for change, said in (
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"policy_name": "other"}, "policy: 'drift' there, 'other' here"),
        ({"max_steps": 4}, "max_steps: not given there, 4 here"),
        ({"missing": ("observation",)}, "environment missing: "),
    ):
        with pytest.raises(UsageError, match=said):
            record(Stopping, drift, folder=tmp_path / "a", **{**asked, **change})
    assert read_json(tmp_path / ".recording-a" / "request.json") == begun
    assert len(record(Stopping, drift, folder=tmp_path / "a", **asked)) == 9
    with pytest.raises(UsageError, match="a exists already: choose another folder"):
        record(Stopping, drift, folder=tmp_path / "a", **asked)


def test_a_recording_that_another_process_plays_is_left_to_it(tmp_path):
    from seqdec.storage import lock_folder

    with lock_folder(tmp_path / ".recording-a"), pytest.raises(UsageError, match="another run is writing"):
        record(Walk, drift, num_episodes=2, seed=0, folder=tmp_path / "a")


def test_damaged_parts_are_told(tmp_path, often):
    stop_at(4, Stopping, drift, tmp_path / "a", num_episodes=9, seed=0)
    working = tmp_path / ".recording-a"
    shutil.copytree(working, tmp_path / "copy")
    (working / "part-000001" / "data-00000.arrow").write_bytes(b"")
    with pytest.raises(DataError, match="data-00000.arrow in .*part-000001 does not match its manifest"):
        record(Stopping, drift, num_episodes=9, seed=0, folder=tmp_path / "a")
    shutil.rmtree(working / "part-000001")
    with pytest.raises(DataError, match="a part before .*part-000002 is missing"):
        record(Stopping, drift, num_episodes=9, seed=0, folder=tmp_path / "a")


class Still:
    """Does nothing, and cannot begin at a later episode."""

    def reset(self, num_envs):
        pass

    def act(self, observations, rewards):
        return np.zeros((len(observations), 2))

    def keep(self, rows):
        pass


def test_an_actor_that_cannot_seek_cannot_go_on(tmp_path, often):
    assert isinstance(Still(), Actor) and not isinstance(Still(), Seekable)
    stop_at(2, Stopping, Still(), tmp_path / "a", num_episodes=4, seed=0)
    with pytest.raises(UsageError, match=r"holds 2 episodes, but Still has no method seek\(episode\)"):
        record(Stopping, Still(), num_episodes=4, seed=0, folder=tmp_path / "a")


def test_a_full_disk_is_told_and_leaves_no_half(tmp_path, monkeypatch):

    def fail(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("seqdec.storage.folders.sync", fail)
        with pytest.raises(StorageError):
            record(Walk, drift, num_episodes=4, seed=0, folder=tmp_path / "a")
    assert not (tmp_path / "a").exists() and not list((tmp_path / ".recording-a").glob("*part*"))
    assert len(record(Walk, drift, num_episodes=4, seed=0, folder=tmp_path / "a")) == 4


class Predicting:
    """What a model of Stable-Baselines3 does, by hand: the state counts the steps of each row."""

    def __init__(self, is_recurrent=True):
        self.is_recurrent = is_recurrent
        self.seen = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        is_batch = observation.ndim == 2
        rows = observation if is_batch else observation[None]
        assert episode_start is not None and len(episode_start) == len(rows)
        self.seen.append((len(rows), bool(episode_start[0]), deterministic))
        counts = np.zeros((1, len(rows), 1)) if state is None else state[0]
        counts = np.where(episode_start[None, :, None], 0, counts) + 1
        actions = np.stack([np.tanh(rows[:, 0]), counts[0, :, 0] / 20], axis=1)
        if not deterministic:
            actions += 0.1 * torch.randn(actions.shape).numpy() + 0.1 * np.random.normal(size=actions.shape)  # noqa: NPY002
        return actions if is_batch else actions[0], (counts,) if self.is_recurrent else None


def test_a_models_state_follows_its_rows():
    model = Predicting()
    dataset = record(Walk, model, num_episodes=7, seed=0, num_envs=3)
    for episode in rows_of(dataset):
        expected = (np.arange(len(episode), dtype=np.float32) + 1) / 20
        np.testing.assert_allclose(episode.steps["action"][:, 1], expected, rtol=1e-6)
        np.testing.assert_allclose(episode.steps["action"][:, 0], np.tanh(episode.steps["observation"][:, 0]), 1e-6)
    assert {deterministic for _, _, deterministic in model.seen} == {True}
    assert [start for _, start, _ in model.seen].count(True) == 3, "one a wave"
    assert_equal(record(Walk, Predicting(), num_episodes=7, seed=0), dataset)


def test_a_models_samples_are_each_episodes_own_and_go_on(tmp_path, often):
    def sampled(seed=4):
        return from_sb3(Predicting(), deterministic=False, seed=seed)

    counts = {"num_episodes": 7, "seed": 0}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one = record(Stopping, sampled(), **counts)
    assert torch.rand(1) == expected, "the process's own generator is as it was"
    assert_equal(record(Stopping, sampled(), num_envs=3, **counts), one)
    stop_at(4, Stopping, sampled(), tmp_path / "a", num_envs=3, **counts)
    assert_equal(record(Stopping, sampled(), folder=tmp_path / "a", num_envs=3, **counts), one)
    other = record(Stopping, sampled(seed=5), **counts)
    assert not np.array_equal(column(other, "action")[0], column(one, "action")[0])


def test_a_model_of_other_spaces_is_refused_in_one_sentence():
    class Strict(Predicting):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            raise ValueError("Error: Unexpected observation shape (1, 3) for Box environment, please use (4,)")

    with pytest.raises(UsageError, match="the model cannot act on what this environment shows: Error: Unexpected"):
        record(Walk, Strict(), num_episodes=1, seed=0)


def test_a_model_trained_on_normalized_observations_sees_them_so():
    class Trained(Predicting):
        action_space = Walk.action_space

        def get_vec_normalize_env(self):
            return self

        def normalize_obs(self, obs):
            return obs / 10

    episode = rows_of(record(Walk, Trained(), num_episodes=1, seed=0))[0]
    expected = np.tanh(episode.steps["observation"][:, 0] / 10)
    np.testing.assert_allclose(episode.steps["action"][:, 0], expected, rtol=1e-6)


class Touch:
    """A pickle of this makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_models_file_is_opened_by_the_users_word_only(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    planted = base64.b64encode(pickle.dumps(Touch(tmp_path / "sentinel"))).decode()
    with zipfile.ZipFile("model.zip", "w") as file:
        file.writestr("data", json.dumps({"policy_class": {":type:": "type", ":serialized:": planted}}))
    words = ["data", "record", "CartPole-v1", "--output", "a", "--policy"]
    for typed, said in (
        ("model.zip", "runs code that is in the file (it holds pickles): pass trust_policy=True if you trust"),
        ("model.zip --algorithm ppo", "pass trust_policy=True if you trust whoever made it (--trust-policy)"),
        ("model.zip --trust-policy", "the algorithm is missing (give what saved 'model.zip': a2c, "),
        ("model.zip --trust-policy --algorithm pp", "the algorithm is 'pp'; did you mean 'ppo'?"),
        ("nothing.zip --trust-policy", "no file 'nothing.zip'"),
    ):
        assert main([*words, *typed.split()]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "vecnormalize.pkl").touch()
    assert main([*words, *["model.zip", "--trust-policy", "--algorithm", "ppo"]]) == 2
    assert "'vecnormalize.pkl' lies beside the model" in capsys.readouterr().err
    assert not (tmp_path / "sentinel").exists() and not (tmp_path / "a").exists()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "model.zip").touch()
    for algorithm, module, package in (
        ("ppo", "stable_baselines3", 'pip install "seqdec\\[sb3\\]"'),
        ("recurrent_ppo", "sb3_contrib", "pip install sb3-contrib"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError, match=package):
            load_sb3(tmp_path / "model.zip", algorithm, trust_policy=True)


def test_a_real_model_acts_as_it_predicts_and_its_file_too(tmp_path, capsys):
    sb3 = pytest.importorskip("stable_baselines3")
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        model = sb3.PPO("MlpPolicy", env_id, n_steps=64, seed=0, device="cpu").learn(64)
        model.save(tmp_path / f"{env_id}.zip")
        dataset = record(env_id, model, num_episodes=3, seed=4, max_steps=30)
        for index, episode in enumerate(rows_of(dataset)):
            env = gymnasium.make(env_id)
            observation, _ = env.reset(seed=4 + index)
            for action in episode.steps["action"]:
                predicted, _ = model.predict(observation, deterministic=True)
                assert np.array_equal(predicted, action)
                observation, *_ = env.step(predicted)
        words = f"data record {env_id} --policy {tmp_path}/{env_id}.zip --algorithm ppo --trust-policy --seed 4"
        output = tmp_path / f"{env_id}-data"
        assert main([*words.split(), *f"--episodes 3 --max-steps 30 --output {output}".split()]) == 0
        for one, other in zip(rows_of(load_dataset(output)), rows_of(dataset), strict=True):
            assert np.array_equal(one.steps["action"], other.steps["action"])
        name = rows_of(load_dataset(output))[0].metadata["policy"]
        assert isinstance(name, str) and name.startswith(f"{env_id} (ppo ")
    said = f"data record CartPole-v1 --policy {tmp_path}/Pendulum-v1.zip --algorithm ppo --trust-policy"
    capsys.readouterr()
    assert main([*said.split(), "--output", str(tmp_path / "b")]) == 2
    assert "the model cannot act on what this environment shows" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A policy folder of two tasks, one of them asked for no return."""
    dataset = scripted_cartpole(3)
    spec, backbone = environment_of(dataset), load_backbone("small", num_layers=1)
    models: dict[str, SequenceModel] = {}
    for name, preset in (("asked", "fused"), ("cloned", "behaviour_cloning")):
        layout = layout_from_spaces(preset, spec.observation_space, spec.action_space, context_length=3)
        models[name] = build_model(Windows(dataset, layout), backbone)
    folder = tmp_path_factory.mktemp("tasks") / "policy"
    save_policy(models, folder)
    return folder


def test_a_task_of_a_policy_is_recorded_by_its_name(tasks, tmp_path, capsys):
    words = f"data record CartPole-v1 --policy {tasks} --timesteps 12 --output {tmp_path}"
    assert main(f"{words}/none".split()) == 2
    assert "several tasks: name one of them (asked, cloned)" in capsys.readouterr().err
    names = {}
    for typed in ("asked --target-return 20", "asked --target-return 30", "cloned"):
        assert main(f"{words}/{typed.split()[0]}{typed[-2:]} --task {typed}".split()) == 0
        dataset = load_dataset(tmp_path / f"{typed.split()[0]}{typed[-2:]}")
        assert lengths(dataset).sum() >= 12
        (names[typed],) = set(dataset["metadata.policy"])
    assert names["asked --target-return 20"].endswith(", asked, asked for 20)")
    assert names["cloned"].endswith(", cloned)") and len(set(names.values())) == 3
