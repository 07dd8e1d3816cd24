"""One net at each door: what foreign code raises, what is no file, and what is out of range becomes a sentence."""

import json
import math
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from command_lines import errors_of, in_new_process
from conftest import make_windows
from seqdec import Policy, load_policy, storage
from seqdec.cli import folders
from seqdec.cli.config import from_config
from seqdec.cli.console import Env
from seqdec.cli.train import Train
from seqdec.cli.verbs import VERBS
from seqdec.errors import DataError, NumericsError, StorageError, UsageError, foreign
from seqdec.formats.guard import opened_hdf5, opened_parquet
from seqdec.inference.evaluation import resolve_targets
from seqdec.inference.values import count_down
from seqdec.model.backbone import load_backbone
from seqdec.model.distributions import Categorical, CensoredGaussian, Numbers, Point
from seqdec.model.folder import save_policy
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.storage.folders import write_manifest
from seqdec.training.language import Language
from seqdec.training.metrics import Metrics


def raised(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (AttributeError("x\ny"), DataError, "no policy (AttributeError: x y)"),
        (SystemExit(0), DataError, "no policy (SystemExit: 0)"),
        (MemoryError(), DataError, "no policy (MemoryError)"),
        (PermissionError(13, "Permission denied"), StorageError, "no policy (PermissionError: "),
        (UsageError("mine"), UsageError, "mine"),
    ],
)
def test_whatever_foreign_code_raises_is_ours(error: BaseException, kind: type[Exception], words: str):
    with pytest.raises(kind) as caught, foreign("no policy"):
        raise error
    assert str(caught.value).startswith(words)


@pytest.fixture(scope="module")
def model() -> SequenceModel:
    windows, _ = make_windows()
    return build_model(windows, load_backbone("small", num_layers=1, dropout=0.0, seed=0), seed=0)


@pytest.fixture(scope="module")
def policy(model: SequenceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies") / "a"
    save_policy(model, folder)
    return folder


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("backbone/source.json", "embedding_scale", None),
        ("backbone/source.json", "num_heads", "1"),
        *[("backbone/config.json", key, value) for key, value in (
            ("n_head", "0"), ("n_layer", "null"), ("n_embd", '"x"'), ("activation_function", '"os.system"'),
            ("dtype", '"x"'), ("model_type", "[]"), ("quantization_config", '{"quant_method": "gptq"}'),
        )],
        ("policy.json", "data_returns", "{}"),
        ("policy.json", "data_returns", '{"max": 1' + "0" * 400 + "}"),
        ("layout.json", "context_length", "1e400"),
    ],
)  # fmt: skip
def test_a_policy_whose_files_say_nonsense_is_one_sentence(file: str, key: str, value: str | None, policy, tmp_path):
    """Its manifest fits: nobody damaged it on the way."""
    folder = shutil.copytree(policy, tmp_path / "a")
    texts = {name: json.dumps(part) for name, part in json.loads((folder / file).read_text()).items()}
    texts |= {} if value is None else {key: value}
    if value is None:
        del texts[key]
    (folder / file).write_text("{" + ", ".join(f'"{name}": {text}' for name, text in texts.items()) + "}")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises((DataError, UsageError)):
        load_policy(folder)


@pytest.fixture
def impatient() -> Iterator[None]:
    """What waits for a pipe fails."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("it waits for somebody to write"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def opened(reader: Callable) -> Callable[[Path], object]:
    def act(path: Path) -> object:
        with reader(path) as file:
            return file

    return act


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "json": ("f", storage.read_json),
    "tensors": ("f", storage.read_tensors),
    "log": ("f", storage.read_lines),
    "metrics": ("metrics.jsonl", lambda path: Metrics(path.parent, step=1, tracker="none", config={})),
    "manifest": ("manifest.json", lambda path: storage.verify(path.parent)),
    "run": (".lock", opened(lambda path: storage.lock_folder(path.parent))),
    "conversion": (".lock-f", opened(lambda path: storage.await_lock(path.with_name("f")))),
    "hdf5": ("f", opened(opened_hdf5)),
    "parquet": ("f", opened(opened_parquet)),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(reader: str, impatient: None, tmp_path: Path):
    name, read = READERS[reader]
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is not a plain file: pipes and devices are not read"):
        read(tmp_path / name)


def test_a_pipe_in_place_of_the_text_of_a_language_is_not_waited_for(impatient: None, tmp_path: Path):
    from word_episodes import language

    os.mkfifo(tmp_path / "f")
    backbone = load_backbone("small", num_layers=1, predicts_words=True)
    with pytest.raises(DataError, match="is not a plain file"):
        Language.read(tmp_path / "f", language(backbone, max_tokens=120)[0], 0.1)


@pytest.mark.parametrize("kind", ["hdf5", "table", "chat"])
def test_data_that_are_a_pipe_are_named_as_that(kind: str, impatient: None, tmp_path: Path, capsys):
    os.mkfifo(tmp_path / "f")
    line = errors_of(f"data convert {kind}:{tmp_path / 'f'} --output {tmp_path / 'o'}", 2, capsys)
    assert line.endswith("/f', but a pipe, a device or a broken link") or "/f' is here, but a pipe" in line


@pytest.mark.parametrize("word", ["1e39", "-1e300", "1e19"])
def test_a_target_beyond_float32_is_refused(word: str, model: SequenceModel):
    with pytest.raises(UsageError, match="is too large: give a number from -1e18 to 1e18"):
        resolve_targets([word], model.data.returns)
    with pytest.raises(UsageError, match="a finite number is needed, from -1e18 to 1e18"):
        Policy(model, float(word))


@pytest.mark.filterwarnings("error")
def test_a_return_that_nobody_earns_stays_a_number():
    returns = np.array([1.0, -5.0])
    for discount in (0.5, 1e-320):
        for _ in range(2000):
            returns = count_down(returns, np.zeros(2), discount)
        assert returns.tolist() == [1e18, -1e18] and np.isfinite(returns.astype(np.float32)).all()


def distributions(value: float) -> list[Categorical | CensoredGaussian | Point]:
    numbers = torch.tensor([[value, 1.0]])
    one = torch.ones(1, 2)
    return [
        Categorical(torch.tensor([[0.0, value, 1.0]]), Numbers(0), is_vector=False),
        CensoredGaussian(numbers, 0 * one, -9 * one, 9 * one, 0 * one, one),
        Point(numbers, -9 * one, 9 * one, one),
    ]


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_nan_reaches_a_sampler(value: float, index: int):
    uniform = torch.full((1,) if index == 0 else (1, 2), 0.5)
    for act in (lambda each: each.sample(uniform), lambda each: each.mode()):
        act(distributions(0.5)[index])
        with pytest.raises(NumericsError, match="what the model predicts is not finite"):
            act(distributions(value)[index])


def test_the_coldest_temperature_is_the_mode():
    cold = Categorical(torch.tensor([[0.3, 40.0, -9.0, -math.inf]]), Numbers(0), is_vector=False).tempered(1e-320)
    assert cold.sample(torch.tensor([0.999])).tolist() == [1]


def test_lines_of_metrics_that_are_not_ours_are_left_out(tmp_path: Path):
    lines = ['{"step": "x"}', '{"step": 1, "train/loss": "y"}', '{"a": 1}', "[", '{"step": 2, "train/loss": null}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3}', ""]))
    Metrics(tmp_path, step=2, tracker="none", config={})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[-1:]


def test_a_checkpoint_that_is_none_is_no_step(tmp_path: Path):
    for name in ("step-abc", "step-000004", "step-1000000"):
        (tmp_path / "a" / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "a" / "checkpoints" / name / "manifest.json").touch()
    with pytest.raises(UsageError, match=r"holds a run \(step 1000000\)"):
        folders.check_run_folder(tmp_path / "a", resume=False)


@pytest.mark.parametrize("key", ["fraction", "steps", "learning_rate"])
def test_a_number_of_400_digits_in_a_config_is_too_large(key: str):
    with pytest.raises(UsageError, match=f"'{key}' is too large: give a number from"):
        from_config(Train, {key: 10**400}, "config.json")


def test_what_the_system_says_of_a_file_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(VERBS, "env", (Env, lambda given: raised(PermissionError(13, "Permission denied", "a/b"))()))
    assert errors_of("env", 74, capsys) == "seqdec: a/b: Permission denied"


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(tmp_path: Path):
    for name in ("run", "held/policy"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    code = (
        "import os\n"
        "from seqdec.cli import folders, options, verbs\n"
        "from seqdec.cli.main import main\n"
        "from seqdec.cli.train import Train\n"
        "options.parse(Train, [])  # imports what another user may not read\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "print([main(words.split()) for words in ('eval run', 'eval held', 'train --resume --output run')])"
    )
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
            parent.chmod(0o755)
    for name in ("run", "held/policy"):
        (tmp_path / name).chmod(0)
    done = in_new_process(code)
    for name in ("run", "held/policy"):
        (tmp_path / name).chmod(0o755)
    assert done.stdout.strip() == "[74, 74, 74]", done.stderr
    names = ("run", "held/policy", "run")
    assert done.stderr.splitlines() == [f"seqdec: cannot read {name}: no permission" for name in names]
