"""Cohorts: several runs of one shape trained as one, each of which leaves a run directory like any other.

A small model leaves a GPU idle; K of them fill it. Each member evaluates, commits, logs and ends by itself, with the
same code as a run that is trained alone (`loop.py`); only the updates are computed together (`cohort_step.py`). So a
member can be resumed alone, or in another cohort. Rounding differs between all of these: the log of a member says from
which step on, and with whom, it was trained in a cohort.

A member that diverges is recorded as such, and the others go on. A cohort that does not fit into memory is halved.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from minigpt.base import storage
from minigpt.base.errors import DivergedError, OutOfMemoryError, StopRequestedError, is_out_of_memory
from minigpt.training.cohort_shape import check_alike
from minigpt.training.cohort_step import Cohort, SomeDivergedError
from minigpt.training.config import RunConfig
from minigpt.training.interrupts import StopFlag, StoppedWhileCompiling, stop_on_signals
from minigpt.training.loop import Clock, advance, arrive, begin, is_logged, prepare, train
from minigpt.training.milestones import commit, write_summary
from minigpt.training.run import COHORT, Progress, Run
from minigpt.training.terminal import print_notice


@dataclass(frozen=True)
class Planned:
    """A run to train: from its last checkpoint, unless it is to be replaced. `data` is as `loop.train` takes it."""

    config: RunConfig
    directory: Path
    overwrite: bool = False
    data: str | None = None


@dataclass(frozen=True)
class Member:
    """A run in a cohort."""

    run: Run
    progress: Progress
    clock: Clock

    def end(self, status: str, why: str = "") -> None:
        """Write its summary, and say why it ended if it was not to."""
        write_summary(self.run, self.progress, status)
        if why:
            print_notice(f"{self.run.directory.name} {status}; {why}")


def train_cohort(planned: Sequence[Planned]) -> None:
    """Train runs as one, to the end of each; one that diverges is recorded so and raises nothing.

    Raises:
        UsageError: they may not share a cohort, as `check_alike` says.
        MinigptError: as `loop.train` says; for a stop all members have committed.
    """
    check_alike([each.config for each in planned])
    try:
        _train_as_one(planned)
    except (MemoryError, RuntimeError, OutOfMemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return
    # NOTE: out of the handler, since the error holds on to all that was in memory.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = -(-len(planned) // 2)
    print_notice(f"note: {len(planned)} models at a time do not fit into memory; going on with {half} at a time")
    for part in (planned[:half], planned[half:]):
        again = [replace(each, overwrite=False) for each in part]
        if len(again) > 1:
            train_cohort(again)
        else:
            _train_alone(again[0])


def _train_alone(planned: Planned) -> None:
    with contextlib.suppress(DivergedError):
        train(planned.config, planned.directory, resume=True, quiet=True, data=planned.data)


def _train_as_one(planned: Sequence[Planned]) -> None:
    with contextlib.ExitStack() as held, stop_on_signals() as stop:
        _loop(_members(planned, held, stop), stop)


def _members(planned: Sequence[Planned], held: contextlib.ExitStack, stop: StopFlag) -> list[Member]:
    """Check all runs before any is begun; their directories stay locked until `held` is closed."""
    starts = [
        prepare(each.config, each.directory, resume=not each.overwrite, overwrite=each.overwrite, data=each.data)
        for each in planned
    ]
    for each in planned:
        held.enter_context(storage.lock_directory(each.directory))
    begun = [begin(start, stop, environment={COHORT: len(planned)}) for start in starts]
    return [Member(run, progress, Clock(progress)) for run, progress in begun]


def _loop(members: list[Member], stop: StopFlag) -> None:
    """Step by step, each member by its own count, until every one has ended; those that have leave the list."""
    cohort: Cohort | None = None
    try:
        while True:
            for member in list(members):
                if not _arrives(member, stop):
                    members.remove(member)
                    cohort = None
            if not members:
                return
            cohort = cohort or _assembled(members)
            begun = time.perf_counter()
            watched = any(is_logged(member.run, member.progress) for member in members)
            try:
                results = cohort.take_step([member.progress.step for member in members], stop.check, watched)
            except SomeDivergedError as error:
                for number, why in error.reasons.items():
                    members[number].end("diverged", why)
                members[:] = [member for number, member in enumerate(members) if number not in error.reasons]
                cohort = None
                continue
            seconds = time.perf_counter() - begun
            for member, result in zip(members, results, strict=True):
                member.clock.add(seconds)
                advance(member.run, member.progress, member.clock, result)
    except (StopRequestedError, StoppedWhileCompiling) as request:
        for member in members:
            commit(member.run, member.progress)
            member.end("stopped")
        message = f"stopped a cohort of {len(members)}; its checkpoints are committed"
        raise StopRequestedError(request.exit_code - 128, message) from None


def _arrives(member: Member, stop: StopFlag) -> bool:
    """Do what is due at a member's step; return whether it goes on from there."""
    try:
        if not arrive(member.run, member.progress, member.clock, stop):
            return True
        member.end("finished")
    except DivergedError as error:
        member.end("diverged", str(error))
    return False


def _assembled(members: Sequence[Member]) -> Cohort:
    """Put the members together, and note in the log of each with whom it goes on."""
    names = [member.run.directory.name for member in members]
    for member in members:
        step = member.progress.step
        member.run.log({"kind": "event", "event": COHORT, "step": step, "size": len(names), "members": names})
    runs = [member.run for member in members]
    first = runs[0].trainee()
    return Cohort(
        [replace(first, model=r.model, forward=r.forward, optimizer=r.optimizer, config=r.config) for r in runs]
    )
