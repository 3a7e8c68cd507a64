"""How long cells take on this machine: measured on short trainings that leave nothing behind.

Used to say before an ablation how long it will take, and to give arms equal training time (`--match time`). Timings
never decide what is compared except there, where they are measured once and written into the plan.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from minigpt.base import storage
from minigpt.base.errors import StorageError, error_of
from minigpt.experiments.plan import ResolvedArm
from minigpt.experiments.processes import Executor, Job
from minigpt.training.config import RunConfig

STARTING_SECONDS = 1.0  # opening the text, the first step, the checkpoints: more than this only where steps are few
_WARM_UP = 3
_STEPS = 10
_EVALUATED_WINDOWS = 256
_ROUNDS = 2


def measure(config: RunConfig, result: Path) -> None:
    """Train a few steps in memory and write what a step and an evaluated token take, in seconds."""
    from minigpt.model import GPT
    from minigpt.text.batches import near
    from minigpt.text.preparation import prepare_text
    from minigpt.training import runtime
    from minigpt.training.evaluation import evaluate
    from minigpt.training.run import assemble, model_config
    from minigpt.training.step import take_step

    runtime.set_up(config)
    store = prepare_text(config)
    model = GPT(model_config(config, store.tokenizer.vocab_size), config.seed).to(config.device)
    run = assemble(config, result.parent, store, model)
    ids, seconds = near(store.tokens("train"), model.device), []
    for step in range(_WARM_UP + _STEPS):
        begun = time.perf_counter()
        take_step(model, run.forward, run.optimizer, ids, config, step, lambda: None)
        seconds.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    limit = _EVALUATED_WINDOWS * config.block_size
    lengths = store.tokenizer.byte_lengths()
    evaluation = evaluate(model, store.tokens("val"), lengths, split="val", dtype=config.dtype, limit=limit)
    per_token = (time.perf_counter() - begun) / evaluation.tokens
    storage.write_json(result, {"step": statistics.median(seconds[_WARM_UP:]), "evaluated_token": per_token})


def measure_together(config: RunConfig, executor: Executor, folder: Path) -> dict[str, float]:
    """Measure one configuration in every slot at once, as it will be trained, and return the means.

    Raises:
        MinigptError: a measurement failed; its message says why.
    """
    results = [folder / f"measured-{slot}.json" for slot in range(executor.free)]
    for result in results:
        executor.start(Job(result.stem, measure, (config, result)))
    waiting = len(results)
    while waiting:
        for ended in executor.ended(1.0):
            waiting -= 1
            if ended.exit_code:
                raise error_of(ended.exit_code, f"cannot measure a short training; {ended.message}")
    found = [storage.read_json(result, StorageError) for result in results]
    return {name: statistics.fmean(one[name] for one in found) for name in ("step", "evaluated_token")}


def cell_seconds(arm: ResolvedArm, reference: ResolvedArm, measured: Mapping[str, float], val_tokens: int) -> float:
    """Expected duration of a cell, from what the reference's step took and the operations that this arm's takes."""
    config = arm.config
    cost = arm.flops_per_token * arm.tokens_per_step / (reference.flops_per_token * reference.tokens_per_step)
    on_the_way = math.ceil(config.steps / config.eval_every) * min(val_tokens, config.eval_tokens or val_tokens)
    evaluated = (on_the_way + val_tokens) * arm.flops_per_token / reference.flops_per_token
    return STARTING_SECONDS + config.steps * measured["step"] * cost + evaluated * measured["evaluated_token"]


def steps_of_equal_time(arms: Sequence[ResolvedArm], executor: Executor, folder: Path) -> dict[str, int]:
    """Steps that give every arm the training time of the first one, each measured in turn, several times over."""
    fastest = {arm.name: math.inf for arm in arms}
    for _ in range(_ROUNDS):
        for arm in arms:
            step = measure_together(arm.config, executor, folder)["step"]
            fastest[arm.name] = min(fastest[arm.name], step)
    reference = arms[0]
    budget = reference.config.steps * fastest[reference.name]
    return {arm.name: max(1, round(budget / fastest[arm.name])) for arm in arms}
