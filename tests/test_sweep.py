"""The families of decoders: each of them works from loading to acting, or is refused in one sentence, as told."""

from pathlib import Path

import pytest

from families import SWEEP
from sweep import PAGE, outcome, told


@pytest.mark.parametrize("family", SWEEP)
def test_what_is_told_of_a_family_is_what_becomes_of_it(family: str, tmp_path: Path):
    assert outcome(family, tmp_path) == told(PAGE.read_text())[family]


def test_the_table_tells_of_all_families_and_most_of_them_work():
    outcomes = told(PAGE.read_text())
    assert outcomes.keys() == set(SWEEP)
    assert sum(outcome.startswith("works") for outcome in outcomes.values()) >= 60
