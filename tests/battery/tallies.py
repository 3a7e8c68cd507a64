"""A figure of the battery: what was done, how often, and how often that went wrong."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

KEPT_FAILURES = 5


@dataclass(frozen=True)
class Figure:
    """One line of `docs/reliability.md`; `examples` are the first failures, each with what repeats it."""

    group: str
    what: str
    count: int
    failures: int
    seconds: float
    seed: int
    note: str = ""
    examples: tuple[str, ...] = ()

    def line(self) -> str:
        """As the command prints it."""
        note = f"; {self.note}" if self.note else ""
        figures = f"{self.count:,} × {self.what}: {self.failures:,} failures{note}"
        return f"{self.group}: {figures} (seed {self.seed}, {self.seconds:.1f} s)"


@dataclass
class Tally:
    """A figure while it is counted; the clock runs from its beginning."""

    group: str
    what: str
    seed: int
    count: int = 0
    failures: int = 0
    note: str = ""
    examples: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def passed(self) -> None:
        """Count one attempt that went as promised."""
        self.count += 1

    def failed(self, why: str) -> None:
        """Count one attempt that did not."""
        self.count += 1
        self.complain(why)

    def judge(self, is_right: bool, why: str) -> None:
        """Count one attempt either way."""
        if is_right:
            self.passed()
        else:
            self.failed(why)

    def complain(self, why: str) -> None:
        """Note a failure that is not of one attempt but of the whole."""
        self.failures += 1
        if len(self.examples) < KEPT_FAILURES:
            self.examples.append(why)

    def figure(self) -> Figure:
        """The figure, now that all is counted."""
        seconds = time.perf_counter() - self.begun
        examples = tuple(self.examples)
        return Figure(self.group, self.what, self.count, self.failures, seconds, self.seed, self.note, examples)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
