"""The night sky as files of its own: several models below each other, the deaths of a training in motion, and PNG.

Everything is made of the SVG that `sky_drawing` draws. The motion is CSS alone, so that it plays where no script may
run, and stays at its last frame where a reader wants no motion.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from minigpt.report.sky_data import DEAD, UNKNOWN, Frame, Sky, SkyLayer
from minigpt.report.sky_drawing import FAINT, NIGHT, STYLES, WIDTH, layout, point, sky_svg

_MOST_FRAMES = 24
_SECONDS, _LAST_SECONDS = 0.35, 2.5  # of a frame, and of the last one
_APART = 18
_PIXELS, _POINT = 2.0, 0.72  # pixels of a unit, and points of one at 100 units an inch
_SVG = "{http://www.w3.org/2000/svg}"


def stacked(pictures: Sequence[Markup]) -> str:
    """Several skies below each other as one SVG."""
    if len(pictures) == 1:
        return f"{pictures[0]}\n"
    parts, top = [], 0
    for picture in pictures:
        parts.append(f'<g transform="translate(0 {top})">{picture}</g>')
        top += int(re.findall(r' height="(\d+)"', picture)[0]) + _APART
    height = top - _APART
    box = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{"".join(parts)}</svg>\n'


# ---------------------------------------------------------------------------------------------------------- motion


def moving(sky: Sky, name: str, heading: str) -> Markup:
    """The sky with its deaths and revivals, frame by frame and for ever; as it is if none were recorded.

    A neuron that is dead at the end, and so has no firing rate, is of middling brightness before.
    """
    frames = _joined(sky.frames, _MOST_FRAMES)
    place = layout(sky)
    if not frames or place.bin > 1:
        return sky_svg(sky, name, heading)
    patterns = _patterns(frames, sky)
    still = sky_svg(sky, name, heading, stars=replace(sky, layers=[_awake(layer) for layer in sky.layers]))
    seconds = _SECONDS * (len(frames) - 1) + _LAST_SECONDS
    plays = f".{name}-m {{ animation: {seconds:.2f}s step-end infinite; }}"
    style, drawn = [f"@media (prefers-reduced-motion: no-preference) {{ {plays} }}"], []
    for number, (pattern, neurons) in enumerate(patterns.items()):
        path = "".join(point(layer, neuron, place) for layer, neuron in neurons)
        style.append(f".{name}-{number} {{ {_hidden(pattern[-1])} animation-name: {name}-{number}; }}")
        style.append(f"@keyframes {name}-{number} {{ {_keyframes(pattern)} }}")
        colour, size = STYLES[DEAD]
        drawn.append(
            f'<g class="{name}-m {name}-{number}"><path d="{path}" stroke="{NIGHT}" stroke-width=".75"/>'
            f'<path d="{path}" stroke="{colour}" stroke-width="{0.8 * size:g}" stroke-linecap="square"/></g>'
        )
    steps = [_step(frame, number, len(frames), name) for number, frame in enumerate(frames)]
    style += [rule for rule, _ in steps]
    head, marker, tail = still.partition("</g></g>")
    texts = "".join(text for _, text in steps)
    body = tail.removesuffix("</svg>")
    return Markup(f"{head}{''.join(drawn)}{marker}{texts}{body}<style>{' '.join(style)}</style></svg>")


def _joined(frames: Sequence[Frame], limit: int) -> list[Frame]:
    """At most about `limit` frames; the changes of those left out join the next one."""
    every = -(-len(frames) // limit) if frames else 1
    joined: list[Frame] = []
    waiting: dict[int, set[int]] = {}
    for number, frame in enumerate(frames):
        for layer, neurons in frame.changed:
            waiting[layer] = waiting.get(layer, set()) ^ set(neurons)
        if number % every == 0 or number == len(frames) - 1:
            joined.append(Frame(frame.step, [(layer, sorted(neurons)) for layer, neurons in waiting.items()]))
            waiting = {}
    return joined


def _patterns(frames: Sequence[Frame], sky: Sky) -> dict[tuple[bool, ...], list[tuple[int, int]]]:
    """Neurons by when they are dead, in each frame; the last one is as measured."""
    dead: set[tuple[int, int]] = set()
    lives: dict[tuple[int, int], list[bool]] = {
        (layer, neuron): [] for frame in frames for layer, neurons in frame.changed for neuron in neurons
    }
    for frame in frames:
        dead ^= {(layer, neuron) for layer, neurons in frame.changed for neuron in neurons}
        for place, life in lives.items():
            life.append(place in dead)
    for number, layer in enumerate(sky.layers):
        for neuron, code in enumerate(layer.codes):
            if code == DEAD or (number, neuron) in lives:
                lives.setdefault((number, neuron), [False] * len(frames))[-1] = code == DEAD
    patterns: dict[tuple[bool, ...], list[tuple[int, int]]] = {}
    for place, life in lives.items():
        if any(life):
            patterns.setdefault(tuple(life), []).append(place)
    return patterns


def _awake(layer: SkyLayer) -> SkyLayer:
    return replace(layer, codes=layer.codes.replace(DEAD, UNKNOWN))


def _keyframes(pattern: Sequence[bool]) -> str:
    """Visible where the pattern says so; only where it changes."""
    whole = _SECONDS * (len(pattern) - 1) + _LAST_SECONDS
    found = [
        f"{100 * _SECONDS * number / whole:.2f}% {{ {_hidden(seen)} }}"
        for number, seen in enumerate(pattern)
        if number == 0 or seen != pattern[number - 1]
    ]
    return " ".join([*found, f"100% {{ {_hidden(pattern[-1])} }}"])


def _hidden(seen: bool) -> str:
    return f"visibility: {'visible' if seen else 'hidden'};"


def _step(frame: Frame, number: int, frames: int, name: str) -> tuple[str, str]:
    """The rule and the words that say which step a frame shows."""
    pattern = [other == number for other in range(frames)]
    rule = f".{name}-s{number} {{ {_hidden(pattern[-1])} animation-name: {name}-s{number}; }}"
    rule += f" @keyframes {name}-s{number} {{ {_keyframes(pattern)} }}"
    place = f'class="{name}-m {name}-s{number}" x="{WIDTH // 2}" y="75" text-anchor="middle"'
    return rule, f'<text {place} fill="{FAINT}" font-size="15">step {frame.step:,}</text>'


# ------------------------------------------------------------------------------------------------------------- PNG


def as_png(svg: str) -> bytes:
    """The same picture as a PNG; it knows only what our skies consist of: rectangles, points, texts and groups."""
    from matplotlib.figure import Figure

    root = ElementTree.fromstring(svg)
    width, height = (float(root.attrib[key]) for key in ("width", "height"))
    drawing = Figure(figsize=(width / 100, height / 100), dpi=100 * _PIXELS)
    axes = drawing.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    _paint(axes, root, (0.0, 0.0, 1.0))
    png = io.BytesIO()
    drawing.savefig(png, format="png", facecolor="white", metadata={"Software": None})
    return png.getvalue()


def _paint(axes: Any, element: ElementTree.Element, place: tuple[float, float, float]) -> None:
    """Paint what is inside an element; `place` is where its origin is, and its scale."""
    left, top, scale = place
    for inner in element:
        tag, found = inner.tag.removeprefix(_SVG), inner.attrib
        if tag in ("g", "svg"):
            moved = re.match(r"translate\((\S+) (\S+)\)(?: scale\((\S+)\))?", found.get("transform", ""))
            x, y, larger = (float(number or 1) for number in moved.groups()) if moved else (0.0, 0.0, 1.0)
            _paint(axes, inner, (left + scale * x, top + scale * y, scale * larger))
        elif tag == "rect":
            from matplotlib.patches import FancyBboxPatch

            shape = f"round,pad=0,rounding_size={found['rx']}"
            box = (left, top), float(found["width"]), float(found["height"])
            axes.add_patch(FancyBboxPatch(*box, boxstyle=shape, facecolor=found["fill"], linewidth=0))
        elif tag == "path":
            points = [(float(x), float(y)) for x, y in re.findall(r"M(\S+) (\S+?)h0", found["d"])]
            size = (float(found["stroke-width"]) * scale * _POINT) ** 2
            marker = "s" if found.get("stroke-linecap") == "square" else "o"
            opacity = float(found.get("stroke-opacity", 1))
            across, down = [left + scale * x for x, _ in points], [top + scale * y for _, y in points]
            axes.scatter(across, down, s=size, c=found["stroke"], marker=marker, linewidths=0, alpha=opacity)
        elif tag == "text":
            align = {"end": "right", "middle": "center"}.get(found.get("text-anchor", ""), "left")
            style = {"ha": align, "va": "baseline", "fontweight": "bold" if "font-weight" in found else "normal"}
            size = float(found["font-size"]) * _POINT
            x, y = left + scale * float(found["x"]), top + scale * float(found["y"])
            axes.text(x, y, inner.text, color=found["fill"], fontsize=size, parse_math=False, **style)
