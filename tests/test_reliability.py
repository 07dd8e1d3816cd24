"""docs/reliability.md names tests that are there; a promise without one says that it does not hold."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text()
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| [A-Z]\d", line)]


@cache
def functions_of(name: str) -> set[str]:
    """Return the test functions of a file."""
    nodes = ast.parse((ROOT / name).read_text()).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("name", sorted({name for name, _ in TEST.findall(PAGE)}))
def test_every_test_of_the_page_is_there(name: str):
    assert (ROOT / name).is_file()
    assert {test for file, test in TEST.findall(PAGE) if file == name} <= functions_of(name)


def test_every_promise_has_a_test_or_is_said_not_to_hold():
    assert len(ROWS) > 60
    for row in ROWS:
        promise, tried, tests = (cell.strip() for cell in row.strip("|").split("|"))
        assert TEST.findall(tests) or (tests == "none yet" and "**not**" in tried), promise
    numbers = [row.split()[1] for row in ROWS]
    assert len(numbers) == len(set(numbers))
