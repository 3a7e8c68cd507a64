"""Training speed: ours and the peers' in turn, and what of the machine's ceiling ours reaches.

MFU is the model's operations, 6N + 12·L·C·T a token, over what a large square product reaches on this machine; the
share of the ceiling is the same over the products of the model's own shapes. Both are of the precision that is trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from minigpt.base.errors import OutOfMemoryError
from minigpt.benchmarks import peers
from minigpt.benchmarks.bench_options import BenchOptions
from minigpt.benchmarks.paired_blocks import Track, alternate, paired_ratio, spread
from minigpt.benchmarks.workers import Task, Worker


@dataclass(frozen=True)
class Divisors:
    """FLOP/s that a training is compared with: of the model's products, and of a large one."""

    ceiling: float
    large: float


def measure_training(
    workers: Sequence[Worker], options: BenchOptions, flops_per_token: int, divisors: Divisors, track: Track
) -> dict[str, Any]:
    """Train all programs in turn; the first one is ours.

    Raises:
        OutOfMemoryError: a step of ours does not fit; names the batch size that does.
    """
    ours = workers[0]
    config = ours.task.config
    first_step = _first_step(ours)
    for worker in workers:
        worker.train(options.steps_per_block)
    programs = [partial(_train, worker, options.steps_per_block) for worker in workers]
    blocks = track(range(options.blocks), f"training {config.preset}")
    seconds = alternate(programs, blocks)
    tokens = config.tokens_per_step
    step = spread([block / options.steps_per_block for block in seconds[0]])
    rate = tokens / step.median
    return {
        "preset": config.preset,
        "first_step_seconds": first_step,
        "step_seconds": asdict(step),
        "tokens_per_step": tokens,
        "tokens_per_second": rate,
        "flops_per_token": flops_per_token,
        "flops_per_second": rate * flops_per_token,
        "share_of_ceiling": rate * flops_per_token / divisors.ceiling,
        "mfu": rate * flops_per_token / divisors.large,
        "peak_memory_bytes": ours.peak_memory_bytes(),
        "peers": [
            _compared(worker, spread(block).median / options.steps_per_block, seconds[0], block, tokens)
            for worker, block in zip(workers[1:], seconds[1:], strict=True)
        ],
    }


def _train(worker: Worker, steps: int) -> float:
    return worker.train(steps).seconds


def _first_step(ours: Worker) -> float:
    """Seconds of the first step, including what is compiled for it."""
    try:
        return ours.train(1).seconds
    except OutOfMemoryError as error:
        size = ours.task.config.batch_size
        fits = largest_fitting(ours.task)
        advice = f"{fits} fits: --batch-size {fits}" if fits else "not even 1 fits; use a smaller model"
        raise OutOfMemoryError(f"out of memory; batch-size {size} does not fit; {advice}") from error


def largest_fitting(task: Task) -> int:
    """The largest half, quarter and so on of the batch of which one step fits; 0 if not even one window does."""
    size = task.config.batch_size // 2
    while size:
        smaller = replace(task, config=replace(task.config, batch_size=size))
        with contextlib.suppress(OutOfMemoryError), Worker(smaller) as worker:
            worker.train(1)
            return size
        size //= 2
    return 0


def _compared(
    worker: Worker, step_seconds: float, ours: Sequence[float], theirs: Sequence[float], tokens: int
) -> dict[str, Any]:
    """A peer's figures, and how many times faster ours is."""
    return {
        **describe_peer(worker.task),
        "step_seconds": step_seconds,
        "tokens_per_second": tokens / step_seconds,
        "ratio": asdict(paired_ratio(theirs, ours)),
        "peak_memory_bytes": worker.peak_memory_bytes(),
    }


def describe_peer(task: Task) -> dict[str, Any]:
    """Who a peer is and how it runs."""
    assert task.peer is not None
    how = peers.setting(task.peer, task.config.device, task.best)
    state = "at its best" if task.best else "as shipped"
    return {"peer": task.peer.name, "path": task.peer.path or None, "state": state, "how": str(how)}
