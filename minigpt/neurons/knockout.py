"""What a model loses without some of its neurons: their hidden values are replaced and the text predicted once more.

A neuron is *mean-ablated* when h_j is its mean whatever the input, and *zeroed* when it is 0. Both act on h while the
model runs; no weight is touched. Which neurons can be spared is searched in `expendable.py`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.model import GPT
from minigpt.neurons.hooks import Hook, hooked
from minigpt.neurons.probe import NeuronProbe, plain_blocks

Batch = tuple[Tensor, Tensor]  # input ids and the ids that follow them, each (B,T)


@dataclass(frozen=True)
class SequenceLosses:
    """What each of S sequences costs in nats, summed over its `tokens`.

    Shapes: (S,), float64, on the CPU.
    """

    sums: Tensor
    tokens: Tensor

    @property
    def mean(self) -> float:
        """Nats per token."""
        return (self.sums.sum() / self.tokens.sum()).item()


def sequence_losses(logits: Tensor, targets: Tensor) -> SequenceLosses:
    """The losses of a batch, logits (B,T,V) against targets (B,T)."""
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    sums = losses.cpu().double().sum(1)
    return SequenceLosses(sums, torch.full_like(sums, targets.size(1)))


def joined(batches: Sequence[SequenceLosses]) -> SequenceLosses:
    """The sequences of all batches."""
    return SequenceLosses(torch.cat([one.sums for one in batches]), torch.cat([one.tokens for one in batches]))


@dataclass(frozen=True)
class TextAtLayer:
    """A text on its way through a model, up to the input of one block: what comes before need not be computed again.

    Shapes: each of `streams` (B,T,C), each of `targets` (B,T), on the device.
    """

    layer: int
    streams: list[Tensor]
    targets: list[Tensor]


@torch.no_grad()
def read_up_to(model: GPT, layer: int, batches: Iterable[Batch]) -> TextAtLayer:
    """Compute what block `layer` reads of every batch."""
    text = TextAtLayer(layer, [], [])

    with hooked([(model.blocks[layer], lambda block, inputs, output: text.streams.append(inputs[0]))]):
        for inputs, targets in batches:
            model(inputs.to(model.device))
            text.targets.append(targets.to(model.device))
    return text


def loss_without(model: GPT, text: TextAtLayer, removed: Sequence[Tensor], instead: Sequence[Tensor]) -> float:
    """Mean loss in nats per token while the neurons `removed` of each layer have the values `instead`.

    Shapes: of each layer (F,), a mask and the values.
    """
    return losses_without(model, text, removed, instead).mean


@torch.no_grad()
def losses_without(
    model: GPT, text: TextAtLayer, removed: Sequence[Tensor], instead: Sequence[Tensor]
) -> SequenceLosses:
    """The same for each sequence."""
    with replaced(model, removed, instead):
        return joined(
            [
                sequence_losses(model.logits(stream, first_block=text.layer), targets)
                for stream, targets in zip(text.streams, text.targets, strict=True)
            ]
        )


@contextlib.contextmanager
def replaced(model: GPT, removed: Sequence[Tensor], instead: Sequence[Tensor]) -> Iterator[None]:
    """Inside this block the neurons `removed` of each layer, a mask (F,), have the values `instead` (F,)."""
    layers = zip(plain_blocks(model), removed, instead, strict=True)
    hooks = [
        (block.mlp.act, _replacing_hook(mask.to(model.device), values.float().to(model.device)))  # mps: no float64
        for block, mask, values in layers
        if mask.any()
    ]
    with hooked(hooks):
        yield


@torch.no_grad()
def mean_hidden(model: GPT, batches: Iterable[Batch]) -> list[Tensor]:
    """The mean of h (F,) of each layer, in float64, on the CPU."""
    with NeuronProbe(model) as probe:
        for inputs, _ in batches:
            model(inputs.to(model.device))
    return [layer.sum_h / layer.tokens for layer in probe.statistics()]


@dataclass(frozen=True)
class Zeroing:
    """What zeroing some neurons did to a text: the largest change of any logit, and the loss before and after."""

    largest_logit_change: float
    loss_before: float
    loss_after: float


@torch.no_grad()
def zero(model: GPT, batches: Iterable[Batch], removed: Sequence[Tensor]) -> Zeroing:
    """Predict a text with and without the neurons `removed`, a mask (F,) a layer."""
    zeros = [torch.zeros(mask.shape) for mask in removed]
    change, before, after, tokens = 0.0, 0.0, 0.0, 0
    for inputs, targets in batches:
        ids, following = inputs.to(model.device), targets.to(model.device).flatten()
        whole = model(ids).float().flatten(0, 1)  # (B·T,V)
        with replaced(model, removed, zeros):
            reduced = model(ids).float().flatten(0, 1)
        change = max(change, (whole - reduced).abs().max().item())
        before += F.cross_entropy(whole, following, reduction="sum").item()
        after += F.cross_entropy(reduced, following, reduction="sum").item()
        tokens += following.numel()
    return Zeroing(change, before / tokens, after / tokens)


def perplexity(loss: float) -> float:
    """exp(loss); infinite where that overflows."""
    return math.exp(loss) if loss < 709 else math.inf


def _replacing_hook(mask: Tensor, values: Tensor) -> Hook:
    return lambda activation, inputs, hidden: torch.where(mask, values.to(hidden.dtype), hidden)
