"""The benchmark beside busy processes: what it starts, in which environment, and what it makes of the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from conftest import TINY_MODEL, Capture, Command

from minigpt.base import thread_waiting
from minigpt.benchmarks import busy
from minigpt.benchmarks.bench_options import BenchOptions, Peer
from minigpt.benchmarks.workers import Task, _waiting
from minigpt.report import benchmark_tables
from minigpt.training.config import RunConfig

NANO = Peer("nanoGPT", "/nano")
CONFIG = replace(RunConfig(), preset="tiny")


class MadeUp:
    """A program whose steps take 1 s alone, and so much longer beside each busy process as its setting says."""

    started: ClassVar[list[Task]] = []

    def __init__(self, task: Task) -> None:
        self.task = task
        self.started.append(task)

    def __enter__(self) -> MadeUp:
        return self

    def __exit__(self, *reason: object) -> None: ...

    def train(self, steps: int) -> None: ...

    def train_for(self, seconds: float) -> float:
        alone = 1.0 if self.task.peer is None else 2.0
        return alone * (1 + BUSY[-1] * (1 if self.task.waiting else 10))


BUSY = [0]


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    @busy.contextmanager
    def processes(number: int) -> Any:
        BUSY.append(number)
        yield
        BUSY.pop()

    monkeypatch.setattr(busy, "Worker", MadeUp)
    monkeypatch.setattr(busy, "_busy_processes", processes)
    monkeypatch.setattr(MadeUp, "started", [])


def test_ratios_are_with_the_same_quiet_and_with_what_users_have(made_up: None):
    """By hand: as it is, a step of ours takes 1, 11 and 21 s; with a setting 1, 2 and 3; the peer's twice that."""
    rows = busy.measure_busy(CONFIG, [NANO], BenchOptions(blocks=2), lambda blocks, label: blocks)
    found = {(row["program"], row["waiting"], row["busy"]): row for row in rows}
    assert len(rows) == len(found) == 2 * 4 * 3
    ours, theirs = found["minigpt", "2000", 2], found["nanoGPT", "as it is", 2]
    assert ours["step_seconds"]["median"] == 3
    assert ours["slower_than_quiet"]["median"] == 3
    assert ours["faster_than_as_it_is"]["median"] == 7
    assert ours["faster_than_peer"]["median"] == 14
    assert theirs["slower_than_quiet"]["median"] == 21
    assert theirs["faster_than_peer"] == theirs["faster_than_as_it_is"]
    assert [task.waiting for task in MadeUp.started[:4]] == list(busy.WAITING.values())


def test_without_a_peer_there_is_no_ratio_with_one(made_up: None):
    """The table shows a dash."""
    rows = busy.measure_busy(CONFIG, [], BenchOptions(blocks=1), lambda blocks, label: blocks)
    (table,) = benchmark_tables._busy([{"busy": rows}])
    assert table.markdown().count("| –") >= len(rows) == 12


def test_busy_processes_end_with_the_block_and_with_their_parent():
    """A benchmark that was killed must not leave a machine busy for good."""
    with busy._busy_processes(1):
        assert subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "getppid"], check=False).returncode == 0
    assert subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "getppid"], check=False).returncode == 1
    of_another = [sys.executable, "-S", "-c", busy._BUSY, "1"]
    assert subprocess.run(of_another, timeout=10, check=False).returncode == 0


def test_each_program_starts_with_its_setting(monkeypatch: pytest.MonkeyPatch):
    """Ours inherits what was chosen; a peer as shipped has what its users have; a setting replaces both."""
    for name in thread_waiting.SETTINGS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(thread_waiting, "_choice", thread_waiting._Choice())
    monkeypatch.delitem(sys.modules, "torch")
    thread_waiting.choose()
    for task, expected in (
        (Task(CONFIG), thread_waiting.CHOSEN),
        (Task(CONFIG, peer=NANO, best=True), thread_waiting.CHOSEN),
        (Task(CONFIG, peer=NANO), {}),
        (Task(CONFIG, waiting={"OMP_WAIT_POLICY": "passive"}), {"OMP_WAIT_POLICY": "passive"}),
    ):
        with _waiting(task):
            assert {name: os.environ[name] for name in thread_waiting.SETTINGS if name in os.environ} == expected


def test_a_run(minigpt: Command, monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    """With real processes, but one setting and no time: the figures are there, and the table."""
    monkeypatch.setattr(busy, "WAITING", {"as it is": {}})
    monkeypatch.setattr(busy, "LOADS", (0, 1))
    monkeypatch.setattr(busy, "BLOCK_SECONDS", 0.01)
    assert minigpt(f"bench busy --corpus text.txt {TINY_MODEL} --blocks 1 --steps-per-block 1 --json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["waiting"]
    (measured,) = record["presets"]
    assert [row["busy"] for row in measured["busy"]] == [0, 1]
    assert all(row["step_seconds"]["median"] > 0 for row in measured["busy"])
    assert "busy processes" in benchmark_tables.text(record)
