import json
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdec.errors import DataError, UsageError
from seqdec.play import make_envs
from seqdec.play.guarded import Guarded
from seqdec.play.make import check_spaces, spec_of_env
from seqdec.spaces.space import describe_space, kind_of, quote, space_from_json, space_to_json
from seqdec.spaces.spec import EnvironmentSpec

SPACES = [
    Box(-1, 1, (3,)),
    Box(-np.inf, np.inf, (2,)),
    Box(np.array([-4.8, -np.inf], np.float32), np.array([np.inf, 0.4], np.float32)),
    Box(0, 255, (4,), np.uint8),
    Box(-1e300, 1e300, (2,), np.float64),
    Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    Box(0, np.iinfo(np.uint64).max, (2,), np.uint64),
    Discrete(2),
    Discrete(5, start=-3),
    Box(0, 1, ()),
    Box(np.array([[0, 1], [2, 3]], np.float32), 9),
    Box(0, 255, (4, 4, 3), np.uint8),
    MultiDiscrete([2, 3], start=[0, -1]),
    MultiBinary(4),
    MultiBinary((2, 3)),
    Text(12),
    Text(1000, min_length=0, charset="abc, é🙂"),
    Dict(camera=Box(0, 255, (4, 4, 3), np.uint8), hand=Dict(grip=Discrete(2), joints=Box(-1, 1, (2,)))),
    Tuple((Discrete(3), Text(5), Dict(a=MultiBinary(2)))),
]


class Counting(gymnasium.Env):
    """Pays 1 a step, counts what is done to it, and misbehaves at one step."""

    observation_space = Box(-100, 100, (1,))
    action_space = Discrete(2)

    def __init__(self, length=3, at=None, misbehave=None):
        self.length, self.at, self.misbehave = length, at, misbehave
        self.num_steps = self.num_calls = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.num_steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.num_calls += 1
        observation, reward = np.full(1, self.num_steps + 1, np.float32), 1.0
        if self.num_steps == self.at:
            observation, reward = self.misbehave(observation, reward)
        self.num_steps += 1
        return observation, reward, self.num_steps == self.length, False, {}


def cartpole_spec(**changes):
    value = spec_of_env(gymnasium.make("CartPole-v1")).to_json()
    return EnvironmentSpec.from_json({**value, **changes})


@pytest.mark.parametrize("space", SPACES, ids=describe_space)
def test_a_space_survives_json(space):
    written = json.dumps(space_to_json(space), allow_nan=False)
    assert space_from_json(json.loads(written)) == space


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"])
def test_a_spec_survives_json(env_id):
    spec = spec_of_env(gymnasium.make(env_id), reference_returns=(1.0, 2.0))
    assert EnvironmentSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False))) == spec


GRAPH = Graph(Discrete(2), Discrete(2))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (GRAPH, "Graph observations are not supported. Supported: Box"),
        (Dict(a=GRAPH), "Graph observation.as are not supported"),
        (Dict({1: Box(-1, 1, (2,))}), r"the observation space has keys that are no texts \(1\): name its entries"),
        (Dict(), "the observation space Dict is empty"),
        (Dict({"a.b": Discrete(2), "a": Dict(b=Discrete(2))}), "two entries that would be called 'observation.a.b'"),
    ],
)
def test_spaces_of_other_kinds_are_refused_by_name(space, message):
    with pytest.raises(UsageError, match=message):

        class Other(Counting):
            observation_space = space

        spec_of_env(Other())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "Discrete", "n": 10**18}, "n = .*: expected whole numbers from 1 to 1000000"),
        ({"type": "Discrete", "n": 0}, "n = .*: expected whole numbers from 1 to 1000000"),
        ({"type": "Discrete", "n": True}, "n = .*: expected whole numbers from 1 to 1000000"),
        ({"type": "Discrete", "n": 2, "start": 0.5}, "start = '0.5': expected whole numbers"),
        ({"type": "Graph"}, "Graph actions are not supported"),
        ({"type": "Box", "shape": [10**12], "dtype": "float32"}, "at most 1000000 entries"),
        ({"type": "Box", "shape": [10**4000, 2], "dtype": "float32"}, "at most 1000000 entries"),
        ({"type": "Box", "shape": [2, 2], "low": [0, 0], "high": 1}, "does not have 2x2 entries"),
        ({"type": "Dict", "subspaces": {}}, "expected an object that is not empty"),
        ({"type": "Dict", "subspaces": {"a": {"type": "Graph"}}}, "Graph action.as are not supported"),
        ({"type": "MultiDiscrete", "nvec": [3, 0]}, "nvec = .*: expected whole numbers from 1 to"),
        ({"type": "MultiBinary", "n": [2, -1]}, "expected whole numbers from 1 on"),
        ({"type": "Text", "max_length": -1}, "max_length = '-1': expected whole numbers from 1"),
        ({"type": "Box", "shape": [1], "dtype": "object"}, "has dtype 'object'"),
        ({"type": "Box", "shape": [1], "low": ["-inf"], "high": [10**400]}, "beyond all floats"),
        ({"type": "Box", "shape": [1], "low": [float("nan")], "high": [1]}, "holds nan"),
        ({"type": "Box", "shape": [2], "low": [0], "high": [1, 1]}, "does not have 2 entries"),
        ({"type": "Box", "shape": [1], "low": [2], "high": [1]}, "low bound above"),
        ({"type": "Box", "shape": [1], "dtype": "uint8", "low": [-1], "high": [1]}, "does not fit uint8"),
        ("Discrete", "without a type"),
    ],
)
def test_space_json_that_is_nonsense_is_refused(value, message):
    with pytest.raises(DataError, match=message):
        space_from_json(value, "action")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_episode_steps": -1}, "max_episode_steps is '-1'"),
        ({"kwargs": [1]}, "kwargs are a list"),
        ({"kwargs": {"a": float("nan")}}, "no plain JSON"),
        ({"id": 3}, "id is '3'"),
        ({"wrappers": "os:system"}, "wrappers is a text"),
        ({"reference_returns": [1, 1]}, "must differ"),
        ({"reference_returns": [1, float("inf")]}, "expected the returns"),
        ({"max_episode_step": 3}, "unknown key 'max_episode_step'.*did you mean 'max_episode_steps'"),
    ],
)
def test_spec_json_that_is_nonsense_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        cartpole_spec(**changes)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["Box", "Discrete", "inf", "float32"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
space_like = st.fixed_dictionaries(
    {"type": st.sampled_from(["Box", "Discrete"]) | json_values},
    optional={
        "shape": st.lists(st.integers(-1, 3), max_size=2) | json_values,
        "dtype": st.sampled_from(["float32", "int64", "bool"]) | json_values,
        "low": st.lists(st.floats() | st.just("-inf"), max_size=3) | json_values,
        "high": st.lists(st.floats() | st.just("inf"), max_size=3) | json_values,
        "n": st.integers(-1, 3) | json_values,
        "start": st.integers() | json_values,
    },
)


@settings(max_examples=300, deadline=None)
@given(
    observation=space_like | json_values,
    rest=st.dictionaries(st.sampled_from(["kwargs", "id", "wrappers"]), json_values),
)
def test_only_our_own_error_leaves_the_parser(observation, rest):
    try:
        spec = EnvironmentSpec.from_json({"observation_space": observation, "action_space": observation, **rest})
    except DataError:
        return
    json.dumps(spec.to_json(), allow_nan=False)


def test_what_steers_a_terminal_is_escaped_and_cut():
    assert quote("\x1b[2Jclean\u202e") == r"'\x1b[2Jclean\u202e'"
    assert len(quote("x" * 10**6)) < 300


def test_the_recorded_environment_is_made_again_with_its_arguments():
    spec = spec_of_env(gymnasium.make("Pendulum-v1", g=3.0, max_episode_steps=17))
    envs = make_envs(spec, 2)
    assert isinstance(envs, SyncVectorEnv)
    assert envs.envs[0].unwrapped.g == 3.0
    assert envs.envs[0].env.spec.max_episode_steps == 17
    check_spaces(spec, envs)


def test_an_id_that_is_registered_here_is_enough_where_no_entry_point_is_named():
    known = cartpole_spec()
    envs = make_envs(EnvironmentSpec(known.observation_space, known.action_space, id="CartPole-v1"), 1)
    assert envs.single_observation_space.shape == (4,)


def test_an_environment_that_the_user_types_wins():
    envs = make_envs(cartpole_spec(id="os:system", entry_point="os:system"), 1, env_id="Acrobot-v1")
    assert envs.single_observation_space.shape == (6,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "os:system"}, "data set names env 'os:system', not a registered environment; pass env_id="),
        ({"id": "planted_module:Env-v0"}, "'planted_module:Env-v0', not a registered environment"),
        ({"entry_point": "os:system"}, "at 'os:system', here it is .*CartPoleEnv.*pass env_id="),
        ({"wrappers": ["os:system"]}, "with the wrappers 'os:system', which are not made"),
        ({"id": None}, "names no environment: pass env_id="),
        ({"id": "Gone-v3", "requirements": ["gone>=1; echo"]}, "the data set says: pip install .*gone>=1; echo"),
    ],
)
def test_what_only_a_file_vouches_for_is_not_made(changes, message, tmp_path, monkeypatch):
    sentinel = tmp_path / "sentinel"
    (tmp_path / "planted_module.py").write_text(f"open({str(sentinel)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=message):
        make_envs(cartpole_spec(**changes), 1)
    assert not sentinel.exists()
    assert "planted_module" not in sys.modules


def test_a_path_among_the_arguments_of_a_file_is_refused():
    with pytest.raises(UsageError, match="'xml_file' = '/etc/passwd', a path"):
        make_envs(cartpole_spec(kwargs={"xml_file": "/etc/passwd"}), 1)


def test_trust_makes_what_the_data_names(tmp_path, monkeypatch):
    (tmp_path / "trusted_module.py").write_text(
        "from gymnasium.envs.classic_control.cartpole import CartPoleEnv\nclass Mine(CartPoleEnv): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = cartpole_spec(id="Mine-v0", entry_point="trusted_module:Mine", max_episode_steps=9)
    envs = make_envs(spec, 1, trust_env=True)
    assert type(envs.envs[0].unwrapped).__name__ == "Mine"


def test_a_mistyped_id_names_the_nearest():
    with pytest.raises(UsageError, match="'CartPole-v11' is registered here; did you mean 'CartPole-v1'"):
        make_envs(cartpole_spec(), 1, env_id="CartPole-v11")


def test_a_missing_package_is_answered_by_the_pip_line(monkeypatch):
    gymnasium.register("NeedsPackage-v0", entry_point="package_that_is_not_here:Env")
    monkeypatch.setitem(sys.modules, "package_that_is_not_here", None)
    spec = cartpole_spec(
        id="NeedsPackage-v0",
        entry_point="package_that_is_not_here:Env",
        max_episode_steps=None,
        requirements=["not-here>=1.2"],
    )
    try:
        with pytest.raises(
            UsageError, match="lacks a package .*Training works without it.*pip install .*not-here>=1.2"
        ):
            make_envs(spec, 1)
    finally:
        del gymnasium.registry["NeedsPackage-v0"]


def test_arguments_that_the_environment_does_not_take_are_one_sentence():
    with pytest.raises(UsageError, match="'CartPole-v1' cannot be made: TypeError"):
        make_envs(cartpole_spec(kwargs={"gravity_of_mars": 1}), 1)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (Box(-1, 1, (11,)), Discrete(2), r"observations are Box\(11\).*environment's are Box\(4\).*'CartPole-v1'"),
        (Discrete(4), Discrete(2), r"observations are Discrete\(4\), the environment's are Box\(4\)"),
        (Box(-1, 1, (4,)), Discrete(3), r"actions are Discrete\(3\), the environment's are Discrete\(2\)"),
        (Box(-1, 1, (4,)), Discrete(2, start=1), r"actions are Discrete\(2, start=1\)"),
        (Box(-1, 1, (4,)), Box(-1, 1, (2,)), r"actions are Box\(2\) in \[-1, 1\]"),
        (Box(0, 255, (4,), np.uint8), Discrete(2), r"observations are Box\(4\) uint8"),
    ],
)
def test_spaces_that_differ_are_shown_side_by_side(observation, action, message):
    envs = make_envs(cartpole_spec(), 1)
    with pytest.raises(UsageError, match=message):
        check_spaces(EnvironmentSpec(observation, action, id="CartPole-v1"), envs)


def test_bounds_of_actions_are_compared_and_float_widths_are_not():
    envs = make_envs(spec_of_env(gymnasium.make("Pendulum-v1")), 1)
    check_spaces(EnvironmentSpec(Box(-8, 8, (3,), np.float64), Box(-2, 2, (1,), np.float64)), envs)
    with pytest.raises(UsageError, match=r"actions are Box\(1\) in \[-1, 1\], the environment's are .* in \[-2, 2\]"):
        check_spaces(EnvironmentSpec(Box(-8, 8, (3,)), Box(-1, 1, (1,))), envs)


def divide_by_zero(observation, reward):
    return observation, 1 / 0


@pytest.mark.parametrize(
    ("misbehave", "message"),
    [
        (divide_by_zero, "step 1: ZeroDivisionError: division by zero"),
        (lambda observation, reward: (observation, float("nan")), "step 1: reward is nan"),
        (lambda observation, reward: (observation * np.inf, reward), "step 1: observation[0] is inf"),
        (
            lambda observation, reward: (np.zeros(2), reward),
            "step 1: observation is of shape [2] and type float64: expected Box(1) in [-100, 100]",
        ),
        (
            lambda observation, reward: (observation[0], reward),
            "step 1: observation is '2.0': expected Box(1) in [-100, 100]",
        ),
        (lambda observation, reward: ([[1], [2, 3]], reward), "step 1: observation is ragged or holds something"),
        (lambda observation, reward: ({"x": 1}, reward), "step 1: observation is ragged or holds something"),
        (lambda observation, reward: ("far", reward), "step 1: observation is 'far': expected Box(1) in [-100, 100]"),
        (lambda observation, reward: (None, reward), "step 1: observation is 'None': expected Box(1) in [-100, 100]"),
        (lambda observation, reward: ([None], reward), "step 1: observation[0] is nan"),
    ],
)
def test_a_failure_ends_the_episode_with_what_was_seen_last(misbehave, message):
    env = Guarded(Counting(at=1, misbehave=misbehave))
    env.reset()
    env.step(0)
    observation, reward, terminated, truncated, info = env.step(0)
    assert (observation.tolist(), reward, terminated, truncated) == ([1.0], 0.0, False, True)
    assert info["seqdec.failure"].startswith(message)


def test_one_misshapen_observation_ends_one_episode_of_a_batch():
    lengths = iter([3, 2])
    envs = SyncVectorEnv(
        [lambda: Guarded(Counting(length=next(lengths), at=1, misbehave=lambda seen, reward: (np.zeros(2), reward)))]
        * 2,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    envs.reset()
    envs.step(np.zeros(2, int))
    observations, _, _, truncated, infos = envs.step(np.zeros(2, int))
    assert observations.tolist() == [[1.0], [1.0]] and truncated.tolist() == [True, True]
    assert all("of shape [2]" in failure for failure in infos["seqdec.failure"])


@pytest.mark.parametrize(
    ("space", "given", "seen"),
    [
        (Discrete(4), 2.0, 2),
        (Discrete(4), 0.5, "0.5: expected Discrete(4)"),
        (Box(0, 255, (2,), np.uint8), [3, 4], [3, 4]),
        (Box(0, 255, (2,), np.uint8), [3, 300], "300: expected Box(2) uint8 in [0, 255]"),
        (Box(0, 255, (2,), np.uint8), [1e30, 0], "1e+30: expected"),
        (MultiBinary(2), [True, False], [1, 0]),
        (Text(9), "go", "go"),
        (Text(9), 3, "is '3': expected a text"),
    ],
)
def test_what_a_batch_can_hold_is_held_and_the_rest_is_a_failure(space, given, seen):
    class Showing(Counting):
        observation_space = space

        def reset(self, *, seed=None, options=None):
            return given, {}

    observation, info = Guarded(Showing()).reset()
    if info:
        assert isinstance(seen, str) and seen in info["seqdec.failure"]
    else:
        batch = SyncVectorEnv([lambda: Guarded(Showing())]).reset()[0]
        assert np.array_equal(batch[0], seen) and np.array_equal(observation, seen)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("camera", None, "observation.camera is 'None': expected Box(4x4x3) uint8 in [0, 255]"),
        ("camera", np.zeros((3, 4, 3), np.uint8), "observation.camera is of shape [3, 4, 3] and type uint8: expected"),
        ("said", None, "observation.said is 'None': expected a text"),
        ("mode", 3, "observation.mode is 3, outside Discrete(3)"),
        ("switches", np.array([0, 2]), "observation.switches is [0, 2], outside MultiBinary"),
    ],
)
def test_an_observation_that_is_not_of_its_space_ends_its_own_episode_alone(key, value, message):
    class Robot(Counting):
        observation_space = Dict(
            camera=Box(0, 255, (4, 4, 3), np.uint8), said=Text(9), mode=Discrete(3), switches=MultiBinary(2)
        )

        def __init__(self, wrong):
            super().__init__()
            self._wrong = wrong

        def reset(self, *, seed=None, options=None):
            good = {
                "camera": np.zeros((4, 4, 3), np.uint8), "said": "go", "mode": 2, "switches": np.array([0, 1], np.int8)
            }  # fmt: skip
            return {**good, **self._wrong}, {}

    made = [lambda: Guarded(Robot({key: value})), lambda: Guarded(Robot({}))]
    envs = SyncVectorEnv(made, autoreset_mode=AutoresetMode.DISABLED)
    observations, infos = envs.reset(seed=0)
    assert infos["seqdec.failure"][0].startswith(f"reset: {message}") and infos["_seqdec.failure"].tolist() == [
        True,
        False,
    ]
    assert observations["mode"].tolist() == [0, 2]


def test_a_failing_reset_ends_the_episode_too():
    class Broken(Counting):
        def reset(self, *, seed=None, options=None):
            raise RuntimeError("no connection")

    env = Guarded(Broken())
    observation, info = env.reset()
    assert (observation.tolist(), info) == ([0.0], {"seqdec.failure": "reset: RuntimeError: no connection"})
    assert env.step(0)[2:4] == (False, True)


@pytest.mark.parametrize("info", [None, ["lives"], "lives"])
def test_an_info_that_is_no_mapping_fails_its_episode(info):
    class Silent(Counting):
        def reset(self, *, seed=None, options=None):
            observation, _ = super().reset(seed=seed, options=options)
            return observation, info if seed == 1 else {}

        def step(self, action):
            return *super().step(action)[:4], info

    words = f"info is {kind_of(info)}: expected a dict"
    env = Guarded(Silent())
    assert env.reset(seed=1)[1] == {"seqdec.failure": f"reset: {words}"}
    env.reset(seed=0)
    assert env.step(0)[2:] == (False, True, {"seqdec.failure": f"step 0: {words}"})


def test_an_end_that_is_neither_true_nor_false_fails_its_episode():
    class Torn(Counting):
        def step(self, action):
            observation, reward, _, truncated, info = super().step(action)
            return observation, reward, np.array([True, False]), truncated, info

    env = Guarded(Torn())
    env.reset()
    assert env.step(0)[4]["seqdec.failure"].startswith("step 0: ValueError")


def test_an_ended_environment_is_left_alone_until_its_reset():
    inner = Counting(length=3)
    env = Guarded(inner)
    env.reset()
    for _ in range(3):
        env.step(0)
    assert [env.step(0)[:4] for _ in range(5)] == [(pytest.approx([3.0]), 0.0, False, False)] * 5
    assert inner.num_calls == 3
    env.reset(options={"seqdec.park": True})
    env.step(0)
    assert inner.num_calls == 3
    env.reset()
    env.step(0)
    assert inner.num_calls == 4


def test_an_endless_environment_ends_at_the_cap():
    env = Guarded(Counting(length=10**9), max_steps=5)
    env.reset()
    ends = [env.step(0)[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


def test_the_cap_is_the_environments_own_limit_unless_given():
    assert make_envs(cartpole_spec(), 1).envs[0]._max_steps == 500
    assert make_envs(cartpole_spec(), 1, max_steps=30).envs[0]._max_steps == 30
    assert make_envs(cartpole_spec(max_episode_steps=None), 1, max_steps=None).envs[0]._max_steps == 500
    with pytest.raises(UsageError, match="give at least 1"):
        make_envs(cartpole_spec(), 1, max_steps=0)


def test_batches_do_not_reset_by_themselves():
    envs = make_envs(cartpole_spec(), 2)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED


def test_a_space_we_do_not_know_is_named():
    assert describe_space(Graph(Discrete(2), None)) == "Graph"
