"""A cohort leaves runs like any other, and what befalls one member or the memory leaves the others as they are."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from run_files import comparable, records, stop_at, summary

from minigpt.base.errors import StopRequestedError, UsageError
from minigpt.training import cohort
from minigpt.training.cohort import Planned, train_cohort
from minigpt.training.cohort_step import Cohort
from minigpt.training.config import RunConfig
from minigpt.training.interrupts import StoppedWhileCompiling
from minigpt.training.loop import train
from minigpt.training.run_directory import located
from minigpt.training.runtime import resolve

BASE = RunConfig(
    corpus="text.txt", n_layer=2, n_head=2, n_embd=16, block_size=16, batch_size=4, steps=12, eval_every=4, lr=1e-2,
    checkpoint_every=4, log_every=1, threads=1, device="cpu", dtype="float32", compile="off",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("haste")


def planned(count: int, **settings: Any) -> list[Planned]:
    base = located(resolve(replace(BASE, **settings)))
    rates = [base.lr, base.lr / 2, base.lr / 3, base.lr / 4]
    return [Planned(replace(base, seed=n, lr=rates[n]), Path(f"run-{n}")) for n in range(count)]


def cohorts(run: Path) -> list[tuple[int, int]]:
    return [(event["step"], event["size"]) for event in records(run, "event") if event["event"] == "cohort"]


def losses(run: Path) -> list[float]:
    return [record["loss"] for kind in ("train", "eval") for record in records(run, kind)]


def without_cohorts(run: Path) -> list[dict]:
    return [record for record in comparable(run) if record.get("event") != "cohort"]


def test_each_member_leaves_a_run_like_any_other(minigpt: Command, workplace: Path) -> None:
    """Log, checkpoints and summary are those of a run alone, within rounding, and say that it was none."""
    train_cohort(planned(3))
    for each in planned(3):
        alone = Path(f"{each.directory}-alone")
        train(each.config, alone, quiet=True)
        assert minigpt(f"verify {each.directory}") == 0
        assert cohorts(each.directory) == [(0, 3)]
        assert (summary(each.directory)["cohort"], summary(alone)["cohort"]) == (3, 1)
        assert losses(each.directory) == pytest.approx(losses(alone), abs=1e-5)
        assert without_cohorts(each.directory)[0].keys() == comparable(alone)[0].keys()
        assert summary(each.directory)["identity"] == summary(alone)["identity"]
        assert summary(each.directory)["val"]["tokens"] == summary(alone)["val"]["tokens"]
        assert minigpt(f"sample {each.directory} --max-new-tokens 3") == 0


def test_members_may_begin_differently(workplace: Path) -> None:
    """From another run, with its moments or without, operated on, with neurons killed: the rest is the same for all."""
    (parent,) = planned(1)
    train(parent.config, Path("parent"), quiet=True)
    beginnings = [
        {},
        {"init_from": "parent"},
        {"init_from": "parent", "init_moments": True},
        {"init_from": "parent", "init_surgery": "random:4"},
        {"init_killed": 0.5},
    ]
    members = [Planned(replace(parent.config, **how), Path(f"member-{n}")) for n, how in enumerate(beginnings)]
    train_cohort(members)
    for each in members:
        alone = Path(f"{each.directory}-alone")
        train(each.config, alone, quiet=True)
        assert losses(each.directory) == pytest.approx(losses(alone), abs=2e-5)
        assert summary(each.directory)["identity"] == summary(alone)["identity"]
    assert len({losses(each.directory)[-1] for each in members}) == len(members)


def test_a_stopped_cohort_goes_on_together_to_the_same_bits(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All members commit where the signal found them, and end as if it had never come."""
    train_cohort([replace(each, directory=Path(f"whole-{each.directory}")) for each in planned(2)])
    with monkeypatch.context() as patch:
        stop_at(patch, 25, 15)
        with pytest.raises(StopRequestedError, match="stopped a cohort of 2"):
            train_cohort(planned(2))
    stopped = [summary(each.directory) for each in planned(2)]
    assert {found["status"] for found in stopped} == {"stopped"}
    assert 0 < stopped[0]["steps"] < 12
    train_cohort(planned(2))
    for each in planned(2):
        assert without_cohorts(each.directory) == without_cohorts(Path(f"whole-{each.directory}"))
        assert cohorts(each.directory) == [(0, 2), (stopped[0]["steps"], 2)]


def test_a_cohort_stopped_while_it_compiles_commits(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler is left by another exception than a safe point is."""
    take_step = Cohort.take_step

    def compiling(self: Cohort, steps: Sequence[int], *others: Any) -> Any:
        if steps[0] == 5:
            raise StoppedWhileCompiling(signal.SIGTERM)
        return take_step(self, steps, *others)

    monkeypatch.setattr(Cohort, "take_step", compiling)
    with pytest.raises(StopRequestedError, match="stopped a cohort of 2") as stopped:
        train_cohort(planned(2))
    assert stopped.value.exit_code == 143
    assert [(found["status"], found["steps"]) for each in planned(2) if (found := summary(each.directory))] == [
        ("stopped", 5)
    ] * 2


def test_a_member_goes_on_alone(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told that bits will differ, and the record of its beginning stays."""
    with monkeypatch.context() as patch:
        stop_at(patch, 25, 15)
        with pytest.raises(StopRequestedError):
            train_cohort(planned(2))
    first = planned(2)[0]
    train(first.config, first.directory, resume=True, quiet=True)
    assert "not bit-exact: cohort was 2 and is 1" in capsys.readouterr().err
    assert summary(first.directory)["status"] == "finished"
    assert summary(first.directory)["cohort"] == 2
    train_cohort(planned(2))
    assert {summary(each.directory)["status"] for each in planned(2)} == {"finished"}


def test_a_member_that_diverges_leaves_the_others_alone(minigpt: Command, workplace: Path) -> None:
    """Its NaN is recorded as its end; the others go on, and learn what they would have learnt without it."""
    wild, *sound = planned(3, grad_clip=0.0)
    wild = replace(wild, config=replace(wild.config, lr=1e30))
    train_cohort([wild, *sound])
    assert summary(wild.directory)["status"] == "diverged"
    assert summary(wild.directory)["steps"] < 12
    assert minigpt(f"verify {wild.directory}") == 0
    for each in sound:
        alone = Path(f"{each.directory}-alone")
        train(each.config, alone, quiet=True)
        assert losses(each.directory) == pytest.approx(losses(alone), abs=1e-5)
        assert cohorts(each.directory) == [(0, 3), (summary(wild.directory)["steps"], 2)]


@pytest.mark.parametrize("at_step", [0, 6])
def test_a_cohort_that_does_not_fit_is_halved(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at_step: int
) -> None:
    """Out of memory at any step: two and two of four go on from their checkpoints, and the user is told."""
    take_step = Cohort.take_step

    def scarce(self: Cohort, steps: Sequence[int], *others: Any) -> Any:
        if len(steps) > 2 and steps[0] == at_step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return take_step(self, steps, *others)

    monkeypatch.setattr(Cohort, "take_step", scarce)
    train_cohort(planned(4))
    assert "4 models at a time do not fit into memory; going on with 2 at a time" in capsys.readouterr().err
    for each in planned(4):
        assert summary(each.directory)["status"] == "finished"
        assert cohorts(each.directory) == ([(0, 2)] if at_step == 0 else [(0, 4), (4, 2)])


def test_not_even_two_fit(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halved to the end, every model is trained alone."""

    def scarce(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cohort, "Cohort", scarce)
    train_cohort(planned(3))
    for each in planned(3):
        assert summary(each.directory)["status"] == "finished"
        assert cohorts(each.directory) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_embd": 32}, "n-embd 16 and 32"),
        ({"activation": "gelu"}, "activation relu and gelu"),
        ({"steps": 13}, "steps 12 and 13"),
    ],
    ids=str,
)
def test_shapes_that_differ_are_refused(workplace: Path, settings: dict, says: str) -> None:
    """Nothing is begun; what differs is named."""
    one, other = planned(2)
    with pytest.raises(UsageError, match=says):
        train_cohort([one, replace(other, config=replace(other.config, **settings))])
    assert not one.directory.exists()


@pytest.mark.parametrize(
    "settings", [{"dropout": 0.1}, {"norm": "batchnorm"}, {"l1": 0.1}, {"cost": "binary"}], ids=str
)
def test_what_cannot_share_a_step_is_refused(workplace: Path, settings: dict) -> None:
    """A cohort cannot have dropout, running statistics, hidden values of one model at a time, or another cost."""
    with pytest.raises(UsageError, match="cannot be trained in a cohort"):
        train_cohort(planned(2, **settings))
