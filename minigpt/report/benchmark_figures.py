"""The scaling curves of a benchmark as one SVG drawing: measured speed, and the bound above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from minigpt.report.benchmark_tables import AXIS_NAMES
from minigpt.report.figures import TRAINING_COLOUR, VALIDATION_COLOUR, draw

_SIZE = (10.0, 3.6)  # inches


def scaling_curves(points: Sequence[dict[str, Any]]) -> Markup:
    """Draw tokens a second over each axis, both logarithmic, with the bound as a dashed line."""
    axes = list(dict.fromkeys(point["axis"] for point in points))

    def paint(drawing: Any) -> None:
        panels = drawing.subplots(1, len(axes), sharey=True, squeeze=False)[0]
        for panel, axis in zip(panels, axes, strict=True):
            _paint_axis(panel, axis, [point for point in points if point["axis"] == axis])
        panels[0].set_ylabel("tokens a second")
        panels[0].legend()

    return draw("scaling", "Training speed over layers, width, context and batch, and its bound", _SIZE, paint)


def _paint_axis(panel: Any, axis: str, points: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator

    values = [point["value"] for point in points]
    speeds, bounds = ([point[key] for point in points] for key in ("tokens_per_second", "bound"))
    panel.plot(values, bounds, color=TRAINING_COLOUR, linestyle="--", label="bound")
    panel.plot(values, speeds, color=VALIDATION_COLOUR, marker="o", markersize=4, label="measured")
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.minorticks_off()
    panel.set_xticks(values, [str(value) for value in values])
    panel.set_xlabel(AXIS_NAMES[axis])
    panel.grid()
