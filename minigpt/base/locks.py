"""One holder for a directory: a kernel lock, which dies with its process however that dies.

Some file systems have no kernel locks (ENOLCK, ENOSYS, ENOTSUP), some let everybody have them, and some keep them from
one host only. Each is noticed, and there a file with the holder's name is the lock; see `soft_locks.py`.

Sources: flock(2), nfs(5) `local_lock`, proc_pid_mountinfo(5).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from minigpt.base import owners, soft_locks
from minigpt.base.errors import LockedError, StorageError
from minigpt.base.reading import BINARY, NOFOLLOW, NONBLOCK

LOCK_NAME = ".lock"
HOLDER_NAME = ".lock-holder"
_HELD = frozenset({errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK})
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
_OPENING = os.O_RDWR | NOFOLLOW | BINARY | NONBLOCK
_MOUNTS = Path("/proc/self/mountinfo")
# File systems that several hosts share and whose kernel locks, as they are usually mounted, only one host knows of.
_LOCAL_LOCKS = frozenset({"9p", "cifs", "smb3", "virtiofs", "vboxsf", "prl_fs", "afs"})
_LOCAL_LOCK_OPTIONS = frozenset({"nolock", "local_lock=flock", "local_lock=all", "localflock", "localflocks", "nobrl"})


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold an existing directory for this process.

    Raises:
        LockedError: another process holds it; the message names that process and its host.
        OSError: the system refuses.
    """
    descriptor = _take_kernel_lock(directory)
    try:
        soft_locks.check(directory)
        with contextlib.nullcontext() if _is_enough(descriptor, directory) else soft_locks.held(directory):
            _write_holder(directory / HOLDER_NAME)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(directory / HOLDER_NAME)
    finally:
        os.close(descriptor)


def check_unlocked(directory: Path) -> None:
    """Raise `LockedError` if another process holds `directory`; change nothing on disk."""
    path = directory / LOCK_NAME
    if not path.is_file():
        return
    try:
        descriptor = os.open(path, _OPENING)
    except OSError as error:
        raise StorageError(f"cannot lock {directory}; {error.strerror}; choose another --out") from error
    try:
        _lock(descriptor, directory)
        soft_locks.check(directory)
    finally:
        os.close(descriptor)


def is_held(directory: Path) -> bool:
    """Whether another process holds `directory`; changes nothing on disk."""
    try:
        check_unlocked(directory)
    except LockedError:
        return True
    return False


def remove(directory: Path) -> None:
    """Delete the files of a lock, held meanwhile so that they are nobody's; raises `LockedError` if somebody has it."""
    if not (directory / LOCK_NAME).is_file():
        return
    with held(directory):
        os.unlink(directory / LOCK_NAME)


def is_lock_file(path: Path) -> bool:
    """Whether a file only serves to lock its directory."""
    return path.name in (LOCK_NAME, HOLDER_NAME) or path.name.startswith(soft_locks.NAME)


def _take_kernel_lock(directory: Path) -> int:
    """Open the lock file and lock it, if locks are to be had; whoever removed it meanwhile had not locked this one."""
    path = directory / LOCK_NAME
    while True:
        try:
            descriptor = os.open(path, _OPENING | os.O_CREAT, 0o644)
        except FileNotFoundError:
            raise LockedError(f"{directory} is in use; another process is removing it; try again") from None
        try:
            _lock(descriptor, directory)
            if _is_same(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    if os.name == "nt":
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


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
            holder = owners.parse(soft_locks.text_of(directory / HOLDER_NAME))
            who = holder.in_words if holder else "another process"
            raise LockedError(f"{directory} is in use; {who} holds it; wait for it or choose another --out") from None
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def _is_enough(descriptor: int, directory: Path) -> bool:
    """Whether the kernel's lock on this descriptor keeps others out: those of this machine, and of other hosts."""
    return _refuses_a_second(directory) and not _is_known_to_one_host(os.fstat(descriptor).st_dev)


def _refuses_a_second(directory: Path) -> bool:
    """Ask for the lock once more, through a second opening of the file; what everybody gets is no lock."""
    second = os.open(directory / LOCK_NAME, _OPENING)
    try:
        _lock(second, directory)
    except LockedError:
        return True
    finally:
        os.close(second)
    return False


def _is_known_to_one_host(device: int) -> bool:
    """Whether a device is a mount that hosts share and whose locks they do not; an unknown one is a disk."""
    if os.name == "nt":
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError, ValueError):
        for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            left, _, right = line.partition(" - ")
            if left.split()[2] == number:
                kind, _, options = right.split(maxsplit=2)
                chosen = {*left.split()[5].split(","), *options.split(",")}
                return kind in _LOCAL_LOCKS or kind.startswith("fuse.") or bool(chosen & _LOCAL_LOCK_OPTIONS)
    return False


def _write_holder(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NOFOLLOW | BINARY | NONBLOCK, 0o644)
    try:
        os.write(descriptor, str(owners.this_process()).encode())
    finally:
        os.close(descriptor)
