"""Figures of a run as SVG text: the same records give the same bytes."""

from __future__ import annotations

import io
from typing import Any

Record = dict[str, Any]


def curves(records: list[Record]) -> str:
    """Draw loss (with perplexity beside it) and the dead share of every layer over the steps.

    Raises:
        ValueError: there is neither a train nor an eval record.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    train = [record for record in records if record["kind"] == "train"]
    evaluations = [record for record in records if record["kind"] == "eval"]
    if not train and not evaluations:
        raise ValueError("no records to draw")
    with mpl.rc_context({"svg.hashsalt": "minigpt", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(9, 6.4), layout="constrained")
        loss_axes, dead_axes = figure.subplots(2, 1, sharex=True)
        _draw_loss(loss_axes, train, evaluations)
        _draw_dead(dead_axes, evaluations)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _draw_loss(axes: Any, train: list[Record], evaluations: list[Record]) -> None:
    import numpy as np

    if train:
        axes.plot(*_points(train, "loss"), color="tab:gray", linewidth=0.8, alpha=0.7, label="training, each batch")
    if evaluations:
        axes.plot(*_points(evaluations, "loss"), color="tab:blue", marker="o", markersize=4, label="validation")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    perplexity = axes.secondary_yaxis("right")  # the same axis in nats, labelled by exp(nats)
    lowest, highest = np.exp(np.clip(axes.get_ylim(), -50, 50))
    round_numbers = [digit * 10.0**power for power in range(22) for digit in (1, 2, 5)]
    labelled = [number for number in round_numbers if lowest <= number <= highest]
    perplexity.set_yticks(np.log(labelled), [f"{number:,.0f}" for number in labelled])
    perplexity.set_ylabel("perplexity")


def _draw_dead(axes: Any, evaluations: list[Record]) -> None:
    import matplotlib as mpl

    layers = len(evaluations[0]["layers"]) if evaluations else 0
    colours = mpl.colormaps["viridis"]
    for layer in range(layers):
        steps = [record["step"] for record in evaluations]
        dead = [100 * record["layers"][layer]["dead_fraction"] for record in evaluations]
        colour = colours(0.15 + 0.6 * layer / max(1, layers - 1))  # neither end would show on a dark page
        label = f"layer {layer}" if layers <= 12 or layer in (0, layers - 1) else None
        axes.plot(steps, dead, color=colour, marker="o", markersize=4, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("dead neurons (%)")
    axes.set_ylim(bottom=0)
    if axes.get_ylim()[1] < 1:
        axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    if layers:
        axes.legend(frameon=False, ncols=4)


def _points(records: list[Record], key: str) -> tuple[list[int], list[float]]:
    """Steps and values, with gaps where a value is not finite."""
    return [r["step"] for r in records], [float("nan") if r[key] is None else r[key] for r in records]
