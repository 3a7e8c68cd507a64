"""Every operation of a commit, refused with every reason, once and from then on: the old checkpoint or the new one."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from battery.grounds import SmallState, leftovers, workplace
from battery.tallies import Figure, Tally
from minigpt.base import storage
from minigpt.base.errors import MinigptError
from minigpt.training import checkpoints

OPERATIONS = ("open", "write", "fsync", "close", "replace", "unlink", "mkdir", "rmdir", "stat")
REASONS = ("ENOSPC", "EIO", "EDQUOT", "EACCES", "EPERM", "EROFS", "EINTR", "EMFILE", "ENFILE", "EBUSY", "ENOMEM")


@dataclass(frozen=True)
class Refusal:
    """The `at`-th call of an operation, or each from it on, fails for a reason."""

    operation: str
    at: int
    reason: str
    persistent: bool

    def __str__(self) -> str:
        return f"{self.operation} {self.at} {self.reason} {'from then on' if self.persistent else 'once'}"


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """Try all refusals, or `count` of them drawn at random if there are more."""
    tally = Tally("errnos", "a refused operation of a commit: old or new, nothing else", seed)
    with workplace(place) as patch:
        state, before = SmallState(), place / "before"
        for step in (1, 2, 3):
            state.save(before, step)
            storage.append_json_line(before / "metrics.jsonl", {"kind": "train", "step": step})
        calls = _count_calls(patch, state, _copy(before, place / "counted"))
        refusals = [
            Refusal(name, at, reason, persistent)
            for name, number in calls.items()
            for at in range(1, number + 1)
            for reason in REASONS
            for persistent in ((False,) if reason == "EINTR" else (False, True))  # no system interrupts for ever
        ]
        chosen = refusals if len(refusals) <= count else random.Random(seed).sample(refusals, count)
        for refusal in chosen:
            fault = _fault(refusal, state, _copy(before, place / "cut"))
            tally.judge(not fault, f"{refusal}: {fault}")
    made = ", ".join(f"{number} {name}" for name, number in calls.items())
    tally.note = f"{len(refusals):,} points in all: ({made}) × {len(REASONS)} reasons × once and persistent"
    return [tally.figure()]


def _commit(state: SmallState, run: Path) -> None:
    """What a training does at a checkpoint."""
    storage.append_json_line(run / "metrics.jsonl", {"kind": "train", "step": 4})
    storage.flush(run / "metrics.jsonl")
    state.save(run, 4)
    checkpoints.prune(run, keep_also=set())


def _copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def _count_calls(patch: pytest.MonkeyPatch, state: SmallState, run: Path) -> dict[str, int]:
    calls = dict.fromkeys(OPERATIONS, 0)

    def counting(name: str) -> Callable[..., object]:
        original = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            calls[name] += 1
            return original(*arguments, **options)

        return call

    with patch.context() as inner:
        for name in OPERATIONS:
            inner.setattr(os, name, counting(name))
        _commit(state, run)
    return {name: number for name, number in calls.items() if number}


def _fault(refusal: Refusal, state: SmallState, run: Path) -> str:
    """What went wrong with a commit that met this refusal; nothing, if all is well."""
    code, original, calls = getattr(errno, refusal.reason), getattr(os, refusal.operation), 0

    def refused(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == refusal.at or (refusal.persistent and calls > refusal.at):
            raise OSError(code, os.strerror(code))
        return original(*arguments, **options)

    done = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, refusal.operation, refused)
        try:
            _commit(state, run)
        except (MinigptError, OSError):  # the command line turns the second into one line as well
            done = False
        except Exception as error:
            return f"not an error of ours: {error!r}"
    return _fault_of_what_is_left(run, done, refusal)


def _fault_of_what_is_left(run: Path, done: bool, refusal: Refusal) -> str:
    notices: list[str] = []
    try:
        newest = checkpoints.newest(run, notices.append)
    except MinigptError as error:
        return f"no checkpoint can be read: {error}"
    if newest is None or newest.step not in (3, 4) or (done and newest.step != 4):
        return f"step {newest and newest.step} is the newest, and the commit {'succeeded' if done else 'failed'}"
    if notices:
        return f"a damaged checkpoint: {notices[0]}"
    if leftovers(run) and not (refusal.persistent and refusal.operation in ("unlink", "close", "stat")):
        return f"left behind: {leftovers(run)}"
    return ""
