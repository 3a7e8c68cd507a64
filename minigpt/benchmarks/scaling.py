"""How speed changes with layers, width, context and batch, beside the bound that the number of operations sets.

Around a base each axis varies alone, uncompiled: compiling a point would take longer than measuring it. The bound of
a point is what a large product reaches on this machine over the model's operations for a token, 6N + 12·L·C·T: no
program that computes them all can be faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

from minigpt.base.errors import OutOfMemoryError, is_out_of_memory
from minigpt.benchmarks.bench_options import BenchOptions
from minigpt.benchmarks.paired_blocks import Track, alternate, spread
from minigpt.benchmarks.programs import Text, build_model, trainer
from minigpt.training import runtime
from minigpt.training.config import RunConfig

AXES: dict[str, tuple[int, ...]] = {
    "n_layer": (2, 4, 8, 12),
    "n_embd": (64, 128, 256, 512, 768),
    "block_size": (64, 128, 256, 512, 1024),
    "batch_size": (1, 4, 16, 64),
}
QUICK_AXES: dict[str, tuple[int, ...]] = {
    "n_layer": (2, 8),
    "n_embd": (64, 256),
    "block_size": (64, 256),
    "batch_size": (1, 16),
}
_BLOCKS = 3
_BLOCK_SECONDS = 0.4


@dataclass(frozen=True)
class Point:
    """One model and batch of a curve: `axis` is what varies, `value` what it is here."""

    axis: str
    value: int
    tokens_per_second: float
    bound: float
    flops_per_token: int
    parameters: int
    dtype: str


def measure_scaling(
    base: RunConfig, text: Text, large_rate: float, options: BenchOptions, track: Track
) -> list[dict[str, Any]]:
    """Measure every point of every axis.

    Raises:
        OutOfMemoryError: a point does not fit; names its batch and one to try.
    """
    settings = list(points(base, QUICK_AXES if options.quick else AXES))
    measured = []
    for number in track(range(len(settings)), "scaling"):
        axis, value, config = settings[number]
        measured.append(asdict(_measure(axis, value, config, text, large_rate, options)))
    return measured


def points(base: RunConfig, axes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, int, RunConfig]]:
    """The configurations of all axes; a head keeps its width."""
    head_width = base.n_embd // base.n_head
    for axis, values in axes.items():
        for value in values:
            changed = replace(base, **cast(dict[str, Any], {axis: value}))
            if axis == "n_embd":
                changed = replace(changed, n_head=max(1, value // head_width))
            yield axis, value, runtime.resolve(replace(changed, attention="auto", compile="off"))


def _measure(axis: str, value: int, config: RunConfig, text: Text, large_rate: float, options: BenchOptions) -> Point:
    try:
        model = build_model(config, text.vocab_size)
        train = trainer(config, text, model)
        seconds = _step_seconds(train, options)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = max(1, config.batch_size // 2)
        place = f"{axis.replace('_', '-')} {value}"
        message = f"out of memory; batch-size {config.batch_size} at {place} does not fit; try --batch-size {smaller}"
        raise OutOfMemoryError(message) from error
    flops = model.flops_per_token()
    tokens = config.tokens_per_step
    return Point(axis, value, tokens / seconds, large_rate / flops, flops, model.parameter_count(), config.dtype)


def _step_seconds(train: Callable[[int], float], options: BenchOptions) -> float:
    """Median time of a step, in blocks about as long as `_BLOCK_SECONDS`."""
    train(1)  # what is done only once
    once = _seconds(train, 1)
    steps = max(1, min(options.steps_per_block, math.ceil(_BLOCK_SECONDS / once)))
    (blocks,) = alternate([partial(_seconds, train, steps)], range(min(_BLOCKS, options.blocks)))
    return spread(blocks).median / steps


def _seconds(train: Callable[[int], float], steps: int) -> float:
    begun = time.perf_counter()
    train(steps)
    return time.perf_counter() - begun
