"""What stands between `w_in` and `w_out` of an MLP: the module of one layer, its spec, its fair width and scale.

The functions are in `activation_functions.py`, what is known of them in `activation_registry.py`. A spec is `relu`,
`leaky_relu:0.1`, or by layer `0-1=relu,2-3=swiglu`; its names are looked up in the registry and nowhere else. Widths
can be listed by layer in the same way.
Initialising weights and building the MLP around an activation are the model's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor, nn

import minigpt.activation_functions  # noqa: F401  (fills the registry)
from minigpt.activation_registry import ActivationEntry, activation_names, find_activation, list_activations
from minigpt.errors import UsageError, did_you_mean
from minigpt.randomness import generator

__all__ = [
    "Activation",
    "ActivationEntry",
    "build_activation",
    "canonical_activation",
    "canonical_widths",
    "init_gain",
    "list_activations",
    "matched_width",
    "parse_activation",
    "parse_widths",
]

WIDTH_LIMIT = 1 << 20

Value = TypeVar("Value")


class Activation(nn.Module):
    """The activation of one layer, with parameters of its own where it learns.

    Shapes: pre-activations (B, T, branches · F) -> h (B, T, F). Of two branches the FIRST half is the gate.
    """

    def __init__(self, entry: ActivationEntry, arguments: Mapping[str, float]) -> None:
        super().__init__()
        self.entry = entry
        self.spec = _canonical_spec(entry, arguments)
        self.branches = 2 if entry.gated else 1
        self._constants = {name: value for name, value in arguments.items() if name not in entry.learnable}
        for name in entry.learnable:
            # NOTE: zero-dimensional, because a float32 vector would promote a bfloat16 z.
            self.register_parameter(name, nn.Parameter(torch.tensor(arguments[name])))

    def forward(self, x: Tensor) -> Tensor:
        if self.branches == 1:
            return self.phi(x)
        gate, value = x.chunk(2, dim=-1)  # (B, T, 2F) -> (B, T, F) each
        return self.phi(gate) * value

    def phi(self, z: Tensor) -> Tensor:
        """Return φ(z), in the dtype of z (autocast would return some functions in float32)."""
        return self.entry.function(z, **self._constants, **dict(self.named_parameters())).to(z.dtype)

    def preactivation(self, x: Tensor) -> Tensor:
        """Return z (B, T, F), which of two branches is the gate."""
        return x if self.branches == 1 else x.chunk(2, dim=-1)[0]

    def slope_bound(self) -> float | None:
        """Return sup |φ'| at the present parameters; None where φ' is unbounded or not elementwise."""
        learned = {name: parameter.item() for name, parameter in self.named_parameters()}
        return self.entry.slope_bound_at({**self._constants, **learned})

    def extra_repr(self) -> str:
        return self.spec


# ---------------------------------------------------------------------------------------------- specs


def build_activation(spec: str) -> Activation:
    """Return a fresh activation for one layer.

    Raises: UsageError for an unknown name or an argument that is not allowed.
    """
    return Activation(*_resolve(spec))


def parse_activation(spec: str, n_layer: int) -> tuple[str, ...]:
    """Return the canonical spec of each layer, from one spec for all or a list such as `0-1=relu,2-3=swiglu`.

    Raises: UsageError as `build_activation`, and unless each layer is named exactly once.
    """
    if "=" not in spec:
        return (_canonical_spec(*_resolve(spec)),) * n_layer
    return _by_layer(spec, n_layer, "activation", lambda text: _canonical_spec(*_resolve(text)))


def canonical_activation(spec: str, n_layer: int) -> str:
    """Return the one way to write `spec`: aliases resolved, default arguments dropped, equal neighbours joined.

    Raises: UsageError as `parse_activation`.
    """
    layers = parse_activation(spec, n_layer)
    return layers[0] if len(set(layers)) == 1 else _list_by_layer(layers)


def parse_widths(spec: int | str, n_layer: int) -> tuple[int, ...]:
    """Return the d_ff asked for in each layer, from one number for all or a list such as `0=510,1-3=512`.

    Zero stands for the layer's `matched_width`.
    Raises: UsageError for anything else, and unless each layer is named exactly once.
    """
    if isinstance(spec, int):
        return (spec,) * n_layer
    if "=" not in spec:
        raise UsageError(f"not a width; got {spec!r:.100}; write 512, or by layer 0=510,1-3=512")
    return _by_layer(spec, n_layer, "width", _width)


def canonical_widths(spec: int | str, n_layer: int) -> int | str:
    """Return the one way to write widths: one number where all layers agree, else a list with equal neighbours joined.

    Raises: UsageError as `parse_widths`.
    """
    widths = parse_widths(spec, n_layer)
    return widths[0] if len(set(widths)) == 1 else _list_by_layer(widths)


def _by_layer(spec: str, n_layer: int, noun: str, read: Callable[[str], Value]) -> tuple[Value, ...]:
    """Return what a list such as `0-1=A,2-3=B` says of each layer, its right sides read by `read`."""
    chosen: dict[int, Value] = {}
    for part in spec.split(","):
        layers, _, text = part.partition("=")
        named = _layer_range(layers, n_layer)
        value = read(text)
        for layer in named:
            if layer in chosen:
                raise UsageError(f"layer {layer} has two {noun}s; got {spec!r:.200}; name each layer once")
            chosen[layer] = value
    missing = [label for label, covered in _runs([layer in chosen for layer in range(n_layer)]) if not covered]
    if missing:
        raise UsageError(f"no {noun} for layer {', '.join(missing)}; got {spec!r:.200}; name each layer once")
    return tuple(chosen[layer] for layer in range(n_layer))


def _list_by_layer(values: Sequence[object]) -> str:
    return ",".join(f"{label}={value}" for label, value in _runs(values))


def _width(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()) or int(text) >= WIDTH_LIMIT:
        raise UsageError(f"not a width; got {text!r:.100}; a whole number below {WIDTH_LIMIT:,} is needed")
    return int(text)


def _resolve(spec: str) -> tuple[ActivationEntry, dict[str, float]]:
    name, *texts = spec.strip().split(":")
    entry = _lookup(name)
    if len(texts) > len(entry.arguments):
        raise UsageError(f"too many arguments for an activation; got {spec!r:.100}; {_allowance(entry)}")
    arguments = dict(entry.arguments)
    arguments.update({key: _number(text, entry) for key, text in zip(arguments, texts, strict=False)})
    return entry, arguments


def _lookup(name: str) -> ActivationEntry:
    entry = find_activation(name)
    if entry is None:
        hint = did_you_mean(name.lower().replace("-", "_"), activation_names()) or ";"
        known = ", ".join(entry.name for entry in list_activations())
        raise UsageError(f"unknown activation {name!r:.100}{hint} known: {known}")
    return entry


def _number(text: str, entry: ActivationEntry) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    low, high = entry.allowed
    if not (low <= number <= high and math.isfinite(number)):  # NaN compares false
        raise UsageError(f"not a number that {entry.name} can use; got {text!r:.100}; {_allowance(entry)}")
    return number + 0.0  # -0.0 becomes 0.0


def _allowance(entry: ActivationEntry) -> str:
    if not entry.arguments:
        return f"{entry.name} takes no argument"
    defaults = ", ".join(f"{name}={_shortest(default)}" for name, default in entry.arguments)
    low, high = map(_shortest, entry.allowed)
    plural = "s" if len(entry.arguments) > 1 else ""
    return f"{entry.name} takes at most {len(entry.arguments)} argument{plural} ({defaults}), from {low} to {high}"


def _canonical_spec(entry: ActivationEntry, arguments: Mapping[str, float]) -> str:
    given = [arguments[name] for name, _ in entry.arguments]
    defaults = [default for _, default in entry.arguments]
    while given and given[-1] == defaults[len(given) - 1]:
        given.pop()
    return ":".join([entry.name, *map(_shortest, given)])


def _shortest(number: float) -> str:
    return repr(number).removesuffix(".0")


def _layer_range(text: str, n_layer: int) -> range:
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", text.strip())
    if match is None:
        raise UsageError(f"not a range of layers; got {text!r:.100}; write 2=… or 0-1=…,2-3=…")
    first = int(match[1])
    last = int(match[2] or first)
    if not first <= last < n_layer:
        raise UsageError(f"no such layers; got {text!r:.100}; layers are 0 to {n_layer - 1}, the lower one first")
    return range(first, last + 1)


def _runs(values: Sequence[Value]) -> list[tuple[str, Value]]:
    """Return each run of equal values with its label, `0-2` or `3`."""
    runs = []
    first = 0
    for value, group in groupby(values):
        last = first + len(list(group)) - 1
        runs.append((str(first) if first == last else f"{first}-{last}", value))
        first = last + 1
    return runs


# ---------------------------------------------------------------------------------- fair widths and scales


@cache
def matched_width(spec: str, n_embd: int, bias: bool) -> int:
    """Return the default d_ff of a layer: 4C, or for a gated one the F that gives the MLP as many parameters.

    Of the widths within 1 % of the plain MLP it prefers a multiple of 64, else of 32, and so on, for the hardware.
    Source: Shazeer 2020, arXiv:2002.05202, section 3 (two thirds of the plain width).
    """
    plain_width = 4 * n_embd
    if not _resolve(spec)[0].gated:
        return plain_width
    plain = plain_width * (2 * n_embd + bias) + n_embd * bias
    per_neuron = 3 * n_embd + 2 * bias  # two rows of w_in, one column of w_out
    ideal = (plain - n_embd * bias) / per_neuron
    for multiple in (64, 32, 16, 8, 4, 2):
        width = multiple * round(ideal / multiple)
        if 100 * abs(width * per_neuron + n_embd * bias - plain) <= plain:
            return width
    return max(1, round(ideal))


@cache
def init_gain(spec: str, d_ff: int) -> float:
    """Return 1 / sd(h) for standard normal pre-activations, learnable arguments at their initial value.

    `d_ff` matters only where neurons depend on each other. Gate and value are independent, so sd(h)² = E φ(g)².
    Raises: UsageError where h is constant and no gain gives it unit variance.
    """
    entry, arguments = _resolve(spec)
    z, weight = _normal_grid() if entry.elementwise else _normal_sample(d_ff)
    with torch.no_grad():
        phi = entry.function(z, **arguments)
    mean = (weight * phi).sum().item()
    mean_square = (weight * phi * phi).sum().item()
    variance = mean_square if entry.gated else mean_square - mean**2
    if variance <= 1e-12 * mean_square:
        raise UsageError(
            f"{spec} cannot be variance-matched; its output is constant at d_ff {d_ff}; choose another init"
        )
    return 1 / math.sqrt(variance)


def _normal_grid() -> tuple[Tensor, Tensor]:
    """Return midpoints over ±12 and their Gaussian weights; kinks and jumps, at whole numbers, are cell edges."""
    cells_per_unit = 2**13
    z = (torch.arange(24 * cells_per_unit, dtype=torch.float64, device="cpu") + 0.5) / cells_per_unit - 12
    return z, torch.exp(-z * z / 2) / (cells_per_unit * math.sqrt(2 * math.pi))


def _normal_sample(d_ff: int) -> tuple[Tensor, Tensor]:
    """Return about four million draws as rows of d_ff neurons, and their equal weights."""
    rows = -(-(2**22) // d_ff)
    z = torch.randn(rows, d_ff, generator=generator(0, "init gain"), dtype=torch.float64, device="cpu")
    return z, torch.tensor(1 / z.numel(), dtype=torch.float64, device="cpu")
