"""Counting neurons at named places of any PyTorch model, whatever framework trained it.

A place is a site that `find_mlps` found, or a module: one with a matrix of weights reads the neurons (h is its input),
any other one is their activation (z is its input, h its output). Hooks see modules; experts that are slices of one
packed parameter are seen where they are multiplied. The counts are those of `NeuronProbe`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minigpt.activations import Activation, build_activation, list_activations
from minigpt.base.errors import DivergedError, UsageError
from minigpt.neurons.counters import CACHED_VALUES, DeepCounter, LayerCounter
from minigpt.neurons.find_mlps import PRODUCTS
from minigpt.neurons.hooks import Hook, hooked, never_fires
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.mlp_site import MLPSite

Place = nn.Module | MLPSite
Seen = Callable[[Tensor, Tensor, Tensor | None], None]  # takes input and output of a product, and the input's tokens
Slice = tuple[int, int]  # of a packed parameter


class SiteProbe:
    """Context manager that counts at each place what its neurons do on all tokens that pass.

    `mask` (B,T), set before a forward pass, says which tokens count. Experts see a part of the tokens in another order;
    with a mask they are counted if their input is taken out of all tokens by number, and refused otherwise.

    With `deep` it also counts sequences, if `expect` comes before each forward pass, and with `slopes` besides how
    steep a named φ is. Of experts, and of layers that run more than once in a forward pass, sequences cannot be told;
    their `deep` is None.

    Raises:
        UsageError: a module is compiled, on the meta device or without weights of floating point; a place saw no token
            (only some experts may); or hooks fire in a backward pass, where gradient checkpointing repeats the forward
            pass.
        DivergedError: a hidden value is not finite; the place is named.
    """

    def __init__(self, places: Mapping[str, Place], deep: bool = False, slopes: bool = False) -> None:
        self.mask: Tensor | None = None
        self.deep, self.slopes = deep, slopes
        self.sequences = 0
        self._shape: tuple[int, ...] = (0, 0)
        self._alike = False
        self._taps = {name: _Tap(name, place, self) for name, place in places.items()}
        self._open = contextlib.ExitStack()

    def expect(self, shape: Sequence[int], mask: Tensor | None = None) -> None:
        """Say that the next forward pass reads ids of this shape (B,T), and which of them count."""
        self.mask = mask
        self._shape = tuple(shape)
        self.sequences += shape[0]
        counted = None if mask is None else mask.sum(1)
        self._alike = counted is None or bool((counted == counted[0]).all())

    def sequences_of(self, tokens: int) -> int:
        """How many sequences this many values are of, each of as many tokens that count; 0 if that is not known."""
        return self._shape[0] if self.deep and self._alike and tokens == math.prod(self._shape) else 0

    def __enter__(self) -> SiteProbe:
        self.sequences = 0
        hooks: list[tuple[nn.Module, Hook]] = []
        packed: dict[Slice, Seen] = {}
        for tap in self._taps.values():
            tap.counter = tap.deep = None
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
        self._refuse_unseen_experts()
        return [tap.statistics() for tap in self._taps.values()]

    def _refuse_unseen_experts(self) -> None:
        """Raise `UsageError` if no expert of a packed parameter saw a token: one product of them all passed unseen."""
        seen: dict[tuple[int, str], bool] = {}
        for tap in self._taps.values():
            site = tap.place
            if isinstance(site, MLPSite) and site.expert is not None:
                key = (id(site.down), site.name)
                seen[key] = seen.get(key, False) or tap.counter is not None
        if unseen := [name for (_, name), found in seen.items() if not found]:
            raise UsageError(
                f"no expert of {unseen[0]} saw a token; they ran in one fused product, or not at all; run them one by "
                'one with model.set_experts_implementation("eager")'
            )


class _Tap:
    """One place, and what was counted there."""

    def __init__(self, name: str, place: Place, probe: SiteProbe) -> None:
        self.name, self.place, self._probe = name, place, probe
        self.counter: LayerCounter | None = None
        self.deep: DeepCounter | None = None
        self._z: Tensor | None = None
        self._tokens: Tensor | None = None  # whose z was seen last
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
        found: dict[Slice, Seen] = {_place_of(site.stored): self._multiplied}
        if site.gate is not None:
            found[_place_of(getattr(site.gate, site.gate_parameter)[site.expert])] = self._gated
        return found

    def statistics(self) -> LayerStatistics:
        if self.counter is None:
            if not isinstance(self.place, MLPSite) or not self.place.seldom:
                raise UsageError(f"{self.name} saw no token; run the plain model inside the probe")
            return LayerCounter(self.place.neurons, torch.device("cpu")).statistics()
        whole = self.deep is not None and self.deep.sequences == self._probe.sequences
        counted = self.counter.statistics(self.deep.statistics() if self.deep and whole else None)
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

    def _gated(self, read: Tensor, output: Tensor, tokens: Tensor | None) -> None:
        assert isinstance(self.place, MLPSite)
        self._tokens = tokens
        # NOTE: a bias that is added later is not in the product, so only a named activation tells that z is whole.
        if "composed" not in self.place.activation:
            self._z = self.place.z(output.detach())

    def _multiplied(self, read: Tensor, output: Tensor, tokens: Tensor | None) -> None:
        (z, self._z), (tokens, self._tokens) = (self._z, None), (self._tokens, None)
        mask = self._probe.mask
        if mask is not None and (tokens is None or len(tokens) != len(read)):
            raise UsageError(
                f"{self.name} sees tokens in an order that cannot be followed, so padding cannot be left out; evaluate "
                "without padding (sequences of one length, or one at a time)"
            )
        self._count(
            z, read.detach(), None if mask is None or tokens is None else mask.reshape(-1)[tokens.to(mask.device)]
        )

    def _count(self, z: Tensor | None, h: Tensor, chosen: Tensor | None = None) -> None:
        """Add hidden values h (..., F), of the tokens that are `chosen` (N,), or that the mask leaves."""
        if torch._C._current_graph_task_id() != -1:
            raise UsageError(f"{self.name} ran in a backward pass (gradient checkpointing); probe an evaluation")
        rows = h.reshape(-1, h.size(-1))  # (N,F)
        z = None if z is None else z.reshape(-1, z.size(-1))
        chosen = self._probe.mask if chosen is None else chosen
        if chosen is not None:
            chosen = chosen.reshape(-1).bool().to(rows.device)
            if len(chosen) != len(rows):
                raise UsageError(f"{self.name} saw {len(rows)} tokens, the mask has {len(chosen)}; leave it out")
            rows, z = rows[chosen], None if z is None else z[chosen]
        if not len(rows):
            return
        if self.counter is None:
            self.counter = LayerCounter(rows.size(-1), rows.device)
            self.deep = self._deep_counter(rows)
        sequences = self._probe.sequences_of(h.numel() // h.size(-1)) if self.deep else 0
        shape = (sequences or 1, -1, rows.size(-1))
        self._add(None if z is None else z.reshape(shape), rows.reshape(shape), by_sequence=sequences > 0)

    def _deep_counter(self, rows: Tensor) -> DeepCounter | None:
        if not self._probe.deep or (isinstance(self.place, MLPSite) and self.place.seldom):
            return None
        activation = known_activation(self.place) if self._probe.slopes else None
        return DeepCounter(rows.size(-1), rows.device, activation and activation.to(rows.device))

    def _add(self, z: Tensor | None, h: Tensor, by_sequence: bool) -> None:
        """Count z and h (B,T,F), on a CPU so few values at once that their copies stay in the cache."""
        assert self.counter is not None
        small = h.device.type == "cpu"
        rows = max(1, CACHED_VALUES // h[0].numel()) if small else len(h)
        step = max(1, CACHED_VALUES // h.size(-1)) if small else h.size(1)
        for first in range(0, len(h), rows):
            of_h, of_z = h[first : first + rows], None if z is None else z[first : first + rows]
            firings = torch.zeros(of_h.size(0), of_h.size(2), dtype=torch.int64, device=h.device)
            for begin in range(0, h.size(1), step):
                part = slice(begin, begin + step)
                firings += self.counter.count(None if of_z is None else of_z[:, part], of_h[:, part])
            if self.deep and by_sequence:
                self.deep.count(of_z if self._probe.slopes else None, firings)


class _Products(TorchFunctionMode):
    """Call back with the input and the output of every product with one of these weights.

    Where the input is rows of another value, taken out by number, these numbers (N,) are passed on.
    """

    def __init__(self, seen: Mapping[Slice, Seen]) -> None:
        super().__init__()
        self._seen = seen
        self._rows: Tensor | None = None  # what was taken out last
        self._numbers: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (numbers := _row_numbers(func, args)) is not None:
            self._rows, self._numbers = result, numbers
        if getattr(func, "__name__", "") in PRODUCTS:
            for read, weight in itertools.pairwise(args):
                if isinstance(weight, Tensor) and (callback := self._seen.get(_place_of(weight))) is not None:
                    callback(read, result, self._numbers if read is self._rows else None)
        return result


def _row_numbers(func: Callable[..., Any], args: tuple[Any, ...]) -> Tensor | None:
    """By which numbers (N,) a function takes rows out of a value (tokens,C); None for any other function."""
    if getattr(func, "__name__", "") != "__getitem__" or not isinstance(args[0], Tensor) or args[0].ndim != 2:
        return None
    numbers = args[1]
    by_number = isinstance(numbers, Tensor) and numbers.ndim == 1 and numbers.dtype == torch.int64
    return numbers if by_number else None


def known_activation(place: Place) -> Activation | None:
    """The φ of a place, of our registry, if it is one and z is known."""
    if isinstance(place, Activation):
        return place
    if not isinstance(place, MLPSite) or place.gate is None:
        return None
    named = any(entry.name == place.activation for entry in list_activations())
    return build_activation(place.activation) if named else None


def _place_of(weight: Tensor) -> Slice:
    """Where a slice of a parameter lies in memory, and how large it is: it is made anew for every product."""
    return weight.data_ptr(), weight.numel()


def _reads(module: nn.Module) -> bool:
    """Whether a module multiplies its input by a matrix, so that its input is the neurons."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def _refuse_unfit(name: str, module: nn.Module) -> None:
    """Raise `UsageError` for a module whose hooks would not fire or whose weights cannot be read."""
    if never_fires(module):
        raise UsageError(f"{name} is compiled, and its hooks would never fire; pass the module that was compiled")
    if any(parameter.device.type == "meta" for parameter in module.parameters()):
        raise UsageError(f"{name} is on the meta device and has no values; load the model without offloading")
    if callable(getattr(module, "weight", None)):
        raise UsageError(f"{name} has no weights of floating point (it is quantised); load the model unquantised")
