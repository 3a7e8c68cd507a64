"""Proof of death from the weights alone: a bound on what a normalised input can do to a neuron.

A layer's pre-activation is z = w·y + b with y = γ⊙x̂ + β. LayerNorm gives 1ᵀx̂ = 0 and ‖x̂‖ ≤ √d, so that

    sup z = √d·‖P(γ⊙w)‖ + w·β + b,        P removing the mean (RMSNorm: no P, no β),

attained by x̂ along P(γ⊙w). If this is at most 0 and φ is exactly 0 there, the neuron is dead for every input.
The proof is sufficient, not necessary: a neuron may be dead because no text ever brings the input that would wake it.
Derived here; it assumes that the residual stream's mean is not thousands of times its spread, where float32 could no
longer centre it. Says nothing of smooth activations, nor of a model without normalisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from minigpt.model import MLP, Block

# Unit roundoff, and how many roundings to the stored precision precede z: of the weight, the input, the result.
_FLOAT32_ROUNDING = 2.0**-24
_BFLOAT16_ROUNDING = 2.0**-9
_ROUNDINGS = 3
# Relative error of the gain and the offset of a norm that was recovered from its answers in float32.
_RECOVERY_ERROR = 1e-5
# Operations of the norm itself on each coordinate, in float32.
_NORM_OPERATIONS = 16


def inapplicable(block: Block) -> str | None:
    """Return why no neuron of this layer can be certified; None if some might."""
    if not isinstance(block.ln_2, nn.LayerNorm | nn.RMSNorm):
        return "no normalisation bounds what the MLP reads"
    entry = block.mlp.act.entry
    if not entry.exact_zeros:
        return f"{entry.name} is not exactly 0 for z <= 0"
    return None


@dataclass(frozen=True)
class Parts:
    """What bounds the pre-activations of F neurons behind a norm.

    direction  P(γ⊙w) (F,C)
    offset     w·β + b (F,)
    magnitude  the size (F,) of what is added up to z, before anything cancels
    """

    direction: Tensor
    offset: Tensor
    magnitude: Tensor


def norm_parts(weight: Tensor, bias: Tensor, gain: Tensor, beta: Tensor | None, centred: bool) -> Parts:
    """The parts for incoming weights (F,C) and bias (F,) behind a norm with gain γ and offset β (C,); float64."""
    scaled = weight * gain  # (F,C)
    direction = scaled - scaled.mean(dim=1, keepdim=True) if centred else scaled
    magnitude = _reach(scaled) + bias.abs()
    if beta is None:
        return Parts(direction, bias, magnitude)
    return Parts(direction, weight @ beta + bias, magnitude + weight.abs() @ beta.abs())


def largest_computed(parts: Parts, dtype: str, recovered: bool = False) -> Tensor:
    """An upper bound (F,) on any z that a forward pass in `dtype` may compute: the exact one and a rounding margin.

    A norm that was `recovered` from its answers is known to fewer digits.
    """
    error = _relative_error(parts.direction.size(1), dtype) + (_RECOVERY_ERROR if recovered else 0.0)
    return _reach(parts.direction) + parts.offset + error * parts.magnitude


def largest_preactivation(block: Block) -> Tensor:
    """The least upper bound of z (F,) over all inputs, in exact arithmetic; float64, on the CPU.

    Of a gated layer it is the gate's.
    """
    parts = _parts(block)
    return _reach(parts.direction) + parts.offset


def largest_computed_preactivation(block: Block, dtype: str) -> Tensor:
    """An upper bound (F,) on any z that a forward pass in `dtype` may compute."""
    return largest_computed(_parts(block), dtype)


def certified_dead(block: Block, dtype: str) -> Tensor | None:
    """Which neurons (F,) are proven dead for every input; None where `inapplicable` says why."""
    return largest_computed_preactivation(block, dtype) <= 0 if inapplicable(block) is None else None


def adversarial_input(block: Block, neuron: int) -> Tensor:
    """The normalised input x̂ (C,) that brings a neuron's z to its bound, in float64."""
    direction = _parts(block).direction
    return functional.normalize(direction[neuron], dim=0) * math.sqrt(direction.size(1))


def _parts(block: Block) -> Parts:
    norm = block.ln_2
    assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
    beta: Tensor | None = getattr(norm, "bias", None)
    centred = isinstance(norm, nn.LayerNorm)
    return norm_parts(
        *_incoming(block.mlp), _exact(norm.weight), None if beta is None else _exact(beta), centred=centred
    )


def _incoming(mlp: MLP) -> tuple[Tensor, Tensor]:
    """Rows of w_in (F,C) and bias (F,) that make z; of a gated layer the gate's, which come first."""
    weight = _exact(mlp.w_in.weight)[: mlp.d_ff]
    bias = torch.zeros(mlp.d_ff, dtype=torch.float64) if mlp.w_in.bias is None else _exact(mlp.w_in.bias)[: mlp.d_ff]
    return weight, bias


def _reach(direction: Tensor) -> Tensor:
    """√d·‖direction‖ (F,): the most that a normalised input contributes."""
    norms: Tensor = direction.norm(dim=1)
    return math.sqrt(direction.size(1)) * norms


def _relative_error(width: int, dtype: str) -> float:
    """Relative error of z: of a sum of `width` products in float32, and of numbers stored in `dtype` before it."""
    stored = _BFLOAT16_ROUNDING if dtype == "bfloat16" else _FLOAT32_ROUNDING
    return _ROUNDINGS * stored + (width + _NORM_OPERATIONS) * _FLOAT32_ROUNDING


def _exact(value: Tensor) -> Tensor:
    return value.detach().cpu().double()
