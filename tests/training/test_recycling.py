"""Recycling while training: judged on training text, told in the log, the same bits after any stop."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from conftest import TINY_RUN, Command
from run_files import comparable, final_hash, records, stop_at

from minigpt.base import health_columns
from minigpt.training import recycling
from minigpt.training.interrupts import StopFlag

DEADLY = f"train {TINY_RUN} --steps 24 --lr 0.1 --schedule constant --warmup-steps 0"
RECYCLED = f"{DEADLY} --recycle dead --recycle-every 8"


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch, haste: None) -> None:
    """Judge on a few windows: what is tested here does not depend on how many."""
    monkeypatch.setattr(recycling, "TRUSTED_TOKENS", 4096)


def test_the_dead_get_another_life_and_the_log_says_so(minigpt: Command, workplace: Path) -> None:
    """Counts by layer at every interval but the last; they live at the next evaluation, and may die again."""
    assert health_columns.TRUSTED_TOKENS == 65_536
    assert minigpt(f"{RECYCLED} --eval-every 1 --out run") == 0
    assert minigpt(f"{DEADLY} --eval-every 1 --out untreated") == 0
    events = [event for event in records(Path("run"), "event") if event["event"] == "neurons_recycled"]
    assert [event["step"] for event in events] == [8, 16]
    assert all(event["counts"] == [len(layer) for layer in event["neurons"]] for event in events)
    assert sum(events[0]["counts"]) > 10
    dead = {record["step"]: record["dead_fraction"] for record in records(Path("run"), "eval")}
    assert dead[9] < dead[8] / 2
    untreated = {record["step"]: record["dead_fraction"] for record in records(Path("untreated"), "eval")}
    assert all(dead[step] == untreated[step] for step in range(9))
    assert final_hash(Path("run")) != final_hash(Path("untreated"))
    assert any(event["step"] > 8 and event.get("again") for event in records(Path("run"), "event"))


def test_the_recycled_are_no_longer_dead_in_the_life_table(minigpt: Command, workplace: Path) -> None:
    """No one revives who was recycled before, and who died before dies again: the three events make one story."""
    assert minigpt(f"{RECYCLED} --eval-every 3 --out run") == 0
    dead: list[set[int]] = [set(), set()]
    for event in records(Path("run"), "event"):
        if event["event"] == "neurons_recycled":
            dead = [some - set(recycled) for some, recycled in zip(dead, event["neurons"], strict=True)]
            continue
        some, layer = set(event["neurons"]), event["layer"]
        assert some.isdisjoint(dead[layer]) if event["event"] == "neurons_died" else some <= dead[layer]
        dead[layer] ^= some
    last = records(Path("run"), "eval")[-1]
    assert [len(some) for some in dead] == [layer["dead_fraction"] * layer["neurons"] for layer in last["layers"]]


@pytest.mark.parametrize(
    ("choice", "check_number", "checkpoint_every"),
    [
        ("dead", 12, 8), ("dead", 17, 5), ("dead", 26, 8), ("dead", 31, 5),
        ("dormant:0.1", 19, 8), ("dormant:0.1", 33, 5), ("random:5", 12, 5), ("random:5", 19, 8),
    ],
)  # fmt: skip
def test_a_stop_anywhere_ends_in_the_same_bits(
    minigpt: Command,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
    check_number: int,
    checkpoint_every: int,
) -> None:
    """While judging, between recycling and update, with and without a checkpoint of that very step."""
    flags = f"{DEADLY} --steps 12 --eval-every 6 --recycle {choice} --recycle-every 4 --dropout 0.1"
    flags += f" --checkpoint-every {checkpoint_every}"
    assert minigpt(f"{flags} --out whole") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, check_number, signal.SIGTERM)
        assert minigpt(f"{flags} --out cut") == 143
    assert minigpt("train --resume cut") == 0
    assert minigpt("verify cut") == 0
    assert final_hash(Path("cut")) == final_hash(Path("whole"))
    assert comparable(Path("cut")) == comparable(Path("whole"))


@pytest.mark.parametrize("checkpoint_every", [8, 5])
def test_a_stop_between_recycling_and_update(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_every: int
) -> None:
    """The one moment at which a step is half done: recycled once, whether its checkpoint came before or after."""
    flags = f"{RECYCLED} --checkpoint-every {checkpoint_every}"
    assert minigpt(f"{flags} --out whole") == 0
    flag: list[StopFlag] = []
    check, recycle_neurons = StopFlag.check, recycling.recycle_neurons

    def remembered(self: StopFlag) -> None:
        flag[:] = [self]
        check(self)

    def stopped_after(run, spec, step, between):  # type: ignore[no-untyped-def]
        event = recycle_neurons(run, spec, step, between)
        flag[0].signal_number = signal.SIGTERM
        return event

    with monkeypatch.context() as patch:
        patch.setattr(StopFlag, "check", remembered)
        patch.setattr("minigpt.training.loop.recycle_neurons", stopped_after)
        assert minigpt(f"{flags} --out cut") == 143
    assert minigpt("train --resume cut") == 0
    assert final_hash(Path("cut")) == final_hash(Path("whole"))
    assert comparable(Path("cut")) == comparable(Path("whole"))


@pytest.mark.parametrize("watching", ["--eval-every 0", "--eval-every 1", "--log-every 0", "--val-fraction 0.1"])
def test_recycling_does_not_depend_on_what_is_watched(minigpt: Command, workplace: Path, watching: str) -> None:
    """It is a function of weights, configuration and step, also where the global generators were disturbed."""
    assert minigpt(f"{RECYCLED} --out reference") == 0
    torch.rand(3)
    assert minigpt(f"{RECYCLED} {watching} --out other") == 0
    assert final_hash(Path("reference")) == final_hash(Path("other"))


def test_more_neurons_than_a_layer_has_are_refused(refused) -> None:  # type: ignore[no-untyped-def]
    """Before anything is written."""
    says = ("random:65", "layer 0 has 64")
    refused(2, f"train {TINY_RUN} --recycle random:65 --recycle-every 2 --out run", says=says)
