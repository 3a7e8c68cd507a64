"""A thousand made-up ledgers hold the nominal error rates in both directions, and planted truths are found.

Effects are drawn and tested here all at once; what follows from the p-values, the rule of the ledger decides.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from minigpt.claims import judging
from minigpt.claims.claim import DELTA, EXPLORATORY, PRIMARY
from minigpt.claims.judging import JudgedCondition
from minigpt.experiments import paired_statistics

LEDGERS = 1000
FAMILY = {PRIMARY: 16, EXPLORATORY: 20}
SD = 2 * DELTA
Rule = Literal["all", "any"]
Effects = npt.NDArray[np.float64]


def draw(random: np.random.Generator, ledgers: int, family: str, conditions: int, seeds: int, truth: float) -> Effects:
    """Effects (ledgers, claims, conditions, seeds) around a true one."""
    return random.normal(truth, SD, (ledgers, FAMILY[family], conditions, seeds))


def judged(effects: Effects, margin: float) -> npt.NDArray[np.object_]:
    """The conditions (ledgers, claims, conditions) of all effects."""
    means = effects.mean(-1)
    above = stats.ttest_1samp(effects, 0, axis=-1).pvalue
    below = stats.ttest_1samp(effects, margin, axis=-1, alternative="less").pvalue
    found = np.empty(means.shape, dtype=object)
    for place, mean in np.ndenumerate(means):
        p = float(above[place]) if mean > 0 else 1.0
        found[place] = JudgedCondition(p=p, p_below=float(below[place]), meets=bool(mean >= margin))
    return found


def verdicts(conditions: npt.NDArray[np.object_], family: str, rule: Rule, looks: int = 1) -> list[str]:
    """The verdicts of one ledger's claims from their conditions (claims, conditions)."""
    claims = [judging.combine(list(row), rule, looks) for row in conditions]
    above = judging.adjust(family, [claim.p for claim in claims], FAMILY[family])
    below = judging.adjust(family, [claim.p_below for claim in claims], FAMILY[family])
    rate = judging.ERROR_RATES[family]
    return [judging.decide(p, q, c.meets, rate) for p, q, c in zip(above, below, claims, strict=True)]


def most(rate: float) -> float:
    """What chance alone makes of a rate, once in a thousand tests."""
    return float(stats.binom.isf(0.001, LEDGERS, rate))


@pytest.mark.parametrize("family", [PRIMARY, EXPLORATORY])
@pytest.mark.parametrize(("rule", "conditions"), [("all", 1), ("all", 3), ("any", 3)])
def test_false_verdicts_are_as_rare_as_promised(family: str, rule: Rule, conditions: int) -> None:
    """No effect at all supports nothing, and effects equal to the margin refute nothing, beyond the nominal rate."""
    random = np.random.default_rng(conditions)
    without = judged(draw(random, LEDGERS, family, conditions, 8, 0.0), margin=0.0)
    supported = sum("SUPPORTED" in verdicts(row, family, rule) for row in without)
    at_margin = judged(draw(random, LEDGERS, family, conditions, 8, DELTA), margin=DELTA)
    refuted = sum("REFUTED" in verdicts(row, family, rule) for row in at_margin)
    assert max(supported, refuted) <= most(judging.ERROR_RATES[family])
    if conditions == 1:
        least = stats.binom.ppf(0.001, LEDGERS, judging.ERROR_RATES[family] / 4)
        assert min(supported, refuted) >= least, "the rule is far stricter than it says"


@pytest.mark.parametrize(("truth", "wrong"), [(DELTA, "REFUTED"), (0.0, "SUPPORTED")])
def test_stopping_at_the_first_verdict_keeps_the_error_rate(truth: float, wrong: str) -> None:
    """Undecided claims get eight more seeds, decided ones do not: the two looks were declared and share the error.

    Without sharing it the rate is exceeded, which is what the adjustment is for.
    """
    effects = draw(np.random.default_rng(11), LEDGERS, PRIMARY, 1, 16, truth)
    margin = truth
    early, late = judged(effects[..., :8], margin), judged(effects, margin)

    def wrongly(looks: int) -> int:
        found = 0
        for first, second in zip(early, late, strict=True):
            before = verdicts(first, PRIMARY, "all", looks)
            after = verdicts(second, PRIMARY, "all", looks)
            found += wrong in (
                one if one != "INCONCLUSIVE" else other for one, other in zip(before, after, strict=True)
            )
        return found

    assert wrongly(looks=2) <= most(judging.ALPHA)
    assert wrongly(looks=1) > 1.2 * wrongly(looks=2)


@pytest.mark.parametrize(("cost", "verdict"), [(3 * DELTA, "SUPPORTED"), (0.0, "REFUTED")])
def test_planted_truths_are_found_at_the_promised_power(cost: float, verdict: str) -> None:
    """Models in which half of the neurons are dead: in one world these cost a known loss, in the other none.

    The loss of a seed is made up of what the seed does to all arms, of what it does to one, and of what the dead cost;
    the seeds are those that the ledger itself says would decide.
    """
    random, noise = np.random.default_rng(23), DELTA / 2
    spread = float(np.sqrt(2) * noise)
    alphas = judging.strictest_alphas(PRIMARY, FAMILY[PRIMARY], "all", 1, 1)
    seeds = judging.seeds_to_decide(JudgedCondition(mean=cost, sd=spread), DELTA, alphas)
    assert seeds is not None
    shared = random.normal(2.0, 0.05, (300, 1, 1, seeds))
    with_dead, revived = (
        shared + cost + random.normal(0, noise, shared.shape),
        shared + random.normal(0, noise, shared.shape),
    )
    found = judged(with_dead - revived, DELTA)
    right = [verdicts(row, PRIMARY, "all")[0] == verdict for row in found]
    assert np.mean(right) > paired_statistics.TARGET_POWER - 0.07


def test_a_world_in_which_the_dead_cost_exactly_the_margin_is_seldom_refuted() -> None:
    """By itself such a claim is refuted in one of twenty ledgers at most, and in the family more seldom."""
    effects = np.random.default_rng(31).normal(DELTA, SD, (LEDGERS, 1, 1, 8))
    refuted = sum(verdicts(row, PRIMARY, "all")[0] == "REFUTED" for row in judged(effects, DELTA))
    assert refuted <= most(judging.ALPHA / FAMILY[PRIMARY])
