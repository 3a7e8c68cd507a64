"""How much gradients differ from batch to batch."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.claims.measurement import Figures, measurement
from minigpt.model import GPT
from minigpt.text.batches import gather, window_starts
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

SMALL, LARGE = 4, 64  # windows
DRAWS = 24
# So many windows fit into one backward pass without falling out of a processor's cache.
TOGETHER = 16


@measurement("gradient_noise")
def gradient_noise(run: OpenedRun, store: TokenStore) -> Figures:
    """log10 of the gradient's variance between batches of 4 and of 64 windows, summed over parameters; and its fall.

    `signal` is log10 of the squared length of the mean gradient of the large batches, noise taken off; None if nothing
    is left. At the weights that training ended with, in float32.
    """
    ids = store.tokens("train")[: run.config.train_tokens or None]
    small, _ = noise_and_signal(_gradients(run, ids, SMALL))
    large, signal = noise_and_signal(_gradients(run, ids, LARGE))
    run.model.zero_grad(set_to_none=True)
    return {
        str(SMALL): math.log10(small),
        str(LARGE): math.log10(large),
        "fall": math.log10(small / large),
        "signal": math.log10(signal) if signal > 0 else None,
    }


def noise_and_signal(gradients: Tensor) -> tuple[float, float]:
    """Unbiased estimates from gradients (draws, parameters): the variance of one, and the squared length of their mean.

    The mean of n draws still has an n-th of the variance, which is taken off.
    """
    variance = float(gradients.var(dim=0).sum())
    return variance, float(gradients.mean(dim=0).square().sum()) - variance / len(gradients)


def _gradients(run: OpenedRun, ids: np.ndarray, windows: int) -> Tensor:
    """Gradients of independent batches of so many windows (draws, parameters)."""
    block, purpose = run.config.block_size, f"claims/noise/{windows}"
    drawn = [window_starts(run.config.seed, draw, windows, len(ids), block, purpose) for draw in range(DRAWS)]
    return torch.stack([_gradient(run.model, ids, starts) for starts in drawn])


def _gradient(model: GPT, ids: np.ndarray, starts: Tensor) -> Tensor:
    """Gradient of the mean loss over windows, all parameters in a row."""
    model.zero_grad(set_to_none=True)
    for part in torch.split(starts, TOGETHER):
        inputs, targets = gather(ids, part, model.config.block_size)
        logits = model(inputs.to(model.device)).flatten(0, 1)  # (B·T,V)
        loss = F.cross_entropy(logits, targets.to(model.device).flatten()) * len(part) / len(starts)
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat([gradient.flatten().cpu() for gradient in gradients])
