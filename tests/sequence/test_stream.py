"""Streams: their windows are those of the data set, wherever training begins, and memory holds a buffer of them."""

import gc
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from conftest import box_episodes, box_spec, counting_episode, nested_episodes, nested_spec
from nested_cases import CASES
from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode, Row
from seqdec.data.source import Source
from seqdec.errors import DataError, StorageError, UsageError
from seqdec.model.backbone import load_backbone
from seqdec.model.folder import load_policy
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.sequence.layout import Layout
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.stream import StreamWindows
from seqdec.sequence.windows import Windows
from seqdec.spaces.spec import EnvironmentSpec
from seqdec.training.checkpoints import checkpoints
from seqdec.training.loop import train
from small_runs import SETTINGS, assert_same_weights, os_signal_at

Batch = dict[str, torch.Tensor]


def source_of(episodes: list[Episode], spec: EnvironmentSpec | None = None, *, is_counted: bool = False) -> Source:
    return Source(
        spec or box_spec(),
        read=lambda: (episode.to_row() for episode in episodes),
        identity={"kind": "memory"},
        num_episodes=len(episodes) if is_counted else None,
    )


def box_layout(context_length: int = 5, preset: str = "multi_game") -> Layout:
    spec = box_spec()
    return layout_from_spaces(preset, spec.observation_space, spec.action_space, context_length=context_length)


def counted(num_episodes: int, length: int = 10) -> list[Episode]:
    """Episodes whose observations are 100 times their number and the timestep."""
    return [counting_episode(length, 100 * number) for number in range(num_episodes)]


def held(windows: StreamWindows) -> list[int]:
    """The episodes of `counted` that the buffer holds, in order."""
    observations = windows._held.gather(np.arange(len(windows)))["observation"]
    return observations[:, 0, 0].div(100).floor().int().unique().tolist()


def assert_same_batch(one: Batch, other: Batch) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert torch.equal(values, other[name]), name


def nested(case: str) -> tuple[list[Episode], Layout, EnvironmentSpec]:
    options = {"preset": "multi_game", "missing": (), "steady": True, **CASES[case]}
    preset, steady, missing = options.pop("preset"), options.pop("steady"), options["missing"]
    spec = nested_spec(missing)
    layout = layout_from_spaces(
        preset, spec.observation_space, spec.action_space, context_length=5, text_tokens=30, discount=0.9, **options
    )
    return nested_episodes(20, missing=bool(missing), steady=steady), layout, spec


@pytest.mark.parametrize("case", CASES)
def test_a_stream_that_the_buffer_holds_whole_is_the_data_set(case: str):
    episodes, layout, spec = nested(case)
    whole = Windows(from_episodes(episodes, spec), layout, text="go")
    stream = StreamWindows(source_of(episodes, spec), layout, buffer=48, text="go")
    assert np.array_equal(stream.returns, whole.returns) and np.array_equal(stream.lengths, whole.lengths)
    statistics = whole.statistics()
    for name, values in stream.statistics().items():
        assert (
            set(values.tolist()) == set(statistics[name].tolist())
            if values.dtype == object
            else (np.array_equal(values, statistics[name], equal_nan=values.dtype.kind == "f"))
        ), name
    for step in (0, 7, 1000):
        drawn, expected = stream.draw(step, 3, 32), whole.draw(step, 3, 32)
        assert np.array_equal(drawn.indices, expected.indices)
        assert drawn.num_valid == expected.num_valid
        assert_same_batch(drawn.gather(), expected.gather())


@pytest.mark.parametrize("delayed_reward", [False, True])
def test_a_window_of_the_buffer_is_the_data_sets_window_of_that_episode_and_timestep(delayed_reward: bool):
    layout, episodes = replace(box_layout(preset="trajectory"), delayed_reward=delayed_reward), box_episodes(23)
    whole = Windows(from_episodes(episodes, box_spec()), layout)
    all_windows = whole.gather(np.arange(len(whole)))
    place = {tuple(row): index for index, row in enumerate(all_windows["observation"][:, 0].tolist())}
    stream = StreamWindows(source_of(episodes), layout, buffer=5)
    seen = set()
    for step in range(20):
        batch = stream.draw(step, 0, 16).gather()
        rows = [place[tuple(row)] for row in batch["observation"][:, 0].tolist()]
        assert_same_batch(batch, {name: values[rows] for name, values in all_windows.items()})
        seen |= set(rows)
    assert len(seen) > 100


@pytest.mark.parametrize("case", ["prompt", "missing"])
def test_nested_spaces_stream_as_they_are_kept(case: str):
    episodes, layout, spec = nested(case)
    whole = Windows(from_episodes(episodes, spec), layout, text="go")
    stream = StreamWindows(source_of(episodes, spec), layout, buffer=18, text="go", num_heldout=1)
    indices = np.arange(0, len(stream), 7)  # of the first 16 episodes after the one that is held out
    assert_same_batch(stream._held.gather(indices), whole.gather(indices + whole.lengths[0]))


@pytest.mark.parametrize("is_counted", [True, False])
@pytest.mark.parametrize(("process_index", "num_processes"), [(0, 1), (1, 2)])
def test_beginning_at_any_step_gives_the_windows_of_having_come_there(is_counted, process_index, num_processes):
    def stream() -> StreamWindows:
        return StreamWindows(
            source_of(box_episodes(17), is_counted=is_counted), box_layout(), buffer=3, reuse=2.0, num_heldout=2,
            process_index=process_index, num_processes=num_processes,
        )  # fmt: skip

    unbroken = stream()
    batches = [unbroken.draw(step, 5, 8).gather() for step in range(60)]
    assert unbroken._first_block is not None and unbroken._first_block > 3 * 15 / num_processes  # passes
    for first in (0, 1, 7, 20, 41, 59):
        resumed = stream()
        for step in range(first, min(first + 3, 60)):
            assert_same_batch(resumed.draw(step, 5, 8).gather(), batches[step])
    assert_same_batch(unbroken.draw(4, 5, 8).gather(), batches[4])  # and back


def streamed(seed: int = 0, source: Source | None = None) -> tuple[SequenceModel, StreamWindows]:
    windows = StreamWindows(source or source_of(box_episodes(10)), box_layout(6), buffer=3, reuse=2.0)
    backbone = load_backbone("small", num_layers=2, dropout=0.1, seed=seed)
    return build_model(windows, backbone, seed=seed), windows


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> SequenceModel:
    """A model trained for 14 steps at a stretch, which went round the stream."""
    model, windows = streamed()
    train(model, windows, out=tmp_path_factory.mktemp("unbroken"), steps=14, **SETTINGS)
    assert windows._first_block is not None and windows._first_block > 10
    return model


def test_a_run_on_a_stream_resumes_bit_for_bit(unbroken: SequenceModel, tmp_path: Path):
    first, windows = streamed()
    os_signal_at(first, 9)
    assert train(first, windows, out=tmp_path, steps=14, **SETTINGS).step == 9
    second, windows = streamed(seed=1)
    train(second, windows, out=tmp_path, steps=14, resume=True, **SETTINGS)
    assert_same_weights(unbroken, second)


def test_a_run_whose_stream_broke_off_goes_on_as_if_it_had_not(unbroken: SequenceModel, tmp_path: Path):
    passes = iter([source_of(box_episodes(10)), breaking_source(TimeoutError("no answer"), 8, box_episodes(10))])
    first, windows = streamed(source=Source(box_spec(), read=lambda: next(passes).read(), identity={}))
    with pytest.raises(StorageError, match="broke off before episode 8: no answer"):
        train(first, windows, out=tmp_path, steps=14, **SETTINGS)
    (kept,) = checkpoints(tmp_path)
    assert 0 < int(kept.name.removeprefix("step-")) < 14
    second, windows = streamed(seed=1)
    train(second, windows, out=tmp_path, steps=14, resume=True, **SETTINGS)
    assert_same_weights(unbroken, second)


def test_a_text_that_does_not_fit_is_told_when_it_comes_and_what_was_learned_is_kept(tmp_path: Path):
    """The codecs have seen the texts of the first buffer only; gradients of half a batch are not kept."""
    spec = box_spec()
    layout = layout_from_spaces(
        "fused", spec.observation_space, spec.action_space, context_length=4, prompt=("text",), text_tokens=4
    )
    texts = ["go"] * 8 + ["far too long"] * 2
    episodes = [replace(episode, text=text) for episode, text in zip(box_episodes(10), texts, strict=True)]

    def built() -> tuple[SequenceModel, StreamWindows]:
        windows = StreamWindows(source_of(episodes), layout, buffer=4)
        return build_model(windows, load_backbone("small", num_layers=1, vocabulary=True)), windows

    model, windows = built()
    options = {"steps": 50, "batch_size": 8, "accumulate": 4, "checkpoint_every": 0}
    with pytest.raises(DataError, match="text of 13 tokens, there is room for 4 .'far too long'.: make room for 13"):
        train(model, windows, out=tmp_path, **options)
    (kept,) = checkpoints(tmp_path)
    steps = int(kept.name.removeprefix("step-"))
    assert 0 < steps < 50
    other, windows = built()
    train(other, windows, out=tmp_path / "unbroken", **{**options, "steps": steps})
    assert_same_weights(other, load_policy(kept / "policy"))


def test_over_a_pass_every_episode_is_held_equally_long_and_used_as_often_as_asked():
    # a step uses 8 windows x 5 timesteps: an episode of 10 timesteps 4 times
    stream = StreamWindows(source_of(counted(12)), box_layout(5), buffer=4, reuse=4.0)
    steps_held, uses = np.zeros(12, int), 0
    for step in range(12):
        uses += stream.draw(step, 0, 8).num_valid
        steps_held[held(stream)] += 1
        assert held(stream) == sorted((step + place) % 12 for place in range(4))
    assert steps_held.tolist() == [4] * 12
    assert uses == 4 * 12 * 10


def test_reuse_is_kept_for_episodes_of_all_lengths():
    episodes = box_episodes(300, lengths=(1, 40))
    stream = StreamWindows(source_of(episodes), box_layout(8), buffer=64, reuse=3.0)
    uses = step = 0
    while stream._first_block is not None and stream._first_block * stream._block_size < 300:
        uses += stream.draw(step, 0, 16).num_valid
        step += 1
    assert uses / sum(map(len, episodes)) == pytest.approx(3.0, rel=0.1)


def test_a_step_that_uses_more_than_the_buffer_holds_passes_no_episode_by():
    stream = StreamWindows(source_of(counted(12, length=2)), box_layout(5), buffer=3, reuse=0.01)
    seen = []
    for step in range(4):
        stream.draw(step, 0, 64)
        seen += held(stream)
    assert seen == list(range(12))


def test_processes_share_the_stream_without_overlap_or_gap():
    episodes = counted(23)
    seen: list[set[int]] = []
    for process in range(3):
        stream = StreamWindows(
            source_of(episodes), box_layout(), buffer=2, num_heldout=2, process_index=process, num_processes=3
        )
        seen.append(set())
        for step in range(30):
            stream.draw(step, 0, 12)
            seen[-1] |= set(held(stream))
    assert [sorted(numbers) for numbers in seen] == [list(range(2 + process, 23, 3)) for process in range(3)]


def test_a_part_that_the_buffer_holds_whole_is_the_data_set_of_its_episodes():
    episodes, layout = box_episodes(23), box_layout()
    whole = Windows(from_episodes(episodes[3::2], box_spec()), layout)
    for is_counted in (False, True):
        source = source_of(episodes, is_counted=is_counted)
        part = StreamWindows(source, layout, buffer=32, num_heldout=2, process_index=1, num_processes=2)
        for step in (0, 50):
            drawn, expected = part.draw(step, 0, 32), whole.draw(step, 0, 32)
            assert np.array_equal(drawn.indices, expected.indices)
            assert_same_batch(drawn.gather(), expected.gather())


def test_what_is_held_out_is_never_trained_on():
    stream = StreamWindows(source_of(counted(9)), box_layout(), buffer=3, num_heldout=2)
    assert stream.heldout is not None and len(stream.heldout) == 20
    assert stream.heldout.gather(np.array([0, 19]))["observation"][:, 0, 0].tolist() == [0.0, 105.0]
    seen = set()
    for step in range(20):
        seen |= set(stream.draw(step, 0, 16).gather()["observation"].div(100).floor().unique().int().tolist())
    assert seen == set(range(2, 9))


def test_the_statistics_are_the_first_buffers_on_every_process_and_at_every_step():
    episodes = box_episodes(20)
    expected = Windows(from_episodes(episodes[2:6], box_spec()), box_layout()).statistics()
    for process, num_processes in ((0, 1), (0, 2), (1, 2)):
        stream = StreamWindows(
            source_of(episodes), box_layout(), buffer=4, num_heldout=2, process_index=process,
            num_processes=num_processes,
        )  # fmt: skip
        for step in (None, 0, 50):
            if step is not None:
                stream.draw(step, 0, 8)
            for name, values in stream.statistics().items():
                assert np.array_equal(values, expected[name]), (name, step)
        assert stream.lengths.tolist() == [len(episode) for episode in episodes[2:6]]


def test_memory_holds_the_buffer_and_what_is_being_read():
    length, buffer = 4000, 32

    def rows() -> Iterator[Row]:
        for number in range(36):
            yield counting_episode(length, number).to_row()

    # observations, actions, rewards, and returns to go of the blocks and of the whole
    buffer_bytes = 4 * buffer * length * (3 + 2 + 1 + 2)
    source = Source(box_spec(), read=rows, identity={})
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    stream = StreamWindows(source, box_layout(), buffer=buffer, reuse=0.01)
    peaks = []
    gc.freeze()  # so that looking for garbage, which comes and goes as it likes, is quick
    for step in range(40):
        gc.collect()
        tracemalloc.reset_peak()
        stream.draw(step, 0, 16)
        peaks.append(tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before)
        assert len(stream) <= buffer * length
    tracemalloc.stop()
    gc.unfreeze()
    assert stream._first_block is not None and stream._first_block * stream._block_size > 72  # two passes
    assert buffer_bytes < max(peaks) < 1.25 * buffer_bytes
    assert max(peaks[20:]) < 1.02 * max(peaks[:20])


def spoilt(episodes: list[Episode], number: int, name: str, value: float) -> Source:
    """A source one of whose rows holds a wrong value at timestep 2."""
    rows = [dict(episode.to_row()) for episode in episodes]
    array = np.array(rows[number][name])
    array[2, 1] = value
    rows[number][name] = array
    return Source(box_spec(), read=lambda: iter(rows), identity={})


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("observation", np.nan, r"^episode 7, step 2: observation\[1\] is nan \(1 of 1"),
        ("observation", 1e20, r"^episode 7, step 2: observation\[1\] is 1e\+20, too large"),
        ("action", 1.5, r"^episode 7, step 2: action\[1\] is 1\.5, outside Box\(2\) in \[-1, 1\]"),
    ],
)
def test_a_bad_episode_is_named_at_the_step_that_reads_it(name: str, value: float, complaint: str):
    stream = StreamWindows(spoilt(counted(9), 7, name, value), box_layout(), buffer=3, num_heldout=1, reuse=4.0)
    for step in range(4):
        stream.draw(step, 0, 8)
    for _ in range(2):  # and no later call passes it by
        with pytest.raises(DataError, match=complaint):
            stream.draw(4, 0, 8)
    assert held_at(stream, 3) == [4, 5, 6]


def held_at(stream: StreamWindows, step: int) -> list[int]:
    stream.draw(step, 0, 8)
    return held(stream)


def test_a_prompt_that_changes_within_an_episode_is_refused_by_its_number():
    episodes = nested_episodes(5) + nested_episodes(3, seed=1, steady=False)
    spec = nested_spec()
    layout = layout_from_spaces(
        "multi_game", spec.observation_space, spec.action_space, context_length=5, prompt=("observation.mission",)
    )
    stream = StreamWindows(source_of(episodes, spec), layout, buffer=2)
    with pytest.raises(UsageError, match=r"observation\.mission changes within episode 5"):
        for step in range(100):
            stream.draw(step, 0, 8)


def breaking_source(error: Exception, number: int, episodes: list[Episode] | None = None) -> Source:
    """A source that fails before the episode of this number."""

    def rows() -> Iterator[Row]:
        for episode in (episodes or counted(number))[:number]:
            yield episode.to_row()
        raise error

    return Source(box_spec(), read=rows, identity={})


def test_a_source_that_breaks_off_is_one_sentence():
    for error, kind, complaint in (
        (DataError("part-3.parquet is cut off: fetch it again"), DataError, "^part-3.parquet is cut off"),
        (ConnectionError("reset by peer"), StorageError, "^the stream broke off before episode 6: reset by peer$"),
        (StorageError("disk 3 is gone"), StorageError, "^disk 3 is gone$"),
    ):
        stream = StreamWindows(breaking_source(error, 6), box_layout(), buffer=2, num_heldout=1)
        with pytest.raises(kind, match=complaint):
            for step in range(100):
                stream.draw(step, 0, 8)


def test_a_stream_that_changes_its_length_is_refused():
    lengths = iter([9, 9, 8])
    changing = Source(box_spec(), read=lambda: map(Episode.to_row, counted(next(lengths))), identity={})
    with pytest.raises(DataError, match="has fewer episodes than its source says, or than it had before"):
        read_on(changing)


@pytest.mark.parametrize(("said", "complaint"), [(10, "fewer"), (8, "more"), (3, "more"), (2, "more")])
def test_a_source_that_says_a_wrong_number_of_episodes_is_refused(said: int, complaint: str):
    source = Source(box_spec(), read=lambda: map(Episode.to_row, counted(9)), identity={}, num_episodes=said)
    with pytest.raises(DataError, match=f"has {complaint} episodes than its source says"):
        read_on(source)


def read_on(source: Source) -> None:
    stream = StreamWindows(source, box_layout(), buffer=3)
    for step in range(100):
        stream.draw(step, 0, 8)


@pytest.mark.parametrize(
    ("options", "kind", "complaint"),
    [
        ({"buffer": 0}, UsageError, "buffer of 0 episodes"),
        ({"reuse": 0.0}, UsageError, "reuse is 0"),
        ({"num_heldout": -1}, UsageError, "-1 episodes"),
        ({"num_heldout": 5}, DataError, "has 5 episodes, too few to hold out 5"),
        ({"num_heldout": 7}, DataError, "has 5 episodes, too few to hold out 7"),
        ({"process_index": 2, "num_processes": 2}, UsageError, "process 2 of 2"),
        ({"num_heldout": 4, "num_processes": 2}, DataError, "has 1 episode to train on, fewer than the 2 processes"),
    ],
)
def test_what_cannot_be_streamed_is_refused_at_once(options: dict, kind: type, complaint: str):
    with pytest.raises(kind, match=complaint):
        StreamWindows(source_of(counted(5)), box_layout(), **options)
    with pytest.raises(DataError, match="has no episodes"):
        StreamWindows(source_of([]), box_layout())


def test_training_refuses_a_part_of_the_stream_that_is_another_processs(tmp_path: Path):
    model, _ = streamed()
    windows = StreamWindows(source_of(box_episodes(10)), box_layout(6), process_index=1, num_processes=2)
    with pytest.raises(UsageError, match="read as by process 1 of 2, this is 0 of 1"):
        train(model, windows, out=tmp_path, steps=2, batch_size=8)
