"""The table of an audit, `audit.csv`: one row for each neuron; what is not known is an empty field."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minigpt.interop.spare_sites import Spared
from minigpt.neurons.census import judge
from minigpt.neurons.expendable import Expendable, least_first
from minigpt.neurons.health import contribution
from minigpt.neurons.layer_statistics import LayerStatistics
from minigpt.neurons.mlp_site import MLPSite
from minigpt.neurons.site_health import outgoing_norms_of, site_contribution

_COLUMNS = (
    "layer", "name", "neuron", "verdict", "firing_rate", "open_rate", "mean_h", "sd_h", "mean_abs_h", "outgoing_norm",
    "contribution",
)  # fmt: skip
_SPARED_COLUMNS = ("expendable_in_layer", "expendable_in_model")


def audit_table(
    places: Mapping[str, MLPSite],
    counted: Sequence[LayerStatistics],
    certified: Mapping[str, Tensor | None],
    spared: Spared | None,
) -> str:
    """All neurons of all sites that saw a token, as CSV; the last columns are there if it is known which could go."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_COLUMNS, *(_SPARED_COLUMNS if spared else ())))
    contributions = list(map(site_contribution, places.values(), counted)) if spared else []
    sets = _expendable_sets(contributions, spared) if spared else [[]] * len(places)
    for layer, ((name, site), found, chosen) in enumerate(zip(places.items(), counted, sets, strict=True)):
        if not found.tokens:
            continue
        rows = zip(judge(found, certified[name]), *_figures(site, found), *chosen, strict=True)
        writer.writerows([layer, name, neuron, *row] for neuron, row in enumerate(rows))
    return text.getvalue()


def _figures(site: MLPSite, found: LayerStatistics) -> list[list[Any]]:
    """The columns from `firing_rate` to `contribution`."""
    outgoing = outgoing_norms_of(site)
    assert outgoing is not None, "a site has what its neurons write"
    opened = (found.opened.double() / found.tokens).tolist() if found.z_known else [""] * site.neurons
    figures = (
        found.fired.double() / found.tokens,
        found.sum_h / found.tokens,
        contribution(found, torch.ones_like(outgoing)),
        found.sum_abs_h / found.tokens,
        outgoing,
        contribution(found, outgoing),
    )
    rate, *others = (figure.tolist() for figure in figures)
    return [rate, opened, *others]


def _expendable_sets(contributions: Sequence[Tensor], spared: Spared) -> list[list[list[int]]]:
    """Of each layer 1 for the neurons that could go with others of it, and for those that could with others of all."""
    widths = [len(scores) for scores in contributions]

    def flags(found: Expendable, layer: int | None) -> Tensor:
        order = least_first(contributions, layer)
        chosen = torch.zeros(sum(widths), dtype=torch.int64)
        chosen[order[: round(found.fraction * len(order))]] = 1
        return chosen

    alone = [torch.split(flags(found, layer), widths)[layer] for layer, found in enumerate(spared.layers)]
    together = torch.split(flags(spared.model, None), widths)
    return [[mine.tolist(), all_.tolist()] for mine, all_ in zip(alone, together, strict=True)]
