"""What tests read of a run directory, and a way to stop a training at one of its safe points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minigpt.training import run_directory
from minigpt.training.interrupts import StopFlag


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def final_hash(run: Path) -> str:
    return summary(run)["parameters_sha256"]


def records(run: Path, kind: str) -> list[dict]:
    return [record for record in run_directory.read_metrics(run) if record["kind"] == kind]


def openings(run: Path) -> int:
    return sum(event["event"] == "test_opened" for event in records(run, "event"))


def comparable(run: Path) -> list[dict]:
    """The log without the figures that depend on the clock."""
    return [
        {key: value for key, value in record.items() if key != "tokens_per_second"}
        for record in run_directory.read_metrics(run)
    ]


def stop_at(monkeypatch: pytest.MonkeyPatch, check_number: int, signal_number: int) -> None:
    """Deliver a signal, as it were, at the n-th safe point of the next training."""
    calls = 0
    original = StopFlag.check

    def check(flag: StopFlag) -> None:
        nonlocal calls
        calls += 1
        if calls == check_number:
            flag.signal_number = signal_number
        original(flag)

    monkeypatch.setattr(StopFlag, "check", check)
