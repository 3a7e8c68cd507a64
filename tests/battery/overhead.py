"""What all the care for files costs a normal training, as a share of its time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from run_files import summary

from battery.grounds import surely, workplace
from battery.tallies import Figure, Tally
from minigpt.base import storage
from minigpt.training import checkpoints
from minigpt.training.config import RunConfig

LIMIT = 0.02
COMMITS = ((checkpoints, "save"), (checkpoints, "prune"), (storage, "flush"))
RECORDS = ((storage, "append_json_line"),)


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """Train the default preset for `count` steps; commits and records count as often as they do by default."""
    tally = Tally("overhead", "steps of the default preset: time in storage and checkpoints below 2 %", seed)
    fsync = os.fsync
    with workplace(place) as patch:
        patch.setattr(os, "fsync", fsync)  # here flushes are what is measured
        commits, records = _clock(patch, COMMITS), _clock(patch, RECORDS)
        surely(f"train --corpus text.txt --steps {count} --checkpoint-every {max(1, count // 4)} --out run")
        seconds = summary(place / "run")["seconds"]
    default = RunConfig()
    a_commit = sum(commits) / max(1, len(commits) // len(COMMITS))
    a_record = sum(records) / max(1, len(records))
    a_step = (seconds - sum(commits) - sum(records)) / count
    extra = a_commit / default.checkpoint_every + a_record / default.log_every
    share = extra / (extra + a_step)
    tally.judge(share < LIMIT, f"{100 * share:.2f} % of the time")
    tally.count = count
    tally.note = f"{100 * share:.2f} % (a step {1000 * a_step:.1f} ms, a commit {1000 * a_commit:.1f} ms)"
    return [tally.figure()]


def _clock(patch: pytest.MonkeyPatch, functions: tuple[tuple[ModuleType, str], ...]) -> list[float]:
    """Seconds that each call of these functions will take."""
    seconds: list[float] = []

    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                seconds.append(time.perf_counter() - begun)

        return call

    for module, name in functions:
        patch.setattr(module, name, timed(getattr(module, name)))
    return seconds
