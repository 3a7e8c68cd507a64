"""What can be measured on a trained cell, measured once, and the files that keep what was found.

A measurement is a function of a run as its last checkpoint left it and of its text, and returns numbers by name. What
it found is kept beside the ledger under the cell's name and a hash of the measuring code, and never measured twice.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, MinigptError, StopRequestedError
from minigpt.claims.claim import Claim
from minigpt.claims.measurements import (
    calibration_of_loss,
    dead_neurons,
    gradient_flow,
    hidden_values,
    input_dependence,
    loss_barrier,
    prediction,
    speed,
    tampered_text,
    token_detectors,
)
from minigpt.claims.measurements.batches_and_losses import Figures, Measure, PairMeasure
from minigpt.experiments.cells import Cell, read_result
from minigpt.training import runtime
from minigpt.training.code_version import PACKAGE, imported_by, substance
from minigpt.training.inference import open_run, open_text

FOLDER = "measurements"
_HASH_CHARACTERS = 8
_MEASURING = ("claims/measurements/", "neurons/")


@dataclass(frozen=True)
class Measurement:
    """A measure; `alone` if nothing else may run meanwhile, because it takes times; `paired` if of two models."""

    measure: Measure | PairMeasure
    alone: bool = False
    paired: bool = False

    @functools.cached_property
    def version(self) -> str:
        """A hash of what its file says, and all it uses of the instrument; training code is in the cell's name."""
        begin = Path(inspect.getfile(inspect.unwrap(self.measure))).relative_to(PACKAGE).as_posix()
        used = sorted(name for name in imported_by(begin) if name.startswith(_MEASURING))
        sources = [substance((PACKAGE / name).read_text(encoding="utf-8")) for name in used]
        return storage.sha256_bytes("\n".join(sources).encode())[:_HASH_CHARACTERS]


# By the names that rows of the ledger use. A new one is a function in `measurements/` and a line here.
MEASUREMENTS = {
    "deaths": Measurement(dead_neurons.deaths),
    "expendability": Measurement(dead_neurons.expendability),
    "planted": Measurement(dead_neurons.planted),
    "layer_ablation": Measurement(dead_neurons.layer_ablation),
    "trapping": Measurement(dead_neurons.trapping),
    "clamping": Measurement(hidden_values.clamping),
    "rebuilding": Measurement(hidden_values.rebuilding),
    "depth_gradients": Measurement(gradient_flow.depth_gradients),
    "gradient_noise": Measurement(gradient_flow.gradient_noise),
    "linearity": Measurement(input_dependence.linearity),
    "causality": Measurement(input_dependence.causality),
    "loss_barrier": Measurement(loss_barrier.loss_barrier, paired=True),
    "calibrated": Measurement(calibration_of_loss.calibrated),
    "gap": Measurement(prediction.gap),
    "split_losses": Measurement(prediction.split_losses),
    "domain_losses": Measurement(prediction.domain_losses),
    "ngrams": Measurement(prediction.ngrams),
    "accuracy": Measurement(prediction.accuracy),
    "token_detectors": Measurement(token_detectors.token_detectors),
    "swaps": Measurement(tampered_text.swaps),
    "pronouns": Measurement(tampered_text.pronouns),
    "speed": Measurement(speed.speed, alone=True),
}


def subject(claim: Claim, name: str, arm: str, seed: int, cells: Mapping[tuple[str, int], Cell | None]) -> list[Cell]:
    """The cells that a measurement of an arm and seed is taken of; none while one of them cannot be named."""
    arms = (arm, claim.partners[arm]) if MEASUREMENTS[name].paired else (arm,)
    found = [cells[each, seed] for each in arms]
    return [cell for cell in found if cell is not None] if None not in found else []


def label(cells: Sequence[Cell]) -> str:
    """What the cells of a measurement are called together."""
    return "-".join(cell.id for cell in cells)


def take(ledger: Path, cells: Sequence[Cell], name: str) -> None:
    """Measure cells and keep what was found, unless it was by now; the body of a job.

    Raises:
        LockedError: another process, perhaps of another host, is at it.
    """
    with storage.passing_lock(_working_place(ledger, cells, name)):
        if read(ledger, cells, name) is None:
            _measure(ledger, cells, name)


def is_taken(ledger: Path, cells: Sequence[Cell], name: str) -> bool:
    """Whether some process is measuring this at the moment."""
    return storage.is_held(_working_place(ledger, cells, name))


def _measure(ledger: Path, cells: Sequence[Cell], name: str) -> None:
    """A run that diverged has no model to measure: its figures are empty."""
    results = [read_result(cell.directory) for cell in cells]
    assert None not in results, f"{label(cells)} is measured before it is trained"
    begun = time.perf_counter()
    figures: Figures = {}
    if all(result is not None and result["status"] == "finished" for result in results):
        run, *others = (open_run(cell.directory) for cell in cells)
        runtime.set_up(run.config)
        figures = MEASUREMENTS[name].measure(run, open_text(run), *others)
    kept = {"cell": label(cells), "measurement": name, "figures": figures, "seconds": time.perf_counter() - begun}
    storage.write_sealed(_place(ledger, cells, name), kept)


def read(ledger: Path, cells: Sequence[Cell], name: str) -> dict[str, Any] | None:
    """What was measured, with `seconds`, or None if it was not or its file was altered."""
    try:
        return storage.read_sealed(_place(ledger, cells, name), CheckpointError)
    except StopRequestedError:
        raise
    except MinigptError:
        return None


def _place(ledger: Path, cells: Sequence[Cell], name: str) -> Path:
    """The file that holds a measurement."""
    return ledger / FOLDER / f"{label(cells)}-{name}-{MEASUREMENTS[name].version}.json"


def _working_place(ledger: Path, cells: Sequence[Cell], name: str) -> Path:
    """The folder that whoever measures holds."""
    return ledger / FOLDER / f"{label(cells)}-{name}.at-work"
