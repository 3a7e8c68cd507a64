"""Locks where the file system has none, directories that cannot be flushed, and advice that fits the reason."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.base import locks, storage
from minigpt.base.errors import LockedError, StorageError


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def without_kernel_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_file_locks_where_the_kernel_cannot(tmp_path: Path, without_kernel_locks: None) -> None:
    """It names its holder, goes with it, and keeps a second one out."""
    with storage.lock_directory(tmp_path):
        for attempt in (storage.check_unlocked, lambda path: storage.lock_directory(path).__enter__()):
            with pytest.raises(LockedError, match=f"process {os.getpid()} "):
                attempt(tmp_path)
    assert not (tmp_path / locks.SOFT_LOCK_NAME).exists()
    with storage.lock_directory(tmp_path):
        pass


def test_the_file_of_a_dead_process_is_no_lock(tmp_path: Path, without_kernel_locks: None) -> None:
    """On this machine; of a process elsewhere nobody can tell here, so a person must."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    soft = tmp_path / locks.SOFT_LOCK_NAME
    soft.write_text(f"{process.pid} {socket.gethostname()}")
    with storage.lock_directory(tmp_path):
        assert soft.read_text().split()[0] == str(os.getpid())
    soft.write_text(f"{process.pid} elsewhere")
    with pytest.raises(LockedError, match=r"if it is dead, delete .*lock-soft"):
        storage.lock_directory(tmp_path).__enter__()


def test_a_lock_taken_meanwhile_is_put_back(
    tmp_path: Path, without_kernel_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kind 12: of two processes that see the same dead holder one removed the lock that the other had just taken."""
    soft = tmp_path / locks.SOFT_LOCK_NAME
    soft.write_text(f"{os.getppid()} {socket.gethostname()}")
    monkeypatch.setattr(locks, "_check_soft_lock", lambda directory: None)  # it looked before the other one took it
    with pytest.raises(LockedError, match=f"process {os.getppid()} "):
        storage.lock_directory(tmp_path).__enter__()
    assert soft.read_text().split()[0] == str(os.getppid())


def test_a_lock_that_the_kernel_refuses_for_another_reason_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO does not say that there are no locks."""

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="cannot lock"):
        storage.lock_directory(tmp_path).__enter__()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_directory_that_cannot_be_flushed_is_used_and_recorded(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems refuse it with every replacement, which used to make them unusable; a file's flush counts."""
    original = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        original(descriptor)

    monkeypatch.setattr(storage, "_limitations", set())
    monkeypatch.setattr(os, "fsync", fsync)
    storage.write_text(tmp_path / "file", "text")
    assert storage.limitations() == [f"fsync of directories: {errno.errorcode[code]}"]

    def broken(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError):
        storage.write_text(tmp_path / "file", "other")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free space or choose another --data-dir"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "the disk fails"),
    ],
)
def test_advice_fits_the_reason_and_the_flag(
    tmp_path: Path, code: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice is to free space only where it is short; the flag is the one that chose the place."""

    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", refuse)
    with storage.placed_by("--data-dir"), pytest.raises(StorageError, match=advice) as caught:
        storage.write_text(tmp_path / "file", "text")
    assert ("free space" in str(caught.value)) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert "--out" not in str(caught.value)


def test_a_directory_made_for_nothing_goes_again(tmp_path: Path) -> None:
    """With its parents, unless somebody put a file there; one that was there before stays."""
    for used in (False, True):
        with pytest.raises(ValueError, match="failed"), storage.lock_directory(tmp_path / "new/deep"):
            _fail(tmp_path / "new/deep/file", used)
        assert (tmp_path / "new").exists() == used
    with pytest.raises(ValueError, match="failed"), storage.lock_directory(tmp_path):
        raise ValueError("failed")
    assert tmp_path.exists()


def test_directories_claimed_at_once_differ(tmp_path: Path) -> None:
    """The first free name wins; a failure gives it back."""
    names = [tmp_path / "runs" / name for name in "abc"]
    with storage.claimed_directory(names) as first, storage.claimed_directory(names) as second:
        assert (first, second) == (names[0], names[1])
        (second / "file").touch()
    with pytest.raises(ValueError, match="failed"), storage.claimed_directory(names) as third:
        _fail(third / "file", used=False)
    assert not names[2].exists()


def _fail(file: Path, used: bool) -> None:
    assert file.parent.is_dir()
    if used:
        file.touch()
    raise ValueError("failed")
