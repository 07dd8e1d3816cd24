"""The texts of games in fewer words, in their order and in one line: what a room holds, not how it is told."""

import re

_FILLERS = (
    *("In one part of the room you see ", "In another part of the room you see ", "There is also ", "You also see "),
    *(", that has nothing on it", ", that is empty", "the agent, ", "substance called "),
)
_SHORTER = (
    (r"^You are in the (.*?)\. ?", r"\1: "),
    (r"^This (?:room|outside location) is called the (.*?)\. (?:In it|Here),? you see: ?", r"\1: "),
    (r" \(?that is (closed|open)\)?", r" (\1)"),
    (r"\b(?:an?|An?) ", ""),
)


def brief(text: str) -> str:
    """Return a text without its filler words, articles and line breaks."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    text = " ".join(line if line[-1] in ".,:;!?" else f"{line}," for line in lines)
    for pattern, words in _SHORTER:
        text = re.sub(pattern, words, text)
    for filler in _FILLERS:
        text = text.replace(filler, "")
    return text.replace(". ", ", ").strip(" ,")
