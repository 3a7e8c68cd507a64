"""The rule that turns effects into verdicts: known cases, with scipy as judge."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from minigpt.claims import judging
from minigpt.claims.claim import DELTA, EXPLORATORY, PRIMARY
from minigpt.claims.judging import judge_condition
from minigpt.experiments import paired_statistics

SEEDS = tuple(range(8))
SD = 0.02
ALPHA_OF_ONE = judging.ALPHA / 16


def test_one_condition_agrees_with_scipy() -> None:
    effects = dict(zip(SEEDS, np.random.default_rng(3).normal(0.02, SD, 8), strict=True))
    found = judge_condition(effects, DELTA)
    theirs = stats.ttest_1samp(list(effects.values()), 0)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert (found.low90, found.high90) == pytest.approx(tuple(theirs.confidence_interval(0.90)))
    below = stats.ttest_1samp(list(effects.values()), DELTA, alternative="less")
    assert found.p_below == pytest.approx(below.pvalue)


def test_an_effect_in_the_other_direction_supports_nothing() -> None:
    found = judge_condition(dict.fromkeys(SEEDS, -1.0), DELTA)
    assert (found.p, found.meets, found.p_below) == (1.0, False, 0.0)


def test_effects_that_are_all_the_same_decide_at_once() -> None:
    assert judge_condition(dict.fromkeys(SEEDS, 1.0), DELTA).p == 0.0
    nothing = judge_condition(dict.fromkeys(SEEDS, 0.0), 0.0)
    assert (nothing.p, nothing.p_below) == (1.0, 1.0), "an effect of exactly the margin excludes nothing"


@pytest.mark.parametrize(("reaching", "meets", "below"), [(8, True, 1.0), (0, False, 2**-8), (4, False, 1.0)])
def test_a_diverged_training_leaves_the_signs_to_decide(reaching: int, meets: bool, below: float) -> None:
    effects = {seed: math.inf if seed < reaching else -math.inf for seed in SEEDS}
    found = judge_condition(effects, DELTA)
    assert (found.mean, found.meets, found.p_below) == (None, meets, pytest.approx(below))
    assert (found.p < 0.05) is (reaching == 8)


def test_pairs_in_which_both_diverged_say_nothing() -> None:
    effects = {0: math.nan, 1: 0.5, 2: 0.5}
    assert judge_condition(effects, DELTA).n == 2
    assert judge_condition({0: math.nan, 1: 0.5}, DELTA).p == 1.0


def test_all_conditions_or_any_one() -> None:
    """What is a maximum in one direction is Bonferroni in the other; looks multiply both."""
    strong, weak = judge_condition({0: 1.0, 1: 1.1}, DELTA), judge_condition({0: -1.0, 1: -1.2}, DELTA)
    together = judging.combine([strong, weak], "all")
    assert (together.p, together.meets, together.clears) == (1.0, False, False)
    assert together.p_below == pytest.approx(2 * weak.p_below)
    either = judging.combine([strong, weak], "any")
    assert (either.p, either.meets) == (pytest.approx(2 * strong.p), True)
    assert either.p_below == pytest.approx(strong.p_below)
    assert judging.combine([strong, weak], "any", looks=2).p == pytest.approx(4 * strong.p)


def test_a_gate_needs_a_value_on_every_seed() -> None:
    assert judging.passes([0.1, 0.3], 0.2)
    assert not judging.passes([0.1, 0.2], 0.2)
    assert not judging.passes([0.3, math.nan], 0.2)
    assert not judging.passes([], 0.0)


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
        seeds = judging.seeds_to_decide(condition, DELTA, (ALPHA_OF_ONE, ALPHA_OF_ONE))
        assert seeds is not None
        decided = 0
        for _ in range(400):
            found = judge_condition(dict(enumerate(random.normal(mean, SD, seeds))), DELTA)
            decided += (found.p < ALPHA_OF_ONE and found.meets) if mean else found.p_below < ALPHA_OF_ONE
        assert decided / 400 > paired_statistics.TARGET_POWER - 0.07


def test_an_effect_too_small_to_matter_is_refuted_and_never_supported() -> None:
    random = np.random.default_rng(9)
    found = [judge_condition(dict(zip(SEEDS, random.normal(0, 0.002, 8), strict=True)), DELTA) for _ in range(200)]
    assert all(condition.p_below < judging.ALPHA and not condition.meets for condition in found)


def test_the_strictest_alpha_counts_family_conditions_and_looks() -> None:
    """What must hold in every condition is refuted by any of them, and the other way round."""
    assert judging.strictest_alphas(EXPLORATORY, 20, "all", 2, 1) == pytest.approx((0.1 / 20, 0.1 / 40))
    assert judging.strictest_alphas(PRIMARY, 16, "any", 3, 2) == pytest.approx((0.05 / 96, 0.05 / 32))
