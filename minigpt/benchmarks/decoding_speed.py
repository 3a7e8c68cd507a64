"""Decoding speed: one token continued within the context, ours and the peers' in turn.

A step of one token must read all weights that take part in products, and the keys and values of every sample so far.
These bytes over the time say what bandwidth was reached; the machine's own is measured in `ceilings.py`. A model that
fits into a cache can exceed it.

Ours is timed from the second token on. The first comes apart, as does, once, the first of all, with whatever is
prepared or compiled for it. Of another program the whole call counts: it prepares nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import nn

from minigpt.benchmarks.bench_options import BenchOptions
from minigpt.benchmarks.ceilings import DTYPES
from minigpt.benchmarks.paired_blocks import Track, alternate, paired_ratio, spread
from minigpt.benchmarks.training_speed import describe_peer
from minigpt.benchmarks.workers import Worker
from minigpt.model import GPT

SAMPLES = (1, 8)
LEAST_TOKENS = 2


def measure_decoding(
    workers: Sequence[Worker], options: BenchOptions, model: GPT, bandwidth: Mapping[str, float], track: Track
) -> list[dict[str, Any]]:
    """Fill the context from one token on, with each number of samples, all programs in turn; the first one is ours."""
    return [_measure(workers, options, model, bandwidth, track, samples) for samples in SAMPLES]


def _measure(
    workers: Sequence[Worker],
    options: BenchOptions,
    model: GPT,
    bandwidth: Mapping[str, float],
    track: Track,
    samples: int,
) -> dict[str, Any]:
    config = workers[0].task.config
    tokens = max(LEAST_TOKENS, config.block_size - 1)
    firsts: list[float] = []
    programs = [partial(_seconds_per_token, worker, samples, tokens, firsts) for worker in workers]
    for program in programs:
        program()
    prepared = firsts.pop()
    seconds = alternate(programs, track(range(options.blocks), f"decoding {config.preset}, {samples} at once"))
    taken = spread(seconds[0])
    dtype, compiled = workers[0].decoding(tokens)
    moved = bytes_per_token(model, samples, tokens, DTYPES[dtype].itemsize)
    return {
        "preset": config.preset,
        "samples": samples,
        "tokens": tokens,
        "dtype": dtype,
        "compiled": compiled,
        "prepared_seconds": prepared,
        "first_token_seconds": spread(firsts).median,
        "token_seconds": asdict(taken),
        "tokens_per_second": samples / taken.median,
        "bytes_per_token": moved,
        "share_of_bandwidth": moved / taken.median / bandwidth[dtype],
        "peers": [
            {
                **describe_peer(worker.task),
                "tokens_per_second": samples / spread(block).median,
                "ratio": asdict(paired_ratio(block, seconds[0])),
            }
            for worker, block in zip(workers[1:], seconds[1:], strict=True)
        ],
    }


def _seconds_per_token(worker: Worker, samples: int, tokens: int, firsts: list[float]) -> float:
    """Time of a token; where the first one came by itself, what it took goes to `firsts`."""
    timed = worker.decode(samples, tokens)
    if timed.returned is None:
        return timed.seconds / tokens
    firsts.append(timed.returned)
    return (timed.seconds - timed.returned) / (tokens - 1)


def bytes_per_token(model: GPT, samples: int, tokens: int, width: int) -> int:
    """Bytes that one step reads on average while `tokens` are added to a first one: weights once, each cache so far.

    `width` is that of a number, in bytes.
    """
    config = model.config
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    mean_length = (tokens + 1) / 2
    return round(width * (weights + samples * 2 * config.n_layer * config.n_embd * mean_length))
