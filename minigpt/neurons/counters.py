"""Accumulators of what the neurons of one layer do, batch by batch; on the device, without waiting for it.

Counts are exact integers and sums are float64 (float32 on `mps`, which has no float64). Where z and h come from is the
business of the probes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minigpt.activations import Activation
from minigpt.neurons.layer_statistics import DeepStatistics, LayerStatistics, SlopeStatistics
from minigpt.neurons.slopes import flat_below, slope, undefined_slope

CACHED_VALUES = 1 << 18


class LayerCounter:
    """Accumulates one layer's statistics on the device, without waiting for it."""

    def __init__(self, neurons: int, device: torch.device) -> None:
        self.tokens = 0
        self.z_known = True
        self.fired = _zero_counts(neurons, device)
        self.opened = _zero_counts(neurons, device)
        self.sum_h = _zero_sums(neurons, device)
        self.sum_abs_h = _zero_sums(neurons, device)
        self.sum_square_h = _zero_sums(neurons, device)

    @torch.no_grad()
    def count(self, z: Tensor | None, h: Tensor) -> Tensor:
        """Add one batch, pre-activations z (if known) and hidden values h (B,T,F); return firings by sequence (B,F)."""
        self.tokens += h.size(0) * h.size(1)
        firings = _firings(h)
        self.fired += firings.sum(0)
        if z is None:
            self.z_known = False
        else:
            self.opened += _openings(z).sum(0)
        exact = h.to(self.sum_h.dtype, copy=True)
        self.sum_h += _sum(exact)
        self.sum_abs_h += _sum(exact.abs_())  # in place: on a CPU most of the time goes into new memory
        self.sum_square_h += _sum(exact.square_())
        return firings

    def statistics(self, deep: DeepStatistics | None = None) -> LayerStatistics:
        return LayerStatistics(
            tokens=self.tokens,
            fired=self.fired.cpu(),
            opened=self.opened.cpu(),
            sum_h=self.sum_h.cpu().double(),
            sum_abs_h=self.sum_abs_h.cpu().double(),
            sum_square_h=self.sum_square_h.cpu().double(),
            deep=deep,
            z_known=self.z_known,
        )


class DeepCounter:
    """Accumulates what only a deep probe counts; slopes only if the activation is known."""

    def __init__(self, neurons: int, device: torch.device, activation: Activation | None) -> None:
        self.sequences = 0
        self.fired_sequences = _zero_counts(neurons, device)
        self.first_sequence = torch.full_like(self.fired_sequences, torch.iinfo(torch.int64).max)
        self.max_z = torch.full_like(_zero_sums(neurons, device), -torch.inf)
        self.activation = activation
        self.has_slope = activation is not None and undefined_slope(activation) is None
        self.flat_below = flat_below(activation) if activation is not None and self.has_slope else 0.0
        self.flat = _zero_counts(neurons, device)
        self.sum_slope = _zero_sums(neurons, device)
        self.sum_square_slope = _zero_sums(neurons, device)

    @torch.no_grad()
    def count(self, z: Tensor | None, firings: Tensor) -> None:
        """Add one batch: z (B,T,F), if it is looked at, and on how many tokens of each sequence neurons fired (B,F)."""
        fired = firings > 0
        ordinal = self.sequences + torch.arange(len(fired), device=fired.device)[:, None]  # (B,1)
        first = torch.where(fired, ordinal, torch.iinfo(torch.int64).max).amin(0)  # (F,)
        self.sequences += len(fired)
        self.fired_sequences += fired.sum(0)
        self.first_sequence = torch.minimum(self.first_sequence, first)
        if z is None:
            return
        self.max_z = torch.maximum(self.max_z, z.amax(1).amax(0))
        if self.activation is not None and self.has_slope:
            slopes = slope(self.activation, z)  # (B,T,F)
            self.flat += _count_by_sequence(torch.lt, slopes.abs(), self.flat_below).sum(0)
            # NOTE: float32 within a sequence: a slope's spread is compared with a bound far above its rounding.
            self.sum_slope += slopes.sum(1).to(self.sum_slope.dtype).sum(0)
            self.sum_square_slope += (slopes * slopes).sum(1).to(self.sum_slope.dtype).sum(0)

    def statistics(self) -> DeepStatistics:
        slopes = SlopeStatistics(
            flat=self.flat.cpu(),
            sum_slope=self.sum_slope.cpu().double(),
            sum_square_slope=self.sum_square_slope.cpu().double(),
        )
        return DeepStatistics(
            sequences=self.sequences,
            fired_sequences=self.fired_sequences.cpu(),
            first_sequence=self.first_sequence.cpu().clamp_max(self.sequences),
            max_z=self.max_z.cpu().double(),
            slopes=slopes if self.has_slope else None,
        )


def _firings(h: Tensor) -> Tensor:
    """Tokens of each sequence on which each neuron fires: h (B,T,F) -> int64 (B,F)."""
    return _count_by_sequence(torch.ne, h, 0.0)


def _openings(z: Tensor) -> Tensor:
    """Tokens of each sequence on which each pre-activation is above 0: z (B,T,F) -> int64 (B,F)."""
    return _count_by_sequence(torch.gt, z, 0.0)


def _count_by_sequence(compare: Callable[..., Tensor], x: Tensor, threshold: float) -> Tensor:
    """How often x (B,T,F) compares true, by sequence and neuron: int64 (B,F).

    NOTE: torch adds up float32 flags several times faster than boolean ones; up to 2^24 tokens of a sequence exactly.
    """
    flags = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    return compare(x, threshold, out=flags).sum(1).to(torch.int64)


def _sum(x: Tensor) -> Tensor:
    """Sum x (B,T,F) over all tokens, in the order that torch does fastest."""
    return x.sum(1).sum(0)


def _zero_counts(neurons: int, device: torch.device) -> Tensor:
    return torch.zeros(neurons, dtype=torch.int64, device=device)


def _zero_sums(neurons: int, device: torch.device) -> Tensor:
    # NOTE: `mps` has no float64; sums there are float32 and good to about six digits. Counts are exact everywhere.
    return torch.zeros(neurons, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
