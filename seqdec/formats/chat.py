"""Logs of chat agents: a conversation is an episode, and what the assistant says are its actions.

    system   user, tool, ...   assistant   user, tool, ...   assistant   user, tool, ...
    text     observation 0     action 0    observation 1     action 1    final ("" where nothing is there)

One conversation a line or row, in OpenAI's words (messages: role, content, tool_calls) or ShareGPT's (conversations:
from, value), and what it earned, turn by turn or in all. Keys that are not named here are not looked at.
"""

import json
import logging
import math
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from gymnasium.spaces import Text

from seqdec.data.episode import Row, make_row
from seqdec.data.source import Attempt, Source, file_identity, source_of_attempts
from seqdec.errors import DataError
from seqdec.formats.arrays import json_lines
from seqdec.formats.guard import LINES, at, suffix_of
from seqdec.formats.open_table import Table, open_table
from seqdec.formats.table_formats import place
from seqdec.spaces.space import MAX_TEXT, kind_of, quote
from seqdec.spaces.spec import CHAT, EnvironmentSpec

_LISTS, _SPEAKERS, _CONTENTS = ("messages", "conversations"), ("role", "from"), ("content", "value")
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "tool_result"), "tool"),
}
_REWARDS = ("reward", "rewards", "score", "success", "label")  # the first of these that is there counts
_TEXT_PARTS = ("text", "input_text", "output_text")
logger = logging.getLogger(__name__)
_Object = Mapping[str, object]


def source(name: str | Path, *, split: str = "train", config: str | None = None) -> Source:
    """Return the conversations of a log, yet to be read; they are gone through once, for their letters.

    Args:
        name: a JSON lines or Parquet file, a folder of these or one that `datasets` saved, or a Hub id such as
            "user/name", which is fetched once.
        split: which part, where a data set has several.
        config: which of its configurations, where a Hub id has several.

    Raises:
        UsageError: no such log is there.
        DataError: a conversation that cannot be read, with its file and line.
    """
    table = open_table(name, split=split, config=config)
    letters, num_episodes, errors, is_paid = set(string.printable), 0, list[DataError](), False
    for row in _attempts(table):
        num_episodes += 1
        if isinstance(row, DataError):
            errors.append(row)
            continue
        is_paid = is_paid or bool(np.any(np.asarray(row["reward"])))
        for name in ("observation", "action", "final"):
            letters.update(*np.atleast_1d(np.asarray(row[name], object)))
    if len(errors) == num_episodes:
        raise errors[0] if errors else DataError(f"{table.name} has no conversations: give at least one")
    if not is_paid:
        words = "%s pays for nothing: no conversation or turn has a %s other than 0"
        logger.warning(words, table.name, ", ".join(_REWARDS))
    space = Text(MAX_TEXT, min_length=0, charset=frozenset(letters))
    identity = {
        "kind": "chat",
        "name": [str(path.resolve()) for path in table.files] or table.name,
        "split": split,
        "config": config,
        "files": file_identity(table.files),
        "revision": table.revision,
    }
    spec = EnvironmentSpec(space, space, id=CHAT)
    return source_of_attempts(spec, partial(_attempts, table), identity, num_episodes)


def _attempts(table: Table) -> Iterator[Attempt]:
    for file, number, conversation in _conversations(table):
        try:
            yield _row_of(conversation)
        except DataError as error:
            yield DataError(f"{place(file, number)}: {error}")


def _conversations(table: Table) -> Iterator[tuple[str, int, _Object]]:
    """Yield conversations after the name of their file and how many are before them in it."""
    if table.files and suffix_of(table.files[0]) in LINES:  # Arrow would ask for one type of all contents
        for path in table.files:
            for number, (_, conversation) in enumerate(json_lines(path)):
                yield str(path), number, conversation
        return
    names = [name for name in (*_LISTS, "system", *_REWARDS) if name in table.columns]
    for block in table.read(names, ()):
        for number, conversation in enumerate(block.rows.to_pylist(), block.first):
            yield block.file, number, {key: _without_null(value) for key, value in conversation.items()}


def _without_null(value: object) -> object:
    """Return a value of Arrow without the keys that other objects of its column have, and this one has not."""
    if isinstance(value, Mapping):
        return {key: _without_null(entry) for key, entry in value.items() if entry is not None}
    return [_without_null(entry) for entry in value] if isinstance(value, list) else value


def _row_of(conversation: _Object) -> Row:
    key = _first(conversation, _LISTS)
    if not key:
        raise DataError(f"it has no messages: expected a list of them under {' or '.join(map(quote, _LISTS))}")
    tasks, gap, observations, actions, rewards = [_text_under(conversation, "system")], [], [], [], []
    tools: dict[str, str] = {}
    for index, message in enumerate(_objects(conversation[key], key)):
        with at(f"{key}[{index}]"):
            role = _role_of(message)
            text = _text_of(message, role)
            if role == "assistant":
                tools |= {str(call.get("id", "")): _function_of(call)[0] for call in _calls_of(message)}
                observations.append(_joined(gap))
                actions.append(text)
                rewards.append(0.0)
                gap = []
            elif role == "system" and not gap and not actions:
                tasks.append(text)
            else:
                gap.append((_tool_of(message, tools) if role == "tool" else role, text))
            _pay(message, rewards)
    if not actions:
        raise DataError("no message is the assistant's: an episode needs a turn of the assistant")
    steps = {
        "observation": np.array([*observations, _joined(gap)], dtype=object),
        "action": np.array(actions, dtype=object),
        "reward": np.array(rewards) + _earned(conversation, len(actions)),
    }
    text = "\n\n".join(filter(None, tasks))
    try:
        "".join([text, *steps["observation"], *steps["action"]]).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"it holds {ascii(error.object[error.start])}, which is half a character") from error
    return make_row(steps, terminated=True, truncated=False, text=text)


def _joined(gap: Sequence[tuple[str, str]]) -> str:
    """Return what was said between two turns of the assistant; where several speak, tools say their names."""
    is_alone = len({speaker for speaker, _ in gap}) < 2
    return "\n\n".join(text if is_alone or speaker == "user" else f"{speaker}: {text}" for speaker, text in gap)


def _tool_of(message: _Object, tools: Mapping[str, str]) -> str:
    """Return the name of a tool that answers, which the message or the call that it answers has; else its role."""
    call = str(message.get("tool_call_id"))
    return str(message.get("name") or tools.get(call) or message[_first(message, _SPEAKERS)])


def _role_of(message: _Object) -> str:
    word = message.get(_first(message, _SPEAKERS))
    role = _ROLES.get(word) if isinstance(word, str) else None
    if role is None:
        problem = "it has no role" if word is None else f"its role is {quote(word)}"
        raise DataError(f"{problem}: expected one of {', '.join(_ROLES)}")
    return role


def _text_of(message: _Object, role: str) -> str:
    """Return what a message says; calls of tools follow the assistant's words, one a line."""
    calls = _calls_of(message) if role == "assistant" else []
    key = _first(message, _CONTENTS)
    if not key and not calls:
        raise DataError(f"it has no {' or '.join(_CONTENTS)}")
    words = [_text_under(message, key)] if message.get(key) else []
    for name, arguments in map(_function_of, calls):
        words.append(json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False))
    return "\n".join(words)


def _text_under(value: _Object, key: str) -> str:
    """Return the text under a key, "" where there is none: a text, or a list of parts, each on a line of its own."""
    content = value.get(key)
    if isinstance(content, list):
        return "\n".join(part if isinstance(part, str) else _part_of(part) for part in content)
    if not isinstance(content, str | None):
        raise DataError(f"its {key} is {kind_of(content)}: expected a text, or a list of parts")
    return content or ""


def _part_of(part: object) -> str:
    kind = part.get("type", "text") if isinstance(part, Mapping) else kind_of(part)
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind not in _TEXT_PARTS or not isinstance(text, str):
        raise DataError(f"its content has a part that is {quote(kind)}: only parts that are texts are read")
    return text


def _calls_of(message: _Object) -> list[_Object]:
    """Return the calls of tools, also the single one that older logs have under "function_call"."""
    calls, single = message.get("tool_calls"), message.get("function_call")
    return _objects([single] if calls is None and single is not None else calls or [], "tool_calls")


def _function_of(call: _Object) -> tuple[str, object]:
    """Return the name and the arguments of a call: an object, or the text that the assistant wrote in its place."""
    function = call.get("function") or call
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise DataError("it calls a tool without a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return name, {} if arguments is None else arguments


def _objects(value: object, key: str) -> list[_Object]:
    entries = value if isinstance(value, list) else [value]
    wrong = [entry for entry in entries if not isinstance(entry, Mapping)]
    if wrong or not isinstance(value, list):
        raise DataError(f"{key} holds {kind_of((wrong or entries)[0])}: expected a list of objects")
    return value


def _pay(message: _Object, rewards: list[float]) -> None:
    """Add what a message pays to the newest turn of the assistant, its own or the one before it."""
    paid = _reward_of(message)
    if paid is not None and not rewards:
        raise DataError("it has a reward before the first turn of the assistant, which would earn it")
    if isinstance(paid, list):
        raise DataError(f"its reward is a list of {len(paid)}: expected one number")
    if paid is not None:
        rewards[-1] += paid


def _earned(conversation: _Object, num_turns: int) -> np.ndarray:
    """Return what a conversation pays for each turn: one number for the last one, a list of them for all."""
    earned, paid = np.zeros(num_turns), _reward_of(conversation)
    if isinstance(paid, list) and len(paid) != num_turns:
        raise DataError(f"it has {len(paid)} rewards for {num_turns} turns of the assistant: give one a turn")
    if paid is not None:
        earned[slice(None) if isinstance(paid, list) else -1] = paid
    return earned


def _reward_of(value: _Object) -> float | list[float] | None:
    key = _first(value, _REWARDS)
    if not key:
        return None
    paid = value[key]
    return [_number(entry, key) for entry in paid] if isinstance(paid, list) else _number(paid, key)


def _number(value: object, key: str) -> float:
    with suppress(OverflowError):  # of a whole number beyond all floats
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    shown = quote(value) if isinstance(value, str | int | float) else kind_of(value)
    raise DataError(f"its {key} is {shown}: expected a finite number, or true or false")


def _first(value: _Object, keys: Sequence[str]) -> str:
    """Return the first of some keys under which something is, or ""."""
    return next((key for key in keys if value.get(key) is not None), "")
