"""Programs in separate processes: one works when it is told to, the others wait at the end of a pipe.

Times are taken inside a process, around the work alone. A process that is told nothing uses no processor time; one
whose parent is gone leaves. What goes wrong inside comes back as the error that it is.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from minigpt.base import thread_waiting
from minigpt.base.errors import MinigptError, OutOfMemoryError, UsageError, error_of, is_out_of_memory
from minigpt.benchmarks.bench_options import Peer
from minigpt.training.config import RunConfig

_PATIENCE = 5.0  # seconds until a process that was asked to leave is made to


@dataclass(frozen=True)
class Task:
    """Which program, and what it trains: `peer` None is minigpt.

    `config` is resolved for training; `dtype` and `compile` are what was asked for, by which decoding is resolved.
    `waiting` is how threads wait for each other, as variables; None: as here, for a peer as shipped as the user has it.
    """

    config: RunConfig
    dtype: str = "auto"
    compile: str = "auto"
    peer: Peer | None = None
    best: bool = False
    waiting: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """The program's name."""
        return "minigpt" if self.peer is None else self.peer.name


@dataclass(frozen=True)
class Timed:
    """Seconds of some work, and what the program's function returned."""

    seconds: float
    returned: float | None


class Worker:
    """A program in a process, for the length of a `with` block."""

    def __init__(self, task: Task) -> None:
        self.task = task
        # NOTE: spawned, not forked: a process with threads cannot be forked safely.
        context = multiprocessing.get_context("spawn")
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote, task), name=task.name, daemon=True)
        with _waiting(task):
            self._process.start()
        remote.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def train(self, steps: int) -> Timed:
        """Take this number of further training steps."""
        return Timed(*self._ask("train", steps))

    def train_for(self, seconds: float) -> float:
        """Take further training steps, one at least, until this time is over; returns the seconds of a step."""
        step: float = self._ask("train_for", seconds)
        return step

    def decode(self, samples: int, tokens: int) -> Timed:
        """Continue one token by `tokens` others, in `samples` samples at once."""
        return Timed(*self._ask("decode", samples, tokens))

    def decoding(self, tokens: int) -> tuple[str, bool]:
        """In which precision ours decodes `tokens` tokens, and whether compiled."""
        dtype, compiled = self._ask("decoding", tokens)
        return dtype, compiled

    def peak_memory_bytes(self) -> int | None:
        """Most memory held so far."""
        peak: int | None = self._ask("peak")
        return peak

    def _ask(self, *request: Any) -> Any:
        """Send a request and wait for its answer; the process raises here what it met there."""
        try:
            self._connection.send(request)
            exit_code, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(_PATIENCE)
            if self._process.exitcode == -signal.SIGKILL:
                raise OutOfMemoryError(
                    f"out of memory; the system ended {self.task.name}; use a smaller batch"
                ) from error
            raise MinigptError(
                f"{self.task.name} ended early; exit code {self._process.exitcode}; see above"
            ) from error
        if exit_code:
            raise error_of(exit_code, f"{answer}")
        return answer


def _waiting(task: Task) -> AbstractContextManager[None]:
    """The variables with which a task's process is started."""
    if task.waiting is not None:
        return thread_waiting.settings(task.waiting)
    if task.peer is not None and not task.best:
        return thread_waiting.settings(thread_waiting.as_user_has_it())
    return contextlib.nullcontext()


# ---------------------------------------------------------------------------------------------- inside the process


def _serve(connection: Connection, task: Task) -> None:
    """Answer requests until the other end closes; the first one waits until the program is built."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with contextlib.suppress(EOFError, OSError), contextlib.redirect_stdout(io.StringIO()):
        try:
            answers = _answers(task)
        except Exception as error:
            connection.recv()
            connection.send(_told(error, task))
            return
        while True:
            name, *arguments = connection.recv()
            try:
                reply = (0, answers[name](*arguments))
            except Exception as error:
                reply = _told(error, task)
            connection.send(reply)


def _answers(task: Task) -> dict[str, Any]:
    """Build the program and return what it does for each kind of request."""
    import torch

    from minigpt.benchmarks import peers, programs
    from minigpt.training import runtime

    config = task.config
    text = programs.read_text(config)
    if task.peer is None:
        runtime.set_up(config)
        program = programs.own_program(config, text, task.dtype, task.compile)
    else:
        how = peers.setting(task.peer, config.device, task.best)
        _set_up_peer(config.threads, task.best)
        program = programs.other_program(config, text, peers.build(task.peer, config, text.vocab_size, how), how.dtype)

    def timed(work: Any, *arguments: int) -> tuple[float, float | None]:
        begun = time.perf_counter()
        returned = work(*arguments)
        if torch.device(config.device).type == "cuda":
            torch.cuda.synchronize(config.device)
        return time.perf_counter() - begun, returned

    return {
        "train": lambda steps: timed(program.train, steps),
        "train_for": lambda seconds: _seconds_per_step(program.train, seconds),
        "decode": lambda samples, tokens: timed(program.decode, samples, tokens),
        "decoding": program.decoding,
        "peak": lambda: runtime.peak_memory_bytes(config.device),
    }


def _seconds_per_step(train: Callable[[int], float], seconds: float) -> float:
    """Each step ends with reading its loss, so with what a device still had to do."""
    begun, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - begun < seconds:
        train(1)
        steps += 1
    return (time.perf_counter() - begun) / steps


def _set_up_peer(threads: int, best: bool) -> None:
    """Threads as ours has them; the allocator's habits only for a peer at its best."""
    import torch

    from minigpt.training import runtime

    if threads:
        torch.set_num_threads(threads)
    if best:
        runtime.keep_freed_memory()


def _told(error: Exception, task: Task) -> tuple[int, str]:
    """The exit code and the words that tell of an error."""
    if isinstance(error, MinigptError):
        return error.exit_code, str(error)
    if is_out_of_memory(error):
        return OutOfMemoryError.exit_code, f"out of memory; {task.name} does not fit; use a smaller batch"
    kind = MinigptError if task.peer is None else UsageError
    return kind.exit_code, f"{task.name} failed; {type(error).__name__}: {error}; it cannot be measured here"
