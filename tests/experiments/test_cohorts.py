"""`ablate --cohort K`: cells are packed by shape, trained as one, and are the cells that they would be anyway."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from child_processes import Start, needs_fork
from conftest import TINY_MODEL, Command

from minigpt.experiments import record
from minigpt.experiments.cells import Cell, packed
from minigpt.training.config import RunConfig

SMALL = (
    f"ablate --activations relu,gelu --seeds 3 --workers 1 --corpus text.txt {TINY_MODEL} --steps 10"
    " --eval-every 5 --checkpoint-every 5 --log-every 5 --out a --cells-dir cells"
)


def cell(seed: int, **settings: object) -> Cell:
    config = replace(RunConfig(attention="written", device="cpu"), seed=seed, **settings)
    return Cell(config.activation, "main", config, {"config": f"{config}", "data": "d", "code": "c"}, Path("cells"))


def test_packs_hold_one_shape_each() -> None:
    """In their order, never more than asked for; what cannot share a step is by itself."""
    cells = [cell(seed, activation=name) for seed in range(3) for name in ("relu", "gelu")]
    packs = packed([*cells, cell(7, dropout=0.1), cell(8, dropout=0.1)], 2)
    found = [[(each.config.activation, each.config.seed) for each in pack] for pack in packs]
    assert found == [
        [("relu", 0), ("relu", 1)],
        [("gelu", 0), ("gelu", 1)],
        [("relu", 2)],
        [("gelu", 2)],
        [("relu", 7)],
        [("relu", 8)],
    ]
    assert [len(pack) for pack in packed(cells, 100)] == [3, 3]


def test_rates_of_one_shape_share_a_pack() -> None:
    """Grids over rates are what cohorts are for."""
    assert len(packed([cell(1, lr=rate) for rate in (1e-3, 2e-3, 4e-3)], 8)) == 1


@needs_fork
def test_an_ablation_in_cohorts(start: Start, workplace: Path) -> None:
    """The same cells with the same losses to rounding; the answer says how they were trained, and answers at once."""
    assert start(f"{SMALL} --cohort 2").wait() == 0
    together = json.loads((workplace / "a" / record.ANALYSIS).read_text())
    assert together["provenance"]["cohort"] == 2
    assert together["provenance"]["mixed"] == ["cohort"]
    assert start(SMALL).wait() == 0
    assert json.loads((workplace / "a" / record.ANALYSIS).read_text()) == together
    (workplace / "cells").rename(workplace / "before")
    assert start(SMALL).wait() == 0
    alone = json.loads((workplace / "a" / record.ANALYSIS).read_text())
    assert alone["provenance"]["cohort"] == 1
    assert [c["id"] for c in alone["cells"]] == [c["id"] for c in together["cells"]]
    assert [c["loss"] for c in alone["cells"]] == pytest.approx([c["loss"] for c in together["cells"]], abs=1e-5)


@pytest.mark.parametrize("size", ["0", "-3", "many"])
def test_no_cohort_of_nobody(refused: Command, size: str) -> None:
    """The size of a cohort is at least one."""
    refused(2, f"{SMALL} --cohort {size}", says=("cohort",))
