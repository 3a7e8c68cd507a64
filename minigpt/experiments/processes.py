"""Where trainings run: a small interface, and a pool of processes on this machine behind it.

An executor only starts jobs and says which have ended. What a job found is on disk, so nothing is lost with a process
that is killed, and another executor (for a cluster, say) needs no more than this interface.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from tqdm import tqdm

from minigpt.base import storage
from minigpt.base.errors import MinigptError, OutOfMemoryError, StopRequestedError, StorageError, is_out_of_memory
from minigpt.base.usable_cores import usable_cores
from minigpt.training.runtime import resolve_device

_ORPHAN_POLL = 0.25  # seconds
_STOP_AGAIN = 2.0  # seconds


@dataclass(frozen=True)
class Job:
    """A function to call in a separate process, with arguments that can be sent there."""

    name: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Ended:
    """A job that is over: its exit code (minus the signal that killed it) and its last words, if it had any."""

    name: str
    exit_code: int
    message: str

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it, or nothing did: then what it has not done can be tried again."""
        return self.exit_code <= 0 or self.exit_code > 128


class Executor(Protocol):
    """Starts jobs somewhere."""

    @property
    def forks(self) -> bool:
        """Whether jobs are copies of this process and have what it has, compiled code for example."""

    @property
    def free(self) -> int:
        """How many jobs can be started now."""

    def start(self, job: Job) -> None:
        """Start a job; returns at once."""

    def ended(self, seconds: float) -> list[Ended]:
        """Jobs that have ended since the last call, waiting up to this number of seconds for the first."""

    def stop(self) -> None:
        """Ask all jobs to save their work and leave, and wait until they have."""


class LocalExecutor:
    """Processes on this machine, one for each job, `slots` at a time.

    On Linux without a GPU they are forked from this process, which has imported torch already. Where a GPU is used, its
    driver does not survive a fork: there they are forked from a process that has imported what this one has, and done
    nothing else. Elsewhere each imports torch again. With GPUs, slots are dealt to them in turn, and a job sees its own
    only. What jobs print goes to a file each under `logs`. If this process dies, however it dies, the jobs save their
    work and leave.
    """

    def __init__(self, slots: int, logs: Path, gpus: int = 0, forks: bool = True) -> None:
        self.logs = logs
        self._gpus = gpus
        self._slots: list[BaseProcess | None] = [None] * slots
        self._names: list[str] = [""] * slots
        self.forks = forks and sys.platform == "linux"
        self._begin: Callable[..., BaseProcess] = _way_to_begin(self.forks)

    @property
    def free(self) -> int:
        """Slots without a process."""
        return self._slots.count(None)

    def start(self, job: Job) -> None:
        """Start a job in a free slot."""
        storage.make_directory(self.logs)
        slot = self._slots.index(None)
        gpu = _visible_name(slot % self._gpus) if self._gpus else None
        log = self._log(job.name)
        parent = os.getpid() if self.forks else None
        process = self._begin(target=_work, args=(job, log, parent, gpu), name=job.name)
        process.start()
        self._slots[slot], self._names[slot] = process, job.name

    def ended(self, seconds: float) -> list[Ended]:
        """Collect the processes that have ended."""
        running = [process for process in self._slots if process is not None]
        if not wait([process.sentinel for process in running], seconds):
            return []
        found = []
        for slot, process in enumerate(self._slots):
            if process is not None and not process.is_alive():
                process.join()
                assert process.exitcode is not None
                found.append(Ended(self._names[slot], process.exitcode, _last_words(self._log(self._names[slot]))))
                process.close()
                self._slots[slot] = None
        return found

    def stop(self) -> None:
        """Send SIGTERM until every process has left; one that has just begun may miss the first."""
        while any(process is not None for process in self._slots):
            for process in self._slots:
                if process is not None and process.is_alive():
                    process.terminate()
            self.ended(_STOP_AGAIN)

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def _way_to_begin(forks: bool) -> Callable[..., BaseProcess]:
    """What begins a process: as a copy of this one, or of one that has only imported the same modules, or anew."""
    if forks:
        gc.freeze()  # else each job's first collection copies all pages of torch's modules, for a tenth of a second
        return multiprocessing.get_context("fork").Process
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn").Process
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(
        [name for name in sys.modules if name.partition(".")[0] == __package__.partition(".")[0]]
    )
    return server.Process


def _visible_name(gpu: int) -> str:
    """How CUDA names one of the GPUs that this process sees, which may have been told to see some of them only."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[gpu].strip() if visible else str(gpu)


def _last_words(log: Path) -> str:
    """The line that told of an error, without its prefix."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")


@contextmanager
def local_executor(workers: int, device: str, logs: Path) -> Iterator[tuple[LocalExecutor, int]]:
    """Processes on this machine and the threads of each: together no more than it has cores; they have left afterwards.

    `workers` is how many work at a time; 0: one for each GPU that `device` uses, or for each core.
    """
    # NOTE: a process that has used threads cannot be forked safely; a bar of tqdm starts one too.
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0
    resolved = resolve_device(device)
    gpus = torch.cuda.device_count() if str(resolved) == "cuda" else 0
    cores = usable_cores()
    slots = workers or (gpus if resolved.type != "cpu" else cores) or 1
    executor = LocalExecutor(slots, logs, gpus, forks=resolved.type == "cpu")
    try:
        yield executor, max(1, cores // slots)
    finally:
        executor.stop()


# ---------------------------------------------------------------------------------------------- inside a job's process


def _work(job: Job, log: Path, parent: int | None, gpu: str | None) -> None:
    """Do a job and leave with the exit code that tells how it went; `parent` is the process it was forked from."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    storage.redirect_output(log)
    # NOTE: tqdm's lock is shared by forked processes, and one that is killed while it holds it would stop all others.
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    sys.exit(_exit_code(job))


def _exit_code(job: Job) -> int:
    try:
        job.function(*job.arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except MinigptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        if is_out_of_memory(error):
            return OutOfMemoryError.exit_code
        return StorageError.exit_code if isinstance(error, OSError) else 1
    return 0


def _terminated(number: int, frame: FrameType | None) -> None:
    raise StopRequestedError(number, "terminated")


def _leave_with(parent: int | None) -> None:
    """Ask this process to stop once its parent is gone, and again if it happened not to hear.

    NOTE: of a forked process only the system knows the parent: its siblings hold open by what Python would notice.
    """
    started_by = multiprocessing.parent_process()
    while os.getppid() == parent if parent is not None else started_by is not None and started_by.is_alive():
        time.sleep(_ORPHAN_POLL)
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_STOP_AGAIN)
