"""A thousand made-up ablations whose truth is known, through the path that `analyse` takes: `measure`, then `judge`.

What enters no verdict is left out of them to save time; a few whole analyses show that this changes none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from made_up_cells import SEEDS, answer
from scipy import stats

from minigpt.experiments import comparisons, paired_statistics
from minigpt.experiments.comparisons import Measured, Outcomes, Rule

ALPHA = 0.05
MARGIN = 0.01
NO_MARGIN = 1e-9
ABLATIONS = 1000
SEED_SD, NOISE_SD = 0.02, 0.02
PAIRED_SD = float(np.hypot(NOISE_SD, NOISE_SD))  # of a difference of two arms that share the seed's effect
# More errors than this come up once in a thousand tries if the true rate is alpha.
MOST_ERRORS = int(stats.binom.isf(0.001, ABLATIONS, ALPHA))

Verdicts = list[list[str]]


@contextmanager
def verdicts_only() -> Iterator[pytest.MonkeyPatch]:
    """Spare what is shown beside a verdict and enters none: the sign-flip test, and seeds to decide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired_statistics, "sign_flip_p", lambda differences: 1.0)
        patch.setattr(paired_statistics, "seeds_to_decide", lambda mean, sd, margin, alpha: None)
        yield patch


def losses_of(random: np.random.Generator, *effects: float, noise: float = NOISE_SD) -> Outcomes:
    """Losses of arms with these effects on eight seeds: a seed shifts all arms alike, and each cell has its noise."""
    shared = random.normal(1.5, SEED_SD, len(SEEDS))
    return {
        f"arm{number}": dict(zip(SEEDS, map(float, shared + effect + random.normal(0, noise, 8)), strict=True))
        for number, effect in enumerate(effects)
    }


def measured(outcomes: Outcomes, margin: float) -> list[Measured]:
    """Every arm against the first."""
    reference, *arms = outcomes
    return [comparisons.measure(arm, reference, "activation", outcomes, margin) for arm in arms]


def verdicts(family: list[Measured], margin: float) -> list[str]:
    return [comparison["verdict"] for comparison in comparisons.judge(family, Rule(margin, ALPHA))]


def wrong(found: Verdicts) -> int:
    """Number of ablations with at least one arm called better or worse."""
    return sum(not {"better", "worse"}.isdisjoint(ablation) for ablation in found)


@pytest.fixture(scope="module")
def equal_arms() -> list[Outcomes]:
    """Ablations of six arms without any effect."""
    random = np.random.default_rng(21)
    return [losses_of(random, *[0.0] * 6) for _ in range(ABLATIONS)]


@pytest.fixture(scope="module")
def without_effect(equal_arms: list[Outcomes]) -> list[list[Measured]]:
    """Their comparisons, without the test of equivalence: within no margin none could be shown."""
    with verdicts_only() as patch:
        patch.setattr(paired_statistics, "tost_p", lambda found, margin: 1.0)
        return [measured(outcomes, NO_MARGIN) for outcomes in equal_arms]


@pytest.fixture(scope="module")
def planted() -> list[Measured]:
    """One arm that is truly worse by two paired standard deviations, well beyond the margin."""
    random = np.random.default_rng(22)
    with verdicts_only():
        return [measured(losses_of(random, 0.0, 2 * PAIRED_SD), MARGIN)[0] for _ in range(ABLATIONS)]


def test_error_stays_nominal_without_an_effect(without_effect: list[list[Measured]]):
    """At most 5 % of ablations of equal arms call any of them better or worse, without help from the margin.

    Nor are they much fewer: five comparisons with one reference depend on each other, which Holm does not use.
    """
    with verdicts_only():
        errors = wrong([verdicts(family, NO_MARGIN) for family in without_effect])
    assert 20 <= errors <= MOST_ERRORS


def test_a_margin_only_lowers_the_error(without_effect: list[list[Measured]]):
    """What was no verdict without the margin is none with it."""
    with verdicts_only():
        bare = [verdicts(family, NO_MARGIN) for family in without_effect]
        found = [verdicts(family, MARGIN) for family in without_effect]
    assert wrong(found) <= wrong(bare) <= MOST_ERRORS
    for strict, loose in zip(found, bare, strict=True):
        assert all(a in ("undecided", b) for a, b in zip(strict, loose, strict=True))


def test_a_relabelled_arm_never_differs(equal_arms: list[Outcomes]):
    """The reference under a second name: in no ablation better, worse or undecided."""
    twins = [{"relu": outcomes["arm0"], "twin": outcomes["arm0"]} for outcomes in equal_arms]
    with verdicts_only():
        found = {verdict for twin in twins for verdict in verdicts(measured(twin, MARGIN), MARGIN)}
    assert found == {"equivalent"}


def test_the_shortened_path_gives_the_verdicts_of_whole_analyses(equal_arms: list[Outcomes]):
    """What the simulations leave out changes no verdict, here with arms that are decided among those that are not."""
    seen = set()
    for outcomes in equal_arms[:8]:
        shifted = {seed: loss - 0.1 for seed, loss in outcomes["arm1"].items()}
        steady = {seed: loss + 0.0001 * (seed % 2) for seed, loss in outcomes["arm0"].items()}
        arms = {**outcomes, "arm1": shifted, "arm2": steady}
        with verdicts_only():
            expected = verdicts(measured(arms, MARGIN), MARGIN)
        whole = answer({name: list(losses.values()) for name, losses in arms.items()})["comparisons"]
        assert [comparison["verdict"] for comparison in whole] == expected
        seen |= set(expected)
    assert seen == {"better", "equivalent", "undecided"}


@pytest.mark.parametrize(("family", "figure"), [(7, 0.92), (16, 0.82)])
def test_a_planted_effect_is_found_at_the_promised_rate(
    planted: list[Measured], without_effect: list[list[Measured]], family: int, figure: float
):
    """Among as many comparisons of equal arms: the rate that Bonferroni promises, which Holm may only exceed.

    It exceeds it only where a comparison without effect has the smaller p, so almost never.
    """
    idle = iter([comparison for ablation in without_effect for comparison in ablation] * 3)
    with verdicts_only():
        found = [verdicts([arm, *(next(idle) for _ in range(family - 1))], MARGIN)[0] for arm in planted]
    promised = float(paired_statistics.t_test_power(2.0, np.array([8]), ALPHA / family)[0])
    decided = float(
        paired_statistics.decision_power(2 * PAIRED_SD, PAIRED_SD, MARGIN, np.array([8]), ALPHA / family)[0]
    )
    assert figure - 0.005 < decided <= promised
    low, high = stats.binom.interval(0.998, ABLATIONS, promised)
    assert low <= found.count("worse") <= high
    assert "better" not in found


def test_equivalence_is_not_claimed_of_an_arm_at_the_margin():
    """Truly a margin apart, with little noise: called equivalent in 5 % of ablations, the other error of a verdict."""
    random = np.random.default_rng(23)
    found = []
    with verdicts_only():
        for _ in range(ABLATIONS):
            found += verdicts(measured(losses_of(random, 0.0, MARGIN, noise=MARGIN / 4), MARGIN), MARGIN)
    assert 25 <= found.count("equivalent") <= MOST_ERRORS
    assert found.count("better") == 0
