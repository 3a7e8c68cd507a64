"""Accidents that meet others: a signal in a save, a full disk in a recovery, clocks that lie, figures that are none."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from child_processes import newest_step
from conftest import TINY_MODEL, TINY_RUN, Capture, Command
from failing_disk import failing
from run_files import final_hash, records, summary

from minigpt.training import checkpoints, milestones

pytestmark = pytest.mark.usefixtures("haste")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
def test_a_signal_during_a_save_lets_it_end(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, file: str, number: signal.Signals
) -> None:
    """Whichever file is being renamed: the checkpoint is committed, and it is the one of the step that is reported."""
    replace = os.replace

    def signalled(source: Any, target: Any, **options: Any) -> None:
        if Path(target).name == file and Path(target).parent.name == "step-00000004":
            signal.raise_signal(number)
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", signalled)
    assert minigpt(f"train {TINY_RUN} --out run") == 128 + number
    assert (summary(workplace / "run")["status"], summary(workplace / "run")["steps"]) == ("stopped", 4)
    assert newest_step(workplace / "run") == 4
    assert minigpt("verify run") == 0


def test_a_full_disk_during_a_recovery(
    minigpt: Command, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A damaged checkpoint and no space to go on from the one before: exit 5 as often as it is tried, nothing lost."""
    expected = final_hash(tiny_run)
    (tiny_run / "summary.json").unlink()
    model = checkpoints.directory_of(tiny_run, 12) / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    for at in (1, 2, 3, 5, 8):
        with monkeypatch.context() as patch:
            failing("write", at, errno.ENOSPC, patch)
            assert minigpt("train --resume run") == 5
        assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
        assert 8 in checkpoints.committed_steps(tiny_run)
        checkpoints.read(checkpoints.directory_of(tiny_run, 8))
        assert not list(tiny_run.rglob("*.tmp"))
    assert minigpt("train --resume run") == 0
    assert final_hash(tiny_run) == expected


@pytest.mark.parametrize("times", ["equal", "reversed"])
def test_order_is_by_step_whatever_the_clock_says(minigpt: Command, tiny_run: Path, times: str) -> None:
    """A clock that was set back makes the newest checkpoint look like the oldest one."""
    for step in checkpoints.committed_steps(tiny_run):
        directory = checkpoints.directory_of(tiny_run, step)
        for path in (directory, *directory.iterdir()):
            os.utime(path, (10**9, 10**9) if times == "equal" else (2 * 10**9 - step, 2 * 10**9 - step))
    assert newest_step(tiny_run) == 12
    checkpoints.prune(tiny_run, keep_also=set(), newest_kept=1)
    assert checkpoints.steps_of(tiny_run) == [12]


def test_a_validation_loss_that_is_no_number_is_never_the_best(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """At step 8 the loss is NaN while all parameters are finite: a warning, null in the log, and step 8 is not best."""
    evaluate = milestones.evaluate
    monkeypatch.setattr(milestones, "evaluate", lambda *a, **o: _nan_at_the_third(evaluate(*a, **o), seen))
    seen: list[float] = []
    assert minigpt(f"train {TINY_RUN} --out run") == 0
    assert "warning: validation loss is nan at step 8" in capsys.readouterr().err
    assert summary(workplace / "run")["best"]["step"] in (4, 12)
    assert [record["loss"] is None for record in records(workplace / "run", "eval")] == [False, False, True, False]


def _nan_at_the_third(evaluation: Any, seen: list[float]) -> Any:
    seen.append(evaluation.loss)
    return dataclasses.replace(evaluation, loss=math.nan) if len(seen) == 3 else evaluation


def test_a_parameter_that_is_no_number_ends_a_training_at_its_evaluation(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Exit 6 names the parameter; the checkpoint before stays the newest."""
    evaluate = milestones.evaluate
    seen: list[Any] = []

    def poisoned(model: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(model)
        if len(seen) == 3:
            with torch.no_grad():
                model.ln_f.weight[0] = math.nan
        return evaluate(model, *arguments, **options)

    monkeypatch.setattr(milestones, "evaluate", poisoned)
    assert minigpt(f"train {TINY_RUN} --out run") == 6
    assert "ln_f.weight" in capsys.readouterr().err
    assert summary(workplace / "run")["status"] == "diverged"
    assert newest_step(workplace / "run") == 4
    assert minigpt("verify run") == 0


def test_a_text_of_one_character_can_be_learned(minigpt: Command, workplace: Path) -> None:
    """Its vocabulary has one token, its loss is 0 and its perplexity 1."""
    (workplace / "a.txt").write_text("a" * 2000)
    assert minigpt(f"train --corpus a.txt {TINY_MODEL} --steps 3 --eval-every 3 --out run") == 0
    assert summary(workplace / "run")["val"]["perplexity"] == 1.0
    assert minigpt("verify run") == 0
