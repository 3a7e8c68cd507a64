"""Paired statistics with the seed as the unit: tests, intervals, verdicts, power.

A difference is arm − reference of one seed, in nats per token; below zero the arm is better. Everything here is a pure
function of numbers: what a cell, an arm or a diverged run is, `comparisons.py` knows. scipy does the arithmetic.

Sources: two one-sided tests (Schuirmann 1987) and their power (Phillips 1990); Holm's adjustment (Holm 1979).

NOTE: differences and equivalences are two Holm families, each at `alpha`; one comparison cannot be wrong in both, since
its true effect cannot be zero and beyond the margin at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special, stats

Verdict = Literal["better", "worse", "equivalent", "undecided", "no verdict"]

FEWEST_SEEDS = 2
# What the 95 % and the 90 % interval leave on each side.
TAIL, TAIL_90 = 0.025, 0.05
TARGET_POWER = 0.8
MOST_SEEDS = 1000
# All 2^n sign flips are counted where there are no more than this, up to 13 pairs; beyond, this number is drawn.
SIGN_FLIPS = 10_000
# Values closer than this, relative to the largest or to 1, differ by rounding alone.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """The mean of n values with its t interval; a single value has neither standard deviation nor interval."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class TTest:
    """What the t test says of n values. low, high: 95 % interval of the mean; low90, high90: 90 %; p_t: two-sided."""

    n: int
    mean: float
    sd: float
    low: float
    high: float
    low90: float
    high90: float
    p_t: float


@dataclass(frozen=True)
class PairedTests(TTest):
    """What n paired differences say. Unadjusted for any family."""

    p_sign_flip: float
    p_tost: float


@dataclass(frozen=True)
class NoiseFloor:
    """An arm against itself: sd over seeds, sd of a difference of two seeds, and what an unpaired test could see."""

    seed_sd: float
    difference_sd: float
    detectable: float


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of at least one value with its 95 % t interval."""
    if len(values) == 1:
        return Estimate(float(values[0]), None, None, None, 1)
    found = t_test(values)
    return Estimate(found.mean, found.sd, found.low, found.high, found.n)


def t_test(values: Sequence[float]) -> TTest:
    """Test whether the mean of at least two finite values is zero; without any spread at the limit: p is 0 or 1."""
    n = len(values)
    mean, sd = _mean_and_sd(values)
    error = sd / math.sqrt(n)
    half, half90 = (_critical(n, tail) * error for tail in (TAIL, TAIL_90))
    p = float(2 * special.stdtr(n - 1, -abs(mean) / error)) if error else float(abs(mean) <= ROUNDING)
    return TTest(n, mean, sd, mean - half, mean + half, mean - half90, mean + half90, p)


@functools.cache
def _critical(n: int, tail: float) -> float:
    return float(stats.t.isf(tail, n - 1))


def paired_tests(differences: Sequence[float], margin: float) -> PairedTests:
    """Test at least two finite paired differences for being zero, and for lying within ±margin."""
    found = t_test(differences)
    return PairedTests(**vars(found), p_sign_flip=sign_flip_p(differences), p_tost=tost_p(found, margin))


def tost_p(found: TTest, margin: float) -> float:
    """p of two one-sided t tests, the larger one: small if the mean is shown to lie within ±margin."""
    return below_p(replace(found, mean=abs(found.mean)), margin)


def below_p(found: TTest, margin: float) -> float:
    """p of the one-sided t test against all means of at least `margin`: small if the mean is shown to be less."""
    if not found.sd:
        return 0.0 if found.mean < margin else 1.0
    return float(special.stdtr(found.n - 1, (found.mean - margin) / (found.sd / math.sqrt(found.n))))


def sign_flip_p(differences: Sequence[float]) -> float:
    """p of the two-sided sign-flip test of the mean, exact for few pairs; assumes symmetry but no normality."""
    result = stats.permutation_test(
        (np.asarray(differences, dtype=np.float64),),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=SIGN_FLIPS,
        random_state=np.random.default_rng(0),
    )
    return float(result.pvalue)


def sign_test_p(positive: int, negative: int) -> float:
    """p of the exact two-sided sign test; 1 where no pair has a sign."""
    informative = positive + negative
    return float(stats.binomtest(positive, informative).pvalue) if informative else 1.0


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust a family of p-values by Holm's step-down rule; None is no member of the family and stays None."""
    members = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(members):
        largest = max(largest, min(1.0, (len(members) - rank) * p))
        adjusted[index] = largest
    return adjusted


def verdict(
    mean: float, p_difference: float, p_equivalence: float | None, *, margin: float, alpha: float
) -> Literal["better", "worse", "equivalent", "undecided"]:
    """Judge one comparison by its mean difference and its p-values, both adjusted for the family."""
    if p_difference < alpha and mean <= -margin:
        return "better"
    if p_difference < alpha and mean >= margin:
        return "worse"
    if p_equivalence is not None and p_equivalence < alpha:
        return "equivalent"
    return "undecided"


def t_test_power(effect: float, seeds: np.ndarray, alpha: float) -> np.ndarray:
    """Chance that the paired t test finds an effect of `effect` paired SD in its direction, by number of seeds."""
    critical = stats.t.isf(alpha / 2, seeds - 1)
    # NOTE: the wrong direction adds next to nothing, and there scipy's noncentral t returns NaN.
    return np.asarray(stats.nct.sf(critical, seeds - 1, abs(effect) * np.sqrt(seeds)))


def tost_power(mean: float, sd: float, margin: float, seeds: np.ndarray, alpha: float) -> np.ndarray:
    """Chance that two one-sided tests show a true mean, itself within ±margin, to lie there, by number of seeds.

    A lower bound, P(A) + P(B) − 1 for both tests: short of the truth by the chance that neither of them rejects.
    """
    critical = stats.t.isf(alpha, seeds - 1)
    above, below = (
        stats.nct.sf(critical, seeds - 1, gap / sd * np.sqrt(seeds)) for gap in (margin + mean, margin - mean)
    )
    return np.asarray(np.maximum(0.0, above + below - 1))


def decision_power(mean: float, sd: float, margin: float, seeds: np.ndarray, alpha: float) -> np.ndarray:
    """Chance of the verdict that a true mean calls for, by number of seeds; `alpha` is that of one comparison.

    Beyond the margin "better" or "worse", which asks for significance and for a measured mean beyond the margin; within
    it "equivalent". A lower bound: a larger mean favours both conditions, so together they are likelier than P(A)·P(B).
    """
    if abs(mean) < margin:
        return tost_power(mean, sd, margin, seeds, alpha)
    beyond = stats.norm.cdf((abs(mean) - margin) / sd * np.sqrt(seeds))
    return np.asarray(t_test_power(mean / sd, seeds, alpha) * beyond)


def seeds_to_decide(mean: float, sd: float, margin: float, alpha: float) -> int | None:
    """Fewest seeds that decide with 80 % power if the measured mean and sd are the true ones; None beyond a thousand.

    NOTE: no number of seeds decides about a mean at the margin.
    """
    if sd == 0:
        return None  # what has no spread is decided, or lies at the margin
    return fewest_seeds(lambda seeds: decision_power(mean, sd, margin, seeds, alpha))


def fewest_seeds(power: Callable[[np.ndarray], np.ndarray]) -> int | None:
    """Fewest seeds that have the power aimed at; None beyond a thousand."""
    seeds = np.arange(FEWEST_SEEDS, MOST_SEEDS + 1)
    enough = seeds[power(seeds) >= TARGET_POWER]
    return int(enough[0]) if enough.size else None


def power_table(effects: Sequence[float], seeds: Sequence[int], alpha: float) -> list[list[float]]:
    """Power of the paired t test: a row for each number of seeds, a column for each effect in paired SD."""
    columns = [t_test_power(effect, np.asarray(seeds), alpha) for effect in effects]
    return [[float(power) for power in row] for row in zip(*columns, strict=True)]


def noise_floor(losses: Sequence[float]) -> NoiseFloor:
    """Return what seeds alone do to the loss of one arm, from at least two of them.

    `detectable` is the half-width of the 95 % interval of an unpaired difference of two means of as many seeds each.
    """
    n = len(losses)
    _, sd = _mean_and_sd(losses)
    critical = float(stats.t.isf(TAIL, 2 * n - 2))
    return NoiseFloor(sd, math.sqrt(2) * sd, critical * sd * math.sqrt(2 / n))


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, the latter exactly 0 if the values differ by rounding alone."""
    return math.fsum(values) / len(values), 0.0 if _are_equal(values) else float(np.std(values, ddof=1))


def _are_equal(values: Sequence[float]) -> bool:
    return float(np.ptp(values)) <= ROUNDING * max(1.0, float(np.max(np.abs(values))))
