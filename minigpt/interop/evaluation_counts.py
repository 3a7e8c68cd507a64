"""The neurons of a model while somebody else's training loop evaluates it: what the callbacks have in common.

The sites are found at the first batch in evaluation mode. A batch counts once the loop has said that it was one of an
evaluation; padding, which the attention mask names, never does. Nothing here knows a framework.
"""

from __future__ import annotations

import contextlib
import math
import sys
from typing import Any

from torch import Tensor, distributed, nn

from minigpt.base.errors import UsageError
from minigpt.base.health_columns import over_layers
from minigpt.neurons.find_mlps import evaluating, find_mlps
from minigpt.neurons.health import LayerHealth, dead_fraction
from minigpt.neurons.hooks import never_fires
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.mlp_site import MLPSite
from minigpt.neurons.probe import NeuronProbe
from minigpt.neurons.site_health import sites_health
from minigpt.neurons.site_probe import SiteProbe

DYING = 0.05  # a rise of a layer's dead share that is worth a line
EXAMPLE_TOKENS = 16
Layers = dict[int, list[LayerHealth]]  # by number: one health, or those of its experts


class EvaluationCounts:
    """Counts the batches that a model evaluates, from `attach` to `detach`.

    Raises:
        UsageError: the model is compiled, its MLPs cannot be told, or a batch has no token ids or no plain mask.
    """

    def __init__(self) -> None:
        self._hooks = contextlib.ExitStack()
        self._probing = contextlib.ExitStack()
        self._probe: SiteProbe | None = None
        self._model: nn.Module | None = None
        self._sites: dict[str, MLPSite] = {}
        self._finding = False
        self._last: list[LayerStatistics] | None = None
        self._counted: list[LayerStatistics] | None = None
        self._shares: dict[int, float] = {}

    def attach(self, model: nn.Module) -> None:
        """Look at every batch of `model` from now on."""
        if any(never_fires(part) for part in model.modules()):
            raise UsageError("hooks never fire in a compiled model; got one; train without torch.compile to count")
        self.detach()
        if model is not self._model:
            self._model, self._sites, self._shares = model, {}, {}
        before = model.register_forward_pre_hook(self._before, with_kwargs=True)
        after = model.register_forward_hook(self._after, always_call=True)
        self._hooks.callback(before.remove)
        self._hooks.callback(after.remove)

    def detach(self) -> None:
        """Look no longer, and forget what was counted."""
        self._hooks.close()
        self.forget()

    def forget(self) -> None:
        """Drop what was counted since the last evaluation: it belongs to none."""
        self._last = self._counted = None

    def keep_batch(self) -> None:
        """Count the batch that the model saw last, which was one of an evaluation."""
        if self._last is None:
            raise UsageError("an evaluation passed by unseen; the callback came too late; give it before training")
        before = self._counted or []
        self._counted = [old.merge(new) for old, new in zip(before, self._last, strict=True)] if before else self._last
        self._last = None

    def layers(self) -> Layers:
        """The health of every layer on the batches that were kept, in all processes; counting then starts anew."""
        if self._counted is None:
            raise UsageError("an evaluation had no batch; nothing is known of its neurons; give it some text")
        counted = _over_all_processes(self._counted)
        self.forget()
        found: Layers = {}
        for site, health in zip(self._sites.values(), sites_health(self._sites, counted), strict=True):
            if health.tokens:  # else an expert that no token was sent to
                found.setdefault(site.block, []).append(health)
        return found

    def dying(self, layers: Layers) -> list[str]:
        """A line for each layer whose dead share rose by more than `DYING` above its lowest since its last line."""
        lines = []
        for layer, health in layers.items():
            share = dead_fraction(health)
            before = self._shares.setdefault(layer, share)
            if share > before + DYING:
                neurons = sum(part.neurons for part in health)
                tokens = max(part.tokens for part in health)
                now = f"{share:.1%} of its {neurons:,} neurons are dead on {tokens:,} tokens"
                lines.append(f"layer {layer} is dying: {now}; it was {before:.1%}")
            if not before <= share <= before + DYING:
                self._shares[layer] = share
        return lines

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training or self._finding:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor) or ids.ndim != 2:
            raise UsageError("a batch has no token ids (B,T); this needs input_ids; count with NeuronProbe.for_modules")
        if not self._sites:
            self._sites = self._find(model, ids[:1, :EXAMPLE_TOKENS])
        self._probing.enter_context(evaluating(model))
        self._probe = self._probing.enter_context(NeuronProbe.for_modules(self._sites))
        self._probe.mask = _mask(kwargs.get("attention_mask"), ids)

    def _after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        probe, self._probe = self._probe, None
        if probe is None:
            return
        self._probing.close()
        if output is not None:  # the forward pass came to its end
            self._last = probe.statistics()

    def _find(self, model: nn.Module, ids: Tensor) -> dict[str, MLPSite]:
        self._finding = True
        try:
            return {site.label: site for site in find_mlps(model, ids)}
        finally:
            self._finding = False


def figures(layers: Layers) -> dict[str, float]:
    """What is worth a curve: shares of dead and inert neurons in the model, and of dead ones in each layer."""
    all_layers = [health for part in layers.values() for health in part]
    inert = over_layers(all_layers, "inert_fraction")
    by_layer = {f"dead_fraction_layer_{layer}": dead_fraction(health) for layer, health in layers.items()}
    found = {"dead_fraction": dead_fraction(all_layers), "inert_fraction": inert, **by_layer}
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def say(lines: list[str]) -> None:
    """Print lines where they do not mix with results."""
    for line in lines:
        print(line, file=sys.stderr)


def _mask(mask: Any, ids: Tensor) -> Tensor | None:
    """Which tokens (B,T) are no padding; None if all are."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.size(1) < ids.size(1):
        raise UsageError("the attention mask does not say which tokens are padding; a mask (B,T) of 0 and 1 is needed")
    plain = mask[:, -ids.size(1) :].bool()  # with a cache the mask is longer than what is read now
    return None if plain.all() else plain


def _over_all_processes(counted: list[LayerStatistics]) -> list[LayerStatistics]:
    """What the neurons did in all processes that evaluate together."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return counted
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, counted)
    total: list[LayerStatistics] = parts[0]
    for part in parts[1:]:
        total = [old.merge(new) for old, new in zip(total, part, strict=True)]
    return total
