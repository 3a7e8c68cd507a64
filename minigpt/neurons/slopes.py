"""The slope φ′(z) of an activation, token by token, and against what a slope counts as flat.

One rule for all: the derivative that the backward pass would use, at the layer's present parameters, by autograd. At a
kink it is the one from the left. For gated activations φ is that of the gate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minigpt.activations import Activation

FLAT_SHARE = 0.05
REFERENCE_Z = 1.0


def slope(activation: Activation, z: Tensor) -> Tensor:
    """Return φ′(z) elementwise, in float32, with z of any shape; defined where `undefined_slope` is None."""
    with torch.enable_grad():
        x = z.detach().float().requires_grad_()
        value = activation.phi(x)
        return torch.autograd.grad(value, x, torch.ones_like(value))[0]


def flat_below(activation: Activation) -> float:
    """Return the |φ′| below which a token finds the activation flat: 5 % of the largest slope.

    NOTE: A slope without a largest value (ReLU²) is measured against the one at z = 1 instead.
    """
    bound = activation.slope_bound()
    if bound is None:
        bound = slope(activation, torch.full((), REFERENCE_Z, device=_device(activation))).abs().item()
    return FLAT_SHARE * bound


def undefined_slope(activation: Activation) -> str | None:
    """Return why saturation and linearity have no meaning for this activation; None if they have."""
    entry = activation.entry
    if not entry.elementwise:
        return f"{entry.name} is not elementwise and has no single slope"
    if entry.surrogate_gradient:
        return f"the gradient of {entry.name} is deliberately not its slope"
    if entry.zero_gradient:
        return f"the slope of {entry.name} is 0 everywhere"
    return None


def _device(activation: Activation) -> torch.device | None:
    return next((parameter.device for parameter in activation.parameters()), None)
