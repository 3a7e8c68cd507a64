"""What the counts of the probe mean: the health of each layer, one rule for every activation.

Sources: dead neurons (Voita et al. 2023, arXiv:2309.04827); dormancy (Sokar et al. 2023, arXiv:2302.12902, eq. 1, with
the inclusive threshold of their released code). Compare different activations by `inert_fraction`, never by zeros:
a smooth activation is almost never exactly 0 but can be just as useless.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minigpt.base.health_columns import DORMANT_THRESHOLDS, INERT_SHARE, RARE_RATE
from minigpt.model import GPT, MLP
from minigpt.neurons.bounds import silent_rate_upper
from minigpt.neurons.layer_statistics import LayerStatistics


@dataclass(frozen=True)
class LayerHealth:
    """Health of one layer over N tokens; what each figure means is in `base/health_columns.py`."""

    layer: int
    activation: str
    neurons: int
    tokens: int
    dead_fraction: float
    dead_upper: float
    never_positive_fraction: float
    density: float
    rare_fraction: float
    always_fraction: float
    dormant_fraction: dict[str, float]
    inert_fraction: float
    effective_width: float


def model_health(model: GPT, statistics: list[LayerStatistics]) -> list[LayerHealth]:
    """Judge every layer of `model` from what the probe counted on it."""
    mlps = (block.mlp for block in model.blocks)
    return [
        layer_health(layer, mlp.act.spec, counted, outgoing_norms(mlp))
        for layer, (mlp, counted) in enumerate(zip(mlps, statistics, strict=True))
    ]


def outgoing_norms(mlp: MLP) -> Tensor:
    """‖w_out,j‖ (F,) in float64: how much each neuron writes per unit of h."""
    norms: Tensor = mlp.w_out.weight.detach().cpu().double().norm(dim=0)
    return norms


def layer_health(layer: int, activation: str, counted: LayerStatistics, outgoing: Tensor) -> LayerHealth:
    """Judge one layer; `outgoing` (F,) holds ‖w_out,j‖, the norm of what each neuron writes per unit."""
    rate = counted.fired.double() / counted.tokens
    neurons = counted.fired.numel()
    contributions = contribution(counted, outgoing)
    return LayerHealth(
        layer=layer,
        activation=activation,
        neurons=neurons,
        tokens=counted.tokens,
        dead_fraction=_share(counted.fired == 0),
        dead_upper=silent_rate_upper(counted.tokens, neurons),
        never_positive_fraction=_share(counted.opened == 0) if counted.z_known else math.nan,
        density=rate.mean().item(),
        rare_fraction=_share((counted.fired > 0) & (rate < RARE_RATE)),
        always_fraction=_share(counted.fired == counted.tokens),
        dormant_fraction={f"{tau:g}": dormant_fraction(counted.sum_abs_h, tau) for tau in DORMANT_THRESHOLDS},
        inert_fraction=inert_fraction(contributions),
        effective_width=effective_width(contributions),
    )


def dormant_fraction(sum_abs_h: Tensor, tau: float) -> float:
    """Share of neurons whose mean |h| is at most τ times the layer's; all of them if the whole layer is silent."""
    return _share(sum_abs_h <= tau * sum_abs_h.mean())


def contribution(counted: LayerStatistics, outgoing: Tensor) -> Tensor:
    """C_j = sd(h_j)·‖w_out,j‖ (F,): the root mean square change of the layer's write if h_j were its mean."""
    mean = counted.sum_h / counted.tokens
    variance = (counted.sum_square_h / counted.tokens - mean.square()).clamp_min(0)
    # NOTE: what float64 leaves of a constant's variance is rounding, not variation.
    noise = counted.sum_square_h / counted.tokens * torch.finfo(torch.float64).eps * counted.tokens**0.5
    return torch.where(variance > noise, variance, 0.0).sqrt() * outgoing


def inert_fraction(contributions: Tensor) -> float:
    """Share of neurons that contribute at most 2.5 % of the layer's mean; all of them if none contributes."""
    return _share(contributions <= INERT_SHARE * contributions.mean())


def effective_width(contributions: Tensor) -> float:
    """(ΣC²)²/ΣC⁴, the participation ratio of the contributions' squares: F if all are equal, 0 if all are 0."""
    squares = (contributions / contributions.max().clamp_min(torch.finfo(torch.float64).tiny)).square()
    total = squares.sum().item()
    return total**2 / squares.square().sum().item() if total else 0.0


def dead_fraction(layers: list[LayerHealth]) -> float:
    """Share of dead neurons in the whole model."""
    return sum(layer.dead_fraction * layer.neurons for layer in layers) / sum(layer.neurons for layer in layers)


def as_record(layer: LayerHealth) -> dict[str, Any]:
    """The layer as `metrics.jsonl` holds it."""
    return {**vars(layer)}


def from_record(record: dict[str, Any]) -> LayerHealth:
    """The layer that `as_record` wrote."""
    return LayerHealth(**record)


def _share(flags: Tensor) -> float:
    return flags.double().mean().item()
