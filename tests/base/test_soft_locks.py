"""The lock that is a file: it fails closed, and of several that see the same dead holder one has it."""

from __future__ import annotations

import os
import queue
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_owners import dead_process

from minigpt.base import owners, soft_locks
from minigpt.base.errors import LockedError
from minigpt.base.owners import Owner


@pytest.fixture(scope="module")
def dead() -> Owner:
    return dead_process()


def left_by(owner: Owner, folder: Path) -> Path:
    path = folder / soft_locks.NAME
    path.write_text(f"{owner} 0123456789abcdef")
    return path


def test_the_lock_of_a_dead_process_is_replaced(tmp_path: Path, dead: Owner):
    path = left_by(dead, tmp_path)
    with soft_locks.held(tmp_path):
        assert path.read_text().split()[0] == str(owners.this_process())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "a word", "{elsewhere} 0123456789abcdef", "{dead}", "{dead} ../../x"])
def test_what_is_not_provably_dead_stays(tmp_path: Path, dead: Owner, content: str):
    """Of a process elsewhere, and of what nobody can read, nobody can tell here: a person must."""
    path = tmp_path / soft_locks.NAME
    path.write_text(content.format(dead=dead, elsewhere=replace(dead, place=12 * "0")))
    before = path.read_text()
    for attempt in (soft_locks.check, lambda folder: soft_locks.held(folder).__enter__()):
        with pytest.raises(LockedError, match=rf"if it is dead, delete .*{soft_locks.NAME}"):
            attempt(tmp_path)
    assert [file.read_text() for file in tmp_path.iterdir()] == [before]


def test_a_lock_that_somebody_else_has_by_now_is_not_released(tmp_path: Path, dead: Owner):
    """A person may have deleted ours, taking us for dead."""
    with soft_locks.held(tmp_path):
        path = left_by(replace(dead, place=12 * "0"), tmp_path)
    assert path.exists()


@pytest.mark.parametrize("seed", range(150))
def test_of_several_breakers_one_wins(tmp_path: Path, dead: Owner, seed: int, monkeypatch: pytest.MonkeyPatch):
    """Three that see the same dead holder, in a random order of their single operations on the disk; then twice more.

    Until now two could win: one moved away, and put back, the lock that another had just made.
    """
    turns = Turns(seed)
    monkeypatch.setattr(soft_locks, "os", turns.of(os))
    monkeypatch.setattr(soft_locks, "text_of", turns.before(soft_locks.text_of))
    holders, won = [], []

    def compete() -> None:
        for _ in range(2):
            try:
                with soft_locks.held(tmp_path):
                    holders.append(threading.get_ident())
                    turns.take()
                    won.append(list(holders))
                    holders.remove(threading.get_ident())
            except LockedError:
                continue

    left_by(dead, tmp_path)
    turns.run([compete] * 3)
    assert won
    assert all(len(together) == 1 for together in won)
    assert list(tmp_path.iterdir()) == []


class Turns:
    """Lets threads do one operation at a time, in a random order that a seed repeats."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._arrived: queue.Queue[tuple[int, bool]] = queue.Queue()
        self._go: dict[int, threading.Semaphore] = {}

    def take(self) -> None:
        """Wait for this thread's turn."""
        number = int(threading.current_thread().name)
        self._arrived.put((number, True))
        self._go[number].acquire()

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.take()
            return function(*arguments)

        return call

    def of(self, module: Any) -> SimpleNamespace:
        """The module, in which what changes the disk waits for its turn."""
        steps = {name: self.before(getattr(module, name)) for name in ("open", "write", "unlink", "replace")}
        return SimpleNamespace(**{**vars(module), **steps, "fsync": lambda descriptor: None})

    def run(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Do the jobs in a thread each."""

        def work(number: int, job: Callable[[], None]) -> None:
            job()
            self._arrived.put((number, False))

        self._go = {number: threading.Semaphore(0) for number in range(len(jobs))}
        for number, job in enumerate(jobs):
            threading.Thread(target=work, args=(number, job), name=str(number), daemon=True).start()
        working, waiting = set(self._go), set()
        while working:
            while waiting != working:
                number, wants_a_turn = self._arrived.get(timeout=10)
                (waiting.add if wants_a_turn else working.discard)(number)
            if working:
                chosen = self._random.choice(sorted(waiting))
                waiting.discard(chosen)
                self._go[chosen].release()
