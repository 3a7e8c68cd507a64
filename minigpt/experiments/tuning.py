"""Choosing each arm's learning rate: on seeds and windows that judge nothing afterwards.

The grid of an arm grows at the end where its best rate lies, until the best has neighbours on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from minigpt.experiments.arms import Question, tuning_rates
from minigpt.experiments.arms_to_cells import ResolvedArm, tuning_cells, tuning_seeds
from minigpt.experiments.cells import Cell, read_result
from minigpt.experiments.processes import Executor
from minigpt.experiments.run_jobs import train_all
from minigpt.training.interrupts import StopFlag

MOST_EXTENSIONS = 4

Rates = tuple[float, ...]


def tune(
    question: Question, arms: list[ResolvedArm], data: str, executor: Executor, stop: StopFlag
) -> tuple[list[Cell], dict[str, float], dict[str, Any]]:
    """Train what choosing takes; return its cells, the rate chosen for each arm, and how it went for the plan."""
    begun = tuning_rates(question)
    rates: dict[str, Rates] = {arm.name: begun for arm in arms}
    while True:
        cells = tuning_cells(question, arms, data, rates)
        train_all(cells, executor, stop, question.options.cohort)
        scores = {arm.name: _scores(cells, arm.name) for arm in arms}
        grown = {name: extended(rates[name], scores[name], len(begun) + MOST_EXTENSIONS) for name in rates}
        if grown == rates:
            break
        rates = grown
    chosen = {name: best_rate(scores[name]) for name in rates}
    outcome = {
        "seeds": tuning_seeds(question),
        "grid": sorted({rate for grid in rates.values() for rate in grid}),
        "eval_part": cells[0].config.eval_part,
        "chosen": chosen,
        "extended": [name for name, grid in rates.items() if grid != begun],
        "at_edge": [name for name, grid in rates.items() if chosen[name] in (grid[0], grid[-1])],
    }
    return cells, chosen, outcome


def best_rate(scores: Mapping[float, float]) -> float:
    """The rate of the lowest mean loss; of equal ones (all diverged, say) the lowest rate."""
    return min(scores, key=lambda rate: (scores[rate], rate))


def extended(rates: Rates, scores: Mapping[float, float], most: int) -> Rates:
    """Add the next rate, in the grid's own ratio, beyond the end that is best; nothing if the grid holds `most`."""
    best = best_rate(scores)
    if len(rates) >= most:
        return rates
    if best == rates[0]:
        return (rates[0] ** 2 / rates[1], *rates)
    if best == rates[-1]:
        return (*rates, rates[-1] ** 2 / rates[-2])
    return rates


def _scores(cells: list[Cell], arm: str) -> dict[float, float]:
    """Mean final loss by rate over the tuning seeds; infinite if one of them diverged."""
    losses: dict[float, list[float]] = {}
    for cell in cells:
        if cell.arm == arm:
            result = read_result(cell.directory)
            assert result is not None
            diverged = result["status"] == "diverged"
            losses.setdefault(cell.config.lr, []).append(math.inf if diverged else result["val"]["loss"])
    return {rate: math.fsum(found) / len(found) for rate, found in losses.items()}
