"""The catalogue of claims as a whole: 43 complete rows and four derived ones, and everything they name exists."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from minigpt.claims import measurements
from minigpt.claims.catalogue import CLAIMS
from minigpt.claims.claim import EXPLORATORY, MOST_QUOTED_WORDS, PRIMARY, Claim
from minigpt.claims.evidence import Evidence
from minigpt.claims.measurements import gradient_flow, prediction
from minigpt.claims.measuring import MEASUREMENTS
from minigpt.claims.rows import gradients, language, selection
from minigpt.training.config import RunConfig

MEASURES = Path(measurements.__file__).parent
RUNNING = [claim for claim in CLAIMS.values() if claim.can_run]


def test_there_are_all_the_rows_and_the_primary_family_runs() -> None:
    assert list(CLAIMS) == [f"C{number}" for number in range(1, 48)]
    assert all(CLAIMS[f"C{number}"].can_run and CLAIMS[f"C{number}"].family == PRIMARY for number in range(1, 17))
    must = (*range(17, 26), 27, 29, 32, 34, 35, 37, 38, 39, 41)
    assert all(CLAIMS[f"C{number}"].can_run and CLAIMS[f"C{number}"].family == EXPLORATORY for number in must)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_a_row_says_what_it_must(claim: Claim) -> None:
    """A row either can be judged or says why not; its forecast was written down; the quotation is short."""
    assert 1 <= len(claim.quote.split()) <= MOST_QUOTED_WORDS
    assert claim.where
    assert claim.statement.endswith(".")
    assert claim.meaning.endswith(".")
    assert claim.forecast
    assert claim.can_run is not bool(claim.obstacle)
    assert bool(claim.arms) is claim.can_run
    if claim.tag == "not measurable":
        assert not claim.can_run


@pytest.mark.parametrize("claim", RUNNING, ids=[claim.id for claim in RUNNING])
def test_what_a_row_names_exists(claim: Claim) -> None:
    """Flags are training flags, starts are arms of the row, measurements are registered and of arms of the row."""
    for arm in claim.arms.values():
        assert set(arm.settings) <= set(RunConfig.__dataclass_fields__)
        assert not arm.start or arm.start in claim.arms
    assert set(claim.measurements) <= set(claim.arms)
    assert {name for names in claim.measurements.values() for name in names} <= set(MEASUREMENTS)
    assert all(condition.margin >= 0 for condition in claim.conditions)


@pytest.mark.parametrize("claim", RUNNING, ids=[claim.id for claim in RUNNING])
def test_a_row_tells_its_finding_in_a_sentence(claim: Claim) -> None:
    """Every number in it is computed, and none is computed in vain."""
    assert claim.finding.endswith(".")
    assert {name for _, name, _, _ in Formatter().parse(claim.finding) if name} == set(claim.numbers)


class AnyFigure(Mapping[str, Any]):
    """A record that has whatever it is asked for, by default a half, and a chunk of each size."""

    def __init__(self, **known: Any) -> None:
        self.known = known

    def __getitem__(self, key: str) -> Any:
        return self.known.get(key, 0.5)

    def __iter__(self) -> Iterator[str]:
        return (f"{size}/0" for size in selection.SIZES)

    def __len__(self) -> int:
        return len(selection.SIZES)


def made_up(claim: Claim, seeds: tuple[int, ...]) -> Evidence:
    """Results of all arms of a row, and what it says is measured of them, on seeds of which the first ones choose."""
    curve = [{"step": step, "loss": loss} for step, loss in ((0, 4.0), (10, 2.0), (20, 2.5))]
    validated = {"loss": 2.5, "layers": [AnyFigure(neurons=4)]}
    result = {"status": "finished", "val": validated, "evaluations": curve}
    measured = {
        (arm, seed, name): AnyFigure(tokens=1e6)
        for arm, names in claim.measurements.items()
        for name in names
        for seed in seeds
    }
    return Evidence({(arm, seed): result for arm in claim.arms for seed in seeds}, measured, seeds[: claim.choosing])


@pytest.mark.parametrize("claim", RUNNING, ids=[claim.id for claim in RUNNING])
def test_a_row_reads_nothing_that_it_does_not_measure(claim: Claim) -> None:
    """Gates, conditions, the finding, pictures and tables ask for trained arms and for what is measured on them."""
    evidence = made_up(claim, (0, 1, 2))
    effects = [condition.effect for condition in claim.conditions] + [gate.value for gate in claim.gates]
    effects += [value for _, value in claim.numbers.values()]
    for effect in effects:
        assert isinstance(effect(evidence, 2), (int, float))
    for series in claim.series:
        for arm, _ in (point for points in series.lines.values() for point in points):
            assert not math.isinf(series.value(evidence, arm, 2))
    for table in claim.tables:
        for arm in table.arms or tuple(claim.arms):
            for column in table.columns.values():
                column(evidence, arm, 2)


def test_every_file_of_measurements_is_registered() -> None:
    """Each measure under its function's name, and none forgotten; a version is a short hash."""
    files = {path.stem for path in MEASURES.glob("*.py")} - {"__init__", "batches_and_losses"}
    functions = {name: inspect.unwrap(m.measure) for name, m in MEASUREMENTS.items()}
    assert {Path(inspect.getfile(function)).stem for function in functions.values()} == files
    assert all(function.__name__ == name for name, function in functions.items())
    assert all(len(m.version) == 8 for m in MEASUREMENTS.values())


def test_rows_repeat_what_is_measured() -> None:
    """Rows are plain data, so they say again over what was measured; a figure that is not there would be NaN."""
    assert (gradient_flow.ACTIVATIONS, gradient_flow.DEPTHS) == (gradients.EVERY, gradients.DEPTHS)
    assert prediction.SIZES == selection.SIZES
    assert set(prediction.DOMAINS) == set(language.DOMAINS.values())


def test_listing_claims_needs_no_torch() -> None:
    code = "import sys, minigpt.claims.catalogue; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
