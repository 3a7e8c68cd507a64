"""Whether a prediction depends on tokens that come after it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from minigpt.claims.measurement import Figures, measurement
from minigpt.model import GPT
from minigpt.parts.variants import BatchNorm
from minigpt.text.batches import gather
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

WINDOWS = 12


@measurement("causality")
def causality(run: OpenedRun, store: TokenStore) -> Figures:
    """Largest change of any logit when only later tokens change: as in training, and as in use; in float64.

    Of what training does otherwise, only BatchNorm's statistics of the batch are looked at, not dropout.
    """
    ids = store.tokens("val")
    starts = torch.linspace(0, len(ids) - run.config.block_size - 1, WINDOWS).long()
    inputs, _ = gather(ids, starts, run.config.block_size)
    model = copy.deepcopy(run.model).cpu().double()
    in_use = leak(model, inputs)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.train()
    return {"training": leak(model, inputs), "evaluation": in_use}


@torch.no_grad()
def leak(model: GPT, inputs: Tensor) -> float:
    """Largest change of the logits of the first half of windows (B,T) when their second half is another token each."""
    half = inputs.size(1) // 2
    changed = inputs.clone()
    changed[:, half:] = (changed[:, half:] + 1) % model.config.vocab_size
    return float((model(changed) - model(inputs))[:, :half].abs().max())
