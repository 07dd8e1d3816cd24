"""A run is one run for its tracker, however often it is resumed; wandb itself says whether somebody is logged in."""

import json
import os
import subprocess
import sys
import threading
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import box_episodes, box_spec, make_windows
from seqdec.data.dataset import from_episodes, save
from seqdec.model.backbone import load_backbone
from seqdec.model.sequence_model import build_model
from seqdec.training.loop import train
from seqdec.training.metrics import Metrics

ROOT = Path(__file__).parents[2]
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason='pip install "seqdec[wandb]"')
SECRET = "https://ada:SECRET@host/data.csv"


def log(folder: Path, tracker: str, *steps: int, after: int = 0):
    """Log some steps, going on after one of them."""
    metrics = Metrics(folder, step=after, tracker=tracker, config={"steps": max(steps), "data": SECRET})
    for step in steps:
        metrics.log(step, {"train/loss": 1.0 / step})
    metrics.close()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    pytest.importorskip("wandb")


def wandb_runs(folder: Path) -> list[str]:
    """The id of each of wandb's folders, oldest first."""
    return [path.name.split("-")[3] for path in sorted(folder.glob("wandb/offline-run-*"))]


def test_a_resumed_run_goes_on_with_the_run_of_wandb(tmp_path: Path, offline: None):
    windows, _ = make_windows()
    for steps in (2, 4):
        model = build_model(windows, load_backbone("small", num_layers=2, seed=0), seed=0)
        out = tmp_path / "run"
        train(model, windows, out=out, steps=steps, batch_size=4, tracker="wandb", resume=steps == 4)
    first, second = wandb_runs(tmp_path / "run")
    assert first == second == json.loads((tmp_path / "run" / "tracker.json").read_text())["wandb"]


def test_another_run_in_the_same_folder_is_another_run_of_wandb(tmp_path: Path, offline: None, monkeypatch):
    monkeypatch.setattr("sys.argv", ["seqdec", "train", "--data", SECRET])
    for _ in range(2):
        log(tmp_path, "wandb", 1)
    assert len(set(wandb_runs(tmp_path))) == 2
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"SECRET" in path.read_bytes()]  # in what is logged, or kept beside it
    (tmp_path / "tracker.json").unlink()  # a run of before this file was kept
    log(tmp_path, "wandb", 2, after=1)
    log(tmp_path, "wandb", 3, after=2)
    assert len(set(wandb_runs(tmp_path))) == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"wandb": 7}'])
def test_a_damaged_file_of_ids_costs_the_tracker_alone(tmp_path: Path, offline: None, text: str, caplog):
    (tmp_path / "tracker.json").write_text(text)
    log(tmp_path, "wandb", 2, after=1)
    assert "wandb unavailable" in caplog.text and "tracker.json" in caplog.text
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 2


@needs_wandb
@pytest.mark.parametrize("is_logged_in", [True, False])
def test_wandb_itself_says_whether_somebody_is_logged_in(tmp_path: Path, is_logged_in: bool):
    if is_logged_in:  # at a server of one's own; wandb.ai was the only one that was looked for
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9\n login user\n password {'a' * 40}\n")
    names = ("WANDB_API_KEY", "WANDB_MODE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    environment |= {"WANDB_ERROR_REPORTING": "false", "WANDB_CONFIG_DIR": str(tmp_path)}
    script = "from seqdec.training.trackers import wandb_mode; print(wandb_mode())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert done.stdout.decode().split() == ["None" if is_logged_in else "offline"], done.stderr.decode()


@needs_wandb
def test_the_mode_that_the_user_set_is_not_asked_about(monkeypatch: pytest.MonkeyPatch):
    from seqdec.training.trackers import wandb_mode

    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


def test_a_resumed_run_goes_on_with_the_run_of_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stand-in for the package, which names runs as 0.10 to 0.34 do: `resume` is "never" or "allow"."""
    runs: dict[str, list[int]] = {}

    def init(project: str, name: str, config: dict[str, object], resume: str = "never") -> types.SimpleNamespace:
        if resume == "never" and name in runs:
            name = f"{name}-{len(runs)}"
        steps = runs.setdefault(name, [])
        return types.SimpleNamespace(name=name, log=lambda _, step: steps.append(step), finish=lambda: None)

    module = types.ModuleType("trackio")
    module.init = init  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "trackio", module)
    for folder in ("a/run", "b/run"):
        (tmp_path / folder).mkdir(parents=True)
        log(tmp_path / folder, "trackio", 1, 2)
    log(tmp_path / "b" / "run", "trackio", 3, after=2)
    log(tmp_path / "a" / "run", "trackio", 3, after=2)
    assert runs == {"run": [1, 2, 3], "run-1": [1, 2, 3]}


def test_tensorboard_shows_no_step_twice_that_was_trained_twice(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log(tmp_path, "tensorboard", 1, 2, 3)
    log(tmp_path, "tensorboard", 3, 4, after=2)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]


class Stubborn:
    """A stand-in for the package trackio that hangs or exits in one of its calls."""

    name = "a"

    def __init__(self, place: str, *, exits: bool):
        self.place, self.exits, self.logged = place, exits, list[int]()

    def _reach(self, place: str) -> None:
        if place == self.place and self.exits:
            sys.exit(3)
        if place == self.place:
            threading.Event().wait()

    def init(self, **settings: object) -> "Stubborn":
        self._reach("init")
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self._reach("log")
        self.logged.append(step)

    def finish(self) -> None:
        self._reach("finish")


@pytest.mark.parametrize("exits", [False, True])
@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_a_tracker_that_hangs_or_exits_costs_itself_alone(
    place: str, exits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    stubborn = Stubborn(place, exits=exits)
    monkeypatch.setitem(sys.modules, "trackio", stubborn)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("seqdec.training.metrics.TRACKER_SECONDS", 0.05)
    log(tmp_path, "trackio", 1, 2)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert stubborn.logged == ([1, 2] if place == "finish" else [])
    reason = "3" if exits else "no answer within 0.05 s"
    assert caplog.messages == [f"trackio unavailable ({reason}), continuing with {tmp_path / 'metrics.jsonl'}"]


def test_the_policy_is_there_before_a_tracker_finishes_and_the_process_ends_though_it_hangs_at_its_end(tmp_path: Path):
    (tmp_path / "trackio.py").write_text(
        "import atexit, threading\nwait = threading.Event().wait\nname = 'a'\n"
        "threading.Thread(target=wait).start()\natexit.register(wait)\n"
        "def init(**settings):\n    import trackio; return trackio\n"
        "def log(values, step): pass\n"
        "def finish():\n"
        f"    open({str(tmp_path / 'seen')!r}, 'w').write(str(os.path.exists({str(tmp_path / 'a' / 'policy')!r})))\n"
        "    wait()\n"
        "import os\n"
    )
    data = tmp_path / "data"
    save(from_episodes(box_episodes(4), box_spec()), data)
    words = f"train --data {data} --output {tmp_path / 'a'} --backbone small --steps 1 --batch-size 2"
    script = (
        "import sys; from seqdec.training import metrics; from seqdec.__main__ import run\n"
        f"metrics.TRACKER_SECONDS = 1.0; run({[*words.split(), '--tracker', 'trackio']!r})"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "trackio unavailable (no answer within 1 s)" in done.stderr and "policy: " in done.stdout
    assert (tmp_path / "seen").read_text() == "True"
