"""Dropout whose random numbers a CPU draws four at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Set a share of x to 0 and scale up the rest, while training.

    NOTE: a CPU draws random numbers one by one, which took a third of a step; so each of 64 bits decides four times.
    """
    if not training or rate == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None).view(torch.int16)
    dropped = round(rate * (1 << 16))  # of the 2^16 values that a draw may have
    kept = (draws[: x.numel()] >= dropped - (1 << 15)).view_as(x)
    return x * kept.to(x.dtype).mul_((1 << 16) / ((1 << 16) - dropped))
