"""The processes that train one model together (`torchrun --nproc-per-node=N train.py`), and what they tell each other.

Each of them, a rank, holds the whole model, takes its part of every list of windows and adds up what it found with the
others: so all make the same update and come to the same decisions. Rank 0 alone writes and shows. Without torchrun
there is one rank, `ALONE`, for which everything here returns what it was given.

A rank that fails leaves a note before its connections close; the others, who see them closed, leave with its exit code
and without a word. Nothing here trains, knows a file, or restarts a rank: `--resume` does, with any number of them.

Source: the environment variables that torchrun sets, https://docs.pytorch.org/docs/stable/elastic/run.html
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from minigpt.base.errors import RankError, UsageError, is_out_of_memory
from minigpt.training.config import RunConfig

if TYPE_CHECKING:
    from torch import Tensor

# A rank that dies is noticed at once, by its closed connections, and a machine that vanishes by torchrun. So this only
# ends the wait for a rank that hangs; the longest wait without one is for rank 0 to save a checkpoint.
PATIENCE = datetime.timedelta(minutes=30)
MEETING_SECONDS = 300.0  # for the start of programs on other machines
_SILENT_SECONDS = 2.0  # nothing is said of so short a wait
_POLL_SECONDS = 0.1
_LINGER_SECONDS = 2.0
_CONNECT_SECONDS = 2.0
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
NOTE, GONE = "minigpt/failure", "minigpt/gone"
ARRIVED, DONE = "minigpt/arrived", "minigpt/leader"

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job, and among those of them on its machine.

    `remedy` says what to do if one of them is lost.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    remedy: str = "start again"
    store: Any = field(default=None, compare=False, repr=False)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.rank == 0

    def check_work(self, config: RunConfig) -> None:
        """Raise `UsageError` if some rank would have nothing to do in a step, or its own BatchNorm statistics."""
        if self.size > 1 and config.norm == "batchnorm":
            got = f"batchnorm and {self.size} processes"
            raise UsageError(f"BatchNorm needs a whole batch in one process; got {got}; use one, or --norm layernorm")
        windows = config.batch_size * config.grad_accumulation
        if windows < self.size:
            raise UsageError(
                f"more processes than windows in a step; got {self.size} and {windows}; "
                "start fewer processes or raise --batch-size"
            )

    def share(self, windows: Tensor, at_most: int) -> tuple[Tensor, ...]:
        """This rank's part of a list (W,) in batches of at most this size: as many on all ranks, the last may be empty.

        The parts of two ranks differ by one window at most.
        """
        rounds = -(-len(windows) // (self.size * at_most))
        return windows.tensor_split(self.size)[self.rank].tensor_split(rounds)

    def deal(self, batches: Iterable[T], between_rounds: Callable[[], None]) -> Iterator[T]:
        """This rank's batches of a list that is dealt in turn; `between_rounds` is called equally often on all ranks.

        NOTE: batches keep their shapes whatever the number of ranks, because a matrix product's bits depend on them.
        """
        for index, batch in enumerate(batches):
            if index % self.size == 0:
                between_rounds()
            if index % self.size == self.rank:
                yield batch

    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of one type, summed over the ranks in one message; all ranks get the same bits."""
        if self.size == 1:
            return list(tensors)
        import torch
        from torch import distributed

        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self._reduce(flat, distributed.ReduceOp.SUM)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def largest(self, number: int) -> int:
        """The largest of the numbers that the ranks hold."""
        if self.size == 1:
            return number
        import torch
        from torch import distributed

        held = torch.tensor(number, dtype=torch.int64, device="cpu")
        self._reduce(held, distributed.ReduceOp.MAX)
        return int(held)

    def wait(self) -> None:
        """Wait until all ranks have come here."""
        self.largest(0)

    def leader_first(self, work: Callable[[], T]) -> T:
        """Do something on rank 0, and then on the others, who find it done; they wait as long as that takes.

        NOTE: they ask again and again instead of calling a collective, inside which no signal would reach them.
        """
        if self.store is None:
            return work()
        try:
            while not self.leads and not self.store.check([DONE]):
                if self.store.check([NOTE]):
                    raise RuntimeError("it left a note")
                time.sleep(_POLL_SECONDS)
        except RuntimeError as error:
            raise RankError(f"the first process of this job has gone; {self.size} began it; {self.remedy}") from error
        result = work()
        if self.leads:
            self.store.set(DONE, "1")
        self.wait()
        return result

    def check_equal(self, digest: Callable[[], str]) -> None:
        """Raise `RankError` unless a hash, in hexadecimal, is the same on all ranks; alone it is not even computed."""
        if self.size == 1:
            return
        number = int(digest()[:15], 16)
        if self.largest(number) != -self.largest(-number):
            raise RankError(f"the processes no longer have the same weights; their hashes differ; {self.remedy}")

    def _reduce(self, tensor: Tensor, operation: Any) -> None:
        from torch import distributed

        try:
            distributed.all_reduce(tensor, op=operation)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise RankError(f"another process of this job has gone; {self.size} began it; {self.remedy}") from error


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started together, for as long as this block lasts; `ALONE` without torchrun.

    Whatever error ends the block, one line is printed for the whole job: that of the rank which met it first.
    """
    ranks = _announced()
    if ranks.size == 1:
        yield ALONE
        return
    from torch import distributed

    store = _meet(ranks)
    try:
        with contextlib.nullcontext() if ranks.leads else _silence():
            yield replace(ranks, store=store)
    except Exception as error:
        first, code = _leave_note(store, ranks.rank, getattr(error, "exit_code", 1))
        if first != ranks.rank:
            raise SystemExit(code) from error
        raise
    finally:
        distributed.destroy_process_group()
        if ranks.leads:
            _linger(store, ranks.size)


def _announced() -> Ranks:
    """What torchrun's variables say of this process; `ALONE` if one of them is missing.

    Raises:
        UsageError: one is not a number, or a rank is too large.
    """
    found = [os.environ.get(name, "") for name in VARIABLES]
    if not all(found):
        return ALONE
    if not all(value.isdecimal() for value in found):
        given = " ".join(f"{name}={value}" for name, value in zip(VARIABLES, found, strict=True))
        raise UsageError(f"the variables that torchrun sets must be numbers; got {given}; start with torchrun")
    rank, size, local_rank, local_size = map(int, found)
    if rank >= size or local_rank >= local_size:
        got = f"rank {rank} of {size}, {local_rank} of {local_size} on this machine"
        raise UsageError(f"a rank must be below the number of processes; got {got}; start with torchrun")
    return Ranks(rank, size, local_rank, local_size)


def _meet(ranks: Ranks) -> Any:
    """Connect with the other ranks, by gloo for tensors of the CPU and NCCL for those of a GPU; return the store.

    Raises:
        RankError: they cannot be reached, or do not come in `MEETING_SECONDS`.
    """
    from torch import distributed

    backends = "cpu:gloo,cuda:nccl" if distributed.is_nccl_available() else "gloo"
    try:
        store = _wait_for_all(ranks)
        distributed.init_process_group(backends, store=store, rank=ranks.rank, world_size=ranks.size, timeout=PATIENCE)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise RankError(f"cannot reach the other processes of this job; {reason}; start it with torchrun") from error
    return store


def _wait_for_all(ranks: Ranks) -> Any:
    """The store that all ranks share, once all have come; waiting is said, ends, and can be broken off by a signal.

    torchrun keeps the store itself, and says so by a variable; without that rank 0 does.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if not 0 < port < 1 << 16:
        raise ValueError(f"MASTER_PORT is {port}")
    kept_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = ranks.leads and not kept_by_torchrun
    patience = _Patience(f"{ranks.size} processes at {address}:{port}, of which this is rank {ranks.rank}")
    while not hosts and not _somebody_listens(address, port):
        patience.go_on()
    shared = _store_at(address, port, hosts, patience)
    shared.set_timeout(PATIENCE)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"minigpt/{attempt}", shared)
    store.add(ARRIVED, 1)
    while store.add(ARRIVED, 0) < ranks.size:
        time.sleep(_POLL_SECONDS)
        patience.go_on()
    return store


def _somebody_listens(address: str, port: int) -> bool:
    """Whether the other end is there; torch, which asks again and again, would show a stack for each refusal."""
    try:
        socket.create_connection((address, port), _CONNECT_SECONDS).close()
    except OSError:
        time.sleep(_POLL_SECONDS)
        return False
    return True


def _store_at(address: str, port: int, hosts: bool, patience: _Patience) -> Any:
    """The store that is kept here or there.

    NOTE: in a thread, because torch waits without end, and deaf to signals, for a program that is no store to answer.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    outcome: list[Any] = []

    def connect() -> None:
        timeout = datetime.timedelta(seconds=MEETING_SECONDS)
        try:
            outcome.append(TCPStore(address, port, None, hosts, timeout, wait_for_workers=False))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        patience.go_on()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


class _Patience:
    """Waits so long and no longer, and says so once if it is not over at once."""

    def __init__(self, awaited: str) -> None:
        self._awaited = awaited
        self._begun = time.monotonic()
        self._said = False

    def go_on(self) -> None:
        """Raise `RankError` if the time is over."""
        waited = time.monotonic() - self._begun
        remedy = "start them with torchrun, or unset RANK and WORLD_SIZE to train in one process"
        if waited > MEETING_SECONDS:
            raise RankError(f"not all processes of this job came; waited {waited:.0f} s for {self._awaited}; {remedy}")
        if waited > _SILENT_SECONDS and not self._said:
            self._said = True
            print(f"waiting {MEETING_SECONDS / 60:.0f} minutes for {self._awaited}; {remedy}", file=sys.stderr)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _leave_note(store: Any, rank: int, exit_code: int) -> tuple[int, int]:
    """Which rank failed first, and its exit code; this one, if the store has gone with the rank that kept it."""
    with contextlib.suppress(RuntimeError):
        rank, exit_code = map(int, store.compare_set(NOTE, "", f"{rank} {exit_code}").split())
        store.add(GONE, 1)
    return rank, exit_code


def _linger(store: Any, size: int) -> None:
    """After a failure, give the others a moment to read the note: the store may end with this process."""
    deadline = time.monotonic() + _LINGER_SECONDS
    with contextlib.suppress(RuntimeError):
        while store.check([NOTE]) and store.add(GONE, 0) < size and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
