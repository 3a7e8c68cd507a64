"""How long a user waits: for `--help`, and from typing a command to the first training step.

Both are taken from outside, on separate processes. The first step is seen when its record is in the log; what
the command does before it, the first evaluation included, is part of the wait. The text is prepared beforehand.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minigpt.base.errors import MinigptError
from minigpt.benchmarks.paired_blocks import spread
from minigpt.benchmarks.programs import read_text
from minigpt.training.config import RunConfig
from minigpt.training.run_directory import METRICS

HELP_RUNS = 5
_POLL = 0.002  # seconds
_PATIENCE = 300.0


def measure_start(config: RunConfig, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Measure both; `asked` are the training flags that lead to `config`."""
    read_text(config)
    return {
        "preset": config.preset,
        "help_seconds": asdict(spread([_help_seconds() for _ in range(HELP_RUNS)])),
        "first_step_seconds": _first_step_seconds(as_flags(asked)),
    }


def as_flags(asked: Mapping[str, Any]) -> list[str]:
    """Values as the command line takes them."""
    written = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in asked.items()}
    return [f"--{name.replace('_', '-')}={value}" for name, value in written.items()]


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "minigpt", "train", *words]


def _help_seconds() -> float:
    begun = time.perf_counter()
    subprocess.run(_command(["--help"]), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def _first_step_seconds(flags: Sequence[str]) -> float:
    """Start a training, wait for the record of its first step, end it.

    Raises:
        MinigptError: it ended before, or never came so far.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = _command([*flags, "--log-every=1", f"--out={Path(folder) / 'run'}"])
        log = Path(folder) / "run" / METRICS
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                while not _has_a_step(log):
                    if process.poll() is not None or time.perf_counter() - begun > _PATIENCE:
                        raise MinigptError(f"no first step was seen; `{' '.join(command)}` ended; run it to see why")
                    time.sleep(_POLL)
                return time.perf_counter() - begun
            finally:
                process.kill()


def _has_a_step(log: Path) -> bool:
    try:
        return '"kind": "train"' in log.read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
