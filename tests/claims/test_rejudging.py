"""Judging again from the published ledger: nothing is trained, and nothing is made of what is not stored."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from minigpt.claims.catalogue import CLAIMS
from minigpt.claims.claim import Claim
from minigpt.claims.ledger import family_sizes
from minigpt.claims.rejudging import rejudged
from minigpt.experiments.arms import Arm
from minigpt.experiments.arms_to_cells import Planner

Record = dict[str, Any]
LEDGER = Path(__file__).parents[2] / "docs/claims/ledger.json"


@pytest.fixture
def ledger() -> Record:
    """A copy of what is published."""
    return json.loads(LEDGER.read_text(encoding="utf-8"))


def judged_again(ledger: Record, **altered: Claim) -> dict[str, Record]:
    """The entries by claim, some claims being declared otherwise than they are."""
    planner = Planner(ledger["scale"]["base"], "no-cells", threads=1)
    claims = {**CLAIMS, **altered}.values()
    return {entry["id"]: entry for entry in rejudged(ledger, claims, planner, family_sizes())}


def test_the_published_verdicts_follow_from_what_is_stored(ledger: Record) -> None:
    """Entries, verdicts and figures are those that judging again gives, so nobody wrote them by hand."""
    assert list(judged_again(copy.deepcopy(ledger)).values()) == ledger["claims"]


def test_an_effect_that_was_altered_changes_the_verdict(ledger: Record) -> None:
    entry = next(entry for entry in ledger["claims"] if entry["verdict"] == "SUPPORTED")
    for condition in entry["conditions"]:
        for seed in condition["effects"]:
            seed["effect"] = -seed["effect"]
    assert judged_again(ledger)[entry["id"]]["verdict"] == "REFUTED"


def test_a_gate_whose_figures_are_not_stored_makes_void(ledger: Record) -> None:
    entry = next(entry for entry in ledger["claims"] if entry["id"] == "C2")
    entry["gates"] = [gate for gate in entry["gates"] if gate["kind"] == "training"]
    again = judged_again(ledger)["C2"]
    assert again["verdict"] == "VOID"
    assert not all(gate["passed"] for gate in again["gates"])


def test_other_settings_of_an_arm_make_stale(ledger: Record) -> None:
    """The verdict that was found belongs to the old ones."""
    slower = dataclasses.replace(CLAIMS["C1"], arms={**CLAIMS["C1"].arms, "rate x7.5": Arm({"lr": 1e-3})})
    assert judged_again(ledger, C1=slower)["C1"]["status"] == "stale"


def test_pictures_take_the_titles_of_today(ledger: Record) -> None:
    """Their points stay, and where the pictures are others than those stored, so do the titles."""
    first, *others = CLAIMS["C1"].series
    renamed = dataclasses.replace(CLAIMS["C1"], series=(dataclasses.replace(first, title="Another title"), *others))
    fewer = dataclasses.replace(CLAIMS["C1"], series=(first,))
    stored = next(entry for entry in ledger["claims"] if entry["id"] == "C1")["series"]
    again = judged_again(ledger, C1=renamed)["C1"]["series"]
    assert [picture["title"] for picture in again] == ["Another title", *(picture.title for picture in others)]
    assert [picture["lines"] for picture in again] == [picture["lines"] for picture in stored]
    assert judged_again(ledger, C1=fewer)["C1"]["series"] == stored
