"""Distributions over the neurons of one layer, as points to draw: where a single share would hide the shape.

Every function returns plain numbers, as `neurons.json` holds them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minigpt.neurons.health import dormant_fraction
from minigpt.neurons.layer_statistics import LayerStatistics

DORMANCY_THRESHOLDS = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
CONTRIBUTION_POINTS = 32
_BINS_PER_DECADE = 4
_LOWEST_DECADE = -6


def dormancy_curve(sum_abs_h: Tensor) -> list[dict[str, float]]:
    """Share of neurons whose mean |h| is at most τ times the layer's, over τ.

    Source: Sokar et al. 2023, arXiv:2302.12902, eq. 1.
    """
    return [{"tau": tau, "fraction": dormant_fraction(sum_abs_h, tau)} for tau in DORMANCY_THRESHOLDS]


def never_versus_tokens(counted: LayerStatistics) -> list[dict[str, int]]:
    """How many neurons had never fired after N tokens, for N at 1, 2, 4, … sequences and at the end.

    It falls for ever while neurons are merely rare, and stays level at the number of those that are dead.
    """
    deep = counted.deep
    assert deep is not None, "the curve needs a deep probe"
    doublings = [1 << power for power in range(deep.sequences.bit_length()) if 1 << power < deep.sequences]
    per_sequence = -(-counted.tokens // deep.sequences)  # all but the last are as long
    return [
        {
            "tokens": min(count * per_sequence, counted.tokens),
            "never": int((deep.first_sequence >= count).sum()),
        }
        for count in [*doublings, deep.sequences]
    ]


def firing_rate_histogram(counted: LayerStatistics) -> dict[str, Any]:
    """Neurons by the logarithm of their firing rate; those that never fired are counted apart."""
    fired = counted.fired[counted.fired > 0].double().numpy()
    lowest = min(_LOWEST_DECADE, math.floor(-math.log10(counted.tokens)))
    edges = np.linspace(lowest, 0, -lowest * _BINS_PER_DECADE + 1)
    counts, _ = np.histogram(np.log10(fired / counted.tokens), edges)
    never = counted.fired.numel() - len(fired)
    return {"log10_edges": edges.tolist(), "counts": counts.tolist(), "never": never}


def contribution_curve(contributions: Tensor) -> list[dict[str, float]] | None:
    """Share of the summed C_j of the largest contributors, over their share of the neurons; None if all are 0."""
    neurons, total = len(contributions), contributions.sum().item()
    if total == 0:
        return None
    running = contributions.sort(descending=True).values.cumsum(0)
    counts = torch.linspace(0, neurons, min(neurons, CONTRIBUTION_POINTS) + 1).round().int().tolist()
    shares = [running[count - 1].item() / total if count else 0.0 for count in counts]
    return [
        {"share_of_neurons": count / neurons, "share_of_contribution": share}
        for count, share in zip(counts, shares, strict=True)
    ]
