"""Converting a source: whole or not at all, once, by one process at a time, and with a part of it in memory."""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from conftest import box_episodes, box_spec, nested_episodes, nested_spec
from faults import DIED, Faults, exit_code, fork, leftovers
from saved_sets import assert_same, file_times, flat_file
from seqdec import storage
from seqdec.cli.main import main
from seqdec.data import arrow
from seqdec.data.dataset import episode_at
from seqdec.data.description import describe
from seqdec.data.episode import Episode, Row
from seqdec.data.schema import column, environment_of, lengths
from seqdec.data.source import Source, convert, read
from seqdec.errors import DataError, StorageError, UsageError
from seqdec.formats import array_files, hdf5
from seqdec.formats.load import load_dataset
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows
from seqdec.spaces.spec import EnvironmentSpec

SPEC = box_spec()


def source_of(episodes: list[Episode], spec: EnvironmentSpec = SPEC, name: str = "a") -> Source:
    return Source(spec, read=lambda: (episode.to_row() for episode in episodes), identity={"name": name})


def unreadable(name: str = "a") -> Source:
    """A source that nobody may read."""

    def rows() -> Iterator[Row]:
        raise AssertionError("it was read")

    return Source(SPEC, read=rows, identity={"name": name})


def spoilt(name: str, value: float, index: int = 4, identity: str = "a") -> list[Episode]:
    """Episodes of which one has a wrong value that an `Episode` itself would refuse, as a row has it."""
    episodes = [replace(episode) for episode in box_episodes(9)]
    array = episodes[index].steps[name].copy()
    array.flat[0] = value
    object.__setattr__(episodes[index], "steps", {**episodes[index].steps, name: array})
    return episodes


@pytest.mark.parametrize("chunk_bytes", [1, 5000, 2**27])
@pytest.mark.parametrize("missing", [(), ("observation.joints", "observation.image", "observation.direction")])
def test_a_converted_folder_holds_what_is_read_into_memory(chunk_bytes, missing, tmp_path: Path, monkeypatch):
    episodes = [
        replace(episode, metadata={"seed": seed, "by": f"player {seed}"})
        for seed, episode in enumerate(nested_episodes(7, missing=bool(missing)))
    ]
    source = source_of(episodes, nested_spec(missing))
    monkeypatch.setattr("seqdec.data.arrow.CHUNK_BYTES", chunk_bytes)
    counts: list[int] = []
    assert convert(source, tmp_path / "a", progress=counts.append)
    assert sum(counts) == len(episodes)
    loaded, direct = load_dataset(tmp_path / "a"), read(source)
    assert loaded.cache_files and not direct.cache_files, "the one is mapped, the other is in memory"
    assert environment_of(loaded) == environment_of(direct)
    assert str(describe(loaded)) == str(describe(direct))
    assert_same(loaded, direct)
    for index, episode in enumerate(episodes):
        assert episode_at(loaded, index).equals(episode)
    assert_same(read(source, folder=tmp_path / "b"), direct)


@pytest.mark.parametrize(
    ("episodes", "options", "left"),
    [
        (spoilt("observation", np.nan), {"on_nonfinite": "drop-episode"}, [0, 1, 2, 3, 5, 6, 7, 8]),
        (spoilt("action", 7.0), {"clip_actions": True}, list(range(9))),
    ],
)
def test_the_options_of_converting_are_those_of_reading(episodes, options, left, tmp_path: Path):
    assert convert(source_of(episodes), tmp_path / "a", **options)
    loaded = load_dataset(tmp_path / "a")
    assert_same(loaded, read(source_of(episodes), **options))
    assert lengths(loaded).tolist() == [len(episodes[index]) for index in left]
    assert max(abs(column(loaded, "action")[0].reshape(-1))) <= 1


def test_the_second_time_nothing_is_read_or_written(tmp_path: Path):
    assert convert(source_of(box_episodes()), tmp_path / "a")
    before = file_times(tmp_path / "a")
    assert not convert(unreadable(), tmp_path / "a")
    assert not convert(unreadable(), tmp_path / "a", replace=True)
    assert file_times(tmp_path / "a") == before


def test_another_source_or_option_is_refused_and_replaced_on_demand(tmp_path: Path):
    path, folder = flat_file(tmp_path / "a.hdf5"), tmp_path / "a"
    assert convert(hdf5.source(path), folder)
    before = file_times(folder)
    others: list[tuple[Source, dict]] = [
        (hdf5.source(path), {"clip_actions": True}),
        (hdf5.source(path), {"on_nonfinite": "drop-episode"}),
        (hdf5.source(path, max_episode_steps=7), {}),
        (hdf5.source(flat_file(tmp_path / "b.hdf5")), {}),
    ]
    os.utime(path, ns=(0, 0))
    others.append((hdf5.source(path), {}))
    for source, options in others:
        with pytest.raises(UsageError, match="a exists already and holds something else .* or give replace=True"):
            convert(source, folder, **options)
        assert file_times(folder) == before and leftovers(tmp_path) == []
    for source, options in others[1:]:
        assert convert(source, folder, replace=True, **options)
        assert not convert(source, folder, **options)
        assert_same(load_dataset(folder), read(source, **options))
        assert leftovers(tmp_path) == []


def test_a_damaged_folder_is_made_again_on_demand(tmp_path: Path):
    source, folder = source_of(box_episodes()), tmp_path / "a"
    convert(source, folder)
    for name in ("data-00000.arrow", "source.json", "manifest.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=f"{name}.*again with replace=True"):
            convert(source, folder)
        assert convert(source, folder, replace=True)
        assert_same(load_dataset(folder), read(source))


def test_what_is_no_data_set_never_gives_way(tmp_path: Path):
    """A policy, say, which is as well published as a data set is."""
    with storage.publish(tmp_path / "policy") as folder:
        storage.write_json(folder / "policy.json", {})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name in ("policy", "notes", "file"):
        for is_replacing in (False, True):
            with pytest.raises(UsageError, match="exists already and is no data set: choose another folder"):
                convert(unreadable(), tmp_path / name, replace=is_replacing)
    storage.verify(tmp_path / "policy")
    assert (tmp_path / "notes" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "dear"


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (spoilt("observation", np.nan), r"episode 4, step 0: observation\[0\] is nan \(1 of 9 episodes are affected\)"),
        (spoilt("reward", np.inf), r"episode 4, step 0: reward is inf \(1 of 9"),
        (spoilt("action", 7.0), r"episode 4, step 0: action\[0\] is 7, outside Box\(2\) in \[-1, 1\] \(1 of 9"),
        ([*box_episodes(4), *nested_episodes(1)], "episode 4: observation is not there"),
        ([], "there are no episodes"),
    ],
)
@pytest.mark.parametrize("is_there", [False, True])
def test_an_error_half_way_leaves_what_was_there(episodes, message, is_there, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("seqdec.data.arrow.CHUNK_BYTES", 500)  # the first rows are on the disk when the wrong one comes
    if is_there:
        convert(source_of(box_episodes(3), name="before"), tmp_path / "a")
        before = file_times(tmp_path / "a")
    with pytest.raises(DataError, match=message):
        convert(source_of(episodes), tmp_path / "a", replace=is_there)
    assert os.listdir(tmp_path) == [] or is_there
    if is_there:
        assert file_times(tmp_path / "a") == before and leftovers(tmp_path) == []
    assert convert(source_of(box_episodes()), tmp_path / "a", replace=is_there), "and nothing is in the way"


@pytest.mark.parametrize(("is_there", "stride"), [(False, 3), (True, 1)])
def test_death_at_any_file_operation_leaves_the_old_the_new_or_nothing(is_there: bool, stride: int, tmp_path: Path):
    """Never half a data set, and where one was before, never nothing."""
    old, new = source_of(box_episodes(2), name="old"), source_of(box_episodes(3))
    folder = tmp_path / "a"

    def die(operation: int) -> int:
        Faults("dies").arm(operation)
        return 0 if convert(new, folder, replace=True) else 1

    found, code = [], DIED
    while code == DIED:
        shutil.rmtree(folder, ignore_errors=True)
        if is_there:
            convert(old, folder)
        code = exit_code(fork(lambda: die(stride * len(found) + 1)))
        storage.recover(tmp_path)
        assert leftovers(tmp_path) == []
        found.append(len(load_dataset(folder)) if folder.exists() else 0)
    first = 2 if is_there else 0
    assert code == 0 and len(found) > 10 and found[0] == first and found[-1] == 3
    assert found == sorted(found) and set(found) == {first, 3}


class Slow:
    """Lets a child be stopped in the middle of a file: HDF5 says when it has come there, and waits."""

    def __init__(self) -> None:
        self._ready, self._tell = os.pipe()
        self._wait, self.go = os.pipe()

    def wait(self) -> None:
        """Wait until the child has come to the middle, or has ended without."""
        os.close(self._tell)
        assert os.read(self._ready, 1) == b"!", "the child has ended before"

    def install(self) -> None:
        """Make this process stop in the middle."""
        read_rows, count = h5py.Dataset.__getitem__, 0

        def read(data: h5py.Dataset, where: object) -> object:
            nonlocal count
            found = read_rows(data, where)
            count += str(data.name).endswith("observations")
            if count == 20 and str(data.name).endswith("observations"):
                os.write(self._tell, b"!")
                os.read(self._wait, 1)
            return found

        h5py.Dataset.__getitem__ = read  # pyright: ignore[reportAttributeAccessIssue]
        array_files.BLOCK_ROWS, arrow.CHUNK_BYTES = 100, 2000


def converting(words: list[str], slow: Slow | None, said: Path) -> Callable[[], int]:
    """What a child does: the command line, its words going to a file."""

    def run() -> int:
        if slow is not None:
            slow.install()
        with said.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            return main(words)

    return run


def test_a_killed_conversion_leaves_nothing_under_its_name_and_the_same_command_succeeds(tmp_path: Path, capsys):
    path, slow = flat_file(tmp_path / "flat.hdf5"), Slow()
    words = ["data", "hdf5", str(path), "--output", str(tmp_path / "data" / "a")]
    pid = fork(converting(words, slow, tmp_path / "said"))
    slow.wait()
    (leftover,) = leftovers(tmp_path / "data")
    assert (tmp_path / "data" / leftover / "data-00000.arrow").stat().st_size > 1000, "it has begun to write"
    assert storage.recover(tmp_path / "data") == [], "a living writer is left alone"
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL
    assert not (tmp_path / "data" / "a").exists()
    shutil.copytree(tmp_path / "data", tmp_path / "again")
    (sentence,) = storage.recover(tmp_path / "again")
    assert sentence == f"{tmp_path}/again/a had an incomplete or old copy, now removed"
    assert leftovers(tmp_path / "again") == []
    assert main(words) == 0
    assert "data/a had an incomplete or old copy, now removed" in capsys.readouterr().err
    assert leftovers(tmp_path / "data") == []
    assert_same(load_dataset(tmp_path / "data" / "a"), read(hdf5.source(path)))


@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [(signal.SIGINT, 130, "seqdec: stopped by Ctrl-C"), (signal.SIGTERM, 143, "seqdec: stopped by SIGTERM")],
)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_stopped_conversion_leaves_what_was_there(number, code, sentence, is_there, tmp_path: Path):
    path, slow, folder = flat_file(tmp_path / "flat.hdf5"), Slow(), tmp_path / "data" / "a"
    if is_there:
        convert(source_of(box_episodes(2)), folder)
    words = ["data", "hdf5", str(path), "--output", str(folder), "--replace"]
    pid = fork(converting(words, slow, tmp_path / "said"))
    slow.wait()
    os.kill(pid, number)
    assert exit_code(pid) == code
    assert (tmp_path / "said").read_text().splitlines()[-1] == sentence
    assert leftovers(tmp_path / "data") == []
    assert (len(load_dataset(folder)) == 2) if is_there else not folder.exists()


def test_two_processes_that_convert_at_once_leave_one_data_set(tmp_path: Path):
    """The first one is in the middle when the second one comes, which waits and then has nothing to do."""
    path, slow = flat_file(tmp_path / "flat.hdf5"), Slow()
    words = ["data", "hdf5", str(path), "--output", str(tmp_path / "data" / "a")]
    first = fork(converting(words, slow, tmp_path / "first"))
    slow.wait()
    waiting, tell = os.pipe()

    def second() -> int:
        def announce(event: str, arguments: tuple) -> None:
            if event == "fcntl.flock" and not (tmp_path / "data" / "a").exists():
                os.write(tell, b"!")  # it is about to ask for a lock that the first one has

        sys.addaudithook(announce)
        return converting(words, None, tmp_path / "second")()

    pid = fork(second)
    os.read(waiting, 1)
    assert not (tmp_path / "data" / "a").exists()
    os.write(slow.go, b"!")
    assert (exit_code(first), exit_code(pid)) == (0, 0)
    texts = [(tmp_path / name).read_text() for name in ("first", "second")]
    assert "nothing to do" not in texts[0] and "data/a holds this already: nothing to do" in texts[1]
    assert texts[0].splitlines()[-12:] == texts[1].splitlines()[-12:], "both show the same data set"
    assert sorted(os.listdir(tmp_path / "data")) == ["a"]
    assert_same(load_dataset(tmp_path / "data" / "a"), read(hdf5.source(path)))


def test_a_process_that_waits_for_another_can_be_stopped(tmp_path: Path):
    path, folder = flat_file(tmp_path / "flat.hdf5"), tmp_path / "data" / "a"
    waiting, tell = os.pipe()

    def convert() -> int:
        sys.addaudithook(lambda event, _: os.write(tell, b"!") if event == "fcntl.flock" else None)
        return converting(["data", "hdf5", str(path), "--output", str(folder)], None, tmp_path / "said")()

    with storage.await_lock(folder):
        pid = fork(convert)
        os.read(waiting, 1)
        while psutil.Process(pid).status() != psutil.STATUS_SLEEPING:  # it is about to ask for the lock
            time.sleep(0.001)
        os.kill(pid, signal.SIGTERM)
        assert exit_code(pid) == 143
    assert (tmp_path / "said").read_text().splitlines()[-1] == "seqdec: stopped by SIGTERM"
    assert os.listdir(tmp_path / "data") == []


def too_large(sentence: str, folder: Path) -> bool:
    """Whether a sentence names the folder, and needs more than is free."""
    told = re.search(r"it needs more than ([\d,]+) bytes and ([\d,]+) are free", sentence)
    return told is not None and int(told[1].replace(",", "")) > 0 and sentence.startswith(f"seqdec: {folder}: ")


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, capsys):
    path, disk = flat_file(tmp_path / "flat.hdf5", 30000), tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        assert main(["data", "hdf5", str(path), "--output", str(disk / "a")]) == 74
        sentence = capsys.readouterr().err.splitlines()[-1]
        assert too_large(sentence, disk / "a") and "No space left on device" in sentence
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_outgrows_its_limit_is_one_sentence_and_leaves_nothing(tmp_path: Path):
    path = flat_file(tmp_path / "flat.hdf5", 30000)

    def convert() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return converting(["data", "hdf5", str(path), "--output", str(tmp_path / "data" / "a")], None, said)()

    said = tmp_path / "said"
    assert exit_code(fork(convert)) == 74
    sentence = said.read_text().splitlines()[-1]
    assert too_large(sentence, tmp_path / "data" / "a") and "File too large" in sentence
    assert os.listdir(tmp_path / "data") == []


def private_bytes() -> int:
    """Memory that is this process's own: what is mapped from files can be dropped at any time."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc is Linux's")


@linux
def test_memory_holds_a_few_chunks_of_what_is_converted(tmp_path: Path):
    path, chunk = flat_file(tmp_path / "flat.hdf5", 600_000, dim=17, every=1000), 2**21

    def child() -> int:
        array_files.BLOCK_BYTES, arrow.CHUNK_BYTES = 2**18, chunk
        source = hdf5.source(path)
        convert(source_of(box_episodes()), tmp_path / "warm")
        before = most = private_bytes()
        done = threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(0.001):
                most = max(most, private_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        convert(source, tmp_path / "a")
        done.set()
        watcher.join()
        (tmp_path / "grown").write_text(str(most - before))
        return 0

    assert exit_code(fork(child)) == 0
    assert (tmp_path / "a" / "data-00000.arrow").stat().st_size > 20 * chunk
    grown = int((tmp_path / "grown").read_text())
    assert grown < 6 * chunk, f"{grown / chunk:.1f} chunks"


@linux
def test_windows_of_a_mapped_data_set_can_be_drawn_for_ever(tmp_path: Path):
    convert(hdf5.source(flat_file(tmp_path / "flat.hdf5", 20_000, dim=8)), tmp_path / "a")

    def gather() -> int:
        dataset = load_dataset(tmp_path / "a")
        spec = environment_of(dataset)
        layout = layout_from_spaces("trajectory", spec.observation_space, spec.action_space, context_length=4)
        windows = Windows(dataset, layout)
        held = []
        for _ in range(20):
            for first in range(0, len(windows), 2000):
                windows.gather(np.arange(first, min(first + 2000, len(windows))))
            held.append(private_bytes())
        slope = np.polyfit(np.arange(17), held[3:], 1)[0]
        (tmp_path / "slope").write_text(str(slope))
        return 0

    assert exit_code(fork(gather)) == 0
    assert float((tmp_path / "slope").read_text()) < 2**18, "bytes a pass"


def test_a_disk_that_cannot_be_written_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/a: "):
        convert(unreadable(), tmp_path / "file" / "a")
