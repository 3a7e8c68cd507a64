"""The tables of a run's page: the health of each layer, what replacing neurons costs, and the same figures as CSV.

A layer is a record as `neurons.json` or an evaluation in the log has it; what a record lacks is “–” on the page. What
the figures are called and mean is in `base/health_columns.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from minigpt.base import formats, health_columns
from minigpt.base.health_columns import EXPENDABLE, HealthColumn
from minigpt.base.tables import Column, Table, ragged_csv
from minigpt.report.figures import Record

# Lists of points in a layer's record, each with its coordinates.
CURVES = {
    "never_versus_tokens": ("tokens", "never"),
    "contribution_curve": ("share_of_neurons", "share_of_contribution"),
    "dormancy_curve": ("tau", "fraction"),
}
# From this share on a layer is said to be wholly expendable.
WHOLLY = 0.995
_WARNING = (
    "What does nothing yet cannot be missed: this says more of how far the model was trained than of its neurons."
)


@dataclass(frozen=True)
class LayerTable:
    """A table with a row for each layer, and the figures whose meanings are below it."""

    table: Table
    figures: list[HealthColumn]


def health_tables(layers: list[Record], judged: bool) -> list[LayerTable]:
    """A table for each question; unless the neurons were judged one by one, without figures that no layer has."""
    questions = health_columns.by_question(layers=None if judged else layers)
    questions.pop(EXPENDABLE, None)
    tables = health_columns.health_tables(questions, layers, {}, long=True)
    return [LayerTable(table, figures) for table, figures in zip(tables, questions.values(), strict=True)]


def expendable_table(layers: list[Record], model: Record) -> LayerTable:
    """How many neurons of each layer, and of all together, could be replaced by their means."""
    questions = health_columns.by_question()
    *_, table = health_columns.health_tables(questions, layers, model, long=True)
    return LayerTable(replace(table, notes=_expendable_notes(table.records)), questions[EXPENDABLE])


def _expendable_notes(rows: Sequence[Record]) -> tuple[str, ...]:
    """A warning where nothing is missed at all."""
    whole = [str(row["layer"]) for row in rows if (row.get("expendable_fraction") or 0.0) >= WHOLLY]
    return (f"Wholly expendable: {formats.joined(whole)}. {_WARNING}",) if whole else ()


def least_active_table(steps: list[Record]) -> Table:
    """What setting the least active neurons to zero does, beside as many random ones."""
    perplexity = partial(formats.perplexity, digits=5)
    columns = (
        Column.name("set to zero", "neurons", formats.count),
        Column("share", "share", formats.percent),
        Column("perplexity, least active", "perplexity", perplexity),
        Column("perplexity, random", "random_perplexity", perplexity),
    )
    return Table("Perplexity without the least active neurons", columns, steps)


def layers_csv(layers: list[Record]) -> str:
    """Every single figure of every layer."""
    return ragged_csv(dict(_single_figures(layer)) for layer in layers)


def _single_figures(record: Record, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict) and key != "undefined":
            yield from _single_figures(value, f"{prefix}{key}/")
        elif not isinstance(value, dict | list):
            yield prefix + key, value


def curves_csv(layers: list[Record]) -> str:
    """Every point of every curve of every layer."""
    return ragged_csv(
        {"layer": layer["layer"], "curve": curve, "x": x, "y": y}
        for layer in layers
        for curve, x, y in (*_curve_points(layer), *_firing_rates(layer))
    )


def _curve_points(layer: Record) -> Iterable[tuple[str, float, float]]:
    for curve, (x, y) in CURVES.items():
        yield from ((curve, point[x], point[y]) for point in layer.get(curve) or [])


def _firing_rates(layer: Record) -> Iterable[tuple[str, float, float]]:
    histogram = layer.get("firing_rate_histogram") or {"log10_edges": [], "counts": []}
    pairs = zip(histogram["log10_edges"], histogram["counts"], strict=False)  # one more edge than there are counts
    yield from (("firing_rates_from_log10", edge, number) for edge, number in pairs)
