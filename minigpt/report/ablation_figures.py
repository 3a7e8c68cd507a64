"""Figures of an ablation as SVG text for its page: the same analysis gives the same bytes.

They are drawn as narrow as a telephone and may be magnified. Lines and letters take the colour of the surrounding text,
so that they show on light and dark pages; an arm is told apart by the shape of its marks as well as by colour.
Their captions, in `ablation_contents`, say what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from minigpt.base import formats
from minigpt.report.ablation_contents import (
    LINEAR_MARGINS,
    MOST_OVERLAID,
    curves_reference,
    differences_shown,
    drawn_arms,
    drawn_cells,
    reaches_far,
)
from minigpt.report.ablation_tables import Record, comparison_name, ordered
from minigpt.report.figures import INK, Paint, draw, legend_label, lines_of

WIDTH = 4.2  # inches
_STYLE = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.15}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8579b", "#a67c00", "#3a95d0", "#8c564b", "#7a7a7a")  # ≥ 3:1 on both
_MARKERS = "osD^vPX<>*"
_LARGEST_LOSS = 20.0  # beyond it perplexity has no readable axis


class Style(NamedTuple):
    """How an arm is drawn; more arms than marks and colours repeat neither together for a long time."""

    colour: str
    marker: str


def _style(index: int) -> Style:
    return Style(_COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)])


# Differences

_VERDICT_STYLES = {  # colour, mark, filled
    "better": ("#0072b2", "o", True),
    "worse": ("#d55e00", "X", True),
    "equivalent": ("#009e73", "s", True),
    "undecided": (INK, "o", False),
}
_NO_VERDICT = (INK, "D", False)
_ROW, _LINE, _AXIS = 0.48, 0.15, 0.95  # inches: a row with one line of text, each further line, the axis below
_NAME_WIDTH = 27  # characters


def forest(analysis: Record) -> Markup:
    """Draw one row a comparison: single seeds, mean, interval, and the verdict in words."""
    pairs = ordered(analysis["comparisons"])
    references = {pair["reference"] for pair in pairs}
    names = [pair["arm"] if len(references) == 1 else comparison_name(pair) for pair in pairs]
    lines = [lines_of(name, _NAME_WIDTH) for name in names]
    heights = [_ROW + _LINE * (len(wrapped) - 1) for wrapped in lines]
    than = f" from {lines_of(references.pop(), 40)[0]}" if len(references) == 1 else ""

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        axes.axvspan(-analysis["margin"], analysis["margin"], color=INK, alpha=0.1, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        top = 0.0
        for pair, wrapped, height in zip(pairs, lines, heights, strict=True):
            _draw_comparison(axes, pair, "\n".join(wrapped), top, top + height)
            top += height
        axes.set_ylim(top, 0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        _label_differences(axes, analysis)
        axes.set_xlabel(f"difference{than}, nats per token\n(in perplexity)   ← better | worse →")

    title = "Forest plot: paired differences of loss, with 95 % intervals and verdicts"
    return draw("forest", title, (WIDTH, sum(heights) + _AXIS), paint, _STYLE)


def _draw_comparison(axes: Any, pair: Record, name: str, top: float, bottom: float) -> None:
    across = axes.get_yaxis_transform()
    finding = pair["verdict"] if pair["mean"] is None else f"{formats.signed(pair['mean'])}, {pair['verdict']}"
    axes.text(0, top + 0.06, name, transform=across, va="top", fontweight="bold")
    axes.text(1, top + 0.06, finding, transform=across, va="top", ha="right")
    axes.axhline(bottom, color=INK, alpha=0.15, linewidth=0.6)
    height = bottom - 0.17
    seeds = [seed["difference"] for seed in pair["differences"] if seed["difference"] is not None]
    axes.plot(seeds, [height + 0.08] * len(seeds), "o", color=INK, alpha=0.55, markersize=2.5, markeredgewidth=0)
    if pair["mean"] is None:
        return
    colour, marker, filled = _VERDICT_STYLES.get(pair["verdict"], _NO_VERDICT)
    if pair["low"] is not None:
        axes.plot([pair["low"], pair["high"]], [height] * 2, color=colour, linewidth=2, solid_capstyle="butt")
    inside = colour if filled else "none"
    axes.plot([pair["mean"]], [height], marker, color=colour, markerfacecolor=inside, markersize=6.5)


def _label_differences(axes: Any, analysis: Record) -> None:
    """Ticks in nats, and below them in perplexity; logarithmic outside the middle if the largest hides the rest."""
    from matplotlib.ticker import MaxNLocator

    margin = analysis["margin"]
    shown = differences_shown(analysis)
    low, high = min([-1.5 * margin, *shown]), max([1.5 * margin, *shown])
    if reaches_far(analysis):
        axes.set_xscale("symlog", linthresh=LINEAR_MARGINS * margin)
        powers = [10.0**power for power in range(-9, 4) if 10.0**power > LINEAR_MARGINS * margin]
        ticks = [0.0, *(sign * size for size in (margin, *powers) for sign in (-1, 1) if low < sign * size < high)]
        low, high = 1.3 * low, 1.3 * high
    else:
        ticks = [
            float(tick) for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high
        ]
        low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    smallest = min((abs(tick) for tick in ticks if tick), default=1.0)
    digits = max(0, math.ceil(-math.log10(smallest) - 1e-9))
    axes.set_xticks(ticks, [_difference_label(tick, digits) for tick in ticks], fontsize=8)
    axes.set_xlim(low, high)
    axes.minorticks_off()


def _difference_label(tick: float, digits: int) -> str:
    if tick == 0:
        return "0"
    shown = formats.signed(tick, digits)
    return f"{shown}\n({formats.perplexity_change(tick)})"


# Figures with one drawing for each arm

Draw = Callable[[Any, int, Style], None]


class Plot(NamedTuple):
    """How to draw one arm into a frame, what else a frame of few arms or of one arm shows, and the axis upwards."""

    draw: Draw
    label: str
    context: Callable[[Any], None] | None = None
    perplexity: bool = True


def _each_arm(names: Sequence[str], plot: Plot, x: str, below: Plot | None = None) -> tuple[float, Paint]:
    """Height and paint of all arms in one frame with a legend, or, if they are many, each in its own small frame.

    The second plot is drawn only where all arms share a frame.
    """
    if len(names) > MOST_OVERLAID:
        return _panels(names, plot, x)
    return _overlaid(names, [plot, below] if below else [plot], x)


def _overlaid(names: Sequence[str], plots: Sequence[Plot], x: str) -> tuple[float, Paint]:
    columns = max(1, min(4, 44 // (max(map(len, names)) + 6)))

    def paint(figure: Any) -> None:
        frames = figure.subplots(len(plots), 1, sharex=True, squeeze=False)[:, 0]
        for axes, plot in zip(frames, plots, strict=True):
            for index in range(len(names)):
                plot.draw(axes, index, _style(index))
            axes.set_ylabel(plot.label)
            if plot.perplexity:
                _add_perplexity(axes)
        frames[-1].set_xlabel(x)
        figure.legend(handles=_legend(names), loc="outside lower center", labelspacing=0.3, ncols=columns, fontsize=9)

    return 0.6 + 2.3 * len(plots) + 0.2 * -(-len(names) // columns), paint


def _panels(names: Sequence[str], plot: Plot, x: str) -> tuple[float, Paint]:
    columns = 3 if max(map(len, names)) <= 12 else 2
    count = -(-len(names) // columns)

    def paint(figure: Any) -> None:
        frames = figure.subplots(count, columns, sharex=True, sharey=True, squeeze=False)
        for index, axes in enumerate(frames.flat):
            axes.tick_params(labelsize=7.5, labelbottom=index + columns >= len(names))
            if index >= len(names):
                axes.set_visible(False)
                continue
            if plot.context:
                plot.context(axes)
            plot.draw(axes, index, _style(index))
            axes.set_title("\n".join(lines_of(names[index], 60 // columns)), fontsize=8, loc="left", pad=3)
        for row, axes in enumerate(frames[:, -1]):
            _add_perplexity(axes, "" if row else "perplexity")
        figure.supxlabel(x, fontsize=9)
        figure.supylabel(plot.label, fontsize=9)

    return 0.5 + 1.3 * count, paint


def _legend(names: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = []
    for index, name in enumerate(names):
        colour, marker = _style(index)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=5, label=legend_label(name, 50)))
    return handles


def _add_perplexity(axes: Any, label: str = "perplexity") -> None:
    """The axis in nats once more on the right, labelled in perplexity."""
    import numpy as np

    if not axes.get_visible() or axes.get_ylim()[1] > _LARGEST_LOSS:
        return
    right = axes.secondary_yaxis("right", functions=(np.exp, lambda perplexity: np.log(np.maximum(perplexity, 1e-9))))
    right.tick_params(labelsize=7.5)
    right.set_ylabel(label, fontsize=8)


def dead_against_loss(analysis: Record) -> Markup:
    """Draw one mark a cell: its dead neurons across, its loss upwards."""
    cells = drawn_cells(analysis)
    names = [arm["name"] for arm in analysis["arms"] if any(cell["arm"] == arm["name"] for cell in cells)]
    places = [[(100 * c["dead_fraction"], c["loss"]) for c in cells if c["arm"] == name] for name in names]

    def draw_arm(axes: Any, index: int, style: Style) -> None:
        dead, loss = zip(*places[index], strict=True)
        axes.plot(dead, loss, style.marker, color=style.colour, alpha=0.85, markersize=5, markeredgewidth=0)

    def context(axes: Any) -> None:
        means = [[sum(values) / len(values) for values in zip(*place, strict=True)] for place in places]
        axes.plot(*zip(*means, strict=True), ".", color=INK, alpha=0.3, markersize=3)

    height, paint_arms = _each_arm(names, Plot(draw_arm, "loss, nats per token", context), "dead neurons, %")

    def paint(figure: Any) -> None:
        paint_arms(figure)
        largest = max(1.0, *(dead for place in places for dead, _ in place))
        figure.axes[0].set_xlim(-0.04 * largest, 1.05 * largest)

    title = "Scatter plot: dead neurons against loss, one mark for each training"
    return draw("dead", title, (WIDTH, height), paint, _STYLE)


def curves(analysis: Record) -> Markup:
    """Draw the mean loss of every arm over the steps with a band over seeds, and below it what separates the means."""
    arms, compared = drawn_arms(analysis), curves_reference(analysis)
    settled = [arm for arm in arms if arm["loss"] is not None] or arms  # a diverging curve may leave the frame
    loss_frame = _frame([(steps, line) for steps, *lines in map(_curve, settled) for line in lines])
    difference_frame = _frame([_minus(arm, compared) for arm in settled])

    def draw_arm(axes: Any, index: int, style: Style) -> None:
        steps, mean, low, high = _curve(arms[index])
        axes.fill_between(steps, low, high, color=style.colour, alpha=0.2, linewidth=0)
        axes.plot(steps, mean, color=style.colour, marker=style.marker, markersize=3.5, linewidth=1.2)
        axes.set_ylim(*loss_frame)

    def draw_difference(axes: Any, index: int, style: Style) -> None:
        steps, difference = _minus(arms[index], compared)
        axes.plot(steps, difference, color=style.colour, marker=style.marker, markersize=3.5, linewidth=1.2)
        axes.set_ylim(*difference_frame)

    def context(axes: Any) -> None:
        steps, mean, _, _ = _curve(compared)
        axes.plot(steps, mean, color=INK, linewidth=0.9, alpha=0.7, dashes=(3, 2))

    loss = Plot(draw_arm, "validation loss, nats per token", context)
    than = lines_of(compared["name"], 24)[0]
    difference = Plot(draw_difference, f"mean minus that of\n{than}, nats", perplexity=False)
    names = [arm["name"] for arm in arms]
    height, paint = _each_arm(names, loss, "step", difference if len(arms) > 1 else None)
    title = "Loss curves: validation loss over the steps, mean and band over seeds"
    return draw("curves", title, (WIDTH, height), paint, _STYLE)


def _curve(arm: Record) -> tuple[list[int], list[float], list[float], list[float]]:
    """Steps, mean, lowest, highest; a gap where there is none."""
    gap = float("nan")
    values = [[gap if point[key] is None else point[key] for point in arm["curve"]] for key in ("mean", "low", "high")]
    mean, low, high = values
    return [point["step"] for point in arm["curve"]], mean, low, high


def _minus(arm: Record, other: Record) -> tuple[list[int], list[float]]:
    """Steps, and the difference of two mean curves where they are means over as many seeds."""
    theirs = {point["step"]: point for point in other["curve"] if point["mean"] is not None}
    both = [point for point in arm["curve"] if point["mean"] is not None and point["step"] in theirs]
    both = [point for point in both if point["n"] == theirs[point["step"]]["n"]]
    return [point["step"] for point in both], [point["mean"] - theirs[point["step"]]["mean"] for point in both]


def _frame(lines: Sequence[tuple[list[int], list[float]]]) -> tuple[float, float]:
    """From the lowest to the highest value after the first quarter of the training."""
    points = [point for steps, values in lines for point in zip(steps, values, strict=True)]
    quarter = max((step for step, _ in points), default=0) / 4
    late = [value for step, value in points if step >= quarter and not math.isnan(value)]
    low, high = min(late, default=0.0), max(late, default=1.0)
    gap = 0.05 * (high - low) or 0.01
    return low - gap, high + gap


def sensitivity(analysis: Record) -> Markup:
    """Draw the mean loss of every arm over the learning rates, the chosen ones ringed."""
    points = [point for point in analysis["sensitivity"] if point["mean"] is not None]
    names = list(dict.fromkeys(point["arm"] for point in analysis["sensitivity"]))

    def draw_arm(axes: Any, index: int, style: Style) -> None:
        own = [point for point in analysis["sensitivity"] if point["arm"] == names[index]]
        _draw_rates(axes, sorted(own, key=lambda point: point["lr"]), style)

    def context(axes: Any) -> None:
        axes.plot([p["lr"] for p in points], [p["mean"] for p in points], ".", color=INK, alpha=0.3, markersize=3)

    height, paint_arms = _each_arm(names, Plot(draw_arm, "mean loss, nats per token", context), "learning rate")

    def paint(figure: Any) -> None:
        paint_arms(figure)
        rates = sorted({point["lr"] for point in analysis["sensitivity"]})
        for axes in figure.axes:
            axes.set_xscale("log")
            axes.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=0 if len(rates) <= 6 else 45)
            axes.minorticks_off()

    return draw("sensitivity", "Loss over the learning rate, for each arm", (WIDTH, height), paint, _STYLE)


def _draw_rates(axes: Any, points: list[Record], style: Style) -> None:
    drawn = [point for point in points if point["mean"] is not None]
    rates, means = [point["lr"] for point in drawn], [point["mean"] for point in drawn]
    axes.plot(rates, means, color=style.colour, marker=style.marker, markersize=4.5, linewidth=1.2)
    for point in drawn:
        if point["low"] is not None and point["high"] is not None:
            axes.plot([point["lr"]] * 2, [point["low"], point["high"]], color=style.colour, linewidth=1)
    ringed = [point for point in drawn if point["chosen"]]
    rings = [point["lr"] for point in ringed], [point["mean"] for point in ringed]
    axes.plot(*rings, "o", color=style.colour, markerfacecolor="none", markersize=10)
    lost = [point["lr"] for point in points if point["diverged"]]
    axes.plot(lost, [0.97] * len(lost), "x", color=style.colour, transform=axes.get_xaxis_transform(), markersize=6)


FIGURES: dict[str, Callable[[Record], Markup]] = {
    "forest": forest,
    "dead_against_loss": dead_against_loss,
    "curves": curves,
    "sensitivity": sensitivity,
}
