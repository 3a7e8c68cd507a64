"""The one place that writes to disk: atomic replacement and fsync; with reading, locks and strict JSON beside it.

A file is written to a temporary neighbour, flushed to the device, renamed over its target, and the directory is
flushed too: a reader finds the old content or the new one, after a crash or a power cut as well. Every refusal of the
operating system becomes a `StorageError` that names the file. Tests replace `os` functions here to make each fail.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from minigpt.base import locks, owners
from minigpt.base.errors import LockedError, StorageError
from minigpt.base.locks import HOLDER_NAME, LOCK_NAME, check_unlocked, is_held
from minigpt.base.reading import (
    BINARY,
    NOFOLLOW,
    NONBLOCK,
    read_bytes,
    read_json,
    read_json_lines,
    read_sealed,
    sha256_file,
    uninterrupted,
)
from minigpt.base.strict_json import json_document, json_hash, parse_json, sha256_bytes, to_json

# Whoever writes needs the others too; they are named here, so that a caller knows one module.
__all__ = [
    "HOLDER_NAME",
    "LOCK_NAME",
    "AtomicFile",
    "append_json_line",
    "atomic_file",
    "check_unlocked",
    "claimed_directory",
    "flush",
    "free_bytes",
    "is_held",
    "is_leftover",
    "json_document",
    "json_hash",
    "limitations",
    "lock_directory",
    "make_directory",
    "memory_bytes",
    "new_directory",
    "parse_json",
    "passing_lock",
    "placed_by",
    "read_bytes",
    "read_json",
    "read_json_lines",
    "read_sealed",
    "redirect_output",
    "remove_if_empty",
    "remove_stale_temporaries",
    "remove_tree",
    "sha256_bytes",
    "sha256_file",
    "to_json",
    "write_bytes",
    "write_json",
    "write_sealed",
    "write_text",
]

_TEMPORARY = re.compile(rf"\..+\.(?P<owner>{owners.PATTERN})\.[0-9a-f]{{8}}\.tmp")
# After so long nobody, on whichever host and by whichever clock, is still writing a file.
_ABANDONED_SECONDS = 7 * 24 * 3600.0
_DIRECTORIES_UNFLUSHED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_ADVICE = {
    "ENOSPC": "free space or choose another {flag}",
    "EDQUOT": "free space of your quota or choose another {flag}",
    "EROFS": "it is mounted read-only; choose another {flag}",
    "EACCES": "ask for the permission to write there or choose another {flag}",
    "EPERM": "ask for the permission to write there or choose another {flag}",
    "EFBIG": "allow larger files (ulimit -f) or choose another {flag}",
    "EMFILE": "allow more open files (ulimit -n)",
    "ENFILE": "close other programs and try again",
    "ENAMETOOLONG": "choose a shorter {flag}",
    "ELOOP": "it is a link; put a file in its place or choose another {flag}",
    "EIO": "the disk fails; check it, or choose another {flag}",
}
_flag: ContextVar[str] = ContextVar("flag", default="--out")
_limitations: set[str] = set()


@contextlib.contextmanager
def placed_by(flag: str) -> Iterator[None]:
    """Let advice name the flag that says where files of this block are written, instead of --out."""
    token = _flag.set(flag)
    try:
        yield
    finally:
        _flag.reset(token)


def limitations() -> list[str]:
    """What this process met of file systems that promise less: recorded, because a power cut may then cost more."""
    return sorted(_limitations)


@contextlib.contextmanager
def _storage_errors(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        advice = _ADVICE.get(name, "choose another {flag}").format(flag=_flag.get())
        shown = f" ({name})" if name else ""
        raise StorageError(f"cannot {action} {path}; {error.strerror or error}{shown}; {advice}") from error


class AtomicFile:
    """A file that appears under its name only when `commit` is called; sequential writes, any size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_written = 0
        self._hash = hashlib.sha256()
        self._temporary = path.with_name(f".{path.name}.{owners.this_process()}.{os.urandom(4).hex()}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW | BINARY
        with _storage_errors("write", path):
            self._descriptor = uninterrupted(os.open, self._temporary, flags, 0o644)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`, however often the system takes only a part of it."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.bytes_written += len(view)
        with _storage_errors("write", self.path):
            while view:
                view = view[uninterrupted(os.write, self._descriptor, view) :]

    def commit(self) -> str:
        """Make the file durable under its name and return its SHA-256."""
        with _storage_errors("write", self.path):
            uninterrupted(os.fsync, self._descriptor)
            self._close()
            uninterrupted(os.replace, self._temporary, self.path)
            _fsync_directory(self.path.parent)
        return self._hash.hexdigest()

    def changed(self) -> float:
        """When it was last written to, by the clock of whoever keeps the files."""
        return os.fstat(self._descriptor).st_mtime

    def discard(self) -> None:
        """Remove what was written so far; harmless after `commit`."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _fsync_directory(directory: Path) -> None:
    """Make a rename durable. Windows cannot open directories and journals its renames itself.

    NOTE: some file systems (FUSE, SMB, 9p) refuse to flush a directory, though they hold files well enough.
    """
    if os.name == "nt":
        return
    descriptor = uninterrupted(os.open, directory, os.O_RDONLY)
    try:
        uninterrupted(os.fsync, descriptor)
    except OSError as error:
        if error.errno not in _DIRECTORIES_UNFLUSHED:
            raise
        _limitations.add(f"fsync of directories: {errno.errorcode[error.errno]}")
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[AtomicFile]:
    """Yield a file to write sequentially; it is discarded unless the caller commits it."""
    file = AtomicFile(path)
    try:
        yield file
    finally:
        file.discard()


def write_bytes(path: Path, data: bytes) -> str:
    """Replace `path` by `data` atomically and durably; return the SHA-256 of the data."""
    with atomic_file(path) as file:
        file.write(data)
        return file.commit()


def write_text(path: Path, text: str) -> str:
    """Replace `path` by UTF-8 `text` atomically and durably; return its SHA-256.

    What is no character, as in file names that are no UTF-8, is written as an escape.
    """
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> str:
    """Replace `path` by `value` as strict, readable JSON; return its SHA-256."""
    return write_bytes(path, json_document(value))


def write_sealed(path: Path, record: dict[str, Any]) -> None:
    """Replace `path` by a record with its hash, so that `read_sealed` notices any change."""
    write_json(path, {**record, "sha256": json_hash(record)})


def append_json_line(path: Path, value: Any) -> None:
    """Append one JSON value and a newline in a single write."""
    line = memoryview((to_json(value) + "\n").encode("utf-8"))
    with _storage_errors("append to", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NOFOLLOW | BINARY | NONBLOCK, 0o644)
        try:
            while line:
                line = line[uninterrupted(os.write, descriptor, line) :]
        finally:
            os.close(descriptor)


def flush(path: Path) -> int:
    """Make what was appended to `path` durable and return its length in bytes (0 if there is no such file)."""
    with _storage_errors("flush", path):
        if not path.exists():
            return 0
        descriptor = os.open(path, os.O_RDWR | NOFOLLOW | BINARY)
        try:
            uninterrupted(os.fsync, descriptor)
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory and its parents, durably."""
    with _storage_errors("create", path):
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for directory in reversed(missing):
            _fsync_directory(directory.parent)


def remove_tree(path: Path) -> None:
    """Delete a file, or a directory with its content; a link is removed, not followed."""
    with _storage_errors("remove", path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether a file is nothing but a lock or a temporary that some process left behind."""
    return locks.is_lock_file(path) or _TEMPORARY.fullmatch(path.name) is not None


def remove_stale_temporaries(directory: Path) -> None:
    """Delete temporary files that nobody writes any more; those of live processes and of other hosts stay."""
    for path in directory.glob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and _is_abandoned(path, owners.parse(match["owner"])):
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path, owner: owners.Owner | None) -> bool:
    """Whether its owner provably is gone; of an owner elsewhere, whether nobody wrote to it for days.

    NOTE: this machine's clock may be hours off the one that stamps files, so two stamps of files are compared.
    """
    if owner is not None and owners.is_here(owner):
        return owners.is_gone(owner)
    with contextlib.suppress(OSError, StorageError), atomic_file(path.with_name("clock")) as now:
        now.write(b"\0")
        return now.changed() - path.stat().st_mtime > _ABANDONED_SECONDS
    return False


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold `directory`, made if it is not there, for this process; a failure leaves none behind that was not there.

    Raises:
        LockedError: another process holds it; the message names that process.
    """
    with new_directory(directory), contextlib.ExitStack() as stack:
        with _storage_errors("lock", directory):
            stack.enter_context(locks.held(directory))
        remove_stale_temporaries(directory)
        yield


@contextlib.contextmanager
def passing_lock(directory: Path) -> Iterator[None]:
    """Hold a directory that is there only while it is held.

    Raises:
        LockedError: another process holds it; the message names that process.
    """
    with lock_directory(directory):
        try:
            yield
        finally:
            with contextlib.suppress(StorageError):  # another process may take it for what a dead one left
                remove_tree(directory)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[None]:
    """Create a directory with its parents; if the block fails and nothing of worth is in them, they go again."""
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    try:
        make_directory(path)
        yield
    except LockedError:  # another process made it at the same moment, and works there
        raise
    except BaseException:
        for directory in missing:
            remove_if_empty(directory)
        raise


@contextlib.contextmanager
def claimed_directory(candidates: Iterable[Path]) -> Iterator[Path]:
    """Make the first of some directories that nobody has, for this process alone; a failure leaves none behind."""
    for path in candidates:
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        make_directory(path.parent)
        with _storage_errors("create", path):
            try:
                path.mkdir()
            except FileExistsError:
                continue
        break
    try:
        yield path
    except BaseException:
        for directory in missing:
            remove_if_empty(directory)
        raise


def remove_if_empty(directory: Path) -> None:
    """Remove a directory that holds nothing but locks and left-overs; another process may have put a file there."""
    with contextlib.suppress(OSError, LockedError):
        if all(map(is_leftover, directory.iterdir())):
            remove_stale_temporaries(directory)
            locks.remove(directory)
        directory.rmdir()


def redirect_output(path: Path) -> None:
    """Send all that this process prints from now on to a new file."""
    with _storage_errors("write", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NOFOLLOW | BINARY, 0o644)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)
    sys.stdout, sys.stderr = (
        open(stream, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115  (they stay open to the end)
        for stream in (1, 2)
    )


def memory_bytes() -> int:
    """Bytes of this machine's memory; where the system does not tell, what small machines have."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 << 30


def free_bytes(directory: Path) -> int:
    """Bytes that this user can still write on the file system of `directory` or of its nearest existing parent."""
    for parent in (directory, *directory.resolve().parents):
        if parent.exists():
            return shutil.disk_usage(parent).free
    return 0
