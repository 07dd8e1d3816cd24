"""What can go wrong, sorted by who can mend it; each kind has the exit code that the command line returns.

The library raises these with one sentence: what came, what was expected, what to do. `cli.py` prints that sentence.
"""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """What was typed or passed cannot work."""

    exit_code = 2


class DataError(ValueError):
    """A data set, checkpoint or policy folder is not what it must be."""

    exit_code = 65


class NumericsError(ArithmeticError):
    """A number that must be finite is not."""

    exit_code = 70


class StorageError(OSError):
    """A folder or file cannot be written or read."""

    exit_code = 74


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the choice nearest to a mistyped word, or nothing."""
    nearest = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
