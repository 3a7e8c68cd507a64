"""How logits depend on the input: how far from linearly, and whether on tokens that come after."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from minigpt.claims.measurements.batches_and_losses import Figures
from minigpt.model import GPT
from minigpt.parts.variants import BatchNorm
from minigpt.text.batches import gather
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

LINEARITY_WINDOWS = 16
CAUSALITY_WINDOWS = 12


def _in_float64(run: OpenedRun, store: TokenStore, windows: int) -> tuple[GPT, Tensor]:
    """A copy of the run's model, and windows (B,T) spread evenly over its validation text."""
    ids, block = store.tokens("val"), run.config.block_size
    inputs, _ = gather(ids, torch.linspace(0, len(ids) - block - 1, windows).long(), block)
    return copy.deepcopy(run.model).cpu().double(), inputs


# ----------------------------------------------------------------------------------------------------------- linearity


def linearity(run: OpenedRun, store: TokenStore) -> Figures:
    """Relative error of superposition, f(a+b) + f(0) against f(a) + f(b), f being logits of embeddings.

    a and b are what the blocks read of two windows of validation text; the error is 0 for an affine f.
    """
    model, inputs = _in_float64(run, store, 2 * LINEARITY_WINDOWS)
    a, b = model.embed(inputs).detach().chunk(2)  # each (B,T,C)
    return {"error": superposition_error(model, a, b)}


@torch.no_grad()
def superposition_error(model: GPT, a: Tensor, b: Tensor) -> float:
    """Size of f(a+b) − f(a) − f(b) + f(0), relative to f(a) + f(b) − 2 f(0), which a and b change together."""
    of_a, of_b, of_both, of_none = (model.logits(x) for x in (a, b, a + b, torch.zeros_like(a)))
    together = of_a + of_b - 2 * of_none
    return float((of_both - of_none - together).norm() / together.norm())


# ----------------------------------------------------------------------------------------------------------- causality


def causality(run: OpenedRun, store: TokenStore) -> Figures:
    """Largest change of any logit when only later tokens change: as in training, and as in use; in float64.

    Of what training does otherwise, only BatchNorm's statistics of the batch are looked at, not dropout.
    """
    model, inputs = _in_float64(run, store, CAUSALITY_WINDOWS)
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
