"""A stop is never lost: what the handler's exception runs into, when it comes, and what it leaves."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from command_lines import errors_of, in_new_process
from conftest import make_windows
from seqdec import stops
from seqdec.cli.console import Env, importing, progress
from seqdec.cli.main import main
from seqdec.cli.verbs import VERBS
from seqdec.model.backbone import load_backbone
from seqdec.model.sequence_model import build_model
from seqdec.play import make_envs
from seqdec.play.closing import closing_envs
from seqdec.play.rollouts import rollout
from seqdec.training.checkpoints import checkpoints
from seqdec.training.loop import train


def swallowed() -> None:
    """A signal whose exception goes the way of one in ten within CPython's `compile`."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException:
        return
    raise AssertionError("the handler did not raise")


def changed() -> None:
    """As `__set_name__` has it: the exception comes up as another one."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException as error:
        raise RuntimeError("Error calling __set_name__") from error


def after_imports() -> None:
    with importing():
        swallowed()
    raise AssertionError("the stop came not after the imports")


def between_episodes() -> None:
    with progress(2, "episode") as advance:
        swallowed()
        advance(1)
    raise AssertionError("the stop came not with the progress")


def before_training() -> None:
    swallowed()
    with stops.noted():
        raise AssertionError("training began after a stop")


@pytest.mark.parametrize("verb", [swallowed, changed, after_imports, between_episodes, before_training])
def test_a_noted_signal_wins_over_whatever_became_of_its_exception(verb: Callable[[], None], monkeypatch, capsys):
    def run(given: Env) -> int:
        verb()
        return 0

    monkeypatch.setitem(VERBS, "env", (Env, run))
    assert errors_of("env", 143, capsys) == "seqdec: stopped by SIGTERM"
    stops.check()  # nothing of it is left for who calls main


def test_debug_shows_where_a_stop_came(monkeypatch, capsys):
    monkeypatch.setitem(VERBS, "env", (Env, lambda given: changed()))
    assert main(["env", "--debug"]) == 143
    lines = capsys.readouterr().err.splitlines()
    assert any("in changed" in line for line in lines) and lines[-1] == "seqdec: stopped by SIGTERM"


@pytest.mark.parametrize(("number", "code", "name"), [(2, 130, "Ctrl-C"), (15, 143, "SIGTERM")])
def test_a_signal_in_the_first_imports_is_one_line(number: int, code: int, name: str):
    script = (
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, module, path, target=None):\n"
        f"        if module == 'seqdec.cli.verbs': os.kill(os.getpid(), {number})\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from seqdec.cli.main import main\n"
        "sys.exit(main(['env']))"
    )
    done = in_new_process(script)
    assert (done.returncode, done.stderr) == (code, f"seqdec: stopped by {name}\n")


@pytest.mark.parametrize(("number", "code", "name"), [(2, 130, "Ctrl-C"), (15, 143, "SIGTERM")])
def test_a_second_signal_ends_in_one_line_and_leaves_nobody(number: int, code: int, name: str):
    """Whatever happens to the exception of the first one; a child that ignores signals ends, too."""
    script = (
        "import multiprocessing, os, signal, sys, time\n"
        "from seqdec.cli import console, main, verbs\n"
        "def deaf():\n"
        "    for number in (2, 15): signal.signal(number, signal.SIG_IGN)\n"
        "    time.sleep(600)\n"
        "def run(given):\n"
        "    child = multiprocessing.get_context('fork').Process(target=deaf, daemon=True)\n"
        "    child.start()\n"
        "    print(child.pid, flush=True)\n"
        "    while True:\n"
        "        try:\n"
        f"            os.kill(os.getpid(), {number})\n"
        "        except BaseException: pass\n"
        "verbs.VERBS['env'] = (console.Env, run)\n"
        "sys.exit(main.main(['env']))"
    )
    done = in_new_process(script)
    assert (done.returncode, done.stderr) == (code, f"seqdec: stopped by {name}\n")
    ends = time.monotonic() + 10
    while is_running(int(done.stdout)):  # a process that was killed takes its time
        assert time.monotonic() < ends
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_signal_to_all_processes_of_an_evaluation_is_one_stop(capfd):
    """SIGTERM to the group: the environments are gone before their batch is closed."""
    envs = make_envs("CartPole-v1", 2, asynchronous=True)
    with pytest.raises(stops.Stopped), stops.noted(is_last=True), closing_envs(envs):
        for process in envs.processes:  # pyright: ignore[reportAttributeAccessIssue]
            os.kill(process.pid, signal.SIGTERM)
            process.join()
        signal.raise_signal(signal.SIGTERM)
    assert [process.exitcode for process in envs.processes] == [-signal.SIGTERM] * 2  # pyright: ignore
    assert envs.closed and capfd.readouterr().err == ""


def test_a_stop_between_timesteps_ends_an_evaluation_whose_environment_swallowed_it():
    class Deaf:
        """Acts, and stops the process in its third timestep where nobody hears of it."""

        count = 0

        def reset(self, num_envs: int) -> None: ...

        def keep(self, rows: object) -> None: ...

        def act(self, observations: object, rewards: object, info: object = None) -> list[int]:
            self.count += 1
            if self.count == 3:
                swallowed()
            return [0]

    actor = Deaf()
    with pytest.raises(stops.Stopped), stops.noted(is_last=True), closing_envs(make_envs("CartPole-v1", 1)) as envs:
        rollout(actor, envs, num_episodes=1, seed=0)  # pyright: ignore[reportArgumentType]
    assert actor.count == 3


SETTINGS = {"batch_size": 4, "log_every": 4, "eval_every": 3}


def run(folder: Path, *, steps: int = 8, resume: bool = False, stop_in: int = 0, changes: bool = False) -> list[int]:
    """Train, and let a signal come in an evaluation; return the last step and how many evaluations were asked for."""
    windows, _ = make_windows()
    model = build_model(windows, load_backbone("small", num_layers=1, dropout=0.0, seed=0), seed=0)
    asked: list[int] = []

    def evaluate() -> dict[str, float]:
        asked.append(0)
        if len(asked) == stop_in:
            signal.raise_signal(signal.SIGTERM)
        try:
            stops.check()
        except stops.Stopped as stop:
            if changes:
                raise RuntimeError("foreign code makes another exception of it") from stop
            raise
        return {"eval/return": next(model.parameters()).sum().item()}

    outcome = train(
        model, windows, out=folder, steps=steps, heldout=windows, evaluate=evaluate, resume=resume, **SETTINGS
    )
    assert (outcome.stopped_by is not None) == bool(stop_in)
    return [outcome.step, len(asked)]


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("speed/")} for line in lines]


def test_a_stop_in_an_evaluation_costs_nothing_and_metrics_equal_the_unbroken_ones(tmp_path: Path):
    """Also in the last one, and twice in a row; a step that is not due is not logged, nor are its losses lost."""
    assert run(tmp_path / "a") == [8, 3]
    broken = tmp_path / "b"
    assert run(broken, stop_in=1) == [3, 1], "no further step, and no further evaluation"
    assert [folder.name for folder in checkpoints(broken)] == ["step-000003"], "though none was due"
    assert run(broken, stop_in=1, resume=True) == [3, 1], "the evaluation that is made up for is stopped, too"
    assert run(broken, stop_in=3, resume=True, changes=True) == [8, 3]
    assert not (broken / "policy").exists()
    assert run(broken, resume=True) == [8, 1]
    assert metrics(tmp_path / "a") == metrics(broken)
    assert (broken / "policy" / "manifest.json").exists()


def test_ctrl_c_twice_in_python_raises_as_python_does(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), stops.noted() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.name == "SIGINT", "the first one lets the step end"
        signal.raise_signal(signal.SIGINT)
    stops.check()


def test_no_process_that_was_forked_takes_a_signal_for_its_own(capfd):
    with stops.noted(is_last=True):
        pid = os.fork()
        if pid == 0:
            signal.raise_signal(signal.SIGINT)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert capfd.readouterr().err == ""
