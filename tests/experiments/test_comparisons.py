"""Comparisons of arms in pairs: which seeds enter, who may win where cells diverged, and the family of all pairs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from made_up_cells import DIVERGED, SEEDS, ablation, noisy
from scipy import stats

from minigpt.experiments import comparisons
from minigpt.experiments.analysis import analyse
from minigpt.experiments.comparisons import Rule

RULE = Rule(margin=0.01, alpha=0.05)


def judged(arm: list[float], reference: list[float], rule: Rule = RULE) -> dict[str, Any]:
    """The comparison of two arms over as many seeds as there are losses."""
    outcomes = {"arm": dict(enumerate(arm)), "reference": dict(enumerate(reference))}
    [found] = comparisons.judge([comparisons.measure("arm", "reference", "lr", outcomes, rule.margin)], rule)
    return found


def steps(n: int, shift: float = 0.0) -> list[float]:
    """Losses that differ from seed to seed, the same for every arm except its shift."""
    return [1.5 + 0.03 * seed + shift for seed in range(n)]


@pytest.mark.parametrize("lead", [0.0001, 0.05])
@pytest.mark.parametrize("n", [9, 20])
def test_survivors_never_outvote_a_diverged_cell(n: int, lead: float):
    """From nine seeds on, a sign test that all the others win is significant; an arm that broke is no better for it."""
    found = judged([DIVERGED, *steps(n, -lead)[1:]], steps(n))
    assert found["p_t_holm"] == pytest.approx(stats.binomtest(1, n).pvalue)
    assert found["p_t_holm"] < 0.05
    assert found["verdict"] == "undecided"
    assert "the arm ahead diverged more often" in found["reason"]
    mirrored = judged(steps(n), [DIVERGED, *steps(n, -lead)[1:]])
    assert mirrored["verdict"] == "undecided"


def test_a_lead_within_the_margin_is_none_beside_diverged_cells_either():
    """One cell of the other arm diverged, and all the rest differ by next to nothing: unanimous, and yet no verdict."""
    assert judged(steps(12, -0.0001), [DIVERGED, *steps(12)[1:]])["verdict"] == "undecided"
    assert judged(steps(12, -0.02), [DIVERGED, *steps(12)[1:]])["verdict"] == "better"
    assert judged([DIVERGED, *steps(12, 0.02)[1:]], steps(12))["verdict"] == "worse"


def test_of_two_middle_differences_the_smaller_counts():
    """Half the seeds lead by next to nothing, half by much or all the world: that reaches no margin."""
    arm = [a - b for a, b in zip(steps(8), [0.0001] * 4 + [0.05] * 4, strict=True)]
    assert judged(arm, [*steps(7), DIVERGED])["verdict"] == "undecided"
    assert judged([*arm[:3], *steps(8, -0.05)[3:]], [*steps(7), DIVERGED])["verdict"] == "better"


def test_half_of_each_diverged_has_no_middle():
    """Half the differences are +∞ and half −∞: undecided, and no warning about their mean."""
    found = judged([DIVERGED] * 4 + steps(4), steps(4) + [DIVERGED] * 4)
    assert (found["verdict"], found["p_t_holm"], found["mean"]) == ("undecided", 1.0, None)
    assert found["reason"].startswith("a sign test over 8 pairs")
    assert "diverged more often" not in found["reason"]


def test_one_surviving_pair_has_no_error_bar():
    """Two seeds, of which both arms lost one: as good as one seed."""
    found = judged([DIVERGED, 1.4], [DIVERGED, 1.5])
    assert (found["n"], found["verdict"], found["sd"], found["p_t"]) == (1, "no verdict", None, None)
    assert found["mean"] == pytest.approx(-0.1)
    assert found["reason"] == "one seed has no error bar; at least two are needed; " + (
        "arm: 1 of 2 diverged; reference: 1 of 2 diverged; in 1 of 2 pairs both did, which counts for neither"
    )
    assert judged([DIVERGED], [1.5])["mean"] is None


def test_figures_of_all_pairs_against_scipy():
    """Every arm against every other, one family: each with its own test, and p times what Holm has left to spare."""
    losses = {"relu": noisy(), "gelu": noisy(0.004, 0.01, 1), "elu": noisy(0.1, 0.05, 2), "silu": noisy(0.02, 0.02, 3)}
    plan, results = ablation(losses)
    plan["pairs"] = [[arm, reference, "activation"] for reference, arm in itertools.combinations(losses, 2)]
    plan["compare"] = "all"
    for arm in plan["arms"]:
        arm["reference"] = False
    analysis = analyse(plan, results)
    assert (analysis["compare"], analysis["family"], analysis["noise_floor"]["arm"]) == ("all", 6, "relu")
    for found in analysis["comparisons"]:
        expected = stats.ttest_rel(losses[found["arm"]], losses[found["reference"]])
        for level, ends in ((0.95, ("low", "high")), (0.90, ("low90", "high90"))):
            assert [found[end] for end in ends] == pytest.approx(list(expected.confidence_interval(level)))
        assert found["p_t"] == pytest.approx(expected.pvalue)
        assert found["mean"] == pytest.approx(
            math.fsum(losses[found["arm"]]) / 8 - math.fsum(losses[found["reference"]]) / 8
        )
        assert [entry["seed"] for entry in found["differences"]] == SEEDS
    largest = 0.0
    for rank, found in enumerate(sorted(analysis["comparisons"], key=lambda comparison: comparison["p_t"])):
        largest = max(largest, min(1.0, (6 - rank) * found["p_t"]))
        assert found["p_t_holm"] == pytest.approx(largest)
    for arm in analysis["arms"]:
        mean = math.fsum(losses[arm["name"]]) / 8
        interval = stats.t.interval(0.95, 7, mean, stats.sem(losses[arm["name"]]))
        assert [arm["loss"][key] for key in ("mean", "low", "high")] == pytest.approx([mean, *interval])
