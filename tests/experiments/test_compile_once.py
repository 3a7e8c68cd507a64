"""An architecture is compiled once, before processes are forked, and they inherit it with the same bits."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from child_processes import needs_fork
from run_files import summary

from minigpt.base.errors import StopRequestedError
from minigpt.experiments import compile_once
from minigpt.experiments.arms_to_cells import named_cell
from minigpt.experiments.cells import Cell, train_cell
from minigpt.experiments.processes import LocalExecutor
from minigpt.experiments.run_jobs import train_all
from minigpt.text.preparation import prepare_text
from minigpt.training.config import RunConfig
from minigpt.training.interrupts import StopFlag, StoppedWhileCompiling
from minigpt.training.loop import train
from minigpt.training.run_directory import located
from minigpt.training.runtime import missing_compiler, resolve

BASE = RunConfig(
    corpus="text.txt", n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4, steps=6, eval_every=6, lr=1e-2,
    log_every=1, threads=1, device="cpu", dtype="float32", compile="off",
)  # fmt: skip


def cells(*changes: dict[str, Any], how: str = "on", folder: str = "cells") -> list[Cell]:
    base = located(resolve(BASE))
    data = prepare_text(base).sha256
    return [named_cell("arm", replace(base, compile=how, **change), data, folder) for change in changes]


def threads_here() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.fixture
def compiled(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """What is given to torch to compile, which here leaves it as it is."""
    found: list[torch.nn.Module] = []
    monkeypatch.setattr(compile_once, "_compiled", set())
    monkeypatch.setattr(torch, "compile", lambda model, **_: found.append(model) or model)
    return found


def test_each_architecture_is_compiled_once(compiled: list) -> None:
    """Not for each seed, rate or initial scale; not again when tuning is over; and only where it was decided."""
    seeds = [{"seed": seed, "lr": 0.1 / (1 + seed), "init": init} for seed in (1, 2) for init in ("gpt2", "matched")]
    others = [{"activation": "gelu"}, {"batch_size": 3}]
    compile_once.compile_once(cells(*seeds, *others), StopFlag())
    assert len(compiled) == 3
    compile_once.compile_once(cells({"seed": 9}, {"activation": "gelu", "seed": 9}), StopFlag())
    compile_once.compile_once(cells({"n_embd": 32}, how="off"), StopFlag())
    compile_once.compile_once(cells({"n_embd": 32, "threads": 2}), StopFlag())
    assert len(compiled) == 3


def test_a_compiler_that_fails_stops_nothing(
    compiled: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The processes are started all the same; each tells of its own failure."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no space left")

    monkeypatch.setattr(torch, "compile", fail)
    compile_once.compile_once(cells({}), StopFlag())
    assert "not compiled before the start; RuntimeError: no space left" in capsys.readouterr().err


def test_a_signal_while_it_compiles_is_a_stop(compiled: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was reported as a bug of ours."""
    stop = StopFlag()

    def interrupted(*_: object, **__: object) -> None:
        stop.signal_number = signal.SIGTERM
        raise StoppedWhileCompiling(signal.SIGTERM)

    monkeypatch.setattr(torch, "compile", interrupted)
    with pytest.raises(StopRequestedError):
        compile_once.compile_once(cells({}), stop)


@needs_fork
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, when its compiler is imported
@pytest.mark.skipif(bool(missing_compiler()), reason="no compiler")
def test_inherited_code_gives_the_bits_of_a_cell_compiled_alone(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two architectures; no worker compiles, this process gets no thread, and a restarted worker inherits too."""
    together = cells({"seed": 1}, {"seed": 2}, {"activation": "swiglu"}, {"activation": "swiglu", "seed": 3})
    killed = Path("killed")

    def deadly(cell: Cell) -> None:
        from torch._dynamo.utils import counters

        if cell is together[0] and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), 9)
        before = counters["stats"]["unique_graphs"]
        assert before == 2
        train_cell(cell)
        assert counters["stats"]["unique_graphs"] == before

    monkeypatch.setattr("minigpt.experiments.run_jobs.train_cell", deadly)
    executor = LocalExecutor(2, workplace / "logs")
    threads = threads_here()
    train_all(together, executor, StopFlag())
    assert threads_here() <= threads
    torch._dynamo.reset()
    for cell in together:
        alone = Path(f"alone-{cell.id}")
        train(cell.config, alone, quiet=True)
        assert summary(alone)["parameters_sha256"] == summary(cell.directory)["parameters_sha256"]
