"""Runs that a launcher starts again, and processes that do not see the same: the command line, by two processes."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from command_lines import ROOT, instead
from seqdec.cli.main import main
from seqdec.data.dataset import save
from seqdec.play import scripted_cartpole
from seqdec.training.checkpoints import checkpoints

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the loopback interface is Linux's")
FLAGS = (
    "--backbone small --num-layers 1 --steps 40 --batch-size 8 --context-length 4 --log-every 4 --eval-every 0 "
    "--checkpoint-every 5 --episodes 1 --num-envs 1 --max-steps 10"
)
ENVIRONMENT = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TORCHRUN = "-m torch.distributed.run --nproc_per_node 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic") / "cartpole"
    save(scripted_cartpole(num_episodes=12, seed=1), folder)
    return folder


def started(words: str) -> subprocess.Popen[str]:
    command = [sys.executable, *shlex.split(words)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT
    )


def process_of_rank(launcher: subprocess.Popen[str], rank: int, *, once: Path) -> psutil.Process:
    """Return one of the processes of a launcher, once there is a file."""
    while not once.exists():
        assert launcher.poll() is None, launcher.communicate()[1]
        time.sleep(0.01)
    children = psutil.Process(launcher.pid).children()
    return next(child for child in children if child.environ().get("RANK") == str(rank))


def lines(folder: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("speed/")} for row in rows]


def test_a_run_whose_process_is_killed_begins_again_and_is_the_unbroken_one(data: Path, tmp_path: Path):
    """By torchrun, as on a cluster: `--resume auto` begins it, and goes on with it after the restart."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    launcher = started(f"{TORCHRUN} train.py --data {data} --output {unbroken} {FLAGS} --resume auto")
    assert launcher.wait(timeout=120) == 0, launcher.communicate()[1]
    launcher = started(f"{TORCHRUN} --max-restarts 2 train.py --data {data} --output {broken} {FLAGS} --resume auto")
    manifest = broken / "checkpoints" / "step-{:06d}" / "manifest.json"
    process_of_rank(launcher, 1, once=Path(str(manifest).format(5))).kill()
    process_of_rank(launcher, 0, once=Path(str(manifest).format(25))).kill()
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, said
    assert said.count("resuming from step ") == 2, said
    assert lines(broken) == lines(unbroken)
    for name in ("codecs.safetensors", "backbone/model.safetensors"):
        assert (broken / "policy" / name).read_bytes() == (unbroken / "policy" / name).read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, 137)])
def test_how_one_of_several_processes_ends_reaches_the_shell(data: Path, tmp_path: Path, number: int, code: int):
    folder = tmp_path / "run"
    flags = instead(FLAGS, "--steps 100000")
    launcher = started(f"train.py --data {data} --output {folder} {flags} --nproc 2")
    process_of_rank(launcher, 1, once=folder / "checkpoints" / "step-000005" / "manifest.json").send_signal(number)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == code, said
    assert "Traceback" not in said
    if number == signal.SIGKILL:
        assert "seqdec: process 1 (counted from 0) was ended by SIGKILL" in said
    else:
        assert said.splitlines()[-1].startswith(f"seqdec: stopped by {'Ctrl-C' if code == 130 else 'SIGTERM'} at step ")
        assert (checkpoints(folder)[-1] / "manifest.json").exists()


def test_a_mistake_of_several_processes_is_said_and_its_code_reaches_the_shell(data: Path, tmp_path: Path):
    flags = instead(FLAGS, "--batch-size 7")
    launcher = started(f"train.py --data {data} --output {tmp_path / 'run'} {flags} --nproc 2")
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 2 and "Traceback" not in said
    words = "batch size 7 cannot be split over 2 processes x 1 parts: use a multiple of 2"
    assert set(said.splitlines()) <= {f"seqdec: {words}", f"seqdec: rank 1: {words}"}


def test_processes_that_see_other_checkpoints_say_so(data: Path, tmp_path: Path):
    """A second node without the folder, and one with a damaged copy: one sentence, and nobody waits."""
    one = f"--data {data} {instead(FLAGS, '--steps 10')}"
    for rank in range(2):
        assert main(["train", "--output", str(tmp_path / f"damaged-{rank}"), *one.split()]) == 0
    assert main(["train", "--output", str(tmp_path / "absent-0"), *one.split()]) == 0
    damaged = checkpoints(tmp_path / "damaged-1")[-1] / "train" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    for name, theirs in (("absent", "no checkpoint"), ("damaged", "step-000005")):
        script = (
            "import os, sys; from seqdec.__main__ import run; "
            "run(['train', '--output', f\"{sys.argv[1]}-{os.environ['RANK']}\", *sys.argv[2:]])"
        )
        (tmp_path / "apart.py").write_text(script)
        words = f"{one} --resume auto".replace("--steps 10", "--steps 20")
        launcher = started(f"{TORCHRUN} {tmp_path / 'apart.py'} {tmp_path / name} {words}")
        _, said = launcher.communicate(timeout=60)
        assert launcher.returncode != 0
        assert f"process 0 has step-000010, process 1 has {theirs}: all processes must see one folder" in said, said


def test_auto_begins_a_run_and_goes_on_with_it(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = f"train --data {data} --output {tmp_path / 'run'} {instead(FLAGS, '--steps 5')}"
    assert main([*words.split(), "--resume"]) == 2
    assert "holds no run to go on with (no config.json): leave --resume out, say --resume auto, or" in (
        capsys.readouterr().err
    )
    assert main([*words.split(), "--resume", "auto"]) == 0
    assert "resuming" not in capsys.readouterr().err
    assert main([*words.replace("--steps 5", "--steps 10").split(), "--resume=auto"]) == 0
    assert "resuming from step 5" in capsys.readouterr().err
    assert main(["train", "--resume", "--output", str(tmp_path / "run"), "--steps", "12"]) == 0
    assert "resuming from step 10" in capsys.readouterr().err
    assert main([*words.split(), "--resume", "never"]) == 2
