"""The registry of activations: what is known of each, and the decorator that enters it.

The activations themselves are in `functions.py`. The registry is one closed dictionary: a name is looked up
here and nowhere else, never by import or by attribute.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Tensor])
SlopeBound = float | None | Callable[..., float]  # a function of the arguments where they change the bound


@dataclass(frozen=True)
class ActivationEntry:
    """One activation as the registry knows it; a gated entry's flags speak of φ of its gate."""

    name: str
    function: Callable[..., Tensor]
    summary: str  # the formula
    source: str  # the paper
    aliases: tuple[str, ...]
    gated: bool  # h = φ(g) · u instead of h = φ(z)
    elementwise: bool  # False where a neuron's h depends on the z of others
    exact_zeros: bool  # φ(z) is exactly 0 for every z <= 0, whatever the arguments
    slope_rule: SlopeBound
    monotone: bool  # never decreasing, for all arguments that a spec may name
    surrogate_gradient: bool  # the backward pass is deliberately not the derivative of the forward pass
    arguments: tuple[tuple[str, float], ...]  # with their defaults, in the order in which a spec gives them
    allowed: tuple[float, float]  # the closed interval of every argument
    learnable: tuple[str, ...]  # the arguments that are parameters

    @property
    def branches(self) -> int:
        """Rows of w_in that each neuron has: one, or with a gate two."""
        return 2 if self.gated else 1

    @property
    def slope_bound(self) -> float | None:
        """sup |φ'| at the default arguments; None where φ' is unbounded or not elementwise."""
        return self.slope_bound_at(dict(self.arguments))

    @property
    def zero_gradient(self) -> bool:
        """Whether the gradient is zero everywhere, so that w_in cannot learn."""
        return self.slope_bound == 0.0

    def slope_bound_at(self, arguments: Mapping[str, float]) -> float | None:
        """Return sup |φ'| at these arguments; None where φ' is unbounded or not elementwise."""
        if not callable(self.slope_rule):
            return self.slope_rule
        return self.slope_rule(*(arguments[name] for name, _ in self.arguments))


_REGISTRY: dict[str, ActivationEntry] = {}
_CANONICAL_NAMES: dict[str, str] = {}  # every name and alias -> name


def activation(
    *,
    summary: str,
    source: str,
    slope_bound: SlopeBound,
    monotone: bool,
    aliases: tuple[str, ...] = (),
    gated: bool = False,
    elementwise: bool = True,
    exact_zeros: bool = False,
    surrogate_gradient: bool = False,
    allowed: tuple[float, float] = (-math.inf, math.inf),
    learnable: tuple[str, ...] = (),
) -> Callable[[Function], Function]:
    """Register the decorated φ(z, **arguments) under its own name; `ActivationEntry` says what each flag means."""

    def register(function: Function) -> Function:
        name = function.__name__
        parameters = list(inspect.signature(function).parameters.values())
        entry = ActivationEntry(
            name=name,
            function=function,
            summary=summary,
            source=source,
            aliases=aliases,
            gated=gated,
            elementwise=elementwise,
            exact_zeros=exact_zeros,
            slope_rule=slope_bound,
            monotone=monotone,
            surrogate_gradient=surrogate_gradient,
            arguments=tuple((parameter.name, float(parameter.default)) for parameter in parameters[1:]),
            allowed=allowed,
            learnable=learnable,
        )
        for known_as in (name, *aliases):
            assert known_as not in _CANONICAL_NAMES, f"two activations are called {known_as}"
            _CANONICAL_NAMES[known_as] = name
        _REGISTRY[name] = entry
        return function

    return register


def list_activations() -> list[ActivationEntry]:
    """Return all entries in registry order."""
    return list(_REGISTRY.values())


def find_activation(name: str) -> ActivationEntry | None:
    """Return the entry with this name or alias, in any case and with dashes or underscores; None if there is none."""
    canonical = _CANONICAL_NAMES.get(name.lower().replace("-", "_"))
    return None if canonical is None else _REGISTRY[canonical]


def activation_names() -> list[str]:
    """Return every name and alias."""
    return list(_CANONICAL_NAMES)
