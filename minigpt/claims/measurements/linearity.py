"""How far a trained model is from a linear function of its input."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from minigpt.claims.measurement import Figures, measurement
from minigpt.model import GPT
from minigpt.text.batches import gather
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

WINDOWS = 16


@measurement("linearity")
def linearity(run: OpenedRun, store: TokenStore) -> Figures:
    """Relative error of superposition, f(a+b) + f(0) against f(a) + f(b), f being logits of embeddings.

    a and b are what the blocks read of two windows of validation text; the error is 0 for an affine f.
    """
    model = copy.deepcopy(run.model).cpu().double()
    ids = store.tokens("val")
    starts = torch.linspace(0, len(ids) - run.config.block_size - 1, 2 * WINDOWS).long()
    inputs, _ = gather(ids, starts, run.config.block_size)
    a, b = model.embed(inputs).detach().chunk(2)  # each (B,T,C)
    return {"error": superposition_error(model, a, b)}


@torch.no_grad()
def superposition_error(model: GPT, a: Tensor, b: Tensor) -> float:
    """Size of f(a+b) − f(a) − f(b) + f(0), relative to f(a) + f(b) − 2 f(0), which a and b change together."""
    of_a, of_b, of_both, of_none = (model.logits(x) for x in (a, b, a + b, torch.zeros_like(a)))
    together = of_a + of_b - 2 * of_none
    return float((of_both - of_none - together).norm() / together.norm())
