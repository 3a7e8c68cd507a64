"""A training is worth more than its words: lost output, closed terminals and hang-ups lose no step."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from child_processes import Start, await_that, needs_fork, newest_step, told
from conftest import TINY_RUN, Command
from run_files import summary

pytestmark = [pytest.mark.usefixtures("haste"), needs_fork]


@pytest.mark.parametrize("how", ["closed", "left", "full"])
def test_a_training_goes_on_without_its_output(start: Start, minigpt: Command, workplace: Path, how: str) -> None:
    """`train | head -2` used to end with exit 0 and nothing committed, a closed stream as a bug."""
    child = start(f"train {TINY_RUN} --out run", lose_output=[how])
    assert child.wait() == 0
    assert "error" not in (workplace / "child.err").read_text()
    assert summary(workplace / "run")["status"] == "finished"
    assert newest_step(workplace / "run") == 12
    assert minigpt("verify run") == 0


@pytest.mark.parametrize(("how", "code"), [("closed", 0), ("left", 0), ("full", 5)])
def test_a_result_that_nobody_can_get(start: Start, workplace: Path, how: str, code: int) -> None:
    """A reader that leaves is no failure; a full disk is one, in one line."""
    assert start("activations", lose_output=[how]).wait() == code
    error = (workplace / "child.err").read_text()
    assert ("cannot write to standard output; No space left" in error) == (code == 5)
    assert error.count("\n") == (code == 5)


def test_nohup_is_respected(start: Start, workplace: Path) -> None:
    """A hang-up that is ignored does not stop the training; SIGTERM still does."""
    flags = f"train {TINY_RUN} --steps 100000 --eval-every 0 --log-every 0 --checkpoint-every 0"
    child = start(f"{flags} --out run", announce=["phases"], hang_up_is_ignored=[])
    await_that(lambda: "training" in told(workplace / "phases"), "the training")
    child.signal(signal.SIGHUP)
    time.sleep(0.2)
    assert told(workplace / "phases") == ["training"]
    child.signal(signal.SIGTERM)
    assert child.wait() == 128 + signal.SIGTERM
    assert newest_step(workplace / "run") > 0
