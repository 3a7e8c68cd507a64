"""What the probe counted of one layer: plain vectors over its neurons, merged by sums.

What the figures mean is said in `health.py`; how they are collected, in `probe.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SlopeStatistics:
    """How steep φ was for F neurons: on how many tokens it was flat, and the sums of φ′ and φ′².

    Shapes: every tensor (F,), on the CPU; the count int64, sums float64.
    """

    flat: Tensor
    sum_slope: Tensor
    sum_square_slope: Tensor

    def merge(self, other: SlopeStatistics) -> SlopeStatistics:
        """Statistics over the tokens of both."""
        return SlopeStatistics(
            flat=self.flat + other.flat,
            sum_slope=self.sum_slope + other.sum_slope,
            sum_square_slope=self.sum_square_slope + other.sum_square_slope,
        )


@dataclass(frozen=True)
class DeepStatistics:
    """What a deep probe counts besides. A sequence is one window of the text.

    `first_sequence` is the ordinal of the first sequence in which a neuron fired, or `sequences` if it never did;
    `slopes` is None where the activation has no slope, or it was not looked at; then `max_z` may be −∞.

    Shapes: every tensor (F,), on the CPU; counts int64, `max_z` float64.
    """

    sequences: int
    fired_sequences: Tensor
    first_sequence: Tensor
    max_z: Tensor
    slopes: SlopeStatistics | None

    def merge(self, other: DeepStatistics) -> DeepStatistics:
        """Statistics over the sequences of `self`, followed by those of `other`."""
        assert (self.slopes is None) == (other.slopes is None), "statistics of two different activations"
        fired_before = self.first_sequence < self.sequences
        return DeepStatistics(
            sequences=self.sequences + other.sequences,
            fired_sequences=self.fired_sequences + other.fired_sequences,
            first_sequence=torch.where(fired_before, self.first_sequence, self.sequences + other.first_sequence),
            max_z=torch.maximum(self.max_z, other.max_z),
            slopes=self.slopes.merge(other.slopes) if self.slopes and other.slopes else None,
        )


@dataclass(frozen=True)
class LayerStatistics:
    """What one layer's F neurons did on `tokens` tokens; two of them over disjoint tokens merge by sums.

    `opened` counts z > 0, and means nothing unless `z_known`.

    Shapes: every tensor (F,), on the CPU; counts int64, sums float64.
    """

    tokens: int
    fired: Tensor
    opened: Tensor
    sum_h: Tensor
    sum_abs_h: Tensor
    sum_square_h: Tensor
    deep: DeepStatistics | None = None
    z_known: bool = True

    def merge(self, other: LayerStatistics) -> LayerStatistics:
        """Statistics over the tokens of both."""
        assert (self.deep is None) == (other.deep is None), "statistics of a deep probe and of one that is not"
        return LayerStatistics(
            tokens=self.tokens + other.tokens,
            fired=self.fired + other.fired,
            opened=self.opened + other.opened,
            sum_h=self.sum_h + other.sum_h,
            sum_abs_h=self.sum_abs_h + other.sum_abs_h,
            sum_square_h=self.sum_square_h + other.sum_square_h,
            deep=self.deep.merge(other.deep) if self.deep and other.deep else None,
            z_known=self.z_known and other.z_known,
        )
