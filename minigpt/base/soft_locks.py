"""A lock that is a file with its holder's name, for file systems whose kernel locks do not hold.

It fails closed: one whose holder is not provably gone stays until a person deletes it. One whose holder is gone is
replaced, by one process only. Who wants to replace it first makes a claim, a file named by the lock's own random
token, and looks again: while it has that claim, nobody else may replace the lock that it saw. Then the claim itself,
moved over the lock in one operation, is the new lock. Several that see the same dead holder cannot both win.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from minigpt.base import owners
from minigpt.base.errors import LockedError, StorageError
from minigpt.base.reading import BINARY, NOFOLLOW, read_bytes

NAME = ".lock-soft"


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a directory by a file in it.

    Raises:
        LockedError: another process has it, or may have it.
        OSError: the system refuses.
    """
    path = directory / NAME
    mine = f"{owners.this_process()} {os.urandom(8).hex()}"
    if not _make(path, mine):
        _replace_dead(directory, mine)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if text_of(path) == mine:
                os.unlink(path)


def check(directory: Path) -> None:
    """Raise `LockedError` if a process has, or may have, the directory by a file; change nothing on disk."""
    path = directory / NAME
    if path.is_file() and not _is_dead(text_of(path)):
        raise _locked(directory, path)


def _make(path: Path, content: str) -> bool:
    """Make a file with this content unless there is one; without its content yet, it names no dead owner."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW | BINARY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, content.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def _replace_dead(directory: Path, mine: str) -> None:
    """Take the place of a lock whose holder is gone."""
    path = directory / NAME
    seen = text_of(path)
    if not _is_dead(seen):
        raise _locked(directory, path)
    claim = directory / f"{NAME}-{seen.partition(' ')[2]}"
    if not _make(claim, mine):
        raise _locked(directory, claim)
    if text_of(path) != seen:  # another had the claim before, and has used it
        os.unlink(claim)
        raise _locked(directory, path)
    os.replace(claim, path)


def _is_dead(content: str) -> bool:
    owner, _, token = content.partition(" ")
    holder = owners.parse(owner)
    return holder is not None and token.isalnum() and owners.is_gone(holder)


def text_of(path: Path) -> str:
    """What a lock says of its holder; nothing if it cannot be read."""
    with contextlib.suppress(StorageError):
        return read_bytes(path, StorageError, limit=1000).decode("utf-8", "replace")
    return ""


def _locked(directory: Path, path: Path) -> LockedError:
    holder = owners.parse(text_of(path).partition(" ")[0])
    who = holder.in_words if holder else "another process"
    return LockedError(f"{directory} is in use; {who} holds it; wait for it; if it is dead, delete {path}")
