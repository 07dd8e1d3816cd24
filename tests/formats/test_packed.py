"""Tables of text as others keep them: packed with gzip, with tabs between the values."""

import gzip
import json

import pytest

from seqdec.errors import DataError, UsageError
from seqdec.formats import arrays
from seqdec.formats.columns import Columns
from seqdec.formats.load import load_dataset

COLUMNS = Columns(episode="run", observation=["x", "y"], action="key", terminated="fell")
ROWS = [("a", 0.5, -1.25, 1, 1.0, False), ("a", 1.5, 2.0, 0, 2.0, True), ("b", -3.5, 0.0, 1, 0.5, True)]
NAMES = ("run", "x", "y", "key", "reward", "fell")
LINES = [dict(zip(NAMES, row, strict=True)) for row in ROWS]


def text(separator, rows=ROWS):
    return "".join(separator.join(map(str, row)) + "\n" for row in (NAMES, *rows))


CONTENTS = {
    "walk.csv": text(","),
    "walk.tsv": text("\t"),
    "walk.jsonl": "".join(json.dumps(line) + "\n" for line in LINES),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_packed_and_tabbed_tables_are_the_same_episodes(tmp_path, name, is_packed):
    content = CONTENTS[name].encode()
    path = tmp_path / (name + ".gz" * is_packed)
    path.write_bytes(gzip.compress(content) if is_packed else content)
    for place in (path, tmp_path):  # a folder of tables, too
        dataset = load_dataset(f"table:{place}", columns=COLUMNS)
        assert dataset["observation"][:] == [[[0.5, -1.25], [1.5, 2.0]], [[-3.5, 0.0]]]
        assert dataset["action"][:] == [[1, 0], [1]] and dataset["reward"][:] == [[1.0, 2.0], [0.5]]
        assert dataset["terminated"][:] == [True, True]


@pytest.mark.parametrize("name", ["walk.csv.gz", "walk.tsv.gz", "walk.jsonl.gz"])
def test_a_wrong_value_in_a_packed_table_is_named_by_its_line(tmp_path, name):
    lines = CONTENTS[name.removesuffix(".gz")].replace("-3.5", '"far"' if "json" in name else "far")
    (tmp_path / name).write_bytes(gzip.compress(lines.encode()))
    number = 3 if "json" in name else 4
    with pytest.raises(DataError, match=f"{name}(, line {number}|, episode 'b')"):
        load_dataset(f"table:{tmp_path / name}", columns=COLUMNS)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("walk.csv.gz", lambda content: b"run,x\n", "it is not packed with gzip, as .gz says"),
        ("walk.csv.gz", lambda content: content[:-12], "cannot be read: "),
        ("walk.jsonl.gz", lambda content: content[:-12], "cannot be read: "),
        ("walk.jsonl.gz", lambda content: content[:9] + b"\xff" * 9 + content[18:], "cannot be read: "),
        ("walk.jsonl.gz", lambda content: gzip.compress(b"[{}]"), "is one JSON list"),
        ("walk.csv.gz", lambda content: gzip.compress(b"version https://git-lfs.github.com/spec/v1\n"), "git-LFS"),
    ],
)
def test_a_damaged_packed_table_is_one_sentence(tmp_path, name, change, message):
    content = gzip.compress(CONTENTS[name.removesuffix(".gz")].encode())
    (tmp_path / name).write_bytes(change(content))
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(f"table:{tmp_path / name}", columns=COLUMNS)
    assert "\n" not in str(caught.value)


def test_an_endless_line_in_few_bytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_LINE", 2**16)
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(b'{"x": "' + b"a" * 2**24 + b'"}'))
    with pytest.raises(DataError, match="line 1 has 65536 bytes or more: it is not read"):
        load_dataset(f"table:{tmp_path / 'bomb.jsonl.gz'}", columns=COLUMNS)


def test_other_packed_files_are_no_tables(tmp_path):
    (tmp_path / "walk.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(UsageError, match="ends in '.gz': tables are read from .*texts also as .gz"):
        load_dataset(f"table:{tmp_path / 'walk.parquet.gz'}", columns=COLUMNS)


def test_conversations_may_be_packed(tmp_path):
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"messages": turns, "reward": 1}).encode()))
    assert load_dataset(f"chat:{path}")["action"][:] == [["!"]]
