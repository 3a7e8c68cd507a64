"""What a training step costs beside other busy programs, by how OpenMP's threads wait for each other.

Every program is a process for each setting, which its runtime reads once. In each block all of them train in turn for
the same time, beside no, one and two processes that only count: so each ratio is of figures that are minutes apart at
most. With as many busy processes as cores, a fair share of a step on all cores takes twice as long as the quiet one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from minigpt.base import thread_waiting
from minigpt.benchmarks.bench_options import BenchOptions, Peer
from minigpt.benchmarks.paired_blocks import Track, alternate, paired_ratio, spread
from minigpt.benchmarks.workers import Task, Worker
from minigpt.training.config import RunConfig

# What users of torch have, without minigpt's choice.
AS_IT_IS = "as it is"
WAITING: dict[str, dict[str, str]] = {
    AS_IT_IS: {},
    "300": {**thread_waiting.CHOSEN, "GOMP_SPINCOUNT": "300"},
    thread_waiting.CHOSEN["GOMP_SPINCOUNT"]: thread_waiting.CHOSEN,
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
LOADS = (0, 1, 2)
QUIET = 0
BLOCK_SECONDS = 2.0
# It leaves by itself when the benchmark is gone, however that went.
_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(1_000_000): pass"


@dataclass(frozen=True)
class _Row:
    """One program with one setting beside a number of busy processes."""

    worker: Worker
    waiting: str
    busy: int

    @property
    def program(self) -> str:
        """The program's name."""
        return self.worker.task.name

    def seconds_per_step(self) -> float:
        """Train for the time of a block."""
        with _busy_processes(self.busy):
            return self.worker.train_for(BLOCK_SECONDS)


def measure_busy(config: RunConfig, peers: Sequence[Peer], options: BenchOptions, track: Track) -> list[dict[str, Any]]:
    """The seconds of a step of ours and of the peers as shipped, for each setting and number of busy processes.

    Beside them: the ratio to the same quiet, and to the same program as it is; and of the first peer as it is to this.
    """
    with ExitStack() as stack:
        programs: list[Peer | None] = [None, *peers]
        workers = [
            (stack.enter_context(Worker(Task(config, peer=peer, waiting=values))), name)
            for peer in programs
            for name, values in WAITING.items()
        ]
        for worker, _ in workers:
            worker.train(options.steps_per_block)
        rows = [_Row(worker, name, busy) for busy in LOADS for worker, name in workers]
        blocks = track(range(options.blocks), f"busy {config.preset}")
        seconds = alternate([row.seconds_per_step for row in rows], blocks)
    return _compared(rows, seconds)


def _compared(rows: Sequence[_Row], seconds: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    figures = {(row.program, row.waiting, row.busy): found for row, found in zip(rows, seconds, strict=True)}
    peer = next((row.program for row in rows if row.worker.task.peer is not None), None)
    return [
        {
            "preset": row.worker.task.config.preset,
            "program": row.program,
            "waiting": row.waiting,
            "busy": row.busy,
            "step_seconds": asdict(spread(found)),
            "slower_than_quiet": _ratio(found, figures[row.program, row.waiting, QUIET]),
            "faster_than_as_it_is": _ratio(figures[row.program, AS_IT_IS, row.busy], found),
            "faster_than_peer": _ratio(figures[peer, AS_IT_IS, row.busy], found) if peer else None,
        }
        for row, found in zip(rows, seconds, strict=True)
    ]


def _ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    return asdict(paired_ratio(numerators, denominators))


@contextmanager
def _busy_processes(number: int) -> Iterator[None]:
    """Processes that use a core each, if they can have it."""
    command = [sys.executable, "-S", "-E", "-c", _BUSY, str(os.getpid())]
    processes = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
