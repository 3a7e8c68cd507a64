"""How well a model predicts once its probabilities are put right, and how often its first guess is.

A model trained on another cost than cross-entropy may order tokens well and be wrong in how sure it is. One number, the
temperature, is fitted on one half of the windows; what remains is measured on the other half.

Source: temperature scaling, Guo et al. 2017, arXiv:1706.04599.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.claims.measurements.batches_and_losses import Figures, batches, precision
from minigpt.text.store import TokenStore
from minigpt.training.inference import OpenedRun

CALIBRATION_TOKENS = 65_536
# In steps of a tenth of an octave from 1/32 to 32.
TEMPERATURES = tuple(2 ** (tenth / 10) for tenth in range(-50, 51))


@torch.no_grad()
def calibrated(run: OpenedRun, store: TokenStore) -> Figures:
    """Loss in nats as it is and calibrated, the temperature, and the share of right first guesses."""
    windows = batches(run.model, store.tokens("val"), CALIBRATION_TOKENS)
    device = run.model.device
    with precision(run):
        read = [(run.model(inputs.to(device)).float().flatten(0, 1).cpu(), t.flatten()) for inputs, t in windows]
    logits, targets = (torch.cat(parts) for parts in zip(*read, strict=True))  # (N,V), (N,)
    half = len(targets) // 2
    temperature = best_temperature(logits[:half], targets[:half])
    return {
        "loss": float(F.cross_entropy(logits[half:], targets[half:])),
        "calibrated_loss": float(F.cross_entropy(logits[half:] / temperature, targets[half:])),
        "temperature": temperature,
        "top1": float((logits[half:].argmax(1) == targets[half:]).double().mean()),
    }


def best_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature of the lowest loss: logits (N,V), targets (N,)."""
    return min(TEMPERATURES, key=lambda temperature: float(F.cross_entropy(logits / temperature, targets)))
