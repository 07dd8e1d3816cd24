"""Which verb words begin with, its record and its function; and what `--help` says of all of them.

Imports stay light at the top of the verbs' modules, so that `--help` answers at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

from seqdec.cli import console, data, demo, evaluate, merge, options, record, train
from seqdec.errors import DataError, UsageError, suggest

VERBS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "demo": (demo.Demo, demo.demo),
    "demo cartpole": (demo.DemoCartpole, demo.demo_cartpole),
    "data cartpole": (data.DataCartpole, data.data_cartpole),
    "data minari": (data.DataMinari, data.data_minari),
    "data hdf5": (data.DataHdf5, data.data_hdf5),
    "data table": (data.DataTable, data.data_table),
    "data lerobot": (data.DataLerobot, data.data_lerobot),
    "data convert": (data.DataConvert, data.data_convert),
    "data record": (record.DataRecord, record.data_record),
    "data show": (data.DataShow, data.data_show),
    "train": (train.Train, train.train_run),
    "eval": (evaluate.Eval, evaluate.evaluate_run),
    "merge": (merge.Merge, merge.merge_run),
    "env": (console.Env, console.show_environment),
}


def split_verb(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the verb that words begin with ("train", "data show") and the words after it.

    Raises:
        UsageError: There is no such verb.
    """
    firsts = list(dict.fromkeys(verb.split()[0] for verb in VERBS))
    if not words or words[0] not in firsts:
        problem = f"no verb {words[0]!r}{suggest(words[0], firsts)}" if words else "no verb given"
        raise UsageError(f"{problem} (the verbs are {', '.join(firsts)})")
    if " ".join(words[:2]) in VERBS:
        return " ".join(words[:2]), list(words[2:])
    if words[0] in VERBS:
        return words[0], list(words[1:])
    seconds = [verb.split()[1] for verb in VERBS if verb.startswith(f"{words[0]} ")]
    if len(words) < 2 or words[1] not in seconds:
        problem = f"no {words[1]!r}{suggest(words[1], seconds)}" if words[1:] else "what to do is missing"
        raise UsageError(f"{words[0]}: {problem} (give one of {', '.join(seconds)})")
    return f"{words[0]} {words[1]}", list(words[2:])


def run(words: list[str]) -> int:
    """Do what words ask for, and return the exit code.

    Raises:
        UsageError: There is no such verb or flag; or the verb says so, as of all our errors.
    """
    if not words or words[0] in ("-h", "--help") or (words[0] == "data" and words[1:2] in ([], ["-h"], ["--help"])):
        print(_help(words[:1] if words[:1] == ["data"] else []))
        return 0 if {"-h", "--help"} & set(words) else UsageError.exit_code
    verb, rest = split_verb(words)
    kind, run = VERBS[verb]
    try:
        return run(train.parse_train(rest) if verb == "train" else options.parse(kind, rest, verb=verb))
    except (UsageError, DataError) as error:
        if error.option in options.options_of(kind):
            error.args = (f"{error} ({options.flag(error.option)})",)
        raise


def _help(words: Sequence[str]) -> str:
    lines = [] if words else ["Finetune a pretrained transformer on trajectories, then prompt it to act.", ""]
    for verb, (kind, _) in VERBS.items():
        if not words or verb.split()[0] == words[0]:
            usage = " ".join([verb, *(name.upper() for name in options.required(kind))])
            lines.append(f"  seqdec {usage:<22} {(kind.__doc__ or '').splitlines()[0]}")
    lines += ["", "`seqdec VERB --help` lists the flags of a verb; `--debug` shows the traceback of an error."]
    if not words:
        lines += ["Exit codes: 0 done, 2 usage, 65 bad data, 70 numerics, 74 cannot read or write, 130/143 stopped."]
    return "\n".join(lines)
