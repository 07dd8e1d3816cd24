"""What can go wrong, sorted by who can mend it; each kind has the exit code that the command line returns.

The library raises these with one sentence: what came, what was expected, what to do in Python. Where an option of the
command line mends it, the error carries the option's name (`option="missing"`), and the command line adds the flag.
"""

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UsageError(ValueError):
    """What was typed or passed cannot work; `option` names the keyword that mends it, if one does."""

    exit_code = 2

    def __init__(self, message: str, *, option: str = ""):
        super().__init__(message)
        self.option = option


class DataError(ValueError):
    """A data set, checkpoint or policy folder is not what it must be; `option` as in `UsageError`."""

    exit_code = 65

    def __init__(self, message: str, *, option: str = ""):
        super().__init__(message)
        self.option = option


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


def suggest_beside(path: Path) -> str:
    """Return the same for the name of a path that is not there, of what lies in its folder."""
    if os.path.lexists(path):
        return "" if path.is_file() or path.is_dir() else ", but a pipe, a device or a broken link"
    return suggest(path.name, (entry.name for entry in path.parent.iterdir())) if path.parent.is_dir() else ""


def in_words(error: BaseException) -> str:
    """Return an error of foreign code as its type and its words, in one line of at most 200 characters."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__


@contextmanager
def foreign(problem: str) -> Iterator[None]:
    """Turn whatever foreign code raises within the block, an exit included, into a `DataError`: problem and words."""
    try:
        yield
    except (UsageError, DataError, NumericsError, StorageError):
        raise
    except PermissionError as error:
        raise StorageError(f"{problem} ({in_words(error)})") from error
    except (Exception, SystemExit) as error:
        raise DataError(f"{problem} ({in_words(error)})") from error
