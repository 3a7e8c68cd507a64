"""Figures of claims as SVG: the effects of each seed beside margin and zero, and what a claim draws over a quantity.

Axes take the colour of the page's text. Captions and numbers are in `claims_tables`.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from minigpt.report import claims_words as words
from minigpt.report import figures
from minigpt.report.claims_words import Record

_REACHED, _EXCLUDED = "#1f7ac0", "#d0631a"
_COLOURS = ("#1f7ac0", "#d0631a", "#159a74", "#b8579b", "#a67c00", "#8c564b", "#5b6ee0", "#7a7a7a")
_MARKERS = "osD^vPX*"
_STRIP = (2.6, 0.42)  # inches
_WIDTH, _SERIES_WIDTH = 4.8, 5.4
_NAME_WIDTH = 50  # characters
_MOST_TICKS = 8


def strip(entry: Record, index: int) -> Markup:
    """A condition's effects as a small picture without numbers, for the overview."""
    condition = entry["conditions"][index]

    def paint(drawing: Any) -> None:
        drawing.set_layout_engine("none")
        axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        _draw_effects(axes, condition)

    title = f"{words.finding(entry)}: {condition['name']}: {words.against_margin(condition)}"
    return figures.draw(f"{entry['id']}-strip-{index}", title, _STRIP, paint)


def effects(entry: Record) -> Markup:
    """All conditions of a claim, one below the other, each on its own axis."""
    conditions = entry["conditions"]

    def paint(drawing: Any) -> None:
        for axes, condition in zip(drawing.subplots(len(conditions), 1, squeeze=False)[:, 0], conditions, strict=True):
            _draw_effects(axes, condition)
            name = "\n".join(figures.lines_of(condition["name"], _NAME_WIDTH))
            axes.set_title(name, fontsize=10, loc="left", fontweight="bold")
            axes.set_xlabel(f"effect, {_axis_unit(condition['unit'])}", fontsize=9)
            axes.tick_params(labelsize=9)
            axes.spines["left"].set_visible(False)
            axes.locator_params(axis="x", nbins=6)

    title = f"Effects of {entry['id']} by seed, with mean, 90 % interval and margin"
    return figures.draw(f"{entry['id']}-effects", title, (_WIDTH, 0.2 + 1.2 * len(conditions)), paint)


def series(entry: Record, index: int, base: Record) -> Markup:
    """One of the pictures that a claim asks for: a value over a quantity, a line for each name.

    A quantity that is a multiple of the base's rate says what that is.
    """
    from matplotlib.ticker import PercentFormatter

    picture = entry["series"][index]

    def paint(drawing: Any) -> None:
        axes = drawing.subplots()
        for number, line in enumerate(picture["lines"]):
            _draw_line(axes, line, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
        _label_quantity(axes, picture)
        axes.set_xlabel(_with_rate(picture["x"], base))
        axes.set_ylabel(picture["y"])
        if words.is_share(picture["y"]):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            if _lowest(picture) >= 0:
                axes.set_ylim(bottom=0)
        axes.grid()
        if len(picture["lines"]) > 1:
            drawing.legend(loc="outside lower center", ncols=2 if len(picture["lines"]) < 7 else 3)

    height = 3.4 + 0.12 * len(picture["lines"])
    return figures.draw(f"{entry['id']}-series-{index}", picture["title"], (_SERIES_WIDTH, height), paint)


def dose_pair(entry: Record) -> tuple[int, int] | None:
    """The numbers of the pictures of dead shares and of losses over the same quantity, if a claim has both."""
    across: dict[str, dict[str, int]] = {}
    for number, picture in enumerate(entry.get("series", ())):
        what = "dead" if words.is_dead_share(picture["y"]) else "loss" if picture["y"].startswith("loss") else ""
        across.setdefault(picture["x"], {}).setdefault(what, number)
    pairs = [(found["dead"], found["loss"]) for found in across.values() if {"dead", "loss"} <= found.keys()]
    return pairs[0] if pairs else None


# All claims in one picture

_VERDICT_STYLES = {"SUPPORTED": (_REACHED, "o"), "REFUTED": (_EXCLUDED, "X"), "INCONCLUSIVE": ("#7a7f88", "D")}
_FARTHEST = 100.0
_STATEMENT_WIDTH = 88


def all_claims(entries: Sequence[Record]) -> Markup | None:
    """A row for each claim with a verdict: how far its effect is from its margin; None if there is none."""
    decided = [entry for entry in entries if entry["status"] == "judged" and entry["verdict"] in _VERDICT_STYLES]
    placed = [(entry, words.deciding(entry)) for entry in decided]
    rows = sorted(((_distance(found), entry) for entry, found in placed if found), key=lambda row: -row[0])
    if not rows:
        return None

    def paint(drawing: Any) -> None:
        axes = drawing.subplots()
        axes.axvspan(0, 2 * _FARTHEST, color=_REACHED, alpha=0.09, linewidth=0)
        axes.axvline(0, color=figures.INK, linewidth=1.0, dashes=(3, 2))
        for height, (distance, entry) in enumerate(rows):
            colour, marker = _VERDICT_STYLES[entry["verdict"]]
            axes.plot([distance - 1, distance + 1], [height, height], color=colour, linewidth=2)
            axes.plot([distance], [height], marker, color=colour, markersize=6)
        axes.set_xscale("symlog", linthresh=3, linscale=1)
        axes.set_xlim(-_FARTHEST, _FARTHEST)
        axes.set_xticks([-30, -10, -3, -1, 0, 1, 3, 10, 30], ["−30", "−10", "−3", "−1", "margin", "1", "3", "10", "30"])
        axes.minorticks_off()
        axes.set_yticks(range(len(rows)), [_row_label(entry) for _, entry in rows])
        for tick, (_, entry) in zip(axes.yaxis.get_major_ticks(), rows, strict=True):
            tick.label2.set_url(f"{entry['id']}.html")
        axes.tick_params(axis="y", length=0)
        axes.yaxis.tick_right()  # so that a telephone, which shows the left part, shows the marks
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("← too small   |   effect less margin, in half-widths of its interval   |   enough →")
        for verdict, (colour, marker) in _VERDICT_STYLES.items():
            axes.plot([], [], marker, color=colour, label=verdict)
        drawing.legend(loc="outside upper left", ncols=3)

    title = "Every judged claim: its deciding effect against its margin, by verdict"
    return figures.draw("all-claims", title, (12.4, 1.0 + 0.27 * len(rows)), paint, {"font.size": 10})


def _row_label(entry: Record) -> str:
    return f"{entry['id']}  {textwrap.shorten(entry['statement'], _STATEMENT_WIDTH, placeholder=' …')}"


def _distance(condition: Record) -> float:
    """From margin to effect, in half-widths of the interval; without one, at the edge on the side of the outcome."""
    edge = _FARTHEST / 1.5
    if condition["mean"] is None or condition["low90"] is None:
        return edge if condition["meets"] else -edge if condition["p_below"] < 1.0 else 0.0
    half = (condition["high90"] - condition["low90"]) / 2
    distance = condition["mean"] - condition["margin"]
    return math.copysign(min(edge, abs(distance) / half if half else edge), distance)


# Effects


def _draw_effects(axes: Any, condition: Record) -> None:
    """Seeds below, mean and interval above them, over the line of no effect and the margin."""
    scale = 100.0 if condition["unit"] == "share" else 1.0
    found = [scale * seed["effect"] for seed in condition["effects"] if seed["effect"] is not None]
    mean, low, high = (
        None if condition[key] is None else scale * condition[key] for key in ("mean", "low90", "high90")
    )
    margin = scale * condition["margin"]
    left, right = _limits([0.0, margin, *found, *(end for end in (low, high) if end is not None)])
    axes.axvspan(margin, right, color=_REACHED, alpha=0.12, linewidth=0)
    axes.axvline(0, color=figures.INK, linewidth=0.8)
    axes.axvline(margin, color=_REACHED, linewidth=1.2, dashes=(3, 2))
    axes.plot(found, [0.3] * len(found), "o", color=figures.INK, alpha=0.5, markersize=4, markeredgewidth=0)
    colour = {"reached": _REACHED, "less than the margin": _EXCLUDED}.get(words.outcome(condition), figures.INK)
    if low is not None:
        axes.plot([low, high], [0.68] * 2, color=colour, linewidth=2.2)
    if mean is not None:
        inside = "none" if colour == figures.INK else colour
        axes.plot([mean], [0.68], "o", color=colour, markerfacecolor=inside, markersize=7)
    axes.set_xlim(left, right)
    axes.set_ylim(0, 1)
    axes.set_yticks([])


def _limits(shown: Sequence[float]) -> tuple[float, float]:
    gap = 0.06 * (max(shown) - min(shown)) or 1.0
    return min(shown) - gap, max(shown) + gap


def _axis_unit(unit: str) -> str:
    return "percentage points" if unit == "share" else unit


# Series


def _draw_line(axes: Any, line: Record, colour: str, marker: str) -> None:
    drawn = []
    for point in sorted(line["points"], key=lambda point: point["x"]):
        values = [value for value in point["values"] if value is not None]
        axes.plot([point["x"]] * len(values), values, "o", color=colour, alpha=0.3, markersize=3.5, markeredgewidth=0)
        lost = len(point["values"]) - len(values)
        if lost:
            _mark_lost(axes, point["x"], lost, colour)
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            drawn.append((point["x"], math.fsum(values) / len(values), spread))
    xs, means, spreads = ([point[k] for point in drawn] for k in range(3))
    label = figures.legend_label(line["name"], 28)
    axes.errorbar(xs, means, spreads, color=colour, marker=marker, markersize=5.5, linewidth=1.4, label=label)


def _mark_lost(axes: Any, x: float, lost: int, colour: str) -> None:
    upwards = axes.get_xaxis_transform()
    axes.plot([x], [0.97], "x", color=colour, transform=upwards, markersize=6)
    axes.annotate(str(lost), (x, 0.97), xycoords=upwards, xytext=(5, -3), textcoords="offset points", fontsize=9)


def _label_quantity(axes: Any, picture: Record) -> None:
    """The axis across: logarithmic where asked for, with the values that were run as its labels, some of very many."""
    values = sorted({point["x"] for line in picture["lines"] for point in line["points"]})
    if picture["log_x"]:
        smallest = min((x for x in values if x > 0), default=1.0)
        if values and values[0] <= 0:
            axes.set_xscale("symlog", linthresh=smallest)
        else:
            axes.set_xscale("log")
    if picture["log_x"] or 0 < len(values) <= _MOST_TICKS:
        labelled = values[:: math.ceil(len(values) / _MOST_TICKS) or 1]
        axes.set_xticks(labelled, [f"{x:g}" for x in labelled])
        axes.minorticks_off()


def _lowest(picture: Record) -> float:
    values = [value for line in picture["lines"] for point in line["points"] for value in point["values"]]
    return min((value for value in values if value is not None), default=0.0)


def _with_rate(quantity: str, base: Record) -> str:
    return quantity.replace("the base rate", f"the base rate {base['lr']:g}") if "lr" in base else quantity
