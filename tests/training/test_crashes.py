"""Kills at every operation on the disk, and a disk that loses what was not flushed: no acknowledged step is lost.

Each accident ends with `verify` and with a resumed training that must reach the bits of one that nothing happened to.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from child_processes import Start, needs_fork, newest_step
from conftest import TINY_RUN, Command
from lossy_disk import disk_states, is_lost, rebuild, recording
from run_files import comparable, final_hash, openings

from minigpt.base import storage
from minigpt.training import checkpoints

DISK_SEED = 2

pytestmark = pytest.mark.usefixtures("haste")


# ---------------------------------------------------------------------------------------------- kills


def cuts(workplace: Path) -> list[Path]:
    return sorted(workplace.glob("cut-*"), key=lambda path: int(path.name.removeprefix("cut-")))


@needs_fork
def test_a_kill_at_any_operation_of_a_save(start: Start, minigpt: Command, workplace: Path) -> None:
    """The save of step 2 and its pruning, cut short at each operation: old or new, and the same end from either."""
    flags = f"train {TINY_RUN} --steps 3 --checkpoint-every 1 --eval-every 1 --eval-tokens 64"
    assert minigpt(f"{flags} --out whole") == 0
    assert start(f"{flags} --out run", cut_commit=[2]).wait() == 0
    found = set()
    for cut in cuts(workplace):
        assert minigpt(f"verify {cut}") == 0
        found.add(newest_step(cut))
        assert minigpt(f"{flags} --out {cut} --resume") == 0
        assert final_hash(cut) == final_hash(workplace / "whole"), cut
        assert comparable(cut) == comparable(workplace / "whole"), cut
        assert not list(cut.rglob("*.tmp"))
    assert found == {1, 2}
    assert len(cuts(workplace)) > 25


@needs_fork
def test_a_kill_at_any_operation_before_the_first_step(start: Start, minigpt: Command, workplace: Path) -> None:
    """A directory that holds only the beginning of a run is begun again by the same command."""
    flags = f"train {TINY_RUN} --steps 1 --eval-every 0"
    assert minigpt(f"{flags} --out whole") == 0
    assert start(f"{flags} --out run", cut_setup=[]).wait() == 0
    for cut in cuts(workplace):
        assert minigpt(f"{flags} --out {cut} --resume") == 0, cut
        assert final_hash(cut) == final_hash(workplace / "whole")
        assert comparable(cut) == comparable(workplace / "whole")
    assert len(cuts(workplace)) > 20


@needs_fork
def test_a_kill_at_any_operation_of_a_resume(start: Start, minigpt: Command, workplace: Path, tiny_run: Path) -> None:
    """The log is cut to its checkpoint without ever losing a record of opening the test part."""
    expected, log = final_hash(tiny_run), comparable(tiny_run)
    assert minigpt("evaluate run --split test") == 0
    (tiny_run / "summary.json").unlink()
    (checkpoints.directory_of(tiny_run, 12) / "manifest.json").unlink()
    assert start("train --resume run", cut_setup=[]).wait() == 0
    for cut in cuts(workplace):
        assert minigpt(f"verify {cut}") == 0
        assert minigpt(f"train --resume {cut}") == 0, cut
        assert final_hash(cut) == expected
        assert openings(cut) == 1
        assert [record for record in comparable(cut) if record.get("event") != "test_opened"] == log
    assert len(cuts(workplace)) > 20


# ---------------------------------------------------------------------------------------------- power loss


THREE_STEPS = f"train {TINY_RUN} --steps 3 --checkpoint-every 1 --eval-every 1 --eval-tokens 64"


def test_a_power_cut_at_any_moment_loses_no_acknowledged_step(minigpt: Command, workplace: Path) -> None:
    """Whatever of the unflushed is dropped, torn or reordered; a sample of the states is trained to the same end."""
    with recording(workplace / "run") as disk:
        assert minigpt(f"{THREE_STEPS} --out run") == 0
    place, states = workplace / "rebuilt", 0
    for state, acknowledged, tree in disk_states(disk, DISK_SEED):
        rebuild(tree, disk.root, place)
        assert not is_lost(place, acknowledged), state
        states += 1
        if states % 15 == 0:
            assert minigpt(f"{THREE_STEPS} --out rebuilt --resume") == 0, state
            assert final_hash(place) == final_hash(workplace / "run"), state
            assert comparable(place) == comparable(workplace / "run"), state
    assert states > 120


@pytest.mark.parametrize("forgotten", ["content", "names"])
def test_a_forgotten_flush_would_be_noticed(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """The test above can fail: without fsync of files, or of directories, some power cut loses a checkpoint."""
    with monkeypatch.context() as patch:
        if forgotten == "content":
            patch.setattr(storage.AtomicFile, "commit", commit_without_flush)
        else:
            patch.setattr(storage, "_fsync_directory", lambda directory: None)
        with recording(workplace / "run") as disk:
            assert minigpt(f"{THREE_STEPS} --out run") == 0
    place = workplace / "rebuilt"

    def loses(state: tuple[str, int, dict[str, bytes | None]]) -> bool:
        rebuild(state[2], disk.root, place)
        return is_lost(place, state[1])

    assert any(map(loses, disk_states(disk, DISK_SEED)))


def commit_without_flush(file: storage.AtomicFile) -> str:
    file._close()
    os.replace(file._temporary, file.path)
    storage._fsync_directory(file.path.parent)
    return file._hash.hexdigest()
