"""Real processes: signalled, locked out, limited in space; a run that was stopped verifies and goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from child_processes import PROJECT, Start, await_that, needs_fork, newest_step, told
from conftest import TINY_RUN, Command, tree_hash
from run_files import final_hash, records, summary

from minigpt.base import owners, storage

pytestmark = pytest.mark.usefixtures("haste")


# ---------------------------------------------------------------------------------------------- signals


@needs_fork
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_a_real_training(start: Start, minigpt: Command, workplace: Path, number: int) -> None:
    """It commits, says how to go on and ends with 128 + the signal's number; the lock is free."""
    child = start(
        f"train {TINY_RUN} --steps 100000 --eval-every 0 --log-every 50 --checkpoint-every 0 --out run",
        announce=["phases"],
    )
    await_that(lambda: "training" in told(workplace / "phases"), "the training")
    time.sleep(0.1)
    child.signal(number)
    assert child.wait() == 128 + number
    *_, last = (workplace / "child.err").read_text().splitlines()
    step = summary(workplace / "run")["steps"]
    assert summary(workplace / "run")["status"] == "stopped"
    assert f"stopped at step {step} of 100000" in last
    assert "--resume run" in last
    assert newest_step(workplace / "run") == step > 0
    assert minigpt("verify run") == 0
    storage.check_unlocked(workplace / "run")


@needs_fork
def test_a_second_interrupt_leaves_at_once(start: Start, minigpt: Command, workplace: Path) -> None:
    """In the middle of the save that the first one asked for; what was committed before is whole."""
    flags = f"train {TINY_RUN} --steps 300 --eval-every 0 --log-every 50 --checkpoint-every 1000"
    child = start(f"{flags} --out run", announce=["phases"], slow_saves_after_a_signal=[0.5])
    await_that(lambda: "saved 0" in told(workplace / "phases"), "the first checkpoint")
    await_that(lambda: records(workplace / "run", "train") != [], "a step after it")
    child.signal(signal.SIGINT)
    await_that(lambda: told(workplace / "phases")[-1].startswith("saving"), "the save after the signal")
    time.sleep(0.1)
    begun = time.monotonic()
    child.signal(signal.SIGINT)
    assert child.wait() == 130
    assert time.monotonic() - begun < 0.4
    assert newest_step(workplace / "run") == 0
    assert minigpt("verify run") == 0
    assert minigpt("train --resume run") == 0
    assert not list((workplace / "run").rglob("*.tmp"))


@needs_fork
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_preparation_leaves_nothing(start: Start, workplace: Path, number: int) -> None:
    """Neither tokens nor temporaries nor a run."""
    before = tree_hash(workplace)
    child = start(f"train {TINY_RUN} --out run", slow_preparation=[30])
    await_that((workplace / "preparing").exists, "the preparation")
    assert list((workplace / "data").rglob("*.tmp"))
    child.signal(number)
    assert child.wait() == 128 + number
    for name in ("preparing", "child.out", "child.err"):
        (workplace / name).unlink()
    assert tree_hash(workplace) == before


# ---------------------------------------------------------------------------------------------- locks


@needs_fork
def test_a_second_training_is_locked_out(
    start: Start, minigpt: Command, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 7 names the process that holds the run, whether the command makes, continues or replaces it."""
    flags = f"train {TINY_RUN} --steps 100000 --eval-every 0 --log-every 0 --checkpoint-every 0"
    child = start(f"{flags} --out run", announce=["phases"])
    await_that(lambda: "training" in told(workplace / "phases"), "the training")
    before = tree_hash(workplace)
    for command in (f"{flags} --out run", "train --resume run", f"{flags} --out run --overwrite"):
        assert minigpt(command) == 7
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert f"process {child.pid} on {owners.this_process().host} holds it" in error
    assert tree_hash(workplace) == before
    child.signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert minigpt(f"train {TINY_RUN} --out run --overwrite") == 0


@needs_fork
def test_two_processes_prepare_one_corpus(start: Start, workplace: Path) -> None:
    """One waits for the other; both train on the same tokens."""
    flags = f"train {TINY_RUN} --steps 2 --eval-every 0"
    first = start(f"{flags} --out a", slow_preparation=[0.2])
    second = start(f"{flags} --out b", slow_preparation=[0.2])
    assert (first.wait(), second.wait()) == (0, 0)
    assert final_hash(workplace / "a") == final_hash(workplace / "b")
    assert len(list((workplace / "data").iterdir())) == 1
    assert not list((workplace / "data").rglob("*.tmp"))


# ---------------------------------------------------------------------------------------------- limits


@needs_fork
def test_a_save_beyond_the_file_size_limit(start: Start, minigpt: Command, workplace: Path) -> None:
    """EFBIG at step 8: exit 5, the checkpoint of step 4 verifies, no temporary is left, and a retry ends the same."""
    pytest.importorskip("resource")
    assert minigpt(f"train {TINY_RUN} --out whole") == 0
    assert start(f"train {TINY_RUN} --out run", limit_files=[8, 20_000]).wait() == 5
    error = (workplace / "child.err").read_text()
    assert "File too large" in error
    assert error.count("\n") == 1
    assert newest_step(workplace / "run") == 4
    assert not list((workplace / "run").rglob("*.tmp"))
    assert minigpt("verify run") == 0
    assert minigpt("train --resume run") == 0
    assert final_hash(workplace / "run") == final_hash(workplace / "whole")


FULL_DISK = """
import sys
from pathlib import Path
from minigpt.cli import main
from minigpt.training import checkpoints

save = checkpoints.save

def fill_first(run, step, *arguments, **options):
    if step == 8:
        with open("disk/ballast", "wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(4096)):
                    pass
            except OSError:
                pass
    save(run, step, *arguments, **options)

checkpoints.save = fill_first  # until the ballast is gone
assert main(sys.argv[1:]) == 5
assert main(["verify", "disk/run"]) == 0
assert checkpoints.newest(Path("disk/run"), print).step == 4
assert not list(Path("disk").rglob("*.tmp"))
Path("disk/ballast").unlink()
checkpoints.save = save
assert main(["train", "--resume", "disk/run"]) == 0
"""


def can_mount() -> bool:
    """Whether a user may have a private file system here."""
    if not shutil.which("unshare"):
        return False
    words = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_a_full_disk(workplace: Path) -> None:
    """A real one: ENOSPC at step 8, as with the file size limit; with space again the run goes on."""
    if not can_mount():
        pytest.skip("no file system of one's own can be mounted here")
    (workplace / "disk").mkdir()
    (workplace / "full_disk.py").write_text(FULL_DISK)
    command = f"{sys.executable} full_disk.py train {TINY_RUN} --out disk/run"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o size=4m tmpfs disk && exec {command}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "error: " + done.stderr.removeprefix("error: ")
    assert "No space left on device" in done.stderr.splitlines()[0]


def test_too_little_space_is_said_before_training(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two checkpoints must fit; otherwise exit 5, both figures, and no directory."""
    usage = shutil.disk_usage(workplace)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    assert minigpt(f"train {TINY_RUN} --out run") == 5
    error = capsys.readouterr().err
    assert "2,000,000 bytes free" in error
    assert "two checkpoints need" in error
    assert not (workplace / "run").exists()
