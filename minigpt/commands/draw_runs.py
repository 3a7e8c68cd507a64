"""Draws the pages of runs: of the one that a command is about, and of the trainings behind an ablation or a ledger."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from minigpt.base.errors import CheckpointError, StorageError
from minigpt.base.storage import remove_stale_temporaries, write_text

PAGE = "report.html"
_LOG, _SUMMARY = "metrics.jsonl", "summary.json"
_MANY = 20  # they take seconds


def write_report(run: Path) -> Path:
    """Draw the page of a run into its directory and return its path."""
    from minigpt.report.run_page import run_page

    remove_stale_temporaries(run)
    page = run / PAGE
    write_text(page, run_page(run))
    return page


def write_cell_pages(cells: Iterable[Path], again: bool = False) -> None:
    """Draw the page of each finished training that has none; `again`, of each that has a log; name a damaged one."""
    wanted = [cell for cell in cells if (cell / _LOG).is_file() and (again or _lacks_page(cell))]
    if len(wanted) > _MANY:
        print(f"note: the pages of {len(wanted)} trainings are drawn", file=sys.stderr)
    for cell in wanted:
        try:
            write_report(cell)
        except (CheckpointError, StorageError) as reason:
            print(f"note: no page; {reason}", file=sys.stderr)


def _lacks_page(cell: Path) -> bool:
    return (cell / _SUMMARY).is_file() and not (cell / PAGE).is_file()
