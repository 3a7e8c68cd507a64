"""Compiling before processes are forked: they inherit the code, and none of them compiles again.

torch finds compiled code by that of the model's forward pass and by conditions on the model's structure, shapes and
mode, not by which model it is. So one step of a model that is then forgotten serves every cell of its architecture,
also in a process that replaces one that was killed. The bits are those of a cell that compiled by itself.

Which cells are compiled is not decided here (`arms_to_cells.py`), and here nothing depends on time.
"""

from __future__ import annotations

import gc
from collections.abc import Hashable, Iterable
from dataclasses import fields, replace
from pathlib import Path

import torch
from tqdm import tqdm

from minigpt.experiments.cells import Cell
from minigpt.parts.architecture import Architecture
from minigpt.training.config import RunConfig
from minigpt.training.interrupts import StopFlag, StoppedWhileCompiling
from minigpt.training.terminal import print_notice

# What compiled code depends on besides the architecture, of which the initial weights are no part.
_ALSO = ("batch_size", "dtype", "attention", "deterministic")
_NO_PART = frozenset({"init", "init_bias"})
_compiled: set[Hashable] = set()


def compile_once(cells: Iterable[Cell], stop: StopFlag) -> None:
    """Compile each architecture of these cells that will be compiled, for the processes forked from this one.

    Where cells have several threads each process compiles for itself: one that has used threads cannot be forked.

    Raises:
        StopRequestedError: a signal arrived.
    """
    wanted = {
        _code_of(cell): cell.config
        for cell in cells
        if (cell.config.compile, cell.config.device, cell.config.threads) == ("on", "cpu", 1)
    }
    todo = {code: config for code, config in wanted.items() if code not in _compiled}
    if not todo:
        return
    _keep_without_threads(len(_compiled) + len(todo))
    for code, config in tqdm(todo.items(), desc="compiling", unit="model", disable=None, leave=False):
        stop.check()
        try:
            _take_a_step(config)
        except (Exception, StoppedWhileCompiling) as error:
            stop.check()  # which may be what ended the compiler; of all else the processes will say what they met
            print_notice(f"note: not compiled before the start; {type(error).__name__}: {error}")
            return
        _compiled.add(code)
    gc.collect()
    gc.freeze()  # else each process's first collection copies the pages of all that was imported


def _code_of(cell: Cell) -> Hashable:
    names = [item.name for item in fields(Architecture) if item.name not in _NO_PART] + list(_ALSO)
    return cell.identity["data"], *(getattr(cell.config, name) for name in names)


def _keep_without_threads(models: int) -> None:
    """Let torch compile in this thread, and keep the code of all models: beyond a limit it would stop compiling."""
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    inductor.compile_threads = 1
    dynamo.recompile_limit = max(dynamo.recompile_limit, models + 1)


def _take_a_step(config: RunConfig) -> None:
    """Train a model for one step, as a cell would begin, and forget it."""
    from minigpt.model import GPT
    from minigpt.text.preparation import prepare_text
    from minigpt.training import runtime
    from minigpt.training.run import assemble, model_config
    from minigpt.training.step import take_step

    runtime.set_up(config)
    store = prepare_text(config)
    model = GPT(model_config(config, store.tokenizer.vocab_size), config.seed)
    take_step(assemble(replace(config, grad_accumulation=1), Path(), store, model).trainee(), 0)
    assert torch.get_num_threads() == 1
