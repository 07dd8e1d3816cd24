"""Many files at once: a folder that appears whole, is checked when it is read, and has one writer at a time.

A published folder has a manifest: the size and sha256 of every file in it. Every read of it stays inside it.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath

import seqdec
from seqdec.errors import DataError, StorageError, UsageError
from seqdec.storage.files import (
    LEFTOVER,
    MANIFEST,
    advice,
    beside,
    check_plain,
    explained,
    leftover,
    plain_text,
    read_json,
    remove,
    sync,
    write_json,
)

try:
    import fcntl
except ImportError:  # Windows: publishing is as safe, but a second writer goes unnoticed
    fcntl = None

FORMAT = 1  # to be raised when an older seqdec could misread what a newer one wrote
LARGEST_HASHED = 256 * 2**20


@contextmanager
def publish(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes `folder` once the block ends without an exception.

    Args:
        folder: where the result will stand; missing parents are made.
        replace: whether a folder published earlier gives way; it stands until the new one is complete.

    Raises:
        StorageError: `folder` is taken or cannot be written; nothing has changed then.
    """
    with explained(folder):
        if os.path.lexists(folder) and not replace:
            raise StorageError(f"{folder} already exists: choose another folder or remove it first")
        if os.path.lexists(folder) and not _may_be_replaced(folder):
            raise StorageError(f"{folder} is not a folder that seqdec published: move it away first")
    with ExitStack() as locks:
        temporary, is_ours = folder, False
        while not is_ours:
            temporary = locks.enter_context(beside(folder))
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            # The lock keeps it from being taken for a leftover; a `recover` that came before it has taken it.
            with suppress(FileNotFoundError):
                is_ours = locks.enter_context(_locked(temporary)) and os.path.lexists(temporary)
        yield temporary
        write_manifest(temporary)
        if not os.path.lexists(folder):
            os.rename(temporary, folder)
            sync(folder.parent)
        elif locks.enter_context(_locked(folder)):
            _exchange(temporary, folder)
        else:
            raise StorageError(f"another process is replacing {folder}: try again when it has ended")


def retire(folder: Path) -> None:
    """Remove a published folder; a crash in between leaves no half of it under its name."""
    with explained(folder):
        old = leftover("tmp", folder)
        os.rename(folder, old)
        remove(old)


def recover(parent: Path) -> list[str]:
    """Clear away the leftovers of killed writers in `parent`; return what was done, one sentence each.

    A folder whose replacement never came is put back. The work of a living process is left alone.
    """
    sentences = []
    with explained(parent):
        names = sorted(os.listdir(parent), reverse=True) if parent.is_dir() else []  # .tmp- before .del-
        for name in names:
            if match := LEFTOVER.fullmatch(name):
                with suppress(FileNotFoundError):  # its writer has just ended
                    sentences += _clear(parent / name, parent / match["name"], match["kind"])
    return sentences


def published(parent: Path, prefix: str = "") -> list[Path]:
    """Return the published folders `parent/prefix*` by name, and step-999999 before step-1000000."""
    with explained(parent):
        names = os.listdir(parent) if parent.is_dir() else []
        named = [parent / name for name in names if name.startswith(prefix) and not LEFTOVER.fullmatch(name)]
        folders = [folder for folder in named if (folder / MANIFEST).is_file()]
    return sorted(folders, key=lambda folder: (len(folder.name), folder.name))


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
        sync(Path(place))
    files.pop(MANIFEST, None)
    write_json(folder / MANIFEST, {"format": FORMAT, "seqdec": seqdec.__version__, "files": files})
    sync(folder / MANIFEST)
    sync(folder)


def verify(folder: Path, *, hashes: bool = False) -> frozenset[str]:
    """Check that every file of a published folder is the one that was written; return their names.

    Sizes are always compared; contents for files under 256 MB or, with `hashes`, for all. Files that the
    manifest does not name are ignored.

    Raises:
        DataError: names the file, what was expected and what was found.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}")
    if not os.path.lexists(folder / MANIFEST):
        raise DataError(f"{folder} has no {MANIFEST}: seqdec did not write it, or it was copied in part")
    manifest = read_json(path_inside(folder, MANIFEST))
    files, form = manifest.get("files"), manifest.get("format")
    if isinstance(form, int) and form > FORMAT:
        newer = plain_text(str(manifest.get("seqdec")))
        raise DataError(f"{folder} has format {form}, this seqdec reads {FORMAT}: it needs seqdec >= {newer}")
    if form != FORMAT or not isinstance(files, dict):
        raise DataError(f"{folder / MANIFEST} is not a manifest of seqdec: copy or download the folder again")
    for name, entry in files.items():
        _check_file(folder, name, entry if isinstance(entry, dict) else {}, hashes)
    return frozenset(files)


def check_named(folder: Path, names: Collection[str], read: Iterable[str]) -> None:
    """Refuse files that are to be read and that the manifest of their folder does not name.

    Args:
        folder: of the manifest.
        names: those in the manifest, as `verify` returns them.
        read: those that are read, where they are there.

    Raises:
        DataError: one is a link, or is not in the manifest.
    """
    for name in read:
        path = path_inside(folder, name)
        if name not in names and os.path.lexists(path):
            raise DataError(
                f"{path} is not in {folder / MANIFEST}, so it is not read: copy or download the folder again"
            )


def path_inside(folder: Path, name: str) -> Path:
    """Join a name that stands in a file to the folder of that file.

    Raises:
        DataError: the name leads out of the folder, or passes through a link that is none of the Hub's cache.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or "/" in parts or not name.isprintable() or len(os.fsencode(name)) > 255:
        raise DataError(f"{folder} refers to '{plain_text(name)}', which is not a path inside it")
    path = folder
    for part in parts:
        path = path / part
        if os.path.islink(path) and not _is_of_snapshot(path):
            raise DataError(f"{path} is a link, only files are read: copy the folder with cp -rL")
    return path


def _is_of_snapshot(link: Path) -> bool:
    """Return whether a link is one of the Hub's cache: from one of a repository's snapshots to a file of its blobs."""
    blobs = Path(os.path.realpath(link)).parent
    return blobs.name == "blobs" and blobs.parent / "snapshots" in link.parent.resolve().parents


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Be the only process that writes to `folder`, which is made if missing; kill -9 gives it back.

    Raises:
        UsageError: another process has it.
    """
    check_plain(folder / ".lock")
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    with _locked(folder / ".lock") as is_ours:
        if not is_ours:
            raise UsageError(f"another run is writing to {folder}: wait for it or choose another folder")
        yield


@contextmanager
def await_lock(path: Path) -> Iterator[None]:
    """Be the only process that works at `path`, which need not be there yet; wait until it is free."""
    lock = path.with_name(f".lock-{path.name}")
    check_plain(lock)
    with explained(path):
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
        _lock(descriptor, is_patient=True)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                return descriptor
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock on a file or folder, which the death of its holder frees; False: another holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, is_patient: bool = False) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX if is_patient else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)  # a file system without locks is as Windows
    return True


def _may_be_replaced(folder: Path) -> bool:
    is_plain = folder.is_dir() and not folder.is_symlink()
    return is_plain and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))


def _exchange(temporary: Path, folder: Path) -> None:
    retired = leftover("del", folder)
    os.rename(folder, retired)
    try:
        os.rename(temporary, folder)
    finally:
        if not os.path.lexists(folder):
            os.rename(retired, folder)
    sync(folder.parent)
    remove(retired)


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
            sync(target.parent)
            return [f"{target} was put back: its replacement was cut off"]
        remove(leftover)
        return [] if os.path.lexists(leftover) else [f"{target} had an incomplete or old copy, now removed"]


def _check_file(folder: Path, name: str, entry: dict[str, object], hashes: bool) -> None:
    path = path_inside(folder, name)
    size, digest = entry.get("bytes"), entry.get("sha256")
    if type(size) is not int or not isinstance(digest, str):
        raise DataError(f"{folder / MANIFEST} lacks the size or sha256 of '{plain_text(name)}'")
    with explained(path):
        if not path.is_file():
            raise DataError(f"{name} is missing in {folder}: copy or download the folder again")
        expected, actual = f"{size} bytes", f"{path.stat().st_size} bytes"
        if actual == expected and (hashes or size < LARGEST_HASHED):
            with open(path, "rb") as file:
                expected, actual = f"sha256 {digest}", f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    if actual != expected:
        difference = f"expected {plain_text(expected)}, found {actual}"
        raise DataError(f"{name} in {folder} does not match its manifest ({difference}){advice(path)}")
