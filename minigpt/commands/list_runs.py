"""`minigpt runs`: the runs of a folder, in the terminal and as a page that compares any of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.base.errors import StorageError
from minigpt.base.flags import Parser, user_path
from minigpt.base.help_text import Introduction
from minigpt.base.storage import to_json, write_text
from minigpt.commands.showing import add_json_or_open, show

if TYPE_CHECKING:
    from minigpt.report.run_list import ListedRun

RUNS = Path("runs")
INDEX = "index.html"


def add_flags(parser: Parser) -> None:
    """The folder, and the form of the output."""
    parser.introduction = Introduction(
        examples=(("", "those below runs/"), ("runs/cells --json", "trainings of ablations, for programs"))
    )
    parser.add_argument(
        "folder", nargs="?", type=user_path, default=RUNS, metavar="FOLDER", help=f"folder that holds runs [{RUNS}]"
    )
    add_json_or_open(parser, "print one JSON object and write no page")


def run(values: argparse.Namespace) -> int:
    """List the runs and draw their page; returns 0."""
    from minigpt.report import run_list

    runs = run_list.list_runs(values.folder)
    if values.json:
        print(to_json({"folder": str(values.folder), "runs": run_list.as_records(runs)}))
        return 0
    print(run_list.runs_table(runs).terminal())
    _write_page(values.folder, runs, values.open)
    return 0


def _write_page(folder: Path, runs: list[ListedRun], opened: bool) -> None:
    """Leave the page in the folder; a folder that cannot be written keeps only the list from being a page."""
    from minigpt.report.runs_page import runs_page

    page = folder / INDEX
    try:
        write_text(page, runs_page(folder, runs))
    except StorageError as error:
        print(f"note: no page; {error}", file=sys.stderr)
        return
    show(page, opened)
