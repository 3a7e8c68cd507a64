"""What watching the neurons costs: training with and without it, and an evaluation with and without the probe.

Both sides alternate inside this process. Watching a training is what a logged step does more: it reads the gradients,
keeps the life table and writes its figures into the log.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from minigpt.base import storage
from minigpt.benchmarks.bench_options import BenchOptions
from minigpt.benchmarks.paired_blocks import Track, alternate, paired_ratio, spread
from minigpt.benchmarks.programs import Text, build_model
from minigpt.model import GPT
from minigpt.neurons.health import model_health
from minigpt.neurons.life import LifeTable, silent_counts
from minigpt.neurons.probe import NeuronProbe
from minigpt.text.batches import evaluation_batches, near
from minigpt.training.config import RunConfig
from minigpt.training.evaluation import batch_size
from minigpt.training.loop import is_due
from minigpt.training.optimizers import build_optimizer
from minigpt.training.runtime import autocast, forward_of
from minigpt.training.step import Trainee, take_step

EVALUATED_TOKENS = 16_384


def measure_instrument(config: RunConfig, text: Text, options: BenchOptions, track: Track) -> dict[str, Any]:
    """Measure both costs; ratios are time with over time without."""
    model = build_model(config, text.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        interval = _training(config, text, model, Path(folder) / "metrics.jsonl")
        watched, alone = (partial(interval, options.steps_per_block, watch) for watch in (True, False))
        watched()
        training = alternate((watched, alone), track(range(options.blocks), f"instrument {config.preset}, training"))
    probed, plain = (partial(_evaluation_seconds, config, text, model, watch) for watch in (True, False))
    probed()
    evaluation = alternate((probed, plain), track(range(options.blocks), f"instrument {config.preset}, evaluation"))
    return {
        "preset": config.preset,
        "log_every": config.log_every,
        "training_ratio": asdict(paired_ratio(*training)),
        "evaluation_ratio": asdict(paired_ratio(*evaluation)),
        "evaluated_tokens": min(EVALUATED_TOKENS, len(text.ids) - 1),
        "evaluation_seconds": spread(evaluation[0]).median,
        "evaluation_seconds_without": spread(evaluation[1]).median,
    }


def _training(config: RunConfig, text: Text, model: GPT, log: Path) -> Callable[[int, bool], float]:
    """A function that takes N further steps, watched or not, and returns the seconds."""
    optimizer, ids = build_optimizer(model, config), near(text.ids, model.device)
    trainee = Trainee(model, forward_of(model, config.compile), optimizer, ids, config)
    life, counter = LifeTable(model), itertools.count()

    def interval(steps: int, watched: bool) -> float:
        begun = time.perf_counter()
        for number in range(1, steps + 1):
            step, logged = next(counter), is_due(config.log_every, number, steps)
            result = take_step(trainee, step, watch_neurons=watched and logged)
            if not logged:
                continue
            record: dict[str, Any] = {"kind": "train", "step": step, "loss": result.loss, "lr": result.lr}
            revivals: list[dict[str, Any]] = []
            if result.gradients is not None:
                revivals = life.see_step(step, result.gradients)
                record |= {"silent": silent_counts(result.gradients), "trapped": life.trapped_counts()}
            for line in (record, *revivals):
                storage.append_json_line(log, line)
        return time.perf_counter() - begun

    return interval


@torch.no_grad()
def _evaluation_seconds(config: RunConfig, text: Text, model: GPT, watched: bool) -> float:
    """Predict some tokens once, under the probe or without it; figures of the probe included."""
    begun = time.perf_counter()
    total = torch.zeros((), device=model.device)
    with contextlib.ExitStack() as stack, autocast(model.device, config.dtype):
        probe = stack.enter_context(NeuronProbe(model)) if watched else None
        for inputs, targets in evaluation_batches(text.ids, config.block_size, batch_size(model), EVALUATED_TOKENS):
            logits = model(inputs.to(model.device))  # (B,T,V)
            total += F.cross_entropy(logits.float().flatten(0, 1), targets.flatten().to(model.device), reduction="sum")
        if probe is not None:
            model_health(model, probe.statistics())
    total.item()
    return time.perf_counter() - begun
