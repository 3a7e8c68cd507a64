"""From effects to verdicts: a condition, a gate, a claim, a family; pure functions of numbers.

Both directions are tested alike. A claim whose conditions must all hold is supported by its largest p-value
(intersection-union, Berger 1982) and refuted by its smallest times their number (Bonferroni); one for which any is
enough the other way round. A claim that is looked at several times, with more seeds each time, multiplies its p-values
by the number of looks that it declared (equal alpha spending), so that stopping at a verdict keeps the error rate. Then
Holm (1979) adjusts the primary family, Benjamini & Hochberg (1995) the exploratory one. Claims of a family that have no
p-value, not being run or void, count as p = 1: so a verdict can only gain from others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from minigpt.claims.claim import EXPLORATORY, PRIMARY, Verdict
from minigpt.experiments import paired_statistics
from minigpt.experiments.paired_statistics import FEWEST_SEEDS

ALPHA = 0.05  # of the primary family, in each direction
FALSE_DISCOVERY_RATE = 0.1  # of the exploratory family, in each direction
ERROR_RATES = {PRIMARY: ALPHA, EXPLORATORY: FALSE_DISCOVERY_RATE}

Rule = Literal["all", "any"]


@dataclass(frozen=True)
class JudgedCondition:
    """One condition's effects and what follows, by itself.

    mean and intervals are None where a seed diverged: the signs decide then. p is for an effect above zero, p_below for
    one below the margin; `meets` says whether the mean is large enough, `clears` whether all of the 90 % interval is.
    """

    mean: float | None = None
    median: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    low90: float | None = None
    high90: float | None = None
    n: int = 0
    p: float = 1.0
    p_below: float = 1.0
    meets: bool = False
    clears: bool = False


@dataclass(frozen=True)
class JudgedClaim:
    """What the conditions of a claim say together, adjusted for their number and for the looks, not for the family."""

    p: float
    p_below: float
    meets: bool
    clears: bool


def judge_condition(effects: Mapping[int, float], margin: float) -> JudgedCondition:
    """Judge the effects of one condition by seed; pairs in which both diverged are NaN and say nothing."""
    informative = [effect for effect in effects.values() if not math.isnan(effect)]
    n = len(informative)
    median = finite(sorted(informative)[(n - 1) // 2]) if n else None  # the lower one of two: they may be ±infinite
    if n < FEWEST_SEEDS:
        return JudgedCondition(mean=median, median=median, n=n)
    if not all(map(math.isfinite, informative)):
        return _judge_signs(informative, margin, median)
    found = paired_statistics.t_test(informative)
    figures = {name: getattr(found, name) for name in ("mean", "sd", "low", "high", "low90", "high90", "n")}
    return JudgedCondition(
        **figures,
        median=median,
        p=found.p_t if found.mean > 0 else 1.0,
        p_below=paired_statistics.below_p(found, margin),
        meets=found.mean >= margin,
        clears=found.low90 >= margin,
    )


def _judge_signs(informative: Sequence[float], margin: float, median: float | None) -> JudgedCondition:
    """Where a training diverged there is no mean: count on how many seeds the effect is large enough."""
    reaching = sum(effect >= margin for effect in informative)
    short = len(informative) - reaching
    p = paired_statistics.sign_test_p(reaching, short)
    return JudgedCondition(
        median=median,
        n=len(informative),
        p=p if reaching > short else 1.0,
        p_below=p / 2 if short > reaching else 1.0,  # one-sided, as the interval at 90 % is
        meets=reaching > short,
        clears=not short,
    )


def combine(conditions: Sequence[JudgedCondition], rule: Rule, looks: int = 1) -> JudgedClaim:
    """A claim from its conditions and the number of looks that it declared."""
    above, below = [c.p for c in conditions], [c.p_below for c in conditions]
    if rule == "all":
        p, p_below = max(above), len(conditions) * min(below)
        meets, clears = all(c.meets for c in conditions), all(c.clears for c in conditions)
    else:
        reaching = [c.p for c in conditions if c.meets]
        p, p_below = len(conditions) * min(reaching, default=1.0), max(below)
        meets, clears = bool(reaching), any(c.clears for c in conditions)
    return JudgedClaim(min(1.0, looks * p), min(1.0, looks * p_below), meets, clears)


def adjust(family: str, p_values: Sequence[float], size: int) -> list[float]:
    """Adjust p-values among the `size` claims of a family, of which those that are not given count as p = 1.

    Holm's way for the primary family, Benjamini and Hochberg's for the exploratory one.
    """
    padded = [*p_values, *[1.0] * (size - len(p_values))]
    adjusted = paired_statistics.holm(padded) if family == PRIMARY else stats.false_discovery_control(padded)
    return [float(p) for p in adjusted[: len(p_values)] if p is not None]


def decide(p_adjusted: float, p_below_adjusted: float, meets: bool, alpha: float) -> Verdict:
    """The rule, the same for all claims whose gates are passed.

    NOTE: both cannot hold at once: where the mean meets the margin, p_below is at least a half.
    """
    if meets and p_adjusted < alpha:
        return "SUPPORTED"
    return "REFUTED" if p_below_adjusted < alpha else "INCONCLUSIVE"


def passes(values: Sequence[float], least: float) -> bool:
    """Whether a gate is passed: its mean is at least `least`, and no seed is without a value."""
    return bool(values) and all(map(math.isfinite, values)) and math.fsum(values) / len(values) >= least


# ------------------------------------------------------------------------------------------------ how many would decide


def strictest_alphas(family: str, size: int, rule: Rule, conditions: int, looks: int) -> tuple[float, float]:
    """What the strictest step of all adjustments leaves to one condition: for support, and for refutation."""
    alpha = ERROR_RATES[family] / size / looks
    return (alpha, alpha / conditions) if rule == "all" else (alpha / conditions, alpha)


def seeds_to_decide(condition: JudgedCondition, margin: float, alphas: tuple[float, float]) -> int | None:
    """Fewest seeds that decide with 80 % power if the measured mean and spread are the true ones; None beyond 1000."""
    mean, sd = condition.mean, condition.sd
    if mean is None or not sd:
        return None
    for_support, for_refutation = alphas

    def support(seeds: np.ndarray) -> np.ndarray:
        beyond = stats.norm.cdf((mean - margin) / sd * np.sqrt(seeds)) if margin else 1.0
        return np.asarray(paired_statistics.t_test_power(mean / sd, seeds, for_support) * beyond)

    def refutation(seeds: np.ndarray) -> np.ndarray:
        gap = (margin - mean) / sd
        return np.asarray(stats.nct.sf(stats.t.isf(for_refutation, seeds - 1), seeds - 1, gap * np.sqrt(seeds)))

    return paired_statistics.fewest_seeds(support if mean >= margin and mean > 0 else refutation)


def finite(value: float) -> float | None:
    """The value, or None where it is no number that JSON knows."""
    return value if math.isfinite(value) else None
