"""Choosing the next token from logits: greedily, or at random from all of the distribution or its likeliest part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minigpt.base.errors import UsageError

# Below this a temperature is zero in float32, and the likeliest token has all of the probability long before.
LEAST_TEMPERATURE = 1e-6


@dataclass(frozen=True)
class TokenChoice:
    """How a token is chosen; a pure function of logits and uniform numbers, in tensor operations alone.

    Temperature 0 takes the likeliest token. `top_k` leaves the K likeliest, 0 all of them; `top_p` the fewest of them
    that have at least this share of the probability (Holtzman et al. 2020, arXiv:1904.09751, eq. 2).

    Raises:
        UsageError: a setting is outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature must be 0 (greedy) or a positive number; got {self.temperature}")
        if self.top_k < 0:
            raise UsageError(f"top-k must be 0 (off) or a positive whole number; got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p must be above 0 and at most 1 (off); got {self.top_p}")

    def __call__(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Choose tokens (B,) from logits (B,V) by inverting each row's distribution at a number of [0,1), (B,1)."""
        if self.temperature < LEAST_TEMPERATURE:
            return logits.argmax(dim=-1)
        probabilities = torch.softmax(logits / self.temperature, dim=-1)
        if self.top_k or self.top_p < 1:
            probabilities = self._likeliest(probabilities)
        return _invert(probabilities, uniforms)

    def _likeliest(self, probabilities: Tensor) -> Tensor:
        """The same probabilities (B,V) with 0 for what top-k and top-p leave out."""
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        if self.top_k:
            rank = torch.arange(ordered.size(-1), device=ordered.device)
            ordered = ordered.masked_fill(rank >= self.top_k, 0)
        if self.top_p < 1:
            cumulative = ordered.cumsum(dim=-1)
            # A token stays if those before it fall short of top_p.
            ordered = ordered.masked_fill(cumulative - ordered >= self.top_p * cumulative[:, -1:], 0)
        return torch.empty_like(ordered).scatter(1, tokens, ordered)


def _invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first place (B,) where the sum of probabilities (B,V), up to a factor, exceeds the uniform number (B,1).

    In float64, in which a number below 1 times the whole sum stays below it: no place is beyond the last one possible.
    """
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    return (cumulative <= uniforms * cumulative[:, -1:]).sum(dim=-1)
