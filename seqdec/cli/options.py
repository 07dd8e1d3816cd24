"""The words of the command line: one flat frozen record a verb, and how words or a config.json become one.

Scripts rely on these names, so tests freeze them. tyro parses and writes `--help`; what it would refuse is found here
first, so that a slip gets one sentence. Nothing here imports torch, and tyro only when there is something to parse.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal, TypeVar, get_args, get_origin, get_type_hints

from seqdec.errors import UsageError, suggest


@dataclass(frozen=True)
class Demo:
    """Make the sample data, finetune a pretrained transformer on it, evaluate and plot: minutes on a laptop."""

    data: str = "data/cartpole"
    """Where the sample data is, or goes."""
    output: str = "runs/demo"
    """Where the run goes."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class DataCartpole:
    """Make the sample data: CartPole-v1 by a scripted controller at graded noise. No download."""

    output: str = "data/cartpole"
    """Folder to write."""
    episodes: int = 260
    """How many episodes."""
    seed: int = 0
    """Seed of the noise and of the first episode."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class DataMinari:
    """Convert a Minari data set, checked value by value."""

    id: str
    """Minari id (such as mujoco/hopper/medium-v0) or the path of a local one."""
    output: str = ""
    """Folder to write (default: data/ and the id's last parts)."""
    replace: bool = False
    """Make the folder again if it holds something else."""
    missing: tuple[str, ...] = ()
    """Leaves of the observation whose values may be missing (observation, observation.camera, ...)."""
    on_nonfinite: Literal["refuse", "drop-episode"] = "refuse"
    """What to do with NaN or infinity."""
    clip_actions: bool = False
    """Clip actions outside the action space instead of refusing them."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class DataHdf5:
    """Convert a flat HDF5 file, as D4RL has them."""

    file: str
    """File with observations, actions, rewards, terminals and, where there are any, timeouts."""
    env: str = ""
    """Environment id that the file was recorded in, for its spaces and for evaluations (default: seen in the file)."""
    max_episode_steps: int = 0
    """Time limit that cuts episodes where the file has no timeouts (0: the environment's, or none)."""
    output: str = ""
    """Folder to write (default: data/ and the file's name)."""
    replace: bool = False
    """Make the folder again if it holds something else."""
    missing: tuple[str, ...] = ()
    """Leaves of the observation whose values may be missing (observation, observation.camera, ...)."""
    on_nonfinite: Literal["refuse", "drop-episode"] = "refuse"
    """What to do with NaN or infinity."""
    clip_actions: bool = False
    """Clip actions outside the action space instead of refusing them."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class DataTable:
    """Convert a table: Parquet, JSON lines, CSV, a folder of these, or a data set of the Hub."""

    name: str
    """File, folder, or a Hub id such as user/name."""
    episode: str = ""
    """Column that says which episode a step belongs to (default: one row is one episode)."""
    observation: tuple[str, ...] = ("observation",)
    """Columns of the observation: one, several that make a vector, or KEY=COLUMN,... of a Dict."""
    action: tuple[str, ...] = ("action",)
    """Columns of the action, likewise."""
    final: tuple[str, ...] = ("final",)
    """Columns of what was seen after a step, likewise, where there are any."""
    reward: str = "reward"
    """Column of the reward."""
    terminated: str = "terminated"
    """Column that is true where the task ended (none: there is none)."""
    truncated: str = "truncated"
    """Column that is true where a time limit cut the episode (none: there is none)."""
    text: str = "text"
    """Column with words about the episode (none: there is none)."""
    keep: tuple[str, ...] = ()
    """Further columns to keep of an episode."""
    env: str = ""
    """Environment id that the table was recorded in, for its spaces and evaluations (default: seen in the table)."""
    split: str = "train"
    """Part of a data set that has several."""
    config: str = ""
    """Configuration of a Hub id that has several."""
    output: str = ""
    """Folder to write (default: data/ and the name's last part)."""
    replace: bool = False
    """Make the folder again if it holds something else."""
    missing: tuple[str, ...] = ()
    """Leaves of the observation whose values may be missing, or LEAF=COLUMN where a column says so."""
    on_nonfinite: Literal["refuse", "drop-episode"] = "refuse"
    """What to do with NaN or infinity."""
    clip_actions: bool = False
    """Clip actions outside the action space instead of refusing them."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class DataLerobot:
    """Convert a LeRobot data set (v2.0, v2.1, v3.0): a folder or a Hub id."""

    name: str
    """Folder, or a Hub id such as lerobot/pusht."""
    cameras: tuple[str, ...] = ("read",)
    """Cameras to read by name, or read (all), or skip (none). Videos need seqdec[video]."""
    image_size: tuple[str, ...] = ()
    """Height and width to bring images to (default: their own)."""
    episodes: tuple[str, ...] = ()
    """Numbers of the episodes to read (default: all)."""
    output: str = ""
    """Folder to write (default: data/ and the name's last part)."""
    replace: bool = False
    """Make the folder again if it holds something else."""
    missing: tuple[str, ...] = ()
    """Leaves of the observation whose values may be missing (observation, observation.camera, ...)."""
    on_nonfinite: Literal["refuse", "drop-episode"] = "refuse"
    """What to do with NaN or infinity."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class DataRecord:
    """Record episodes of a Gymnasium environment; the same command goes on where it was cut off."""

    env_id: str
    """Registered environment id."""
    output: str = ""
    """Folder to write (default: data/ and the id)."""
    policy: str = "random"
    """Who acts: random, a run or policy folder, or the zip file of a Stable-Baselines3 model."""
    target_return: str = "max"
    """Return a trained policy is asked for: a number or a quantile of its data."""
    task: str = ""
    """Which task of a policy that has several."""
    algorithm: str = ""
    """What saved the zip file: ppo, sac, dqn, ..."""
    trust_policy: bool = False
    """Open the zip file, which runs code that is in it."""
    episodes: int | None = None
    """How many episodes (default: 100, unless --timesteps is given)."""
    timesteps: int = 0
    """Record whole episodes until there are so many timesteps (0: count episodes instead)."""
    num_envs: int = 1
    """Environments that run together."""
    seed: int = 0
    """Seed of the first episode; the next one has the next seed."""
    max_steps: int = 0
    """Longest episode (0: the environment's own limit)."""
    missing: tuple[str, ...] = ()
    """Leaves of the observation whose values may be missing (such as observation.camera)."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class DataShow:
    """Describe a data set: episodes, timesteps, spaces, returns, bytes."""

    path: str
    """Data folder, or minari:ID."""
    output: str = ""
    """Folder to write the same lines to, as description.txt (default: print only)."""
    plot: bool = False
    """Draw histograms of returns and lengths, as a PNG."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Train:
    """Finetune a backbone on trajectories; leaves a run folder with a policy in it."""

    data: tuple[str, ...] = ("data/cartpole",)
    """Data folders or minari:ID; of several tasks each as TASK=FOLDER."""
    weights: tuple[str, ...] = ()
    """How often each of --data is drawn (default: all timesteps alike, all tasks alike)."""
    fraction: float | None = None
    """Share of the episodes to train on, drawn at random (default: all)."""
    best: float | None = None
    """Share of the episodes to train on, those of the highest return (default: all)."""
    streaming: bool = False
    """Read the one source of --data while training, without converting it."""
    columns: str = ""
    """JSON file that says which column is what, for --streaming of a table (default: seqdec's names)."""
    buffer: int = 1024
    """Episodes that a process holds at a time while --streaming."""
    reuse: float = 1.0
    """How often a timestep is used each time that its episode passes the buffer while --streaming."""
    heldout_episodes: int = 0
    """First episodes of a stream that are held out."""
    output: str = ""
    """Run folder (default: runs/ and the name of the data)."""
    backbone: str = "smollm2"
    """smollm2, small, a Hugging Face id or a folder."""
    init: Literal["pretrained", "random"] = "pretrained"
    """The backbone's own weights, or its random twin."""
    num_layers: int = 0
    """Use the first n layers (0: 6 of smollm2, all of another backbone)."""
    finetune: Literal["full", "lora", "frozen"] = "full"
    """What of the backbone learns."""
    layout: str = "multi_game"
    """Order of the sequence: a preset or a layout.json."""
    head: Literal["gaussian", "mse", "binned"] = "gaussian"
    """How continuous actions are predicted."""
    return_head: Literal["gaussian", "binned"] = "binned"
    """How returns are predicted, where the layout predicts them."""
    prompt: tuple[str, ...] = ()
    """What stands in the prompt: target_return, text, goal, waypoint1 and so on, final, demo, leaves of the observation
    (default: its texts that stay)."""
    prompt_dropout: float | None = None
    """How often each fact of the prompt, and the return to go, is unknown, and how often all (default: 0.2 where
    --prompt names facts or the layout predicts observations, else 0)."""
    goal_of: str = ""
    """Leaf of the observation that goals, waypoints and the final state are read from (default: the only one)."""
    goal_entries: tuple[str, ...] = ()
    """Entries of it that make a goal, counted from 0 (default: all)."""
    demo_length: int = 10
    """Timesteps of a demo."""
    demo_group: str = "text"
    """Column of the data that says which episodes are of one task, for demos."""
    demo_part: Literal["random", "best"] = "random"
    """Which timesteps of an episode are shown as a demo."""
    fuse: tuple[str, ...] = ()
    """Nested observation or action whose leaves share one token."""
    text_tokens: int = 32
    """Most tokens of a text."""
    mask_observation: float = 0.0
    """Share of the observations that are hidden while training, at random."""
    context_length: int = 10
    """Timesteps the model sees."""
    discount: float = 1.0
    """Discount of returns to go."""
    delayed_reward: bool = False
    """Pay all reward at the episode's end."""
    steps: int = 300
    """Optimizer updates."""
    batch_size: int = 32
    """Windows a step, over all processes."""
    accumulate: int = 1
    """Split each batch into this many parts (less memory, same result)."""
    learning_rate: float = 1e-3
    """Rate of new parameters."""
    backbone_learning_rate: float | None = None
    """Rate of the backbone (default: a tenth of --learning-rate for pretrained weights, the same for random ones)."""
    weight_decay: float = 1e-4
    """AdamW's weight decay."""
    warmup_steps: int = 20
    """Steps until the full rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Rate after the warmup."""
    clip_norm: float = 0.25
    """Largest gradient norm (0: no clipping)."""
    dropout: float | None = None
    """Dropout of the backbone (default: 0.1 for small, its own for others)."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    seed: int = 0
    """Seed of everything."""
    heldout_fraction: float = 0.1
    """Share of the episodes held out for the held-out loss (0: none)."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: int = 100
    """Steps between held-out losses and evaluations (0: at the end only)."""
    checkpoint_every: int = 100
    """Steps between checkpoints (0: at the end only)."""
    keep_checkpoints: int = 2
    """How many checkpoints stay."""
    target_return: tuple[str, ...] = ("max",)
    """Returns to ask for while training: numbers, or min, q10 .. q90, median, max of the data."""
    episodes: int = 8
    """Episodes a target while training."""
    num_envs: int = 8
    """Environments that run together."""
    env: str = ""
    """Environment id to evaluate in (default: the data's own)."""
    trust_env: bool = False
    """Make the environment that the data names, even from an entry point (runs its code)."""
    temperature: float = 1.0
    """Temperature of sampled actions (0: the most likely)."""
    max_steps: int = 0
    """Longest episode (0: the environment's own limit)."""
    tracker: Literal["none", "wandb", "tensorboard", "trackio"] = "none"
    """Where metrics go beside metrics.jsonl."""
    resume: bool = False
    """Go on with the run in --output, with its own flags but for those given."""
    config: str = ""
    """Take the flags of a run's config.json but for those given."""
    nproc: int = 1
    """Processes on this machine (torchrun)."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Eval:
    """Ask a policy for returns and report what it earns: a table, report.json, report.png."""

    run: str
    """Run folder or policy folder."""
    task: str = ""
    """Task of a policy that has several."""
    text: str = ""
    """What to do, in words, for a policy with a text in its prompt (default: its data's)."""
    goal: tuple[str, ...] = ()
    """Observation to reach: its numbers, or the leaf of the observation that says it."""
    goal_in: float | None = None
    """Timesteps until the goal is reached (default: unknown)."""
    waypoints: tuple[str, ...] = ()
    """Observations to pass on the way, in order: what a goal has of the first, of the second, and so on."""
    waypoints_in: tuple[str, ...] = ()
    """Timesteps until each of them is passed (default: unknown)."""
    final: tuple[str, ...] = ()
    """Observation after the last step: its numbers, or the leaf of the observation that says it."""
    demo: str = ""
    """Data folder or minari:ID, whose best episode is shown as a demo: its best timesteps."""
    target_return: tuple[str, ...] = ("q10", "median", "q90", "max")
    """Returns to ask for: numbers, min, q10 .. q90, median, max of the data, or expert: what one would get."""
    guidance: tuple[str, ...] = ()
    """How much to sharpen actions towards the evidence: a number, or NAME=NUMBER for pieces of it."""
    plan: int = 0
    """Timesteps to look ahead by the model's own predictions (0: act without planning)."""
    plan_candidates: int = 16
    """Actions that a plan tries at a timestep."""
    plan_keep: int = 4
    """How many of them go on to the next timestep."""
    plan_outcomes: int = 8
    """What may come of each, over which a plan averages (1: beam search)."""
    replan_every: int = 1
    """Timesteps that are acted by a plan."""
    episodes: int = 32
    """Episodes a target."""
    num_envs: int = 16
    """Environments that run together."""
    async_envs: bool = False
    """Step each environment in a process of its own, half of them while the model works for the others."""
    seed: int = 0
    """Seed of the first episode; the next one has the next seed, for every target."""
    temperature: float = 1.0
    """Temperature of sampled actions (0: the most likely)."""
    env: str = ""
    """Environment id to evaluate in (default: the data's own)."""
    trust_env: bool = False
    """Make the environment that the policy names, even from an entry point (runs its code)."""
    max_steps: int = 0
    """Longest episode (0: the environment's own limit)."""
    output: str = ""
    """Folder for report.json and report.png (default: the run folder)."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Env:
    """Show versions, devices, the backbone cache and the extras installed."""

    debug: bool = False
    """Show the traceback of an error."""


VERBS: dict[str, type] = {
    "demo": Demo,
    "data cartpole": DataCartpole,
    "data minari": DataMinari,
    "data hdf5": DataHdf5,
    "data table": DataTable,
    "data lerobot": DataLerobot,
    "data record": DataRecord,
    "data show": DataShow,
    "train": Train,
    "eval": Eval,
    "env": Env,
}
# Lowest and highest value of a number; a name means the same wherever it stands.
LIMITS: dict[str, tuple[float, float]] = {
    "accumulate": (1, 65536),
    "backbone_learning_rate": (0, 10),
    "batch_size": (1, 2**31),
    "buffer": (1, 2**31),
    "best": (0, 1),
    "checkpoint_every": (0, 2**62),
    "clip_norm": (0, 1e12),
    "context_length": (1, 2**31),
    "demo_length": (1, 65536),
    "discount": (0, 1),
    "dropout": (0, 0.9),
    "episodes": (1, 10**9),
    "fraction": (0, 1),
    "goal_in": (0, 1e9),
    "mask_observation": (0, 1),
    "text_tokens": (1, 65536),
    "eval_every": (0, 2**62),
    "heldout_episodes": (0, 2**31),
    "heldout_fraction": (0, 0.9),
    "keep_checkpoints": (1, 10**6),
    "learning_rate": (0, 10),
    "log_every": (1, 2**62),
    "max_episode_steps": (0, 10**9),
    "max_steps": (0, 2**62),
    "nproc": (1, 1024),
    "plan": (0, 10000),
    "plan_candidates": (1, 65536),
    "plan_keep": (1, 65536),
    "plan_outcomes": (1, 65536),
    "prompt_dropout": (0, 0.99),
    "replan_every": (1, 10000),
    "num_envs": (1, 65536),
    "num_layers": (0, 10000),
    "reuse": (0, 1e6),
    "seed": (0, 2**31 - 1),
    "steps": (1, 2**62),
    "temperature": (0, 1000),
    "warmup_steps": (0, 2**62),
    "weight_decay": (0, 1000),
}
# These say how a run is started, not what it is: config.json leaves them out.
STARTING = ("config", "resume", "debug", "nproc")
Flags = TypeVar("Flags")


def split_verb(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the verb that words begin with ("train", "data show") and the words after it.

    Raises:
        UsageError: There is no such verb.
    """
    firsts = list(dict.fromkeys(verb.split()[0] for verb in VERBS))
    if not words or words[0] not in firsts:
        got = f"no verb {words[0]!r}{suggest(words[0], firsts)}" if words else "no verb given"
        raise UsageError(f"{got} (the verbs are {', '.join(firsts)})")
    if words[0] in VERBS:
        return words[0], list(words[1:])
    seconds = [verb.split()[1] for verb in VERBS if verb.startswith(f"{words[0]} ")]
    if len(words) < 2 or words[1] not in seconds:
        got = f"no {words[1]!r}{suggest(words[1], seconds)}" if words[1:] else "what to do is missing"
        raise UsageError(f"{words[0]}: {got} (give one of {', '.join(seconds)})")
    return f"{words[0]} {words[1]}", list(words[2:])


def parse(kind: type[Flags], words: Sequence[str], *, default: Flags | None = None) -> Flags:
    """Return the record that the words after a verb stand for.

    Args:
        kind: Record to fill.
        words: What was typed after the verb; `--help` prints the help and exits.
        default: Values for what was not typed, instead of the record's own.

    Raises:
        UsageError: A flag is unknown (the nearest one is named), or a value is missing, of the wrong type or out of
            range.
    """
    import tyro

    program = f"seqdec {next(verb for verb, record in VERBS.items() if record is kind)}"
    if {"-h", "--help"} & set(words):
        kind = _with_readable_help(kind)
    else:
        _check_words(kind, words)
    options = (tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff)
    # a flag that is on already must still be taken, and can be turned off
    if default is not None or any(word.startswith(("--no-", "--no_")) for word in words):
        options = (tyro.conf.PositionalRequiredArgs,)
    parsed: Flags = tyro.cli(kind, prog=program, args=list(words), default=default, config=options)  # pyright: ignore
    for name in LIMITS.keys() & get_type_hints(kind).keys():
        if isinstance(getattr(parsed, name), int | float):
            _check_limits(flag(name), name, getattr(parsed, name))
    return parsed


def from_config(kind: type[Flags], config: Mapping[str, object], where: str) -> Flags:
    """Return the record that a config.json holds, whole (as a run writes it) or its flags alone.

    Raises:
        UsageError: A key is unknown (the nearest one is named), or a value is of the wrong type or out of range.
    """
    values = config["flags"] if isinstance(config.get("flags"), Mapping) else config
    assert isinstance(values, Mapping)
    hints = get_type_hints(kind)
    known = [name for name in hints if name not in STARTING]
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}{suggest(str(key), known)}")
    empty = [entry.name for entry in fields(kind) if entry.default == ()]  # pyright: ignore[reportArgumentType]
    read = {name: value for name, value in values.items() if not (name in empty and value == [])}
    return kind(**{name: _from_json(hints[name], value, name, where) for name, value in read.items()})


def to_config(flags: object) -> dict[str, object]:
    """Return the flags that config.json keeps: all but those that only say how a run is started."""
    values = {entry.name: getattr(flags, entry.name) for entry in fields(flags)}  # pyright: ignore[reportArgumentType]
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name not in STARTING
    }


def required(kind: type) -> list[str]:
    """Return the names of the words that a verb cannot do without."""
    return [entry.name for entry in fields(kind) if entry.default is dataclasses.MISSING]


def flag(name: str) -> str:
    """Return a field's name as it is typed."""
    return "--" + name.replace("_", "-")


def _with_readable_help(kind: type[Flags]) -> type[Flags]:
    """Return a record whose help names what must be given, and shows a default only where it is a value."""
    from tyro.conf import arg

    shown: list[tuple[str, object]] = []
    for entry in fields(kind):  # pyright: ignore[reportArgumentType]
        hint, default = get_type_hints(kind)[entry.name], entry.default
        value = {float: "FLOAT", int: "INT", tuple[str, ...]: "STR [STR ...]"}.get(_without_none(hint))
        if default is dataclasses.MISSING:
            value = entry.name.upper()
        # a switch is off until it is given, and of what is empty the line itself says what that means
        told = "" if default is None or default is False or default in ("", ()) else None
        shown.append((entry.name, Annotated[hint, arg(metavar=value, help_behavior_hint=told)]))
    return dataclasses.make_dataclass(
        kind.__name__, shown, bases=(kind,), frozen=True, namespace={"__doc__": kind.__doc__}
    )


def _check_words(kind: type, words: Sequence[str]) -> None:
    hints = get_type_hints(kind)
    positionals, given = _split_words(kind, words)
    names = required(kind)
    verb = next(verb for verb, record in VERBS.items() if record is kind)
    usage = " ".join(["seqdec", verb, *(name.upper() for name in names)])
    if len(positionals) < len(names):
        raise UsageError(f"{names[len(positionals)].upper()} is missing: {usage} [flags]")
    if len(positionals) > len(names):
        extra = positionals[len(names)]
        raise UsageError(f"{extra!r} stands where no value is expected: {usage} [flags]")
    for name, values in given:
        if get_origin(hints[name]) is tuple:
            if not values:
                raise UsageError(f"{flag(name)} has no value: give one or more")
        elif hints[name] is not bool:
            if not values:
                raise UsageError(f"{flag(name)} has no value: give {_expected(hints[name])}")
            _check_word(hints[name], values[0], flag(name))


def _split_words(kind: type, words: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the words that stand alone, and each flag with the words that are its values."""
    hints = get_type_hints(kind)
    names = {entry.name for entry in fields(kind) if entry.default is not dataclasses.MISSING}  # pyright: ignore[reportArgumentType]
    positionals: list[str] = []
    given: list[tuple[str, list[str]]] = []
    room = 0
    for word in words:
        if word.startswith("-") and not _is_number(word):
            typed, equals, value = word.partition("=")
            name = typed.removeprefix("--").replace("-", "_")
            switched_off = name.removeprefix("no_")
            if name not in names and switched_off in names and hints[switched_off] is bool:
                name = switched_off
            if not typed.startswith("--") or name not in names:
                raise UsageError(f"unknown flag {typed!r}{suggest(flag(name), map(flag, sorted(names)))}")
            given.append((name, [value] if equals else []))
            many = get_origin(hints[name]) is tuple
            room = 0 if hints[name] is bool or equals else len(words) if many else 1
        elif room:
            given[-1][1].append(word)
            room -= 1
        else:
            positionals.append(word)
    return positionals, given


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_word(hint: object, word: str, name: str) -> None:
    hint = _without_none(hint)
    if get_origin(hint) is Literal:
        if word not in get_args(hint):
            raise UsageError(f"{name} is {word!r}{suggest(word, get_args(hint))} (give {_expected(hint)})")
    elif hint in (int, float):
        try:
            int(word) if hint is int else float(word)
        except ValueError:
            raise UsageError(f"{name} is {word!r}: give {_expected(hint)}") from None


def _check_limits(shown: str, name: str, value: float) -> None:
    low, high = LIMITS[name]
    if not (math.isfinite(value) and low <= value <= high):
        wanted = f"{low:g} or more" if high >= 65536 else f"a number from {low:g} to {high:g}"
        raise UsageError(f"{shown} is {value:g}: give {wanted}")


def _from_json(hint: object, value: object, name: str, where: str) -> object:
    if value is None and _without_none(hint) is not hint:
        return None
    hint = _without_none(hint)
    if get_origin(hint) is tuple:
        if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
            return tuple(value)
    elif get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        _check_limits(f"{where}: {name!r}", name, value)
        return float(value)
    elif isinstance(value, hint) and isinstance(value, bool) == (hint is bool):  # pyright: ignore[reportArgumentType]
        if isinstance(value, int) and name in LIMITS:
            _check_limits(f"{where}: {name!r}", name, value)
        return value
    raise UsageError(f"{where}: {name!r} is {value!r}: give {_expected(hint)}")


def _without_none(hint: object) -> object:
    """Return X for `X | None`, which is a flag whose default depends on others, and X for X."""
    return next(kind for kind in get_args(hint) if kind is not type(None)) if type(None) in get_args(hint) else hint


def _expected(hint: object) -> str:
    hint = _without_none(hint)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return "a list of strings"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]  # type: ignore[index]
