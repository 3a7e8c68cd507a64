"""An ablation from its question to trained cells and a plan on disk that says which they are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import LockedError, MinigptError
from minigpt.experiments import record
from minigpt.experiments.arms import Question, tuning_rates
from minigpt.experiments.arms_to_cells import (
    ResolvedArm,
    cells_of,
    describe_arm,
    describe_cell,
    resolve_arms,
    tuning_cells,
)
from minigpt.experiments.at_work import at_work, check_begun
from minigpt.experiments.cells import Cell, read_result, stale_cells
from minigpt.experiments.processes import Executor
from minigpt.experiments.run_jobs import train_all
from minigpt.experiments.timing import cell_seconds, measure_together, steps_of_equal_time
from minigpt.experiments.tuning import tune
from minigpt.text.store import TokenStore
from minigpt.training.code_version import code_hash
from minigpt.training.interrupts import StopFlag
from minigpt.training.run_directory import config_hash


def run_ablation(
    question: Question, directory: Path, executor: Executor, threads: int, stop: StopFlag, join: bool
) -> None:
    """Train what is not trained yet; afterwards `record.analyse_directory` has the answer.

    Other hosts may do the same over a shared folder; they divide the cells. To `join` needs one that has begun.

    Raises:
        StopRequestedError: a signal arrived; running cells have committed, and the same call continues.
        MinigptError: something cannot be trained; the subclass says why.
    """
    store = record.open_text(question)
    arms = resolve_arms(question, store.tokenizer.vocab_size, threads, data=store.sha256)
    task = storage.json_hash(record.question_json(question))
    with at_work(Path(question.options.cells_dir), task, _alike(arms, store)) as others:
        if join:
            check_begun(directory, directory / record.PLAN, others)
        steps = _equal_time(question, directory, arms, executor, stop, others)
        if steps is not None:
            arms = resolve_arms(question, store.tokenizer.vocab_size, threads, steps, store.sha256)
        tuned: list[Cell] = []
        rates, tuning = None, None
        if question.options.tune_lr:
            tuned, rates, tuning = tune(question, arms, store.sha256, executor, stop)
        cells = [*tuned, *cells_of(question, arms, store.sha256, rates)]
        record.write_plan(directory, _plan(question, directory, store, arms, cells, tuning, steps))
        train_all(cells, executor, stop, question.options.cohort)


def _alike(arms: list[ResolvedArm], store: TokenStore) -> dict[str, str]:
    """What all hosts must have alike; see `at_work.ADVICE`."""
    configs = {arm.name: config_hash(arm.config) for arm in arms}
    return {"code": code_hash(), "text": store.sha256, "cells": storage.json_hash(configs)}


def expectation(
    question: Question, executor: Executor, threads: int, stop: StopFlag
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The cells of an ablation, each with its state and expected seconds, and what a short training measured."""
    store = record.open_text(question)
    arms = resolve_arms(question, store.tokenizer.vocab_size, threads, data=store.sha256)
    pace = measure_together(arms[0].config, arms[0].flops_per_token, executor, stop)
    cells = cells_of(question, arms, store.sha256)
    if question.options.tune_lr:
        rates = {arm.name: tuning_rates(question) for arm in arms}
        cells = [*tuning_cells(question, arms, store.sha256, rates), *cells]
    flops = {arm.name: arm.flops_per_token for arm in arms}
    stale = {(old["arm"], old["seed"]) for old in stale_cells(cells, Path(question.options.cells_dir))}
    val = store.size("val") // (2 if question.options.tune_lr else 1)
    rows = [
        {
            **describe_cell(cell, Path()),
            "state": _state(cell, stale),
            "seconds": cell_seconds(cell.config, flops[cell.arm], pace, val),
        }
        for cell in cells
    ]
    return rows, {**asdict(pace), "slots": executor.free}


def _state(cell: Cell, stale: set[tuple[str, int]]) -> str:
    if read_result(cell.directory) is not None:
        return "done"
    if cell.directory.exists():
        return "begun"
    return "stale" if (cell.arm, cell.config.seed) in stale else "to do"


def _equal_time(
    question: Question,
    directory: Path,
    arms: list[ResolvedArm],
    executor: Executor,
    stop: StopFlag,
    others: list[str],
) -> dict[str, int] | None:
    """Steps by arm under `--match time`: those of an earlier attempt at the same question, else measured now.

    Raises:
        LockedError: another host is measuring them, and would find others.
    """
    if question.options.match != "time":
        return None
    try:
        plan = record.read_plan(directory)
        if plan["steps"] and plan["question"] == record.question_json(question) and plan["code"] == code_hash():
            return dict(plan["steps"])
    except MinigptError:
        pass
    if others:
        where = directory / record.PLAN
        raise LockedError(f"{others[0]} measures how fast each arm is; wait until there is {where}, then start again")
    return steps_of_equal_time(arms, executor, stop)


def _plan(
    question: Question,
    directory: Path,
    store: TokenStore,
    arms: list[ResolvedArm],
    cells: list[Cell],
    tuning: dict[str, Any] | None,
    steps: dict[str, int] | None,
) -> dict[str, Any]:
    """The content of `ablation.json`."""
    config = arms[0].config
    options = question.options
    return {
        "format": record.FORMAT,
        "name": directory.name,
        "command": question.command(),
        "question": record.question_json(question),
        "code": code_hash(),
        "margin": options.margin,
        "alpha": options.alpha,
        "seeds": question.seeds,
        "compare": options.compare,
        "match": options.match,
        "factors": {name: list(values) for name, values in question.factors.items()},
        "base": question.base,
        "corpus": {
            "name": config.corpus,
            "tokenizer": config.tokenizer,
            "sha256": store.sha256,
            "eval_part": config.eval_part,
        },
        "arms": [describe_arm(arm, arms[0]) for arm in arms],
        "pairs": [list(pair) for pair in question.pairs()],
        "cells": [describe_cell(cell, directory) for cell in cells],
        "tuning": tuning,
        "steps": steps,
        "stale": stale_cells(cells, Path(options.cells_dir)),
    }
