import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from seqdec.errors import NumericsError, UsageError
from seqdec.play import Actor, make_envs, rollout
from seqdec.play import make as making
from seqdec.play.guarded import Guarded
from seqdec.play.make import spec_of_env


class Random(gymnasium.Env):
    """Episodes whose lengths and rewards follow from the seed alone; observations are (seed's draw, step)."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Discrete(3, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.mark, self.step_index = int(self.np_random.integers(1, 9)), self.np_random.random(), 0
        return self._see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.step_index += 1
        reward = float(self.step_index * action)
        return self._see(), reward, self.step_index == self.length, False, {}

    def _see(self):
        return np.array([self.mark, self.step_index])


class Turns:
    """Acts by what it sees, and checks that rows and rewards stay together."""

    def __init__(self):
        self.waves = 0
        self.marks = self.last_actions = None

    def reset(self, num_envs):
        self.waves += 1
        self.rows = num_envs
        self.marks, self.last_actions = None, None

    def act(self, observations, rewards):
        assert len(observations) == self.rows
        if rewards is None:
            self.marks = observations[:, 0]
        else:
            # Row i still is the episode it was, and is told what its own last action paid.
            assert observations[:, 0].tolist() == self.marks.tolist()
            assert rewards.tolist() == (observations[:, 1] * self.last_actions).tolist()
        self.last_actions = 1 + observations[:, 1].astype(int) % 3
        return self.last_actions

    def keep(self, rows):
        assert 0 < len(rows) < self.rows
        self.rows = len(rows)
        if self.last_actions is not None:
            self.marks, self.last_actions = self.marks[rows], self.last_actions[rows]


class Constant:
    def __init__(self, value):
        self.value = value

    def reset(self, num_envs):
        pass

    def act(self, observations, rewards):
        return np.repeat(np.asarray(self.value)[None], len(observations), axis=0)

    def keep(self, rows):
        pass


def batch_of(make, num_envs, mode=AutoresetMode.DISABLED, guarded=True):
    def make_one():
        return Guarded(make()) if guarded else make()

    if guarded and mode is AutoresetMode.DISABLED:
        return making.batch_of([make_one] * num_envs)
    return SyncVectorEnv([make_one] * num_envs, autoreset_mode=mode)


def single_loop(seed):
    """The same policy and environment in the plainest loop there is."""
    env = Random()
    observation, _ = env.reset(seed=seed)
    seen, paid, end = [], [], False
    while not end:
        seen.append(observation.astype(np.float32))
        observation, reward, end, _, _ = env.step(1 + int(observation[1]) % 3)
        paid.append(reward)
    return np.stack(seen), paid, observation.astype(np.float32)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("num_envs", [1, 2, 5, 16])
def test_episodes_equal_the_single_environment_loop(mode, guarded, num_envs):
    episodes = rollout(Turns(), batch_of(Random, num_envs, mode, guarded), num_episodes=11, seed=100)
    assert len(episodes) == 11
    for index, episode in enumerate(episodes):
        seen, paid, final = single_loop(100 + index)
        assert episode.steps["observation"].tolist() == seen.tolist()
        assert episode.steps["reward"].tolist() == paid
        assert episode.final["observation"].tolist() == final.tolist()
        assert (episode.terminated, episode.truncated) == (True, False)


def test_gymnasiums_own_cartpole_gives_the_same_returns_for_any_number_of_environments():
    class Controller(Constant):
        def act(self, observations, rewards):
            return (observations[:, 2] > 0).astype(int)

    spec = spec_of_env(gymnasium.make("CartPole-v1"))
    found = [
        [episode.total_return for episode in rollout(Controller(0), make_envs(spec, n), num_episodes=10, seed=0)]
        for n in (1, 2, 5)
    ]
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) > 3


def test_a_finished_row_costs_its_environment_nothing():
    calls = []

    class Counted(Random):
        def step(self, action):
            calls.append(action)
            return super().step(action)

    episodes = rollout(Turns(), batch_of(Counted, 6), num_episodes=8, seed=0)
    assert len(calls) == sum(map(len, episodes))


def test_progress_counts_every_episode_once():
    counted = []
    rollout(Turns(), batch_of(Random, 3), num_episodes=7, seed=0, progress=counted.append)
    assert sum(counted) == 7


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_one_failing_episode_does_not_end_the_others(mode):
    class Fails(Random):
        def step(self, action):
            if self.mark == marks[3] and self.step_index == 2:
                raise ZeroDivisionError("of the world")
            return super().step(action)

    first = [single_loop(seed) for seed in range(20)]
    # Episode 3 must be long enough to fail; look for a seed that makes it so.
    seed = next(seed for seed in range(17) if len(first[seed + 3][1]) > 3)
    marks = {index: float(Random().reset(seed=seed + index)[0][0]) for index in range(6)}
    failures = []
    episodes = rollout(Turns(), batch_of(Fails, 2, mode), num_episodes=6, seed=seed, failures=failures)
    assert [(failure.episode, failure.message) for failure in failures] == [
        (3, "step 2: ZeroDivisionError: of the world")
    ]
    expected = [sum(first[seed + index][1]) for index in (0, 1, 2, 4, 5)]
    assert [episode.total_return for episode in episodes] == expected


def test_a_failure_that_nobody_collects_is_raised():
    class Fails(Random):
        def step(self, action):
            raise ZeroDivisionError("of the world")

    with pytest.raises(NumericsError, match="failed in episode 0: step 0: ZeroDivisionError: of the world"):
        rollout(Turns(), batch_of(Fails, 2), num_episodes=2, seed=0)


def test_a_failing_reset_is_one_failure():
    class Fails(Random):
        def reset(self, *, seed=None, options=None):
            if seed == 1:
                raise OSError("socket closed")
            return super().reset(seed=seed, options=options)

    failures = []
    episodes = rollout(Turns(), batch_of(Fails, 3), num_episodes=3, seed=0, failures=failures)
    assert len(episodes) == 2
    assert [(failure.episode, failure.message) for failure in failures] == [(1, "reset: OSError: socket closed")]


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("place", ["reset", "step"])
def test_an_environment_that_exits_is_one_failure(code, place):
    class Exits(Random):
        def reset(self, *, seed=None, options=None):
            self.seed = seed
            return sys.exit(code) if seed == 1 and place == "reset" else super().reset(seed=seed, options=options)

        def step(self, action):
            return sys.exit(code) if self.seed == 1 else super().step(action)

    failures = []
    episodes = rollout(Turns(), batch_of(Exits, 3), num_episodes=3, seed=0, failures=failures)
    assert len(episodes) == 2
    at = "reset" if place == "reset" else "step 0"
    assert [(failure.episode, failure.message) for failure in failures] == [(1, f"{at}: SystemExit: {code}")]


def test_ctrl_c_in_an_environment_is_no_failure_of_it():
    class Stopped(Random):
        def step(self, action):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(Turns(), batch_of(Stopped, 2), num_episodes=2, seed=0, failures=[])


@pytest.mark.parametrize("key", ["failure", "missing.observation"])
@pytest.mark.parametrize("guarded", [True, False])
def test_an_environments_own_infos_mean_nothing_to_us(guarded, key):
    class Speaks(Random):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed, options=options)[0], {key: True}

        def step(self, action):
            return *super().step(action)[:4], {key: True}

    plain = rollout(Turns(), batch_of(Random, 2), num_episodes=3, seed=0)
    episodes = rollout(Turns(), batch_of(Speaks, 2, guarded=guarded), num_episodes=3, seed=0)
    for one, other in zip(episodes, plain, strict=True):
        assert one.equals(other)


def test_an_environments_own_option_park_reaches_it():
    class Parking(Random):
        def reset(self, *, seed=None, options=None):
            self.options = options
            return super().reset(seed=seed)

    env = Parking()
    Guarded(env).reset(seed=0, options={"park": True})
    assert env.options == {"park": True}


@pytest.mark.parametrize("guarded", [True, False])
def test_a_reward_that_is_nan_is_a_failure_even_where_nothing_guards(guarded):
    class Fails(Random):
        def step(self, action):
            observation, _, terminated, truncated, info = super().step(action)
            return observation, float("nan"), terminated, truncated, info

    failures = []
    assert rollout(Turns(), batch_of(Fails, 2, guarded=guarded), num_episodes=3, seed=0, failures=failures) == []
    assert [failure.episode for failure in failures] == [0, 1, 2]
    assert "reward is nan" in failures[0].message


class Boxed(gymnasium.Env):
    """Keeps the actions it was given."""

    observation_space = Discrete(3)
    action_space = Box(np.array([-1, -np.inf], np.float32), np.array([0.5, np.inf], np.float32))
    given: list[np.ndarray]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        type(self).given = []
        return 2, {}

    def step(self, action):
        self.given.append(action)
        return 1, 0.0, len(self.given) == 2, False, {}


def test_box_actions_are_clipped_and_recorded_as_they_were_given():
    episode = rollout(Constant([7.0, -1e30]), batch_of(Boxed, 1), num_episodes=1, seed=0)[0]
    assert np.stack(Boxed.given).tolist() == episode.steps["action"].tolist()
    assert episode.steps["action"][:, 0].tolist() == [0.5, 0.5]
    assert episode.steps["observation"].tolist() == [2, 1]
    assert episode.steps["observation"].dtype == np.int64


@pytest.mark.parametrize(
    ("space", "given", "done"),
    [
        (Box(-10, 10, (2,), np.int64), [1.7, -1.7], [2, -2]),
        (Box(0, 255, (2,), np.uint8), [300.2, -0.6], [255, 0]),
        (Box(-np.inf, np.inf, (2,), np.int64), [1e30, -1e30], [2**63 - 1, -(2**63)]),
        (Box(-5, 2**40 + 1, (2,), np.int64), [2.0**41, -9.0], [2**40 + 1, -5]),
        (Box(0, 1, (2,), np.bool_), [0.7, 0.2], [True, False]),
    ],
    ids=str,
)
def test_actions_are_the_nearest_that_a_space_of_whole_numbers_holds(monkeypatch, space: Box, given: list, done: list):
    monkeypatch.setattr(Boxed, "action_space", space)
    rollout(Constant(given), batch_of(Boxed, 1), num_episodes=1, seed=0)
    assert Boxed.given[0].tolist() == done and space.contains(Boxed.given[0])


def test_truth_values_are_numbers_where_the_space_has_them(monkeypatch):
    monkeypatch.setattr(Boxed, "action_space", Box(0, 1, (2,), np.bool_))
    episode = rollout(Constant([True, False]), batch_of(Boxed, 1), num_episodes=1, seed=0)[0]
    assert np.stack(Boxed.given).tolist() == [[True, False]] * 2 and Boxed.given[0].dtype == np.bool_
    assert episode.steps["action"].tolist() == [[1, 0]] * 2


def test_an_action_that_is_nan_is_an_error():
    with pytest.raises(NumericsError, match="action that is nan"):
        rollout(Constant([0.0, np.nan]), batch_of(Boxed, 1), num_episodes=1, seed=0)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (0, r"action 0, outside Discrete\(3, start=1\)"),
        (4, r"action 4, outside Discrete\(3, start=1\)"),
        (1.5, r"action 1.5, outside"),
        ([1, 1], r"actions of shape \[2, 2\], expected \[2\]"),
        ("left", "actions of type <U4, expected numbers"),
    ],
)
def test_actions_outside_a_discrete_space_are_refused(action, message):
    with pytest.raises(UsageError, match=message):
        rollout(Constant(action), batch_of(Random, 2), num_episodes=2, seed=0)


def test_a_batch_that_does_not_say_how_it_resets_is_refused():
    envs = batch_of(Random, 1)
    del envs.metadata["autoreset_mode"]
    with pytest.raises(UsageError, match="does not say how it resets"):
        rollout(Turns(), envs, num_episodes=1, seed=0)


def test_no_episodes_is_refused():
    with pytest.raises(UsageError, match="give at least 1"):
        rollout(Turns(), batch_of(Random, 1), num_episodes=0, seed=0)


def test_an_actor_is_recognised_by_what_it_can_do():
    assert isinstance(Turns(), Actor)
    assert not isinstance(lambda observation, generator: 0, Actor)


def test_processes_and_batches_that_take_turns_change_no_episode():
    plain = rollout(Turns(), batch_of(Random, 3), num_episodes=11, seed=100)
    for sizes, asynchronous in (((3,), True), ((2, 1), True), ((2, 3), False), ((9, 9), True)):
        envs = [making.batch_of([guarded] * size, asynchronous=asynchronous) for size in sizes]
        assert all(isinstance(batch, AsyncVectorEnv) == asynchronous for batch in envs)
        found = rollout([Turns() for _ in envs], envs, num_episodes=11, seed=100)
        assert [episode.total_return for episode in found] == [episode.total_return for episode in plain]
        for one, other in zip(found, plain, strict=True):
            assert np.array_equal(one.steps["observation"], other.steps["observation"])
        for batch in envs:
            batch.close()


def guarded():
    return Guarded(Random())


class Numbered(Constant):
    """Notes the first episode of each of its waves."""

    def __init__(self):
        super().__init__(1)
        self.firsts = []

    def seek(self, episode):
        self.firsts.append(episode)


def test_actors_that_take_turns_are_told_which_episodes_are_theirs():
    actors = [Numbered(), Numbered()]
    rollout(actors, [batch_of(Random, 2), batch_of(Random, 3)], num_episodes=13, seed=0)
    assert sorted(actors[0].firsts + actors[1].firsts) == [0, 2, 5, 7, 10, 12]
    assert actors[0].firsts == [0, 5, 10] and actors[1].firsts == [2, 7, 12]
    with pytest.raises(UsageError, match="1 actors for 2 batches"):
        rollout(Constant(1), [batch_of(Random, 2)] * 2, num_episodes=3, seed=0)


class Telling(AsyncVectorEnv):
    """Tells when its environments are set to work, and when they are waited for."""

    def step_async(self, actions):
        self.told.append(("steps", self.name))
        super().step_async(actions)

    def step_wait(self, timeout=None):
        self.told.append(("waited for", self.name))
        return super().step_wait(timeout)


class Told(Turns):
    def __init__(self, told, name):
        super().__init__()
        self.told, self.name = told, name

    def act(self, observations, rewards):
        self.told.append(("acts", self.name))
        return super().act(observations, rewards)


def test_one_actor_works_while_the_environments_of_the_other_step():
    told, envs = [], []
    for name in range(2):
        envs.append(Telling([guarded] * 2, autoreset_mode=AutoresetMode.DISABLED))
        envs[-1].told, envs[-1].name = told, name
    rollout([Told(told, 0), Told(told, 1)], envs, num_episodes=4, seed=1)
    for batch in envs:
        batch.close()
    begin, end = told.index(("steps", 0)), told.index(("waited for", 0))
    assert ("acts", 1) in told[begin:end] and ("steps", 1) in told[begin:end]


def test_a_failed_episode_ends_the_rollout_before_others_begin():
    actor = Constant(1)
    actor.reset = begun = Counter()
    with pytest.raises(NumericsError, match="failed in episode 0"):
        rollout(actor, batch_of(Failing, 2), num_episodes=10, seed=0)
    assert begun.calls == 1


class Counter:
    def __init__(self):
        self.calls = 0

    def __call__(self, num_envs):
        self.calls += 1


class Failing(Random):
    def step(self, action):
        raise ValueError("broken")


class Speaking(Random):
    """Says something in letters that are not its space's own, or nothing at all."""

    observation_space = gymnasium.spaces.Dict(words=gymnasium.spaces.Text(20), place=Box(-np.inf, np.inf, (2,)))

    def _see(self):
        words = None if self.step_index == 1 else f"step {self.step_index}, \u00fc"
        return {"words": words, "place": np.array([self.mark, np.nan])}


class Listening(Constant):
    def act(self, observations, rewards):
        return super().act(observations["place"], rewards)


def test_texts_and_what_is_missing_come_out_of_processes_as_they_are():
    found = []
    for asynchronous in (False, True):
        make = partial(Guarded, missing=("observation.words", "observation.place"))
        envs = making.batch_of([lambda make=make: make(Speaking())] * 2, asynchronous=asynchronous)
        found.append(rollout(Listening(1), envs, num_episodes=3, seed=5))
        envs.close()
    for one, other in zip(*found, strict=True):
        assert one.steps.keys() == other.steps.keys() and "missing.observation.words" in one.steps
        for name, values in one.steps.items():
            assert np.array_equal(values, other.steps[name]), name
