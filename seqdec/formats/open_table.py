"""A table by its name: files, a folder of files, a folder of `datasets`, or a data set on the Hub.

What a file is, is looked at before it is parsed: a git-LFS pointer would make a fine CSV. No pickle is opened, no link
in a folder is followed, and nothing is fetched that is here already.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import datasets.config
import datasets.exceptions
import pyarrow as pa
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]  (of its HTTP library)

from seqdec import storage
from seqdec.data.dataset import arrow_files
from seqdec.errors import DataError, UsageError, suggest, suggest_beside
from seqdec.formats import table_formats as files
from seqdec.formats.guard import AGAIN, LINES, PICKLES, instead_of_data, suffix_of, unpacked
from seqdec.hub import hub_host, is_hub_reachable
from seqdec.spaces.space import quote

SUFFIXES = tuple(suffix for suffix in files.FORMATS if suffix != ".arrow")
_HUB_FORMATS = ("parquet", "arrow", "json", "csv", "cache")


@dataclass(frozen=True)
class Table:
    """A table that can be read from its first row on as often as need be.

    Attributes:
        name: what it is called in sentences.
        columns: the names of its columns.
        read: yields all rows, with at least the columns that are asked for; the second are those of a CSV that are
            texts even where they look like numbers.
        files: what it is read from, where those are files of the user's.
        mixed: columns of a CSV that hold text among numbers, and where.
        revision: which state of a Hub repository it is.

    Example:
        >>> table = open_table("walk.parquet")  # doctest: +SKIP
        >>> sum(len(block.rows) for block in table.read(["reward"], []))
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str], Collection[str]], Iterator[files.Block]]
    files: tuple[Path, ...] = ()
    mixed: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None


def open_table(
    name: str | Path | Sequence[Path] | datasets.Dataset, *, split: str = "train", config: str | None = None
) -> Table:
    """Open a table by its name.

    Args:
        name: a file, several of one format, a folder, or a Hub id such as "user/name", which is fetched once; or a
            table in memory.
        split: which part, where a data set has several.
        config: which of its configurations, for a Hub id that has several.

    Raises:
        UsageError: nothing of that name is here or within reach, or it is no table.
        DataError: it is damaged.
    """
    if isinstance(name, str) and not Path(name).exists() and _is_hub_id(name):
        return _open_hub(name, split, config)
    if config is not None:
        raise UsageError(f"config {quote(config)} is for a data set on the Hub: leave it out")
    if isinstance(name, datasets.Dataset):
        return _of_dataset(name, "the data set", name._fingerprint)
    if not isinstance(name, str | Path):
        return _open_files([Path(path) for path in name])
    return _open_folder(Path(name), split) if Path(name).is_dir() else _open_files([Path(name)])


def _open_files(paths: Sequence[Path]) -> Table:
    if not paths:
        raise UsageError("no files are named: give at least one table")
    for path in paths:
        _check_file(path)
    suffixes = {suffix_of(path) for path in paths}
    if len({files.FORMATS[suffix] for suffix in suffixes}) > 1:
        raise UsageError(f"{paths[0]} and others are of several formats, {_list(sorted(suffixes))}: give those of one")
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return _of_files(name, paths)


def _of_files(name: str, paths: Sequence[Path]) -> Table:
    columns = files.FORMATS[suffix_of(paths[0])].names(paths[0])
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise DataError(f"{paths[0]} has two columns called {quote(twice)}: rename one")
    kinds, mixed = files.csv_kinds(paths, columns) if suffix_of(paths[0]) in (".csv", ".tsv") else ({}, {})

    def read(names: Sequence[str], texts: Collection[str]) -> Iterator[files.Block]:
        return files.read_files(paths, names, {**kinds, **dict.fromkeys(texts, pa.string())})

    return Table(name, tuple(columns), read, tuple(paths), mixed)


def _open_folder(folder: Path, split: str) -> Table:
    if (folder / "dataset_dict.json").exists():
        splits = storage.read_json(storage.path_inside(folder, "dataset_dict.json")).get("splits")
        has = [str(entry) for entry in splits] if isinstance(splits, list) else []
        folder = storage.path_inside(folder, _existing_split(split, has, str(folder)))
    if (folder / "state.json").exists():
        return _of_files(str(folder), arrow_files(folder))
    members = [path for path in folder.iterdir() if suffix_of(path) in (*SUFFIXES, *PICKLES)]
    if not members:
        expected = ", ".join(SUFFIXES)
        raise UsageError(f"{folder} holds no table: expected files in {expected}, or what save_to_disk wrote")
    paths = [storage.path_inside(folder, path.name) for path in sorted(members, key=_in_counting_order)]
    return _open_files(_of_split(paths, folder, split))


def _open_hub(name: str, split: str, config: str | None) -> Table:
    try:
        with _offline_if_out_of_reach():
            builder = datasets.load_dataset_builder(name, config)
            kind = type(builder).__module__.rpartition(".")[2]
            if kind not in _HUB_FORMATS:
                raise UsageError(f"{quote(name)} on the Hub holds {kind} files: tables are Parquet, JSON, CSV or Arrow")
            builder.download_and_prepare()
            has = [str(part) for part in builder.info.splits or ()]
            _existing_split(re.split(r"[\[+]", split)[0], has, f"{name} on the Hub")
            dataset = builder.as_dataset(split)
    except UsageError:
        raise
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        words = quote(" ".join(str(error).split()))[1:-1]
        failure = f"fetching it from {hub_host()} failed ({type(error).__name__}: {words}); pass a local path"
        raise UsageError(
            f"no file or folder {quote(name)} is here{suggest_beside(Path(name))}, and {failure}"
        ) from error
    assert isinstance(dataset, datasets.Dataset)
    return _of_dataset(dataset, name, builder.hash)


def _of_dataset(dataset: datasets.Dataset, name: str, revision: str | None) -> Table:
    def read(names: Sequence[str], texts: Collection[str]) -> Iterator[files.Block]:
        tables = dataset.select_columns(list(names)).with_format("arrow").iter(files.BLOCK_ROWS)
        return files.blocks(itertools.chain.from_iterable(map(pa.Table.to_batches, tables)), name)

    return Table(name, tuple(dataset.column_names), read, revision=revision)


@contextmanager
def _offline_if_out_of_reach() -> Iterator[None]:
    """Let `datasets` look only at what it fetched before where the Hub is out of reach, instead of trying for long."""
    was_offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = was_offline or not is_hub_reachable()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline


def _is_hub_id(name: str) -> bool:
    is_file = suffix_of(Path(name)) in (*SUFFIXES, *PICKLES)
    return not is_file and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None


def _in_counting_order(path: Path) -> list[str]:
    return [part.zfill(20) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _of_split(paths: Sequence[Path], folder: Path, split: str) -> list[Path]:
    """Return the files of a split, all of them, where they are called "train-00000-of-00002" and so on."""
    matches = [
        match
        for path in paths
        if (match := re.fullmatch(r"(.+)-\d{5}-of-(\d{5})", Path(path.name.removesuffix(".gz")).stem))
    ]
    if len(matches) < len(paths):
        return list(paths)
    counts = {match[1]: int(match[2]) for match in matches}
    chosen = next(iter(counts)) if len(counts) == 1 else _existing_split(split, list(counts), str(folder))
    parts = [path for path, match in zip(paths, matches, strict=True) if match[1] == chosen]
    if len(parts) != counts[chosen]:
        raise DataError(f"{folder}: expected {counts[chosen]} files of {chosen}, found {len(parts)}; {AGAIN}")
    return parts


def _existing_split(split: str, has: Sequence[str], where: str) -> str:
    if split not in has:
        raise UsageError(f"{where} has no split {quote(split)}{suggest(split, has)}; it has {_list(has)}")
    return split


def _check_file(path: Path) -> None:
    suffix = suffix_of(path)
    if suffix in PICKLES:
        runs = f"{suffix} files can hold pickles, which run code when they are read"
        raise UsageError(f"{path} is not opened: {runs}; save the table as Parquet instead (frame.to_parquet)")
    if not path.is_file():
        raise UsageError(f"no file or folder {quote(path)} is here{suggest_beside(path)}")
    if suffix not in SUFFIXES:
        expected = f"tables are read from {', '.join(SUFFIXES)}, texts also as .gz, or folders of these"
        raise UsageError(f"{path} ends in {quote(suffix)}: {expected}")
    instead = instead_of_data(path)
    if instead:
        raise DataError(f"{path} cannot be read: {instead}; {AGAIN}")
    with unpacked(path) as file:
        is_list = suffix in LINES and file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    if is_list:
        raise DataError(f"{path} is one JSON list, which cannot be read bit by bit: write one object a line")


def _list(names: Iterable[str]) -> str:
    return quote(", ".join(names))
