"""How high the loss rises on the straight line between two trained models of one shape.

Source: the loss barrier of Frankle et al. 2020, arXiv:1912.05671, without matching neurons to each other first.
"""

from __future__ import annotations

import copy

import torch

from minigpt.claims.measurements.batches_and_losses import Figures, batches, mean_loss
from minigpt.model import GPT
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

BARRIER_TOKENS = 32_768
BETWEEN = (0.25, 0.5, 0.75)


def loss_barrier(run: OpenedRun, store: TokenStore, other: OpenedRun) -> Figures:
    """Losses at both ends, and the largest rise above the straight line between them; `run` is left as it was."""
    read = batches(run.model, store.tokens("val"), BARRIER_TOKENS)
    begin = copy.deepcopy(run.model)
    here, there = mean_loss(run, read), mean_loss(other, read)
    rises = []
    for share in BETWEEN:
        interpolate(run.model, begin, other.model, share)
        rises.append(mean_loss(run, read) - ((1 - share) * here + share * there))
    interpolate(run.model, begin, other.model, 0.0)
    return {"loss": here, "other_loss": there, "barrier": max(rises), "apart": abs(here - there)}


@torch.no_grad()
def interpolate(model: GPT, begin: GPT, end: GPT, share: float) -> None:
    """Give a model the weights at this share of the way from one model to the other."""
    for parameter, first, last in zip(model.parameters(), begin.parameters(), end.parameters(), strict=True):
        parameter.copy_(torch.lerp(first, last, share))
