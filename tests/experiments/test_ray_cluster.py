"""Jobs on a cluster, with a fake one: where there is room, what is refused, what becomes of a machine that is lost."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from child_processes import PROJECT, needs_fork
from conftest import TINY_MODEL
from fake_ray import RayError, RayTaskError, fake_ray

from minigpt.base import thread_waiting
from minigpt.base.errors import DataError, UsageError
from minigpt.experiments import ray_cluster
from minigpt.experiments.executor_options import ExecutorOptions, take_out
from minigpt.experiments.processes import Ended, Job, LocalExecutor
from minigpt.experiments.ray_cluster import Order, RayExecutor, ray_executor
from minigpt.experiments.run_jobs import Task, run_all
from minigpt.training.interrupts import StopFlag

CORE = {"CPU": 1, "GPU": 0.0}
Executors = Callable[..., RayExecutor]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Put a fake Ray with some machines in the place of the real one; jobs are forked, which is faster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_cluster, "LocalExecutor", lambda slots, logs, forks: LocalExecutor(slots, logs))

    def make(*machines: dict[str, float]) -> Any:
        ray = fake_ray(*machines)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.exceptions", ray.exceptions)
        return ray

    return make


def finish(executor: RayExecutor, job: Job) -> Ended:
    executor.start(job)
    [ended] = executor.ended(0.1)
    return ended


def touch(path: Path) -> None:
    path.touch()


def fail() -> None:
    raise DataError("no text; none; give some")


# ------------------------------------------------------------------------------------------------- jobs and their ends


@needs_fork
def test_a_job_is_done_on_a_machine_and_its_log_is_kept(cluster: Callable[..., Any], tmp_path: Path) -> None:
    """In a process of its own, so that its exit code and last words come back."""
    ray = cluster({"CPU": 2})
    executor = RayExecutor(CORE, 0, Path("logs"))
    assert finish(executor, Job("one", touch, (tmp_path / "done",))) == Ended("one", 0, "")
    assert (tmp_path / "done").exists()
    assert finish(executor, Job("two", fail, ())) == Ended("two", DataError.exit_code, "no text; none; give some")
    assert {path.name for path in (tmp_path / "logs").iterdir()} >= {"one.log", "two.log"}
    assert ray.options[0] == {"num_cpus": 1, "num_gpus": 0, "max_retries": 0, "name": "one"}


def test_a_lost_machine_ends_a_job_as_a_kill_does(cluster: Callable[..., Any]) -> None:
    """The loop of jobs starts it again; a task that cannot even be read there is refused."""
    ray = cluster({"CPU": 2})
    executor = RayExecutor(CORE, 0, Path("logs"))
    ray.lose = RayError("the node died")
    lost = finish(executor, Job("one", touch, ()))
    assert lost == Ended("one", -signal.SIGKILL, "RayError")
    assert lost.was_killed
    ray.lose = RayTaskError(ModuleNotFoundError("No module named 'minigpt'"))
    ended = finish(executor, Job("two", touch, ()))
    assert (ended.exit_code, "No module named 'minigpt'; install the same" in ended.message) == (2, True)


@needs_fork
def test_what_was_lost_is_done_by_the_loop(cluster: Callable[..., Any], tmp_path: Path) -> None:
    """Ray retries nothing, so nothing is done twice at once; the loop begins again what a lost machine was doing."""
    ray = cluster({"CPU": 1})
    executor, lost = RayExecutor(CORE, 0, Path("logs")), [RayError("the node died")] * 3
    original = ray.get

    def get(task: Any) -> Any:
        if lost:
            raise lost.pop()
        return original(task)

    ray.get = get
    path = tmp_path / "done"
    run_all([Task(Job("one", touch, (path,)), "job one", "one", path.exists)], executor, StopFlag(), "jobs")
    assert path.exists()
    assert len(ray.options) == 4


def test_stopping_cancels_every_job(cluster: Callable[..., Any]) -> None:
    """And waits until each has left."""
    ray = cluster({"CPU": 2})
    executor = RayExecutor(CORE, 0, Path("logs"))
    ray.lose = RayError("cancelled")
    for name in ("one", "two"):
        executor.start(Job(name, touch, ()))
    executor.stop()
    assert len(ray.cancelled) == 2
    assert executor.free == 2


def test_a_cancelled_job_commits_before_its_task_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's cancellation arrives as Ctrl-C in the task, which passes it on to the job as SIGTERM and waits."""

    class Interrupted:
        stopped = False

        def __init__(self, slots: int, logs: Path, forks: bool) -> None: ...

        def start(self, job: Job) -> None: ...

        def ended(self, seconds: float) -> list[Ended]:
            raise KeyboardInterrupt

        def stop(self) -> None:
            Interrupted.stopped = True

    monkeypatch.setattr(ray_cluster, "LocalExecutor", Interrupted)
    monkeypatch.setattr(Order, "obstacle", lambda order: "")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        ray_cluster.do(Order("", Path(), "", ""), Job("one", touch, ()))
    assert Interrupted.stopped
    assert signal.getsignal(signal.SIGINT) == handler


def test_what_tasks_begin_with(cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checkout that sent them, but never a folder of installed packages; and threads wait as here."""
    ray = cluster({"CPU": 1})
    for name in thread_waiting.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")

    def variables() -> dict[str, str]:
        with ray_executor(ExecutorOptions("ray"), 0, "cpu", Path("logs")):
            found: dict[str, str] = ray.joined_with["runtime_env"]["env_vars"]
            return found

    assert variables() == {"GOMP_SPINCOUNT": "7", "PYTHONPATH": f"{PROJECT}{os.pathsep}${{PYTHONPATH}}"}
    monkeypatch.setattr(ray_cluster, "PACKAGE", tmp_path / "site-packages/minigpt")
    assert variables() == {"GOMP_SPINCOUNT": "7"}


# ---------------------------------------------------------------------------------------------------------------- room


@pytest.mark.parametrize(
    ("machines", "needs", "workers", "free"),
    [
        ([{"CPU": 2}, {"CPU": 3}], {"CPU": 2, "GPU": 0.0}, 0, 2),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 8}], {"CPU": 1, "GPU": 0.25}, 0, 4),
        ([{"CPU": 8, "GPU": 2}], {"CPU": 1, "GPU": 2.0}, 0, 1),
        ([{"CPU": 8}], CORE, 3, 3),
        ([{"CPU": 2}], CORE, 5, 2),
    ],
)
def test_a_cell_must_fit_on_one_machine(cluster: Callable[..., Any], machines, needs, workers: int, free: int) -> None:
    """Cores that are left on two machines make no cell; a share of a GPU lets several use it."""
    cluster(*machines)
    assert RayExecutor(needs, workers, Path("logs")).free == free


def test_a_machine_that_goes_takes_its_room_along(cluster: Callable[..., Any]) -> None:
    """And one that comes brings some."""
    ray = cluster({"CPU": 2}, {"CPU": 2})
    executor = RayExecutor(CORE, 0, Path("logs"))
    ray.alive[0]["Alive"] = False
    assert executor.free == 2


def test_more_gpus_than_there_are_are_refused(cluster: Callable[..., Any]) -> None:
    """Instead of waiting for ever for a machine that has them."""
    cluster({"CPU": 4, "GPU": 1}, {"CPU": 8})
    with pytest.raises(UsageError, match=r"needs CPU 1, GPU 2; the machines .* have CPU 4, GPU 1; CPU 8, GPU 0; ask"):
        RayExecutor({"CPU": 1, "GPU": 2.0}, 0, Path("logs"))


# ------------------------------------------------------------------------------------------------------------ refusals


@needs_fork
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"token": "another"}, "does not share"),
        ({"folder": "/nowhere"}, "does not share /nowhere; it finds other files there; mount"),
        ({"code": "another"}, "another version of minigpt; its code's hash differs; install the same one"),
    ],
)
def test_a_machine_that_sees_something_else_does_nothing(
    cluster: Callable[..., Any], tmp_path: Path, changed: dict[str, str], says: str
) -> None:
    """A folder that is not shared, or another version of the code, by its hash: its results would be another's."""
    cluster({"CPU": 1})
    executor = RayExecutor(CORE, 0, Path("logs"))
    executor._order = dataclasses.replace(executor._order, **changed)
    ended = finish(executor, Job("one", touch, (tmp_path / "done",)))
    assert (ended.exit_code, says in ended.message) == (UsageError.exit_code, True)
    assert not (tmp_path / "done").exists()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"not installed; install it with `pip install -e '\.\[cluster\]'`"):
        ray_executor(ExecutorOptions("ray"), 0, "cpu", Path("logs")).__enter__()


def test_an_address_that_does_not_answer_is_refused_at_once(refused, cluster: Callable[..., Any]) -> None:
    """Ray would try for minutes; nothing is written meanwhile."""
    cluster({"CPU": 1})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    begun = time.monotonic()
    refused(
        2,
        f"ablate --activations relu,gelu --corpus text.txt {TINY_MODEL} --executor ray:{address}",
        says=(f"no Ray cluster answers at {address}", "ray start --head"),
    )
    assert time.monotonic() - begun < 10


def test_a_program_that_is_no_cluster_is_refused(cluster: Callable[..., Any]) -> None:
    """What Ray says about it is passed on in one line."""
    ray = cluster({"CPU": 1})

    def refuse(**options: Any) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with 2.1.\nmore")

    ray.init = refuse
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UsageError, match=r"found at auto; Version mismatch: The cluster was started with 2\.1; start"):
        ray_executor(ExecutorOptions("ray"), 0, "cpu", Path("logs")).__enter__()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"executor": "slurm"}, "unknown executor 'slurm'; allowed: local, ray, ray:HOST:PORT"),
        ({"executor": "local:1"}, "unknown executor"),
        ({"executor": "ray:host"}, "HOST:PORT; got 'host'"),
        ({"executor": "ray:"}, "HOST:PORT; got ''"),
        ({"executor": "ray:host:70000"}, "HOST:PORT"),
        ({"executor": "ray", "gpus_per_cell": 1.5}, "whole GPUs or a share of one; got 1.5"),
        ({"executor": "ray", "gpus_per_cell": -1.0}, "gpus-per-cell"),
        ({"executor": "ray", "cores_per_cell": 0}, "cores-per-cell"),
        ({"cores_per_cell": 2}, "are Ray's"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        take_out(dict(options))


def test_the_options_are_taken_out_of_what_was_chosen() -> None:
    """The rest are flags of trainings and of the comparison, whose answer does not depend on the executor."""
    chosen = {"executor": "ray:a:1", "steps": 5}
    assert take_out(chosen) == ExecutorOptions("ray:a:1")
    assert chosen == {"steps": 5}


@pytest.mark.parametrize("timed", ["--dry-run", "--match time"])
def test_times_are_not_taken_on_a_cluster(refused, timed: str) -> None:
    refused(2, f"ablate --activations relu,gelu --corpus text.txt {TINY_MODEL} {timed} --executor ray", says=(timed,))
    if timed == "--dry-run":
        refused(2, f"claims run --all {timed} --executor ray", says=(timed,))
