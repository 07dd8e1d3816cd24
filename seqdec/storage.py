"""The one writer of run, policy and data folders: what it writes appears whole or not at all.

    .tmp-NAME-<id>  write -> fsync -> manifest.json -> rename ->  NAME

A folder is published with a manifest, the size and sha256 of every file in it; a lone file is written beside and
renamed too. So a process killed at any instant leaves the old, the new, or leftovers that `recover` clears away.
Tensors are safetensors and the rest is JSON, never a pickle; every read is checked and stays inside its folder.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from safetensors import SafetensorError

from seqdec.errors import DataError, StorageError, UsageError

try:
    import fcntl
except ImportError:  # Windows: publishing is as safe, but a second writer is not noticed
    fcntl = None

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"
FORMAT = 1  # raised when an older seqdec could misread what a newer one wrote
LARGEST_JSON = 16 * 2**20
LARGEST_HASHED = 256 * 2**20
LEFTOVER = re.compile(r"\.(?P<kind>tmp|del)-(?P<name>[^/]+)-[0-9a-f]{32}")



@contextmanager
def publish(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes `folder` once the block ends without an exception.

    Args:
        folder: Where the result will stand; missing parents are made.
        replace: Whether a folder published earlier gives way. It stands until the new one is complete.

    Raises:
        StorageError: `folder` is taken or cannot be written; then nothing has changed.
    """
    with ExitStack() as locks, _beside(folder) as temporary:
        if os.path.lexists(folder) and not replace:
            raise StorageError(f"{folder} already exists: choose another folder or remove it first")
        if os.path.lexists(folder) and not (folder / MANIFEST).is_file():
            raise StorageError(f"{folder} is not a folder that seqdec published: move it away first")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        locks.enter_context(_locked(temporary))  # so that nobody's `recover` takes it for a leftover
        yield temporary
        _seal(temporary)
        if os.path.lexists(folder):
            if not locks.enter_context(_locked(folder)):
                raise StorageError(f"another process is replacing {folder}: try again when it has ended")
            _exchange(temporary, folder)
        else:
            os.rename(temporary, folder)
            _sync(folder.parent)


def retire(folder: Path) -> None:
    """Remove a published folder; cut off halfway, no half of it is left under its name."""
    with _explained(folder):
        leftover = _leftover("tmp", folder)
        os.rename(folder, leftover)
        _remove(leftover)


def recover(parent: Path) -> list[str]:
    """Clear away what killed writers left in `parent`; return what was done, one sentence each.

    A folder that was to be replaced and whose successor never came is put back. What a living process is
    still writing is left alone.
    """
    done = []
    with _explained(parent):
        names = sorted(os.listdir(parent), reverse=True) if parent.is_dir() else []  # .tmp- before .del-
        for name in names:
            if match := LEFTOVER.fullmatch(name):
                with suppress(FileNotFoundError):  # its writer has just ended
                    done += _clear(parent / name, parent / match["name"], match["kind"])
    return done


def published(parent: Path, prefix: str = "") -> list[Path]:
    """Return the published folders `parent/prefix*`, step-999999 before step-1000000."""
    with _explained(parent):
        names = os.listdir(parent) if parent.is_dir() else []
        found = [parent / name for name in names if name.startswith(prefix) and not LEFTOVER.fullmatch(name)]
        whole = [folder for folder in found if (folder / MANIFEST).is_file()]
    return sorted(whole, key=lambda folder: (len(folder.name), folder.name))


def verify(folder: Path, *, hashes: bool = False) -> None:
    """Check that every file of a published folder is the one that was written.

    Sizes are always compared, contents for files under 256 MB or, with `hashes`, for all. Files that the
    manifest does not name are ignored, and nothing here reads them.

    Raises:
        DataError: Names the file, what was expected and what was found.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}")
    if not os.path.lexists(folder / MANIFEST):
        raise DataError(f"{folder} has no {MANIFEST}: seqdec did not write it, or it was copied in part")
    manifest = read_json(inside(folder, MANIFEST))
    files, form = manifest.get("files"), manifest.get("format")
    if isinstance(form, int) and form > FORMAT:
        newer = _shown(manifest.get("seqdec"))
        raise DataError(f"{folder} has format {form}, this seqdec reads {FORMAT}: it needs seqdec >= {newer}")
    if form != FORMAT or not isinstance(files, dict):
        raise DataError(f"{folder / MANIFEST} is not a manifest of seqdec: copy or download the folder again")
    for name, entry in files.items():
        path = inside(folder, name)
        expected = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if type(expected[0]) is not int or not isinstance(expected[1], str):
            raise DataError(f"{folder / MANIFEST} does not tell the size and sha256 of {_shown(name)}")
        _check_file(path, folder, *expected, hashes=hashes)


def inside(folder: Path, name: str) -> Path:
    """Join a name found in a file to the folder it belongs to; a name that leads elsewhere is a `DataError`."""
    parts = PurePosixPath(name).parts
    is_plain = name.isprintable() and "\\" not in name and len(os.fsencode(name)) <= 255 if parts else False
    if not is_plain or parts[0] == "/" or ".." in parts:
        raise DataError(f"{folder} names the file {_shown(name)}, which is not a path inside it")
    path = folder
    with _explained(folder):
        for part in parts:
            path = path / part
            if path.is_symlink():
                raise DataError(f"{path} is a link; seqdec reads files only: copy the folder with cp -rL")
    return path


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Be the only process that writes in `folder`; made if missing, freed even by kill -9.

    Raises:
        UsageError: Another process holds it.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    with _locked(folder / ".lock") as is_ours:
        if not is_ours:
            raise UsageError(f"another run is writing to {folder}: wait for it or choose another folder")
        yield




def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    content = text.encode()
    with _beside(path, len(content)) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        _finish(temporary, path)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object, whole or not at all; NaN and infinity are refused, since JSON has no word for them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:  # Any: what the keys hold is known to the caller alone
    """Read a JSON object of at most 16 MB; one that is damaged, ambiguous or not finite is a `DataError`."""
    if _size_of_file(path) > LARGEST_JSON:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes: JSON files here have at most {LARGEST_JSON:,}")
    with _explained(path):
        content = path.read_bytes()
    try:
        value = json.loads(content, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise DataError(f"{path} is not valid JSON ({reason}){_hint(path)}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a JSON {type(value).__name__}, expected an object {{...}}")
    return value


def write_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]", metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all; tensors that share memory are written one by one."""
    from safetensors.torch import save_file

    stored, seen = {}, set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        stored[name] = plain.clone() if memory in seen else plain
        seen.add(memory)
    with _beside(path, sum(tensor.nbytes for tensor in stored.values())) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors makes its files readable by their owner alone
        save_file(stored, temporary, metadata)
        temporary.chmod(mode)
        _finish(temporary, path)


def read_tensors(path: Path) -> "dict[str, torch.Tensor]":
    """Read the tensors of a safetensors file, on the CPU; damage and non-finite numbers are a `DataError`."""
    import torch
    from safetensors.torch import load_file

    _size_of_file(path)
    try:
        with _explained(path):
            tensors = load_file(path)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is not a whole safetensors file ({error}){_hint(path)}") from error
    for name, tensor in tensors.items():
        wide = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
        if not torch.isfinite(wide).all():
            raise DataError(f"tensor {_shown(name)} of {path} holds nan or infinity: use an earlier save")
    return tensors


def append_line(path: Path, line: str) -> None:
    """Append one line to a log; a reader may find its last line cut off, see `truncate_lines`."""
    with _explained(path), open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def truncate_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a log of JSON objects with the lines to `keep`; lines that a crash cut off are dropped."""
    kept = []
    with _explained(path):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and keep(value):
            kept.append(line + "\n")
    if len(kept) < len(lines):
        write_text(path, "".join(kept))




def _leftover(kind: str, path: Path) -> Path:
    return path.with_name(f".{kind}-{path.name}-{uuid4().hex}")


@contextmanager
def _beside(path: Path, need: int = 0) -> Iterator[Path]:
    """Yield a name beside `path` to write under; what still has that name at the end is removed."""
    temporary = _leftover("tmp", path)
    try:
        yield temporary
    except (OSError, SafetensorError):
        written = sum(file.lstat().st_size for file in [temporary, *temporary.rglob("*")] if file.is_file())
        _remove(temporary)
        with _explained(path, max(need, written)):
            raise
    finally:
        _remove(temporary)


@contextmanager
def _explained(path: Path, need: int = 0) -> Iterator[None]:
    """Turn the operating system's complaints into a `StorageError` that names the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        in_rust = re.search(r"os error (\d+)", str(error)) if isinstance(error, SafetensorError) else None
        code = int(in_rust[1]) if in_rust else getattr(error, "errno", None)
        if isinstance(error, StorageError) or (isinstance(error, SafetensorError) and not in_rust):
            raise
        reason = os.strerror(code) if code else str(error)
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            near = next(parent for parent in path.absolute().parents if parent.is_dir())
            reason += f", it needs {need:,} bytes and {shutil.disk_usage(near).free:,} are free"
        raise StorageError(f"{LEFTOVER.sub(_name_of, str(path))}: {reason}") from error


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock on a file or folder, which its holder's death frees; False where another holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) if fcntl else None
        except BlockingIOError:
            yield False
            return
        except OSError as error:  # a file system without locks: as on Windows
        yield True
    finally:
        os.close(descriptor)
