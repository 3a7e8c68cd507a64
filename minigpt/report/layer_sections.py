"""What pages show of every layer, of a run or of any audited model: tables, reasons, distributions, and all as CSV.

A layer is a record of the log, of `neurons.json` or of `audit.json`; `layers.html.jinja` shows what is made here.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from minigpt.base.health_columns import reasons_for_missing, title_of
from minigpt.report import layer_tables, neuron_figures, pages
from minigpt.report.figures import Record

_MOST_PANELS = 64  # a model of hundreds of experts would make a page of tens of megabytes
_CURVE_CAPTIONS = {
    "never_versus_tokens": (
        "Neurons that never fired, by the number of tokens looked at",
        neuron_figures.never_versus_tokens,
    ),
    "contribution_curve": (
        "Contribution of the strongest neurons; dotted: all alike",
        neuron_figures.contribution_curves,
    ),
    "dormancy_curve": ("τ-dormant neurons: mean |h| at most τ of the layer's", neuron_figures.dormancy_curves),
}


def layer_sections(layers: list[Record], judged: bool) -> dict[str, Any]:
    """What `layers.html.jinja` shows; unless the neurons were `judged` by a diagnosis, without what no layer has."""
    curves = any(layer.get("dormancy_curve") for layer in layers)
    return {
        "health": layer_tables.health_tables(layers, judged),
        "undefined": [(title_of(key, long=True), where, why) for key, where, why in reasons_for_missing(layers)],
        "layers_csv": pages.csv_link(layer_tables.layers_csv(layers)),
        "curves_csv": pages.csv_link(layer_tables.curves_csv(layers)) if curves else None,
        "firing_rates": _firing_rates(layers),
        "layer_curves": _layer_curves(layers),
    }


def _firing_rates(layers: list[Record]) -> list[tuple[int, Markup]]:
    drawn = [layer for layer in layers if layer.get("firing_rate_histogram")]
    if len(drawn) > _MOST_PANELS:
        return []
    return [(layer["layer"], neuron_figures.firing_rates(layer)) for layer in drawn]


def _layer_curves(layers: list[Record]) -> list[tuple[str, Markup]]:
    return [
        (caption, draw(layers))
        for curve, (caption, draw) in _CURVE_CAPTIONS.items()
        if any(layer.get(curve) for layer in layers)
    ]
