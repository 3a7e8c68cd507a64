"""`minigpt ablate`: from flags to a compared grid of trainings, its page and its table."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.base import formats, streams
from minigpt.base.errors import UsageError
from minigpt.base.flags import Parser, add_fields, given, read_toml, taken_out, user_path
from minigpt.base.help_text import Introduction
from minigpt.base.storage import make_directory, remove_stale_temporaries, to_json, write_text
from minigpt.base.tables import Column, Table
from minigpt.commands.draw_runs import PAGE, write_cell_pages
from minigpt.commands.showing import add_json_or_open, check_open, show
from minigpt.experiments.arms import EVAL_TOKENS, AblationOptions, Question, VariedFlags, ask, check_size
from minigpt.experiments.executor_options import ExecutorOptions, take_out
from minigpt.training.config import RunConfig, with_preset

if TYPE_CHECKING:
    from minigpt.experiments.processes import Executor
    from minigpt.training.interrupts import StopFlag

INTRODUCTION = Introduction(
    usage="--activations A,B,… [--seeds N] [--vary FLAG=A,B …] [--flag VALUE …]",
    examples=(
        ("--activations relu,gelu,swiglu --seeds 8", "is one activation better?"),
        ("--activations relu --vary lr=1e-3,3e-3 --seeds 4 --dry-run", "how long would two learning rates take?"),
    ),
    common=(
        *("--activations", "--seeds", "--vary", "--workers", "--out", "--overwrite", "--dry-run", "--json"),
        *("--preset", "--corpus", "--steps", "--batch-size", "--n-layer", "--n-embd", "--lr", "--config"),
    ),
)


def add_flags(parser: Parser) -> None:
    """The grid, how to compare, and every training flag as the base of all cells."""
    parser.introduction = INTRODUCTION
    # The last evaluation of a cell is complete all the same.
    parser.with_preset = lambda asked: with_preset({"eval_tokens": EVAL_TOKENS, **asked})
    add_fields(parser, AblationOptions)
    add_fields(parser, ExecutorOptions)
    group = parser.add_argument_group("what is done")
    group.add_argument(
        "--vary", action="append", default=[], metavar="FLAG=A,B", help="values of any training flag; may be repeated"
    )
    group.add_argument(
        "--config", type=user_path, metavar="FILE.toml", help="read flags and a table [vary] from a file"
    )
    group.add_argument("--out", type=user_path, metavar="DIR", help="where to write plan and page [runs/ablate-…]")
    group.add_argument("--overwrite", action="store_true", help="replace the ablation at --out")
    group.add_argument("--join", action="store_true", help="only help where another host has begun, on a shared folder")
    group.add_argument("--dry-run", action="store_true", help="list the cells with the time to expect, train nothing")
    group.add_argument("--yes", action="store_true", help="train more than 1000 cells")
    add_json_or_open(group, "print the answer as one JSON object")
    add_fields(parser, RunConfig)


def run(values: argparse.Namespace) -> int:
    """Train what is missing, answer, and draw the page; returns 0."""
    check_open(values.open, "--dry-run" if values.dry_run else "")
    question, where = _question(values)
    check_size(question, values.yes)
    where.check_may_time("--dry-run", values.dry_run)
    where.check_may_time("--match time", question.options.match == "time")
    from minigpt.experiments import record

    directory = values.out or record.default_directory(question)
    record.check_place(directory, question, values.overwrite)
    if values.dry_run:
        return _show_expectation(question, where, values.json)
    answer = record.finished_analysis(directory, question)  # without torch: at once
    if answer is None:
        _train(question, where, directory, values.join)
        answer = record.analyse_directory(directory)
        write_pages(directory, answer)
    _show_answer(directory, answer, values)
    return 0


def write_pages(directory: Path, analysis: dict[str, Any], again: bool = False) -> Path:
    """Draw an ablation and its cells, these `again` if they have a page, and write its tables; returns its page."""
    from minigpt.report import ablation_page, ablation_texts

    remove_stale_temporaries(directory)
    for name, table in (
        ("cells.csv", ablation_texts.cells_csv),
        ("comparisons.csv", ablation_texts.comparisons_csv),
        ("arms.csv", ablation_texts.arms_csv),
        ("fairness.csv", ablation_texts.fairness_csv),
    ):
        write_text(directory / name, table(analysis))
    write_text(directory / "report.md", ablation_texts.ablation_markdown(directory))
    make_directory(directory / "figures")
    for name, figure in ablation_texts.figure_files(analysis).items():
        write_text(directory / name, figure)
    page = directory / PAGE
    if not page.is_file():
        write_text(page, ablation_page.ablation_page(directory))  # each cell leads to it, if it is there
    trained = [cell for cell in analysis["cells"] if cell["status"] != "pending"]
    write_cell_pages((directory / cell["directory"] for cell in trained), again)
    write_text(page, ablation_page.ablation_page(directory))
    return page


def _question(values: argparse.Namespace) -> tuple[Question, ExecutorOptions]:
    kinds = (RunConfig, AblationOptions, ExecutorOptions, VariedFlags)
    from_file = read_toml(values.config, *kinds) if values.config else {}
    varied = dict(from_file.pop("vary", {}))
    for text in values.vary:
        key, equals, choices = text.partition("=")
        if not equals:
            raise UsageError(f"--vary needs a flag and its values; got {text!r}; write --vary lr=1e-3,3e-3")
        if key in varied and key in {other.partition("=")[0] for other in values.vary if other is not text}:
            raise UsageError(f"{key} is varied twice; got {text!r} as well; give all its values at once")
        varied[key] = choices
    chosen = from_file | given(values, AblationOptions) | given(values, ExecutorOptions) | given(values, RunConfig)
    where = take_out(chosen)
    options = taken_out(chosen, AblationOptions)
    return ask(chosen, options, varied), where


def _train(question: Question, where: ExecutorOptions, directory: Path, join: bool) -> None:
    from minigpt.experiments.grid import run_ablation

    with streams.lasting(), _workers(question, where, directory) as (executor, threads, stop):
        run_ablation(question, directory, executor, threads, stop, join)


@contextmanager
def _workers(question: Question, where: ExecutorOptions, directory: Path) -> Iterator[tuple[Executor, int, StopFlag]]:
    """Processes for the cells, the threads of each, and the flag that a signal raises."""
    from minigpt.experiments.arms_to_cells import arm_configs
    from minigpt.experiments.executors import executor_of
    from minigpt.experiments.record import logs
    from minigpt.training.interrupts import stop_on_signals

    device = question.base.get("device", RunConfig.device)
    with executor_of(where, question.options.workers, device, logs(directory)) as (executor, threads):
        arm_configs(question, threads)  # refuses what cannot be trained before anything is written
        with stop_on_signals() as stop:
            yield executor, threads, stop


def _show_expectation(question: Question, where: ExecutorOptions, as_json: bool) -> int:
    import tempfile

    from minigpt.experiments.grid import expectation

    with tempfile.TemporaryDirectory() as folder, _workers(question, where, Path(folder)) as (executor, threads, stop):
        cells, measured = expectation(question, executor, threads, stop)
    slots = measured["slots"]
    remaining = sum(cell["seconds"] for cell in cells if cell["state"] != "done") / slots
    if as_json:
        print(to_json({"cells": cells, "seconds": remaining, "workers": slots, "measured": measured}))
        return 0
    print(_cells_table(cells).terminal())
    todo = sum(cell["state"] != "done" for cell in cells)
    print(
        f"{len(cells)} cells, {todo} to train; about {formats.duration(remaining)} with {slots} at a time, "
        f"by one short cell: {1000 * measured['step']:.1f} ms a step"
    )
    return 0


def _cells_table(cells: Sequence[dict[str, Any]]) -> Table:
    tuning = Column.words("tuning", lambda cell: f"lr {cell['lr']:g}" if cell["purpose"] == "tune" else "")
    columns = (
        Column.name("cell", "id"),
        Column.words("arm", "arm"),
        Column("seed", "seed"),
        Column.words("state", "state"),
        Column("time", "seconds", lambda value: f"{value:.0f} s"),
        *([tuning] if any(tuning.of(cell) for cell in cells) else []),
    )
    return Table("", columns, cells)


def _show_answer(directory: Path, analysis: dict[str, Any], values: argparse.Namespace) -> None:
    if values.json:
        print(to_json({**analysis, "directory": str(directory)}))
        return
    from minigpt.report.ablation_texts import terminal_table

    print(terminal_table(analysis))
    show(directory / PAGE, values.open)
