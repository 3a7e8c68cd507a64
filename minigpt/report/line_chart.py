"""Lines of many runs over the steps as one SVG, each line in a class of its own, so that a page can hide it.

The drawings of `figures.py` come from matplotlib, which cannot name a line and takes a second to load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

# Okabe and Ito's colours that show on white and on black; lines beyond them are dashed.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", "7 3", "2 3", "9 3 2 3")
_WIDTH, _HEIGHT = 560, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 26, 12, 44
_TICKS = 5

Line = Sequence[tuple[float, float]]


def line_chart(title: str, unit: str, lines: Sequence[Line], show: Callable[[float], str]) -> Markup:
    """Draw lines of (step, value); line k has the class `line-k` and ends at its number, which counts from 1."""
    points = [point for line in lines for point in line]
    right = max((step for step, _ in points), default=1) or 1
    low, high = _range([value for _, value in points])

    def place(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / right
        y = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)
        return round(x, 1), round(y, 1)

    parts = [f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {_WIDTH} {_HEIGHT}">']
    for value in _ticks(low, high):
        x, y = place(0, value)
        parts.append(f'<path class="grid" d="M{x} {y}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4}">{escape(show(value))}</text>')
    for step in _ticks(0, right):
        x, y = place(step, low)
        parts.append(f'<text class="step" x="{x}" y="{y + 18}">{step:,.0f}</text>')
    parts += [f'<text class="step" x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}">step</text>']
    parts += [f'<text class="unit" transform="translate(13 {_HEIGHT / 2 - 16}) rotate(-90)">{escape(unit)}</text>']
    parts += [_drawn(number, [place(*point) for point in line]) for number, line in enumerate(lines)]
    return Markup("\n".join([*parts, "</svg>"]))


def stroke(number: int) -> str:
    """The style of line `number`, for its legend too."""
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    return f"stroke: {COLOURS[number % len(COLOURS)]}" + (f"; stroke-dasharray: {dash}" if dash else "")


def _drawn(number: int, line: Sequence[tuple[float, float]]) -> str:
    if not line:
        return ""
    path = "M" + "L".join(f"{x} {y}" for x, y in line) + ("h1" if len(line) == 1 else "")
    x, y = line[-1]
    label = f'<text x="{x + 4}" y="{y + 4}">{number + 1}</text>'
    return f'<g class="line-{number}"><path class="curve" style="{stroke(number)}" d="{path}"/>{label}</g>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5 * (low > 0), high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers between two ends."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [number * step for number in range(first, last + 1)]
