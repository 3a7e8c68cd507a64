"""Evaluation: an exact pass over a split's windows, under the probe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from minigpt.model import GPT
from minigpt.neurons.health import LayerHealth, as_record, dead_fraction, model_health
from minigpt.neurons.knockout import perplexity
from minigpt.neurons.probe import LayerStatistics, NeuronProbe
from minigpt.text.batches import evaluation_batches
from minigpt.training.ranks import ALONE, Ranks
from minigpt.training.runtime import autocast

# Tokens in one forward pass. On a CPU larger batches fall out of the cache and are slower.
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 32_768
# A pass needs about ten bytes for each of its logits.
GPU_BATCH_LOGITS = 1 << 28


@dataclass(frozen=True)
class Evaluation:
    """Loss in nats per token over `tokens` predicted tokens, and the health of every layer on them."""

    split: str
    loss: float
    bits_per_byte: float
    tokens: int
    layers: list[LayerHealth]
    statistics: list[LayerStatistics]

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        return perplexity(self.loss)

    def record(self, step: int) -> dict[str, Any]:
        """The evaluation as `metrics.jsonl` holds it."""
        return {
            "kind": "eval",
            "step": step,
            "split": self.split,
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "dead_fraction": dead_fraction(self.layers),
            "layers": [as_record(layer) for layer in self.layers],
        }


def batch_size(model: GPT) -> int:
    """Windows in one forward pass of an evaluation."""
    on_gpu = min(GPU_BATCH_TOKENS, GPU_BATCH_LOGITS // model.config.vocab_size)
    budget = CPU_BATCH_TOKENS if model.device.type == "cpu" else on_gpu
    return max(1, budget // model.config.block_size)


def merge_over(ranks: Ranks, statistics: list[LayerStatistics]) -> list[LayerStatistics]:
    """What the neurons did on the tokens of all ranks; counts are exact."""
    if ranks.size == 1:
        return statistics
    counts = [value for layer in statistics for value in (torch.tensor(layer.tokens), layer.fired, layer.opened)]
    sums = [value for layer in statistics for value in (layer.sum_h, layer.sum_abs_h, layer.sum_square_h)]
    counts, sums = ranks.sums(counts), ranks.sums(sums)
    columns = [*(counts[column::3] for column in range(3)), *(sums[column::3] for column in range(3))]
    return [LayerStatistics(int(tokens), *others) for tokens, *others in zip(*columns, strict=True)]


@torch.no_grad()
def evaluate(
    model: GPT,
    ids: np.ndarray,
    byte_lengths: np.ndarray,
    *,
    split: str,
    dtype: str,
    limit: int = 0,
    part: str = "all",
    between_batches: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Predict every token of `ids` once and count what the neurons do meanwhile.

    `limit` bounds the tokens; `part` takes every other window only. `between_batches` may raise to stop early.
    Of several ranks each takes its part of the batches; the result is of all.
    Draws no random number and leaves the model's mode as it was.

    Shapes: ids (N,), byte_lengths (V,): the UTF-8 bytes of each token.
    """
    device = model.device
    total_loss = torch.zeros((), dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    total_bytes = total_tokens = 0
    with model.evaluating(), NeuronProbe(model) as probe, autocast(device, dtype):
        batches = evaluation_batches(ids, model.config.block_size, batch_size(model), limit, part)
        for inputs, targets in ranks.deal(batches, between_batches):
            logits = model(inputs.to(device))  # (B,T,V)
            losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten().to(device), reduction="sum")
            total_loss += losses
            total_tokens += targets.numel()
            total_bytes += int(byte_lengths[targets.numpy()].sum())
        statistics = merge_over(ranks, probe.statistics(of_a_part=ranks.size > 1))
    nats = ranks.sums([total_loss])[0].item()
    total_tokens, total_bytes = ranks.sums([torch.tensor([total_tokens, total_bytes])])[0].tolist()
    return Evaluation(
        split=split,
        loss=nats / total_tokens,
        bits_per_byte=nats / math.log(2) / total_bytes if total_bytes else math.nan,
        tokens=total_tokens,
        layers=model_health(model, statistics),
        statistics=statistics,
    )
