"""Streaming statistics of every hidden neuron, collected by hooks while a model evaluates.

`NeuronProbe` counts; what the counts mean is said in `health.py`, and how sure that is in `bounds.py`. It keeps a few
vectors of length F for each layer, whatever the number of tokens, draws no random number and changes no result. What
costs more than it tells during training is counted only by a `deep` probe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minigpt.activations import Activation
from minigpt.base.errors import UsageError
from minigpt.model import GPT, Block
from minigpt.neurons.counters import CACHED_VALUES, DeepCounter, LayerCounter
from minigpt.neurons.hooks import Hook, hooked, never_fires
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.site_probe import Place, SiteProbe

__all__ = ["LayerStatistics", "NeuronProbe"]


class NeuronProbe:
    """Context manager that counts, for each layer, how `block.mlp.act` behaves on all tokens that pass.

    With `deep` it also counts sequences, slopes and the largest pre-activations, which takes longer.

    Raises:
        UsageError: the model is compiled (hooks added later never fire there, and zeros would read as 100 % dead),
            two layers share one activation module, or no token was seen.
    """

    def __init__(self, model: nn.Module, deep: bool = False) -> None:
        self._mlps = [block.mlp for block in plain_blocks(model)]
        self._deep = deep
        self._counters: list[tuple[LayerCounter, DeepCounter | None]] = []
        self._hooks = contextlib.ExitStack()

    @staticmethod
    def for_modules(places: Mapping[str, Place], deep: bool = False, slopes: bool = False) -> SiteProbe:
        """The same counts at named places of any model: see `SiteProbe`."""
        return SiteProbe(places, deep, slopes)

    def __enter__(self) -> NeuronProbe:
        self._counters = []
        for mlp in self._mlps:
            device = mlp.w_in.weight.device
            counter = LayerCounter(mlp.d_ff, device)
            deep = DeepCounter(mlp.d_ff, device, mlp.act) if self._deep else None
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
    if any(never_fires(module) for module in model.modules()):
        raise UsageError("the probe needs the plain model; this one was compiled in place; use torch.compile(model)")
    if len({id(block.mlp.act) for block in model.blocks}) != len(model.blocks):
        raise UsageError("the probe needs one activation module for each layer; two layers share one")
    return list(model.blocks)


def _counting_hook(counter: LayerCounter, deep: DeepCounter | None) -> Hook:
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
