"""Gates: each kind can fail, and a claim behind a gate that fails has no verdict, whatever its effects say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from claim_examples import evidence
from made_up_ledger import FAMILY_SIZES, judged_entry, made_up_claim, made_up_gate

from minigpt.claims import entries, gates
from minigpt.claims.catalogue import CLAIMS
from minigpt.claims.claim import DELTA, Gate
from minigpt.claims.evidence import Evidence
from minigpt.report import claims_words as words

EFFECTS = [[0.05, 0.051, 0.049, 0.052, 0.048, 0.05, 0.051, 0.049]]
RUN = [claim for claim in CLAIMS.values() if claim.can_run]


def found(losses: dict[str, float], dead: dict[str, float] | None = None, **figures: dict[str, float]) -> Evidence:
    """Made-up results of seed 0, which chooses too; figures by measurement, all of the arm "relu"."""
    measured = {("relu", 0, name): values for name, values in figures.items()}
    made = evidence({(arm, 0): loss for arm, loss in losses.items()}, figures=measured)
    for arm, share in (dead or {}).items():
        layers = [{"neurons": 10, "dead_fraction": share}]
        made.results[arm, 0]["val"]["layers"] = layers
    return replace(made, choosing=(0,))


CASES: list[tuple[str, Gate, Evidence, Evidence]] = [
    (
        "training",
        gates.trained("relu"),
        found({"relu": 1.90}, ngrams={"trigram": 1.93}),
        found({"relu": 2.15}, ngrams={"trigram": 1.93}),
    ),
    (
        "training",
        gates.learnt_on("fork", "parent"),
        found({"fork": 2.0, "parent": 2.1}),
        found({"fork": 2.2, "parent": 2.1}),
    ),
    (
        "training",
        gates.trained("relu"),
        found({"relu": 1.9}, ngrams={"trigram": 1.93}),
        found({"relu": math.inf}, ngrams={"trigram": 1.93}),
    ),
    (
        "manipulation check",
        gates.deader("a", "b"),
        found({"a": 2.0, "b": 2.0}, {"a": 0.5, "b": 0.25}),
        found({"a": 2.0, "b": 2.0}, {"a": 0.46, "b": 0.35}),
    ),
    (
        "manipulation check",
        gates.layers_matter("relu"),
        found({}, layer_ablation={"least": 6 * DELTA}),
        found({}, layer_ablation={"least": DELTA}),
    ),
    (
        "manipulation check",
        gates.inside(("low", "middle", "high"), "rate"),
        found({"low": 2.1, "middle": 2.0, "high": 2.1}),
        found({"low": 2.2, "middle": 2.1, "high": 2.0}),
    ),
    (
        "positive control",
        gates.loses("bad", "good"),
        found({"bad": 2.2, "good": 2.0}),
        found({"bad": 2.005, "good": 2.0}),
    ),
]


@pytest.mark.parametrize(("kind", "gate", "good", "bad"), CASES)
def test_each_gate_can_be_passed_and_fail(kind: str, gate: Gate, good: Evidence, bad: Evidence) -> None:
    passed, failed = (entries.judged_gate(gate, {0: gate.value(made, 0)}) for made in (good, bad))
    assert gate.kind == kind
    assert passed["passed"]
    assert not failed["passed"]


def judged(gate_least: float) -> dict[str, Any]:
    """A claim with a large effect behind a gate that is worth 0.02."""
    claim = made_up_claim(1, [("effect", "nats", 0.01)], gates=(made_up_gate(gate_least),), expected="SUPPORTED")
    entry = judged_entry(claim, EFFECTS, {"relu": [1.50] * 8, "gelu": [1.52] * 8})
    return entries.with_verdicts([entry], FAMILY_SIZES)[0]


def test_a_gate_that_fails_makes_a_claim_void() -> None:
    """The same effects support it behind a gate that is passed; the reason names the gate and both numbers."""
    assert judged(0.01)["verdict"] == "SUPPORTED"
    void = judged(0.03)
    assert (void["verdict"], void["p_adjusted"], void["forecast_came_true"]) == ("VOID", None, None)
    [reason, *_] = words.reasons(void)
    assert "training failed: the loss is below a trigram's, is +0.0200, at least 0.0300 nats is needed" in reason


def test_a_void_claim_counts_as_not_run_for_the_others() -> None:
    """It neither helps nor harms its family."""
    claim = made_up_claim(2, [("effect", "nats", 0.01)])
    other = judged_entry(claim, EFFECTS, {"relu": [1.5] * 8, "gelu": [1.52] * 8})
    alone = entries.with_verdicts([other], FAMILY_SIZES)[0]
    beside = entries.with_verdicts([judged(0.03), other], FAMILY_SIZES)[1]
    assert alone["p_adjusted"] == beside["p_adjusted"]


@pytest.mark.parametrize("claim", RUN, ids=[claim.id for claim in RUN])
def test_every_claim_declares_gates(claim: Any) -> None:
    """And says them before it is run."""
    assert claim.gates
    assert {gate["kind"] for gate in entries.describe(claim)["gates"]} <= {
        "training",
        "positive control",
        "manipulation check",
    }


def test_too_few_seeds_are_no_verdict() -> None:
    """A peek before the planned number decides nothing and belongs to no family."""
    claim = made_up_claim(1, [("effect", "nats", 0.01)])
    entry = judged_entry(claim, [EFFECTS[0][:5]], {"relu": [1.5] * 5, "gelu": [1.6] * 5})
    [entry] = entries.with_verdicts([entry], FAMILY_SIZES)
    assert (entry["status"], entry["verdict"]) == ("incomplete", None)
    assert "a peek decides nothing" in words.reasons(entry)[0]
