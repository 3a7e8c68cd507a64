"""Locks where the file system has none, directories that cannot be flushed, and advice that fits the reason."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from minigpt.base import locks, owners, soft_locks, storage
from minigpt.base.errors import LockedError, StorageError


def refuse_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)


def refuse_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system on which everybody gets the lock."""
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)


def mount_as(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, options: str) -> None:
    """Let the place of a test look as if another host shared it."""
    device = os.stat(tmp_path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    table = tmp_path / "mounts"
    table.write_text(
        f"1 0 9:9 / / rw - ext4 /dev/vda rw\n2 1 {number} / /share rw,relatime - {kind} host:/x {options}\n"
    )
    monkeypatch.setattr(locks, "_MOUNTS", table)


ACCIDENTS = {
    "ENOLCK": lambda monkeypatch, place: refuse_locks(monkeypatch, errno.ENOLCK),
    "ENOSYS": lambda monkeypatch, place: refuse_locks(monkeypatch, errno.ENOSYS),
    "EOPNOTSUPP": lambda monkeypatch, place: refuse_locks(monkeypatch, errno.EOPNOTSUPP),
    "for everybody": lambda monkeypatch, place: refuse_nothing(monkeypatch),
    "nfs, local": lambda monkeypatch, place: mount_as(monkeypatch, place, "nfs4", "rw,vers=4.2,local_lock=flock"),
    "nfs 3, nolock": lambda monkeypatch, place: mount_as(monkeypatch, place, "nfs", "rw,nolock"),
    "sshfs": lambda monkeypatch, place: mount_as(monkeypatch, place, "fuse.sshfs", "rw,user_id=0"),
    "virtiofs": lambda monkeypatch, place: mount_as(monkeypatch, place, "virtiofs", "rw"),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_a_file_locks_where_the_kernel_does_not(tmp_path: Path, accident: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed when the lock is taken. The file names its holder, goes with it, and keeps other hosts out."""
    ACCIDENTS[accident](monkeypatch, tmp_path)
    folder = tmp_path / "run"
    with storage.lock_directory(folder):
        assert (folder / soft_locks.NAME).read_text().split()[0] == str(owners.this_process())
        refuse_nothing(monkeypatch)  # as the kernel of another host, which knows nothing of it
        for attempt in (storage.check_unlocked, lambda path: storage.lock_directory(path).__enter__()):
            with pytest.raises(LockedError, match=f"process {os.getpid()} on {owners.this_process().host} "):
                attempt(folder)
    assert [path.name for path in folder.iterdir()] == [locks.LOCK_NAME]
    with storage.lock_directory(folder):
        pass


@pytest.mark.parametrize(("kind", "options"), [("ext4", "rw"), ("nfs4", "rw,local_lock=none"), ("ceph", "rw")])
def test_no_file_is_needed_where_the_kernel_locks(
    tmp_path: Path, kind: str, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file would outlive a host that loses power."""
    mount_as(monkeypatch, tmp_path, kind, options)
    with storage.lock_directory(tmp_path / "run"):
        assert not (tmp_path / "run" / soft_locks.NAME).exists()


def test_a_lock_file_that_was_removed_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives up a folder removes its lock file; who had opened that one would hold what nobody else sees."""
    lock, real, removed = tmp_path / locks.LOCK_NAME, fcntl.flock, []

    def flock(*arguments: int) -> None:
        if not removed:
            removed.append(lock.stat().st_ino)
            lock.rename(tmp_path / "removed")
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", flock)
    with storage.lock_directory(tmp_path):
        assert lock.stat().st_ino not in removed
        with pytest.raises(LockedError):
            storage.lock_directory(tmp_path).__enter__()


def test_giving_up_a_folder_takes_no_lock_from_anybody(tmp_path: Path) -> None:
    """A command that fails removes the folder that it made, unless another works there by now."""
    folder = tmp_path / "new"
    with pytest.raises(ValueError, match="failed"), storage.new_directory(folder), storage.lock_directory(folder):
        raise ValueError("failed")
    assert not folder.exists()
    foreign = folder / f".a.{replace(owners.this_process(), place=12 * '0')}.0123abcd.tmp"
    with contextlib.ExitStack() as other:

        def fail_while_another_works_there() -> None:
            with storage.new_directory(folder):
                other.enter_context(storage.lock_directory(folder))
                foreign.touch()
                raise ValueError("failed")

        with pytest.raises(ValueError, match="failed"):
            fail_while_another_works_there()
        assert (folder / locks.LOCK_NAME).exists()
        assert foreign.exists()


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
