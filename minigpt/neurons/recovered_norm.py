"""What a normalisation layer does, found out by feeding it vectors: its gain, its offset, and whether it centres.

A norm computes γ⊙x̂ + β, with x̂ either x over its root mean square, or that of x without its mean. Feeding x, −x, 3x and
x + 5 tells all of it without the name of its class (Gemma multiplies by 1 + γ, OLMo has no parameters at all). What
answers otherwise is no norm, and bounds nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minigpt.base import randomness

_TOLERANCE = 1e-3  # relative
_SCALE = 30.0  # of the vectors: so large that the ε inside a norm does not count


@dataclass(frozen=True)
class RecoveredNorm:
    """γ (C,) and β (C,) in float64, and whether the mean is removed first."""

    gain: Tensor
    offset: Tensor
    centred: bool


@torch.no_grad()
def recover_norm(module: nn.Module, width: int) -> RecoveredNorm | None:
    """What `module` does to vectors (..., C) of this width; None if it is no LayerNorm or RMSNorm by any name."""
    norm = copy.deepcopy(module).cpu().float().eval()
    x = _SCALE * torch.randn(4, width, generator=randomness.generator(0, "norm recovery"))  # (4,C)

    def ask(vectors: Tensor) -> Tensor:
        answer: Tensor = norm(vectors[None])[0]  # (1,4,C): some norms ask for a batch
        return answer.double()

    try:
        there, back, larger, moved = (ask(vectors) for vectors in (x, -x, 3 * x, x + 5))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    if there.shape != x.shape or not _close(larger, there):
        return None
    offset, scaled = (there + back)[0] / 2, (there - back) / 2
    centred = _close(moved, there)
    normalised = _normalised(x.double(), centred)  # (4,C)
    gain = (scaled * normalised).sum(0) / normalised.square().sum(0)
    found = RecoveredNorm(gain, offset, centred)
    return found if _close(normalised * gain + offset, there) else None


def _normalised(x: Tensor, centred: bool) -> Tensor:
    x = x - x.mean(-1, keepdim=True) if centred else x
    return x / x.square().mean(-1, keepdim=True).sqrt()


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= _TOLERANCE * b.abs().max().clamp_min(1e-12))
