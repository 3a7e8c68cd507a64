"""Signals at moments at which nobody asks for them: while torch compiles, while the command line loads."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from child_processes import PROJECT, await_that, newest_step
from conftest import TINY_RUN, Command
from run_files import comparable, final_hash, summary

from minigpt.training import interrupts, loop
from minigpt.training.interrupts import StoppedWhileCompiling, stop_on_signals


def as_in(module: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as if it was defined in another module."""
    return types.FunctionType(function.__code__, {"__name__": module, "signal": signal})


def interrupted() -> None:
    signal.raise_signal(signal.SIGTERM)


def interrupted_by(inputs: Any) -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("module", interrupts._COMPILERS)
def test_a_signal_while_torch_compiles_is_heard_at_once(module: str) -> None:
    """It used to wait for the compiler, up to a minute; elsewhere it still waits for a safe point."""
    assert importlib.util.find_spec(module), "torch has renamed its compiler"
    with stop_on_signals() as stop:
        interrupted()
        assert stop.signal_number == signal.SIGTERM
    with stop_on_signals(), pytest.raises(StoppedWhileCompiling):
        as_in(module, interrupted)()


def test_a_training_stopped_while_it_compiles_goes_on_exactly(
    minigpt: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It commits what it has and ends with 143; resumed, it ends in the same bits."""
    flags = f"train {TINY_RUN} --dropout 0.1"
    assert minigpt(f"{flags} --out whole") == 0
    take_step = loop.take_step

    def compiling(trainee: Any, step: int, *arguments: Any, **options: Any) -> Any:
        if step == 5:
            trainee = replace(trainee, forward=as_in(interrupts._COMPILERS[0], interrupted_by))
        return take_step(trainee, step, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", compiling)
        assert minigpt(f"{flags} --out cut") == 143
    assert summary(workplace / "cut")["status"] == "stopped"
    assert newest_step(workplace / "cut") == 5
    assert minigpt("train --resume cut") == 0
    assert final_hash(workplace / "cut") == final_hash(workplace / "whole")
    assert comparable(workplace / "cut") == comparable(workplace / "whole")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler here")
def test_a_real_compilation_is_stopped_within_seconds(workplace: Path, minigpt: Command) -> None:
    """From the first file that torch's compiler leaves on; nothing but the state before step 0 is committed."""
    cache = workplace / "cache"
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, str(PROJECT / "train.py"), *f"{TINY_RUN} --compile on --out run".split()]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        await_that(lambda: (workplace / "run/checkpoints").is_dir() and _folders(cache) > 0, "the compiler")
        child.terminate()
        begun = time.monotonic()
        error = child.communicate(timeout=60)[1]
    assert child.returncode == 143
    assert time.monotonic() - begun < 10
    assert "stopped at step 0 of 12" in error
    assert "Traceback" not in error
    assert minigpt("verify run") == 0


def _folders(cache: Path) -> int:
    return sum(path.is_dir() for path in cache.glob("*"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_while_the_command_line_loads(number: int, code: int, word: str) -> None:
    """One line and the usual exit code; it used to be a traceback, or no word at all."""
    command = [sys.executable, "-X", "importtime", "-m", "minigpt", "--help"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        while not child.stderr.readline().rstrip().endswith("minigpt.base.errors"):  # what the command line loads first
            pass
        child.send_signal(number)
        said = [line for line in child.stderr if not line.startswith("import time:")]
    assert child.returncode == code
    assert said == [f"{word}\n"]
