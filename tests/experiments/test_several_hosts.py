"""Several hosts over one folder: they divide the cells, refuse what does not fit, and outlive each other."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from child_processes import Start, await_that, needs_fork
from conftest import TINY_MODEL, Capture, Command

from minigpt.base import owners, storage
from minigpt.base.errors import CheckpointError, UsageError
from minigpt.experiments import at_work as module
from minigpt.experiments.at_work import at_work, check_begun
from minigpt.experiments.cells import read_result

ALIKE = {"code": "c" * 64, "text": "t" * 64, "cells": "s" * 64}
BASE = f"--corpus text.txt {TINY_MODEL} --eval-every 15 --eval-tokens 64 --checkpoint-every 5 --log-every 5"
ABLATE = f"ablate --activations relu,gelu --seeds 2 --workers 1 {BASE} --cells-dir cells"
TABLES = ("cells.csv", "comparisons.csv", "arms.csv")


def logged(place: Path, host: str) -> int:
    """How many cells a host has begun."""
    return len(list((place / "logs").glob(f"{host}-*/*.log")))


def done(place: Path) -> int:
    return sum(read_result(cell) is not None for cell in place.glob("cells/*"))


def unlocked(path: Path) -> bool:
    try:
        storage.check_unlocked(path)
    except storage.LockedError:
        return False
    return True


# Who is there


def test_who_works_on_the_same_is_named(tmp_path: Path, capsys: Capture):
    """Not who works on something else; and nothing is left."""
    with at_work(tmp_path, "a", ALIKE) as first, at_work(tmp_path, "b", ALIKE) as second:
        assert (first, second) == ([], [])
        with at_work(tmp_path, "a", ALIKE) as third:
            assert third == [owners.this_process().in_words]
        assert f"note: also at work on this: {third[0]}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", module.ADVICE)
def test_who_would_do_something_else_is_refused(tmp_path: Path, what: str):
    """By its hash, with both, and with what to do; the first one goes on."""
    with at_work(tmp_path, "a", ALIKE):
        with pytest.raises(
            CheckpointError, match=rf"hash of {what} is {ALIKE[what][:8]}, here it is 00000000"
        ) as caught:
            at_work(tmp_path, "a", {**ALIKE, what: 64 * "0"}).__enter__()
        assert "\n" not in str(caught.value)
        assert len(list((tmp_path / module.FOLDER).iterdir())) == 1
        with at_work(tmp_path, "b", {**ALIKE, what: 64 * "0"}) as others:
            assert others == []


def test_what_a_killed_process_left_goes(tmp_path: Path):
    """Its lock died with it. A folder without its first file belongs to one that is just beginning."""
    left = tmp_path / module.FOLDER / f"{owners.this_process()}.0123abcd"
    storage.make_directory(left)
    with at_work(tmp_path, "a", ALIKE) as others:
        assert others == []
        assert left.exists()
    storage.write_sealed(left / module.WORK, {"task": "a", **ALIKE, "code": "old"})
    with at_work(tmp_path, "a", ALIKE) as others:
        assert others == []
        assert not left.exists()


def test_joining_needs_somebody_who_has_begun(tmp_path: Path):
    """A folder that is not shared looks like one in which nobody has begun."""
    plan = tmp_path / "ablation.json"
    with pytest.raises(UsageError, match=r"nothing to join.*shared folder"):
        check_begun(tmp_path, plan, [])
    check_begun(tmp_path, plan, ["process 3 on other"])
    plan.touch()
    check_begun(tmp_path, plan, [])


def test_a_host_that_sees_an_empty_folder_does_not_join(minigpt: Command, workplace: Path, capsys: Capture):
    assert minigpt(f"{ABLATE} --steps 5 --out a --join") == 2
    assert "look whether this host sees the shared folder" in capsys.readouterr().err
    assert not (workplace / "a").exists()


# The same command on two hosts


@needs_fork
def test_two_hosts_divide_the_cells(start: Start, workplace: Path):
    """Each trains some, no cell is trained twice, and both leave the tables that one alone leaves."""
    assert start(f"{ABLATE} --steps 30 --out alone --cells-dir others").wait() == 0
    hosts = [start(f"{ABLATE} --steps 30 --out a", be_on_host=[name]) for name in ("one", "two")]
    assert [host.wait() for host in hosts] == [0, 0]
    assert done(workplace) == 4
    assert logged(workplace / "a", "one") > 0
    assert logged(workplace / "a", "two") > 0
    for name in TABLES:
        alone = (workplace / "alone" / name).read_bytes().replace(b"others/", b"cells/")
        assert (workplace / "a" / name).read_bytes() == alone
    assert not (workplace / "cells" / module.FOLDER).exists()
    begun = [log.stem for log in (workplace / "a/logs").rglob("*.log") if "starting at step 0" in log.read_text()]
    assert sorted(begun) == sorted(path.name for path in (workplace / "cells").glob("*"))


@needs_fork
def test_a_host_that_dies_is_replaced(start: Start, workplace: Path):
    """Its cells are free as soon as its locks are; the other trains them."""
    first = start(f"{ABLATE} --steps 100 --out a", be_on_host=["one"])
    await_that(lambda: len(list(workplace.glob("cells/*/checkpoints/*/manifest.json"))) > 0, "a checkpoint")
    second = start(f"{ABLATE} --steps 100 --out a --join", be_on_host=["two"])
    await_that(lambda: logged(workplace / "a", "two") > 0, "the second host")
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert second.wait() == 0
    assert done(workplace) == 4


@needs_fork
def test_a_host_with_another_version_of_the_code_is_refused(start: Start, workplace: Path):
    """It would train other cells beside those, and both would write their plan over the other's."""
    first = start(f"{ABLATE} --steps 100000 --out a", be_on_host=["one"])
    await_that(lambda: len(list(workplace.glob("cells/at-work/*/work.json"))) > 0, "the first host")
    second = start(f"{ABLATE} --steps 100000 --out a", be_on_host=["two"], change_the_code=["0" * 64])
    assert second.wait() == 4
    error = (workplace / "child.err").read_text().splitlines()[-1]
    assert error.startswith("error: process ")
    assert "on one works on this with another version of the code" in error
    first.signal(signal.SIGTERM)
    assert first.wait() == 143
