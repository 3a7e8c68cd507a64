"""Training cells until all are done, wherever an executor does it.

The disk holds all that is known. A cell that is done is not trained again, whoever trained it; one that another
ablation is training is waited for; one whose process was killed is started again and continues from its checkpoint.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tqdm import tqdm

from minigpt.base import storage
from minigpt.base.errors import LockedError, MinigptError, StopRequestedError, error_of
from minigpt.experiments.cells import Cell, read_result, share_done, train_cell
from minigpt.experiments.processes import Ended, Executor, Job
from minigpt.training.interrupts import StopFlag

_POLL = 0.5  # seconds
_OTHERS_POLL = 1.0  # seconds until another look at a cell that somebody else is training
_MOST_DEATHS = 10  # of one cell, without a step in between


@dataclass
class _Queue:
    """Cells to be trained, being trained, and how often each died without progress."""

    waiting: deque[Cell]
    done: int
    running: dict[str, Cell] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)
    reached: dict[str, float] = field(default_factory=dict)


def train_all(cells: list[Cell], executor: Executor, stop: StopFlag) -> None:
    """Train the cells that are not done, in their order, as many at a time as the executor takes.

    Raises:
        StopRequestedError: a signal arrived; the running cells have committed.
        MinigptError: a cell cannot be trained; the others have committed.
    """
    todo = deque(cell for cell in cells if read_result(cell.directory) is None)
    queue = _Queue(todo, done=len(cells) - len(todo))
    if not todo:
        return
    with _bar(len(cells), queue.done) as bar:
        try:
            while queue.waiting or queue.running:
                stop.check()
                _start_some(queue, executor)
                for ended in executor.ended(_POLL):
                    _note(queue, ended)
                _show(bar, queue)
        except StopRequestedError as request:
            executor.stop()
            done = sum(read_result(cell.directory) is not None for cell in cells)
            message = f"stopped with {done} of {len(cells)} cells done; the same command continues"
            raise StopRequestedError(request.exit_code - 128, message) from None
        except MinigptError:
            executor.stop()
            raise


def _start_some(queue: _Queue, executor: Executor) -> None:
    """Fill the free slots with the first cells that nobody else is training."""
    now = time.monotonic()
    for _ in range(len(queue.waiting)):
        if not executor.free:
            return
        cell = queue.waiting.popleft()
        if queue.not_before.get(cell.id, 0.0) > now:
            queue.waiting.append(cell)
        elif read_result(cell.directory) is not None:
            queue.done += 1
        elif _is_locked(cell):
            queue.not_before[cell.id] = now + _OTHERS_POLL
            queue.waiting.append(cell)
        else:
            executor.start(Job(cell.id, train_cell, (cell,)))
            queue.running[cell.id] = cell


def _note(queue: _Queue, ended: Ended) -> None:
    """Count a cell that is done; put back one whose process was stopped or killed; raise what cannot be mended."""
    cell = queue.running.pop(ended.name)
    if read_result(cell.directory) is not None:
        queue.done += 1
        return
    by_signal = ended.exit_code < 0 or ended.exit_code > 128
    if ended.exit_code == LockedError.exit_code:
        queue.not_before[cell.id] = time.monotonic() + _OTHERS_POLL
    elif ended.exit_code and not by_signal:
        raise error_of(ended.exit_code, f"cell {cell.id} ({cell.arm}, seed {cell.config.seed}): {ended.message}")
    else:
        _count_death(queue, cell, ended)
    queue.waiting.appendleft(cell)


def _count_death(queue: _Queue, cell: Cell, ended: Ended) -> None:
    share = share_done(cell)
    progressed = share > queue.reached.get(cell.id, 0.0)
    queue.deaths[cell.id] = 1 if progressed else queue.deaths.get(cell.id, 0) + 1
    queue.reached[cell.id] = share
    if queue.deaths[cell.id] >= _MOST_DEATHS:
        raise MinigptError(
            f"cell {cell.id} ({cell.arm}, seed {cell.config.seed}) was ended {_MOST_DEATHS} times without progress; "
            f"exit code {ended.exit_code} the last time; look whether memory runs out (fewer --workers), then run again"
        )


def _is_locked(cell: Cell) -> bool:
    try:
        storage.check_unlocked(cell.directory)
    except LockedError:
        return True
    return False


@contextmanager
def _bar(cells: int, done: int) -> Iterator[tqdm]:
    # NOTE: tqdm's own thread must not be there when processes are forked.
    tqdm.monitor_interval = 0
    layout = "{l_bar}{bar}| {n:.1f}/{total} cells [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=cells, initial=done, disable=None, file=sys.stderr, dynamic_ncols=True, bar_format=layout) as bar:
        yield bar


def _show(bar: tqdm, queue: _Queue) -> None:
    if not bar.disable:
        bar.set_postfix_str(", ".join(f"{c.arm} s{c.config.seed}" for c in queue.running.values()), refresh=False)
        bar.n = queue.done + sum(map(share_done, queue.running.values()))
        bar.refresh()
