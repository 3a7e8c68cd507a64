"""Which process made a file, wherever it runs; and temporaries of others, which nobody here may delete."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.base import owners, storage
from minigpt.base.owners import Owner

HOUR = 3600.0


def dead_process() -> Owner:
    """An owner at this place whose number is free again."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return replace(owners.this_process(), pid=process.pid)


def temporary(folder: Path, owner: Owner | str) -> Path:
    path = folder / f".file.{owner}.0123abcd.tmp"
    path.touch()
    return path


@given(
    st.from_regex(r"[A-Za-z0-9]{1,20}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    st.integers(1, 1 << 22),
    st.sampled_from(["", "123456"]),
)
def test_an_owner_is_read_as_it_was_written(host: str, place: str, pid: int, started: str):
    owner = Owner(host, place, pid, started)
    assert owners.parse(str(owner)) == owner
    assert owners.parse(f"{owner}x-") is None


@pytest.mark.parametrize("name", ["", "-", "a.b_c", "ünï", 90 * "x", "../../etc"])
def test_any_host_name_makes_a_file_name(monkeypatch: pytest.MonkeyPatch, name: str):
    """Short enough for every file system, and of letters and digits."""
    monkeypatch.setattr(owners.socket, "gethostname", lambda: name)
    assert owners.parse(str(owners.this_process())) == owners.this_process()


def test_a_number_that_is_free_again_a_moment_later_is_free(monkeypatch: pytest.MonkeyPatch):
    """Another process may have the number at the first look and be gone at the next: its file would stay for ever."""
    dead, taken = dead_process(), iter([True, False])
    monkeypatch.setattr(owners, "_is_number_taken", lambda pid: next(taken))
    assert owners.is_gone(dead)


def test_only_who_is_at_the_same_place_knows_of_a_death(monkeypatch: pytest.MonkeyPatch):
    """Number, boot and namespace together name a process: one alone may be equal on every host."""
    me, dead = owners.this_process(), dead_process()
    assert not owners.is_gone(me)
    assert owners.is_gone(dead)
    assert owners.is_gone(replace(me, started="1"))  # the number went round
    assert not owners.is_gone(replace(me, started=""))
    for what in ("_boot", "_namespace"):
        with monkeypatch.context() as patch:
            patch.setattr(owners, what, lambda: "another")
            assert not owners.is_here(dead)
            assert not owners.is_gone(dead)


def test_a_foreign_proc_says_nothing_of_start_times(monkeypatch: pytest.MonkeyPatch):
    """In a namespace without its own /proc, a number there is another process."""
    monkeypatch.setattr(owners, "_sees_own_namespace", lambda: False)
    assert not owners.is_gone(replace(owners.this_process(), started="1"))


def test_temporaries_of_other_hosts_stay(tmp_path: Path):
    """Their writer may be alive; only after days, by the clock that stamps files, nobody can be."""
    me = owners.this_process()
    elsewhere = temporary(tmp_path, replace(me, place=12 * "0", pid=dead_process().pid))
    storage.remove_stale_temporaries(tmp_path)
    assert elsewhere.exists()
    for age, kept in ((6 * 24 * HOUR, True), (8 * 24 * HOUR, False)):
        os.utime(elsewhere, (time.time() - age,) * 2)
        storage.remove_stale_temporaries(tmp_path)
        assert elsewhere.exists() == kept
    assert list(tmp_path.iterdir()) == []


def test_the_own_clock_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A host may be years off: what stamps files decides, so that a file written now is never old."""
    elsewhere = temporary(tmp_path, replace(owners.this_process(), place=12 * "0"))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    storage.remove_stale_temporaries(tmp_path)
    assert elsewhere.exists()


def test_each_file_that_is_being_written_has_its_own_name(tmp_path: Path):
    """Even of one process: what is committed is what was written to it, the last one counts."""
    target = tmp_path / "file"
    with storage.atomic_file(target) as first, storage.atomic_file(target) as second:
        first.write(b"first")
        second.write(b"second")
        assert second.commit() == storage.sha256_bytes(b"second")
        assert target.read_bytes() == b"second"
        assert first.commit() == storage.sha256_bytes(b"first")
        assert target.read_bytes() == b"first"


# Two containers that share a folder: in each the process is number 1.

IN_A_CONTAINER = ["unshare", "-rpf", "--mount-proc", sys.executable, "-c"]
SHARED = """
import os, sys, time
from pathlib import Path
from minigpt.base import locks, owners, soft_locks, storage
folder, name, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def told(word):
    while not (folder / word).exists():
        time.sleep(0.005)
assert os.getpid() == 1
"""
WRITES = (
    SHARED
    + """
with storage.atomic_file(folder / "target") as file:
    file.write(name.encode())
    (folder / f"{name}-written").touch()
    told(f"{other}-written")
    storage.remove_stale_temporaries(folder)
    if name == "b":
        told("a-committed")
    digest = file.commit()
    held = storage.sha256_file(folder / "target")
    print("mine" if digest == held == storage.sha256_bytes(name.encode()) else "not mine")
    (folder / f"{name}-committed").touch()
"""
)
LOCKS = (
    SHARED
    + """
import contextlib
def take():
    try:
        with soft_locks.held(folder):
            (folder / f"{name}-holds").touch()
            told(f"{other}-tried")
            print("held")
    except storage.LockedError as error:
        print("refused" if "process 1 on" in str(error) else error)
    (folder / f"{name}-tried").touch()
if name == "b":
    told("a-holds")
take()
"""
)


def can_unshare() -> bool:
    try:
        return subprocess.run([*IN_A_CONTAINER, ""], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("program", "found"), [(WRITES, ["mine", "mine"]), (LOCKS, ["held", "refused"])], ids=["writes", "locks"]
)
def test_two_that_both_are_process_1(tmp_path: Path, program: str, found: list[str]):
    """A reported as committed what B had written, since both named their file by the number 1; and took B for dead."""
    if not can_unshare():
        pytest.skip("this system makes no namespaces")
    processes = [
        subprocess.Popen([*IN_A_CONTAINER, program, str(tmp_path), *names], stdout=subprocess.PIPE, text=True)
        for names in (("a", "b"), ("b", "a"))
    ]
    assert [process.communicate(timeout=30)[0].strip() for process in processes] == found
    assert not list(tmp_path.glob("*.tmp"))
