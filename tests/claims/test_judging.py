"""The rule that turns effects into verdicts: known cases, scipy as judge, and error rates over a thousand ledgers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from minigpt.claims import judging
from minigpt.claims.claim import DELTA, EXPLORATORY, PRIMARY, Claim, Condition
from minigpt.claims.evidence import Evidence
from minigpt.claims.judging import judge_condition
from minigpt.experiments import paired_statistics

SEEDS = tuple(range(8))
LEDGERS = 1000
FAMILY = {PRIMARY: 16, EXPLORATORY: 25}
SD = 0.02


def claim(number: int, effects: np.ndarray, margin: float = DELTA, conditions: int = 1) -> Claim:
    """A claim whose effects (conditions, seeds) are given."""
    return Claim(
        id=f"C{number}",
        where="I1",
        quote="words",
        statement="So it is.",
        meaning="made up",
        tag="measurable",
        forecast="none",
        conditions=tuple(
            Condition(str(index), "nats", margin, lambda evidence, seed, row=row: float(row[seed]))
            for index, row in enumerate(np.atleast_2d(effects))
        ),
    )


@pytest.fixture
def verdicts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare what is shown beside a verdict and enters none."""
    monkeypatch.setattr(judging, "seeds_to_decide", lambda condition, margin, alpha: None)


def ledger(effects: np.ndarray, first: int, margin: float) -> list[str]:
    """The verdicts of a family whose claims have these effects (claims, seeds)."""
    nothing = Evidence({}, {})
    entries = [judging.judged(claim(first + number, row, margin), nothing, SEEDS) for number, row in enumerate(effects)]
    return [entry["verdict"] for entry in judging.with_verdicts(entries, FAMILY)]


def test_one_condition_agrees_with_scipy() -> None:
    effects = dict(zip(SEEDS, np.random.default_rng(3).normal(0.02, SD, 8), strict=True))
    found = judge_condition(effects, DELTA)
    theirs = stats.ttest_1samp(list(effects.values()), 0)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert (found.low90, found.high90) == pytest.approx(tuple(theirs.confidence_interval(0.90)))


def test_an_effect_in_the_other_direction_supports_nothing() -> None:
    found = judge_condition(dict.fromkeys(SEEDS, -1.0), DELTA)
    assert (found.p, found.meets, found.excluded) == (1.0, False, True)


def test_effects_that_are_all_the_same_decide_at_once() -> None:
    assert judge_condition(dict.fromkeys(SEEDS, 1.0), DELTA).p == 0.0
    nothing = judge_condition(dict.fromkeys(SEEDS, 0.0), 0.0)
    assert (nothing.p, nothing.excluded) == (1.0, False), "an effect of exactly the margin excludes nothing"


@pytest.mark.parametrize(("reaching", "meets", "excluded"), [(8, True, False), (0, False, True), (4, False, False)])
def test_a_diverged_training_leaves_the_signs_to_decide(reaching: int, meets: bool, excluded: bool) -> None:
    effects = {seed: math.inf if seed < reaching else -math.inf for seed in SEEDS}
    found = judge_condition(effects, DELTA)
    assert (found.mean, found.meets, found.excluded) == (None, meets, excluded)
    assert (found.p < 0.05) is (reaching == 8)


def test_pairs_in_which_both_diverged_say_nothing() -> None:
    effects = {0: math.nan, 1: 0.5, 2: 0.5}
    assert judge_condition(effects, DELTA).n == 2
    assert judge_condition({0: math.nan, 1: 0.5}, DELTA).p == 1.0


def test_all_conditions_or_any_one() -> None:
    strong, weak = judge_condition({0: 1.0, 1: 1.1}, DELTA), judge_condition({0: -1.0, 1: -1.1}, DELTA)
    assert judging.combine([strong, weak], "all") == (1.0, False, True)
    p, meets, excluded = judging.combine([strong, weak], "any")
    assert (p, meets, excluded) == (pytest.approx(2 * strong.p), True, False)


def test_claims_that_were_not_run_only_make_a_verdict_harder() -> None:
    alone = judging.adjust(PRIMARY, [0.001], 16)
    assert alone == [pytest.approx(0.016)]
    assert judging.adjust(PRIMARY, [0.001, 0.0001], 16)[0] <= alone[0]
    assert judging.adjust(EXPLORATORY, [0.001], 25) == [pytest.approx(0.025)]


def test_the_seeds_that_would_decide_have_the_power_that_is_promised() -> None:
    """Simulated: this number of seeds decides four times in five, if the mean and the spread are the true ones."""
    random = np.random.default_rng(5)
    for mean in (0.02, 0.0):
        condition = replace(judge_condition(dict.fromkeys(SEEDS, 0.0), DELTA), mean=mean, sd=SD)
        seeds = judging.seeds_to_decide(condition, DELTA, judging.ALPHA / 16)
        assert seeds is not None
        decided = 0
        for _ in range(400):
            found = judge_condition(dict(enumerate(random.normal(mean, SD, seeds))), DELTA)
            decided += (found.p < judging.ALPHA / 16 and found.meets) if mean else found.excluded
        assert decided / 400 > paired_statistics.TARGET_POWER - 0.07


@pytest.mark.usefixtures("verdicts_only")
@pytest.mark.parametrize(("family", "first"), [(PRIMARY, 1), (EXPLORATORY, 17)])
def test_a_thousand_ledgers_without_effects_support_no_more_than_the_nominal_share(family: str, first: int) -> None:
    random = np.random.default_rng(first)
    size = FAMILY[family]
    wrong = sum(
        "SUPPORTED" in ledger(random.normal(0, SD, (size, len(SEEDS))), first, margin=0.0) for _ in range(LEDGERS)
    )
    nominal = judging.ALPHA if family == PRIMARY else judging.FALSE_DISCOVERY_RATE
    assert wrong <= stats.binom.isf(0.001, LEDGERS, nominal)
    assert wrong >= stats.binom.ppf(0.001, LEDGERS, nominal / 4), "the rule is far stricter than it says"


@pytest.mark.usefixtures("verdicts_only")
@pytest.mark.parametrize(("family", "first"), [(PRIMARY, 1), (EXPLORATORY, 17)])
def test_a_planted_effect_is_found_at_the_promised_power(family: str, first: int) -> None:
    random = np.random.default_rng(first + 1)
    planted = 2.0 * SD
    found = 0
    for _ in range(300):
        effects = random.normal(0, SD, (FAMILY[family], len(SEEDS)))
        effects[3] += planted
        found += ledger(effects, first, DELTA)[3] == "SUPPORTED"
    strictest = judging.STRICTEST_ALPHA[family]
    promised = float(paired_statistics.t_test_power(planted / SD, np.array([len(SEEDS)]), strictest)[0])
    assert found / 300 > promised - 0.07


def test_an_effect_too_small_to_matter_is_refuted_and_never_supported() -> None:
    random = np.random.default_rng(9)
    found = [judge_condition(dict(zip(SEEDS, random.normal(0, 0.002, 8), strict=True)), DELTA) for _ in range(200)]
    assert all(condition.excluded and not condition.meets for condition in found)
