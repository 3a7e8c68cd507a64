"""How long a training step takes with each activation, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from minigpt.claims.measurements.batches_and_losses import Figures
from minigpt.model import GPT
from minigpt.text.batches import near
from minigpt.text.store import TokenStore
from minigpt.training.config import RunConfig
from minigpt.training.inference import OpenedRun
from minigpt.training.optimizers import build_optimizer
from minigpt.training.run import model_config
from minigpt.training.step import Trainee, take_step

ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "reglu", "geglu", "swiglu")
# With 20 rounds of 4 steps ReLU beside itself differs by 1.5 % on a shared machine, where 1 % is allowed.
ROUNDS = 96
STEPS = 2


def speed(run: OpenedRun, store: TokenStore) -> Figures:
    """Milliseconds a step of each activation at equal parameters, and the share that it takes longer than ReLU.

    Rounds of a few steps, every activation in each, so that whatever slows the machine slows all; ratios are medians
    over rounds. Untrained models: what a step costs does not depend on the weights. Two controls go along: the same
    ReLU model `again`, and one a quarter `wider`.
    """
    configs = {spec: replace(run.config, activation=spec) for spec in ACTIVATIONS}
    relu = configs["relu"]
    configs |= {"again": relu, "wider": replace(relu, d_ff=5 * relu.n_embd)}
    steps = {spec: _stepper(config, store) for spec, config in configs.items()}
    times: dict[str, list[float]] = {spec: [] for spec in steps}
    for round_number in range(ROUNDS + 1):
        for spec, step in steps.items():
            begun = time.perf_counter()
            for number in range(STEPS):
                step(round_number * STEPS + number)
            times[spec].append((time.perf_counter() - begun) / STEPS)
    warm = {spec: found[1:] for spec, found in times.items()}
    ratios = {
        spec: statistics.median(a / b for a, b in zip(found, warm["relu"], strict=True)) for spec, found in warm.items()
    }
    figures: Figures = {f"{spec}/ms": 1000 * statistics.median(found) for spec, found in warm.items()}
    return figures | {f"{spec}/longer": ratio - 1 for spec, ratio in ratios.items()}


def _stepper(config: RunConfig, store: TokenStore) -> Callable[[int], object]:
    """A fresh model and the function that trains it one step."""
    model = GPT(model_config(config, store.tokenizer.vocab_size), config.seed).to(config.device).train()
    ids = near(store.tokens("train"), model.device)
    trainee = Trainee(model, model, build_optimizer(model, config), ids, config)
    return lambda step: take_step(trainee, step)
