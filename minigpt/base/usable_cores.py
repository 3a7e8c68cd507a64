"""How many cores this process may use: those that its affinity names, within the CPU quota of its cgroups.

Sources: sched(7); Linux's admin-guide/cgroup-v2 (`cpu.max`) and scheduler/sched-bwc (`cpu.cfs_quota_us`).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_UNIFIED = ""  # how /proc/self/cgroup names the hierarchy of version 2, which has all controllers


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that this process may use; a part of a core counts as one."""
    quota = cpu_quota(root)
    cores = cores_of_affinity()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cores_of_affinity() -> int:
    """Cores that the scheduler may put this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The smallest quota, in cores, among this process's cgroups and those that they are in; None without any."""
    return min((quota for folder in _cgroups(root) for quota in _quotas(folder)), default=None)


def _cgroups(root: Path) -> Iterator[Path]:
    """The folders of this process's cgroups that can limit it, each with those above it, of both versions."""
    with contextlib.suppress(OSError, ValueError):
        own = dict(_own_paths((root / "proc/self/cgroup").read_text(encoding="utf-8")))
        for line in (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            left, _, right = line.partition(" - ")
            mounted, place = left.split()[3:5]
            kind, _, options = right.split(maxsplit=2)
            if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
                path = own.get(_UNIFIED if kind == "cgroup2" else "cpu", "/")
                yield from _upwards(root / place.lstrip("/"), _inside(path, mounted))


def _own_paths(listing: str) -> Iterator[tuple[str, str]]:
    """The path of this process's cgroup by controller."""
    for line in listing.splitlines():
        _, controllers, path = line.split(":", 2)
        yield from ((controller, path) for controller in controllers.split(","))


def _inside(path: str, mounted: str) -> PurePosixPath:
    """Where below a mount point a cgroup is; in a container it may lie outside, and the mount point is the nearest."""
    pure = PurePosixPath(path)
    if ".." in pure.parts or not pure.is_relative_to(mounted):
        return PurePosixPath()
    return pure.relative_to(mounted)


def _upwards(mount: Path, inside: PurePosixPath) -> Iterator[Path]:
    yield from (mount / folder for folder in (inside, *inside.parents))


def _quotas(folder: Path) -> Iterator[float]:
    """The quota that a cgroup sets, if it does: microseconds of processor time in a period, over the period."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            yield int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
        if int(quota) > 0:
            yield int(quota) / int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
