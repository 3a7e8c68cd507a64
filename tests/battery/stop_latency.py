"""SIGTERM at a random moment of a training: it commits, and is gone within a batch and a save."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from child_processes import Child, await_that, begin_child, is_running, newest_step, processor_seconds, serving, told
from run_files import summary

from battery.grounds import quietly, surely, workplace
from battery.tallies import Figure, Tally, percentile
from minigpt.training import checkpoints, loop

# A batch takes long enough here to be told from the end of a process.
SIZE = "--n-layer 4 --n-head 4 --n-embd 96 --block-size 64 --batch-size 16 --dtype float32 --threads 1 --compile off"
FLAGS = f"train --corpus text.txt {SIZE} --log-every 1 --eval-every 3 --checkpoint-every 2 --lr 1e-3"
LONGEST_WAIT = 1.0  # seconds from the first step to the signal


def run(count: int, seed: int, place: Path) -> list[Figure]:
    """Stop `count` trainings, in steps, evaluations and saves alike."""
    commits = Tally("stop_latency", "SIGTERM in any phase: ends with 143 and a checkpoint of its last step", seed)
    latencies = Tally("stop_latency", "processor time from SIGTERM to the end: p99 within a batch and a save", seed)
    chance, waited, saving = random.Random(seed), [], 0
    with workplace(place) as patch, serving() as ask:
        batch, save = _costs(patch)
        for number in range(count):
            out, phases = Path(f"run-{number}"), Path(f"phases-{number}")
            child = begin_child(ask, place, f"{FLAGS} --steps 100000 --out {out}", announce=[str(phases)])
            await_that(lambda words=phases: "saved 0" in told(words), "the first checkpoint")
            time.sleep(chance.uniform(0, LONGEST_WAIT))
            saving += told(phases)[-1].startswith(("saving", "committed"))
            waited.append(_seconds_to_stop(child))
            fault = _fault(child.wait(), out)
            commits.judge(not fault, f"signal {number} of seed {seed}: {fault}")
    slow, bound = percentile(waited, 0.99), batch + save
    latencies.judge(slow <= bound, f"p99 {slow:.3f} s, a batch and a save {bound:.3f} s")
    latencies.count = count
    commits.note = f"{saving} in a save"
    latencies.note = f"p99 {1000 * slow:.0f} ms; a batch {1000 * batch:.0f} ms, a save {1000 * save:.0f} ms"
    return [commits.figure(), latencies.figure()]


def _seconds_to_stop(child: Child) -> float:
    """Send SIGTERM and wait for the end; the processor time that it took, which other processes do not prolong."""
    before = processor_seconds(child.pid)
    child.signal(signal.SIGTERM)
    await_that(lambda: not is_running(child.pid), "the end")
    return processor_seconds(child.pid) - before


def _costs(patch: pytest.MonkeyPatch) -> tuple[float, float]:
    """The longest of a few batches and of a few saves, in seconds of processor time."""
    batches: list[float] = []
    saves: list[float] = []

    def timed(original: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begun = time.process_time()
            result = original(*arguments, **options)
            seconds.append(time.process_time() - begun)
            return result

        return call

    with patch.context() as inner:
        inner.setattr(checkpoints, "save", timed(checkpoints.save, saves))
        inner.setattr(loop, "take_step", timed(loop.take_step, batches))
        surely(f"{FLAGS} --steps 8 --out measured")
    return max(batches), max(saves)


def _fault(code: int, out: Path) -> str:
    if code != 128 + signal.SIGTERM:
        return f"it ended with {code}"
    stopped = summary(out)
    if stopped["status"] != "stopped" or newest_step(out) != stopped["steps"]:
        return f"{stopped['status']} at step {stopped['steps']}, the newest checkpoint is of {newest_step(out)}"
    code, printed = quietly(f"verify {out}")
    return f"verify ends with {code}: {printed}" if code else ""
