"""What a training minimises: cross-entropy, or one of two costs that are less apt for choosing among many tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mean_cost(name: str, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cost of a token: cross-entropy in nats; the squared error of all probabilities; or V yes-or-no questions.

    Shapes: logits (N,V) float32, targets (N,).
    """
    if name == "cross-entropy":
        return F.cross_entropy(logits, targets)
    wanted = F.one_hot(targets, logits.shape[1]).to(logits.dtype)  # (N,V)
    if name == "squared-error":
        return (torch.softmax(logits, dim=1) - wanted).square().sum(1).mean()
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).mean()
