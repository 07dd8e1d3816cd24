"""`seqdec merge`: a policy of LoRA becomes one folder that needs no other backbone."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from seqdec.cli import folders
from seqdec.cli.console import importing
from seqdec.cli.options import debug, needed, option
from seqdec.errors import UsageError


@dataclass(frozen=True)
class Merge:
    """Add a policy's LoRA adapters to the weights under them: one folder that is whole."""

    run: str = needed("Run folder or policy folder.")
    output: str = option("", "Folder to write (default: the one that is read, and -merged).")
    debug: bool = debug()


def merge_run(given: Merge) -> int:
    """Write a policy folder with its backbone in it."""
    policy_folder, _ = folders.find_policy(Path(given.run))
    output = Path(given.output or f"{Path(given.run)}-merged")
    folders.check_writable(output)
    if os.path.lexists(output):
        raise UsageError(f"{output} exists already: choose another --output")

    with importing():
        from seqdec.model.folder import load_tasks, save_policy

    save_policy(load_tasks(policy_folder, merge_adapters=True), output)
    print(f"policy: {output}\nnext: {shlex.join(['seqdec', 'eval', str(output)])}", flush=True)
    return 0
