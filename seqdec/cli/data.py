"""`seqdec data ...`: files of others, recordings and the sample become data folders, checked and described."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seqdec.cli import folders
from seqdec.cli.console import progress, recover
from seqdec.cli.options import Words, debug, keywords, needed, option, whole_numbers
from seqdec.errors import UsageError

if TYPE_CHECKING:
    from seqdec.formats.columns import Columns
    from seqdec.spaces.spec import EnvironmentSpec

OnNonfinite = Literal["refuse", "drop-episode"]
# Options that converting verbs share.
_SEVERAL = "one, several of a vector, or KEY=COLUMN,... of a Dict"
_replace = partial(option, False, "Make the folder again if it holds something else.")
missing_leaves = partial(option, (), "Leaves whose values may be missing (observation, observation.camera, ...).")
_discrete = partial(option, (), "Leaves of whole numbers that are choices though kept as floats (action, ...).")
_clip_actions = partial(option, False, "Clip actions outside the action space instead of refusing them.")
_episodes = partial(option, (), "Numbers of the episodes to read, from 0 on, as 0 7 20-99 (default: all).")


def _on_nonfinite() -> OnNonfinite:
    return option("refuse", "What to do with NaN or infinity.")


def _on_damaged() -> OnNonfinite:
    return option("refuse", "What to do with an episode that cannot be read or trained on, for whatever reason.")


@dataclass(frozen=True)
class DataCartpole:
    """Make the sample data: CartPole-v1 by a scripted controller at graded noise. No download."""

    output: str = option("data/cartpole", "Folder to write.")
    episodes: int = option(260, "How many episodes.", at_least=1)
    seed: int = option(0, "Seed of the noise and of the first episode.", at_least=0)
    debug: bool = debug()


@dataclass(frozen=True)
class DataMinari:
    """Convert a Minari data set, checked value by value."""

    id: str = needed("Minari id (such as mujoco/hopper/medium-v0) or the path of a local one.")
    output: str = option("", "Folder to write (default: data/ and the id's last parts).")
    replace: bool = _replace()
    missing: Words = missing_leaves()
    episodes: Words = _episodes()
    on_damaged: OnNonfinite = _on_damaged()
    on_nonfinite: OnNonfinite = _on_nonfinite()
    clip_actions: bool = _clip_actions()
    debug: bool = debug()


@dataclass(frozen=True)
class DataConvert:
    """Convert data of any kind, by its own names and spaces."""

    word: str = needed("KIND:PLACE, as train --data and load_dataset take it: minari:ID, hdf5:FILE, chat:NAME, ...")
    output: str = option("", "Folder to write (default: data/ and the word's last part).")
    replace: bool = _replace()
    missing: Words = missing_leaves()
    episodes: Words = _episodes()
    on_damaged: OnNonfinite = _on_damaged()
    on_nonfinite: OnNonfinite = _on_nonfinite()
    clip_actions: bool = _clip_actions()
    debug: bool = debug()


@dataclass(frozen=True)
class DataHdf5:
    """Convert arrays: HDF5 as D4RL and robomimic have them, npz as OGBench has them."""

    file: str = needed("HDF5 or npz file: observations, actions, rewards, terminals, timeouts; or data/demo_0, ...")
    observation: Words = option((), f"Arrays of the observation: {_SEVERAL} (default: observations, or all of obs).")
    action: Words = option((), "Arrays of the action, likewise (default: actions).")
    final: Words = option(
        (), "Arrays of what was seen after a step, likewise (default: next_..., where there are any)."
    )
    reward: str = option("", "Array of the reward (default: rewards; none: there is none, all are 0).")
    terminated: str = option("", "Array that is true where the task ended (default: terminals, or dones; or none).")
    truncated: str = option("", "Array that is true where a time limit cut the episode (default: timeouts; or none).")
    env: str = option("", "Environment id of the recording, for spaces and evaluations (default: seen in the data).")
    max_episode_steps: int = option(
        0, "Time limit where the file has none (0: the environment's, or none).", at_least=0
    )
    discrete: Words = _discrete()
    output: str = option("", "Folder to write (default: data/ and the file's name).")
    replace: bool = _replace()
    missing: Words = missing_leaves()
    episodes: Words = _episodes()
    on_damaged: OnNonfinite = _on_damaged()
    on_nonfinite: OnNonfinite = _on_nonfinite()
    clip_actions: bool = _clip_actions()
    debug: bool = debug()


@dataclass(frozen=True)
class DataTable:
    """Convert a table: Parquet, JSON lines, CSV, a folder of these, or a data set of the Hub."""

    name: str = needed("File, folder, or a Hub id such as user/name.")
    episode: str = option("", "Column that says which episode a step belongs to (default: one row is one episode).")
    step: str = option("step", "Column that says the order of an episode's steps (none: they stand in it).")
    observation: Words = option(("observation",), f"Columns: {_SEVERAL}.")
    action: Words = option(("action",), "Columns of the action, likewise.")
    final: Words = option(("final",), "Columns of what was seen after a step, likewise, where there are any.")
    reward: str = option("reward", "Column of the reward (none: there is none, all are 0).")
    terminated: str = option("terminated", "Column that is true where the task ended (none: there is none).")
    truncated: str = option(
        "truncated", "Column that is true where a time limit cut the episode (none: there is none)."
    )
    text: str = option("text", "Column with words about the episode (none: there is none).")
    keep: Words = option((), "Further columns to keep of an episode.")
    discrete: Words = _discrete()
    env: str = option("", "Environment id of the recording, for spaces and evaluations (default: seen in the data).")
    split: str = option("train", "Part of a data set that has several.")
    config: str = option("", "Configuration of a Hub id that has several.")
    output: str = option("", "Folder to write (default: data/ and the name's last part).")
    replace: bool = _replace()
    missing: Words = option((), "Leaves whose values may be missing, or LEAF=COLUMN where a column says so.")
    episodes: Words = _episodes()
    on_damaged: OnNonfinite = _on_damaged()
    on_nonfinite: OnNonfinite = _on_nonfinite()
    clip_actions: bool = _clip_actions()
    debug: bool = debug()


@dataclass(frozen=True)
class DataLerobot:
    """Convert a LeRobot data set (v2.0, v2.1, v3.0): a folder or a Hub id."""

    name: str = needed("Folder, or a Hub id such as lerobot/pusht.")
    observation: Words = option((), f"Features of the observation: {_SEVERAL} (default: all of observation.*).")
    action: Words = option((), "Features of the action, likewise (default: action, or action.*).")
    reward: str = option("", "Feature of the reward (default: next.reward; none: there is none, all are 0).")
    terminated: str = option("", "Feature that is true where the task ended (default: next.done; or none).")
    truncated: str = option(
        "", "Feature that is true where a time limit cut the episode (default: next.truncated; or none)."
    )
    text: str = option("", "Feature of words, or of numbers of tasks, about the episode (default: task_index).")
    cameras: Words = option(("read",), "Cameras by name, or read (all), or skip (none). Videos need seqdec[video].")
    image_size: Words = option((), "Height and width to bring images to (default: their own).")
    output: str = option("", "Folder to write (default: data/ and the name's last part).")
    replace: bool = _replace()
    missing: Words = missing_leaves()
    episodes: Words = _episodes()
    on_damaged: OnNonfinite = _on_damaged()
    on_nonfinite: OnNonfinite = _on_nonfinite()
    debug: bool = debug()


@dataclass(frozen=True)
class DataShow:
    """Describe a data set: episodes, timesteps, spaces, returns, bytes."""

    path: str = needed("Data folder, or minari:ID.")
    output: str = option("", "Folder to write the same lines to, as description.txt (default: print only).")
    plot: bool = option(False, "Draw histograms of returns and lengths, as a PNG.")
    debug: bool = debug()


Conversion = DataMinari | DataConvert | DataHdf5 | DataTable | DataLerobot


def data_cartpole(given: DataCartpole) -> int:
    """Make the sample data."""
    output = folders.check_data_folder(given.output)

    from seqdec.data.dataset import save
    from seqdec.play import scripted_cartpole

    folders.make_folder(output.parent)
    save(scripted_cartpole(num_episodes=given.episodes, seed=given.seed), output)
    return show_folder(output)


def data_minari(given: DataMinari) -> int:
    """Convert a Minari data set."""
    return _convert(given, f"minari:{given.id.removeprefix('minari:')}")


def data_convert(given: DataConvert) -> int:
    """Convert what a word means."""
    return _convert(given, given.word)


def data_hdf5(given: DataHdf5) -> int:
    """Convert arrays."""
    options = {"max_episode_steps": given.max_episode_steps or None, "discrete": given.discrete}
    return _convert(given, f"hdf5:{given.file}", **options)


def data_table(given: DataTable) -> int:
    """Convert a table."""
    return _convert(given, f"table:{given.name}", split=given.split, config=given.config or None)


def data_lerobot(given: DataLerobot) -> int:
    """Convert a LeRobot data set."""
    size = whole_numbers(given.image_size, "image_size")
    if len(size) not in (0, 2):
        raise UsageError(f"--image-size has {len(size)} numbers: give height and width")
    cameras = given.cameras[0] if given.cameras in (("read",), ("skip",)) else given.cameras
    return _convert(given, f"lerobot:{given.name}", cameras=cameras, image_size=tuple(size) or None)


def data_show(given: DataShow) -> int:
    """Describe a data set."""
    output = Path(given.output)
    if given.output:
        folders.check_writable(output)

    from seqdec import storage
    from seqdec.data.description import describe, plot_description
    from seqdec.formats.load import load_dataset

    dataset = load_dataset(given.path)
    description = str(describe(dataset))
    print(description)
    if given.output:
        folders.make_folder(output)
        storage.write_text(output / "description.txt", description + "\n")
    if given.plot:
        picture = output / ("description.png" if given.output else f"{folders.name_of(given.path)}.png")
        plot_description(dataset, picture)
        print(f"picture: {picture}")
    return 0


def _convert(given: Conversion, word: str, **options: object) -> int:
    """Write what a word means to a data folder as it is read, by options of its format, unless it is there already."""
    folder = folders.check_data_folder(given.output or f"data/{folders.short_name(word)}", again=True)

    from seqdec.data.source import convert
    from seqdec.formats.load import source_of

    if isinstance(given, DataTable | DataHdf5 | DataLerobot) and (columns := columns_of(given)) is not None:
        options["columns"] = columns
    if isinstance(given, DataTable | DataHdf5) and given.env:
        options["spec"] = spec_of(given.env)
    if given.episodes:
        options["episodes"] = _episode_numbers(given.episodes)
    source = source_of(word, **options)
    if source is None:
        raise UsageError(f"{word} is a data set already: train on it, or give KIND:PLACE")
    if given.missing and not isinstance(given, DataTable):
        source = replace(source, spec=replace(source.spec, missing=given.missing))
    folders.make_folder(folder.parent)
    recover(folder.parent)
    with progress(source.num_episodes, "episode") as advance:
        is_new = convert(source, folder, progress=advance, **keywords(given, convert))
    if not is_new:
        print(f"{folder} holds this already: nothing to do", flush=True)
    return show_folder(folder)


def _episode_numbers(words: Sequence[str]) -> list[int]:
    """Return the numbers that words such as "7" and "20-99" name."""
    numbers: list[int] = []
    for word in words:
        first, *last = whole_numbers(word.split("-", 1), "episodes")
        numbers += range(first, last[0] + 1) if last else [first]
    return numbers


def show_folder(folder: Path) -> int:
    """Describe a data folder and say what to do with it."""
    from seqdec.data.description import describe
    from seqdec.formats.load import load_dataset

    description = describe(load_dataset(folder))
    print(f"{description}\ndata: {folder}\nnext: seqdec train --data {shlex.quote(str(folder))}", flush=True)
    return 0


def columns_of(given: DataTable | DataHdf5 | DataLerobot) -> "Columns | None":
    """Return which column is what, as words say it; None where they say nothing."""
    from seqdec.formats.columns import Columns

    def none(word: str) -> str | None:
        return None if word == "none" else word

    def names(words: Sequence[str], role: str) -> "str | list[str] | dict[str, list[str] | str]":
        if not any("=" in word for word in words):
            return words[0] if len(words) == 1 else list(words) or ""
        pairs = [word.partition("=")[::2] for word in words]
        wrong = next((key for key, columns in pairs if not key or not columns), None)
        if wrong is not None:
            raise UsageError(f"--{role}: {wrong!r} stands beside KEY=COLUMN words: give all of them a key, or none")
        _refuse_twice([key for key, _ in pairs], role)
        return {f"{role}.{key}": columns.split(",") if "," in columns else columns for key, columns in pairs}

    said = vars(given)
    columns = {
        name: none(said[name])
        for name in ("episode", "step", "reward", "terminated", "truncated", "text")
        if name in said
    }
    columns |= {
        name: None if said[name] == ("none",) else names(said[name], name)
        for name in ("observation", "action", "final")
        if name in said
    }
    if isinstance(given, DataTable):
        missing = [word.partition("=")[::2] for word in given.missing]
        _refuse_twice([leaf for leaf, _ in missing], "missing")
        columns |= {"missing": {leaf: none(column) or None for leaf, column in missing}}
        columns |= {"metadata": given.keep, "discrete": given.discrete}
    named = Columns(**columns)  # pyright: ignore[reportArgumentType]
    return None if named == Columns() else named


def _refuse_twice(keys: Sequence[str], role: str) -> None:
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UsageError(f"--{role} gives {twice!r} twice: give each once (several columns as {twice}=A,B)")


def spec_of(env_id: str) -> "EnvironmentSpec":
    """Return the spec of an environment that the user typed; it is made once, to be looked at."""
    from seqdec.play.closing import closing_envs
    from seqdec.play.make import make_envs, spec_of_env

    with closing_envs(make_envs(env_id, 1)) as envs:
        return spec_of_env(envs.envs[0].env)  # pyright: ignore[reportAttributeAccessIssue]  (one process, guarded)
