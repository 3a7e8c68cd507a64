"""Sampling that is stopped: what was printed stays, and one line says why there is no more."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from child_processes import Start, await_that, needs_fork


@needs_fork
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_sample_keeps_its_text(
    start: Start, tiny_run: Path, workplace: Path, number: signal.Signals, code: int
) -> None:
    """A sample without end streams; a signal ends it within a token, with the signal's exit code."""
    child = start("sample run --prompt a --max-new-tokens 100000000 --compile off")
    printed = workplace / "child.out"
    await_that(lambda: printed.exists() and printed.stat().st_size > 200, "some text")
    before = printed.read_bytes()
    child.signal(number)
    assert child.wait() == code
    assert printed.read_bytes().startswith(before)
    error = (workplace / "child.err").read_text()
    assert "Traceback" not in error
    assert error.strip().splitlines()[-1] in ("interrupted", "terminated")
