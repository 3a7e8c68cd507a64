"""The one place that writes to disk: atomic replacement, fsync, locks and strict JSON.

A file is written to a temporary neighbour, flushed to the device, renamed over its target, and the directory is
flushed too: a reader finds the old content or the new one, after a crash or a power cut as well. Every refusal of the
operating system becomes a `StorageError` that names the file. Tests replace `os` functions here to make each fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigpt.base.errors import LockedError, MinigptError, StorageError

LOCK_NAME = ".lock"
HOLDER_NAME = ".lock-holder"
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.tmp")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_HASH_BLOCK = 1 << 20


@contextlib.contextmanager
def _storage_errors(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot {action} {path}; {reason}; free space or choose another --out") from error


class AtomicFile:
    """A file that appears under its name only when `commit` is called; sequential writes, any size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_written = 0
        self._hash = hashlib.sha256()
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY
        with _storage_errors("write", path):
            self._temporary.unlink(missing_ok=True)
            self._descriptor = os.open(self._temporary, flags, 0o644)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`, however often the system takes only a part of it."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.bytes_written += len(view)
        with _storage_errors("write", self.path):
            while view:
                view = view[os.write(self._descriptor, view) :]

    def commit(self) -> str:
        """Make the file durable under its name and return its SHA-256."""
        with _storage_errors("write", self.path):
            os.fsync(self._descriptor)
            self._close()
            os.replace(self._temporary, self.path)
            _fsync_directory(self.path.parent)
        return self._hash.hexdigest()

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
    """Make a rename durable. Windows cannot open directories and journals its renames itself."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
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
    """Replace `path` by UTF-8 `text` atomically and durably; return its SHA-256."""
    return write_bytes(path, text.encode("utf-8"))


def to_json(value: Any, indent: int | None = None) -> str:
    """Serialize to strict JSON; figures that are not finite become null."""
    return json.dumps(_finite(value), allow_nan=False, ensure_ascii=False, indent=indent)


def json_document(value: Any) -> bytes:
    """The bytes of a JSON file that holds `value`, as `write_json` writes it."""
    return (to_json(value, indent=2) + "\n").encode("utf-8")


def write_json(path: Path, value: Any) -> str:
    """Replace `path` by `value` as strict, readable JSON; return its SHA-256."""
    return write_bytes(path, json_document(value))


def write_sealed(path: Path, record: dict[str, Any]) -> None:
    """Replace `path` by a record with a hash of its own, so that `read_sealed` notices whoever alters it."""
    write_json(path, {**record, "sha256": json_hash(record)})


def read_sealed(path: Path, error: type[MinigptError]) -> dict[str, Any] | None:
    """What `write_sealed` wrote, or None if it was altered; raises `error` if there is no JSON to read."""
    record = read_json(path, error)
    intact = isinstance(record, dict) and record.pop("sha256", None) == json_hash(record)
    return record if intact else None


def json_hash(value: Any) -> str:
    """SHA-256 of a value as strict JSON."""
    return sha256_bytes(to_json(value).encode("utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def parse_json(text: str, source: str, error: type[MinigptError]) -> Any:
    """Parse strict JSON: no NaN or Infinity, no duplicate keys, no absurd nesting.

    Raises:
        `error`, naming `source`, for anything else.
    """

    def refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique)
    except (ValueError, RecursionError) as reason:
        detail = "nested too deeply" if isinstance(reason, RecursionError) else str(reason)
        raise error(f"{source} is not valid JSON; {detail}; it was altered or cut short") from reason


def read_bytes(path: Path, error: type[MinigptError], limit: int | None = None) -> bytes:
    """Read a regular file without following a link.

    Raises:
        `error` if it is missing, a link, not a regular file, unreadable, or larger than `limit` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW | _BINARY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise error(f"{path} is not a regular file")
            if limit is not None and status.st_size > limit:
                raise error(f"{path} is too large; it has {status.st_size:,} bytes; at most {limit:,} are expected")
            return file.read()
    except OSError as reason:
        raise error(f"cannot read {path}; {reason.strerror or reason}") from reason


def read_json(path: Path, error: type[MinigptError]) -> Any:
    """Read one strict JSON document; `error` is raised for whatever is wrong with it."""
    data = read_bytes(path, error)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as reason:
        raise error(f"{path} is not UTF-8; bad byte at offset {reason.start}; it was altered") from reason
    return parse_json(text, str(path), error)


def read_json_lines(path: Path, error: type[MinigptError], offset: int = 0) -> list[Any]:
    """Read one JSON value a line from byte `offset` on, tolerating a last line that a crash cut short."""
    complete = read_bytes(path, error)[offset:].split(b"\n")[:-1]
    return [
        parse_json(line.decode("utf-8", "replace"), f"{path}, line {number}", error)
        for number, line in enumerate(complete, start=1)
    ]


def append_json_line(path: Path, value: Any) -> None:
    """Append one JSON value and a newline in a single write."""
    line = memoryview((to_json(value) + "\n").encode("utf-8"))
    with _storage_errors("append to", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NOFOLLOW | _BINARY, 0o644)
        try:
            while line:
                line = line[os.write(descriptor, line) :]
        finally:
            os.close(descriptor)


def flush(path: Path) -> int:
    """Make what was appended to `path` durable and return its length in bytes (0 if there is no such file)."""
    with _storage_errors("flush", path):
        if not path.exists():
            return 0
        descriptor = os.open(path, os.O_RDWR | _NOFOLLOW | _BINARY)
        try:
            os.fsync(descriptor)
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


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path, error: type[MinigptError] = StorageError) -> str:
    """SHA-256 of a file's content, in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_HASH_BLOCK):
                digest.update(block)
    except OSError as reason:
        raise error(f"cannot read {path}; {reason.strerror or reason}") from reason
    return digest.hexdigest()


def is_leftover(path: Path) -> bool:
    """Whether a file is nothing but a lock or a temporary that some process left behind."""
    return path.name in (LOCK_NAME, HOLDER_NAME) or _TEMPORARY.fullmatch(path.name) is not None


def remove_stale_temporaries(directory: Path) -> None:
    """Delete temporary files that dead processes left in `directory`; those of live processes stay."""
    for path in directory.glob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not _is_alive(int(match["pid"])):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process; the kernel frees it when the process dies, however it dies.

    Raises:
        LockedError: another process holds it; the message names that process.
    """
    from filelock import FileLock, Timeout

    make_directory(directory)
    lock = FileLock(directory / LOCK_NAME, blocking=False)
    with _storage_errors("lock", directory):
        try:
            lock.acquire()
        except Timeout:
            raise LockedError(_locked_message(directory)) from None
    try:
        write_text(directory / HOLDER_NAME, str(os.getpid()))
        yield
    finally:
        (directory / HOLDER_NAME).unlink(missing_ok=True)
        lock.release()


def check_unlocked(directory: Path) -> None:
    """Raise `LockedError` if another process holds `directory`; change nothing on disk."""
    from filelock import FileLock, Timeout

    if not (directory / LOCK_NAME).is_file():
        return
    try:
        with FileLock(directory / LOCK_NAME, blocking=False):
            return
    except Timeout:
        raise LockedError(_locked_message(directory)) from None


def _locked_message(directory: Path) -> str:
    try:
        holder = f"process {int((directory / HOLDER_NAME).read_text())}"
    except (OSError, ValueError):
        holder = "another process"
    return f"{directory} is in use; {holder} holds it; wait for it or choose another --out"


def redirect_output(path: Path) -> None:
    """Let whatever this process prints from now on go to a file, which is begun anew."""
    with _storage_errors("write", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NOFOLLOW | _BINARY, 0o644)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)
    sys.stdout, sys.stderr = (
        open(stream, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115  (they stay open to the end)
        for stream in (1, 2)
    )


def free_bytes(directory: Path) -> int:
    """Bytes that this user can still write on the file system of `directory` or of its nearest existing parent."""
    for parent in (directory, *directory.resolve().parents):
        if parent.exists():
            return shutil.disk_usage(parent).free
    return 0
