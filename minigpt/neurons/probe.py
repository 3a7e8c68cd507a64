"""Streaming statistics of every hidden neuron, collected by hooks while a model evaluates.

`NeuronProbe` counts; what the counts mean is said in `health.py`, and how sure that is in `bounds.py`. It keeps a few
vectors of length F for each layer, whatever the number of tokens, draws no random number and changes no result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minigpt.activations import Activation
from minigpt.errors import UsageError
from minigpt.model import GPT, Block


@dataclass(frozen=True)
class LayerStatistics:
    """What one layer's F neurons did on `tokens` tokens; two of them over disjoint tokens merge by sums.

    Shapes: every tensor (F,), on the CPU; counts int64, sums float64.
    """

    tokens: int
    fired: Tensor
    opened: Tensor
    sum_h: Tensor
    sum_abs_h: Tensor
    sum_square_h: Tensor

    def merge(self, other: LayerStatistics) -> LayerStatistics:
        """Statistics over the tokens of both."""
        return LayerStatistics(
            tokens=self.tokens + other.tokens,
            fired=self.fired + other.fired,
            opened=self.opened + other.opened,
            sum_h=self.sum_h + other.sum_h,
            sum_abs_h=self.sum_abs_h + other.sum_abs_h,
            sum_square_h=self.sum_square_h + other.sum_square_h,
        )


class _LayerCounter:
    """Accumulates one layer's statistics on the device, without waiting for it."""

    def __init__(self, neurons: int, device: torch.device) -> None:
        # NOTE: `mps` has no float64; sums there are float32 and good to about six digits. Counts are exact everywhere.
        self.real = torch.float32 if device.type == "mps" else torch.float64
        self.tokens = 0
        self.fired = torch.zeros(neurons, dtype=torch.int64, device=device)
        self.opened = torch.zeros(neurons, dtype=torch.int64, device=device)
        self.sum_h = torch.zeros(neurons, dtype=self.real, device=device)
        self.sum_abs_h = torch.zeros(neurons, dtype=self.real, device=device)
        self.sum_square_h = torch.zeros(neurons, dtype=self.real, device=device)

    @torch.no_grad()
    def count(self, z: Tensor, h: Tensor) -> None:
        """Add one batch: pre-activations z and hidden values h, both (B,T,F)."""
        z, h = z.flatten(0, -2), h.flatten(0, -2)  # (B·T,F)
        self.tokens += h.size(0)
        # NOTE: int32 suffices for one batch and is several times faster than int64; the totals are int64.
        self.fired += (h != 0).sum(0, dtype=torch.int32)
        self.opened += (z > 0).sum(0, dtype=torch.int32)
        h = h.to(self.real)
        self.sum_h += h.sum(0)
        self.sum_abs_h += h.abs().sum(0)
        self.sum_square_h += h.square().sum(0)

    def statistics(self) -> LayerStatistics:
        return LayerStatistics(
            tokens=self.tokens,
            fired=self.fired.cpu(),
            opened=self.opened.cpu(),
            sum_h=self.sum_h.cpu().double(),
            sum_abs_h=self.sum_abs_h.cpu().double(),
            sum_square_h=self.sum_square_h.cpu().double(),
        )


class NeuronProbe:
    """Context manager that counts, for each layer, how `block.mlp.act` behaves on all tokens that pass.

    Raises:
        UsageError: the model is compiled (hooks added later never fire there, and zeros would read as 100 % dead),
            two layers share one activation module, or no token was seen.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, GPT):
            given = type(model).__name__
            raise UsageError(f"the probe needs the plain model; got {given}; pass the module that was compiled")
        if any(module._compiled_call_impl is not None for module in model.modules()):
            raise UsageError(
                "the probe needs the plain model; this one was compiled in place; use torch.compile(model)"
            )
        self._layers = [_mlp_parts(block) for block in model.blocks]
        if len({id(activation) for activation, _ in self._layers}) != len(self._layers):
            raise UsageError("the probe needs one activation module for each layer; two layers share one")
        self._device = model.device
        self._counters: list[_LayerCounter] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> NeuronProbe:
        self._counters = [_LayerCounter(neurons, self._device) for _, neurons in self._layers]
        for (activation, _), counter in zip(self._layers, self._counters, strict=True):
            self._handles.append(activation.register_forward_hook(_counting_hook(counter)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def statistics(self) -> list[LayerStatistics]:
        """What each layer did on the tokens seen so far."""
        if not self._counters or any(counter.tokens == 0 for counter in self._counters):
            raise UsageError("the probe saw no token; run the plain model inside `with NeuronProbe(model)`")
        return [counter.statistics() for counter in self._counters]


def _mlp_parts(block: nn.Module) -> tuple[Activation, int]:
    assert isinstance(block, Block)
    return block.mlp.act, block.mlp.d_ff


def _counting_hook(counter: _LayerCounter) -> Callable[[Activation, tuple[Tensor, ...], Tensor], None]:
    def hook(activation: Activation, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
        counter.count(activation.preactivation(inputs[0].detach()), hidden.detach())

    return hook
