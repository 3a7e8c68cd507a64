"""One holder for a directory: a kernel lock, which dies with its process however that dies.

Some file systems have no kernel locks (ENOLCK, ENOSYS, ENOTSUP). There a file with the holder's name does, which a
later process on the same machine removes once its holder is dead; on another machine a person must.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from minigpt.base.errors import LockedError, StorageError
from minigpt.base.reading import BINARY, NOFOLLOW, NONBLOCK, read_bytes

LOCK_NAME = ".lock"
SOFT_LOCK_NAME = ".lock-soft"
HOLDER_NAME = ".lock-holder"
LOCK_FILES = frozenset({LOCK_NAME, SOFT_LOCK_NAME, HOLDER_NAME})
_HELD = frozenset({errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK})
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold an existing directory for this process.

    Raises:
        LockedError: another process holds it; the message names that process.
        OSError: the system refuses.
    """
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | NOFOLLOW | BINARY | NONBLOCK, 0o644)
    try:
        soft = not _lock(descriptor, directory)
        if soft:
            _take_soft_lock(directory)
        try:
            _write_holder(directory / HOLDER_NAME)
            yield
        finally:
            for name in (HOLDER_NAME, SOFT_LOCK_NAME) if soft else (HOLDER_NAME,):
                with contextlib.suppress(OSError):
                    os.unlink(directory / name)
    finally:
        os.close(descriptor)


def check_unlocked(directory: Path) -> None:
    """Raise `LockedError` if another process holds `directory`; change nothing on disk."""
    path = directory / LOCK_NAME
    if not path.is_file():
        return
    try:
        descriptor = os.open(path, os.O_RDWR | NOFOLLOW | BINARY | NONBLOCK)
    except OSError as error:
        raise StorageError(f"cannot lock {directory}; {error.strerror}; choose another --out") from error
    try:
        if not _lock(descriptor, directory):
            _check_soft_lock(directory)
    finally:
        os.close(descriptor)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _lock(descriptor: int, directory: Path) -> bool:
    """Take the kernel's lock, which lasts until the descriptor is closed; False if the file system has none."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise LockedError(_locked_message(directory, HOLDER_NAME)) from None
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def _take_soft_lock(directory: Path) -> None:
    """Make the file that says who holds the directory; one whose holder is dead goes first."""
    _check_soft_lock(directory)
    path = directory / SOFT_LOCK_NAME
    _remove_stale(directory, path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW | BINARY, 0o644)
    except FileExistsError:
        raise LockedError(_locked_message(directory, SOFT_LOCK_NAME)) from None
    try:
        os.write(descriptor, _this_process())
    finally:
        os.close(descriptor)


def _remove_stale(directory: Path, path: Path) -> None:
    """Remove the lock of a dead process, and nobody else's.

    NOTE: another process may have seen the same dead holder and hold the directory by now. So the file is moved aside,
    which only one can do, looked at again, and put back if it is alive.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if not _is_dead(aside):
        os.rename(aside, path)
        raise LockedError(_locked_message(directory, SOFT_LOCK_NAME))
    os.unlink(aside)


def _check_soft_lock(directory: Path) -> None:
    path = directory / SOFT_LOCK_NAME
    if path.is_file() and not _is_dead(path):
        raise LockedError(f"{_locked_message(directory, SOFT_LOCK_NAME)}; if it is dead, delete {path}")


def _is_dead(path: Path) -> bool:
    """Whether a soft lock names a process of this machine that is no more."""
    pid, _, host = _holder(path).partition(" ")
    return host == socket.gethostname() and pid.isdecimal() and not is_alive(int(pid))


def _write_holder(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NOFOLLOW | BINARY | NONBLOCK, 0o644)
    try:
        os.write(descriptor, str(os.getpid()).encode())
    finally:
        os.close(descriptor)


def _this_process() -> bytes:
    return f"{os.getpid()} {socket.gethostname()}".encode()


def _holder(path: Path) -> str:
    with contextlib.suppress(StorageError):
        return read_bytes(path, StorageError, limit=1000).decode("utf-8", "replace")
    return ""


def _locked_message(directory: Path, name: str) -> str:
    holder = _holder(directory / name)
    shown = f"process {holder}" if holder.partition(" ")[0].isdecimal() else "another process"
    return f"{directory} is in use; {shown} holds it; wait for it or choose another --out"
