"""How long cells take on this machine: measured on short trainings that leave nothing behind.

Used to say before an ablation how long it will take, and to give arms equal training time (`--match time`). Timings
never decide what is compared except there, where they are measured once and written into the plan.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.base import storage
from minigpt.base.errors import StorageError
from minigpt.experiments.arms_to_cells import ResolvedArm
from minigpt.experiments.processes import Executor, Job
from minigpt.experiments.run_jobs import Task, run_all
from minigpt.training.config import RunConfig
from minigpt.training.interrupts import StopFlag

_STARTING_SECONDS = 1.0  # opening the text, the first step, the checkpoints: more than this only where steps are few
_WARM_UP = 3
_STEPS = 10
_EVALUATED_WINDOWS = 256
_ROUNDS = 2


@dataclass(frozen=True)
class Pace:
    """Seconds that a step and an evaluated token take, of a training whose operations per token are known."""

    step: float
    evaluated_token: float
    tokens_per_step: int
    flops_per_token: int


def measure(config: RunConfig, result: Path) -> None:
    """Train a few steps in memory and write what a step and an evaluated token take, in seconds."""
    from minigpt.model import GPT
    from minigpt.text.preparation import prepare_text
    from minigpt.training import runtime
    from minigpt.training.evaluation import evaluate
    from minigpt.training.run import assemble, model_config
    from minigpt.training.step import take_step

    runtime.set_up(config)
    store = prepare_text(config)
    model = GPT(model_config(config, store.tokenizer.vocab_size), config.seed).to(config.device)
    trainee, seconds = assemble(config, result.parent, store, model).trainee(), []
    for step in range(_WARM_UP + _STEPS):
        begun = time.perf_counter()
        take_step(trainee, step)
        seconds.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    limit = _EVALUATED_WINDOWS * config.block_size
    lengths = store.tokenizer.byte_lengths()
    evaluation = evaluate(model, store.tokens("val"), lengths, split="val", dtype=config.dtype, limit=limit)
    per_token = (time.perf_counter() - begun) / evaluation.tokens
    storage.write_json(result, {"step": statistics.median(seconds[_WARM_UP:]), "evaluated_token": per_token})


def measure_together(config: RunConfig, flops_per_token: int, executor: Executor, stop: StopFlag) -> Pace:
    """Measure one configuration in every slot at once, as it will be trained; means over the slots.

    Raises:
        MinigptError: a measurement failed; its message says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / f"measured-{slot}.json" for slot in range(executor.free)]
        jobs = [Job(result.stem, measure, (config, result)) for result in results]
        tasks = [Task(job, "a short training", job.name, path.exists) for job, path in zip(jobs, results, strict=True)]
        run_all(tasks, executor, stop, "short trainings")
        found = [storage.read_json(result, StorageError) for result in results]
    step, evaluated = (statistics.fmean(one[name] for one in found) for name in ("step", "evaluated_token"))
    return Pace(step, evaluated, config.tokens_per_step, flops_per_token)


def cell_seconds(config: RunConfig, flops_per_token: int, pace: Pace, val_tokens: int) -> float:
    """Expected duration of a cell, by the operations that it takes and the pace at which another was measured."""
    trained = config.steps * config.tokens_per_step
    evaluations = math.ceil(config.steps / config.eval_every) if config.eval_every else 0
    on_the_way = evaluations * min(val_tokens, config.eval_tokens or val_tokens)
    seconds = trained * pace.step / pace.tokens_per_step + (on_the_way + val_tokens) * pace.evaluated_token
    return _STARTING_SECONDS + seconds * flops_per_token / pace.flops_per_token


def steps_of_equal_time(arms: Sequence[ResolvedArm], executor: Executor, stop: StopFlag) -> dict[str, int]:
    """Steps that give every arm the training time of the first one, each measured in turn, several times over."""
    fastest = {arm.name: math.inf for arm in arms}
    for _ in range(_ROUNDS):
        for arm in arms:
            pace = measure_together(arm.config, arm.flops_per_token, executor, stop)
            fastest[arm.name] = min(fastest[arm.name], pace.step)
    reference = arms[0]
    budget = reference.config.steps * fastest[reference.name]
    return {arm.name: max(1, round(budget / fastest[arm.name])) for arm in arms}
