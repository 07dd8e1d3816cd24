"""The oldest versions that are admitted are those that `make test-oldest` runs on; what is imported is declared."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {extra: [Requirement(line) for line in lines] for extra, lines in PROJECT["optional-dependencies"].items()}
NEEDED = [Requirement(line) for line in PROJECT["dependencies"]]
RUN = sorted(next(need.extras for need in EXTRAS["dev"] if need.name == "seqdec"))  # the extras that the tests have
TOOLS = {"ruff", "pyright"}  # look at the code and do not run it


def floor(need: Requirement) -> Version:
    (limit,) = need.specifier
    assert limit.operator == ">=", need
    return Version(limit.version)


def test_the_oldest_versions_that_are_admitted_are_those_that_are_run():
    needs = [*NEEDED, *(need for extra in [*RUN, "dev"] for need in EXTRAS[extra])]
    floors = {canonical(need.name): floor(need) for need in needs if need.name not in {"seqdec", *TOOLS}}
    admitted = floors.pop("torch")  # the Makefile has what ran; the weekly job tries what is admitted
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert {canonical(name): Version(version) for name, version in pins} == floors
    assert f"make test-oldest OLDEST_TORCH={admitted}.0\n" in (ROOT / ".github/workflows/weekly.yml").read_text()


def test_every_package_that_is_imported_is_declared():
    trees = [ast.parse(path.read_text()) for path in (ROOT / "seqdec").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    roots = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"seqdec"}
    homes = packages_distributions()
    needs = [*NEEDED, *(need for extra in EXTRAS.values() for need in extra)]
    declared = {canonical(need.name) for need in needs}
    declared |= {"py4j", "sb3-contrib"}  # ScienceWorld brings the first; only a user who has the second needs it
    assert not {root for root in roots if not {canonical(name) for name in homes.get(root, [root])} & declared}


def test_the_weekly_job_tries_each_extra_absent():
    jobs = yaml.safe_load((ROOT / ".github/workflows/weekly.yml").read_text())["jobs"]
    absent = {row["extra"]: row["packages"].split() for row in jobs["absent"]["strategy"]["matrix"]["include"]}
    assert sorted(absent) == RUN
    for extra in set(RUN) - {"mujoco"}:
        names = {canonical(need.name) for need in EXTRAS[extra] if need.name != "seqdec"}
        assert {canonical(name) for name in absent[extra]} == names


def test_the_weekly_job_audits_what_is_pinned_and_runs_no_action_that_can_change():
    jobs = yaml.safe_load((ROOT / ".github/workflows/weekly.yml").read_text())["jobs"]
    commands = [step.get("run", "") for step in jobs["audit"]["steps"]]
    assert any("-c constraints.txt" in command for command in commands) and commands[-1].startswith("pip-audit")
    actions = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert len(actions) == 8 and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in actions)
