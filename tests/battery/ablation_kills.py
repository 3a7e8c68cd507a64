"""An ablation whose workers and parent are killed at random: every cell counts once, the tables are the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

from child_processes import Child, Server, begin_child, children_of, is_running, serving
from conftest import TINY_MODEL

from battery.grounds import leftovers, workplace
from battery.tallies import Figure, Tally
from minigpt.experiments.cells import read_result

TABLES = ("cells.csv", "comparisons.csv", "arms.csv")
KILLS_A_CELL = 5  # what a cell has to be long enough for
OF_PARENT = 0.2  # of the kills; the others strike a worker


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """40 cells under 200 kills, and in proportion; an ablation that ends is compared, and another one begun."""
    cells = max(6, count // KILLS_A_CELL // 2 * 2)
    grid = _grid(cells, steps=max(20, 30 * count // cells))
    kills = Tally("ablation_kills", f"SIGKILL of a worker or of the parent of an ablation of {cells} cells", seed)
    ends = Tally("ablation_kills", "ablations that ended after kills, their tables compared byte for byte", seed)
    chance, parents = random.Random(seed), 0
    with workplace(place), serving() as ask:
        assert _end(_begin(ask, grid, "whole")) == 0
        parent, found = _begin(ask, grid, "cut-0"), 0
        while kills.count < count:
            time.sleep(chance.uniform(0.01, 0.1))
            workers, name = children_of(parent.pid), f"cut-{ends.count}"
            if not is_running(parent.pid):
                _judge_end(ends, parent.wait(), place, name)
                parent, found = _begin(ask, grid, f"cut-{ends.count}"), 0
            elif workers:
                if chance.random() < OF_PARENT:
                    parent.signal(signal.SIGKILL)
                    parent.wait()
                    parent, parents = _begin(ask, grid, name), parents + 1
                else:
                    _kill(chance.choice(workers))
                before, found = found, _done(place / name)
                kills.judge(found >= before, f"kill {kills.count} of seed {seed}: {before} cells done, now {found}")
        _judge_end(ends, _end(parent), place, f"cut-{ends.count}")
    kills.note = f"{parents} of the parent"
    return [kills.figure(), ends.figure()]


def _grid(cells: int, steps: int) -> str:
    base = f"--corpus text.txt {TINY_MODEL} --eval-every 15 --eval-tokens 64 --checkpoint-every 5 --log-every 5"
    return f"ablate --activations relu,gelu --seeds {cells // 2} --workers 4 --steps {steps} {base}"


def _begin(ask: Server, grid: str, name: str) -> Child:
    return begin_child(ask, Path.cwd(), f"{grid} --out {name}/ablation --cells-dir {name}/cells")


def _end(child: Child) -> int | str:
    """Wait for the end of a child as long as it takes; its exit code."""
    while is_running(child.pid):
        time.sleep(0.05)
    return child.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself in the meantime


def _done(place: Path) -> int:
    return sum(read_result(cell) is not None for cell in (place / "cells").glob("*"))


def _judge_end(ends: Tally, code: int | str, place: Path, name: str) -> None:
    """Compare an ablation that has ended with the undisturbed one."""
    fault = f"it ended with {code}"
    if code == 0:
        differing = [
            table
            for table in TABLES
            if (place / name / "ablation" / table).read_bytes() != (place / "whole/ablation" / table).read_bytes()
        ]
        fault = f"{differing} differ" if differing else ""
        fault = fault or (f"left behind: {leftovers(place / name)}" if leftovers(place / name) else "")
        shutil.rmtree(place / name)
    ends.judge(not fault, f"{name} of seed {ends.seed}: {fault}")
