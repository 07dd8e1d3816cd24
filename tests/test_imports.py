"""The order of the house: a module imports only from its left, and third parties only where they belong."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = Path(__file__).parent.parent / "seqdec"
ORDER = (
    [
        "__init__",
        "errors",
        "hub",
        "storage",
        "spaces",
        "leaves",
        "environment",
        "episode",
        "rollouts",
        "columns",
        "checks",
        "rows",
        "foreign_files",
        "hdf5_files",
        "minari_storage",
        "minari_files",
        "frames",
        "lerobot_hub",
        "lerobot_meta",
        "lerobot_spaces",
        "lerobot_files",
        "parts",
        "stable_baselines",
        "recording",
        "sample",
        "table_columns",
        "table_formats",
        "tables",
        "table_values",
        "table_spaces",
        "table_episodes",
        "table_rows",
        "table_files",
        "description",
        "selection",
        "sources",
    ]
    + [
        "hindsight",
        "layout",
        "texts",
        "noise",
        "arrays",
        "facts",
        "windows",
        "streams",
        "perception",
        "codec",
        "smollm2",
        "dropout",
        "last_layer",
        "backbone",
        "model",
        "tasks",
        "checkpoints",
        "metrics",
        "processes",
        "training",
    ]
    + [
        "recorded",
        "reading",
        "context",
        "return_distribution",
        "planning",
        "prompts",
        "policy",
        "likelihood",
        "queries",
        "evaluation",
    ]
    + ["flags", "folders", "loading", "assembly", "asking", "commands", "cli", "__main__"]
)
TORCH = {
    "storage",
    "texts",
    "arrays",
    "windows",
    "streams",
    "perception",
    "codec",
    "dropout",
    "last_layer",
    "backbone",
    "model",
    "tasks",
    "checkpoints",
    "metrics",
    "processes",
    "training",
    "noise",
    "recorded",
    "reading",
    "context",
    "return_distribution",
    "planning",
    "policy",
    "likelihood",
    "queries",
}
SPACES = {
    "spaces",
    "leaves",
    "environment",
    "episode",
    "rollouts",
    "columns",
    "checks",
    "rows",
    "foreign_files",
    "hdf5_files",
    "minari_storage",
    "minari_files",
    "lerobot_spaces",
    "stable_baselines",
    "recording",
    "table_values",
    "table_spaces",
    "table_rows",
    "table_files",
    "description",
    "sources",
    "layout",
    "evaluation",
}
TABLES = {"table_formats", "table_values", "table_spaces", "table_episodes", "table_files"}
HOMES = {
    "torch": TORCH | {"smollm2", "context", "policy", "assembly", "commands", "stable_baselines"},
    "transformers": {"hub", "smollm2", "dropout", "backbone", "reading"},
    "peft": {"backbone"},
    "accelerate": {"training", "processes"},
    "safetensors": {"storage", "backbone"},
    "datasets": {
        "columns",
        "checks",
        "rows",
        "parts",
        "tables",
        "recording",
        "sample",
        "description",
        "selection",
        "sources",
        "arrays",
        "windows",
        "loading",
        "commands",
    },
    "pyarrow": {
        "columns",
        "checks",
        "rows",
        "foreign_files",
        "minari_storage",
        "lerobot_meta",
        "lerobot_files",
        "arrays",
        "tables",
    }
    | TABLES,
    "h5py": {"foreign_files", "hdf5_files", "minari_storage"},
    "PIL": {"minari_storage", "frames", "table_values"},
    "minari": {"sources"},
    "gymnasium": SPACES | {"loading", "assembly", "commands"},
    "matplotlib": {"description", "queries", "evaluation"},
    "tyro": {"flags"},
    "tqdm": {"training", "commands"},
    "wandb": {"metrics"},
    "trackio": {"metrics"},
    "huggingface_hub": {"lerobot_hub", "tables", "backbone", "commands"},
    "av": {"frames"},
    "stable_baselines3": {"stable_baselines"},
    "sb3_contrib": {"stable_baselines"},
}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def imports(module: str) -> set[str]:
    """Dotted names that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_order_names_every_module():
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_a_module_imports_only_from_its_left(module: str):
    ours = {name.split(".")[1] for name in imports(module) if name.startswith("seqdec.")}
    wrong = {other for other in ours & set(ORDER) if ORDER.index(other) >= ORDER.index(module)}
    assert not wrong, f"{module} imports {wrong}"


@pytest.mark.parametrize("module", MODULES)
def test_third_parties_are_imported_only_where_they_belong(module: str):
    roots = {name.split(".")[0] for name in imports(module)}
    foreign = {root for root in roots & HOMES.keys() if module not in HOMES[root]}
    assert not foreign, f"{module} imports {foreign}"


def test_nothing_evaluates_unpickles_or_imports_by_name():
    """No eval, exec, pickle, torch.load or yaml.load; imports by name only for seqdec's own modules."""
    forbidden = {"eval", "exec", "pickle", "dill", "marshal", "shelve", "__import__"}
    for module in MODULES:
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden, (module, node.lineno)
                if node.func.id == "import_module":
                    assert module == "__init__", (module, node.lineno)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                pair = (node.value.id, node.attr)
                assert pair not in {("torch", "load"), ("yaml", "load"), ("np", "load"), ("os", "system")}, module
        assert not forbidden & {name.split(".")[0] for name in imports(module)}, module


def test_importing_the_package_loads_nothing_heavy():
    script = "import sys, seqdec; print(sorted({'torch', 'transformers', 'datasets', 'gymnasium'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_acting_needs_no_data_sets():
    names = "Context, Policy, evaluate, load_policy, make_envs, rollout"
    script = (
        f"import sys; from seqdec import {names}; print(sorted({{'datasets', 'pandas', 'pyarrow'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_can_be_imported():
    import seqdec

    assert sorted(seqdec.__all__) == sorted(name for names in seqdec._HOMES.values() for name in names)
    for name in seqdec.__all__:
        assert not isinstance(getattr(seqdec, name), ModuleType), f"{name} is hidden by the module of that name"
