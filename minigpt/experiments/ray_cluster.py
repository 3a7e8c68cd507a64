"""Jobs on a Ray cluster whose machines share the folders of code, text and results.

A task of Ray starts its job in a child process as `processes.py` does and waits for it, so exit codes survive, what is
printed goes to a file each, and a job that is asked to stop commits first. Ray only says where there is room: it never
retries, since the one loop of jobs does. A task refuses to work where it finds other code, or another folder, than the
program that sent it; a text that differs is refused by the training itself.

NOTE: when this program is killed, Ray kills its jobs; they lose what they did since their last checkpoint, no more.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.base import storage, thread_waiting
from minigpt.base.errors import UsageError
from minigpt.experiments.executor_options import HERE, ExecutorOptions
from minigpt.experiments.processes import Ended, Job, LocalExecutor
from minigpt.training.code_version import PACKAGE, code_hash
from minigpt.training.runtime import resolve_device

_CONNECT_SECONDS = 5.0
_JOIN_SECONDS = 30.0
_POLL = 0.5  # seconds
_CANCEL_AGAIN = 5.0  # seconds
TOKEN = "shared-folder.txt"


@contextmanager
def ray_executor(options: ExecutorOptions, workers: int, device: str, logs: Path) -> Iterator[RayExecutor]:
    """Join a cluster for the length of a block; afterwards all jobs have left it.

    Raises:
        UsageError: the package is missing, the address does not answer, or no machine has what a cell needs.
    """
    gpus = options.gpus_per_cell or float(resolve_device(device).type == "cuda")
    with _joined(options.address):
        executor = RayExecutor({"CPU": options.cores_per_cell, "GPU": gpus}, workers, logs)
        try:
            yield executor
        finally:
            executor.stop()


class RayExecutor:
    """Tasks on the machines of a cluster, as many as there is room for, at most `workers` unless that is 0."""

    forks = False

    def __init__(self, needs: dict[str, float], workers: int, logs: Path) -> None:
        self._needs = {kind: amount for kind, amount in needs.items() if amount}
        self._workers = workers
        self._running: dict[Any, str] = {}
        if not self._room():
            wanted = ", ".join(f"{kind} {amount:g}" for kind, amount in self._needs.items())
            got = "; ".join(", ".join(f"{kind} {node.get(kind, 0):g}" for kind in needs) for node in _machines())
            raise UsageError(f"a cell needs {wanted}; the machines of the cluster have {got}; ask for less")
        storage.make_directory(logs)
        token = secrets.token_hex(16)
        storage.write_text(logs / TOKEN, token)
        self._order = Order(os.getcwd(), logs, token, code_hash())

    @property
    def free(self) -> int:
        """How many more cells have room on the machines that are there now."""
        room = self._room()
        return max(0, min(self._workers or room, room) - len(self._running))

    def start(self, job: Job) -> None:
        """Hand a job to Ray."""
        import ray

        needs = {"num_cpus": self._needs["CPU"], "num_gpus": self._needs.get("GPU", 0)}
        task = ray.remote(**needs, max_retries=0, name=job.name)(do)
        self._running[task.remote(self._order, job)] = job.name

    def ended(self, seconds: float) -> list[Ended]:
        """Collect the jobs that have ended, or that were lost with their machine."""
        import ray

        if not self._running:
            time.sleep(seconds)
            return []
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._end(task) for task in done]

    def stop(self) -> None:
        """Cancel all jobs until each has committed and left; one that has just begun may miss the first time."""
        import ray

        while self._running:
            for task in self._running:
                ray.cancel(task)
            until = time.monotonic() + _CANCEL_AGAIN
            while self._running and time.monotonic() < until:
                self.ended(_POLL)

    def _room(self) -> int:
        return sum(int(min(node.get(kind, 0) / amount for kind, amount in self._needs.items())) for node in _machines())

    def _end(self, task: Any) -> Ended:
        """How a task ended; if Ray tells of its loss instead, its process was killed."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        name = self._running.pop(task)
        try:
            ended: Ended = ray.get(task)
            return ended
        except RayTaskError as error:
            reason = str(error.cause).partition("\n")[0]
            what = f"a machine of the cluster cannot do it; {reason}; install the same minigpt there"
            return Ended(name, UsageError.exit_code, what)
        except RayError as error:
            return Ended(name, -signal.SIGKILL, type(error).__name__)


def _machines() -> list[dict[str, float]]:
    """What each machine that is alive has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """Be a driver of the cluster at this address."""
    try:
        import ray
    except ImportError as error:
        advice = "install it with `pip install -e '.[cluster]'` in minigpt's folder"
        raise UsageError(f"--executor ray needs the package ray; it is not installed; {advice}") from error
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by default
    _check_that_it_answers(address)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with _limited(address):
            environment = {"env_vars": _environment()}
            ray.init(address=address, log_to_driver=False, logging_level="error", runtime_env=environment)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UsageError(f"no Ray cluster was found at {address}; {reason}; {_ADVICE}") from error
    finally:
        signal.signal(signal.SIGTERM, terminate)  # Ray's own would leave without stopping the jobs
    try:
        yield
    finally:
        ray.shutdown()


def _environment() -> dict[str, str]:
    """What a task's process begins with: how threads wait, as here, and where to import minigpt from.

    NOTE: only from a checkout, which the machines share. Beside an installed minigpt are packages for this machine.
    """
    variables = {name: os.environ[name] for name in thread_waiting.SETTINGS if name in os.environ}
    folder = PACKAGE.parent
    if (folder / "pyproject.toml").is_file():
        variables["PYTHONPATH"] = f"{folder}{os.pathsep}${{PYTHONPATH}}"  # Ray puts in what the machine has
    return variables


_ADVICE = "start one with `ray start --head`, or name its address: --executor ray:HOST:PORT"


def _check_that_it_answers(address: str) -> None:
    """Raise `UsageError` within seconds: Ray itself would try for minutes."""
    if address == HERE:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UsageError(f"no Ray cluster answers at {address}; {error}; {_ADVICE}") from error


@contextmanager
def _limited(address: str) -> Iterator[None]:
    """Break off joining something that answers and is no Ray cluster."""

    def give_up(number: int, frame: Any) -> None:
        raise ConnectionError(f"it did not let us join within {_JOIN_SECONDS:.0f} s")

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _JOIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------ on a machine of the cluster


@dataclass(frozen=True)
class Order:
    """Where a job is to be done, and how to know that it is the same place and the same code as where it was sent."""

    folder: str
    logs: Path
    token: str
    code: str

    def obstacle(self) -> str:
        """Go there; what is wrong with it, or an empty string."""
        machine = socket.gethostname()
        try:
            os.chdir(self.folder)
            found = (self.logs / TOKEN).read_text(encoding="utf-8")
        except OSError as error:
            found = str(error)
        if found != self.token:
            return f"{machine} does not share {self.folder}; it finds other files there; mount the same folder on it"
        if code_hash() != self.code:
            return f"{machine} has another version of minigpt; its code's hash differs; install the same one there"
        return ""


def do(order: Order, job: Job) -> Ended:
    """Do a job in a child process and say how it ended; if Ray cancels that, the job commits first."""
    obstacle = order.obstacle()
    if obstacle:
        return Ended(job.name, UsageError.exit_code, obstacle)
    child = LocalExecutor(1, order.logs, forks=False)
    try:
        child.start(job)
        while not (ended := child.ended(_POLL)):
            pass
        return ended[0]
    except KeyboardInterrupt:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        child.stop()
        signal.signal(signal.SIGINT, before)
        raise
