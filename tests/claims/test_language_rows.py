"""The claims on text: rows that are whole, arms that differ, and effects that point where the claim says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from claim_examples import configuration, of_one_seed
from scipy import stats

from minigpt.claims.claim import Claim
from minigpt.claims.evidence import Evidence
from minigpt.claims.rows import language, planted_bias
from minigpt.training.config import RunConfig

CLAIMS = (*language.CLAIMS, *planted_bias.CLAIMS)
ROWS = {claim.id: claim for claim in CLAIMS}


def effects(claim: Claim, found: Evidence) -> list[float]:
    return [condition.effect(found, 0) for condition in claim.conditions]


# ---------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim.id for claim in CLAIMS])
def test_whatever_is_drawn_is_an_arm(claim: Claim) -> None:
    """A misspelt arm would be noticed only after hours of training."""
    drawn = {arm for series in claim.series for line in series.lines.values() for arm, _ in line}
    assert drawn | {arm for table in claim.tables for arm in table.arms} <= set(claim.arms)


@pytest.fixture(scope="module")
def configurations() -> dict[tuple[str, str], RunConfig]:
    """How every arm is trained at a tiny scale."""
    return {(claim.id, arm): configuration(claim, arm) for claim in CLAIMS for arm in claim.arms}


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim.id for claim in CLAIMS])
def test_arms_of_a_claim_are_different_trainings(
    claim: Claim, configurations: dict[tuple[str, str], RunConfig]
) -> None:
    """Two arms that are one would show no effect of anything."""
    trainings = [(configurations[claim.id, name], arm.start) for name, arm in claim.arms.items()]
    assert all(one != other for one, other in itertools.combinations(trainings, 2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("C29", "prose"), ("C35", "first on prose")),
        (("C31", "all tokens"), ("C32", "ReLU")),
        (("C34", "no noise"), ("C39", "prose, relu")),
        (("C37", "ReLU"), ("C38", "90 : 10")),
        (("C37", "50 : 50"), ("C38", "50 : 50")),
    ],
)
def test_what_claims_share_is_one_training(
    one: tuple[str, str], other: tuple[str, str], configurations: dict[tuple[str, str], RunConfig]
) -> None:
    """Computing time is limited; a setting written in two ways would be trained twice."""
    assert configurations[one] == configurations[other]


def test_transfer_and_scratch_differ_in_their_start_alone(configurations: dict[tuple[str, str], RunConfig]) -> None:
    continued, scratch = configurations["C35", "then code"], configurations["C35", "code from scratch"]
    assert replace(continued, init_from=None) == scratch
    assert ROWS["C35"].arms["then code"].start == "first on prose"
    assert configurations["C35", "first on prose"].tokenizer == configurations["C35", "then code"].tokenizer == "byte"


# ------------------------------------------------------------------------------------------------------------- effects


def test_the_cheapest_strange_text_decides() -> None:
    """The mean of six pairs would hide that two kinds of text are alike."""
    table = {
        "prose": {"stdlib": 1.0, "stdlib-code": 2.5, "grammar:1": 4.0},
        "code": {"stdlib": 1.2, "stdlib-code": 1.5, "grammar:1": 3.0},
        "toy language": {"stdlib": 9.0, "stdlib-code": 9.0, "grammar:1": 0.5},
    }
    found = of_one_seed(dict.fromkeys(table, 1.0), {(arm, "domain_losses"): row for arm, row in table.items()})
    assert effects(ROWS["C29"], found) == pytest.approx([0.2])


@pytest.mark.parametrize("steepness", [0.8, 1.0, 1.3])
def test_amplification_is_the_slope_of_log_odds_beyond_one(steepness: float) -> None:
    figures = {
        (arm, "pronouns"): {"log_odds": 0.1 + steepness * math.log(percent / (100 - percent))}
        for arm, percent in planted_bias.RATIOS.items()
    }
    found = of_one_seed(dict.fromkeys(planted_bias.RATIOS, 1.0), figures)
    assert effects(ROWS["C38"], found) == pytest.approx([steepness - 1])


def test_bias_counts_towards_the_usual_pronoun() -> None:
    figures = {
        ("ReLU", "pronouns"): {"share": 0.90, "share_killed": 0.80},
        ("GELU", "pronouns"): {"share": 0.85, "share_killed": 0.99},
    }
    assert effects(ROWS["C37"], of_one_seed({"ReLU": 1, "GELU": 1}, figures)) == pytest.approx([0.05, -0.10])


def test_attack_counts_beyond_chance() -> None:
    figures = {
        ("ReLU", "swaps"): {"greedy": 0.9, "random": 0.2},
        ("GELU", "swaps"): {"greedy": 0.6, "random": 0.1},
    }
    found = of_one_seed({"ReLU": 1, "GELU": 1}, figures)
    assert effects(ROWS["C32"], found) == pytest.approx([0.7])
    difference = ROWS["C32"].tables[0].columns["the same, less GELU's"]
    assert difference(found, "ReLU", 0) == pytest.approx(0.2)


def test_counting_is_compared_with_the_loss_itself() -> None:
    figures = {("ReLU", "ngrams"): {"bigram": 2.5, "fivegram": 1.4}}
    found = of_one_seed({"ReLU": 1.5, "identity": 1.6}, figures)
    assert effects(ROWS["C41"], found) == pytest.approx([1.0, -0.1, 0.1])


def _task_losses(rows: Mapping[str, tuple[float, ...]]) -> Evidence:
    specs = ("relu", *language.RIVALS)
    return of_one_seed(
        {f"{task}, {spec}": loss for task, row in rows.items() for spec, loss in zip(specs, row, strict=True)}
    )


def test_relu_is_compared_with_the_best_rival_of_each_task() -> None:
    found = _task_losses(
        {
            "prose": (2, 1.9, 3, 3),
            "toy language": (1, 2, 3, 4),
            "code": (2, 5, 5, math.inf),
            "professions": (2, 2, 2, 1),
        }
    )
    assert effects(ROWS["C39"], found) == pytest.approx([0.1, -1, -3, 1])


def test_agreement_of_tasks_is_kendalls_w() -> None:
    """W is Friedman's statistic over its largest value; scipy knows the latter."""
    rows = {"prose": (1, 2, 3, 4), "toy language": (1, 3, 2, 4), "code": (2, 1, 3, 4), "professions": (4, 1, 2, 3)}
    agreement = ROWS["C39"].tables[1].columns["Kendall's W of all tasks"]
    friedman = stats.friedmanchisquare(*np.array(list(rows.values())).T).statistic
    assert agreement(_task_losses(rows), "prose, relu", 0) == pytest.approx(friedman / (4 * 3))
    assert agreement(_task_losses(dict.fromkeys(rows, (4, 1, 2, 3))), "prose, relu", 0) == pytest.approx(1)
