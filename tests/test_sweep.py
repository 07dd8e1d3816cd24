"""The families of decoders: each of them works from loading to acting, or is refused in one sentence, as told."""

from pathlib import Path

import pytest
import transformers
from packaging.version import Version

from families import SWEEP
from sweep import PAGE, outcome, told

WRITTEN = Version("5.23")  # whose families the table tells of; older ones lack some, and refuse others


@pytest.mark.parametrize("family", SWEEP)
def test_what_is_told_of_a_family_is_what_becomes_of_it(family: str, tmp_path: Path):
    if family not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} does not know {family}")
    became = outcome(family, tmp_path)  # raises where it neither works nor is refused in a sentence
    if Version(transformers.__version__) >= WRITTEN:
        assert became == told(PAGE.read_text())[family]


def test_the_table_tells_of_all_families_and_most_of_them_work():
    outcomes = told(PAGE.read_text())
    assert outcomes.keys() == set(SWEEP)
    assert sum(outcome.startswith("works") for outcome in outcomes.values()) >= 60
