"""Effects that many claims share: one number for each seed, positive in the direction that the claim says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minigpt.claims.claim import DELTA, Column, Effect
from minigpt.claims.evidence import Evidence
from minigpt.experiments.arms import Arm, Times

# The best rate of each activation as a multiple of the base's, which is ReLU's: chosen from ×1/2, 1, 2, 4 on a seed and
# separate windows. SwiGLU and SiLU did best there at ×2 and ×4 but got stuck on some judged seeds: one lower.
RATES: Mapping[str, float] = {"gelu": 2.0, "silu": 2.0, "elu": 4.0, "sigmoid": 0.5}
# An arm that is known to learn less: what a positive control must find.
SLOW_RATE: Mapping[str, Any] = {"lr": Times(1 / 16)}
TOO_SLOW = "a sixteenth of the rate"


def activation(spec: str, **settings: object) -> Arm:
    """An arm with another activation, at its own rate."""
    rate = {"lr": Times(RATES[spec])} if RATES.get(spec, 1.0) != 1.0 and "lr" not in settings else {}
    return Arm({"activation": spec, **rate, **settings})


def loss(evidence: Evidence, arm: str, seed: int) -> float:
    """Final validation loss, as tables and series take it."""
    return evidence.loss(arm, seed)


def loss_of(arm: str) -> tuple[str, Effect]:
    """An arm's final validation loss, as a finding takes it."""
    return "nats", lambda evidence, seed: evidence.loss(arm, seed)


def dead_of(arm: str) -> tuple[str, Effect]:
    """An arm's share of dead neurons at the end, as a finding takes it."""
    return "share", lambda evidence, seed: evidence.health(arm, seed, "dead_fraction")


def measured(measurement: str, key: str) -> Column:
    """A measured figure of whichever arm, for tables and series."""
    return lambda evidence, arm, seed: evidence.figure(arm, seed, measurement, key)


def health(key: str) -> Column:
    """A share of neurons on validation text at the end of training, for tables and series."""
    return lambda evidence, arm, seed: evidence.health(arm, seed, key)


def beyond(column: Column, arm: str, reference: str) -> Effect:
    """How much larger a figure of one arm is than that of another."""
    return lambda evidence, seed: column(evidence, arm, seed) - column(evidence, reference, seed)


def worse(arm: str, reference: str) -> Effect:
    """How much more loss an arm has than its reference, in nats."""
    return beyond(loss, arm, reference)


def not_worse(arm: str, reference: str, allowed: float = DELTA) -> Effect:
    """How far an arm stays below what it may lose on its reference, in nats: non-inferiority, with a margin of 0."""
    return lambda evidence, seed: allowed - (evidence.loss(arm, seed) - evidence.loss(reference, seed))


def figure(arm: str, measurement: str, key: str, minus: float = 0.0) -> Effect:
    """A measured figure, less what would not yet count."""
    return lambda evidence, seed: evidence.figure(arm, seed, measurement, key) - minus


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Slope of y over x by least squares; NaN with fewer than two finite points."""
    known = [(x, y) for x, y in points if math.isfinite(y)]
    if len(known) < 2:
        return math.nan
    xs, ys = zip(*known, strict=True)
    return float(np.polyfit(xs, ys, deg=1)[0])


def chosen(evidence: Evidence, candidates: Sequence[str], best: bool = True) -> str:
    """The candidate with the smallest (or largest) mean loss on the seeds that choose and are judged nowhere.

    So the effects of the judged seeds are independent. A candidate that diverged on any of them has an infinite mean.
    """
    assert evidence.choosing, "the claim declares no seeds that choose"
    means = {arm: math.fsum(evidence.loss(arm, seed) for seed in evidence.choosing) for arm in candidates}
    return (min if best else max)(candidates, key=lambda arm: means[arm])


def loss_of_chosen(candidates: Sequence[str], best: bool = True) -> tuple[str, Effect]:
    """The loss of the candidate that separate seeds choose, as a finding takes it."""
    return "nats", lambda evidence, seed: evidence.loss(chosen(evidence, candidates, best), seed)
