"""What can be measured on a trained cell, measured once, and the files that keep what was found.

A measurement is a function of a run as its last checkpoint left it and of its text, and returns numbers by name. What
it found is kept beside the ledger under the cell's name and a hash of the measuring code, and never measured twice.
"""

from __future__ import annotations

import functools
import inspect
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, MinigptError, StopRequestedError
from minigpt.claims.measurements import (
    dead_neurons,
    gradient_flow,
    hidden_values,
    input_dependence,
    prediction,
    speed,
    tampered_text,
    token_detectors,
)
from minigpt.claims.measurements.batches_and_losses import Figures, Measure
from minigpt.experiments.cells import read_result
from minigpt.training import runtime
from minigpt.training.code_version import PACKAGE, imported_by, substance
from minigpt.training.inference import open_run, open_text

FOLDER = "measurements"
_HASH_CHARACTERS = 8
_MEASURING = ("claims/measurements/", "neurons/")


@dataclass(frozen=True)
class Measurement:
    """A measure; `alone` if nothing else may run meanwhile, because it takes times."""

    measure: Measure
    alone: bool = False

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


def take(ledger: Path, directory: Path, name: str) -> None:
    """Measure the cell in `directory` and keep what was found; the body of a job.

    A run that diverged has no model to measure: its figures are empty.
    """
    result = read_result(directory)
    assert result is not None, f"{directory} is measured before it is trained"
    begun = time.perf_counter()
    figures: Figures = {}
    if result["status"] == "finished":
        run = open_run(directory)
        runtime.set_up(run.config)
        figures = MEASUREMENTS[name].measure(run, open_text(run))
    kept = {"cell": directory.name, "measurement": name, "figures": figures, "seconds": time.perf_counter() - begun}
    storage.make_directory(ledger / FOLDER)
    storage.write_sealed(_place(ledger, directory.name, name), kept)


def read(ledger: Path, cell: str, name: str) -> dict[str, Any] | None:
    """What was measured, with `seconds`, or None if it was not or its file was altered."""
    try:
        return storage.read_sealed(_place(ledger, cell, name), CheckpointError)
    except StopRequestedError:
        raise
    except MinigptError:
        return None


def _place(ledger: Path, cell: str, name: str) -> Path:
    """The file that holds a measurement of a cell."""
    return ledger / FOLDER / f"{cell}-{name}-{MEASUREMENTS[name].version}.json"
