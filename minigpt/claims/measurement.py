"""What can be measured on a trained cell: a registry of functions, and the files that keep what they found.

A measurement is a function of a run as its last checkpoint left it and of its text, and returns numbers by name. What
it found is kept beside the ledger under the cell's name and a hash of the measuring code, and never measured twice.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, MinigptError, StopRequestedError
from minigpt.text.store import TokenStore
from minigpt.training.code_version import PACKAGE, imported_by, substance
from minigpt.training.inference import OpenedRun

FOLDER = "measurements"
_HASH_CHARACTERS = 8
_MEASURING = ("claims/measurements/", "neurons/")

Figures = dict[str, float | None]
Measure = Callable[[OpenedRun, TokenStore], Figures]
MEASUREMENTS: dict[str, Measurement] = {}


@dataclass(frozen=True)
class Measurement:
    """A named measure; `alone` if nothing else may run meanwhile, because it takes times."""

    name: str
    measure: Measure
    alone: bool

    @functools.cached_property
    def version(self) -> str:
        """A hash of what its file says, and all it uses of the instrument; training code is in the cell's name."""
        begin = Path(inspect.getfile(inspect.unwrap(self.measure))).relative_to(PACKAGE).as_posix()
        used = sorted(name for name in imported_by(begin) if name.startswith(_MEASURING))
        sources = [substance((PACKAGE / name).read_text(encoding="utf-8")) for name in used]
        return storage.sha256_bytes("\n".join(sources).encode())[:_HASH_CHARACTERS]


def measurement(name: str, alone: bool = False) -> Callable[[Measure], Measure]:
    """Register the decorated function under a name."""

    def register(measure: Measure) -> Measure:
        assert name not in MEASUREMENTS, f"two measurements are called {name}"
        MEASUREMENTS[name] = Measurement(name, measure, alone)
        return measure

    return register


def place(ledger: Path, cell: str, name: str) -> Path:
    """The file that holds a measurement of a cell."""
    return ledger / FOLDER / f"{cell}-{name}-{MEASUREMENTS[name].version}.json"


def read(ledger: Path, cell: str, name: str) -> dict[str, Any] | None:
    """What was measured, with `seconds`, or None if it was not or its file was altered."""
    try:
        return storage.read_sealed(place(ledger, cell, name), CheckpointError)
    except StopRequestedError:
        raise
    except MinigptError:
        return None


def take(ledger: Path, directory: Path, name: str) -> None:
    """Measure the cell in `directory` and keep what was found; the body of a job.

    A run that diverged has no model to measure: its figures are empty.
    """
    from minigpt.claims import measurements
    from minigpt.experiments.cells import read_result
    from minigpt.training import runtime
    from minigpt.training.inference import open_run, open_text

    assert name in MEASUREMENTS, f"{name} is not registered by {measurements.__name__}"
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
    storage.write_sealed(place(ledger, directory.name, name), kept)
