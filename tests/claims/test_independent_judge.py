"""Another program, which imports nothing of minigpt, reaches the same verdicts and gates from the per-seed values."""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path
from typing import Any

import independent_judge
import pytest
from made_up_ledger import made_up_ledger

ROOT = Path(__file__).parents[2]
LEDGERS: dict[str, dict[str, Any]] = {
    "made up": made_up_ledger(),
    "published": json.loads((ROOT / "docs/claims/ledger.json").read_text(encoding="utf-8")),
}


def test_the_other_judge_is_independent() -> None:
    tree = ast.parse(Path(independent_judge.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= {"__future__", "collections.abc", "typing", "numpy", "scipy"}


@pytest.mark.parametrize("name", LEDGERS)
def test_both_judges_agree(name: str) -> None:
    """On every verdict and on every gate."""
    ledger = LEDGERS[name]
    judged = {entry["id"]: entry for entry in ledger["claims"] if entry["status"] == "judged"}
    assert independent_judge.verdicts(ledger) == {claim: entry["verdict"] for claim, entry in judged.items()}
    gates = [gate for entry in judged.values() for gate in entry["gates"]]
    assert [independent_judge.passes(gate) for gate in gates] == [gate["passed"] for gate in gates]


def test_the_other_judge_sees_what_was_altered() -> None:
    """A verdict that does not follow from the effects, or a gate from its values, is noticed."""
    ledger = copy.deepcopy(LEDGERS["made up"])
    first = ledger["claims"][0]
    assert independent_judge.verdicts(ledger)[first["id"]] == first["verdict"]
    for seed in first["conditions"][0]["effects"]:
        seed["effect"] = -seed["effect"]
    assert independent_judge.verdicts(ledger)[first["id"]] != first["verdict"]
