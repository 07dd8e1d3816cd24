import io
import json
import os

import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.vector.utils import batch_space
from minari.data_collector import EpisodeBuffer
from PIL import Image

from seqdec.data.arrow import from_rows
from seqdec.data.check import check
from seqdec.data.dataset import episode_at
from seqdec.data.episode import Episode
from seqdec.data.schema import environment_of
from seqdec.data.source import drop_nonfinite
from seqdec.errors import DataError
from seqdec.formats.minari import source as source_of
from seqdec.spaces.leaves import split
from seqdec.spaces.spec import EnvironmentSpec

# Minari misses an author, a permalink and so on in what is made here
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

CAMERA = Box(0, 255, (32, 40, 3), np.uint8)
SEEN = Dict(
    camera=CAMERA,
    gray=Box(0, 255, (33, 32), np.uint8),
    icon=Box(0, 255, (4, 5, 3), np.uint8),
    hand=Tuple((Box(-1, 1, (2, 2), np.float64), Discrete(3, start=2))),
    switches=MultiBinary(3),
    dials=MultiDiscrete([2, 4]),
    mission=Text(20),
    height=Box(0, 9, ()),
)
DONE = Dict(arm=Box(-1, 1, (3,)), grip=Discrete(2), keys=Tuple((MultiBinary(2), Box(-2, 2, (1,)))), say=Text(9))
PLAIN = Box(-9, 9, (2,))
FORMATS = ["hdf5", "arrow", "parquet"]


def sampled(space, size, seed):
    batched = batch_space(space, size)
    batched.seed(seed)
    return batched.sample()


def as_lists_of_texts(space, values):
    """Minari asks for lists of texts where Gymnasium gives tuples."""
    if isinstance(space, Dict):
        return {key: as_lists_of_texts(child, values[key]) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(as_lists_of_texts(child, part) for child, part in zip(space.spaces, values, strict=True))
    return list(values) if isinstance(space, Text) else values


def buffer_of(index, num_steps, seen=SEEN, done=DONE, **known):
    ends = np.zeros((2, num_steps), bool)
    ends[index % 2, -1] = True
    return EpisodeBuffer(
        id=index,
        observations=as_lists_of_texts(seen, sampled(seen, num_steps + 1, index)),
        actions=as_lists_of_texts(done, sampled(done, num_steps, index + 100)),
        rewards=np.arange(num_steps, dtype=np.float64),
        terminations=ends[0],
        truncations=ends[1],
        **known,
    )


def write(monkeypatch, root, buffers, data_format="hdf5", seen=SEEN, done=DONE, jpeg_encoding=True):
    """Let Minari write a set; return its folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    minari.create_dataset_from_buffers(
        "tiny/set-v0",
        list(buffers),
        observation_space=seen,
        action_space=done,
        data_format=data_format,
        jpeg_encoding=jpeg_encoding,
    )
    return root / "tiny" / "set-v0" / "data"


def write_plain(monkeypatch, root, lengths=(3, 1, 4), data_format="hdf5", **known):
    buffers = [buffer_of(index, length, PLAIN, PLAIN, **known) for index, length in enumerate(lengths)]
    return write(monkeypatch, root, buffers, data_format, PLAIN, PLAIN)


def read(folder):
    source = source_of(folder)
    dataset = from_rows(source.read(), source.spec)
    check(dataset)
    assert source.num_episodes == len(dataset)
    return dataset


def episodes_of(dataset):
    return [episode_at(dataset, index) for index in range(len(dataset))]


def expected_episode(spec, buffer, metadata):
    seen = split(spec.observation_space, buffer.observations, "observation")
    done = split(spec.action_space, buffer.actions, "action")
    return Episode(
        {**{name: values[:-1] for name, values in seen.items()}, **done, "reward": buffer.rewards},
        final={name: values[-1] for name, values in seen.items()},
        terminated=buffer.terminations[-1],
        truncated=buffer.truncations[-1],
        metadata=metadata,
    )


@pytest.mark.parametrize("data_format", FORMATS)
def test_every_space_comes_back_as_minari_was_given_it(tmp_path, monkeypatch, data_format):
    buffers = [buffer_of(index, length) for index, length in enumerate((3, 1, 7))]
    dataset = read(write(monkeypatch, tmp_path, buffers, data_format, jpeg_encoding=False))
    spec = environment_of(dataset)
    assert (spec.observation_space, spec.action_space) == (SEEN, DONE)
    for episode, buffer in zip(episodes_of(dataset), buffers, strict=True):
        assert episode.equals(expected_episode(spec, buffer, {}))


@pytest.mark.parametrize("data_format", FORMATS)
def test_jpeg_images_are_those_that_minari_reads(tmp_path, monkeypatch, data_format):
    seen, done = Dict(camera=CAMERA, gray=SEEN["gray"], icon=SEEN["icon"]), Discrete(2)
    buffers = [buffer_of(index, length, seen, done) for index, length in enumerate((3, 5))]
    # Frames of one size in bytes, which Minari stores in another way.
    buffers[1].observations["camera"][:] = 7
    dataset = read(write(monkeypatch, tmp_path, buffers, data_format, seen, done))
    found = zip(episodes_of(dataset), minari.load_dataset("tiny/set-v0"), buffers, strict=True)
    for episode, theirs, buffer in found:
        for key in ("camera", "gray"):
            ours = np.concatenate([episode.steps[f"observation.{key}"], episode.final[f"observation.{key}"][None]])
            np.testing.assert_array_equal(ours, theirs.observations[key])
            assert key != "gray" or (ours != buffer.observations[key]).any()  # noise does not survive JPEG
        np.testing.assert_array_equal(episode.steps["observation.icon"], theirs.observations["icon"][:-1])
        assert episode.steps["reward"].tolist() == theirs.rewards.tolist()


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_images_that_older_sets_keep_as_numbers_are_read_as_such(tmp_path, monkeypatch, data_format):
    buffers = [buffer_of(0, 3, CAMERA, Discrete(2))]
    folder = write(monkeypatch, tmp_path, buffers, data_format, CAMERA, Discrete(2), jpeg_encoding=False)
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata["jpeg_encoding"]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (episode,) = episodes_of(read(folder))
    np.testing.assert_array_equal(episode.steps["observation"], buffers[0].observations[:-1])


def jpeg(shape):
    file = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8)).save(file, format="JPEG")
    return file.getvalue()


def gif_of_camera():
    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(file, format="GIF")
    return file.getvalue()


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jpeg((32, 40, 3))[:300], "image 2 is damaged"),
        (b"no image", "image 2 is damaged"),
        (gif_of_camera(), "image 2 is damaged"),
        (jpeg((32, 41, 3)), r"image 2 has shape \[32, 41, 3\], the declared space has \[32, 40, 3\]"),
        (jpeg((32, 40)), r"image 2 has shape \[32, 40, 1\], the declared space has \[32, 40, 3\]"),
        (jpeg((9000, 10000)), "image 2 .*"),
    ],
    ids=["cut", "words", "gif", "wide", "gray", "bomb"],
)
def test_an_image_that_is_none_or_another_is_one_sentence(tmp_path, monkeypatch, data_format, content, message):
    buffers = [buffer_of(index, 3, CAMERA, Discrete(2)) for index in range(2)]
    folder = write(monkeypatch, tmp_path, buffers, data_format, CAMERA, Discrete(2))
    if data_format == "hdf5":
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            file["episode_1/observations"][2] = np.frombuffer(content, np.uint8)
    else:
        change_table(folder / "1" / "part-0.arrow", "observations", lambda images: [*images[:2], content, images[3]])
    with pytest.raises(DataError, match=rf"episode 1[:,] .*{message}.*\(1 of 2 episodes") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def change_table(path, name, change):
    table = pa.ipc.open_file(path).read_all()
    column = pa.array(change(table.column(name).to_pylist()))
    table = table.set_column(table.column_names.index(name), name, column)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("data_format", FORMATS)
def test_metadata_of_episodes_become_columns(tmp_path, monkeypatch, data_format):
    options = {"level": 2, "goal": {"name": "\u00e4 door", "at": np.array([1, 2])}, "easy": True}
    buffers = [
        buffer_of(0, 2, PLAIN, PLAIN, options=options),
        buffer_of(1, 3, PLAIN, PLAIN, seed=7),
        buffer_of(2, 1, PLAIN, PLAIN, seed=8),
    ]
    folder = write(monkeypatch, tmp_path, buffers, data_format, PLAIN, PLAIN)
    storage = minari.load_dataset("tiny/set-v0").storage
    storage.update_episode_metadata([{"noise": 1}, {"noise": 0.5}, {"policy": 3}], [0, 1, 2])
    storage.update_episode_metadata([{"policy": "best"}], [0])
    dataset = read(folder)
    found = {name: dataset[name][:] for name in dataset.column_names if name.startswith("metadata.")}
    assert found == {
        "metadata.seed": [None, 7, 8],
        "metadata.options/level": [2, None, None],
        "metadata.options/goal/name": ["\u00e4 door", None, None],
        "metadata.options/easy": [True, None, None],
        "metadata.noise": [1.0, 0.5, None],
        "metadata.policy": ["best", None, "3"],
    }


def test_metadata_that_are_no_facts_are_left_out(tmp_path, monkeypatch):
    folder = write_plain(monkeypatch, tmp_path, (2,))
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        attributes = file["episode_0"].attrs
        attributes["list"], attributes["nothing"], attributes["to"] = [1, 2], h5py.Empty("f4"), file.ref
        attributes["x" * 101], attributes["a\x1b[2J"] = 1, 1
        attributes["bytes"], attributes["broken"] = np.bytes_(b"ok"), b"\xff"
        attributes["large"] = np.uint64(2**64 - 1)
    dataset = read(folder)
    found = {name: dataset[name][0] for name in dataset.column_names if name.startswith("metadata.")}
    assert found == {"metadata.bytes": "ok", "metadata.broken": "?", "metadata.large": str(2**64 - 1)}


@pytest.mark.parametrize("data_format", FORMATS)
def test_a_key_that_one_episode_lacks_is_named_with_it(tmp_path, monkeypatch, data_format):
    seen = Dict(joints=Box(-1, 1, (2,)), hand=Tuple((Discrete(2), Discrete(3))))
    buffers = [buffer_of(index, 2, seen, PLAIN) for index in range(4)]
    for buffer in buffers[2:]:
        buffer.observations["hand"] = buffer.observations["hand"][:1]
    del buffers[3].observations["joints"]
    folder = write(monkeypatch, tmp_path, buffers, data_format, seen, PLAIN)
    key = "_index_1" if data_format == "hdf5" else "1"
    with pytest.raises(DataError, match=rf"episode 2: .*has no '{key}'; it has .* \(2 of 4 episodes are affected\)"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("observations/joints", np.zeros((3, 2)), "observation.joints has 3 rows for 3 rewards: give one more"),
        ("observations/joints", np.zeros((4, 3)), r"observation.joints has 3 entries, the space is Box\(2\)"),
        ("observations/mode", np.zeros((4, 2), int), r"observation.mode has 2 entries, the space is Discrete\(2\)"),
        ("observations/mode", np.full(4, 0.5), "observation.mode has type float64 with fractions"),
        ("observations/icon", np.full((4, 2, 2), 256), "observation.icon holds 256: an image .* has 0 to 255"),
        ("observations/mission", np.zeros(4), "mission has type 'float64', expected one text per step"),
        ("observations/mission", [b"\xff"] * 4, "cannot be read: damaged or cut off"),
        ("observations", np.zeros(4), "observations is an array where a group is expected"),
        ("actions", np.full((3, 1), np.nan), "step 0: action is missing"),
        ("rewards", [b"a"] * 3, "rewards has type .*, expected numbers"),
        ("terminations", np.zeros(2), "terminations has 2 rows, expected 3, one per reward"),
    ],
)
def test_arrays_that_do_not_fit_their_leaf_name_it(tmp_path, monkeypatch, name, values, message):
    seen = Dict(joints=Box(-1, 1, (2,)), mode=Discrete(2), icon=Box(0, 255, (2, 2), np.uint8), mission=Text(9))
    buffers = [buffer_of(index, 3, seen, Discrete(3)) for index in range(2)]
    folder = write(monkeypatch, tmp_path, buffers, "hdf5", seen, Discrete(3))
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file[f"episode_1/{name}"]
        file[f"episode_1/{name}"] = values
    with pytest.raises(DataError, match=rf"episode 1[:,] .*{message}.*\(1 of 2 episodes"):
        read(folder)


def test_values_that_are_not_known_are_missing_where_they_may_be(tmp_path, monkeypatch):
    seen = Dict(joints=Box(-1, 1, (2,)), say=Text(9))
    buffers = [buffer_of(0, 2, seen, PLAIN)]
    buffers[0].observations["joints"][1, 0] = np.nan
    buffers[0].observations["say"][2] = None
    folder = write(monkeypatch, tmp_path, buffers, "arrow", seen, PLAIN)
    source = source_of(folder)
    names = ("observation.joints", "observation.say")
    spec = EnvironmentSpec(source.spec.observation_space, source.spec.action_space, missing=names)
    (episode,) = episodes_of(from_rows(source.read(), spec))
    assert episode.steps["missing.observation.joints"].tolist() == [[False, False], [True, False]]
    assert episode.final["missing.observation.say"].tolist() is True
    with pytest.raises(DataError, match=r"step 1: observation.joints\[0\] is nan .*observation.joints may be"):
        from_rows(source.read(), source.spec)
    with pytest.raises(DataError, match="all 1 episodes hold nan"):
        list(drop_nonfinite(source.read(), source.spec))


def test_a_text_may_be_longer_than_its_space_says(tmp_path, monkeypatch):
    buffers = [buffer_of(0, 1, Text(5), PLAIN)]
    buffers[0].observations[:] = ["pick up the \U0001f511", ""]
    folder = write(monkeypatch, tmp_path, buffers, "hdf5", Text(5), PLAIN)
    (episode,) = episodes_of(read(folder))
    assert (episode.steps["observation"].tolist(), episode.final["observation"]) == (["pick up the \U0001f511"], "")


def test_texts_that_all_point_to_the_same_bytes_are_not_multiplied(tmp_path, monkeypatch):
    folder = write(monkeypatch, tmp_path, [buffer_of(0, 999, Text(5), PLAIN)], "hdf5", Text(5), PLAIN)
    path = folder / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        del file["episode_0/observations"]
        text = h5py.string_dtype()
        file["episode_0"].create_dataset("observations", data=["?" * 10**6] + ["x"] * 999, dtype=text)
        data = file["episode_0/observations"]
        offset, size = data.id.get_offset(), data.id.get_storage_size() // 1000
    content = bytearray(path.read_bytes())
    content[offset : offset + 1000 * size] = content[offset : offset + size] * 1000
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds more than the .* bytes of its file"):
        read(folder)


def test_tables_of_little_that_unpack_to_much_are_refused(tmp_path, monkeypatch):
    folder = write(monkeypatch, tmp_path, [buffer_of(0, 2, Text(5), Discrete(2))], "parquet", Text(5), Discrete(2))
    same = pa.array(np.zeros(10**5, np.int32))  # every row holds the same text, which is stored once
    texts = pa.DictionaryArray.from_arrays(same, pa.array(["?" * 20_000]))
    table = pa.table(
        {"observations": texts, "actions": same, "rewards": same, "terminations": same, "truncations": same}
    )
    pa.parquet.write_table(table, folder / "0" / "part-0.parquet", store_schema=False)
    with pytest.raises(DataError, match=r"episode 0: .*declares \d+ bytes, \d+ are stored: it is not read"):
        read(folder)


def test_a_list_of_millions_in_a_few_bytes_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("seqdec.formats.guard.FREE_TABLE", 0)
    folder = write_plain(monkeypatch, tmp_path, (2,), "parquet")
    path = folder / "0" / "part-0.parquet"
    table = pa.parquet.read_table(path)
    size = 4 * 10**6
    long = pa.ListArray.from_arrays(pa.array([0, 0, 0, size], pa.int32()), pa.array(np.zeros(size, np.int8)))
    pa.parquet.write_table(table.set_column(0, "observations", long), path, compression="zstd")
    with pytest.raises(DataError, match=r"episode 0: .*declares 4000\d{3} bytes, \d+ are stored: it is not read"):
        read(folder)


def test_a_key_with_a_slash_is_a_group_within_a_group_and_may_not_be_a_link(tmp_path, monkeypatch):
    seen = Dict({"a/b": Discrete(3), "c": Discrete(2)})
    folder = write(monkeypatch, tmp_path, [buffer_of(0, 3, seen, PLAIN)], "hdf5", seen, PLAIN)
    (episode,) = episodes_of(read(folder))
    assert episode.steps["observation.a/b"].tolist() == sampled(seen, 4, 0)["a/b"][:3].tolist()
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file["episode_0/observations/a"]
        file["episode_0/observations/a"] = h5py.SoftLink("/episode_0/observations")
    with pytest.raises(DataError, match="observations/a is a link to elsewhere"):
        read(folder)


@pytest.mark.parametrize("data_format", FORMATS)
def test_the_identity_changes_with_any_file(tmp_path, monkeypatch, data_format):
    folder = write_plain(monkeypatch, tmp_path, data_format=data_format)
    first = source_of(folder).identity
    assert json.loads(json.dumps(first)) == source_of(folder).identity
    path = folder / ("main_data.hdf5" if data_format == "hdf5" else f"1/part-0.{data_format}")
    os.utime(path, ns=(1, 1))
    assert source_of(folder).identity != first


def test_a_source_can_be_read_again_from_the_start(tmp_path, monkeypatch):
    source = source_of(write_plain(monkeypatch, tmp_path))
    assert [np.size(row["reward"]) for _ in range(2) for row in source.read()] == [3, 1, 4, 3, 1, 4]


@pytest.mark.parametrize("data_format", FORMATS)
def test_bytes_changed_anywhere_are_at_most_one_sentence(tmp_path, monkeypatch, data_format):
    seen = Dict(camera=CAMERA, say=Text(9), hand=Tuple((Discrete(2), Box(-1, 1, (2,)))))
    buffers = [buffer_of(index, 4, seen, PLAIN, seed=index) for index in range(2)]
    folder = write(monkeypatch, tmp_path, buffers, data_format, seen, PLAIN)
    path = folder / ("main_data.hdf5" if data_format == "hdf5" else f"1/part-0.{data_format}")
    content, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        changed = np.frombuffer(content, np.uint8).copy()
        where = random.integers(0, len(changed), 4)
        changed[where] = random.integers(0, 256, 4)
        path.write_bytes(changed.tobytes())
        source = source_of(folder)
        try:
            list(source.read())
        except DataError as error:
            assert "\n" not in str(error)
