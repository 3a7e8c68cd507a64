"""Drawings of what the neurons of a finished training do, from the layers of `neurons.json`.

A list that is missing or empty gives no line, never a line at zero. Nothing is computed here but coordinates.
"""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from minigpt.report.figures import (
    LAYER_MARKERS,
    SMALL,
    TRAINING_COLOUR,
    VALIDATION_COLOUR,
    Record,
    draw,
    layer_colours,
    layer_label,
    markers,
)

_PANEL = (3.1, 2.0)  # inches
_SILENT_COLOUR = "#d9730d"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def firing_rates(layer: Record) -> Markup:
    """Draw one layer's histogram of firing rates; neurons that never fired are shown apart, at the left."""
    histogram = layer["firing_rate_histogram"]
    edges, counts, never = histogram["log10_edges"], histogram["counts"], histogram["never"]

    def paint(drawing: Any) -> None:
        axes = drawing.subplots()
        axes.stairs(counts, [10.0**edge for edge in edges], fill=True, color=VALIDATION_COLOUR)
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=1)
        silent = edges[0] - 1  # where to draw those that have no place on a log scale
        axes.stairs([never], [10 ** (silent - 0.3), 10 ** (silent + 0.3)], fill=True, color=_SILENT_COLOUR)
        decades = range(int(edges[-1]), int(edges[0]) + 1, -2)
        labels = ["never", *map(_power_of_ten, decades)]
        axes.set_xticks([10**silent, *(10.0**power for power in decades)], labels)
        axes.minorticks_off()
        top = max([1, never, *counts])
        ticks = [0, *(10**power for power in range(len(str(top))))]
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_ylim(0, 1.6 * top)
        axes.set_ylabel("neurons")
        axes.set_xlabel("firing rate")

    title = f"Firing rates of layer {layer['layer']}; {never} neurons never fired"
    return draw(f"rates-{layer['layer']}", title, _PANEL, paint)


def never_versus_tokens(layers: list[Record]) -> Markup:
    """Draw how many neurons of each layer had never fired after N tokens."""

    def paint(drawing: Any) -> None:
        axes = drawing.subplots()
        _layer_lines(axes, layers, "never_versus_tokens", "tokens", "never")
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda tokens, _: _power_of_ten(round(math.log10(tokens))))
        axes.set_xlabel("tokens looked at")
        axes.set_ylabel("neurons that never fired")
        axes.set_ylim(bottom=0)
        if axes.get_ylim()[1] < 1:
            axes.set_ylim(0, 1)

    return draw("never", "Neurons that never fired, by the number of tokens looked at", SMALL, paint)


def contribution_curves(layers: list[Record]) -> Markup:
    """Draw which share of a layer's contribution the strongest neurons make."""

    def paint(drawing: Any) -> None:
        axes = drawing.subplots()
        _layer_lines(axes, layers, "contribution_curve", "share_of_neurons", "share_of_contribution", 100, 100)
        axes.plot([0, 100], [0, 100], color=TRAINING_COLOUR, linewidth=0.8, linestyle=":")
        axes.set_xlabel("strongest neurons (%)")
        axes.set_ylabel("of the contribution (%)")

    return draw("contribution", "Share of the contribution that the strongest neurons make", SMALL, paint)


def dormancy_curves(layers: list[Record]) -> Markup:
    """Draw the share of τ-dormant neurons over τ."""

    def paint(drawing: Any) -> None:
        axes = drawing.subplots()
        _layer_lines(axes, layers, "dormancy_curve", "tau", "fraction", y_unit=100)
        axes.set_xlabel("τ (share of the layer's mean |h|)")
        axes.set_ylabel("τ-dormant neurons (%)")
        axes.set_ylim(bottom=0)

    return draw("dormancy", "Share of dormant neurons over the threshold τ", SMALL, paint)


def least_active(steps: list[Record]) -> Markup:
    """Draw the perplexity without the k least active neurons beside the one without k random ones."""

    def paint(drawing: Any) -> None:
        axes = drawing.subplots()
        share = [100 * step["share"] for step in steps]
        for key, label, colour in (
            ("random_perplexity", "random neurons", TRAINING_COLOUR),
            ("perplexity", "the least active", VALIDATION_COLOUR),
        ):
            line = share, [float("nan") if step[key] is None else step[key] for step in steps]
            axes.plot(*line, color=colour, **markers(line), label=label)
        axes.set_xlabel("neurons set to zero (%)")
        axes.set_ylabel("perplexity")
        axes.grid()
        axes.legend()

    return draw("zeroed", "Perplexity when the least active or random neurons are set to zero", SMALL, paint)


def _power_of_ten(power: int) -> str:
    return "1" if power == 0 else f"10{str(power).translate(_SUPERSCRIPTS)}"


def _layer_lines(
    axes: Any, layers: list[Record], curve: str, x: str, y: str, x_unit: float = 1, y_unit: float = 1
) -> None:
    """One line a layer through the points of a list of its record."""
    for index, (layer, colour) in enumerate(zip(layers, layer_colours(len(layers)), strict=True)):
        found = [point for point in layer.get(curve) or [] if point[x] is not None and point[y] is not None]
        line = [x_unit * point[x] for point in found], [y_unit * point[y] for point in found]
        mark = {"marker": LAYER_MARKERS[index % len(LAYER_MARKERS)], "markersize": 4, "markevery": (index % 3, 3)}
        axes.plot(*line, color=colour, linewidth=1.4, label=layer_label(index, len(layers)), **mark)
    axes.grid()
    axes.legend()
