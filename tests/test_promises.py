"""What the toolkit promises of whole commands: killed, stopped, damaged, planted with malice, they keep their word."""

import ast
import inspect
import json
import os
import pickle
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from command_lines import instead
from conftest import box_spec, discrete_spec, is_local
from minari_sets import make_episodes, spoil, write_minari
from seqdec import storage
from seqdec.cli.main import main
from seqdec.data.dataset import from_episodes, save
from seqdec.data.episode import Episode
from seqdec.data.schema import environment_of, lengths, returns
from seqdec.formats.load import load_dataset
from seqdec.inference.policy import Policy
from seqdec.inference.report import Report
from seqdec.model.backbone import load_backbone
from seqdec.model.folder import load_policy
from seqdec.model.sequence_model import build_model
from seqdec.play import scripted_cartpole
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows
from seqdec.spaces.spec import EnvironmentSpec
from seqdec.stops import EXIT_CODES
from seqdec.training.loop import train

ROOT = Path(__file__).parent.parent
TINY = (
    "--backbone small --num-layers 1 --steps 6 --batch-size 4 --context-length 4 --log-every 1 --eval-every 2 "
    "--checkpoint-every 2 --episodes 2 --num-envs 2 --max-steps 20"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set on disk."""
    folder = tmp_path_factory.mktemp("promises") / "cartpole"
    save(scripted_cartpole(num_episodes=8, seed=1), folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A finished run with evaluations in the middle, of a discounted and delayed return."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    words = f"train --data {data} --output {folder} {TINY} --discount 0.9 --delayed-reward"
    assert main(words.split()) == 0
    return folder


def lines(folder: Path) -> list[dict[str, float | None]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def refusal(argv: str, code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Run words that cannot work; return the one line that they leave."""
    capsys.readouterr()
    assert main(argv.split()) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


def stop(words: list[str], folder: Path, step: int, number: int) -> tuple[int, list[str]]:
    """Run words through the real command line, send a signal after a step, return the exit code and stderr."""

    def logged() -> str:
        return (folder / "metrics.jsonl").read_text() if (folder / "metrics.jsonl").exists() else ""

    command = [sys.executable, "-m", "seqdec", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while f'"step": {step},' not in logged() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said.splitlines()


def test_a_run_that_is_stopped_damaged_and_continued_twice_equals_an_unbroken_one(data: Path, tmp_path: Path, capsys):
    """SIGTERM and Ctrl-C through the real command line; each time the printed words go on."""
    flags = TINY
    for flag in ("--steps 80", "--eval-every 0", "--checkpoint-every 20"):
        flags = instead(flags, flag)
    unbroken, folder = tmp_path / "unbroken", tmp_path / "broken"
    assert main(f"train --data {data} --output {unbroken} {flags}".split()) == 0
    code, said = stop(f"train --data {data} --output {folder} {flags}".split(), folder, 25, signal.SIGTERM)
    assert code == 143, said
    assert said[-1].startswith("seqdec: stopped by SIGTERM at step ") and ", saved. Continue: seqdec " in said[-1]
    first_stop = int(said[-1].split("at step ")[1].split(",")[0])

    before, newest = storage.published(folder / "checkpoints", "step-")[-2:]
    with (newest / "train" / "optimizer.safetensors").open("r+b") as file:
        file.truncate(100)
    (folder / "checkpoints" / f".tmp-step-000450-{'0' * 32}").mkdir()
    words = shlex.split(said[-1].split("Continue: ")[1])[1:]
    code, said = stop(words, folder, first_stop + 5, signal.SIGINT)
    assert code == 130, said
    assert said[-1].startswith("seqdec: stopped by Ctrl-C at step ")
    second_stop = int(said[-1].split("at step ")[1].split(",")[0])
    assert first_stop < second_stop < 80
    assert "step-000450 had an incomplete or old copy, now removed" in said[0]
    assert "optimizer.safetensors in" in said[1] and "does not match its manifest" in said[1]
    assert said[2] == f"seqdec: resuming from step {int(before.name.removeprefix('step-'))}"
    assert len(said) == 4, said
    assert not list((folder / "checkpoints").glob(".*")), "nothing is left of the writer that was killed"

    capsys.readouterr()
    assert main(shlex.split(said[-1].split("Continue: ")[1])[1:]) == 0
    resumed, *rest = capsys.readouterr().err.splitlines()
    assert resumed == f"seqdec: resuming from step {second_stop}"
    assert all(line.startswith("seqdec: step 80: ") for line in rest), rest
    for ours, expected in zip(lines(folder), lines(unbroken), strict=True):
        assert {key: value for key, value in ours.items() if not key.startswith("speed/")} == {
            key: value for key, value in expected.items() if not key.startswith("speed/")
        }
    for name in ("codecs.safetensors", "backbone/model.safetensors"):
        assert (folder / "policy" / name).read_bytes() == (unbroken / "policy" / name).read_bytes()


def test_a_run_repeats_from_its_config_and_evaluating_touches_nothing(run: Path, tmp_path: Path, capsys):
    config = storage.read_json(run / "config.json")
    assert config["flags"]["dropout"] is None and config["flags"]["backbone_learning_rate"] is None
    assert main(f"train --config {run / 'config.json'} --output {tmp_path / 'b'}".split()) == 0
    assert "(float32)" in capsys.readouterr().out, "the type of what learns is told at the start"
    repeated = storage.read_json(tmp_path / "b" / "config.json")
    assert repeated == {**config, "flags": {**config["flags"], "output": str(tmp_path / "b")}}
    # neither evaluations nor held-out losses nor checkpoints in the middle
    plain = "--eval-every 0 --checkpoint-every 0 --episodes 1"
    assert main(f"train --config {run / 'config.json'} --output {tmp_path / 'c'} {plain}".split()) == 0
    for name in ("codecs.safetensors", "backbone/model.safetensors"):
        expected = (run / "policy" / name).read_bytes()
        assert (tmp_path / "b" / "policy" / name).read_bytes() == expected
        assert (tmp_path / "c" / "policy" / name).read_bytes() == expected


def test_a_policy_keeps_the_environment_the_returns_and_how_they_are_counted(run: Path, data: Path):
    model, dataset = load_policy(run / "policy"), load_dataset(data)
    assert model.data.spec == environment_of(dataset)
    assert (model.layout.discount, model.layout.delayed_reward) == (0.9, True)
    assert model.layout.context_length == 4
    counts = lengths(dataset)
    delayed = 0.9 ** (counts - 1) * counts  # CartPole pays 1 a timestep
    assert min(delayed) - 1e-6 <= model.data.returns["min"] <= model.data.returns["max"] <= max(delayed) + 1e-6


class Malice:
    """A pickle that leaves a sentinel when somebody opens it."""

    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.sentinel),)


PICKLES = (
    *("pytorch_model.bin", "adapter_model.bin", "model.pt", "optimizer.pt", "scheduler.pt", "training_args.bin"),
    *("rng_state.pth", "random_states_0.pkl", "dataset.pkl", "stats.npy", "stats.npz", "state.pickle", "model.ckpt"),
)


@contextmanager
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a pickle was opened")

    with monkeypatch.context() as patch:
        for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"), (np, "load")):
            patch.setattr(module, name, refuse)
        yield


def test_from_data_to_report_no_pickle_is_opened(run: Path, data: Path, tmp_path: Path, monkeypatch):
    sentinel = tmp_path / "sentinel"
    poison = pickle.dumps(Malice(sentinel))
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(run, tmp_path / "run")
    places = [path for root in ("data", "run") for path in (tmp_path / root).rglob("*") if path.is_dir()]
    for place in [tmp_path / "data", tmp_path / "run", *places]:
        for name in PICKLES:
            (place / name).write_bytes(poison)
    with no_pickle(monkeypatch):
        assert main(f"train --output {tmp_path / 'run'} --resume --steps 8 --data {tmp_path / 'data'}".split()) == 0
        assert main(f"eval {tmp_path / 'run'} --episodes 2 --max-steps 9 --target-return 1".split()) == 0
    assert not sentinel.exists()


def test_opening_a_planted_policy_or_data_set_imports_nothing(run: Path, tmp_path: Path, capsys, monkeypatch):
    sentinel = tmp_path / "sentinel"
    (tmp_path / "evilmod.py").write_text(f"open({str(sentinel)!r}, 'w')\nmain = print\n")
    monkeypatch.syspath_prepend(tmp_path)
    evil = {
        "id": "evilmod:Env-v0", "entry_point": "evilmod:main", "max_episode_steps": 5,
        "kwargs": {"entry_point": "evilmod:main"},
    }  # fmt: skip
    shutil.copytree(run / "policy", tmp_path / "policy")
    policy = storage.read_json(tmp_path / "policy" / "policy.json")
    policy["environment"] |= evil
    storage.write_json(tmp_path / "policy" / "policy.json", policy)
    storage.write_manifest(tmp_path / "policy")
    said = refusal(f"eval {tmp_path / 'policy'} --output {tmp_path / 'out'}", 2, capsys)
    assert "names env 'evilmod:Env-v0', not a registered environment; pass env_id=" in said
    assert said.endswith("(--env)")
    planted = {
        "id": "evilmod:Env-v0", "entry_point": "evilmod:main", "max_episode_steps": 5, "kwargs": {},
        "additional_wrappers": [{"name": "w", "entry_point": "evilmod:main", "kwargs": {}}],
    }  # fmt: skip
    folder = write_minari(tmp_path / "set-v0", make_episodes(), env_spec=json.dumps(planted))
    assert main(f"train --data {folder} --output {tmp_path / 'run'} {TINY}".split()) == 0
    assert "training without evaluations" in capsys.readouterr().err
    assert not sentinel.exists() and "evilmod" not in sys.modules


def test_data_that_cannot_be_trained_on_is_one_line_and_65_and_nothing_is_begun(data: Path, tmp_path: Path, capsys):
    def refused(folder: Path) -> str:
        said = refusal(f"train --data {folder} --output {tmp_path / 'run'} {TINY}", 65, capsys)
        assert not (tmp_path / "run" / "config.json").exists()
        return said

    arrow = next(data.glob("*.arrow")).name
    for name in (arrow, "state.json", "dataset_info.json", "manifest.json"):
        size = (data / name).stat().st_size
        for content in (
            b"",
            7,
            size // 3,
            size // 2,
            size - 2,
            b"version https://git-lfs.github.com/spec/v1\n",
            b"<html>",
        ):
            folder = tmp_path / "damaged"
            shutil.copytree(data, folder)
            whole = (data / name).read_bytes()
            (folder / name).write_bytes(content if isinstance(content, bytes) else whole[:content])
            said = refused(folder)
            assert name in said and any(word in said for word in ("again", "git lfs pull")), said
            shutil.rmtree(folder)
    minari = {
        "nan": (make_episodes(), {"change": spoil(2, "observations", [0, np.nan, 0], 3)}),
        "uneven": (make_episodes(), {"change": lambda index, arrays: arrays.update(rewards=arrays["rewards"][:-1])}),
        "empty": ([], {}),
    }
    said = {
        "nan": "episode 2, step 3: observation[1] is nan (1 of 4 episodes",
        "uneven": "(4 of 4 episodes are affected)",
        "empty": "there are no episodes",
    }
    for name, (episodes, options) in minari.items():
        assert said[name] in refused(write_minari(tmp_path / f"{name}-v0", episodes, **options))
    one = write_minari(tmp_path / "one-v0", make_episodes((30,)))
    assert "too few to hold out 1; record more, keep a larger part of the data, or hold out none" in refused(one)


def test_training_needs_no_environment_and_evaluating_names_the_package(data: Path, tmp_path: Path, capsys):
    dataset = load_dataset(data)
    spec = {**json.loads(dataset.info.description), "id": "Away/Gone-v1", "entry_point": "away.gone:Gone"}
    dataset.info.description = json.dumps({**spec, "requirements": ["gymnasium-away>=1.2"]})
    save(dataset, tmp_path / "data")
    capsys.readouterr()
    assert main(f"train --data {tmp_path / 'data'} --output {tmp_path / 'a'} {TINY}".split()) == 0
    assert "training without evaluations: " in capsys.readouterr().err
    said = refusal(f"eval {tmp_path / 'a'}", 2, capsys)
    assert "'Away/Gone-v1', not a registered environment" in said and "pip install 'gymnasium-away>=1.2'" in said


def test_a_run_that_another_process_writes_is_left_alone(data: Path, tmp_path: Path, capsys):
    with storage.lock_folder(tmp_path / "a"):
        said = refusal(f"train --data {data} --output {tmp_path / 'a'} {TINY}", 2, capsys)
    assert "another run is writing to" in said


DEGENERATE = ("constant returns", "one action", "constant observations", "negative returns", "one episode", "one step")


def degenerate_episodes(kind: str, spec: EnvironmentSpec) -> list[Episode]:
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(1 if kind == "one episode" else 6):
        length = 1 if kind == "one step" else int(rng.integers(3, 9))
        if isinstance(spec.observation_space, gymnasium.spaces.Box):
            observations, actions = rng.normal(size=(length + 1, 3)), rng.uniform(-1, 1, (length, 2))
        else:
            observations, actions = rng.integers(0, 5, length + 1), rng.integers(1, 4, length)
        if kind == "constant observations":
            observations = np.repeat(observations[:1] * 0 + 3, length + 1, axis=0)
        if kind == "one action":
            actions = np.ones_like(actions)
        rewards = rng.normal(size=length)
        if kind == "constant returns":
            rewards = rewards * 0
        elif kind == "negative returns":
            rewards = -100 - np.abs(rewards)
        steps = {"observation": observations[:-1], "action": actions, "reward": rewards}
        episodes.append(Episode(steps, final=observations[-1], terminated=False, truncated=True))
    return episodes


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("head", ["gaussian", "binned"])
def test_degenerate_data_trains_and_acts_without_a_nan(kind: str, head: str, tmp_path: Path):
    for number, spec in enumerate((box_spec(), discrete_spec())):
        dataset = from_episodes(degenerate_episodes(kind, spec), spec)
        spaces = spec.observation_space, spec.action_space
        layout = layout_from_spaces("trajectory", *spaces, context_length=4, head=head, return_head=head)  # pyright: ignore
        windows = Windows(dataset, layout)
        model = build_model(windows, load_backbone("small", num_layers=1))
        train(model, windows, out=tmp_path / str(number), steps=4, batch_size=4, log_every=1, heldout=windows)
        assert all(value is not None for line in lines(tmp_path / str(number)) for value in line.values())
        policy = Policy(model, float(windows.returns.max()))
        policy.reset(2)
        observation = dataset.with_format("numpy")[0]["observation"][:1]
        for rewards in (None, np.zeros(2), np.ones(2)):
            actions = policy.act(np.repeat(observation, 2, axis=0), rewards)
            assert np.isfinite(actions).all() and all(spec.action_space.contains(action) for action in actions)


def test_data_whose_returns_are_all_equal_goes_from_flags_to_figure(tmp_path: Path, capsys):
    lake = tmp_path / "lake"
    assert main(f"data record FrozenLake-v1 --output {lake} --episodes 6".split()) == 0
    dataset = load_dataset(lake)
    assert set(returns(dataset)) == {0.0}, "nobody reached the goal"
    assert main(f"train --data {lake} --output {tmp_path / 'a'} {TINY}".split()) == 0
    assert main(f"eval {tmp_path / 'a'} --episodes 2 --target-return min median max 1".split()) == 0
    shown = capsys.readouterr()
    assert "nan" not in shown.out.lower() and "expect extrapolation" in shown.err
    assert Report.from_json(storage.read_json(tmp_path / "a" / "report.json")).data_returns["max"] == 0


def test_no_public_call_takes_a_misspelt_argument_in_silence(monkeypatch: pytest.MonkeyPatch):
    """No **kwargs but those that are checked, or passed on to a signature that does, and those of `attend`, which
    transformers calls; the backbone is called with known words only.
    """
    open_ended, passed = set(), set()
    for path in sorted((ROOT / "seqdec").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None:
                calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
                passed_on = {ast.unparse(word.value) for call in calls for word in call.keywords if word.arg is None}
                if node.args.kwarg.arg not in passed_on:  # then it is the other's to check
                    open_ended.add(f"{path.stem}.{node.name}")
            # Backbone.read and the recorded pass call the decoder; `given` holds position_ids where it takes them
            if isinstance(node, ast.Call) and "inputs_embeds" in {keyword.arg for keyword in node.keywords}:
                assert not node.args, "by name"
                passed |= {keyword.arg or "position_ids" for keyword in node.keywords}
    # the first two compare the names with those that they know, and the game of a text world refuses those of others
    known = {"context.write", "load.source_of", "textworlds.__init__", "options.keywords"}
    assert open_ended == known | {"probes.read", "caches.read"}  # the last two stand inside what tries a decoder out
    known = inspect.signature(load_backbone("small", num_layers=1).model.forward).parameters
    assert passed and passed <= set(known) - {"kwargs"}


@pytest.mark.skipif(sys.platform == "win32", reason="resource is POSIX's")
def test_help_and_version_answer_at_once():
    """Processor time, which other work on the machine does not change."""
    for words, most in (("--help", 0.5), ("--version", 0.2)):
        times = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-m", "seqdec", words], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert min(times) < most, times


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", None, ""])
def test_the_tests_may_talk_to_their_own_machine(host: str | None):
    assert is_local(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "huggingface.co", "127.0.0.1.example.org", "10.0.0.1"])
def test_the_tests_may_talk_to_no_other_machine(host: str):
    assert not is_local(host)


def test_every_exit_code_is_told(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert set(EXIT_CODES.values()) == {130, 143}
    assert all(str(code) in shown for code in (0, 2, 65, 70, 74, 130, 143))


class Exiting(gymnasium.Env):
    """Ends its process, and says that all is well."""

    observation_space = gymnasium.spaces.Box(-5, 5, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(4, np.float32), {}

    def step(self, action):
        sys.exit(0)


def test_an_environment_that_exits_does_not_end_an_evaluation_as_if_it_were_done(run: Path, tmp_path: Path, capsys):
    gymnasium.register("seqdec-tests/Exiting-v0", Exiting)
    said = refusal(f"eval {run / 'policy'} --env seqdec-tests/Exiting-v0 --output {tmp_path}", 2, capsys)
    assert "step 0: SystemExit: 0" in said
