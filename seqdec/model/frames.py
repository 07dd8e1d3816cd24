"""Chat templates: the words that a tokenizer's template puts around what the system, a user and the assistant say.

    <|system|>text<|end|>  <|user|>observation<|end|><|assistant|>  action<|end|>  <|user|>observation ...

They become the `before` and `end` of a layout's variables, so that a policy reads what a chat server would send, but
for the first token, which every sequence has of its own. What a template puts there is found by rendering probes.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jinja2
from transformers import PreTrainedTokenizerBase

from seqdec.errors import in_words
from seqdec.model.pretrained import first_token, locate, read_tokenizer
from seqdec.sequence.layout import Layout
from seqdec.sequence.variable import Variable

# What templates, which are foreign code, raise: also of their own will, for a role that they do not know.
_STUMBLES = (jinja2.TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_CLOCKS = ("strftime", "date_string")  # a template that tells the day renders otherwise tomorrow
logger = logging.getLogger(__name__)
Turns = Sequence[tuple[str, str]]  # who says what


@dataclass(frozen=True)
class Frames:
    """The words around what is said: `system` and `user` before it, and after it, `action` behind the assistant's.

    What comes after a user's words begins the assistant's turn.
    """

    system: tuple[str, str]
    user: tuple[str, str]
    action: str

    def render(self, turns: Turns) -> str:
        """Return a conversation as a policy reads it: a system's text, and a user's and the assistant's in turn."""
        around = {"system": self.system, "user": self.user, "assistant": ("", self.action)}
        return "".join(f"{around[role][0]}{text}{around[role][1]}" for role, text in turns)


def frames_of(backbone: str) -> Frames | None:
    """Return the frames of a backbone's template by the backbone's name; None where it has none that can be used."""
    if backbone == "small":
        return None
    return read_frames(read_tokenizer(locate(backbone), backbone))


def read_frames(tokenizer: PreTrainedTokenizerBase) -> Frames | None:
    """Return the frames of a tokenizer's template; None where it has none, or one that does more than to frame."""
    if not tokenizer.chat_template:
        return None
    try:
        return _frames(tokenizer)
    except (*_STUMBLES, ImportError) as error:
        words = "the backbone's chat template is not used, conversations are read as plain lines: %s"
        logger.warning(words, in_words(error))
        return None


def framed(layout: Layout, frames: Frames) -> Layout:
    """Return a layout whose words are those of a chat: facts in the system's message, what is observed in the user's.

    A message that holds several variables, such as an observation and a return, has each on lines of its own.
    """
    step = [slot[0] for slot in layout.step]
    acted = [name for name in step if layout.variable(name).role == "action"]
    words = [name for name in step if layout.variable(name).is_words]
    if len(acted) != 1 or step[-1] != acted[0] or acted[0] not in words or len(words) < 2:
        order = ", ".join(step)
        logger.warning("conversations are read as plain lines: a chat's timestep ends in its action, not %s", order)
        return layout
    *observed, action = words
    facts = [name for name in layout.prompt_names if layout.variable(name).is_words]
    changed = {**_message(layout, facts, frames.system), **_message(layout, observed, frames.user)}
    changed[action] = replace(layout.variable(action), before="", end=frames.action)
    variables = tuple(changed.get(variable.name, variable) for variable in layout.variables)
    return replace(layout, variables=variables)


def _message(layout: Layout, names: Sequence[str], frame: tuple[str, str]) -> Mapping[str, Variable]:
    """Return the variables that are the parts of one message, whose frame stands around all of them."""
    parts = [layout.variable(name) for name in names]
    variables = {}
    for index, part in enumerate(parts):
        before = frame[0] if index == 0 else ""
        after = frame[1] if index == len(parts) - 1 else "\n"
        variables[part.name] = replace(part, before=before + part.before, end=part.end.removesuffix("\n") + after)
    return variables


def _frames(tokenizer: PreTrainedTokenizerBase) -> Frames:
    """Find the frames between words that no template has; raise ValueError where they are not all that there is."""
    turns = [("system", "Qsystem"), ("user", "Quser1"), ("assistant", "Qsaid1"), ("user", "Quser2")]
    turns += [("assistant", "Qsaid2"), ("user", "Quser3"), ("assistant", "Qsaid3")]
    rest, between = _rendered(tokenizer, turns), []
    for _, text in turns:
        before, mark, rest = rest.partition(text)
        if not mark or text in rest:
            raise ValueError("it does not show every text once")
        between.append(before)
    first, after_system, after_user, after_action, end = *between[:4], rest
    if not end or not after_action.startswith(end):
        raise ValueError("it does not end the assistant's turn as the conversation")
    before_user = after_action.removeprefix(end)
    frames = Frames((first, after_system.removesuffix(before_user)), (before_user, after_user), end)
    for text in ("A b c, é?", " \n", "", " with {{ spaces }}\n\nat its ends \n"):
        said = [(role, text) for role, _ in turns]
        if frames.render(said) != _rendered(tokenizer, said):
            raise ValueError(f"it renders a conversation of {text!r} otherwise than each of its turns")
        if frames.render(said[:-1]) != _rendered(tokenizer, said[:-1], asks=True):
            raise ValueError(f"it asks for an answer to {text!r} otherwise than it shows one")
    if any(word in str(tokenizer.chat_template) for word in _CLOCKS):
        raise ValueError("it tells the date")
    start = str(tokenizer.decode([first_token(tokenizer)]))  # stands there already
    return replace(frames, system=(frames.system[0].removeprefix(start), frames.system[1]))


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: Turns, *, asks: bool = False) -> str:
    """Return a conversation as the template renders it; where it `asks`, up to the answer of the assistant."""
    messages = [{"role": role, "content": text} for role, text in turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))
