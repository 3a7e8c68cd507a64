"""Which pages lead to which: from a training up to the ablations, ledgers and claims that name it, and down to it.

Every address is that of a file that exists when the page is drawn, relative to the page.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from minigpt.base.errors import CheckpointError, StorageError
from minigpt.base.reading import read_bytes

PAGE = "report.html"
_INDEX = "index.html"
_MOST_SEARCHED, _MOST_NAMED = 50, 4
_CELL = re.compile(r"[0-9a-f]{16}")  # the name of a cell, a hash; other names may be an arm's

Crumb = tuple[str, str]


def crumbs_of_run(run: Path) -> list[Crumb]:
    """The list of runs beside it; of a cell also what names it: the ablations, ledgers and claims beside its folder."""
    name, folder = run.absolute().name, run.absolute().parent
    crumbs = [("all runs", f"../{_INDEX}")] if (folder / _INDEX).is_file() else []
    if not _CELL.fullmatch(name):
        return crumbs
    files = [path for file in ("*/analysis.json", "*/ledger.json") for path in sorted(folder.parent.glob(file))]
    pages = [page for path in files[:_MOST_SEARCHED] for page in _pages_naming(path, name)]
    named = [(page, label) for page, label in pages if page.is_file()][:_MOST_NAMED]
    return crumbs + [(label, f"../../{quote(page.parent.name)}/{quote(page.name)}") for page, label in named]


def _pages_naming(record: Path, cell: str) -> Iterator[tuple[Path, str]]:
    """The page of an ablation or a ledger and those of its claims, if they name a cell, with what to call each."""
    with contextlib.suppress(CheckpointError, StorageError):
        content = read_bytes(record, CheckpointError)
        if cell.encode() in content:
            yield record.with_name(PAGE), record.parent.name
            yield from ((record.with_name(f"{claim}.html"), claim) for claim in _claims_naming(content, cell))


def _claims_naming(content: bytes, cell: str) -> list[str]:
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError, AttributeError):
        entries = json.loads(content).get("claims", ())
        return [str(entry["id"]) for entry in entries if any(cell in arm["cells"] for arm in entry.get("arms", ()))]
    return []


def cells_of_ledger(ledger: dict[str, Any], directory: Path) -> dict[str, Path]:
    """Where the trainings behind a ledger are, by name, if they are on this disk: beside it, or where it says."""
    said = Path(ledger["scale"]["options"]["cells_dir"])
    folders = [folder for folder in (directory.absolute().parent / said.name, said.absolute()) if folder.is_dir()]
    arms = [arm for entry in ledger["claims"] for arm in entry.get("arms", ())]
    names = dict.fromkeys(cell for arm in arms for cell in arm["cells"] if _CELL.fullmatch(cell))
    return {name: folder / name for name in names for folder in reversed(folders) if (folder / name).is_dir()}


def addresses(cells: dict[str, Path], directory: Path) -> dict[str, str]:
    """Of each cell that has a page its address, from a page in `directory`."""
    pages = {name: place / PAGE for name, place in cells.items()}
    return {name: quote(os.path.relpath(page, directory)) for name, page in pages.items() if page.is_file()}
