"""Fuzzing: a case is drawn from the seed and its number, timed, and watched by the interpreter's own audit."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import random
import time
from collections.abc import Callable

from audit_hook import audited

import minigpt
from battery.tallies import Tally, percentile
from minigpt.base.errors import UsageError

SLOW = 0.05  # seconds of processor time that 99 of 100 cases must stay under
WARM_UP = 60  # cases that are not counted: they import what is imported late


def fuzz(tally: Tally, count: int, case: Callable[[random.Random], str]) -> None:
    """Try cases; each says what went wrong with it, which is nothing if it was refused as it should be."""
    _import_all()
    for number in range(WARM_UP):
        case(random.Random(f"warm-up {number}"))
    seconds: list[float] = []
    for number in range(count):
        with audited() as events:
            begun = time.process_time()
            fault = case(random.Random(f"{tally.seed}-{number}"))
            seconds.append(time.process_time() - begun)
        fault = fault or (f"code was run: {events[:3]}" if events else "")
        tally.judge(not fault, f"case {number} of seed {tally.seed}: {fault}")
    slow = percentile(seconds, 0.99) if seconds else 0.0
    tally.note = f"p99 {1000 * slow:.1f} ms, longest {1000 * max(seconds, default=0):.0f} ms"
    if slow >= SLOW:
        tally.complain(f"too slow: {tally.note}")


def _import_all() -> None:
    """Import every module of ours, so that an import that is seen later is one that an input asked for."""
    for module in pkgutil.walk_packages(minigpt.__path__, "minigpt."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(UsageError):  # an extra that is not installed
                importlib.import_module(module.name)
