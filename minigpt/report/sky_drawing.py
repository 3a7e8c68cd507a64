"""Draws the night sky: every neuron a point, layers as rows, brightness how often it fires, the dead dark red.

One layout gives the SVG, which a page embeds or a file holds, and the PNG. Points are grouped into one path a
brightness, so that tens of thousands stay small; more than `MAX_CELLS` are binned. The colours differ in lightness
and along blue and yellow, and the dead are squares, so that no one has to tell red from green.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from minigpt.base import formats
from minigpt.base.health_columns import RARE_RATE
from minigpt.report.sky_data import CODES, DEAD, FIRST_COMMON, MAX_CELLS, UNKNOWN, Sky, SkyLayer, rate_of

WIDTH = 960
_MARGIN, _LABELS, _TOP, _LINE = 34, 60, 40, 24
_FIELD = WIDTH - 2 * (_MARGIN + _LABELS)
_ASPECT = 0.36  # height of the field to its width, if there are not too many layers
_MOST_LABELS = 26
NIGHT, TEXT, FAINT = "#0b1022", "#e8ecf6", "#9aa5c3"
LEVELS = ("#2f3d69", "#3a4c80", "#4a62a0", "#6482c0", "#86a5db", "#b3cbef", "#e3e9f2", "#fff3c9")
_FROM_RATES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5)
_SIZES = (0.2, 0.23, 0.26, 0.3, 0.36, 0.43, 0.52, 0.64)  # of a cell
STYLES = {
    DEAD: ("#a82c2c", 0.4),
    "rare": ("#26325a", 0.2),
    UNKNOWN: ("#86a5db", 0.36),
    **{str(level): style for level, style in enumerate(zip(LEVELS, _SIZES, strict=True))},
}
"""Colour and size of each kind of point."""
_SCATTER = 0.5  # cells
_SMALLEST_SCATTERED, _SMALL_CELL, _LARGEST_CELL = 5.0, 9.0, 36.0
_LONGEST_HEADING = 38  # letters beside the title
_LETTER = 6.7  # the width of one in the legend
_GLOWING, _MOST_GLOWING = "7", 0.2


def kind(code: str) -> str:
    """How a neuron with this code is drawn: a key of `STYLES`."""
    if code in (DEAD, UNKNOWN):
        return code
    if CODES.index(code) < FIRST_COMMON:
        return "rare"
    return str(bisect_right(_FROM_RATES, rate_of(code)) - 1)


KINDS = {code: kind(code) for code in CODES}


@dataclass(frozen=True)
class Layout:
    """Where everything is: `columns` cells of size `cell` side by side, `rows` of them for each layer.

    bin   how many neurons share a cell
    gap   what separates layers, in cells
    """

    columns: int
    rows: int
    bin: int
    cell: float
    gap: float
    layers: int

    @property
    def pitch(self) -> float:
        """From the top of one layer to that of the next, in cells."""
        return self.rows + self.gap

    @property
    def height(self) -> float:
        """Of all layers, in the picture's units."""
        return (self.layers * self.pitch - self.gap) * self.cell

    @property
    def scatters(self) -> bool:
        """Whether cells are large enough for stars that form no grid."""
        return self.cell >= _SMALLEST_SCATTERED


def layout(sky: Sky) -> Layout:
    """Cells as square as the layers allow."""
    layers, per_cell = len(sky.layers), max(1, -(-sky.neurons // MAX_CELLS))
    widest = max(-(-len(layer.codes) // per_cell) for layer in sky.layers)
    cell = (_FIELD * _FIELD * _ASPECT / (layers * widest)) ** 0.5
    rows = max(1, round(widest * cell / _FIELD))
    columns = -(-widest // rows)
    gap = 1.5 if layers <= _MOST_LABELS else 0.0
    return Layout(columns, rows, per_cell, min(_FIELD / columns, _LARGEST_CELL), gap, layers)


def binned(layer: SkyLayer, per_cell: int) -> str:
    """The layer with this many neurons in each cell, sorted so that neighbours are alike: a cell shows its darkest."""
    if per_cell == 1:
        return layer.codes
    ordered = sorted(layer.codes, key=CODES.index, reverse=True)
    return "".join(ordered[min(start + per_cell, len(ordered)) - 1] for start in range(0, len(ordered), per_cell))


def points(sky: Sky, place: Layout) -> dict[str, list[str]]:
    """Where all points of each kind are drawn, as SVG writes it."""
    found: dict[str, list[str]] = {name: [] for name in STYLES}
    for number, layer in enumerate(sky.layers):
        for index, code in enumerate(binned(layer, place.bin)):
            found[KINDS[code]].append(point(number, index, place))
    return {name: places for name, places in found.items() if places}


def point(layer: int, index: int, place: Layout) -> str:
    """A point at its column and height in cells, as a line without length."""
    row, column = divmod(index, place.columns)
    height = layer * place.pitch + row
    if not place.scatters:
        return f"M{column} {height:g}h0"
    seed = 2 * index + layer
    return f"M{column + _off(seed):.1f} {height + _off(seed + 1):.1f}h0"


def _off(number: int) -> float:
    """How far a point is moved from the middle of its cell, always the same for the same number."""
    mixed = (number + 1) * 0x9E3779B1 & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 15) * 0x85EBCA6B & 0xFFFFFFFF
    return ((mixed ^ mixed >> 13) / 4294967296 - 0.5) * _SCATTER


def _size(name: str, place: Layout) -> float:
    """How large a point of this kind is drawn, in cells: the smaller the cells, the more of one it fills."""
    swelling = max(1.0, _SMALL_CELL / place.cell) ** 0.6
    return min(1.0, round(STYLES[name][1] * float(swelling), 3))


# ------------------------------------------------------------------------------------------------------------ words


def sky_title(sky: Sky) -> str:
    """What there is to see, in one line."""
    share = formats.percent(sky.dead / sky.neurons) if sky.dead else "none"
    return f"{sky.neurons:,} neurons in {formats.counted(len(sky.layers), 'layer')}, {share} of them dead"


def sky_description(sky: Sky) -> str:
    """The picture in words, for whoever does not see it."""
    by_layer = [f"layer {layer.layer}: {layer.dead:,} of {len(layer.codes):,} dead" for layer in sky.layers]
    return "Each point is a neuron, each row a layer. " + "; ".join(by_layer) + "."


def legend_words(sky: Sky, place: Layout) -> list[tuple[str, str]]:
    """The kinds of points that occur in the picture, with what they mean."""
    present = {KINDS[code] for layer in sky.layers for code in set(layer.codes)}
    words = [(UNKNOWN, "alive (how often it fires is not measured yet)")] if UNKNOWN in present else []
    if present & set("01234567"):
        words += [("stars", "the brighter, the more often it fires")]
    if any(layer.gates for layer in sky.layers):
        words[-1:] = [("stars", "the brighter, the more often its gate is open (z > 0)")]
    words += [("rare", f"rare: on fewer than one token in {1 / RARE_RATE:,.0f}")] if "rare" in present else []
    words += [(DEAD, "dead: it never fired")] if DEAD in present else []
    if place.bin > 1:
        words.append(("", f"a point is {place.bin} neurons, sorted; it shows its darkest"))
    return words


# ----------------------------------------------------------------------------------------------------- for the script


def shown_sky(sky: Sky) -> dict[str, Any]:
    """What `sky.html.jinja` shows."""
    data = sky_data(sky)
    return {
        "picture": sky_svg(sky),
        "key": [(_dots(name), said) for name, said in legend_words(sky, layout(sky))],
        "data": data,
        "frames": bool(data["frames"]),
        "measured": sky.measured,
    }


def _dots(name: str) -> list[tuple[str, float, bool]]:
    """Colour and size of the points that the legend shows for a kind, and whether they are squares."""
    shown = ("1", "4", "7") if name == "stars" else (name,) if name else ()
    return [(STYLES[level][0], _drawn_width(level, 13 * STYLES[level][1]), level == DEAD) for level in shown]


def sky_data(sky: Sky) -> dict[str, Any]:
    """What `sky.js` needs to name the neuron under the pointer, and to redraw the sky of an earlier step."""
    place = layout(sky)
    return {
        "layers": [
            {"layer": layer.layer, "codes": binned(layer, place.bin), "gates": layer.gates} for layer in sky.layers
        ],
        "kinds": {code: {"kind": KINDS[code], "rate": rate_of(code)} for code in CODES},
        "styles": {name: [colour, _drawn_width(name, _size(name, place))] for name, (colour, _) in STYLES.items()},
        "frames": [{"step": frame.step, "changed": frame.changed} for frame in sky.frames if place.bin == 1],
        "place": {
            "left": _MARGIN + _LABELS, "columns": place.columns, "rows": place.rows, "pitch": place.pitch,
            "cell": place.cell, "bin": place.bin, "scatter": _SCATTER if place.scatters else 0,
        },
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- SVG


def sky_svg(sky: Sky, name: str = "sky", heading: str = "", stars: Sky | None = None) -> Markup:
    """The sky as an SVG element; with a heading it is a picture for a file, which has its legend in it.

    Labels and legend are those of `sky`, even if the points of other `stars` are drawn.
    """
    place = layout(sky)
    top = _TOP + (44 if heading else 0)
    legend = _legend(legend_words(sky, place) if heading else [], top + place.height + (44 if heading else 4))
    height = round(legend.bottom + 26)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sky" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif" '
        f'role="img" aria-labelledby="{name}-title {name}-words">',
        f'<title id="{name}-title">{escape(heading and heading + ": ")}{escape(sky_title(sky))}</title>',
        f'<desc id="{name}-words">{escape(sky_description(sky))}</desc>',
        f'<rect width="{WIDTH}" height="{height}" rx="14" fill="{NIGHT}"/>',
    ]
    if heading:
        size = 22 * min(1.0, _LONGEST_HEADING / len(heading))
        parts.append(_text(_MARGIN, 46, heading, TEXT, size, weight="600"))
        parts.append(_text(WIDTH - _MARGIN, 46, sky_title(sky), FAINT, 15, "end"))
    parts.append(f'<g transform="translate(0 {top})">')
    parts += _row_labels(sky, place)
    left, half = _MARGIN + _LABELS, place.cell / 2
    parts.append(
        f'<g class="stars" transform="translate({left + half:.2f} {half:.2f}) scale({place.cell:.4f})" fill="none" '
        'stroke-linecap="round">'
    )
    drawn = points(stars or sky, place)
    glows = len(drawn.get(_GLOWING, ())) < _MOST_GLOWING * sky.neurons / place.bin  # else they are no stars but a fog
    parts += [_path(name, places, _size(name, place), glows) for name, places in drawn.items()]
    return Markup("".join([*parts, "</g></g>", *legend.parts, "</svg>"]))


def _path(name: str, places: Sequence[str], size: float, glows: bool) -> str:
    colour, path = STYLES[name][0], "".join(places)
    cap = ' stroke-linecap="square"' if name == DEAD else ""
    drawn = f'<path class="k{name}" d="{path}" stroke="{colour}" stroke-width="{_drawn_width(name, size):g}"{cap}/>'
    glow = f'<path d="{path}" stroke="{colour}" stroke-width="{2.4 * size:g}" stroke-opacity=".1"/>'
    return (glow if glows and name == _GLOWING else "") + drawn


def _drawn_width(name: str, size: float) -> float:
    """A square looks larger than a disk as wide."""
    return round(0.8 * size, 3) if name == DEAD else size


def _row_labels(sky: Sky, place: Layout) -> list[str]:
    """The number of each layer at the left, and the share of its dead at the right; of many layers, of some."""
    every = -(-place.layers // _MOST_LABELS)
    size = min(14.0, max(8.0, place.pitch * place.cell * every * 0.8))
    found = [_text(_MARGIN, -9, "layer", FAINT, 12), _text(WIDTH - _MARGIN, -9, "dead", FAINT, 12, "end")]
    for number, layer in enumerate(sky.layers):
        if number % every:
            continue
        middle = (number * place.pitch + place.rows / 2) * place.cell + size * 0.36
        found.append(_text(_MARGIN, middle, str(layer.layer), FAINT, size))
        found.append(_text(WIDTH - _MARGIN, middle, _share(layer), TEXT if layer.dead else FAINT, size, "end"))
    return found


def _share(layer: SkyLayer) -> str:
    """The share of the dead, as briefly as it can be said."""
    share = layer.dead / len(layer.codes)
    return f"{100 * share:.0f} %" if not share or share >= 0.0995 else formats.percent(share)


@dataclass(frozen=True)
class _Legend:
    parts: list[str]
    bottom: float


def _legend(words: Sequence[tuple[str, str]], height: float) -> _Legend:
    """Points and their meaning side by side, in as many lines as it takes."""
    found, left = [], float(_MARGIN)
    for name, said in words:
        dots = _dots(name)
        width = 14 * len(dots) + 4 + _LETTER * len(said)
        if left > _MARGIN and left + width > WIDTH - _MARGIN:
            left, height = float(_MARGIN), height + _LINE
        for colour, size, square in dots:
            cap = "square" if square else "round"
            dot = f'<path d="M{left + 5:.0f} {height - 5:.1f}h0" stroke="{colour}" stroke-linecap="{cap}" '
            found.append(dot + f'stroke-width="{size:.1f}"/>')
            left += 14
        found.append(_text(left + 4, height, said, FAINT, 14))
        left += 34 + _LETTER * len(said)
    return _Legend(found, height)


def _text(x: float, y: float, words: str, colour: str, size: float, anchor: str = "", weight: str = "") -> str:
    more = f' text-anchor="{anchor}"' * bool(anchor) + f' font-weight="{weight}"' * bool(weight)
    return f'<text x="{x:.0f}" y="{y:.1f}" fill="{colour}" font-size="{size:.3g}"{more}>{escape(words)}</text>'
