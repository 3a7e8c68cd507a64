"""The answer that the page of a run begins with: how many neurons are dead, how sure that is, and whether it matters.

Every sentence is made of the figures of one record: `neurons.json`, or else the last evaluation in the log.
"""

from __future__ import annotations

from typing import Any

from minigpt.base import formats
from minigpt.base.health_columns import INERT_SHARE, TRUSTED_TOKENS, over_layers
from minigpt.base.tables import lookup
from minigpt.report.figures import Record

Layers = list[dict[str, Any]]


def answer(neurons: Record | None, evaluations: list[Record]) -> list[str]:
    """The finding in one sentence, then what qualifies it; nothing if nothing was evaluated yet."""
    measured = neurons or (evaluations[-1] if evaluations else None)
    if measured is None:
        return []
    layers = measured["layers"]
    shares = [layer.get("dead_fraction") for layer in layers]
    if None in shares or not layers:
        return ["Which neurons are dead was not counted."]
    found = [_finding(layers, measured["tokens"])]
    few = f"This rests on fewer than {TRUSTED_TOKENS:,} tokens: take it as a hint."
    found += filter(None, [_sureness(layers), _matters(neurons) if neurons else None])
    return [*found, *([few] if measured["tokens"] < TRUSTED_TOKENS else [])]


def dead_neurons(layer: Record) -> int:
    """How many neurons of a layer are dead."""
    return round(float(layer["dead_fraction"]) * int(layer["neurons"]))


def _finding(layers: Layers, tokens: int) -> str:
    neurons, dead = sum(layer["neurons"] for layer in layers), sum(map(dead_neurons, layers))
    if not dead:
        inert = over_layers(layers, "inert_fraction")
        idle = f", though {formats.percent(inert)} contribute next to nothing" if inert else ""
        return f"No neuron is dead: each of the {neurons:,} fired on some of the {tokens:,} tokens{idle}."
    worst = max(layers, key=dead_neurons)
    where = f", most in layer {worst['layer']} ({formats.percent(worst['dead_fraction'])})" if len(layers) > 1 else ""
    share = formats.percent(dead / neurons)
    return f"{share} of the neurons are dead{where}: {dead:,} of {neurons:,} never fired on {tokens:,} tokens."


def _sureness(layers: Layers) -> str | None:
    """What the silence proves; of a model without dead neurons, what `inert` means where it was said."""
    dead = sum(map(dead_neurons, layers))
    if not dead:
        inert = f"at most {100 * INERT_SHARE:g} % of their layer's mean contribution"
        return f"Next to nothing: {inert}." if over_layers(layers, "inert_fraction") else None
    bounds = [layer.get("dead_upper") or 0.0 for layer in layers if layer["dead_fraction"]]
    found = []
    if min(bounds) > 0:
        seldom = f"on more than about one token in {_two_digits(1 / max(bounds)):,}"
        found.append(f"had one fired {seldom}, it would have been seen (95 %)")
    certified = [lookup(layer, "verdicts/certified") for layer in layers]
    if None not in certified and sum(certified):
        found.append(f"the weights alone prove it of {sum(certified):,}")
    estimates = [lookup(layer, "chao1/truly_dead") for layer in layers]
    if None not in estimates and round(sum(estimates)) < dead:
        found.append(f"by estimate {sum(estimates):,.0f} of them would stay silent on any text")
    return f"{_capital('; '.join(found))}." if found else None


def _matters(neurons: Record) -> str | None:
    """What setting the dead ones to zero changes."""
    zeroed = lookup(neurons, "model/dead_zeroed")
    if not zeroed or not zeroed["neurons"]:
        return None
    if zeroed["largest_logit_change"] == 0:
        return "Setting them to zero changes nothing: no output moves."
    before, after = (formats.perplexity(zeroed[f"perplexity_{when}"], 5) for when in ("before", "after"))
    return f"Setting them to zero takes the perplexity from {before} to {after}."


def _two_digits(number: float) -> int:
    """Two significant digits."""
    return int(float(f"{number:.2g}"))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
