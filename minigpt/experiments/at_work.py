"""Several hosts at one ablation or ledger over a shared folder: who is there, and whether all would do the same.

Who works shows it by a folder under `<cells-dir>/at-work/`, which it holds like any other: so a process that died is
told from one that works, and nobody's clock counts. Which cell is whose, the cells' locks decide; see `run_jobs.py`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from minigpt.base import owners, storage
from minigpt.base.errors import CheckpointError, MinigptError, StorageError, UsageError

FOLDER = "at-work"
WORK = "work.json"
# What all hosts must have alike, and what to do about it.
ADVICE = {
    "code": "another version of the code; install the same on all hosts",
    "text": "another text; give all hosts the same --corpus and --data-dir",
    "cells": "other settings; give all hosts the same --dtype, --device and --compile",
}


@contextlib.contextmanager
def at_work(cells_dir: Path, task: str, alike: Mapping[str, str]) -> Iterator[list[str]]:
    """Show in this block that this process works on `task`; yields in words who else does.

    `alike` has a hash for each key of `ADVICE`.

    Raises:
        CheckpointError: somebody works on it with another code, text or settings.
    """
    place = cells_dir / FOLDER / f"{owners.this_process()}.{os.urandom(4).hex()}"
    with storage.passing_lock(place):
        storage.write_sealed(place / WORK, {"task": task, **alike})
        others = dict(_others(place, task))
        for words, (theirs, other_place) in others.items():
            for what, advice in ADVICE.items():
                if theirs[what] != alike[what]:
                    raise CheckpointError(
                        f"{words} works on this with {advice}; its hash of {what} is {theirs[what][:8]}, here it is "
                        f"{alike[what][:8]}; wait until it is done, or delete {other_place} if it is gone"
                    )
        if others:
            print(f"note: also at work on this: {', '.join(others)}", file=sys.stderr)
        yield list(others)
    storage.remove_if_empty(cells_dir / FOLDER)


def check_begun(directory: Path, plan: Path, others: list[str]) -> None:
    """Raise `UsageError` if nobody has begun what this host should join: then the folder may not be shared."""
    if others or plan.is_file():
        return
    raise UsageError(
        f"there is nothing to join; nobody has begun this ablation in {directory.absolute()}, nor works on it; look "
        "whether this host sees the shared folder, or start without --join"
    )


def _others(own: Path, task: str) -> Iterator[tuple[str, tuple[dict[str, str], Path]]]:
    """Who else works on a task, in words, with what they state; what the dead left goes."""
    for work in sorted(own.parent.glob(f"*/{WORK}")):
        if work.parent == own:
            continue
        if storage.is_held(work.parent):
            with contextlib.suppress(MinigptError):
                stated = storage.read_sealed(work, CheckpointError)
                owner = owners.parse(work.parent.name.rpartition(".")[0])
                if stated is not None and owner is not None and stated["task"] == task:
                    yield owner.in_words, (stated, work.parent)
            continue
        with contextlib.suppress(StorageError):  # another may remove it too
            storage.remove_tree(work.parent)
