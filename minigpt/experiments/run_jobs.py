"""The one loop that runs jobs until all are done, wherever an executor does it.

The disk holds all that is known. What is done is not done again, whoever did it; what somebody else is doing is waited
for; a job whose process was killed is started again, and a training continues from its checkpoint.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from minigpt.base import storage
from minigpt.base.errors import LockedError, MinigptError, StopRequestedError, error_of
from minigpt.experiments.cells import Cell, packed, read_result, share_done, train_cell, train_pack
from minigpt.experiments.compile_once import compile_once
from minigpt.experiments.processes import Ended, Executor, Job
from minigpt.training.interrupts import StopFlag

_POLL = 0.5  # seconds
_OTHERS_POLL = 1.0  # seconds until another look at what somebody else is doing
_MOST_DEATHS = 10  # of one job, without progress in between


@dataclass(frozen=True)
class Task:
    """A job, what to call it, and how the disk tells of it: whether it is done, how far it is, whether others do it."""

    job: Job
    what: str  # in messages
    short: str  # beside the bar
    is_done: Callable[[], bool]
    share_done: Callable[[], float] = lambda: 0.0
    is_taken: Callable[[], bool] = lambda: False

    @property
    def name(self) -> str:
        """Its job's name."""
        return self.job.name


@dataclass
class _Queue:
    """Tasks that wait, tasks that run, and how often each died without progress."""

    waiting: deque[Task]
    done: int
    running: dict[str, Task] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)
    reached: dict[str, float] = field(default_factory=dict)


def train_all(cells: Sequence[Cell], executor: Executor, stop: StopFlag, cohort: int = 1) -> None:
    """Train the cells that are not done, in their order, as many at a time as the executor takes.

    Up to `cohort` cells of one shape are one job, and trained as one.

    Raises:
        StopRequestedError: a signal arrived; the running cells have committed.
        MinigptError: a cell cannot be trained; the others have committed.
    """
    todo = [cell for cell in cells if read_result(cell.directory) is None]
    if cohort == 1:
        if executor.forks:
            compile_once(todo, stop)
        run_all([_training(cell) for cell in cells], executor, stop, "cells")
        return
    run_all([_training_as_one(pack) for pack in packed(todo, cohort)], executor, stop, "cohorts")


def run_all(tasks: Sequence[Task], executor: Executor, stop: StopFlag, unit: str) -> None:
    """Do the tasks that are not done, in their order; `unit` is what the bar and messages count.

    Raises:
        StopRequestedError: a signal arrived; what was running has saved its work.
        MinigptError: a job failed, or died again and again; the others have saved their work.
    """
    todo = deque(task for task in tasks if not task.is_done())
    queue = _Queue(todo, done=len(tasks) - len(todo))
    if not todo:
        return
    with _bar(len(tasks), queue.done, unit) as bar:
        try:
            while queue.waiting or queue.running:
                stop.check()
                _start_some(queue, executor)
                for ended in executor.ended(_POLL):
                    _note(queue, ended)
                _show(bar, queue)
        except StopRequestedError as request:
            executor.stop()
            done = sum(task.is_done() for task in tasks)
            message = f"stopped with {done} of {len(tasks)} {unit} done; the same command continues"
            raise StopRequestedError(request.exit_code - 128, message) from None
        except MinigptError:
            executor.stop()
            raise


def _training(cell: Cell) -> Task:
    return Task(
        job=Job(cell.id, train_cell, (cell,)),
        what=f"cell {cell.id} ({cell.arm}, seed {cell.config.seed})",
        short=f"{cell.arm} s{cell.config.seed}",
        is_done=lambda: read_result(cell.directory) is not None,
        share_done=lambda: share_done(cell),
        is_taken=lambda: storage.is_held(cell.directory),
    )


def _training_as_one(cells: Sequence[Cell]) -> Task:
    return _as_one("a cohort of", [_training(cell) for cell in cells], Job("", train_pack, (cells,)))


def one_after_the_other(tasks: Sequence[Task]) -> Task:
    """Tasks as one that a single process does in turn."""
    return _as_one("one after the other,", tasks, Job("", _do_all, ([task.job for task in tasks],)))


def _do_all(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.function(*job.arguments)


def _as_one(how: str, tasks: Sequence[Task], job: Job) -> Task:
    """The task of doing several by a job of this kind; a single one stays as it is."""
    first = tasks[0]
    if len(tasks) == 1:
        return first
    more = f" and {len(tasks) - 1} more"
    return Task(
        job=replace(job, name=f"{first.name}-{len(tasks)}"),
        what=f"{how} {first.what}{more}",
        short=f"{first.short}{more}",
        is_done=lambda: all(task.is_done() for task in tasks),
        share_done=lambda: sum(task.is_done() or task.share_done() for task in tasks) / len(tasks),
        is_taken=lambda: any(task.is_taken() for task in tasks),
    )


def _start_some(queue: _Queue, executor: Executor) -> None:
    """Fill the free slots with the first tasks that nobody else is doing."""
    now = time.monotonic()
    for _ in range(len(queue.waiting)):
        if not executor.free:
            return
        task = queue.waiting.popleft()
        if queue.not_before.get(task.name, 0.0) > now:
            queue.waiting.append(task)
        elif task.is_done():
            queue.done += 1
        elif task.is_taken():
            queue.not_before[task.name] = now + _OTHERS_POLL
            queue.waiting.append(task)
        else:
            executor.start(task.job)
            queue.running[task.name] = task


def _note(queue: _Queue, ended: Ended) -> None:
    """Count a task that is done; put back one whose process was stopped or killed; raise what cannot be mended."""
    task = queue.running.pop(ended.name)
    if task.is_done():
        queue.done += 1
        return
    if ended.exit_code == LockedError.exit_code:
        queue.not_before[task.name] = time.monotonic() + _OTHERS_POLL
    elif ended.was_killed:
        _count_death(queue, task, ended)
    else:
        raise error_of(ended.exit_code, f"{task.what}: {ended.message or f'exit code {ended.exit_code}'}")
    queue.waiting.appendleft(task)


def _count_death(queue: _Queue, task: Task, ended: Ended) -> None:
    share = task.share_done()
    progressed = share > queue.reached.get(task.name, 0.0)
    queue.deaths[task.name] = 1 if progressed else queue.deaths.get(task.name, 0) + 1
    queue.reached[task.name] = share
    if queue.deaths[task.name] >= _MOST_DEATHS:
        raise MinigptError(
            f"{task.what} was ended {_MOST_DEATHS} times without progress; exit code {ended.exit_code} the last time; "
            "look whether memory runs out (fewer --workers), then run again"
        )


@contextmanager
def _bar(tasks: int, done: int, unit: str) -> Iterator[tqdm]:
    layout = "{l_bar}{bar}| {n:.1f}/{total} " + unit + " [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=tasks, initial=done, disable=None, file=sys.stderr, dynamic_ncols=True, bar_format=layout) as bar:
        yield bar


def _show(bar: tqdm, queue: _Queue) -> None:
    if not bar.disable:
        bar.set_postfix_str(", ".join(task.short for task in queue.running.values()), refresh=False)
        bar.n = queue.done + sum(task.share_done() for task in queue.running.values())
        bar.refresh()
