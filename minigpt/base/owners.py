"""Who made a temporary file or holds a lock, on whichever host, and whether that process is provably gone.

A number names a process only in its PID namespace and since its kernel booted: in two containers that share a folder
both may be process 1, and host names may be equal. So an owner is a place, made of boot and namespace, with a number
and a start time there. Only whoever is at the same place can tell that an owner is gone; of others nobody here knows.

Sources: proc(5), proc_pid_stat(5), pid_namespaces(7).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

PATTERN = r"[A-Za-z0-9]{1,20}-[0-9a-f]{12}-\d+-\d*"
_PROC = Path("/proc")
_STARTED = 19  # starttime, counted from behind the name, which may hold spaces


@dataclass(frozen=True)
class Owner:
    """A process: its host's name, for people; where its number counts; the number; its start in ticks since boot."""

    host: str
    place: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"{self.host}-{self.place}-{self.pid}-{self.started}"

    @property
    def at(self) -> str:
        """Its host and place, as a file name: the same for all processes there."""
        return f"{self.host}-{self.place}"

    @property
    def in_words(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host}"


def this_process() -> Owner:
    """This process, which may have been forked from another since the last call."""
    return Owner(_host_name(), _place(), os.getpid(), _start_of("self"))


def parse(text: str) -> Owner | None:
    """The owner that a text names; None if it names none."""
    if not re.fullmatch(PATTERN, text):
        return None
    host, place, pid, started = text.split("-")
    return Owner(host, place, int(pid), started)


def is_here(owner: Owner) -> bool:
    """Whether this process would know of the owner's death."""
    return owner.place == _place()


def is_gone(owner: Owner) -> bool:
    """Whether the owner provably is no more: its number is free at this same place, or another process has it now."""
    if not is_here(owner):
        return False
    if not _is_number_taken(owner.pid):
        return True
    now = _start_of(str(owner.pid)) if _sees_own_namespace() else ""
    if not now:
        return not _is_number_taken(owner.pid)  # whoever had the number may have ended between the two looks
    return bool(owner.started) and owner.started != now


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:20] or "host"


def _place() -> str:
    return hashlib.sha256(f"{_boot()} {_namespace()}".encode()).hexdigest()[:12]


def _boot() -> str:
    """What no two machines share, and one not with itself after a restart where the system has a name for that."""
    with contextlib.suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()} {uuid.getnode():x}"


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink(_PROC / "self/ns/pid")
    return ""


def _start_of(process: str) -> str:
    with contextlib.suppress(OSError, IndexError):
        status = (_PROC / process / "stat").read_text(encoding="utf-8", errors="replace")
        return status.rpartition(")")[2].split()[_STARTED]
    return ""


def _sees_own_namespace() -> bool:
    """Whether /proc shows the processes whose numbers this one knows."""
    with contextlib.suppress(OSError):
        return os.readlink(_PROC / "self") == str(os.getpid())
    return False


def _is_number_taken(pid: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
