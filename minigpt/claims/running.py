"""Claims run: their cells trained, parents before those that continue from them, then what is measured on them.

Whatever is done is on disk and is not done again, so a run that is interrupted continues by the same command.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.base.errors import MinigptError, UsageError, error_of
from minigpt.claims import measurements
from minigpt.claims.arms import Planner, operations, untrained
from minigpt.claims.claim import Claim
from minigpt.claims.measurement import read, take
from minigpt.experiments.cells import Cell
from minigpt.experiments.processes import Executor, Job
from minigpt.experiments.run_jobs import train_all
from minigpt.experiments.timing import STARTING_SECONDS, measure_together
from minigpt.training.interrupts import StopFlag

_POLL = 0.5  # seconds
_MOST_DEATHS = 3  # of one measurement
# What is measured on a cell takes about as long as so much of its training.
_MEASURING_SHARE = 0.3


@dataclass(frozen=True)
class Workshop:
    """Where a ledger's work is done: cells planned, processes that do it, the ledger's own directory."""

    planner: Planner
    executor: Executor
    ledger: Path
    stop: StopFlag


def run_claims(claims: Sequence[Claim], workshop: Workshop) -> None:
    """Train and measure what these claims need and is not done.

    Raises:
        StopRequestedError: a signal arrived; running cells have committed, and the same call continues.
        MinigptError: something cannot be trained or measured; the subclass says why.
    """
    while todo := untrained(cell for claim in claims for cell in workshop.planner.cells(claim).values()):
        train_all(todo, workshop.executor, workshop.stop)
    _measure_all(claims, workshop)


def affordable(claims: Sequence[Claim], workshop: Workshop, seconds: float) -> list[Claim]:
    """The claims, in their order, that fit into a budget of time, what they share counted once.

    Raises:
        UsageError: not even the cheapest fits; the message says what it takes.
    """
    each = _seconds_per_operation(claims, workshop)
    chosen: list[Claim] = []
    paid: set[str] = set()
    for claim in claims:
        cost = _cost(claim, workshop, each, paid)
        if cost <= seconds:
            seconds -= cost
            chosen.append(claim)
            paid |= {name for name, _ in _remaining(claim, workshop)}
    if not chosen:
        costs = {claim.id: _cost(claim, workshop, each, set()) for claim in claims}
        cheapest = min(costs, key=lambda claim: costs[claim])
        raise UsageError(
            f"the budget is too small; got {seconds / 60:.3g} minutes; the cheapest claim, {cheapest}, takes about "
            f"{costs[cheapest] / 60:.2g}; raise --budget, or shrink the scale with --steps and --seeds"
        )
    return chosen


def estimate(claims: Sequence[Claim], workshop: Workshop) -> dict[str, float]:
    """Expected seconds of each claim on this machine if it were run alone, done work left out."""
    each = _seconds_per_operation(claims, workshop)
    return {claim.id: _cost(claim, workshop, each, set()) for claim in claims}


def _remaining(claim: Claim, workshop: Workshop) -> list[tuple[str, float]]:
    """(name, operations) of what is still to train for a claim; arms that cannot be named yet go by their own name."""
    found = []
    for (arm, seed), cell in workshop.planner.cells(claim).items():
        if cell is None or untrained([cell]):
            name = cell.id if cell else f"{claim.id}/{arm}/{seed}"
            found.append((name, operations(workshop.planner.configuration(claim, arm, seed))))
    return found


def _cost(claim: Claim, workshop: Workshop, seconds_per_operation: float, paid: set[str]) -> float:
    work = [count for name, count in dict(_remaining(claim, workshop)).items() if name not in paid]
    measuring = _MEASURING_SHARE if claim.measurements else 0.0
    training = sum(STARTING_SECONDS + count * seconds_per_operation for count in work)
    return (1 + measuring) * training / max(1, workshop.executor.free)


def _seconds_per_operation(claims: Sequence[Claim], workshop: Workshop) -> float:
    """What one floating-point operation of training takes here, by a short training of the base; 0 if all is done."""
    if not any(_remaining(claim, workshop) for claim in claims):
        return 0.0
    config = workshop.planner.base_configuration()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure_together(config, workshop.executor, Path(folder))
    return measured["step"] * config.steps / operations(config)


# ------------------------------------------------------------------------------------------------------- measurements


@dataclass(frozen=True)
class _Task:
    cell: Cell
    measurement: str

    @property
    def name(self) -> str:
        return f"{self.cell.id}-{self.measurement}"


def _measure_all(claims: Sequence[Claim], workshop: Workshop) -> None:
    """Take the measurements that are missing, side by side but for those that take times."""
    tasks = {
        task.name: task
        for claim in claims
        for (arm, _), cell in workshop.planner.cells(claim).items()
        for measurement in claim.measurements.get(arm, ())
        if cell is not None and read(workshop.ledger, cell.id, measurement) is None
        for task in (_Task(cell, measurement),)
    }
    together = [task for task in tasks.values() if not measurements.REGISTERED[task.measurement].alone]
    alone = [task for task in tasks.values() if measurements.REGISTERED[task.measurement].alone]
    for group in (together, *([task] for task in alone)):
        _measure(deque(group), workshop)


def _measure(waiting: deque[_Task], workshop: Workshop) -> None:
    running: dict[str, _Task] = {}
    deaths: dict[str, int] = {}
    try:
        while waiting or running:
            workshop.stop.check()
            while waiting and workshop.executor.free:
                task = waiting.popleft()
                arguments = (workshop.ledger, task.cell.directory, task.measurement)
                workshop.executor.start(Job(task.name, take, arguments))
                running[task.name] = task
            for ended in workshop.executor.ended(_POLL):
                task = running.pop(ended.name)
                if read(workshop.ledger, task.cell.id, task.measurement) is not None:
                    continue
                deaths[task.name] = deaths.get(task.name, 0) + 1
                killed = ended.exit_code <= 0 or ended.exit_code > 128
                if not killed or deaths[task.name] >= _MOST_DEATHS:
                    what = f"measuring {task.measurement} of cell {task.cell.id} ({task.cell.arm})"
                    raise error_of(ended.exit_code, f"{what} failed; {ended.message or ended.exit_code}")
                waiting.append(task)
    except MinigptError:
        workshop.executor.stop()
        raise
