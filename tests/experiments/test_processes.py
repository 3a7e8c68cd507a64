"""The pool of processes: what a job's end tells, and that no job's death reaches another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from child_processes import await_that, needs_fork
from tqdm import tqdm

from minigpt.base.errors import DataError, OutOfMemoryError, StorageError, error_of
from minigpt.experiments import processes
from minigpt.experiments.processes import Ended, Job, LocalExecutor

pytestmark = needs_fork


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[LocalExecutor]:
    """A pool of two that is empty again afterwards."""
    made = LocalExecutor(2, tmp_path / "logs")
    yield made
    made.stop()


def finish(executor: LocalExecutor, *jobs: Job) -> list[Ended]:
    """Start the jobs one after the other and wait for each."""
    found = []
    for job in jobs:
        executor.start(job)
        deadline = time.monotonic() + 20
        while not (ended := executor.ended(0.5)):
            assert time.monotonic() < deadline, f"{job.name} hangs"
        found += ended
    return found


def succeed(path: Path) -> None:
    path.touch()


def fail(error: Exception) -> None:
    raise error


def sleep_long() -> None:
    time.sleep(60)


def die_with_the_lock() -> None:
    tqdm.get_lock().acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def show_progress() -> None:
    with tqdm(total=1):
        tqdm.write("alive")


def test_a_job_runs_elsewhere_and_ends_with_nothing_to_say(executor: LocalExecutor, tmp_path: Path) -> None:
    """Its work is on disk, and its slot is free again."""
    assert finish(executor, Job("one", succeed, (tmp_path / "done",))) == [Ended("one", 0, "")]
    assert (tmp_path / "done").exists()
    assert executor.free == 2


ORPHAN = """
import sys, time
from pathlib import Path
from minigpt.experiments.processes import Job, LocalExecutor
import test_processes

if __name__ == "__main__":
    executor = LocalExecutor(1, Path("logs"), forks=sys.argv[1] == "forked")
    executor.start(Job("sleep", test_processes.say_pid_and_sleep, ()))
    time.sleep(60)
"""


def say_pid_and_sleep() -> None:
    Path("pid").write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.parametrize("way", ["forked", pytest.param("prepared", marks=pytest.mark.slow)])
def test_a_job_leaves_when_its_parent_is_gone(way: str, tmp_path: Path) -> None:
    """Also where it is forked from a process that only imported torch, as on a GPU: there that is not its parent."""
    (tmp_path / "parent.py").write_text(ORPHAN)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen([sys.executable, "parent.py", way], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths})
    await_that(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text(), "the job")
    job = Path(f"/proc/{(tmp_path / 'pid').read_text()}")
    parent.kill()
    parent.wait()
    await_that(lambda: not job.exists(), "the end of the job")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("no text; none; give some"), DataError.exit_code, "no text; none; give some"),
        (OSError(28, "No space left on device"), StorageError.exit_code, "OSError: [Errno 28] No space left on device"),
        (MemoryError("none"), OutOfMemoryError.exit_code, "MemoryError: none"),
        (ZeroDivisionError("a bug"), 1, "ZeroDivisionError: a bug"),
    ],
)
def test_an_exit_code_says_what_went_wrong(executor: LocalExecutor, error: Exception, code: int, message: str) -> None:
    """The codes of the command line, and the last words from the log."""
    assert finish(executor, Job("one", fail, (error,))) == [Ended("one", code, message)]


def test_a_killed_job_stops_no_other(executor: LocalExecutor) -> None:
    """tqdm shares a lock between forked processes: a job killed while holding it made all later ones wait for ever."""
    tqdm.get_lock()  # made before the fork, as by the bar over the cells
    killed, alive = finish(executor, Job("killed", die_with_the_lock, ()), Job("alive", show_progress, ()))
    assert killed.exit_code == -signal.SIGKILL
    assert alive.exit_code == 0


def test_stopping_waits_until_all_have_left(executor: LocalExecutor) -> None:
    """SIGTERM ends a job with 143, whatever it was doing."""
    for name in ("one", "two"):
        executor.start(Job(name, sleep_long, ()))
    assert executor.free == 0
    executor.stop()
    assert executor.free == 2


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 7, 8, 99])
def test_what_a_job_met_is_named_by_its_exit_code(code: int) -> None:
    """A bug in a job (1) is an error too; a code that is nobody's is told as one."""
    error = error_of(code, "what it said")
    assert str(error) == "what it said"
    assert error.exit_code == (code if code != 99 else 1)


@pytest.mark.parametrize(
    ("visible", "names"), [("", ["0", "1"]), ("2,3", ["2", "3"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"])]
)
def test_a_slot_sees_a_gpu_of_its_parents(monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]) -> None:
    """A parent that was given GPUs 2 and 3 sent its jobs to 0 and 1, which were somebody else's."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [processes._visible_name(gpu) for gpu in (0, 1)] == names
