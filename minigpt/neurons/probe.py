"""Streaming statistics of every hidden neuron, collected by hooks while a model evaluates.

`NeuronProbe` counts; what the counts mean is said in `health.py`, and how sure that is in `bounds.py`. It keeps a few
vectors of length F for each layer, whatever the number of tokens, draws no random number and changes no result. What
costs more than it tells during training is counted only by a `deep` probe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from minigpt.activations import Activation
from minigpt.base.errors import UsageError
from minigpt.model import GPT, Block
from minigpt.neurons.hooks import Hook, hooked
from minigpt.neurons.layer_statistics import DeepStatistics, LayerStatistics, SlopeStatistics
from minigpt.neurons.slopes import flat_below, slope, undefined_slope

__all__ = ["LayerStatistics", "NeuronProbe"]

CACHED_VALUES = 1 << 18


class _LayerCounter:
    """Accumulates one layer's statistics on the device, without waiting for it."""

    def __init__(self, neurons: int, device: torch.device) -> None:
        self.tokens = 0
        self.fired = _zero_counts(neurons, device)
        self.opened = _zero_counts(neurons, device)
        self.sum_h = _zero_sums(neurons, device)
        self.sum_abs_h = _zero_sums(neurons, device)
        self.sum_square_h = _zero_sums(neurons, device)

    @torch.no_grad()
    def count(self, z: Tensor, h: Tensor) -> Tensor:
        """Add one batch, pre-activations z and hidden values h (B,T,F); return the firings by sequence (B,F)."""
        self.tokens += h.size(0) * h.size(1)
        firings = _firings(h)
        self.fired += firings.sum(0)
        self.opened += _openings(z).sum(0)
        h = h.to(self.sum_h.dtype)
        self.sum_h += _sum(h)
        self.sum_abs_h += _sum(h.abs())
        self.sum_square_h += _sum(h * h)
        return firings

    def statistics(self, deep: DeepStatistics | None) -> LayerStatistics:
        return LayerStatistics(
            tokens=self.tokens,
            fired=self.fired.cpu(),
            opened=self.opened.cpu(),
            sum_h=self.sum_h.cpu().double(),
            sum_abs_h=self.sum_abs_h.cpu().double(),
            sum_square_h=self.sum_square_h.cpu().double(),
            deep=deep,
        )


class _DeepCounter:
    """Accumulates what only a deep probe counts."""

    def __init__(self, neurons: int, device: torch.device, activation: Activation) -> None:
        self.sequences = 0
        self.fired_sequences = _zero_counts(neurons, device)
        self.first_sequence = torch.full_like(self.fired_sequences, torch.iinfo(torch.int64).max)
        self.max_z = torch.full_like(_zero_sums(neurons, device), -torch.inf)
        self.activation = activation
        self.has_slope = undefined_slope(activation) is None
        self.flat_below = flat_below(activation) if self.has_slope else 0.0
        self.flat = _zero_counts(neurons, device)
        self.sum_slope = _zero_sums(neurons, device)
        self.sum_square_slope = _zero_sums(neurons, device)

    @torch.no_grad()
    def count(self, z: Tensor, firings: Tensor) -> None:
        """Add one batch: pre-activations z (B,T,F) and on how many tokens of each sequence neurons fired (B,F)."""
        fired = firings > 0
        ordinal = self.sequences + torch.arange(len(fired), device=fired.device)[:, None]  # (B,1)
        first = torch.where(fired, ordinal, torch.iinfo(torch.int64).max).amin(0)  # (F,)
        self.sequences += len(fired)
        self.fired_sequences += fired.sum(0)
        self.first_sequence = torch.minimum(self.first_sequence, first)
        self.max_z = torch.maximum(self.max_z, z.amax(1).amax(0))
        if self.has_slope:
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


class NeuronProbe:
    """Context manager that counts, for each layer, how `block.mlp.act` behaves on all tokens that pass.

    With `deep` it also counts sequences, slopes and the largest pre-activations, at about twice the cost.

    Raises:
        UsageError: the model is compiled (hooks added later never fire there, and zeros would read as 100 % dead),
            two layers share one activation module, or no token was seen.
    """

    def __init__(self, model: nn.Module, deep: bool = False) -> None:
        self._mlps = [block.mlp for block in plain_blocks(model)]
        self._deep = deep
        self._counters: list[tuple[_LayerCounter, _DeepCounter | None]] = []
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> NeuronProbe:
        self._counters = []
        for mlp in self._mlps:
            device = mlp.w_in.weight.device
            counter = _LayerCounter(mlp.d_ff, device)
            deep = _DeepCounter(mlp.d_ff, device, mlp.act) if self._deep else None
            self._counters.append((counter, deep))
        hooks = [(mlp.act, _counting_hook(*counters)) for mlp, counters in zip(self._mlps, self._counters, strict=True)]
        self._hooks.enter_context(hooked(hooks))
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def statistics(self, of_a_part: bool = False) -> list[LayerStatistics]:
        """What each layer did on the tokens seen so far; of a part of an evaluation, to be merged, that may be none."""
        unseen = any(counter.tokens == 0 for counter, _ in self._counters)
        if not self._counters or (unseen and not of_a_part):
            raise UsageError("the probe saw no token; run the plain model inside `with NeuronProbe(model)`")
        return [counter.statistics(deep.statistics() if deep else None) for counter, deep in self._counters]


def plain_blocks(model: nn.Module) -> list[Block]:
    """The blocks of a model whose hooks will fire and whose layers can be told apart.

    Raises:
        UsageError: the model is compiled or no GPT, or two layers share one activation module.
    """
    if not isinstance(model, GPT):
        given = type(model).__name__
        raise UsageError(f"the probe needs the plain model; got {given}; pass the module that was compiled")
    if any(module._compiled_call_impl is not None for module in model.modules()):
        raise UsageError("the probe needs the plain model; this one was compiled in place; use torch.compile(model)")
    if len({id(block.mlp.act) for block in model.blocks}) != len(model.blocks):
        raise UsageError("the probe needs one activation module for each layer; two layers share one")
    return list(model.blocks)


def _counting_hook(counter: _LayerCounter, deep: _DeepCounter | None) -> Hook:
    def hook(activation: Activation, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
        z, h = activation.preactivation(inputs[0].detach()), hidden.detach()  # both (B,T,F)
        rows = _rows_in_cache(h)
        for some_z, some_h in zip(torch.split(z, rows), torch.split(h, rows), strict=True):
            firings = counter.count(some_z, some_h)
            if deep is not None:
                deep.count(some_z, firings)

    return hook


def _rows_in_cache(h: Tensor) -> int:
    """Sequences to count at once: on a CPU so few that the float64 copies of h (B,T,F) stay in the cache."""
    return max(1, CACHED_VALUES // (h.size(1) * h.size(2))) if h.device.type == "cpu" else len(h)
