"""The one writer of run, policy and data folders: what it writes appears whole or not at all.

    .tmp-NAME-<id>   write -> fsync -> manifest.json -> rename   NAME

A published folder has a manifest, the size and sha256 of every file in it; a lone file is written beside and
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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from safetensors import SafetensorError

import seqdec
from seqdec.errors import DataError, StorageError, UsageError

try:
    import fcntl
except ImportError:  # Windows: publishing is as safe, but a second writer goes unnoticed
    fcntl = None

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
FORMAT = 1  # to be raised when an older seqdec could misread what a newer one wrote
LARGEST_JSON = 16 * 2**20
LARGEST_HASHED = 256 * 2**20
LEFTOVER = re.compile(r"\.(?P<kind>tmp|del)-(?P<name>[^/]+)-[0-9a-f]{32}")


@contextmanager
def publish(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes `folder` once the block ends without an exception.

    Args:
        folder: where the result will stand; missing parents are made.
        replace: whether a folder published earlier gives way; it stands until the new one is complete.

    Raises:
        StorageError: `folder` is taken or cannot be written; nothing has changed then.
    """
    with _explained(folder):
        if os.path.lexists(folder) and not replace:
            raise StorageError(f"{folder} already exists: choose another folder or remove it first")
        if os.path.lexists(folder) and not _may_be_replaced(folder):
            raise StorageError(f"{folder} is not a folder that seqdec published: move it away first")
    with ExitStack() as locks:
        temporary, is_ours = folder, False
        while not is_ours:
            temporary = locks.enter_context(_beside(folder))
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            # The lock keeps it from being taken for a leftover; a `recover` that came before it has taken it.
            with suppress(FileNotFoundError):
                is_ours = locks.enter_context(_locked(temporary)) and os.path.lexists(temporary)
        yield temporary
        write_manifest(temporary)
        if not os.path.lexists(folder):
            os.rename(temporary, folder)
            _sync(folder.parent)
        elif locks.enter_context(_locked(folder)):
            _exchange(temporary, folder)
        else:
            raise StorageError(f"another process is replacing {folder}: try again when it has ended")


def retire(folder: Path) -> None:
    """Remove a published folder; a crash in between leaves no half of it under its name."""
    with _explained(folder):
        leftover = _leftover("tmp", folder)
        os.rename(folder, leftover)
        _remove(leftover)


def recover(parent: Path) -> list[str]:
    """Clear away what killed writers left in `parent`; return what was done, one sentence each.

    A folder whose replacement never came is put back. What a living process is writing is left alone.
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
    """Return the published folders `parent/prefix*` by name, and step-999999 before step-1000000."""
    with _explained(parent):
        names = os.listdir(parent) if parent.is_dir() else []
        named = [parent / name for name in names if name.startswith(prefix) and not LEFTOVER.fullmatch(name)]
        found = [folder for folder in named if (folder / MANIFEST).is_file()]
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def write_manifest(folder: Path) -> None:
    """Write down every file of a folder, once it is safely on the disk."""
    files = {}
    mode = folder.stat().st_mode & 0o666  # safetensors makes files that their owner alone can read
    for place, _, names in os.walk(folder, topdown=False):
        for path in sorted(Path(place, name) for name in names):
            if path.is_symlink() or not path.is_file():
                raise StorageError(f"{path} is not a plain file: only those are published")
            path.chmod(mode)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
        _sync(Path(place))
    files.pop(MANIFEST, None)
    write_json(folder / MANIFEST, {"format": FORMAT, "seqdec": seqdec.__version__, "files": files})
    _sync(folder / MANIFEST)
    _sync(folder)


def verify(folder: Path, *, hashes: bool = False) -> None:
    """Check that every file of a published folder is the one that was written.

    Sizes are always compared; contents for files under 256 MB or, with `hashes`, for all. Files that the
    manifest does not name are ignored.

    Raises:
        DataError: names the file, what was expected and what was found.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}")
    if not os.path.lexists(folder / MANIFEST):
        raise DataError(f"{folder} has no {MANIFEST}: seqdec did not write it, or it was copied in part")
    manifest = read_json(inside(folder, MANIFEST))
    files, form = manifest.get("files"), manifest.get("format")
    if isinstance(form, int) and form > FORMAT:
        newer = plain_text(str(manifest.get("seqdec")))
        raise DataError(f"{folder} has format {form}, this seqdec reads {FORMAT}: it needs seqdec >= {newer}")
    if form != FORMAT or not isinstance(files, dict):
        raise DataError(f"{folder / MANIFEST} is not a manifest of seqdec: copy or download the folder again")
    for name, entry in files.items():
        _check_file(folder, name, entry if isinstance(entry, dict) else {}, hashes)


def inside(folder: Path, name: str) -> Path:
    """Join a name that a file tells to the folder it belongs to.

    Raises:
        DataError: the name leads out of the folder, or passes through a link.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or "/" in parts or not name.isprintable() or len(os.fsencode(name)) > 255:
        raise DataError(f"{folder} refers to '{plain_text(name)}', which is not a path inside it")
    path = folder
    for part in parts:
        path = path / part
        if os.path.islink(path):
            raise DataError(f"{path} is a link, only files are read: copy the folder with cp -rL")
    return path


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Be the only process that writes to `folder`, which is made if missing; kill -9 gives it back.

    Raises:
        UsageError: another process has it.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    with _locked(folder / ".lock") as is_ours:
        if not is_ours:
            raise UsageError(f"another run is writing to {folder}: wait for it or choose another folder")
        yield


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is at work on what shall stand at `path`, and keep others waiting meanwhile."""
    lock = path.with_name(f".lock-{path.name}")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock_file(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that it is gone
        os.close(descriptor)


def _lock_file(lock: Path) -> int:
    """Return the descriptor of a file that this process alone has locked and that still stands under its name."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is None:
            return descriptor
        with suppress(OSError):  # a file system without locks is as Windows
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    content = text.encode()
    with _beside(path, len(content)) as temporary:
        temporary.write_bytes(content)
        _rename_file(temporary, path)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object, whole or not at all; raises ValueError for nan, which JSON has no word for."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:  # Any: what the keys hold is known to the caller alone
    """Read a JSON object of at most 16 MB; a damaged, ambiguous or non-finite one is a `DataError`."""
    if _num_bytes(path) > LARGEST_JSON:
        raise DataError(f"{path} has {_num_bytes(path):,} bytes: JSON files have at most {LARGEST_JSON:,} here")
    with _explained(path):
        content = path.read_bytes()
    try:
        value = json.loads(content, object_pairs_hook=unique, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else plain_text(str(error))
        raise DataError(f"{path} is not valid JSON ({reason}){advice(path)}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a JSON {type(value).__name__}, expected an object {{...}}")
    return value


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the pairs of a JSON object as a dict, which would keep the last of two keys alike; a hook for `json`.

    Raises:
        ValueError: a key is there twice.
    """
    value: dict[str, object] = {}
    for name, item in pairs:
        if name in value:
            raise ValueError(f"the key {name!r} is there twice")
        value[name] = item
    return value


def difference(before: Mapping[str, object], now: Mapping[str, object]) -> tuple[str, object, object] | None:
    """Return where two JSON objects differ first, "a b" for the key b in a, and what each has there; None if equal."""
    for name in dict.fromkeys((*now, *before)):
        was, is_now = before.get(name), now.get(name)
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            if inner := difference(was, is_now):
                return f"{name} {inner[0]}", *inner[1:]
        elif was != is_now:
            return name, was, is_now
    return None


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all; those that share memory become copies."""
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        stored[name] = plain.clone() if memory in seen else plain
        seen.add(memory)
    with _beside(path, sum(tensor.nbytes for tensor in stored.values())) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # see write_manifest
        save_file(stored, temporary, metadata)
        temporary.chmod(mode)
        _rename_file(temporary, path)


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file to the CPU; damage and non-finite numbers are a `DataError`."""
    import torch
    from safetensors.torch import load_file

    _num_bytes(path)
    try:
        with _explained(path):
            tensors = load_file(path)
    except (SafetensorError, ValueError, RuntimeError) as error:
        reason = plain_text(str(error))
        raise DataError(f"{path} is not a whole safetensors file ({reason}){advice(path)}") from error
    for name, tensor in tensors.items():
        wide = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
        if not torch.isfinite(wide).all():
            raise DataError(f"tensor '{plain_text(name)}' of {path} holds nan or infinity: use an earlier save")
    return tensors


def append_line(path: Path, value: Mapping[str, object]) -> None:
    """Append one JSON object to a log; a crash may cut the line off, which `truncate_lines` mends."""
    with _explained(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a log of JSON objects; lines that a crash cut off are left out."""
    return [value for _, value in _lines(_text_of(path))]


def truncate_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a log of JSON objects with the lines to `keep`; lines that a crash cut off are dropped."""
    text = _text_of(path)
    kept = "".join(line + "\n" for line, value in _lines(text) if keep(value))
    if kept != text:
        write_text(path, kept)


def plain_text(text: str) -> str:
    """Return a stranger's text as one line that does nothing in a terminal or a model card, cut at 200."""
    printable = "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text[:200])
    return re.sub(r"[\[\]<>`]", r"\\\g<0>", printable)


def advice(path: Path) -> str:
    """Say what a damaged file really is, where that shows, and what to do."""
    with _explained(path), open(path, "rb") as file:
        instead = stand_in(file.read(512))
    return f": it is {instead}" if instead else ": copy or download it again"


def stand_in(beginning: bytes) -> str | None:
    """Return what stands in a file's place, in words, where its first bytes show that; None elsewhere."""
    words = beginning.lstrip().lower()
    if words.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer, not the file itself: get it with git lfs pull"
    if words.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not the file itself: download it again"
    return None


def _text_of(path: Path) -> str:
    with _explained(path):
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _lines(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield line, value


def _leftover(kind: str, path: Path) -> Path:
    return path.with_name(f".{kind}-{path.name}-{uuid4().hex}")


@contextmanager
def _beside(path: Path, need: int = 0) -> Iterator[Path]:
    """Yield a name beside `path` to write under; what still has that name at the end is removed."""
    temporary = _leftover("tmp", path)
    try:
        yield temporary
    except (OSError, SafetensorError):
        written = sum(file.lstat().st_size for file in temporary.rglob("*") if file.is_file())
        _remove(temporary)
        with _explained(path, f"{need:,}" if need > written else f"more than {written:,}"):
            raise
    finally:
        _remove(temporary)


@contextmanager
def _explained(path: Path, need: str = "more") -> Iterator[None]:
    """Turn what the operating system says into a `StorageError` that names the path."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, SafetensorError) as error:
        told = re.search(r"os error (\d+)", str(error))
        code = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
        if code is None and isinstance(error, SafetensorError):
            raise  # damage, not a failure of the system
        reason = os.strerror(code) if code else str(error)
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            near = next(parent for parent in path.absolute().parents if parent.is_dir())
            reason += f", it needs {need} bytes and {shutil.disk_usage(near).free:,} are free"
        raise StorageError(f"{LEFTOVER.sub(lambda found: found['name'], str(path))}: {reason}") from error


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock on a file or folder, which the death of its holder frees; False: another holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)  # a file system without locks is as Windows
    return True


def _may_be_replaced(folder: Path) -> bool:
    is_plain = folder.is_dir() and not folder.is_symlink()
    return is_plain and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))


def _exchange(temporary: Path, folder: Path) -> None:
    retired = _leftover("del", folder)
    os.rename(folder, retired)
    try:
        os.rename(temporary, folder)
    finally:
        if not os.path.lexists(folder):
            os.rename(retired, folder)
    _sync(folder.parent)
    _remove(retired)


def _clear(leftover: Path, target: Path, kind: str) -> list[str]:
    """Put a leftover back or remove it, unless its writer lives."""
    with _locked(leftover) as is_abandoned:
        if not is_abandoned:
            return []
        if kind == "del" and not os.path.lexists(target) and os.path.lexists(leftover / MANIFEST):
            try:
                verify(leftover)
            except DataError as error:
                return [f"{leftover} is all there is of {target} and was left as it is: {error}"]
            os.rename(leftover, target)
            _sync(target.parent)
            return [f"{target} was put back: its replacement was cut off"]
        _remove(leftover)
        return [] if os.path.lexists(leftover) else [f"{target} had an incomplete or old copy, now removed"]


def _remove(path: Path) -> None:
    """Remove a leftover as far as the system allows; the next `recover` tries again."""
    with suppress(OSError):
        (path if path.is_file() else path / MANIFEST).unlink()  # half a folder must not look published
    shutil.rmtree(path, ignore_errors=True)


def _rename_file(temporary: Path, path: Path) -> None:
    is_part = any(LEFTOVER.fullmatch(part) for part in path.parts)  # of a folder, which is synced as a whole
    if not is_part:
        _sync(temporary)
    os.replace(temporary, path)
    if not is_part:
        _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _num_bytes(path: Path) -> int:
    with _explained(path):
        if not path.is_file():
            raise DataError(f"no file {path}")
        return path.stat().st_size


def _check_file(folder: Path, name: str, entry: dict[str, object], hashes: bool) -> None:
    path = inside(folder, name)
    size, digest = entry.get("bytes"), entry.get("sha256")
    if type(size) is not int or not isinstance(digest, str):
        raise DataError(f"{folder / MANIFEST} lacks the size or sha256 of '{plain_text(name)}'")
    with _explained(path):
        if not path.is_file():
            raise DataError(f"{name} is missing in {folder}: copy or download the folder again")
        expected, found = f"{size} bytes", f"{path.stat().st_size} bytes"
        if found == expected and (hashes or size < LARGEST_HASHED):
            with open(path, "rb") as file:
                expected, found = f"sha256 {digest}", f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    if found != expected:
        raise DataError(
            f"{name} in {folder} does not match its manifest (expected {plain_text(expected)}, found {found})"
            f"{advice(path)}"
        )


def _refuse(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is not a JSON number")


def _finite(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"{literal} is too large a number")
    return value
