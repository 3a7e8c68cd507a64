"""The one loop of jobs, with an executor that does what it is told: killed, failed, locked, done by somebody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from minigpt.base.errors import DataError, LockedError, MinigptError, StopRequestedError
from minigpt.experiments import run_jobs
from minigpt.experiments.processes import Ended, Job
from minigpt.experiments.run_jobs import Task, one_after_the_other, run_all
from minigpt.training.interrupts import StopFlag


class Script:
    """An executor whose jobs end as written, one exit code after the other; a job that ends with 0 is done."""

    def __init__(self, **exit_codes: list[int]) -> None:
        self.codes: dict[str, Iterator[int]] = {name: iter(codes) for name, codes in exit_codes.items()}
        self.started: list[str] = []
        self.done: set[str] = set()
        self.running: list[str] = []
        self.stopped = False

    @property
    def free(self) -> int:
        return 2 - len(self.running)

    def start(self, job: Job) -> None:
        self.started.append(job.name)
        self.running.append(job.name)

    def ended(self, seconds: float) -> list[Ended]:
        found = [Ended(name, next(self.codes[name]), f"{name} says so") for name in self.running]
        self.running = []
        self.done |= {ended.name for ended in found if ended.exit_code == 0}
        return found

    def stop(self) -> None:
        self.stopped = True

    def tasks(self, share: Callable[[], float] = lambda: 0.0) -> list[Task]:
        return [self._task(name, share) for name in self.codes]

    def _task(self, name: str, share: Callable[[], float]) -> Task:
        return Task(Job(name, print, ()), f"job {name}", name, lambda: name in self.done, share)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_jobs, "_OTHERS_POLL", 0.0)


def test_a_killed_job_is_started_again() -> None:
    """By any signal, as the shell or as the kernel reports it."""
    script = Script(a=[-9, 137, 143, 0], b=[0])
    run_all(script.tasks(), script, StopFlag(), "jobs")
    assert script.started.count("a") == 4
    assert script.started.count("b") == 1


def test_a_job_that_dies_without_progress_is_given_up() -> None:
    script = Script(a=[-9] * 20)
    with pytest.raises(MinigptError, match="job a was ended 10 times without progress; exit code -9"):
        run_all(script.tasks(), script, StopFlag(), "jobs")
    assert script.stopped


def test_a_job_that_gets_further_each_time_is_not_given_up() -> None:
    reached = iter(range(1000))
    script = Script(a=[*[-9] * 19, 0])
    run_all(script.tasks(lambda: next(reached) / 1000), script, StopFlag(), "jobs")
    assert script.done == {"a"}


def test_a_failed_job_ends_it_with_its_own_error() -> None:
    script = Script(a=[DataError.exit_code])
    with pytest.raises(DataError, match="job a: a says so"):
        run_all(script.tasks(), script, StopFlag(), "jobs")
    assert script.stopped


def test_what_somebody_else_is_doing_is_waited_for() -> None:
    script = Script(a=[LockedError.exit_code, LockedError.exit_code, 0])
    run_all(script.tasks(), script, StopFlag(), "jobs")
    assert script.started == ["a"] * 3


def test_what_is_done_is_not_started() -> None:
    script = Script(a=[0], b=[0])
    script.done = {"a"}
    run_all(script.tasks(), script, StopFlag(), "jobs")
    assert script.started == ["b"]


def test_a_signal_stops_all_and_says_how_far_it_is() -> None:
    script, stop = Script(a=[0], b=[0]), StopFlag()
    script.done, stop.signal_number = {"a"}, 15
    with pytest.raises(StopRequestedError, match="stopped with 1 of 2 jobs done; the same command continues"):
        run_all(script.tasks(), script, stop, "jobs")
    assert script.stopped


def test_several_tasks_are_one_that_does_them_in_turn() -> None:
    """Done when all are; what was done before is in its share; a single one stays what it was."""
    done: list[str] = []
    tasks = [Task(Job(name, done.append, (name,)), name, name, lambda name=name: name in done) for name in "abc"]
    pack = one_after_the_other(tasks)
    assert (pack.name, pack.what) == ("a-3", "one after the other, a and 2 more")
    done.append("a")
    assert pack.share_done() == pytest.approx(1 / 3)
    assert not pack.is_done()
    pack.job.function(*pack.job.arguments)
    assert done == ["a", "a", "b", "c"]
    assert pack.is_done()
    assert one_after_the_other(tasks[:1]) is tasks[0]
