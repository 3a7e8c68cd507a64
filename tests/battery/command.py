"""`python -m tests.battery`: run groups, print a line for each figure, keep the figures, draw the page."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from battery.groups import GROUPS
from battery.page import draw
from battery.tallies import Figure

SEED = 1
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
MEMORY, ENOUGH = Path("/dev/shm"), 2 << 30  # where Linux keeps files in memory, and the bytes that a group may need


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 if anything went wrong, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.battery", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a little of each group; nothing is kept without --out")
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="GROUP", help=f"one of {', '.join(GROUPS)}")
    parser.add_argument("--missing", action="store_true", help="only groups of which no full run is kept yet")
    parser.add_argument("--count", type=int, help="another number of cases than the group's own")
    parser.add_argument("--out", type=Path, help=f"the page; its figures are kept beside it as JSON [{PAGE.name}]")
    parser.add_argument("--seed", type=int, default=SEED, help="everything random follows from it")
    values = parser.parse_args(arguments)
    page = values.out or (None if values.quick else PAGE)
    kept = read_figures(page.with_suffix(".json")) if page else {}
    failures = 0
    for name in values.only or GROUPS:
        if values.missing and kept.get(name, {}).get("run") == "full":
            continue
        group = GROUPS[name]
        count = values.count or (group.quick if values.quick else group.full)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="battery-", dir=None if group.needs_disk else _memory()) as place:
            figures = group.run(count, values.seed, Path(place) / name)
        seconds = time.perf_counter() - begun
        for figure in figures:
            print(figure.line(), flush=True)
            print("".join(f"  {example}\n" for example in figure.examples), end="", flush=True)
        failures += sum(figure.failures for figure in figures)
        kept[name] = record_of(figures, "quick" if values.quick or values.count else "full", seconds)
        if page:
            write_figures(page, kept)
    return 1 if failures else 0


def _memory() -> Path | None:
    """A folder in memory, which spares the disk a million small files; None where there is none with room."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ENOUGH else None


def record_of(figures: list[Figure], run: str, seconds: float) -> dict[str, Any]:
    """What is kept of a group: how it was run, where, and for how long in all."""
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    kept = [dataclasses.asdict(figure) for figure in figures]
    return {"run": run, "machine": machine, "seconds": seconds, "figures": kept}


def read_figures(path: Path) -> dict[str, Any]:
    """The figures kept so far, by group."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_figures(page: Path, kept: dict[str, Any]) -> None:
    """Keep the figures as JSON, in the order of the groups, and draw the page from them."""
    ordered = {name: kept[name] for name in GROUPS if name in kept}
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".json").write_text(json.dumps(ordered, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(draw(ordered), encoding="utf-8")
