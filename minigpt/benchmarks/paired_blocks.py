"""Blocks in turn, and the ratio they give: how two programs are compared on a machine that swings.

A block is some steps of one program. The programs take turns, in an order that is reversed from block to block, so
that whatever slows the machine for a while slows all of them. Each block gives one ratio; their median counts. What a
step is, others know. scipy does the bootstrap.

Source: percentile bootstrap (Efron & Tibshirani 1993, §13.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9999
_SEED = 0


class Track(Protocol):
    """Passes the numbers of the blocks on while it shows how far they are."""

    def __call__(self, blocks: Iterable[int], label: str) -> Iterable[int]:
        """Yield what `blocks` yields."""


@dataclass(frozen=True)
class PairedRatio:
    """The median of the blocks' ratios and its 95 % bootstrap interval, which a single block does not have."""

    median: float
    low: float | None
    high: float | None
    blocks: int


def alternate(programs: Sequence[Callable[[], float]], blocks: Iterable[int]) -> list[list[float]]:
    """Run every program once in each block and return its figures, one a block; odd blocks in reversed order."""
    figures: list[list[float]] = [[] for _ in programs]
    for block in blocks:
        order = range(len(programs)) if block % 2 == 0 else reversed(range(len(programs)))
        for index in order:
            figures[index].append(programs[index]())
    return figures


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> PairedRatio:
    """Compare two programs by the ratios of their blocks, one at least.

    Two times, the other program's over ours, say how many times faster ours is.
    """
    ratios = np.asarray(numerators, dtype=float) / np.asarray(denominators, dtype=float)
    low, high = _bootstrap_interval(ratios)
    return PairedRatio(float(np.median(ratios)), low, high, len(ratios))


def _bootstrap_interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Interval of the median of several values; a point if they are equal."""
    if len(values) < 2:
        return None, None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,),
        np.median,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        random_state=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Spread:
    """The median of some figures, and their quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Summarise at least one figure."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Spread(float(median), float(low), float(high))
