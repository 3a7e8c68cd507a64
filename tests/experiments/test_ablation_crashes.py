"""Ablations that are stopped, orphaned, doubled or damaged: every cell counts once, and the answer is the same.

Random kills are in the battery (`tests/battery/ablation_kills.py`).
"""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest
from child_processes import Start, await_that, children_of, is_running, needs_fork
from conftest import TINY_MODEL

from minigpt.experiments import record
from minigpt.experiments.cells import read_result

BASE = f"--corpus text.txt {TINY_MODEL} --eval-every 15 --eval-tokens 64 --checkpoint-every 5 --log-every 5"
TABLES = ("cells.csv", "comparisons.csv", "arms.csv")

pytestmark = needs_fork


def tables(directory: Path) -> list[bytes]:
    return [(directory / name).read_bytes() for name in TABLES]


def done(place: Path) -> int:
    return sum(read_result(cell) is not None for cell in (place / "cells").glob("*"))


SMALL = f"ablate --activations relu,gelu --seeds 2 --workers 2 {BASE}"


def running_cells(place: Path) -> list[Path]:
    """Cells that have committed at least one step."""
    return [path for path in (place / "cells").glob("*") if list(path.glob("checkpoints/*/manifest.json"))]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_what_can_be_continued(start: Start, workplace: Path, number: int, code: int) -> None:
    """Every running cell commits a checkpoint, one line says how to go on, and the same command has the answer."""
    command = f"{SMALL} --steps 100 --out a --cells-dir cells"
    child = start(command)
    await_that(lambda: len(running_cells(workplace)) >= 2, "two cells")
    child.signal(number)
    assert child.wait() == code
    error = (workplace / "child.err").read_text().splitlines()
    assert re.search(r"[0-2] of 4 cells done; the same command continues", error[-1])
    begun = [path for path in running_cells(workplace) if read_result(path) is None]
    assert all('"status": "stopped"' in (path / "summary.json").read_text() for path in begun)
    assert start(command).wait() == 0
    assert done(workplace) == 4


def test_workers_leave_when_their_parent_is_gone(start: Start, workplace: Path) -> None:
    """An orphan would hold its cell for hours and train for nobody; it commits and leaves within a moment."""
    child = start(f"{SMALL} --steps 4000 --out a --cells-dir cells")
    await_that(lambda: len(running_cells(workplace)) >= 2, "two cells")
    workers = children_of(child.pid)
    child.signal(signal.SIGKILL)
    child.wait()
    await_that(lambda: not any(is_running(pid) for pid in workers), "the workers to leave")
    assert all("stopped" in (path / "summary.json").read_text() for path in running_cells(workplace))


def test_two_ablations_share_the_work(start: Start, workplace: Path) -> None:
    """Begun at once on the same cells, both end with the same answer and no cell is trained twice."""
    first = start(f"{SMALL} --steps 60 --out a --cells-dir cells")
    second = start(f"{SMALL} --steps 60 --out b --cells-dir cells")
    assert (first.wait(), second.wait()) == (0, 0)
    assert tables(workplace / "a") == tables(workplace / "b")
    logs = [path.stem for place in ("a", "b") for path in (workplace / place / "logs").rglob("*.log") if begun(path)]
    assert sorted(logs) == sorted(path.name for path in (workplace / "cells").glob("*"))


def begun(log: Path) -> bool:
    """Whether a cell was trained from its beginning by the process that wrote this log."""
    return "starting at step 0" in log.read_text()


@pytest.mark.parametrize("damage", ["edited", "truncated", "log"])
def test_an_altered_result_is_trained_again(start: Start, workplace: Path, damage: str) -> None:
    """A loss improved by hand, a file cut short, a log that is not the one that was summarised: noticed, and mended."""
    command = f"{SMALL} --steps 10 --out a --cells-dir cells"
    assert start(command).wait() == 0
    before = tables(workplace / "a")
    cell = sorted((workplace / "cells").glob("*"))[0]
    path = cell / ("metrics.jsonl" if damage == "log" else "summary.json")
    text = path.read_text()
    path.write_text(text[: len(text) // 2] if damage == "truncated" else text.replace('"loss": ', '"loss": -', 1))
    assert done(workplace) == 3
    assert start(command).wait() == 0
    assert done(workplace) == 4
    assert tables(workplace / "a") == before


def test_a_full_disk_ends_it_with_one_line(start: Start, workplace: Path) -> None:
    """Exit code 5, named cell, nothing lost: with space again the same command continues."""
    command = f"{SMALL} --steps 10 --out a --cells-dir cells"
    assert start(command, limit_files=[5, 2000]).wait() == 5
    error = (workplace / "child.err").read_text().splitlines()
    assert error[-1].startswith("error: cell ")
    assert "cannot write" in error[-1]
    assert start(command).wait() == 0
    assert done(workplace) == 4


def test_a_diverged_cell_is_a_result(start: Start, workplace: Path) -> None:
    """The table shows it as diverged, it is not trained again, and no verdict is made of the survivors."""
    command = (
        f"ablate --vary lr=1e-2,1e30 --seeds 2 --workers 2 {BASE} --steps 20 --grad-clip 0 --out a --cells-dir cells"
    )
    assert start(command).wait() == 0
    analysis = record.analyse_directory(workplace / "a")
    assert [arm["diverged"] for arm in analysis["arms"]] == [0, 2]
    assert "diverged" in (workplace / "child.out").read_text()
    shutil.rmtree(workplace / "a")
    assert start(command).wait() == 0
    assert not list((workplace / "a/logs").rglob("*.log"))
