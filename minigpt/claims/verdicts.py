"""From effects to verdicts: one condition, one claim, one family. Pure functions of numbers.

Sources: Holm 1979 for the primary family; Benjamini & Hochberg 1995 for the exploratory one. A claim with several
conditions that must all hold is tested by its largest p-value (intersection-union, Berger 1982), one for which any is
enough by Bonferroni. Claims of a family that have not been run count as p = 1: so a verdict can only gain from others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from minigpt.claims.claim import Verdict
from minigpt.experiments import paired_statistics

ALPHA = 0.05  # of the primary family, and of each refutation
FALSE_DISCOVERY_RATE = 0.1  # of the exploratory family
FEWEST_SEEDS = 2


@dataclass(frozen=True)
class JudgedCondition:
    """One condition's effects and what follows.

    mean and intervals are None where a seed diverged: the signs decide then. p is for an effect in the claimed
    direction, and 1 for one in the other; `meets` says whether the effect is large enough, `excluded` whether every
    effect that would matter is excluded.
    """

    mean: float | None
    median: float | None
    sd: float | None
    low: float | None
    high: float | None
    low90: float | None
    high90: float | None
    n: int
    p: float
    meets: bool
    excluded: bool


@dataclass(frozen=True)
class JudgedClaim:
    """A claim's verdict, p-value before and after adjustment, and the seeds that would decide if it is undecided."""

    verdict: Verdict
    p: float
    p_adjusted: float
    seeds_to_decide: int | None


def judge_condition(effects: Mapping[int, float], margin: float) -> JudgedCondition:
    """Judge the effects of one condition by seed; pairs in which both diverged are NaN and say nothing."""
    informative = [effect for effect in effects.values() if not math.isnan(effect)]
    n = len(informative)
    median = float(np.sort(informative)[(n - 1) // 2]) if n else None  # the lower one of two: they may be ±infinite
    if n < FEWEST_SEEDS:
        mean = informative[0] if n and math.isfinite(informative[0]) else None
        return JudgedCondition(mean, _finite(median), None, None, None, None, None, n, 1.0, False, False)
    if not all(map(math.isfinite, informative)):
        return _judge_signs(informative, margin, median)
    mean, sd = math.fsum(informative) / n, _spread(informative)
    error = sd / math.sqrt(n)
    half, half90 = (float(_critical(n, tail)) * error for tail in (ALPHA / 2, ALPHA))
    return JudgedCondition(
        mean=mean,
        median=median,
        sd=sd,
        low=mean - half,
        high=mean + half,
        low90=mean - half90,
        high90=mean + half90,
        n=n,
        p=_p_value(mean, error, n) if mean > 0 else 1.0,
        meets=mean >= margin,
        excluded=mean + half90 < margin,
    )


@functools.cache
def _critical(n: int, tail: float) -> float:
    return float(stats.t.isf(tail, n - 1))


def _p_value(mean: float, error: float, n: int) -> float:
    """p of the two-sided t test of a positive mean; its limit, 0, without any spread."""
    return float(2 * stats.t.sf(mean / error, n - 1)) if error else 0.0


def _spread(values: Sequence[float]) -> float:
    """Sample standard deviation, exactly 0 for values that differ by rounding alone."""
    largest = max(1.0, max(map(abs, values)))
    return 0.0 if np.ptp(values) <= paired_statistics.ROUNDING * largest else float(np.std(values, ddof=1))


def _judge_signs(informative: Sequence[float], margin: float, median: float | None) -> JudgedCondition:
    """Where a training diverged there is no mean: count on how many seeds the effect is large enough."""
    reaching = sum(effect >= margin for effect in informative)
    short = len(informative) - reaching
    p = paired_statistics.sign_test_p(reaching, short)
    return JudgedCondition(
        mean=None,
        median=_finite(median),
        sd=None,
        low=None,
        high=None,
        low90=None,
        high90=None,
        n=len(informative),
        p=p if reaching > short else 1.0,
        meets=reaching > short,
        excluded=short > reaching and p < 2 * ALPHA,
    )


def combine(conditions: Sequence[JudgedCondition], rule: Literal["all", "any"]) -> tuple[float, bool, bool]:
    """(p, meets, excluded) of a claim from those of its conditions."""
    if rule == "all":
        return (
            max(condition.p for condition in conditions),
            all(condition.meets for condition in conditions),
            any(condition.excluded for condition in conditions),
        )
    reaching = [condition.p for condition in conditions if condition.meets]
    p = min(1.0, len(conditions) * min(reaching)) if reaching else 1.0
    return p, bool(reaching), all(condition.excluded for condition in conditions)


def adjust_primary(p_values: Sequence[float], family: int) -> list[float]:
    """Holm's adjustment among `family` claims, of which those that are not given count as p = 1."""
    padded = [*p_values, *[1.0] * (family - len(p_values))]
    return [float(p) for p in paired_statistics.holm(padded)[: len(p_values)] if p is not None]


def adjust_exploratory(p_values: Sequence[float], family: int) -> list[float]:
    """Benjamini and Hochberg's adjustment among `family` claims, those not given counting as p = 1."""
    padded = [*p_values, *[1.0] * (family - len(p_values))]
    return [float(p) for p in stats.false_discovery_control(padded)[: len(p_values)]]


def verdict(p_adjusted: float, meets: bool, excluded: bool, alpha: float) -> Verdict:
    """The rule, the same for all claims."""
    if meets and p_adjusted < alpha:
        return "SUPPORTED"
    return "REFUTED" if excluded else "INCONCLUSIVE"


def seeds_to_decide(condition: JudgedCondition, margin: float, alpha: float) -> int | None:
    """Fewest seeds that decide with 80 % power if the measured mean and spread are the true ones; None beyond 1000.

    `alpha` is what the claim's test has left of its family's error rate.
    """
    if condition.mean is None or not condition.sd:
        return None
    seeds = np.arange(FEWEST_SEEDS, paired_statistics.MOST_SEEDS + 1)
    if condition.mean >= margin and condition.mean > 0:
        beyond = stats.norm.cdf((condition.mean - margin) / condition.sd * np.sqrt(seeds)) if margin else 1.0
        power = paired_statistics.t_test_power(condition.mean / condition.sd, seeds, alpha) * beyond
    else:
        gap = (margin - condition.mean) / condition.sd
        power = stats.nct.sf(stats.t.isf(ALPHA, seeds - 1), seeds - 1, gap * np.sqrt(seeds))
    enough = seeds[power >= paired_statistics.TARGET_POWER]
    return int(enough[0]) if enough.size else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
