"""Reading files that may be anything: only regular files are opened, and a refusal of the system is no damage.

A file that is missing, is not regular or holds something else is the caller's error. One that cannot be read (EIO,
EMFILE, EPERM) may be good: that is a `StorageError` which names the reason, and nobody may take an older file for it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from minigpt.base.errors import MinigptError, StorageError
from minigpt.base.strict_json import json_hash, parse_json

NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
BINARY = getattr(os, "O_BINARY", 0)
NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO would wait for its other end
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})
_BLOCK = 1 << 20
_OTHERWISE = "mend the cause and try again"
_READ_ADVICE = {
    "EACCES": "ask for the permission to read it",
    "EPERM": "ask for the permission to read it",
    "EMFILE": "allow more open files (ulimit -n)",
    "ENFILE": "close other programs and try again",
    "EIO": "check the disk or its cable, and copy the file as soon as it can be read",
}

T = TypeVar("T")


def uninterrupted(call: Callable[..., T], *arguments: Any) -> T:
    """Call the system again as long as a signal cuts the call short."""
    while True:
        try:
            return call(*arguments)
        except InterruptedError:
            continue


def read_bytes(path: Path, error: type[MinigptError], limit: int | None = None) -> bytes:
    """Read a regular file without following a link.

    Raises:
        `error` if it is missing, a link, not a regular file, or larger than `limit` bytes.
        StorageError: the system refuses to read it.
    """
    try:
        descriptor = _open_regular(path, error)
        try:
            size = os.fstat(descriptor).st_size
            if limit is not None and size > limit:
                raise error(f"{path} is too large; it has {size:,} bytes; at most {limit:,} are expected")
            return b"".join(iter(lambda: uninterrupted(os.read, descriptor, _BLOCK), b""))
        finally:
            os.close(descriptor)
    except OSError as reason:
        raise _refusal(path, error, reason) from reason


def sha256_file(path: Path, error: type[MinigptError] = StorageError) -> str:
    """SHA-256 of a regular file's content, in hexadecimal, read in blocks; raises as `read_bytes` does."""
    digest = hashlib.sha256()
    try:
        descriptor = _open_regular(path, error)
        try:
            while block := uninterrupted(os.read, descriptor, _BLOCK):
                digest.update(block)
        finally:
            os.close(descriptor)
    except OSError as reason:
        raise _refusal(path, error, reason) from reason
    return digest.hexdigest()


def read_json(path: Path, error: type[MinigptError]) -> Any:
    """Read one strict JSON document; `error` is raised for anything wrong with it."""
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


def read_sealed(path: Path, error: type[MinigptError]) -> dict[str, Any] | None:
    """What `write_sealed` wrote, or None if it was altered; raises `error` if there is no JSON to read."""
    record = read_json(path, error)
    intact = isinstance(record, dict) and record.pop("sha256", None) == json_hash(record)
    return record if intact else None


def _open_regular(path: Path, error: type[MinigptError]) -> int:
    if path.is_symlink():
        raise error(f"{path} is a link, not a file; it leads to {os.readlink(path)}; put the file itself in its place")
    descriptor = uninterrupted(os.open, path, os.O_RDONLY | NOFOLLOW | BINARY | NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error(f"{path} is not a regular file; it is a folder, pipe or device; put the file itself in its place")
    return descriptor


def _refusal(path: Path, error: type[MinigptError], reason: OSError) -> MinigptError:
    """The caller's error for a file that is not there, ours for one that the system does not let us read."""
    if reason.errno in _ABSENT:
        return error(f"cannot read {path}; {reason.strerror}; give a place where it is")
    name = errno.errorcode.get(reason.errno or 0, "unknown error")
    advice = _READ_ADVICE.get(name, _OTHERWISE)
    return StorageError(f"cannot read {path}; {reason.strerror or reason} ({name}); it may be whole: {advice}")
