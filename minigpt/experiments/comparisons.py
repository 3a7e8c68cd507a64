"""Arms compared in pairs by seed, one family of comparisons: differences, tests, verdicts, and how sure they could be.

An outcome is the loss of one cell; a diverged cell's is infinite, worse than any other, so that it is never dropped.
Where exactly one of a pair diverged a mean over the survivors would be biased: the sign test takes its place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt.experiments import paired_statistics
from minigpt.experiments.paired_statistics import PairedTests

# Loss by seed, of each arm; a seed that is still to run is absent.
Outcomes = Mapping[str, Mapping[int, float]]

POWER_EFFECTS = (0.5, 1.0, 2.0, 3.0)
POWER_SEEDS = (3, 5, 8, 12, 20)
# Any two pairs correlate perfectly.
FEWEST_TO_CORRELATE = 3


@dataclass(frozen=True)
class Rule:
    """What decides: the smallest difference that matters, in nats per token, and the error rate of the family."""

    margin: float
    alpha: float


@dataclass(frozen=True)
class Measured:
    """One comparison before the family is known: t tests, or the sign test where one of a pair diverged, or neither.

    differences: by seed, infinite where one of both diverged, NaN where both did; informative: those that are not NaN.
    """

    arm: str
    reference: str
    factor: str
    differences: dict[int, float]
    informative: list[float]
    diverged: dict[str, int]
    tests: PairedTests | None
    p_sign: float | None

    @property
    def p_difference(self) -> float | None:
        """The p-value that enters the family."""
        return self.tests.p_t if self.tests else self.p_sign


@dataclass(frozen=True)
class Adjusted:
    """The p-values of one comparison, adjusted for its family; None where there was no such test."""

    difference: float | None
    equivalence: float | None


def measure(arm: str, reference: str, factor: str, outcomes: Outcomes, margin: float) -> Measured:
    """Test one arm against its reference over the seeds that both have."""
    first, second = outcomes[arm], outcomes[reference]
    common = [seed for seed in first if seed in second]
    differences = {seed: first[seed] - second[seed] for seed in common}
    informative = [difference for difference in differences.values() if not math.isnan(difference)]
    tests = p_sign = None
    if len(informative) >= 2 and all(map(math.isfinite, informative)):
        tests = paired_statistics.paired_tests(informative, margin)
    elif len(informative) >= 2:
        signs = np.sign(informative)
        p_sign = paired_statistics.sign_test_p(int((signs > 0).sum()), int((signs < 0).sum()))
    return Measured(
        arm=arm,
        reference=reference,
        factor=factor,
        differences=differences,
        informative=informative,
        diverged={
            "arm": sum(math.isinf(first[seed]) for seed in common),
            "reference": sum(math.isinf(second[seed]) for seed in common),
        },
        tests=tests,
        p_sign=p_sign,
    )


def family_size(measured: Sequence[Measured]) -> int:
    """Number of comparisons whose p-values are adjusted together."""
    return sum(comparison.p_difference is not None for comparison in measured)


def judge(measured: Sequence[Measured], rule: Rule) -> list[dict[str, Any]]:
    """Adjust the p-values of the whole family and give every comparison its verdict, as `analysis.json` holds it."""
    p_difference = paired_statistics.holm([comparison.p_difference for comparison in measured])
    p_equivalence = paired_statistics.holm(
        [comparison.tests.p_tost if comparison.tests else None for comparison in measured]
    )
    alpha_each = rule.alpha / max(1, family_size(measured))
    return [
        _record(comparison, Adjusted(difference, equivalence), rule, alpha_each)
        for comparison, difference, equivalence in zip(measured, p_difference, p_equivalence, strict=True)
    ]


def _record(comparison: Measured, adjusted: Adjusted, rule: Rule, alpha_each: float) -> dict[str, Any]:
    tests = comparison.tests
    verdict = _verdict(comparison, adjusted, rule)
    decisive = None
    if tests and verdict == "undecided":
        decisive = paired_statistics.seeds_to_decide(tests.mean, tests.sd, rule.margin, alpha_each)
    return {
        "arm": comparison.arm,
        "reference": comparison.reference,
        "factor": comparison.factor,
        "differences": [
            {"seed": seed, "difference": difference if math.isfinite(difference) else None}
            for seed, difference in comparison.differences.items()
        ],
        "diverged": comparison.diverged,
        **_figures(comparison),
        "n": len(comparison.informative),
        "p_t_holm": adjusted.difference,
        "p_tost_holm": adjusted.equivalence,
        "verdict": verdict,
        "reason": "; ".join([_finding(comparison, adjusted, verdict, rule), *_divergences(comparison)]),
        "seeds_to_decide": decisive,
    }


def _figures(comparison: Measured) -> dict[str, Any]:
    """What the t tests found; without them all None, except the mean of a single difference."""
    if comparison.tests:
        return dataclasses.asdict(comparison.tests)
    single = len(comparison.informative) == 1 and math.isfinite(comparison.informative[0])
    missing = dict.fromkeys(item.name for item in dataclasses.fields(PairedTests))
    return {**missing, "mean": comparison.informative[0] if single else None}


def _verdict(comparison: Measured, adjusted: Adjusted, rule: Rule) -> paired_statistics.Verdict:
    if adjusted.difference is None:
        return "no verdict"
    size = _size(comparison)
    return paired_statistics.verdict(
        size, adjusted.difference, adjusted.equivalence, margin=rule.margin, alpha=rule.alpha
    )


def _size(comparison: Measured) -> float:
    """The difference to hold against the margin: the mean, or beside a sign test the median.

    NOTE: the median is that of the survivors if few cells diverged, so it may not favour the arm that diverged more
    often; of two middle values it is the smaller one, since between infinite ones there is no mean.
    """
    if comparison.tests:
        return comparison.tests.mean
    ordered = sorted(comparison.informative)
    median = min(ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2], key=abs)
    more_diverged = comparison.diverged["arm"] - comparison.diverged["reference"]
    return 0.0 if median * more_diverged < 0 else median


def _finding(comparison: Measured, adjusted: Adjusted, verdict: paired_statistics.Verdict, rule: Rule) -> str:
    """Why the verdict is what it is, in plain words."""
    if adjusted.difference is None:
        return _too_little(comparison)
    difference = f"adjusted p = {adjusted.difference:.2g}"
    if adjusted.equivalence is None:
        test = f"a sign test over {len(comparison.informative)} pairs, as diverged cells have no mean ({difference})"
        if verdict == "undecided" and adjusted.difference < rule.alpha:
            return f"{test}, but the arm ahead diverged more often or leads by less than the margin of {rule.margin:g}"
        return test
    equivalence = f"adjusted p = {adjusted.equivalence:.2g}"
    if verdict in ("better", "worse"):
        return f"the mean difference reaches the margin of {rule.margin:g} and is unlikely to be chance ({difference})"
    if verdict == "equivalent":
        return f"the difference lies within ±{rule.margin:g} ({equivalence})"
    if adjusted.difference < rule.alpha:
        return f"there is a difference ({difference}), but whether it reaches the margin of {rule.margin:g} is open"
    return f"neither a difference ({difference}) nor equivalence ({equivalence}) is shown"


def _too_little(comparison: Measured) -> str:
    if not comparison.differences:
        return "no seed is done in both arms yet"
    if not comparison.informative:
        return "both arms diverged in every seed"
    return "one seed has no error bar; at least two are needed"


def _divergences(comparison: Measured) -> list[str]:
    """Which cells diverged; those of both arms in one seed cannot be told apart and count for neither."""
    pairs, sides = len(comparison.differences), {"arm": comparison.arm, "reference": comparison.reference}
    parts = [f"{sides[side]}: {count} of {pairs} diverged" for side, count in comparison.diverged.items() if count]
    both = pairs - len(comparison.informative)
    return [*parts, f"in {both} of {pairs} pairs both did, which counts for neither"] if both else parts


def pairing(measured: Sequence[Measured], outcomes: Outcomes) -> dict[str, float] | None:
    """How much it helped that both arms of a pair share a seed, as medians over the comparisons with enough pairs.

    correlation: of the losses of both arms over seeds; sd_ratio: of the paired difference to an unpaired one.
    """
    figures = [_pairing(comparison, outcomes) for comparison in measured]
    known = [figure for figure in figures if figure is not None]
    if not known:
        return None
    correlation, sd_ratio = np.median(np.asarray(known), axis=0)
    return {"correlation": float(correlation), "sd_ratio": float(sd_ratio)}


def _pairing(comparison: Measured, outcomes: Outcomes) -> tuple[float, float] | None:
    seeds = [seed for seed, difference in comparison.differences.items() if math.isfinite(difference)]
    if len(seeds) < FEWEST_TO_CORRELATE:
        return None
    losses = [[outcomes[name][seed] for seed in seeds] for name in (comparison.arm, comparison.reference)]
    spreads = [paired_statistics.estimate(values).sd or 0.0 for values in losses]
    if not all(spreads):
        return None
    paired = paired_statistics.estimate([comparison.differences[seed] for seed in seeds]).sd or 0.0
    return float(np.corrcoef(losses[0], losses[1])[0, 1]), paired / math.hypot(*spreads)


def power(measured: Sequence[Measured], alpha: float) -> dict[str, Any] | None:
    """Power of the t test by number of seeds and effect, for a comparison of this family; None where none is tested."""
    spreads = [comparison.tests.sd for comparison in measured if comparison.tests]
    if not spreads:
        return None
    family = family_size(measured)
    return {
        "alpha": alpha,
        "family": family,
        "paired_sd": float(np.median(spreads)),
        "effects_sd": list(POWER_EFFECTS),
        "seeds": list(POWER_SEEDS),
        "power": paired_statistics.power_table(POWER_EFFECTS, POWER_SEEDS, alpha / family),
    }


def noise_floor(arm: str, outcomes: Outcomes) -> dict[str, Any] | None:
    """What other seeds alone do to one arm; None with fewer than two of its cells finished, or any diverged."""
    losses = list(outcomes[arm].values())
    if len(losses) < 2 or not all(map(math.isfinite, losses)):
        return None
    return {"arm": arm, **dataclasses.asdict(paired_statistics.noise_floor(losses))}
