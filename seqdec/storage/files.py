"""One file, written whole or not at all: JSON, tensors, texts, lines of a log; what is read is checked."""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from safetensors import SafetensorError, safe_open

from seqdec.errors import DataError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
LARGEST_JSON = 16 * 2**20
LEFTOVER = re.compile(r"\.(?P<kind>tmp|del)-(?P<name>[^/]+)-[0-9a-f]{32}")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    content = text.encode()
    with beside(path, len(content)) as temporary:
        temporary.write_bytes(content)
        _rename_file(temporary, path)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object, whole or not at all; raises ValueError for nan, which JSON has no word for."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:  # Any: what the keys hold is known to the caller alone
    """Read a JSON object of at most 16 MB; a damaged, ambiguous or non-finite one is a `DataError`."""
    if (num_bytes := _num_bytes(path)) > LARGEST_JSON:
        raise DataError(f"{path} has {num_bytes:,} bytes: JSON files have at most {LARGEST_JSON:,} here")
    with explained(path):
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
    with beside(path, sum(tensor.nbytes for tensor in stored.values())) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # see write_manifest
        save_file(stored, temporary, metadata)
        temporary.chmod(mode)
        _rename_file(temporary, path)


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file to the CPU; damage and non-finite numbers are a `DataError`."""
    import torch
    from safetensors.torch import load_file

    with _whole_tensors(path):
        tensors = load_file(path)
    for name, tensor in tensors.items():
        wide = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
        if not torch.isfinite(wide).all():
            raise DataError(f"tensor '{plain_text(name)}' of {path} holds nan or infinity: use an earlier save")
    return tensors


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a safetensors file, all of which is there; no tensor is read."""
    with _whole_tensors(path), safe_open(path, "np") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


@contextmanager
def _whole_tensors(path: Path) -> Iterator[None]:
    _num_bytes(path)
    try:
        with explained(path):
            yield
    except (SafetensorError, ValueError, RuntimeError) as error:
        reason = plain_text(str(error))
        raise DataError(f"{path} is not a whole safetensors file ({reason}){advice(path)}") from error


def append_line(path: Path, value: Mapping[str, object]) -> None:
    """Append one JSON object to a log; a crash may cut the line off, which `truncate_lines` mends."""
    with explained(path), open(path, "a", encoding="utf-8") as file:
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
    with explained(path), open(path, "rb") as file:
        words = stand_in(file.read(512))
    return f": it is {words}" if words else ": copy or download it again"


def stand_in(beginning: bytes) -> str | None:
    """Return what stands in a file's place, in words, where its first bytes show that; None elsewhere."""
    words = beginning.lstrip().lower()
    if words.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer, not the file itself: get it with git lfs pull"
    if words.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not the file itself: download it again"
    return None


def _text_of(path: Path) -> str:
    check_plain(path)
    with explained(path):
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _lines(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield line, value


def leftover(kind: str, path: Path) -> Path:
    return path.with_name(f".{kind}-{path.name}-{uuid4().hex}")


@contextmanager
def beside(path: Path, need: int = 0) -> Iterator[Path]:
    """Yield a name beside `path` to write under; what still has that name at the end is removed."""
    temporary = leftover("tmp", path)
    try:
        yield temporary
    except (OSError, SafetensorError):
        written = sum(file.lstat().st_size for file in temporary.rglob("*") if file.is_file())
        remove(temporary)
        with explained(path, f"{need:,}" if need > written else f"more than {written:,}"):
            raise
    finally:
        remove(temporary)


@contextmanager
def explained(path: Path, need: str = "more") -> Iterator[None]:
    """Turn what the operating system says into a `StorageError` that names the path."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, SafetensorError) as error:
        number = re.search(r"os error (\d+)", str(error))
        code = error.errno if isinstance(error, OSError) else int(number[1]) if number else None
        if code is None and isinstance(error, SafetensorError):
            raise  # damage, not a failure of the system
        reason = os.strerror(code) if code else str(error)
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            near = next(parent for parent in path.absolute().parents if parent.is_dir())
            reason += f", it needs {need} bytes and {shutil.disk_usage(near).free:,} are free"
        raise StorageError(f"{LEFTOVER.sub(lambda match: match['name'], str(path))}: {reason}") from error


def remove(path: Path) -> None:
    """Remove a leftover as far as the system allows; the next `recover` tries again."""
    with suppress(OSError):
        (path if path.is_file() else path / MANIFEST).unlink()  # half a folder must not look published
    shutil.rmtree(path, ignore_errors=True)


def _rename_file(temporary: Path, path: Path) -> None:
    is_part = any(LEFTOVER.fullmatch(part) for part in path.parts)  # of a folder, which is synced as a whole
    if not is_part:
        sync(temporary)
    os.replace(temporary, path)
    if not is_part:
        sync(path.parent)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_plain(path: Path) -> None:
    """Refuse what stands in a file's place and would be waited for: a pipe, a device, a socket.

    Raises:
        DataError: it is there, and neither a file nor a folder.
    """
    with explained(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise DataError(f"{path} is not a plain file: pipes and devices are not read")


def _num_bytes(path: Path) -> int:
    check_plain(path)
    with explained(path):
        if not path.is_file():
            raise DataError(f"no file {path}")
        return path.stat().st_size


def _refuse(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is not a JSON number")


def _finite(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"{literal} is too large a number")
    return value
