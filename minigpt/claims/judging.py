"""From effects to verdicts: a condition, a claim, a family, and what the pages draw; reads and trains nothing.

Sources: Holm 1979 for the primary family; Benjamini & Hochberg 1995 for the exploratory one. A claim with several
conditions that must all hold is tested by its largest p-value (intersection-union, Berger 1982), one for which any is
enough by Bonferroni. Claims of a family that have not been run count as p = 1: so a verdict can only gain from others.

Entries are plain records, as `ledger.json` holds them; what does not exist is None.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from minigpt.claims.claim import EXPLORATORY, PRIMARY, ArmFigures, Claim, Condition, Series, Verdict
from minigpt.claims.evidence import Evidence
from minigpt.experiments import paired_statistics
from minigpt.experiments.paired_statistics import FEWEST_SEEDS

ALPHA = 0.05  # of the primary family, and of each refutation
FALSE_DISCOVERY_RATE = 0.1  # of the exploratory family
ERROR_RATES = {PRIMARY: ALPHA, EXPLORATORY: FALSE_DISCOVERY_RATE}
# What the strictest step of a family's adjustment leaves to one claim, among sixteen and about twenty-five.
STRICTEST_ALPHA = {PRIMARY: ALPHA / 16, EXPLORATORY: FALSE_DISCOVERY_RATE / 25}

Record = dict[str, Any]


# ---------------------------------------------------------------------------------------------------- the ledger's rows


def describe(claim: Claim) -> Record:
    """What is known of a claim before anything is run."""
    return {
        "id": claim.id,
        "family": claim.family,
        "where": claim.where,
        "quote": claim.quote,
        "statement": claim.statement,
        "meaning": claim.meaning,
        "tag": claim.tag,
        "forecast": claim.forecast,
        "expected": claim.expected,
        "rule": claim.rule,
        "obstacle": claim.obstacle or None,
        "status": "not run" if claim.can_run else "not measured",
        "verdict": None,
        "conditions": [{"name": c.name, "unit": c.unit, "margin": c.margin} for c in claim.conditions],
    }


def judged(claim: Claim, evidence: Evidence, seeds: Sequence[int]) -> Record:
    """A claim's entry without its verdict, which needs the family: conditions, pictures, tables."""
    conditions = [_condition(condition, claim.family, evidence, seeds) for condition in claim.conditions]
    p, meets, excluded = combine([found for _, found in conditions], claim.rule)
    return {
        **describe(claim),
        "status": "judged",
        "seeds": list(seeds),
        "conditions": [record for record, _ in conditions],
        "p": p,
        "meets": meets,
        "excluded": excluded,
        "series": [_series(series, evidence, seeds) for series in claim.series],
        "tables": [_arm_figures(figures, claim, evidence, seeds) for figures in claim.tables],
    }


def with_verdicts(entries: Sequence[Record], family_sizes: Mapping[str, int]) -> list[Record]:
    """Adjust the p-values of each family and give each judged entry its verdict."""
    adjusted: dict[str, float] = {}
    for family, size in family_sizes.items():
        members = [entry for entry in entries if entry["status"] == "judged" and entry["family"] == family]
        values = adjust(family, [entry["p"] for entry in members], size)
        adjusted |= {entry["id"]: p for entry, p in zip(members, values, strict=True)}
    return [_with_verdict(entry, adjusted[entry["id"]]) if entry["id"] in adjusted else entry for entry in entries]


def _with_verdict(entry: Record, p_adjusted: float) -> Record:
    verdict = decide(p_adjusted, entry["meets"], entry["excluded"], ERROR_RATES[entry["family"]])
    needed = [condition["seeds_to_decide"] for condition in entry["conditions"]]
    known = [number for number in needed if number is not None]
    return {
        **entry,
        "p_adjusted": p_adjusted,
        "verdict": verdict,
        "seeds_to_decide": max(known) if verdict == "INCONCLUSIVE" and known and len(known) == len(needed) else None,
        "forecast_came_true": None if entry["expected"] is None else verdict == entry["expected"],
    }


# ------------------------------------------------------------------------------------------------------------ the rule


@dataclass(frozen=True)
class JudgedCondition:
    """One condition's effects and what follows.

    mean and intervals are None where a seed diverged: the signs decide then. p is for an effect in the claimed
    direction, and 1 for one in the other; `meets` says whether the effect is large enough, `excluded` whether every
    effect that would matter is excluded.
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
    meets: bool = False
    excluded: bool = False


def judge_condition(effects: Mapping[int, float], margin: float) -> JudgedCondition:
    """Judge the effects of one condition by seed; pairs in which both diverged are NaN and say nothing."""
    informative = [effect for effect in effects.values() if not math.isnan(effect)]
    n = len(informative)
    median = _finite(sorted(informative)[(n - 1) // 2]) if n else None  # the lower one of two: they may be ±infinite
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
        meets=found.mean >= margin,
        excluded=found.high90 < margin,
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


def adjust(family: str, p_values: Sequence[float], size: int) -> list[float]:
    """Adjust p-values among the `size` claims of a family, of which those that are not given count as p = 1.

    Holm's way for the primary family, Benjamini and Hochberg's for the exploratory one.
    """
    padded = [*p_values, *[1.0] * (size - len(p_values))]
    adjusted = paired_statistics.holm(padded) if family == PRIMARY else stats.false_discovery_control(padded)
    return [float(p) for p in adjusted[: len(p_values)] if p is not None]


def decide(p_adjusted: float, meets: bool, excluded: bool, alpha: float) -> Verdict:
    """The rule, the same for all claims."""
    if meets and p_adjusted < alpha:
        return "SUPPORTED"
    return "REFUTED" if excluded else "INCONCLUSIVE"


def seeds_to_decide(condition: JudgedCondition, margin: float, alpha: float) -> int | None:
    """Fewest seeds that decide with 80 % power if the measured mean and spread are the true ones; None beyond 1000.

    `alpha` is what the claim's test has left of its family's error rate.
    """
    mean, sd = condition.mean, condition.sd
    if mean is None or not sd:
        return None

    def support(seeds: np.ndarray) -> np.ndarray:
        beyond = stats.norm.cdf((mean - margin) / sd * np.sqrt(seeds)) if margin else 1.0
        return np.asarray(paired_statistics.t_test_power(mean / sd, seeds, alpha) * beyond)

    def refutation(seeds: np.ndarray) -> np.ndarray:
        gap = (margin - mean) / sd
        return np.asarray(stats.nct.sf(stats.t.isf(ALPHA, seeds - 1), seeds - 1, gap * np.sqrt(seeds)))

    return paired_statistics.fewest_seeds(support if mean >= margin and mean > 0 else refutation)


# ------------------------------------------------------------------------------------------------ what the pages draw


def _condition(
    condition: Condition, family: str, evidence: Evidence, seeds: Sequence[int]
) -> tuple[Record, JudgedCondition]:
    effects = {seed: condition.effect(evidence, seed) for seed in seeds}
    found = judge_condition(effects, condition.margin)
    record = {
        "name": condition.name,
        "unit": condition.unit,
        "margin": condition.margin,
        "effects": [{"seed": seed, "effect": _finite(effect)} for seed, effect in effects.items()],
        **dataclasses.asdict(found),
        "seeds_to_decide": seeds_to_decide(found, condition.margin, STRICTEST_ALPHA[family]),
    }
    return record, found


def _series(series: Series, evidence: Evidence, seeds: Sequence[int]) -> Record:
    return {
        "title": series.title,
        "x": series.x,
        "y": series.y,
        "log_x": series.log_x,
        "lines": [
            {
                "name": name,
                "points": [
                    {"arm": arm, "x": x, "values": [_finite(series.value(evidence, arm, seed)) for seed in seeds]}
                    for arm, x in points
                ],
            }
            for name, points in series.lines.items()
        ],
    }


def _arm_figures(figures: ArmFigures, claim: Claim, evidence: Evidence, seeds: Sequence[int]) -> Record:
    rows = []
    for arm in figures.arms or tuple(claim.arms):
        values = {name: [value(evidence, arm, seed) for seed in seeds] for name, value in figures.columns.items()}
        rows.append({"arm": arm, "cells": {name: _summary(found) for name, found in values.items()}})
    return {"title": figures.title, "columns": list(figures.columns), "rows": rows}


def _summary(values: Sequence[float]) -> Record:
    """Mean and spread over the seeds that have a finite value, and how many have none."""
    finite = [value for value in values if math.isfinite(value)]
    mean = math.fsum(finite) / len(finite) if finite else None
    sd = None
    if mean is not None and len(finite) > 1:
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / (len(finite) - 1))
    return {"mean": mean, "sd": sd, "missing": len(values) - len(finite)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
