"""The door to all data: a word, a folder or a table in memory becomes a data set.

    "minari:ID"  "hdf5:FILE"  "npz:FILE"  "table:NAME"  "lerobot:NAME"  "chat:NAME"   a source of `FORMATS`, read
    a folder of Minari's                                                  the same
    a `datasets.Dataset` with `columns`                                   the same, as a table
    a data folder                                                         mapped

Only names that are not on this machine reach for the network.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

from datasets import Dataset

from seqdec.data.check import check
from seqdec.data.dataset import load_folder
from seqdec.data.schema import environment_of
from seqdec.data.source import OnNonfinite, Source, pick, read
from seqdec.errors import DataError, UsageError, suggest, suggest_beside
from seqdec.formats import chat, hdf5, lerobot, minari, table
from seqdec.formats.columns import Columns
from seqdec.spaces.space import quote
from seqdec.spaces.spec import EnvironmentSpec

# What a word begins with, and who makes a source of the rest of it and of the options that its signature names.
FORMATS: dict[str, Callable[..., Source]] = {
    "minari": minari.source,
    "hdf5": hdf5.source,
    "npz": hdf5.source,
    "table": table.source,
    "lerobot": lerobot.source,
    "chat": chat.source,
}


def load_dataset(
    data: str | Path | Dataset,
    *,
    columns: Columns | None = None,
    spec: EnvironmentSpec | None = None,
    episodes: Sequence[int] | None = None,
    on_damaged: OnNonfinite = "refuse",
    on_nonfinite: OnNonfinite = "refuse",
    clip_actions: bool = False,
    folder: Path | str | None = None,
    **options: object,
) -> Dataset:
    """Return episodes as a data set, checked, whatever they are in.

    Args:
        data: "minari:ID" (or a Minari folder), "hdf5:FILE" as D4RL or robomimic have them, "npz:FILE" as OGBench has
            them, "table:NAME" (Parquet, JSON lines, CSV, TSV, a folder of these, a Hub id), "lerobot:NAME" (a folder or
            a Hub id), "chat:NAME" (logs of agents, in such files); a `datasets.Dataset`, a table with `columns` or one
            of seqdec's own; or the folder of a data set that seqdec wrote, which is memory-mapped.
        columns: what is in which column of a table, array of an HDF5 or npz file, feature of a LeRobot data set.
        spec: the environment that a table or an HDF5 file comes from; by default its spaces are guessed.
        episodes: the numbers of those to read, from 0 on; all by default.
        on_damaged: what becomes of an episode that cannot be read or trained on, for whatever reason: "refuse" all, or
            "drop-episode".
        on_nonfinite: what becomes of an episode that holds nan or an infinity, likewise.
        clip_actions: bring actions that leave the action space back to its bounds instead of refusing them.
        folder: where to keep what is read, which is then mapped from there and not held in memory.
        options: `max_episode_steps` and `discrete` of hdf5; `split` and `config` of a table or chat; `cameras` and
            `image_size` of lerobot. See `source` in the module of that name.

    Raises:
        UsageError: there is no such data, kind or option.
        DataError: the data are damaged, or hold what cannot be trained on.

    Example:
        >>> dataset = load_dataset("table:walk.csv", columns=Columns(episode="run"))  # doctest: +SKIP
    """
    known = {"columns": columns, "spec": spec, "episodes": episodes}
    options |= {name: value for name, value in known.items() if value is not None}
    source = source_of(data, **options)
    if source is not None:
        place = None if folder is None else Path(folder)
        how: dict[str, OnNonfinite] = {"on_damaged": on_damaged, "on_nonfinite": on_nonfinite}
        return read(source, **how, clip_actions=clip_actions, folder=place)
    if {on_damaged, on_nonfinite} != {"refuse"} or clip_actions or folder is not None:
        words = "on_damaged, on_nonfinite, clip_actions and folder"
        raise UsageError(f"{words} are for data of others, this is a data set already")
    if not isinstance(data, Dataset):
        return load_folder(Path(data))
    try:
        environment_of(data)
    except DataError as error:
        raise DataError(f"{error}; of a table, say what its columns mean with columns=Columns(...)") from error
    check(data, warns=True)
    return data


def source_of(data: str | Path | Dataset, **options: object) -> Source | None:
    """Return the episodes of others that `data` means, yet to be read; None for a data set of seqdec's own.

    Args:
        data: as in `load_dataset`.
        options: those of its format's `source`, such as `columns` and `spec`; and `episodes`, see `load_dataset`.

    Raises:
        UsageError: there is no such data, kind or option.
    """
    if isinstance(data, dict):
        splits = ", ".join(map(repr, data))
        raise UsageError(f"these are several data sets ({splits}): pass one, such as data[{next(iter(data), '')!r}]")
    if not isinstance(data, str | Path | Dataset):
        raise UsageError(f"data is {type(data).__name__}: expected a word, a folder or a datasets.Dataset")
    if isinstance(data, Dataset):
        if "columns" in options:
            return _made("table", data, options)
    else:
        folder = Path(data)
        kind, is_word, place = str(data).partition(":")
        if is_word and not folder.exists():
            return _made(kind, place, options)
        if not folder.is_dir():
            hint = suggest_beside(folder) or "; for data of others write minari:ID, hdf5:FILE, table:NAME, ..."
            raise UsageError(f"no folder {quote(folder)}{hint}")
        has_metadata = any((folder / name).exists() for name in ("metadata.json", "data/metadata.json"))
        if has_metadata and not (folder / "state.json").exists():
            return _made("minari", data, options)
    if options:
        raise UsageError(f"{', '.join(options)} are for data of others, this is a data set already: leave them out")
    return None


def _made(kind: str, place: object, options: dict[str, object]) -> Source:
    if kind not in FORMATS:
        words = ", ".join(f"{known}:..." for known in FORMATS)
        raise UsageError(f"{quote(kind)} is no kind of data{suggest(kind, FORMATS)}; write {words}, or a folder")
    _, *known = inspect.signature(FORMATS[kind]).parameters
    unknown = next((name for name in options if name not in (*known, "episodes")), None)
    if unknown is not None:
        has = f"; it takes {', '.join(known)}" if known else ""
        raise UsageError(f"{kind} has no option {quote(unknown)}{suggest(unknown, known)}{has}")
    if "episodes" not in options or "episodes" in known:
        return FORMATS[kind](place, **options)
    episodes = options.pop("episodes")
    return pick(FORMATS[kind](place, **options), episodes)  # pyright: ignore[reportArgumentType]
