"""All parts of a benchmark in their order, and the record that they make: one JSON object.

Ceilings come first, since the others are compared with them. Nothing is written to disk but the prepared text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import torch

from minigpt.base import thread_waiting
from minigpt.base.usable_cores import usable_cores
from minigpt.benchmarks import ceilings
from minigpt.benchmarks.ablation_speed import measure_ablation
from minigpt.benchmarks.audit_speed import measure_audit
from minigpt.benchmarks.bench_options import PEER_ACTIVATION, BenchOptions, Peer
from minigpt.benchmarks.busy import measure_busy
from minigpt.benchmarks.decoding_speed import measure_decoding
from minigpt.benchmarks.instrument import measure_instrument
from minigpt.benchmarks.paired_blocks import Track
from minigpt.benchmarks.parity import measure_parity
from minigpt.benchmarks.programs import read_text
from minigpt.benchmarks.scaling import measure_scaling
from minigpt.benchmarks.startup import measure_start
from minigpt.benchmarks.training_speed import Divisors, measure_training
from minigpt.benchmarks.workers import Task, Worker
from minigpt.interop.export_hf import require_transformers
from minigpt.model import GPT
from minigpt.training import runtime
from minigpt.training.config import RunConfig, with_preset
from minigpt.training.run import model_config

FORMAT_VERSION = 1
COMPARED_WITH_CEILINGS = frozenset({"gemm", "train", "decode", "scaling", "ablation"})
Record = dict[str, Any]


def resolve_preset(preset: str, asked: Mapping[str, Any], peers: Sequence[Peer]) -> RunConfig:
    """The configuration that `train` would have with these flags; beside peers with their activation.

    Raises:
        UsageError: a value is not allowed, or this machine lacks what it needs.
    """
    peers_have = {"activation": PEER_ACTIVATION} if peers else {}
    return runtime.resolve(replace(RunConfig(), **with_preset({**peers_have, **asked, "preset": preset})))


def run_benchmarks(
    parts: Sequence[str],
    configs: Sequence[RunConfig],
    asked: Mapping[str, Any],
    peers: Sequence[Peer],
    options: BenchOptions,
    track: Track,
) -> Record:
    """Measure the parts for every configuration, `asked` being the training flags that were given.

    Raises:
        UsageError: a package that a part needs is missing.
    """
    if "audit" in parts:  # before anything is measured that would be lost
        require_transformers()
    runtime.set_up(configs[0])
    record: Record = {"format": FORMAT_VERSION, "machine": machine(configs[0]), "options": asdict(options)}
    record["notes"] = notes(configs)
    record["presets"] = []
    for config in configs:
        record["presets"].append(_measure_preset(parts, config, asked, peers, options, track))
    return record


def machine(config: RunConfig) -> Record:
    """What was measured on: the processor by its name, versions, revision, command."""
    chosen = {"waiting": thread_waiting.reason(), "cores": usable_cores(), "native_dtype": _native(config)}
    return {**runtime.environment(config.device), **chosen, "device": config.device}


def notes(configs: Sequence[RunConfig]) -> list[str]:
    """What a reader must know before comparing figures."""
    emulated = any(config.dtype == "bfloat16" for config in configs) and _native(configs[0]) != "bfloat16"
    return ["bfloat16 was asked for; this processor has none and emulates it, which is slower"] if emulated else []


def _native(config: RunConfig) -> str:
    return runtime.fastest_dtype(torch.device(config.device))


def _measure_preset(
    parts: Sequence[str],
    config: RunConfig,
    asked: Mapping[str, Any],
    peers: Sequence[Peer],
    options: BenchOptions,
    track: Track,
) -> Record:
    """Measure the parts for one configuration; a part that was not asked for is absent."""
    with runtime.memory_advice(config, accumulate=False):
        text = read_text(config)
        model = _shapes(config, text.vocab_size)
        tokens = config.tokens_per_step
        config = runtime.resolve_compile(config, model.flops_per_token() * tokens)
        found = _described(config, model, text.source)
        if set(parts) & COMPARED_WITH_CEILINGS:
            found["gemm"] = ceilings.measure_ceilings(model, config, _native(config), track)
        if set(parts) & {"train", "decode"}:
            found |= _measure_programs(parts, config, model, asked, peers, options, found["gemm"], track)
        if "instrument" in parts:
            found["instrument"] = measure_instrument(config, text, options, track)
        if "start" in parts:
            found["start"] = measure_start(config, {**asked, "preset": config.preset})
        if "scaling" in parts:
            found["scaling"] = measure_scaling(config, text, found["gemm"][config.dtype]["large"], options, track)
        if "ablation" in parts:
            ceiling, flops = found["gemm"][config.dtype]["ceiling"], model.flops_per_token()
            found["ablation"] = measure_ablation(config, asked, peers, options, flops, ceiling, track)
        if "parity" in parts:
            found["parity"] = measure_parity(config, options, track)
        if "busy" in parts:
            found["busy"] = measure_busy(config, peers, options, track)
        if "audit" in parts:
            found["audit"] = measure_audit(config, options, track)
    return found


def _shapes(config: RunConfig, vocab_size: int) -> GPT:
    """The model without its memory: enough to count with."""
    with torch.device("meta"):
        return GPT(model_config(config, vocab_size), config.seed)


def _described(config: RunConfig, model: GPT, text: str) -> Record:
    shape = ("preset", "activation", "n_layer", "n_head", "n_embd", "block_size", "batch_size", "grad_accumulation")
    how = ("dtype", "compile", "attention")
    chosen = {name: getattr(config, name) for name in (*shape, *how)}
    counted = {"parameters": model.parameter_count(), "flops_per_token": model.flops_per_token()}
    return {**chosen, "vocab_size": model.config.vocab_size, "text": text, **counted}


def _measure_programs(
    parts: Sequence[str],
    config: RunConfig,
    model: GPT,
    asked: Mapping[str, Any],
    peers: Sequence[Peer],
    options: BenchOptions,
    gemm: Record,
    track: Track,
) -> Record:
    """Training and decoding of ours and the peers, each in a process that lives through both."""
    found: Record = {}
    with ExitStack() as stack:
        states = (False, True) if options.peer_best else (False,)
        tasks = [Task(config, asked.get("dtype", "auto"), asked.get("compile", "auto"))]
        tasks += [Task(config, peer=peer, best=best) for peer in peers for best in states]
        workers = [stack.enter_context(Worker(task)) for task in tasks]
        if "train" in parts:
            rates = gemm[config.dtype]
            divisors = Divisors(rates["ceiling"], rates["large"])
            found["train"] = measure_training(workers, options, model.flops_per_token(), divisors, track)
        if "decode" in parts:
            bandwidth = {dtype: gemm[dtype]["read_bandwidth"] for dtype in ceilings.DTYPES if gemm[dtype]}
            found["decode"] = measure_decoding(workers, options, model, bandwidth, track)
    return found
