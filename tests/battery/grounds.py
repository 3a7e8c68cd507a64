"""Where a group does its work: a folder with a small text, commands that say nothing, and small checkpoints."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import write_small_text
from haste import spare_time

from minigpt.cli import main
from minigpt.model import GPT, GPTConfig
from minigpt.neurons.life import LifeTable
from minigpt.training import checkpoints
from minigpt.training.config import RunConfig
from minigpt.training.optimizers import Optimizer, build_optimizer


@contextlib.contextmanager
def workplace(place: Path) -> Iterator[pytest.MonkeyPatch]:
    """Work in `place`, on a small text, in one thread, without flushes and pages; patches end with the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    place.mkdir(parents=True, exist_ok=True)
    write_small_text(place)
    try:
        with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
            spare_time(patch)
            yield patch
    finally:
        torch.set_num_threads(threads)


def quietly(command: str, *more: str) -> tuple[int, str]:
    """Run a command; its exit code, and all that it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main([*shlex.split(command), *more])
    return code, printed.getvalue()


def surely(command: str, *more: str) -> None:
    """Run a command that has to succeed, or there is nothing to measure."""
    code, printed = quietly(command, *more)
    assert code == 0, f"{command} ended with {code}: {printed}"


class SmallState:
    """A model of a few hundred bytes and what is saved beside it."""

    def __init__(self) -> None:
        self.model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4), seed=1)
        self.optimizer: Optimizer = build_optimizer(self.model, RunConfig(warmup_steps=0, min_lr=0.0))
        self.life = LifeTable(self.model)

    def save(self, run: Path, step: int, **identity: str) -> Path:
        """Commit it as the checkpoint of a step; its directory."""
        checkpoints.save(
            run, step, self.model, self.optimizer, self.life, identity=identity, progress={}, environment={}
        )
        return checkpoints.directory_of(run, step)

    def load(self, directory: Path) -> None:
        """Read a checkpoint with everything that is in it."""
        checkpoint = checkpoints.read(directory)
        checkpoints.load_model(checkpoint, self.model)
        checkpoints.load_optimizer(checkpoint, self.model, self.optimizer)
        checkpoints.load_life(checkpoint, self.life)


def leftovers(place: Path) -> list[str]:
    """Temporary files that somebody left behind."""
    return [os.fspath(path.relative_to(place)) for path in place.rglob("*.tmp")]
