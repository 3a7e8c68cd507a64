"""Counting neurons at named places of any PyTorch model, whatever framework trained it.

A place is a site that `find_mlps` found, or a module: one with a matrix of weights reads the neurons (h is its input),
any other one is their activation (z is its input, h its output). Hooks see modules; experts that are slices of one
packed parameter are seen where they are multiplied. The counts are those of `NeuronProbe`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minigpt.activations import Activation
from minigpt.base.errors import DivergedError, UsageError
from minigpt.neurons.counters import CACHED_VALUES, LayerCounter
from minigpt.neurons.find_mlps import MLPSite
from minigpt.neurons.hooks import Hook, hooked
from minigpt.neurons.layer_statistics import LayerStatistics

Place = nn.Module | MLPSite
Seen = Callable[[Tensor, Tensor], None]  # takes the input and the output of a product
Slice = tuple[int, int]  # of a packed parameter

_PRODUCTS = frozenset({"linear", "addmm", "mm", "matmul", "__matmul__"})


class SiteProbe:
    """Context manager that counts at each place what its neurons do on all tokens that pass.

    `mask` (B,T), set before a forward pass, says which tokens count; it cannot be used with experts, which see a part
    of the tokens in an order of their own.

    Raises:
        UsageError: a module is compiled, on the meta device or without weights of floating point; a place saw no token
            (only experts may); or hooks fire in a backward pass, where gradient checkpointing repeats the forward pass.
        DivergedError: a hidden value is not finite; the place is named.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self.mask: Tensor | None = None
        self._taps = {name: _Tap(name, place, self) for name, place in places.items()}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> SiteProbe:
        hooks: list[tuple[nn.Module, Hook]] = []
        packed: dict[Slice, Seen] = {}
        for tap in self._taps.values():
            tap.counter = None
            if isinstance(tap.place, MLPSite) and tap.place.expert is not None:
                packed |= tap.products()
            else:
                hooks += tap.hooks()
        self._open.enter_context(hooked(hooks))
        if packed:
            self._open.enter_context(_Products(packed))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def statistics(self) -> list[LayerStatistics]:
        """What the neurons of each place did on the tokens seen so far, in the order of the places."""
        return [tap.statistics() for tap in self._taps.values()]


class _Tap:
    """One place, and what was counted there."""

    def __init__(self, name: str, place: Place, probe: SiteProbe) -> None:
        self.name, self.place, self._probe = name, place, probe
        self.counter: LayerCounter | None = None
        self._z: Tensor | None = None
        modules = (place.down, place.gate) if isinstance(place, MLPSite) else (place,)
        for module in modules:
            if module is not None:
                _refuse_unfit(name, module)

    def hooks(self) -> list[tuple[nn.Module, Hook]]:
        """What is to be called when the modules of this place have run."""
        place = self.place
        if isinstance(place, MLPSite):
            gate = [] if place.gate is None else [(place.gate, self._keep_z)]
            return [*gate, (place.down, self._read)]
        return [(place, self._read if _reads(place) else self._activated)]

    def products(self) -> dict[Slice, Seen]:
        """What is to be called with the input and the output of products with an expert's slices."""
        site = self.place
        assert isinstance(site, MLPSite)
        assert site.expert is not None
        found: dict[Slice, Seen] = {_place_of(getattr(site.down, site.parameter)[site.expert]): self._multiplied}
        # NOTE: a bias that is added later is not in the product, so only a named activation tells that z is whole.
        if site.gate is not None and "composed" not in site.activation:
            found[_place_of(getattr(site.gate, site.gate_parameter)[site.expert])] = self._gated
        return found

    def statistics(self) -> LayerStatistics:
        site = self.place
        seldom = isinstance(site, MLPSite) and (site.expert is not None or ".experts." in site.name)
        if self.counter is None:
            if not seldom:
                raise UsageError(f"{self.name} saw no token; run the plain model inside the probe")
            assert isinstance(site, MLPSite)
            return LayerCounter(site.neurons, torch.device("cpu")).statistics()
        counted = self.counter.statistics()
        if not torch.isfinite(counted.sum_square_h).all():
            raise DivergedError(f"{self.name} has hidden values that are not finite; its figures would mean nothing")
        return counted

    # --------------------------------------------------------------------------------------------------- what is seen

    def _keep_z(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(self.place, MLPSite)
        self._z = self.place.z(output.detach())

    def _read(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if not inputs:
            raise UsageError(f"{self.name} was called by keyword; pass its input by position, or name another module")
        z, self._z = self._z, None
        self._count(z, inputs[0].detach())

    def _activated(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        z = module.preactivation(inputs[0]) if isinstance(module, Activation) else inputs[0]
        self._count(z.detach() if z.shape == output.shape else None, output.detach())

    def _gated(self, read: Tensor, output: Tensor) -> None:
        assert isinstance(self.place, MLPSite)
        self._z = self.place.z(output.detach())

    def _multiplied(self, read: Tensor, output: Tensor) -> None:
        z, self._z = self._z, None
        self._count(z, read.detach())

    def _count(self, z: Tensor | None, h: Tensor) -> None:
        """Add hidden values h (..., F), of the tokens that the mask leaves."""
        if torch._C._current_graph_task_id() != -1:
            raise UsageError(f"{self.name} ran in a backward pass (gradient checkpointing); probe an evaluation")
        rows = h.reshape(-1, h.size(-1))  # (N,F)
        z = None if z is None else z.reshape(-1, z.size(-1))
        if self._probe.mask is not None:
            chosen = self._probe.mask.reshape(-1).bool().to(rows.device)
            if len(chosen) != len(rows):
                raise UsageError(f"{self.name} saw {len(rows)} tokens, the mask has {len(chosen)}; leave it out")
            rows, z = rows[chosen], None if z is None else z[chosen]
        if not len(rows):
            return
        if self.counter is None:
            self.counter = LayerCounter(rows.size(-1), rows.device)
        step = max(1, CACHED_VALUES // rows.size(-1)) if rows.device.type == "cpu" else len(rows)
        for begin in range(0, len(rows), step):
            part = slice(begin, begin + step)
            self.counter.count(None if z is None else z[None, part], rows[None, part])  # (1,n,F)


class _Products(TorchFunctionMode):
    """Call back with the input and the output of every product with one of these weights."""

    def __init__(self, seen: Mapping[Slice, Seen]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _PRODUCTS:
            for read, weight in itertools.pairwise(args):
                if isinstance(weight, Tensor) and (callback := self._seen.get(_place_of(weight))) is not None:
                    callback(read, result)
        return result


def _place_of(weight: Tensor) -> Slice:
    """Where a slice of a parameter lies in memory, and how large it is: it is made anew for every product."""
    return weight.data_ptr(), weight.numel()


def _reads(module: nn.Module) -> bool:
    """Whether a module multiplies its input by a matrix, so that its input is the neurons."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def _refuse_unfit(name: str, module: nn.Module) -> None:
    """Raise `UsageError` for a module whose hooks would not fire or whose weights cannot be read."""
    if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
        raise UsageError(f"{name} is compiled, and its hooks would never fire; pass the module that was compiled")
    if any(parameter.device.type == "meta" for parameter in module.parameters()):
        raise UsageError(f"{name} is on the meta device and has no values; load the model without offloading")
    if callable(getattr(module, "weight", None)):
        raise UsageError(f"{name} has no weights of floating point (it is quantised); load the model unquantised")
