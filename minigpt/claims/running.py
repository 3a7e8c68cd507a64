"""Claims run: their cells trained, parents before those that continue from them, then what is measured on them.

What is done is on disk and is not done again, so the same command continues an interrupted run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minigpt.base import storage
from minigpt.base.errors import UsageError
from minigpt.claims.claim import Claim
from minigpt.claims.measuring import MEASUREMENTS, is_taken, label, read, subject, take
from minigpt.claims.scale import Scale
from minigpt.experiments.arms import Arm
from minigpt.experiments.arms_to_cells import Planner
from minigpt.experiments.at_work import at_work
from minigpt.experiments.cells import Cell, read_result
from minigpt.experiments.processes import Executor, Job
from minigpt.experiments.run_jobs import Task, one_after_the_other, run_all, train_all
from minigpt.experiments.timing import Pace, cell_seconds, measure_together
from minigpt.training.code_version import code_hash
from minigpt.training.config import RunConfig
from minigpt.training.interrupts import StopFlag
from minigpt.training.run import model_config
from minigpt.training.run_directory import config_hash

# What is measured on a cell takes about as long as this share of its training.
_MEASURING_SHARE = 0.3


@dataclass(frozen=True)
class Workshop:
    """Where a ledger's work is done: its scale, cells planned, processes that do it, the ledger's own directory."""

    scale: Scale
    planner: Planner
    executor: Executor
    ledger: Path
    stop: StopFlag

    def cells(self, claim: Claim) -> dict[tuple[str, int], Cell | None]:
        """The cell of each arm and seed of a claim; None where an arm starts from a cell that is not trained yet."""
        return self.planner.cells(claim.arms, self.scale.seeds(claim))


def run_claims(claims: Sequence[Claim], workshop: Workshop) -> None:
    """Train and measure what these claims need and is not done.

    Raises:
        StopRequestedError: a signal arrived; running cells have committed, and the same call continues.
        MinigptError: something cannot be trained or measured; the subclass says why.
    """
    options = workshop.scale.options
    task = asdict(replace(workshop.scale, options=replace(options, workers=0, cohort=1)))  # each host has its own
    with at_work(Path(options.cells_dir), storage.json_hash(task), _alike(workshop)):
        while todo := _trainable(claims, workshop):
            train_all(todo, workshop.executor, workshop.stop, options.cohort)
        _measure_all(claims, workshop)


def _alike(workshop: Workshop) -> dict[str, str]:
    """What all hosts must have alike; see `at_work.ADVICE`."""
    config = workshop.planner.configuration(Arm(), workshop.scale.first_seed)
    return {"code": code_hash(), "text": workshop.planner.text(config).sha256, "cells": config_hash(config)}


def _trainable(claims: Sequence[Claim], workshop: Workshop) -> list[Cell]:
    """The cells that can be trained now and are not done, each once, in their order."""
    cells = [cell for claim in claims for cell in workshop.cells(claim).values() if cell is not None]
    return [cell for cell in {cell.id: cell for cell in cells}.values() if read_result(cell.directory) is None]


def _measure_all(claims: Sequence[Claim], workshop: Workshop) -> None:
    """Take the measurements that are missing, side by side, except those that take times."""
    wanted = {
        (label(measured), name): measured
        for claim in claims
        for cells in [workshop.cells(claim)]
        for arm, seed in cells
        for name in claim.measurements.get(arm, ())
        if (measured := subject(claim, name, arm, seed, cells))
    }
    tasks = {key: _measuring(measured, key[1], workshop) for key, measured in wanted.items()}
    together = [task for (_, name), task in tasks.items() if not MEASUREMENTS[name].alone]
    alone = [task for (_, name), task in tasks.items() if MEASUREMENTS[name].alone]
    for some in (_in_packs(together, workshop.scale.options.cohort), *([task] for task in alone)):
        run_all(some, workshop.executor, workshop.stop, "measurements")


def _measuring(measured: Sequence[Cell], name: str, workshop: Workshop) -> Task:
    cell = measured[0]
    return Task(
        job=Job(f"{label(measured)}-{name}", take, (workshop.ledger, measured, name)),
        what=f"measuring {name} of cell {label(measured)} ({cell.arm})",
        short=f"{name} of {cell.arm} s{cell.config.seed}",
        is_done=lambda: read(workshop.ledger, measured, name) is not None,
        is_taken=lambda: is_taken(workshop.ledger, measured, name),
    )


def _in_packs(tasks: Sequence[Task], size: int) -> list[Task]:
    """What is not done of these, as tasks of at most `size` that one process does in turn.

    A GPU is slow to begin with: a process needs longer for that than for a measurement.
    """
    if size == 1:
        return list(tasks)
    todo = [task for task in tasks if not task.is_done()]
    return [one_after_the_other(todo[first : first + size]) for first in range(0, len(todo), size)]


# --------------------------------------------------------------------------------------------------- what it will cost


def estimate(claims: Sequence[Claim], workshop: Workshop) -> dict[str, float]:
    """Expected seconds of each claim on this machine if it were run alone, done work left out."""
    costs = _costs(claims, workshop)
    return {claim.id: _total(claim, costs[claim.id], workshop) for claim in claims}


def affordable(claims: Sequence[Claim], workshop: Workshop, seconds: float) -> list[Claim]:
    """The claims, in their order, that fit into a budget of time, what they share counted once.

    Raises:
        UsageError: not even the cheapest fits; the message says what it takes.
    """
    costs = _costs(claims, workshop)
    chosen: list[Claim] = []
    paid: set[str] = set()
    for claim in claims:
        total = _total(claim, {name: cost for name, cost in costs[claim.id].items() if name not in paid}, workshop)
        if total <= seconds:
            seconds -= total
            chosen.append(claim)
            paid |= set(costs[claim.id])
    if not chosen:
        totals = {claim.id: _total(claim, costs[claim.id], workshop) for claim in claims}
        cheapest = min(totals, key=lambda claim: totals[claim])
        raise UsageError(
            f"the budget is too small; got {seconds / 60:.3g} minutes; the cheapest claim, {cheapest}, takes about "
            f"{totals[cheapest] / 60:.2g}; raise --budget, or shrink the scale with --steps and --seeds"
        )
    return chosen


def _costs(claims: Sequence[Claim], workshop: Workshop) -> dict[str, dict[str, float]]:
    """Seconds of each training that is still to do, by claim, at the pace of a short training of the base."""
    missing = {claim.id: _missing(claim, workshop) for claim in claims}
    if not any(missing.values()):
        return {claim: {} for claim in missing}
    config = workshop.planner.configuration(Arm(), workshop.scale.first_seed)
    pace = measure_together(config, _flops_per_token(config, workshop), workshop.executor, workshop.stop)
    return {
        claim: {name: _seconds(config, pace, workshop) for name, config in trainings.items()}
        for claim, trainings in missing.items()
    }


def _missing(claim: Claim, workshop: Workshop) -> dict[str, RunConfig]:
    """What is still to train for a claim, by cell; an arm that cannot be named yet goes by its own name."""
    found = {}
    for (arm, seed), cell in workshop.cells(claim).items():
        if cell is None:
            found[f"{claim.id}/{arm}/{seed}"] = workshop.planner.configuration(claim.arms[arm], seed)
        elif read_result(cell.directory) is None:
            found[cell.id] = cell.config
    return found


def _seconds(config: RunConfig, pace: Pace, workshop: Workshop) -> float:
    val_tokens = workshop.planner.text(config).size("val")
    return cell_seconds(config, _flops_per_token(config, workshop), pace, val_tokens)


def _flops_per_token(config: RunConfig, workshop: Workshop) -> int:
    return model_config(config, workshop.planner.text(config).tokenizer.vocab_size).flops_per_token


def _total(claim: Claim, trainings: dict[str, float], workshop: Workshop) -> float:
    """Seconds of a claim's trainings side by side, and of measuring."""
    measuring = _MEASURING_SHARE if claim.measurements else 0.0
    return (1 + measuring) * sum(trainings.values()) / max(1, workshop.executor.free)
