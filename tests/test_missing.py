"""What an environment leaves out: from NaN and None, through recordings and training, to what a policy reads."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from dim_room import UNSEEN, Room
from read_states import states_before
from seqdec.data.dataset import episode_at, from_episodes
from seqdec.data.description import describe
from seqdec.data.episode import Episode
from seqdec.data.schema import environment_of
from seqdec.errors import NumericsError
from seqdec.inference.policy import Policy
from seqdec.model.backbone import load_backbone
from seqdec.model.folder import load_policy, save_policy
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.play import make_envs, random_policy, record, rollout
from seqdec.play.guarded import Guarded
from seqdec.play.make import batch_of, spec_of_env
from seqdec.play.rollouts import Failure
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows
from seqdec.spaces.leaves import MISSING
from seqdec.spaces.spec import EnvironmentSpec

LEAVES = tuple(UNSEEN.split())


class Noting(Room):
    """A room that keeps what it gave, an episode a list, and may pay NaN."""

    given: list[list[dict]] = []

    def __init__(self, gaps: float = 0.4, pay: float | None = None):
        super().__init__(gaps)
        self.pay = pay

    def see(self) -> dict:
        seen = super().see()
        self.noted.append(seen)
        return seen

    def reset(self, *, seed=None, options=None):
        self.noted: list[dict] = []
        Noting.given.append(self.noted)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, *ends = super().step(action)
        return observation, reward if self.pay is None else self.pay, *ends


@pytest.fixture(autouse=True)
def nothing_noted():
    Noting.given = []


def flat(observation: dict) -> dict[str, object]:
    """What a room gave, by leaf."""
    place, door = observation["pose"]
    parts = {"camera": observation["camera"], "mission": observation["mission"], "pose.0": place, "pose.1": door}
    return {f"observation.{name}": value for name, value in parts.items()}


def is_unknown(value: object) -> np.ndarray:
    """Which entries of a vector are not known, or whether another value is not."""
    if value is None or isinstance(value, str):
        return np.array(value is None)
    found = np.isnan(value)  # pyright: ignore
    return found if found.ndim < 2 else found.any()


def played(episodes: int = 12, gaps: float = 0.4, missing: Sequence[str] = LEAVES, **options):
    policy = random_policy(Room.action_space)
    return record(
        lambda: Noting(gaps), policy, num_episodes=episodes, seed=3, missing=tuple(missing), max_steps=5, **options
    )


@pytest.mark.parametrize("num_envs", [1, 5])
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_recording_marks_what_was_not_given_and_keeps_all_else(num_envs: int, in_folder: bool, tmp_path: Path):
    folder = tmp_path / "dim" if in_folder else None
    dim = played(num_envs=num_envs, folder=folder)
    given = Noting.given[:12]  # environments of the last wave that nobody plays in come behind
    bright = played(gaps=0.0, missing=())
    assert environment_of(dim).missing == LEAVES
    num_missing = dict.fromkeys(LEAVES, 0)
    for index in range(12):
        episode, twin = episode_at(dim, index), episode_at(bright, index)
        assert len(given[index]) == len(episode) + 1
        assert np.array_equal(episode.steps["reward"], twin.steps["reward"])
        assert all(np.array_equal(values, twin.steps[name]) for name, values in episode.steps.items() if "act" in name)
        assert (episode.terminated, episode.truncated) == (twin.terminated, twin.truncated)
        for name in LEAVES:
            seen = np.concatenate([episode.steps[name], episode.final[name][None]])
            expected = np.concatenate([twin.steps[name], np.asarray(twin.final[name])[None]])
            mask = np.concatenate([episode.steps[MISSING + name], episode.final[MISSING + name][None]])
            assert mask.tolist() == [is_unknown(flat(observation)[name]).tolist() for observation in given[index]]
            assert np.array_equal(seen[~mask], expected[~mask]), "what was given is what is there"
            assert not any(np.ravel(seen[mask])), "and a zero, or no text, stands for what was not"
            num_missing[name] += int(mask.sum())
    assert min(num_missing.values()) > 10


def test_each_leaf_says_for_itself_whether_it_is_missing():
    env = Guarded(Room(), missing=LEAVES)
    whole = {"camera": np.ones((6, 6, 3), np.uint8), "mission": "go", "pose": (np.ones(2, np.float32), 2)}
    unwrapped = env.unwrapped
    assert isinstance(unwrapped, Room)
    for change, expected in (
        ({}, {}),
        ({"camera": None}, {"camera": True}),
        ({"camera": np.full((6, 6, 3), np.nan)}, {"camera": True}),
        ({"mission": None}, {"mission": True}),
        ({"pose": (None, 2)}, {"pose.0": [True, True]}),
        ({"pose": (np.array([1, np.nan], np.float32), np.nan)}, {"pose.0": [False, True], "pose.1": True}),
        ({"pose": ([None, 1.0], None)}, {"pose.0": [True, False], "pose.1": True}),
        (
            {"camera": None, "mission": None, "pose": (None, None)},
            {"camera": True, "mission": True, "pose.0": [True, True], "pose.1": True},
        ),
    ):
        unwrapped.see = lambda change=change: {**whole, **change}
        observation, info = env.reset(seed=0)
        for masks in (info, env.step(env.action_space.sample())[4]):
            masks = {name.removeprefix("seqdec.missing.observation."): mask for name, mask in masks.items()}
            assert {name: np.asarray(mask).tolist() for name, mask in masks.items()} == expected
        assert isinstance(observation, dict)
        place, unknown = observation["pose"][0], expected.get("pose.0", [False, False])
        assert place.tolist() == [0.0 if is_unknown else 1.0 for is_unknown in unknown]
        assert "camera" not in expected or not observation["camera"].any()
        assert "mission" not in expected or observation["mission"] == ""


@pytest.mark.parametrize("may_miss", [(), LEAVES[:1], LEAVES[1:], LEAVES[:3]])
def test_what_may_not_be_missing_fails_its_episode_and_no_other(may_miss: tuple[str, ...]):
    envs = batch_of([lambda: Guarded(Noting(0.05), missing=may_miss)] * 4)
    failures: list[Failure] = []

    class Still:
        def reset(self, num_envs):
            self.rows = num_envs

        def act(self, observations, rewards):
            arms = np.zeros((self.rows, 2), np.float32)
            return {"arm": arms, "grip": (np.zeros(self.rows, int), np.zeros((self.rows, 2), int))}

        def keep(self, rows):
            self.rows = len(rows)

    episodes = rollout(Still(), envs, num_episodes=24, seed=0, failures=failures)
    first: dict[int, tuple[int, str]] = {}
    for index, noted in enumerate(Noting.given):
        for step, observation in enumerate(noted):
            wrong = [
                name for name, value in flat(observation).items() if is_unknown(value).any() and name not in may_miss
            ]
            if wrong and index not in first:
                first[index] = step, wrong[0]
    assert {failure.episode for failure in failures} == first.keys() and 0 < len(first) < 24
    assert len(episodes) == 24 - len(first)
    for failure in failures:
        step, name = first[failure.episode]
        place = "reset: " if step == 0 else f"step {step - 1}: "
        assert failure.message.startswith(place + name) and ("nan" in failure.message or "None" in failure.message)


@pytest.mark.parametrize("pay", [np.nan, np.inf])
def test_a_reward_is_never_missing(pay: float):
    with pytest.raises(NumericsError, match=f"the environment failed in episode 0: step 0: reward is {pay}"):
        record(lambda: Noting(0.4, pay), random_policy(Room.action_space), num_episodes=1, seed=0, missing=LEAVES)


def test_an_infinity_is_wrong_and_not_missing():
    env = Guarded(Room(), missing=LEAVES)
    unwrapped = env.unwrapped
    assert isinstance(unwrapped, Room)
    unwrapped.see = lambda: {**Room.see(unwrapped), "pose": (np.array([np.inf, np.nan], np.float32), 1)}
    assert env.reset(seed=0)[1] == {"seqdec.failure": "reset: observation.pose.0[0] is inf"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SequenceModel:
    """A random policy that is far from indifferent, of a room where a third is not seen, from its folder."""
    Noting.given = []
    dataset = played(gaps=0.3)
    spec = environment_of(dataset)
    layout = layout_from_spaces(
        "behaviour_cloning", spec.observation_space, spec.action_space, context_length=6, head="mse",
        missing=spec.missing, text_tokens=16,
    )  # fmt: skip
    made = build_model(Windows(dataset, layout), load_backbone("small", num_layers=2, vocabulary=True))
    torch.manual_seed(1)
    for name in layout.predicted:
        torch.nn.init.normal_(made.codec(name).head.weight, std=0.3)  # pyright: ignore
    folder = tmp_path_factory.mktemp("missing") / "policy"
    save_policy(made, folder)
    return load_policy(folder)


def test_what_a_policy_did_is_what_its_recording_says_that_it_would_do(model: SequenceModel):
    """The acted window, by way of the environment, is the trained window, by way of the data set."""
    spec = model.data.spec
    assert spec.missing == LEAVES
    envs = make_envs(replace(spec, id="seqdec-tests/DimRoom-v0"), 4, env_id="seqdec-tests/DimRoom-v0")
    episodes = rollout(Policy(model, temperature=0), envs, num_episodes=8, seed=0)
    windows = Windows(from_episodes(episodes, spec), model.layout)
    ends = np.cumsum(windows.lengths)
    batch = windows.gather(ends - windows.lengths)  # no episode is longer than a window
    with torch.no_grad():
        states = states_before(model, batch)
        for name in spec.action_leaves:
            found = model.codec(name).predict(states[name]).mode()
            for row, episode in enumerate(episodes):
                expected = episode.steps[name].reshape(len(episode), -1)
                ours = found[row, : len(episode)].reshape(len(episode), -1)
                np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4, err_msg=name)
    masks = [batch[MISSING + name].double().mean() for name in LEAVES]
    assert min(masks) > 0.1


def test_what_a_policy_is_not_shown_does_not_matter_to_it_and_what_it_is_shown_does(model: SequenceModel):
    def first_action(change: dict) -> np.ndarray:
        policy = Policy(model, temperature=0)
        policy.reset(1)
        observation = {
            "camera": np.full((1, 6, 6, 3), 7.0),
            "mission": np.array(["open the door"], object),
            "pose": (np.ones((1, 2)), np.array([2.0])),
        }
        action = policy.act({**observation, **change}, None)
        assert isinstance(action, dict)
        return action["arm"]

    plain = first_action({})
    nan = np.nan
    hidden = {
        "camera": [{"camera": np.full((1, 6, 6, 3), nan)}, {"camera": np.full((1, 6, 6, 3), (1, nan, 1))}],
        "mission": [{"mission": np.array([None], object)}] * 2,
        "pose": [{"pose": (np.full((1, 2), nan), np.array([nan]))}] * 2,
    }  # fmt: skip
    for name, (one, other) in hidden.items():
        assert np.array_equal(first_action(one), first_action(other)), name
        assert not np.allclose(plain, first_action(one)), name
    half = [first_action({"pose": (np.array([[nan, value]]), np.array([2.0]))}) for value in (1.0, 3.0)]
    assert not np.allclose(*half), "the entry beside one that is missing is read"


def test_sensors_that_take_turns_are_fitted_and_trained_on(tmp_path: Path):
    """No observation is known as a whole; each entry has the mean of its own steps."""
    random = np.random.default_rng(0)
    spec = EnvironmentSpec(Box(-np.inf, np.inf, (2,)), Box(-1, 1, (2,)), missing=("observation",))
    episodes = []
    for _ in range(6):
        values = random.normal(5, 2, (9, 2)).astype(np.float32)
        missing = (np.arange(9)[:, None] + np.arange(2)) % 2 == 0
        steps = {"observation": values[:-1], "missing.observation": missing[:-1]}
        steps |= {"action": random.uniform(-1, 1, (8, 2)), "reward": random.normal(size=8)}
        final = {"observation": values[-1], "missing.observation": missing[-1]}
        episodes.append(Episode(steps, final=final, terminated=True, truncated=False))
    dataset = from_episodes(episodes, spec)
    assert describe(dataset).fraction_missing == {"observation": 0.5}
    layout = layout_from_spaces(
        "fused", spec.observation_space, spec.action_space, context_length=4, missing=spec.missing
    )
    windows = Windows(dataset, layout)
    fitted = build_model(windows, load_backbone("small", num_layers=1)).codec("observation").embed_values  # pyright: ignore
    for entry in range(2):
        known = np.concatenate(
            [e.steps["observation"][~e.steps["missing.observation"][:, entry], entry] for e in episodes]
        )
        assert float(fitted.mean[entry]) == pytest.approx(known.mean(dtype=np.float64), rel=1e-6)
        assert float(fitted.std[entry]) == pytest.approx(known.std(dtype=np.float64), rel=1e-6)


def test_the_share_that_is_missing_counts_every_step_alike(monkeypatch: pytest.MonkeyPatch):
    """Of a short episode in a chunk of its own no more than of a long one."""
    monkeypatch.setattr("seqdec.data.arrow.CHUNK_BYTES", 1)
    spec = spec_of_env(Room(), missing=("observation.pose.1",))
    found = []
    for num_steps, is_missing in ((1, True), (9, False)):
        env = Guarded(Noting(0.0))
        env.reset(seed=0)
        seen = {
            name: np.stack([np.asarray(value)] * num_steps)
            if not isinstance(value, str)
            else np.array([value] * num_steps, object)
            for name, value in flat(Room.see(env.unwrapped)).items()  # pyright: ignore
        }
        steps = {**seen, "missing.observation.pose.1": np.full(num_steps, is_missing), "reward": np.ones(num_steps)}
        steps |= {"action.arm": np.zeros((num_steps, 2)), "action.grip.0": np.zeros(num_steps, int)}
        steps |= {"action.grip.1": np.zeros((num_steps, 2), int)}
        final = {name: values[-1] for name, values in seen.items()}
        found.append(Episode(steps, final=final, terminated=True, truncated=False))
    described = describe(from_episodes(found, spec))
    assert described.fraction_missing == {"observation.pose.1": pytest.approx(0.1)}
