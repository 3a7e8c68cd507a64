"""The positive controls of rows can fail: where no arm differs from another, none is passed."""

from __future__ import annotations

from collections.abc import Mapping
from unittest.mock import Mock

import pytest

from minigpt.claims import entries
from minigpt.claims.catalogue import CLAIMS
from minigpt.claims.claim import Gate
from minigpt.claims.evidence import Evidence

NAMED = ("C1", "C9", "C10", "C17", "C18", "C19", "C20", "C26", "C29", "C31", "C34", "C39", "C41", "C45", "C46")
CHOOSING = (1, 2)
CALM, HARD = 2.0, 2.5


def controls(claim: str) -> list[Gate]:
    return [gate for gate in CLAIMS[claim].gates if gate.kind == "positive control"]


def evidence(claim: str, worse: Mapping[str, float]) -> Evidence:
    """All arms end alike and all measures say the same, except that some arms are worse, or have other figures."""
    ends = {arm: CALM + worse.get(arm, 0.0) for arm in CLAIMS[claim].arms}
    results = {
        (arm, seed): {
            "status": "finished",
            "val": {"loss": end, "layers": [{"neurons": 8, "dead_fraction": 0.5}]},
            "evaluations": [{"step": 0, "loss": 4.0}, {"step": 100, "loss": end}],
        }
        for arm, end in ends.items()
        for seed in (0, *CHOOSING)
    }
    figures = {
        (arm, 0, name): Mock(get=Mock(return_value=0.1 + worse.get(arm, 0.0)))  # whatever the key
        for arm, names in CLAIMS[claim].measurements.items()
        for name in names
    }
    return Evidence(results, figures, CHOOSING)


def passed(gate: Gate, found: Evidence) -> bool:
    return bool(entries.judged_gate(gate, {0: gate.value(found, 0)})["passed"])


@pytest.mark.parametrize("claim", NAMED)
def test_no_control_is_passed_where_nothing_differs(claim: str) -> None:
    assert controls(claim)
    assert not any(passed(gate, evidence(claim, {})) for gate in controls(claim))


@pytest.mark.parametrize("claim", [claim for claim in NAMED if claim != "C41"])
def test_controls_are_passed_where_what_was_planted_is_found(claim: str) -> None:
    """Every arm but those that nothing was done to is half a nat worse, or has that much larger a share."""
    planted = ("a sixteenth of the rate", "rate x1/1024", "SGD x0.25", "batch x16", "2,000 tokens", "noise 40 %")
    more = ("a fiftieth killed at birth", "a tenth killed at birth", "blurred prose", "prose, identity", "rate x7.5")
    found = evidence(claim, dict.fromkeys((*planted, *more), HARD - CALM))
    assert all(passed(gate, found) for gate in controls(claim))


def test_a_control_of_random_harm_fails_where_it_does_none() -> None:
    """C32: substitutions that make a text easier to predict show that the measure is broken."""
    (gate,) = controls("C32")
    for rise, expected in ((-0.01, False), (0.01, True)):
        found = Evidence({}, {("ReLU", 0, "swaps"): {"random": rise}})
        assert passed(gate, found) is expected


def test_counting_must_gain_from_more_context() -> None:
    """C41: a 5-gram no better than a bigram was counted wrongly."""
    gate = controls("C41")[0]
    for fivegram, expected in ((2.52, False), (1.28, True)):
        found = Evidence({}, {("ReLU", 0, "ngrams"): {"bigram": 2.52, "fivegram": fivegram}})
        assert passed(gate, found) is expected
