"""A folder is published whole or not at all: processes are killed, calls fail, disks fill up, files are damaged."""

import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faults import DIED, Faults, Malice, exit_code, fork, leftovers
from seqdec import storage
from seqdec.errors import DataError, StorageError, UsageError


def write_step(folder: Path, step: int, *, replace: bool = False, size: int = 512) -> None:
    """Publish a small checkpoint whose every file tells its step."""
    with storage.publish(folder, replace=replace) as open_folder:
        (open_folder / "train").mkdir()
        storage.write_tensors(open_folder / "model.safetensors", {f"w{i}": torch.full((size,), step) for i in range(3)})
        storage.write_json(open_folder / "train" / "state.json", {"step": step, "text": "x" * size})


def step_of(folder: Path) -> int:
    """The one step that all files of a checkpoint belong to."""
    storage.verify(folder, hashes=True)
    steps = {storage.read_json(folder / "train" / "state.json")["step"]}
    for tensor in storage.read_tensors(folder / "model.safetensors").values():
        steps |= set(tensor.tolist())
    assert len(steps) == 1, f"{folder} mixes the steps {steps}"
    return steps.pop()


def test_kill_at_any_instant_leaves_the_newest_published_step_whole(tmp_path: Path) -> None:
    chance = random.Random(0)
    checkpoints, policy = tmp_path / "checkpoints", tmp_path / "policy"
    write_step(checkpoints / "step-000001", 1)
    write_step(policy, 1)
    newest, newest_policy, interrupted = 1, 1, 0
    ready, tell = os.pipe()

    def save_forever() -> int:
        os.write(tell, b"!")
        for step in range(newest + 1, 10**6):
            write_step(checkpoints / f"step-{step:06d}", step)
            write_step(policy, step, replace=True)
            for old in storage.published(checkpoints, "step-")[:-1]:
                storage.retire(old)
        return 0

    for _ in range(60):
        pid = fork(save_forever)
        os.read(ready, 1)
        time.sleep(chance.uniform(0.002, 0.06))
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL
        interrupted += bool(leftovers(checkpoints) or leftovers(tmp_path))
        storage.recover(checkpoints)
        storage.recover(tmp_path)
        assert leftovers(checkpoints) == leftovers(tmp_path) == []
        before, before_policy = newest, newest_policy
        last = storage.published(checkpoints, "step-")[-1]
        newest, newest_policy = step_of(last), step_of(policy)
        assert last.name == f"step-{newest:06d}" and newest >= before
        assert before_policy <= newest_policy <= newest
    assert newest > 5 and interrupted > 5, "the writers got on, and the kills hit them at work"


def replace_policy(parent: Path) -> None:
    write_step(parent / "policy", 2, replace=True, size=8)


def save_next(parent: Path) -> None:
    write_step(parent / "step-000002", 2, size=8)
    storage.retire(parent / "step-000001")


def start_with_step_1(parent: Path, name: str) -> None:
    shutil.rmtree(parent)
    write_step(parent / name, 1, size=8)


SAVES = [(replace_policy, "policy"), (save_next, "step-000001")]


@pytest.mark.parametrize("how", ["fails once", "goes on failing"])
@pytest.mark.parametrize(("save", "name"), SAVES)
def test_a_failure_at_every_file_operation_leaves_a_loadable_step(
    tmp_path: Path, save: Callable[[Path], None], name: str, how: str
) -> None:
    def fail_everywhere() -> int:
        faults = Faults(how)
        steps, refusals = [], 0
        while faults.target <= faults.count:
            faults.arm(0)
            start_with_step_1(tmp_path, name)
            faults.arm(len(steps) + 1)
            is_refused = False
            try:
                save(tmp_path)
            except StorageError:
                is_refused = True
            target, count = faults.target, faults.count
            faults.arm(0)
            if how == "fails once":
                assert storage.published(tmp_path), "a failure that passes needs no recovery"
            storage.recover(tmp_path)
            assert leftovers(tmp_path) == []
            steps.append(step_of(storage.published(tmp_path)[-1]))
            assert is_refused or steps[-1] == 2, "what was saved without a complaint is there"
            refusals += is_refused
            faults.target, faults.count = target, count
        assert len(steps) > 30 and refusals > 20 and {1, 2} == set(steps)
        return 0

    assert exit_code(fork(fail_everywhere)) == 0


@pytest.mark.parametrize(("save", "name"), SAVES)
def test_death_at_every_file_operation_leaves_a_loadable_step(
    tmp_path: Path, save: Callable[[Path], None], name: str
) -> None:
    def die(operation: int) -> int:
        Faults("dies").arm(operation)
        save(tmp_path)
        return 0

    steps, code = [], DIED
    while code == DIED:
        start_with_step_1(tmp_path, name)
        code = exit_code(fork(lambda: die(len(steps) + 1)))
        storage.recover(tmp_path)
        assert leftovers(tmp_path) == []
        steps.append(step_of(storage.published(tmp_path)[-1]))
    assert code == 0 and len(steps) > 30 and steps[0] == 1 and steps[-1] == 2
    assert steps == sorted(steps), "once the new step stands, dying later does not take it away"


def test_a_full_disk_is_one_sentence_and_the_old_step_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        write_step(disk / "step-000001", 1, size=3000)
        messages = []
        for room in range(0, 200, 4):
            ballast = disk / "ballast"
            ballast.unlink(missing_ok=True)
            free = shutil.disk_usage(disk).free
            ballast.write_bytes(b"\0" * max(0, free - room * 1024))
            try:
                write_step(disk / "step-000002", 2, size=3000)
                break
            except StorageError as error:
                messages.append(str(error))
            assert leftovers(disk) == [] and step_of(disk / "step-000001") == 1
        assert step_of(disk / "step-000002") == 2
        assert all("No space left on device, it needs" in message and " are free" in message for message in messages)
        assert all(".tmp-" not in message for message in messages)
        for name in ("model.safetensors", "state.json", "manifest.json"):
            assert any(name in message for message in messages), f"no room for {name} was not among the cases"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("writer", ["safetensors", "json", "foreign"])
def test_a_file_that_outgrows_its_limit_is_a_storage_error(tmp_path: Path, writer: str) -> None:
    write_step(tmp_path / "policy", 1)

    def save() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            with storage.publish(tmp_path / "policy", replace=True) as folder:
                if writer == "safetensors":
                    storage.write_tensors(folder / "model.safetensors", {"a": torch.zeros(9000)})
                elif writer == "json":
                    storage.write_json(folder / "a.json", {"a": "x" * 9000})
                else:
                    safetensors.torch.save_file({"a": torch.zeros(9000)}, folder / "model.safetensors")
        except StorageError as error:
            return 0 if f"{tmp_path}/policy" in str(error) and "File too large, it needs" in str(error) else 1
        return 2

    assert exit_code(fork(save)) == 0
    assert step_of(tmp_path / "policy") == 1 and leftovers(tmp_path) == []


def test_an_exception_in_the_block_passes_and_leaves_nothing(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt(), ZeroDivisionError(), DataError("bad row")):
        with pytest.raises(type(error)), storage.publish(tmp_path / "a") as folder:
            storage.write_text(folder / "half.txt", "half")
            raise error
        assert os.listdir(tmp_path) == []


def test_what_seqdec_did_not_publish_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    (tmp_path / "link").symlink_to(tmp_path / "home")
    for name in ("home", "file", "link"):
        with pytest.raises(StorageError, match="move it away"), storage.publish(tmp_path / name, replace=True):
            pass
        with pytest.raises(StorageError, match="already exists"), storage.publish(tmp_path / name):
            pass
    assert (tmp_path / "home" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    write_step(tmp_path / "empty", 1, replace=True)
    assert step_of(tmp_path / "empty") == 1


def test_recover_leaves_a_living_writer_and_strange_names_alone(tmp_path: Path) -> None:
    (tmp_path / ".tmp-mine").mkdir()
    with storage.publish(tmp_path / "a") as folder:
        assert storage.recover(tmp_path) == []
        assert folder.is_dir()
    storage.verify(tmp_path / "a")
    assert (tmp_path / ".tmp-mine").is_dir()
    assert storage.recover(tmp_path / "nowhere") == []


def test_a_recovery_at_the_moment_when_a_folder_is_made_does_not_take_it(tmp_path: Path) -> None:
    """Between making a folder and locking it, another process cannot tell it from a leftover."""

    def publish_while_others_recover() -> int:
        intruding, num_cleared = False, 0

        def intrude(name: str, arguments: tuple) -> None:
            nonlocal intruding, num_cleared
            if name == "fcntl.flock" and not intruding and num_cleared == 0:
                intruding = True
                num_cleared += len(storage.recover(tmp_path))
                intruding = False

        sys.addaudithook(intrude)
        write_step(tmp_path / "policy", 1, size=8)
        return 0 if num_cleared == 1 else 1

    assert exit_code(fork(publish_while_others_recover)) == 0
    assert step_of(tmp_path / "policy") == 1 and leftovers(tmp_path) == []


def test_recover_puts_back_what_lost_its_replacement_and_never_deletes_the_only_copy(tmp_path: Path) -> None:
    write_step(tmp_path / "policy", 1)
    retired = tmp_path / f".del-policy-{'0' * 32}"
    os.rename(tmp_path / "policy", retired)
    assert storage.recover(tmp_path) == [f"{tmp_path / 'policy'} was put back: its replacement was cut off"]
    assert step_of(tmp_path / "policy") == 1
    os.rename(tmp_path / "policy", retired)
    (retired / "model.safetensors").write_bytes(b"")
    [sentence] = storage.recover(tmp_path)
    assert "was left as it is" in sentence and (retired / "train" / "state.json").exists()


def test_published_lists_whole_folders_in_order_of_their_steps(tmp_path: Path) -> None:
    for step in (1000000, 5, 999999):
        write_step(tmp_path / f"step-{step:06d}", step, size=1)
    (tmp_path / "step-000007").mkdir()
    (tmp_path / "step-note").write_text("")
    names = [folder.name for folder in storage.published(tmp_path, "step-")]
    assert names == ["step-000005", "step-999999", "step-1000000"]
    assert storage.published(tmp_path / "nowhere") == []


def test_a_published_folder_is_as_readable_as_its_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with storage.publish(tmp_path / "a") as folder:
            safetensors.torch.save_file({"a": torch.zeros(1)}, folder / "foreign.safetensors")  # writes 0600
        storage.write_tensors(tmp_path / "b.safetensors", {"a": torch.zeros(1)})
    finally:
        os.umask(old)
    assert (tmp_path / "a" / "foreign.safetensors").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "b.safetensors").stat().st_mode & 0o777 == 0o644


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
DAMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "cut to 0": (lambda path, _: os.truncate(path, 0), "found 0 bytes"),
    "cut to 7": (lambda path, _: os.truncate(path, 7), "found 7 bytes"),
    "cut in the header": (lambda path, _: os.truncate(path, 20), "found 20 bytes"),
    "cut in the middle": (lambda path, _: os.truncate(path, path.stat().st_size // 2), "does not match its manifest"),
    "cut by one": (lambda path, _: os.truncate(path, path.stat().st_size - 1), "does not match its manifest"),
    "first byte flipped": (lambda path, _: flip(path, 0), "expected sha256"),
    "last byte flipped": (lambda path, _: flip(path, -1), "expected sha256"),
    "from another step": (lambda path, other: shutil.copy(other, path), "expected sha256"),
    "deleted": (lambda path, _: path.unlink(), "missing"),
    "git-LFS pointer": (lambda path, _: path.write_bytes(POINTER), "git lfs pull"),
    "HTML page": (lambda path, _: path.write_bytes(b"<!DOCTYPE html><html>"), "HTML page"),
    "a folder": (lambda path, _: (path.unlink(), path.mkdir()), "missing"),
}


@pytest.mark.parametrize("name", ["model.safetensors", "train/state.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_detected_and_named(tmp_path: Path, damage: str, name: str) -> None:
    write_step(tmp_path / "step-000001", 1)
    write_step(tmp_path / "step-000002", 2)
    do, says = DAMAGES[damage]
    do(tmp_path / "step-000001" / name, tmp_path / "step-000002" / name)
    with pytest.raises(DataError, match=says) as caught:
        storage.verify(tmp_path / "step-000001")
    assert name in str(caught.value) and "step-000001" in str(caught.value)
    storage.verify(tmp_path / "step-000002", hashes=True)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("last byte flipped", "from another step")])
def test_damaged_files_are_refused_without_a_manifest_too(tmp_path: Path, damage: str) -> None:
    storage.write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(64)})
    storage.write_text(tmp_path / "a.json", json.dumps({"a": [1] * 64}))  # no newline that could be spared
    for name, read in (("a.safetensors", storage.read_tensors), ("a.json", storage.read_json)):
        DAMAGES[damage][0](tmp_path / name, tmp_path)
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


def test_the_manifest_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        storage.verify(tmp_path / "a")
    write_step(tmp_path / "a", 1)
    path = tmp_path / "a" / "manifest.json"
    good = json.loads(path.read_text())
    assert list(good) == ["format", "seqdec", "files"]
    cases: list[tuple[dict[str, object], str]] = [
        ({**good, "format": 2, "seqdec": "9.1"}, r"needs seqdec >= 9\.1"),
        ({**good, "format": "one"}, "not a manifest"),
        ({"format": 1}, "not a manifest"),
        ({**good, "files": {"model.safetensors": 3}}, "lacks the size or sha256"),
        ({**good, "files": {"model.safetensors": {"bytes": True, "sha256": ""}}}, "lacks the size or sha256"),
    ]
    for manifest, says in cases:
        path.write_text(json.dumps(manifest))
        with pytest.raises(DataError, match=says):
            storage.verify(tmp_path / "a")
    path.unlink()
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        storage.verify(tmp_path / "a")


ESCAPES = ["../secret.txt", "a/../../secret.txt", "/etc/passwd", "..", ".", "", "a\0b", "x" * 300, "\ud800", "a\x1b[2J"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    write_step(tmp_path / "a", 1)
    with pytest.raises(DataError, match="not a path inside"):
        storage.path_inside(tmp_path / "a", name)
    manifest = {"format": 1, "seqdec": "0", "files": {name: {"bytes": 6, "sha256": "0"}}}
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError) as caught:
        storage.verify(tmp_path / "a")
    assert str(caught.value).isprintable()


def test_links_are_followed_by_no_reader_and_published_by_no_writer(tmp_path: Path) -> None:
    write_step(tmp_path / "b", 1)
    for name in ("model.safetensors", "train", "manifest.json"):
        write_step(tmp_path / "a", 1)
        target = tmp_path / "a" / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        target.symlink_to(tmp_path / "b" / name)  # the very same content
        with pytest.raises(DataError, match="is a link"):
            storage.verify(tmp_path / "a")
        shutil.rmtree(tmp_path / "a")
    with pytest.raises(StorageError, match="not a plain file"), storage.publish(tmp_path / "c") as folder:
        (folder / "passwd").symlink_to("/etc/passwd")
    assert not (tmp_path / "c").exists()


def test_pickles_beside_the_files_are_ignored(tmp_path: Path) -> None:
    write_step(tmp_path / "a", 1)
    poison = pickle.dumps(Malice(tmp_path / "sentinel"))
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "model.pkl", "rng.npy", "scheduler.pth"):
        (tmp_path / "a" / name).write_bytes(poison)
        (tmp_path / "a" / "train" / name).write_bytes(poison)
    assert step_of(tmp_path / "a") == 1
    for name in ("model.safetensors", "train/state.json", "manifest.json"):
        (tmp_path / "a" / name).write_bytes(poison)
        with pytest.raises(DataError):
            step_of(tmp_path / "a")
    with pytest.raises(DataError):
        storage.read_tensors(tmp_path / "a" / "model.safetensors")
    assert not (tmp_path / "sentinel").exists()
    pickle.loads(poison)
    assert (tmp_path / "sentinel").exists(), "the pickle would have worked"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not"),
        ('{"a": 1e999}', "too large"),
        ('{"a": ' + "[" * 10**5, "nested too deep"),
        ('{"a": ', "not valid JSON"),
        ("[1]", "expected an object"),
        ('{"a": 1' + "0" * 5000 + "}", "not valid JSON"),
        (" " * (16 * 2**20 + 1), "at most"),
    ],
)
def test_json_that_could_mislead_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        storage.read_json(tmp_path / "a.json")
    assert "a.json" in str(caught.value) and "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=9,
)


@settings(max_examples=60, deadline=None)
@given(value=st.dictionaries(st.text(), json_values, max_size=4))
def test_json_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    storage.write_json(path, value)
    assert storage.read_json(path) == value


@settings(max_examples=100, deadline=None)
@given(files=st.dictionaries(st.text(max_size=9), json_values, max_size=3), noise=st.binary(max_size=60))
def test_readers_raise_nothing_but_data_errors(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, object], noise: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    manifest = json.dumps({"format": 1, "seqdec": "0", "files": {**files, "noise": 1}})
    (folder / "manifest.json").write_text(manifest)
    (folder / "noise").write_bytes(noise)
    header = json.dumps({"a": files, "__metadata__": files}).encode()
    (folder / "header").write_bytes(len(header).to_bytes(8, "little") + header + noise)
    with pytest.raises(DataError):
        storage.verify(folder)
    for name in ("noise", "header"):
        with pytest.raises(DataError):
            storage.read_json(folder / name)
        with pytest.raises(DataError):
            storage.read_tensors(folder / name)


def test_tensors_are_read_as_they_were_written_ties_and_views_included(tmp_path: Path) -> None:
    tied = torch.nn.Parameter(torch.randn(4, 3))
    tensors = {
        "tied": tied,
        "twin": tied,
        "transposed": tied.T,
        "slice": torch.arange(10)[3:6],
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "other empty": torch.zeros(0),
        "half": torch.randn(5).bfloat16(),
        "flags": torch.tensor([True, False]),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
    }
    storage.write_tensors(tmp_path / "a.safetensors", tensors, {"made by": "a test"})
    read = storage.read_tensors(tmp_path / "a.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
        assert torch.equal(read[name].float(), tensor.detach().float()), name


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_one_number_that_is_not_finite_is_refused_by_name(tmp_path: Path, number: float, dtype: torch.dtype) -> None:
    weights = torch.ones(1000)
    weights[537] = number
    storage.write_tensors(tmp_path / "a.safetensors", {"good": torch.ones(3), "head.weight": weights.to(dtype)})
    with pytest.raises(DataError, match=r"tensor 'head\.weight' of .*a\.safetensors holds nan or infinity"):
        storage.read_tensors(tmp_path / "a.safetensors")


def test_tensors_may_be_saved_over_the_file_they_were_read_from(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    storage.write_tensors(path, {"a": torch.arange(1000.0)})
    read = storage.read_tensors(path)
    storage.write_tensors(path, {"a": read["a"] + 1})
    assert torch.equal(read["a"], torch.arange(1000.0))
    assert torch.equal(storage.read_tensors(path)["a"], torch.arange(1000.0) + 1)


def test_a_log_is_cut_back_to_the_resumed_step_and_loses_its_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    storage.truncate_lines(path, lambda line: True)
    assert not path.exists()
    for step in range(5):
        storage.append_line(path, {"step": step, "train/loss": 0.5})
    with open(path, "a") as file:
        file.write('{"step": 5, "train/lo')
    storage.truncate_lines(path, lambda line: line["step"] <= 3)
    storage.append_line(path, {"step": 4})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4]


def test_a_second_claimant_is_turned_away_until_the_first_dies(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    ready, tell = os.pipe()

    def hold() -> int:
        with storage.lock_folder(folder):
            os.write(tell, b"!")
            signal.pause()
        return 0

    pid = fork(hold)
    os.read(ready, 1)
    with pytest.raises(UsageError, match="another run is writing to .*runs/a"), storage.lock_folder(folder):
        pass
    os.kill(pid, signal.SIGKILL)
    exit_code(pid)
    with storage.lock_folder(folder):
        pass
    with storage.lock_folder(folder):
        pass


@pytest.mark.parametrize("use", [storage.publish, storage.lock_folder])
def test_a_file_in_the_way_is_a_storage_error(tmp_path: Path, use: Callable) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(StorageError, match="runs/a: "), use(tmp_path / "runs" / "a"):
        pass


def test_a_strangers_text_becomes_one_inert_line() -> None:
    assert storage.plain_text("CartPole-v1, 20 °C") == "CartPole-v1, 20 °C"
    shown = storage.plain_text("\x1b[2J\n# <script>[x](y)`" + "z" * 10**6)
    assert shown.isprintable() and len(shown) < 300 and "\\<script\\>" in shown


def test_storage_is_imported_without_torch() -> None:
    code = "import sys, seqdec.storage; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
