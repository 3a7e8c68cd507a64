"""Where cells are trained, this machine or a Ray cluster, and what each may use there. Plain data without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minigpt.base.errors import UsageError
from minigpt.base.flags import flag, taken_out

LOCAL, RAY = "local", "ray"
# Ray's own word for the cluster that this machine belongs to.
HERE = "auto"


@dataclass(frozen=True)
class ExecutorOptions:
    """What executes the cells; the answer does not depend on it, so no plan records it."""

    executor: str = flag(LOCAL, "executor", "local: processes here; or ray[:HOST:PORT], a cluster")
    cores_per_cell: int = flag(1, "executor", "ray: cores, and so threads, of a cell", at_least=1, below=1 << 12)
    gpus_per_cell: float = flag(0.0, "executor", "ray: GPUs of a cell, or its share of one; 0: one on cuda", at_least=0)

    @property
    def is_local(self) -> bool:
        """Whether cells are trained by processes on this machine."""
        return self.executor == LOCAL

    @property
    def address(self) -> str:
        """The Ray cluster that is meant."""
        return self.executor.removeprefix(RAY).removeprefix(":") or HERE

    def check(self) -> None:
        """Raise `UsageError` for an executor that there is not, or for what only another one takes."""
        name, colon, address = self.executor.partition(":")
        host, _, port = address.rpartition(":")
        if name not in (LOCAL, RAY) or (colon and name == LOCAL):
            raise UsageError(f"unknown executor {self.executor!r:.100}; allowed: local, ray, ray:HOST:PORT")
        if colon and not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise UsageError(f"a Ray cluster's address is HOST:PORT; got {address!r:.100}; write ray:10.0.0.1:6379")
        if self.is_local and (self.cores_per_cell, self.gpus_per_cell) != (1, 0.0):
            raise UsageError("--cores-per-cell and --gpus-per-cell are Ray's; got --executor local; use --workers here")
        if self.gpus_per_cell > 1 and self.gpus_per_cell != int(self.gpus_per_cell):
            raise UsageError(f"a cell takes whole GPUs or a share of one; got {self.gpus_per_cell:g}; write 0.5 or 2")

    def check_may_time(self, what: str, asked: bool) -> None:
        """Raise `UsageError` if times are asked for by the flag `what`: machines of a cluster differ."""
        if asked and not self.is_local:
            raise UsageError(f"{what} takes times on this machine; got --executor {self.executor}; leave one out")


def take_out(chosen: dict[str, Any]) -> ExecutorOptions:
    """The options among the values that were chosen, which then hold them no longer; checked.

    Raises:
        UsageError: a value is not allowed.
    """
    options = taken_out(chosen, ExecutorOptions)
    options.check()
    return options
