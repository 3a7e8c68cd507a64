"""What measurements share: batches of a run's text, and losses, in the precision that it was trained in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from minigpt.model import GPT
from minigpt.neurons.knockout import Batch
from minigpt.text.batches import evaluation_batches
from minigpt.text.store import TokenStore
from minigpt.training import runtime
from minigpt.training.evaluation import batch_size
from minigpt.training.inference import OpenedRun

Figures = dict[str, float | None]
Measure = Callable[[OpenedRun, TokenStore], Figures]
PairMeasure = Callable[[OpenedRun, TokenStore, OpenedRun], Figures]


def batches(model: GPT, ids: np.ndarray, limit: int = 0) -> list[Batch]:
    """Windows spread evenly over `ids`, about `limit` tokens of them, in the batches that are fastest to evaluate."""
    return list(evaluation_batches(ids, model.config.block_size, batch_size(model), limit))


def precision(run: OpenedRun) -> AbstractContextManager[Any]:
    """The run's own precision around a forward pass."""
    return runtime.autocast(run.model.device, run.config.dtype)


@torch.no_grad()
def mean_loss(run: OpenedRun, read: list[Batch]) -> float:
    """Mean loss of the run's model in nats per token."""
    total, tokens = 0.0, 0
    with precision(run):
        for inputs, targets in read:
            logits = run.model(inputs.to(run.model.device)).float().flatten(0, 1)  # (B·T,V)
            total += F.cross_entropy(logits, targets.to(run.model.device).flatten(), reduction="sum").item()
            tokens += targets.numel()
    return total / tokens
