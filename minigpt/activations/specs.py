"""How activations are named: `relu`, `leaky_relu:0.1`, or by layer `0-1=relu,2-3=swiglu`; widths likewise.

Names are looked up in the registry and nowhere else. Every spec has one canonical form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

import minigpt.activations.functions  # noqa: F401  (fills the registry)
from minigpt.activations.registry import ActivationEntry, activation_names, find_activation, list_activations
from minigpt.base.errors import UsageError, did_you_mean

WIDTH_LIMIT = 1 << 20

Value = TypeVar("Value")


def parse_activation(spec: str, n_layer: int) -> tuple[str, ...]:
    """Return the canonical spec of each layer, from one spec for all or a list such as `0-1=relu,2-3=swiglu`.

    Raises: UsageError as `build_activation`, and unless each layer is named exactly once.
    """
    if "=" not in spec:
        return (canonical_spec(*resolve_spec(spec)),) * n_layer
    return _by_layer(spec, n_layer, "activation", lambda text: canonical_spec(*resolve_spec(text)))


def canonical_activation(spec: str, n_layer: int) -> str:
    """Return the one way to write `spec`: aliases resolved, default arguments dropped, equal neighbours joined.

    Raises: UsageError as `parse_activation`.
    """
    layers = parse_activation(spec, n_layer)
    return layers[0] if len(set(layers)) == 1 else _list_by_layer(layers)


def parse_widths(spec: int | str, n_layer: int) -> tuple[int, ...]:
    """Return the d_ff asked for in each layer, from one number for all or a list such as `0=510,1-3=512`.

    Zero means the layer's `matched_width`.
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


def resolve_spec(spec: str) -> tuple[ActivationEntry, dict[str, float]]:
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


def canonical_spec(entry: ActivationEntry, arguments: Mapping[str, float]) -> str:
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
