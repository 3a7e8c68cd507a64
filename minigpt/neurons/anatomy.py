"""Why a neuron is silent or not: where its z lies, its bias, and the curve of its activation.

A histogram of z on some of the text says more than a count: a dead neuron has all of it where the activation is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from minigpt.model import GPT, Block
from minigpt.neurons.hooks import hooked
from minigpt.neurons.knockout import Batch
from minigpt.neurons.probe import plain_blocks

TOKENS = 16_384
"""z is looked at on about this number of tokens."""
BINS = 24
CURVE = (-12.0, 12.0, 193)
"""From where to where the activation is drawn, and with how many points."""
_DIGITS = 4


@torch.no_grad()
def z_histograms(model: GPT, chosen: Sequence[Sequence[int]], batches: Iterable[Batch]) -> list[list[dict[str, Any]]]:
    """How z of the chosen neurons of every layer is distributed, in bins from the lowest to the highest or to 0."""
    blocks = plain_blocks(model)
    kept: list[list[Tensor]] = [[] for _ in blocks]

    def keep(number: int) -> Any:
        def note(activation: Any, inputs: tuple[Tensor, ...], h: Tensor) -> None:
            z = activation.preactivation(inputs[0])[..., list(chosen[number])]  # (B,T,neurons)
            kept[number].append(z.flatten(0, 1).float().cpu())

        return note

    seen = 0
    with hooked((block.mlp.act, keep(number)) for number, block in enumerate(blocks)):
        for inputs, _ in batches:
            model(inputs.to(model.device))
            seen += inputs.numel()
            if seen >= TOKENS:
                break
    return [[_histogram(column) for column in torch.cat(parts).T] if parts else [] for parts in kept]


def _histogram(z: Tensor) -> dict[str, Any]:
    """Counts in equal bins of a range that includes 0."""
    low, high = min(0.0, z.min().item()), max(0.0, z.max().item())
    high = high if high > low else low + 1.0
    counts = torch.histc(z, BINS, low, high)
    return {"low": _short(low), "high": _short(high), "counts": counts.int().tolist()}


def biases(block: Block, neurons: Sequence[int]) -> list[float | None]:
    """The bias of each neuron, of two branches that of the gate; None without biases."""
    bias = block.mlp.w_in.bias
    return [None] * len(neurons) if bias is None else [_short(bias[neuron].item()) for neuron in neurons]


@torch.no_grad()
def activation_curve(block: Block) -> list[list[float]] | None:
    """Points (z, φ(z)) of the layer's activation; None if h of a neuron depends on the z of others."""
    activation = block.mlp.act
    if not activation.entry.elementwise:
        return None
    z = torch.linspace(*CURVE[:2], int(CURVE[2]), device=block.mlp.w_in.weight.device)
    return [[_short(x), _short(y)] for x, y in zip(z.tolist(), activation.phi(z).tolist(), strict=True)]


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
