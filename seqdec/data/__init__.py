"""Episodes: one record, one row, one table, one folder; and the tools that choose, join and describe them.

    Episode --to_row--> row --tables_of--> Arrow columns --column--> arrays of all timesteps, not copied
                         |   make_row: steps by leaf, final.LEAF, masks, ends, metadata
    Source.read ---------+   yields rows of a file that is yet to be read

Rows are made by `make_row` alone, refused or left out where they lack a value (`masks`), and checked once as a data
set (`check`). The room knows no file format of others, no environment and no layout. The names below are its door;
they are imported when they are first used.
"""

from typing import TYPE_CHECKING

from seqdec import door

if TYPE_CHECKING:
    from seqdec.data.dataset import episode_at, from_episodes, load_folder, save
    from seqdec.data.description import describe, plot_description
    from seqdec.data.episode import Episode
    from seqdec.data.schema import environment_of, lengths, returns
    from seqdec.data.select import mix, subset
    from seqdec.data.source import Source, convert, read

_HOMES = {
    "data.dataset": ["episode_at", "from_episodes", "load_folder", "save"],
    "data.description": ["describe", "plot_description"],
    "data.episode": ["Episode"],
    "data.schema": ["environment_of", "lengths", "returns"],
    "data.select": ["mix", "subset"],
    "data.source": ["Source", "convert", "read"],
}

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "Episode", "Source", "convert", "describe", "environment_of", "episode_at", "from_episodes", "lengths",
    "load_folder", "mix", "plot_description", "read", "returns", "save", "subset",
]  # fmt: skip
__getattr__ = door(__name__, _HOMES)
