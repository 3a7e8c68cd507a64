"""Losses on many parts of the validation text, from which what is chosen on one of them can be judged on the rest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.claims.measurement import Figures, measurement
from minigpt.claims.measurements.reading import batches, precision
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

SIZES = {"1k": 1024, "4k": 4096, "16k": 16_384, "64k": 65_536}  # tokens of a chunk


@measurement("split_losses")
def split_losses(run: OpenedRun, store: TokenStore) -> Figures:
    """Mean loss on each whole chunk of each size, side by side from the start, and on all; in nats per token.

    Keys: `4k/0`, `4k/1`, …; `all`, and `tokens` that this is the mean of.
    """
    losses = _token_losses(run, store)
    figures: Figures = {"all": float(losses.mean()), "tokens": float(len(losses))}
    for name, size in SIZES.items():
        chunks = losses[: len(losses) // size * size].view(-1, size)
        figures |= {f"{name}/{number}": float(loss) for number, loss in enumerate(chunks.mean(dim=1))}
    return figures


@torch.no_grad()
def _token_losses(run: OpenedRun, store: TokenStore) -> Tensor:
    """Loss of each predicted token of the validation text (N,), in its order, float64."""
    device, found = run.model.device, []
    with precision(run):
        for inputs, targets in batches(run.model, store.tokens("val")):
            logits = run.model(inputs.to(device)).float().flatten(0, 1)  # (B·T,V)
            found.append(F.cross_entropy(logits, targets.to(device).flatten(), reduction="none").double().cpu())
    return torch.cat(found)
