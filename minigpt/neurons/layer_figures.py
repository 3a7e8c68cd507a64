"""What the counts of one layer tell besides its health: how sure the dead are, slopes, curves; as records hold it.

One rule for a diagnosis of our own models and for an audit of anybody's. What was not counted is None.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minigpt.neurons.bounds import silent_rate_upper, truly_silent
from minigpt.neurons.curves import contribution_curve, dormancy_curve, firing_rate_histogram, never_versus_tokens
from minigpt.neurons.layer_statistics import LayerStatistics, SlopeStatistics

SATURATED_TOKENS = 0.99
LINEAR_SD = 0.05
SLOPE_FIGURES = ("saturated_fraction", "linear_fraction", "saturated_and_linear_fraction")


def certainty(counted: LayerStatistics, verdicts: dict[str, int], provable: bool) -> dict[str, Any]:
    """How sure the dead are: bounds, an estimate of the merely rare, the verdicts, the certified."""
    neurons = counted.fired.numel()
    sequences = None if counted.deep is None else counted.deep.sequences
    never, once, twice = (int((counted.fired == times).sum()) for times in (0, 1, 2))
    return {
        "sequences": sequences,
        "dead_upper_one": silent_rate_upper(counted.tokens),
        "dead_upper_sequences": None if sequences is None else silent_rate_upper(sequences, neurons),
        "certified_dead_fraction": verdicts["certified"] / neurons if provable else None,
        "chao1": {
            "never": never,
            "once": once,
            "twice": twice,
            "truly_dead": truly_silent(never, once, twice),
        },
        "verdicts": verdicts,
    }


def slope_shares(counted: LayerStatistics) -> dict[str, float | None]:
    """Shares of neurons that are flat on nearly all tokens, whose slope barely varies, and that are both."""
    slopes = None if counted.deep is None else counted.deep.slopes
    if slopes is None:
        return dict.fromkeys(SLOPE_FIGURES)
    saturated = slopes.flat >= SATURATED_TOKENS * counted.tokens
    linear = _slope_sd(slopes, counted.tokens) < LINEAR_SD
    shares = (flags.double().mean().item() for flags in (saturated, linear, saturated & linear))
    return dict(zip(SLOPE_FIGURES, shares, strict=True))


def _slope_sd(slopes: SlopeStatistics, tokens: int) -> Tensor:
    mean = slopes.sum_slope / tokens
    return torch.sqrt((slopes.sum_square_slope / tokens - mean.square()).clamp_min(0))


def curves(counted: LayerStatistics, contributions: Tensor) -> dict[str, Any]:
    """Distributions over the neurons, to draw; `contributions` (F,) are C_j."""
    return {
        "dormancy_curve": dormancy_curve(counted.sum_abs_h),
        "never_versus_tokens": None if counted.deep is None else never_versus_tokens(counted),
        "firing_rate_histogram": firing_rate_histogram(counted),
        "contribution_curve": contribution_curve(contributions),
    }
