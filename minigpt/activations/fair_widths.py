"""Fair comparisons: the width at which a gated layer has as many parameters as a plain one, and the gain that gives
an activation's output unit variance.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from minigpt.activations.specs import resolve_spec
from minigpt.base.errors import UsageError
from minigpt.base.randomness import generator


@cache
def matched_width(spec: str, n_embd: int, bias: bool) -> int:
    """Return the default d_ff of a layer: 4C, or for a gated one the F that gives the MLP as many parameters.

    Of the widths within 1 % of the plain MLP it prefers a multiple of 64, else of 32, and so on, for the hardware.
    Source: Shazeer 2020, arXiv:2002.05202, section 3 (two thirds of the plain width).
    """
    plain_width = 4 * n_embd
    if not resolve_spec(spec)[0].gated:
        return plain_width
    plain = plain_width * (2 * n_embd + bias) + n_embd * bias
    per_neuron = 3 * n_embd + 2 * bias  # two rows of w_in, one column of w_out
    ideal = (plain - n_embd * bias) / per_neuron
    for multiple in (64, 32, 16, 8, 4, 2):
        width = multiple * round(ideal / multiple)
        if 100 * abs(width * per_neuron + n_embd * bias - plain) <= plain:
            return width
    return max(1, round(ideal))


@cache
def init_gain(spec: str, d_ff: int) -> float:
    """Return 1 / sd(h) for standard normal pre-activations, learnable arguments at their initial value.

    `d_ff` matters only where neurons depend on each other. Gate and value are independent, so sd(h)² = E φ(g)².
    Raises: UsageError where h is constant and no gain gives it unit variance.
    """
    entry, arguments = resolve_spec(spec)
    z, weight = _normal_grid() if entry.elementwise else _normal_sample(d_ff)
    with torch.no_grad():
        phi = entry.function(z, **arguments)
    mean = (weight * phi).sum().item()
    mean_square = (weight * phi * phi).sum().item()
    variance = mean_square if entry.gated else mean_square - mean**2
    if variance <= 1e-12 * mean_square:
        raise UsageError(
            f"{spec} cannot be variance-matched; its output is constant at d_ff {d_ff}; choose another init"
        )
    return 1 / math.sqrt(variance)


def _normal_grid() -> tuple[Tensor, Tensor]:
    """Return midpoints over ±12 and their Gaussian weights; kinks and jumps, at whole numbers, are cell edges."""
    cells_per_unit = 2**13
    z = (torch.arange(24 * cells_per_unit, dtype=torch.float64, device="cpu") + 0.5) / cells_per_unit - 12
    return z, torch.exp(-z * z / 2) / (cells_per_unit * math.sqrt(2 * math.pi))


def _normal_sample(d_ff: int) -> tuple[Tensor, Tensor]:
    """Return about four million draws as rows of d_ff neurons, and their equal weights."""
    rows = -(-(2**22) // d_ff)
    z = torch.randn(rows, d_ff, generator=generator(0, "init gain"), dtype=torch.float64, device="cpu")
    return z, torch.tensor(1 / z.numel(), dtype=torch.float64, device="cpu")
