"""What an option is: default, help, limits and what a resumed run may change, said once beside the field.

A verb has one flat frozen record of options. From it come its `--help` and its parsing (by tyro), the check of a
config.json, and the tables of docs/command-line.md. Nothing here imports torch, and tyro only when there are words.

    steps: int = option(300, "Optimizer updates.", at_least=1)
"""

import dataclasses
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import MISSING, Field, field, fields
from functools import partial
from inspect import signature
from itertools import groupby
from shutil import get_terminal_size
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from seqdec.errors import UsageError, suggest

# What a resumed run does with another value: takes it, takes it with a warning, refuses it; or the option says only how
# a run is started, and config.json leaves it out.
OnResume = Literal["free", "steering", "fixed", "starting"]
NO_END = 2**31 - 1
LEAST_COLUMNS = 40  # of a terminal
Words = tuple[str, ...]
Value = TypeVar("Value")
Flags = TypeVar("Flags")  # a verb's record


def option(
    default: Value,
    text: str,
    *,
    at_least: float = -math.inf,
    at_most: float = NO_END,
    resume: OnResume = "free",
    alone: str = "",
) -> Value:
    """Return a field of a verb's record.

    Args:
        default: Value where the flag is not given; None, "" or () where other things decide, which the help says.
        text: Line of help.
        at_least: Lowest value of a number.
        at_most: Highest value of a number.
        resume: What `--resume` does where the run has another value.
        alone: What the flag means where no value follows; "" where one must.
    """
    metadata = {"help": text, "limits": (at_least, at_most), "resume": resume, "alone": alone}
    return field(default=default, metadata=metadata)  # pyright: ignore[reportReturnType]


fixed = partial(option, resume="fixed")  # a run cannot go on with another value: its model or data would be others
steering = partial(option, resume="steering")  # with another value, a resumed run is not the unbroken one


def needed(text: str) -> str:
    """Return the field of a word that a verb cannot do without."""
    return field(metadata={"help": text, "limits": (-math.inf, NO_END), "resume": "free", "alone": ""})


to_reset = partial(
    option, "", "JSON for the environment's reset: an object, or a list, of which episode i has the i-th."
)
debug = partial(option, False, "Show the traceback of an error.", resume="starting")  # which every verb has


def options_of(kind: type) -> dict[str, Field[object]]:
    """Return the fields of a verb's record by name."""
    return {entry.name: entry for entry in fields(kind)}


def kept(kind: type) -> list[str]:
    """Return the names of the options that config.json keeps: all but those that say only how a run is started."""
    return [name for name, entry in options_of(kind).items() if entry.metadata["resume"] != "starting"]


def required(kind: type) -> list[str]:
    """Return the names of the words that a verb cannot do without."""
    return [name for name, entry in options_of(kind).items() if entry.default is MISSING]


def flag(name: str) -> str:
    """Return an option's name as it is typed."""
    return "--" + name.replace("_", "-")


def keywords(record: object, function: Callable[..., object], *but: str, **others: object) -> dict[str, Any]:
    """Return the options that are keywords of a function by the same names, all but some; `others` stand above them."""
    names = [entry.name for entry in signature(function).parameters.values() if entry.kind is entry.KEYWORD_ONLY]
    return {name: vars(record)[name] for name in names if name in vars(record) and name not in but} | others


def parse(kind: type[Flags], words: Sequence[str], *, verb: str = "", default: Flags | None = None) -> Flags:
    """Return the record that the words after a verb stand for.

    Args:
        kind: Record to fill.
        words: What was typed after the verb; `--help` prints the help and exits.
        verb: Name of the verb, for its help.
        default: Values for what was not typed, instead of the record's own.

    Raises:
        UsageError: A flag is unknown (the nearest one is named) or there twice, or a value is missing, of the wrong
            type or out of range.
    """
    import tyro

    _check_once(kind, words)
    words = _with_values(kind, words)
    config = [tyro.conf.PositionalRequiredArgs, tyro.conf.DisallowNone]
    if {"-h", "--help"} & set(words):
        config.append(tyro.conf.FlagCreatePairsOff)  # --no-streaming is taken, and not shown
    shown, box = _for_tyro(kind), io.StringIO()
    values = None if default is None else shown(**vars(default))
    try:
        with redirect_stderr(box), _wide_terminal():
            parsed = tyro.cli(shown, prog=f"seqdec {verb}", args=words, default=values, config=config)  # pyright: ignore
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_sentence(box.getvalue(), kind)) from None
    given = kind(**vars(parsed))
    for name, entry in options_of(kind).items():
        value = getattr(given, name)
        if value == () and entry.default != ():
            raise UsageError(f"{flag(name)} has no value: give one or more")
        check_limits(flag(name), entry, value)
    return given


def _check_once(kind: type, words: Sequence[str]) -> None:
    """Refuse a flag that is typed twice, of which the last would count, in silence."""
    names = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    for shown in map(flag, options_of(kind)):
        typed = [name for name in names if name in (shown, shown.replace("--", "--no-", 1))]
        if len(typed) > 1:
            raise UsageError(f"{' and '.join(dict.fromkeys(typed))} is typed {len(typed)} times: give it once")


def _with_values(kind: type, words: Sequence[str]) -> list[str]:
    """Return the words with a value for each flag that stands alone and may."""
    alone = {flag(name): entry.metadata["alone"] for name, entry in options_of(kind).items() if entry.metadata["alone"]}
    pairs = zip(words, [*words[1:], "--"], strict=False)
    return [f"{word}={alone[word]}" if word in alone and after.startswith("-") else word for word, after in pairs]


@contextmanager
def _wide_terminal() -> Iterator[None]:
    """Let a terminal have the columns that tyro's help needs: in one of one column it never ends."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(max(LEAST_COLUMNS, get_terminal_size().columns))
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _for_tyro(kind: type) -> type:
    """Return a record whose help calls what must be given by its name, and shows a default only where it is a value."""
    from tyro.conf import arg

    shown: list[tuple[str, object, object]] = []
    for name, entry in options_of(kind).items():
        is_value = entry.default is not None and entry.default is not False and entry.default not in ("", ())
        name_shown = name.upper() if entry.default is MISSING else None
        look = arg(metavar=name_shown, help_behavior_hint=None if is_value else "")
        hint = Annotated[get_type_hints(kind)[name], look]
        shown.append((name, hint, field(default=entry.default, metadata=entry.metadata)))
    return dataclasses.make_dataclass(kind.__name__, shown, frozen=True, namespace={"__doc__": kind.__doc__})  # pyright: ignore


def _sentence(box: str, kind: type) -> str:
    """Return tyro's box of words as one sentence: its first paragraph, without frame, and the nearest flag."""
    rows = [row.strip("│| ") for row in box.splitlines()[1:]]
    paragraphs = [list(rows) for is_rule, rows in groupby(rows, lambda row: not row.strip("─╭╮╰╯-")) if not is_rule]
    sentence = " ".join(" ".join(paragraphs[0]).split()).rstrip(".")
    known = [flag(name) for name in options_of(kind) if name not in required(kind)]
    if (unknown := sentence.removeprefix("Unrecognized options: ")) != sentence:
        typed = next((word for word in unknown.split(", ") if word.startswith("--")), "").partition("=")[0]
        return f"no place for {unknown}{suggest(typed.replace('_', '-'), known)}"
    for name, hint in get_type_hints(kind).items():
        if sentence.startswith(f"Error parsing {flag(name)}:"):
            return f"{flag(name)} has a wrong value: give {expected_values(hint)}"
    return sentence[0].lower() + sentence[1:]


def expected_values(hint: object) -> str:
    """Return in words what values a type has."""
    hint = without_none(hint)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    words: dict[object, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(hint, "a list of strings")


def without_none(hint: object) -> object:
    """Return X for `X | None` and for X."""
    return get_args(hint)[0] if type(None) in get_args(hint) else hint


def check_limits(where: str, entry: Field[object], value: object) -> None:
    """Refuse a number outside its option's limits."""
    low, high = entry.metadata["limits"]
    if isinstance(value, int | float) and not (low <= value <= high and value != -math.inf):
        expected = f"{low:g} or more" if high == NO_END and value <= high else f"a number from {low:g} to {high:g}"
        shown = f"{value:g}" if isinstance(value, float) or abs(value) <= sys.float_info.max else "too large"
        raise UsageError(f"{where} is {shown}: give {expected}")


def numbers(words: Sequence[str], name: str) -> list[float]:
    """Return the numbers that the words of an option are."""
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise UsageError(f"{flag(name)} is {' '.join(words)}: give numbers") from error


def whole_numbers(words: Sequence[str], name: str) -> list[int]:
    """Return the whole numbers, 0 or more, that the words of an option are."""
    values = numbers(words, name)
    wrong = next((value for value in values if not value.is_integer() or value < 0), None)
    if wrong is not None:
        raise UsageError(f"{flag(name)} holds {wrong:g}: give whole numbers")
    return [int(value) for value in values]


def reset_options(word: str) -> "dict[str, object] | list[dict[str, object]] | None":
    """Return what --reset-options says in JSON, None where it is not given."""
    try:
        return json.loads(word) if word else None
    except ValueError as error:
        raise UsageError(f"--reset-options is no JSON: {error}") from error
