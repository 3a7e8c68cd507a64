"""Cores within the CPU quota of a container: made-up trees of both versions of Linux's cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minigpt.base import usable_cores as module
from minigpt.base.usable_cores import cpu_quota, usable_cores

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def tree(root: Path, cgroup: str, mounts: str, **files: str) -> Path:
    """A system's files below `root`, among them what Linux says of this process."""
    contents = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files}
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores_of_affinity", lambda: 8)


@pytest.mark.parametrize(
    ("written", "cores"),
    [("150000 100000", 2), ("50000 100000", 1), ("1000 100000", 1), ("200000 50000", 4), ("6400000 100000", 8)],
)
def test_a_part_of_a_core_counts_as_one(tmp_path: Path, written: str, cores: int):
    """Rounded up, at least 1, and never more than the affinity has."""
    tree(tmp_path, "0::/\n", V2, **{"sys/fs/cgroup/cpu.max": written + "\n"})
    assert usable_cores(tmp_path) == cores


def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path):
    """A pod may have less than its container asks for; what lies beside the way is no limit."""
    files = {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000", "cpu.max": "max 100000", "c/cpu.max": "1 10"}
    tree(tmp_path, "0::/a/b\n", V2, **{f"sys/fs/cgroup/{name}": content for name, content in files.items()})
    assert cpu_quota(tmp_path) == 3.0


@pytest.mark.parametrize(
    ("root", "path", "folder"),
    [
        ("/", "/docker/abc", "docker/abc/"),  # the whole hierarchy is mounted
        ("/docker/abc", "/docker/abc", ""),  # the container's part is
        ("/docker/abc", "/docker/abc/inner", "inner/"),
        ("/", "/../outside", ""),  # beyond the root of a cgroup namespace
        ("/docker/abc", "/elsewhere", ""),
    ],
)
def test_version_1_is_found_where_it_is_mounted(tmp_path: Path, root: str, path: str, folder: str):
    """Docker shows a container its part of the hierarchy, under the path that it has outside."""
    place = f"sys/fs/cgroup/cpu,cpuacct/{folder}cpu.cfs_"
    cgroup = f"5:memory:/other\n4:cpu,cpuacct:{path}\n1:name=systemd:/\n0::/\n"
    tree(tmp_path, cgroup, V1.format(root=root), **{f"{place}quota_us": "250000\n", f"{place}period_us": "100000\n"})
    assert cpu_quota(tmp_path) == 2.5
    assert usable_cores(tmp_path) == 3


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n"},
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2},
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2, "sys/fs/cgroup/cpu.max": "max 100000"},
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2, "sys/fs/cgroup/cpu.max": "100000 0"},
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2, "sys/fs/cgroup/cpu.max": "words"},
        {"proc/self/cgroup": "nothing\n", "proc/self/mountinfo": "nothing\n"},
        {
            "proc/self/cgroup": "1:cpu:/\n",
            "proc/self/mountinfo": V1.format(root="/"),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    ],
)
def test_without_a_quota_the_affinity_counts(tmp_path: Path, files: dict[str, str]):
    """Other systems, other layouts and what nobody can read limit nothing."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert cpu_quota(tmp_path) is None
    assert usable_cores(tmp_path) == 8


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_affinity_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.undo()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)
