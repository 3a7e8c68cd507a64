"""Processes that run one command each, and what is known of them from outside; `conftest.py` starts them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minigpt.training import checkpoints

PROJECT = Path(__file__).parents[2]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@dataclass(frozen=True)
class Child:
    """A process that runs one command."""

    pid: int
    ask: Callable[[dict[str, Any]], Any]

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code, or minus the signal that ended it."""
        return self.ask({"wait": self.pid})


Start = Callable[..., Child]
Server = Callable[[dict[str, Any]], Any]


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """The process that forks children, and that knows how they ended; see `fork_server.py`."""
    words = [sys.executable, str(PROJECT / "tests/support/fork_server.py")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:

        def ask(request: dict[str, Any]) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.kill()


def begin_child(ask: Server, place: Path, command: str, **accidents: list[Any]) -> Child:
    """Start a command in a separate process; accidents are functions of `fork_server.py` and their arguments."""
    return Child(ask({"argv": command.split(), "place": str(place), "accidents": accidents}), ask)


def await_that(condition: Callable[[], bool], what: str, patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.001)


def told(file: Path) -> list[str]:
    """What a child has announced so far."""
    return file.read_text().splitlines() if file.exists() else []


def newest_step(run: Path) -> int:
    """The step that a resumed training would start from; -1 if from nothing."""

    def loud(notice: str) -> None:
        raise AssertionError(notice)

    newest = checkpoints.newest(run, loud)
    return -1 if newest is None else newest.step


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return _status(pid)[:1] not in ([], ["Z"])


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used; it is known until its end is waited for.

    Its clock, named as Linux's `clock_getcpuclockid` does, counts nanoseconds; `/proc` counts hundredths of a second, a
    tenth of what is measured with it.
    """
    return time.clock_gettime((~pid << 3) | 2)


def _status(pid: int) -> list[str]:
    """What the system knows of a process, from its state on; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
