"""The health of neurons at places of any model, and which of them their weights prove dead.

The definitions are those of `health.py`. What each neuron writes is known at sites and at modules that read neurons; at
an activation alone it is not, so its inert fraction and effective width are not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from minigpt.activations import list_activations
from minigpt.neurons.certificate import largest_computed, norm_parts
from minigpt.neurons.health import LayerHealth, contribution, layer_health
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.mlp_site import MLPSite
from minigpt.neurons.recovered_norm import recover_norm
from minigpt.neurons.site_probe import Place


def sites_health(places: Mapping[str, Place], statistics: Sequence[LayerStatistics]) -> list[LayerHealth]:
    """The health of every place, numbered in their order; figures that are not known are NaN."""
    return [
        _health(number, place, counted)
        for number, (place, counted) in enumerate(zip(places.values(), statistics, strict=True))
    ]


def _health(number: int, place: Place, counted: LayerStatistics) -> LayerHealth:
    activation = place.activation if isinstance(place, MLPSite) else type(place).__name__.lower()
    if not counted.tokens:
        return _unseen(number, activation, counted.fired.numel())
    outgoing = outgoing_norms_of(place)
    if outgoing is not None:
        return layer_health(number, activation, counted, outgoing)
    known = layer_health(number, activation, counted, torch.ones(counted.fired.numel(), dtype=torch.float64))
    return replace(known, inert_fraction=math.nan, effective_width=math.nan)


def _unseen(number: int, activation: str, neurons: int) -> LayerHealth:
    """An expert that no token was sent to: nothing is known of it."""
    counted = {"layer": number, "activation": activation, "neurons": neurons, "tokens": 0}
    dormant = dict.fromkeys(("0", "0.025", "0.1"), math.nan)
    fractions = dict.fromkeys(LayerHealth.__dataclass_fields__.keys() - counted.keys(), math.nan)
    return LayerHealth(**{**fractions, **counted, "dormant_fraction": dormant})  # type: ignore[arg-type]


def outgoing_norms_of(place: Place) -> Tensor | None:
    """‖w_out,j‖ (F,) in float64 of what each neuron writes; None at an activation alone."""
    weight = place.weight if isinstance(place, MLPSite) else getattr(place, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    if not isinstance(place, MLPSite | nn.Linear):
        weight = weight.T  # transformers' Conv1D keeps a matrix the other way round
    return _norms(weight)


def _norms(weight: Tensor) -> Tensor:
    norms: Tensor = weight.detach().cpu().double().norm(dim=0)
    return norms


def site_contribution(site: MLPSite, counted: LayerStatistics) -> Tensor:
    """C_j (F,) of what the neurons of a site write."""
    return contribution(counted, _norms(site.weight))


def site_certificate(site: MLPSite, dtype: str) -> Tensor | None:
    """Which neurons (F,) of a site are proven dead for every input; None where nothing can be proven.

    That needs an activation that is exactly 0 for z ≤ 0, a norm that feeds the MLP, and no adapter beside the weights.
    The gain and the offset of the norm are recovered from its answers, whose error is allowed for.
    """
    entry = next((entry for entry in list_activations() if entry.name == site.activation), None)
    if entry is None or not entry.exact_zeros or not site.gate_parameter or site.norm is None:
        return None
    weight, bias = _incoming(site)  # (F,C), (F,)
    norm = recover_norm(site.norm, weight.size(1))
    if norm is None:
        return None
    parts = norm_parts(weight, bias, norm.gain, norm.offset, norm.centred)
    return largest_computed(parts, dtype, recovered=True) <= 0


def _incoming(site: MLPSite) -> tuple[Tensor, Tensor]:
    """Rows (F,C) and bias (F,) that make z, in float64 on the CPU."""
    weight: Tensor = getattr(site.gate, site.gate_parameter).detach()
    bias = getattr(site.gate, "bias", None)
    if site.expert is not None:
        weight, bias = weight[site.expert], None
    weight = weight if site.rows_are_outputs else weight.T
    exact = weight[site.features].cpu().double()
    shift = (
        torch.zeros(len(exact), dtype=torch.float64) if bias is None else bias.detach()[site.features].cpu().double()
    )
    return exact, shift
