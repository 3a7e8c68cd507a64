"""Processes that run one command each, and what is known of them from outside; `conftest.py` starts them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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


def await_that(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
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
