"""SVG drawings for a page: how all of them are made, and the curves of a training.

The same records give the same bytes. Lines take the colour of the page's text where they are axes, and middling
colours where they are data, so that one drawing suits light and dark. What neurons do is in `neuron_figures`.
"""

from __future__ import annotations

import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup, escape

Record = dict[str, Any]
Paint = Callable[[Any], None]
Points = tuple[list[float], list[float]]

WIDE, SMALL = (5.4, 4.1), (5.0, 3.4)  # inches; the page scales them
MAX_POINTS = 600
_MAX_MARKERS = 40
_MAX_LEGEND = 8
_MAX_PERPLEXITY_LABELS = 8
INK = "#010203"  # replaced by the colour of the page's text, which no drawing can know
TRAINING_COLOUR, VALIDATION_COLOUR = "#8a8f98", "#2f7fd6"
_LAYER_COLOURS = ("#2a6fd6", "#7f8a96", "#d9730d")  # blue to orange by way of grey: apart without red and green, too
LAYER_MARKERS = "osD^vPX*"
_STYLE = {
    "svg.hashsalt": "minigpt",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.parse_math": False,  # NOTE: a dollar sign in a name is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.18,
    "legend.frameon": False,
    "legend.fontsize": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def draw(name: str, title: str, size: tuple[float, float], paint: Paint, style: Mapping[str, Any] = {}) -> Markup:
    """Return what `paint` puts on a matplotlib figure as an SVG element whose text equivalent is `title`.

    `name` keeps the ids of several drawings on one page apart; `style` changes settings of matplotlib.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    text = io.StringIO()
    with mpl.rc_context({**_STYLE, **style}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser's fonts draw the text
        drawing = Figure(figsize=size, layout="constrained")
        paint(drawing)
        drawing.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = "<svg" + text.getvalue().partition("<svg")[2]
    return Markup(_compact(svg, name).replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1))


def standing_alone(figure: str) -> str:
    """A drawing as a file, on white, with the colours of a light page."""
    style = "background: #fff; color: #1b1f24; font-family: sans-serif"
    # NOTE: Markup would escape what it is given to put in.
    return str(figure).replace("<svg ", f'<svg style="{style}" ', 1) + "\n"


def _compact(svg: str, name: str) -> str:
    """Drop what a page does not need of matplotlib's output, and give the ids that are used a prefix."""
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    svg = re.sub(r"font: (\d+px) [^;\"]*", r"font-size: \1", svg)
    used = set(re.findall(r'(?:url\(|href=")#(\w+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg).replace(' target="_blank"', "")
    return svg.replace(INK, "currentColor").strip()


def loss_curves(records: list[Record]) -> Markup:
    """Draw loss, with perplexity beside it, and the learning rate over the steps.

    Raises:
        ValueError: there is neither a train nor an eval record.
    """
    train = [record for record in records if record["kind"] == "train"]
    evaluations = [record for record in records if record["kind"] == "eval"]
    if not train and not evaluations:
        raise ValueError("no records to draw")

    def paint(drawing: Any) -> None:
        loss_axes, rate_axes = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        if train:
            label = "training, each logged batch"
            loss_axes.plot(*thinned(points(train, "loss")), color=TRAINING_COLOUR, linewidth=0.9, label=label)
            rate_axes.plot(*thinned(points(train, "lr")), color=TRAINING_COLOUR)
        if evaluations:
            validation = thinned(points(evaluations, "loss"))
            loss_axes.plot(*validation, color=VALIDATION_COLOUR, **markers(validation), label="validation")
        loss_axes.set_ylabel("loss (nats per token)")
        loss_axes.grid()
        loss_axes.legend()
        _label_perplexity(loss_axes)
        rate_axes.set_ylabel("learning rate")
        rate_axes.set_ylim(bottom=0)
        rate_axes.ticklabel_format(axis="y", scilimits=(-2, 3))
        rate_axes.set_xlabel("step")
        rate_axes.grid()

    return draw("loss", "Loss, perplexity and learning rate over the steps", WIDE, paint)


def _label_perplexity(axes: Any) -> None:
    """Label the right side of an axis in nats by exp(nats)."""
    import numpy as np

    lowest, highest = np.exp(np.clip(axes.get_ylim(), -50, 50))
    round_numbers = [digit * 10.0**power for power in range(22) for digit in (1, 1.5, 2, 3, 5, 7)]
    fitting = [number for number in round_numbers if lowest <= number <= highest]
    labelled = fitting[:: max(1, -(-len(fitting) // _MAX_PERPLEXITY_LABELS))]
    perplexity = axes.secondary_yaxis("right")
    texts = [f"{number:,.4g}" if number < 1e4 else f"{number:.0e}" for number in labelled]
    perplexity.set_yticks(np.log(labelled), texts)
    perplexity.set_ylabel("perplexity")


def points(records: list[Record], key: str) -> Points:
    """Steps and values, with gaps where a value is not finite."""
    return [r["step"] for r in records], [float("nan") if r[key] is None else r[key] for r in records]


def thinned(line: Points, limit: int = MAX_POINTS) -> Points:
    """At most about `limit` points that draw the same line: of each stretch its ends, its extremes and a gap if any."""
    import numpy as np

    x, y = line
    if len(x) <= limit:
        return line
    kept: set[int] = set()
    for begin, end in itertools.pairwise(np.linspace(0, len(x), max(1, limit // 5) + 1).astype(int)):
        part = np.asarray(y[begin:end], dtype=float)
        gaps = np.flatnonzero(np.isnan(part))
        kept |= {begin, end - 1, *(begin + gaps[:1])}
        if len(gaps) < len(part):
            kept |= {begin + np.nanargmin(part), begin + np.nanargmax(part)}
    order = sorted(kept)
    return [x[index] for index in order], [y[index] for index in order]


def markers(line: Points) -> dict[str, Any]:
    """A dot on every point of a line that has few; a lone point would not show without one."""
    return {"marker": "o", "markersize": 4} if len(line[0]) <= _MAX_MARKERS else {}


def lines_of(name: str, width: int) -> list[str]:
    """A name in lines of at most `width` characters."""
    return textwrap.wrap(name, width, break_on_hyphens=False) or [name]


def legend_label(name: str, width: int) -> str:
    """A name in several lines as a legend shows it.

    NOTE: matplotlib leaves out labels that begin with an underscore.
    """
    label = "\n".join(lines_of(name, width))
    return f" {label}" if label.startswith("_") else label


def layer_colours(layers: int) -> list[Any]:
    """One colour a layer, from the first to the last, all of which show on white and on black."""
    from matplotlib.colors import LinearSegmentedColormap

    scale = LinearSegmentedColormap.from_list("layers", _LAYER_COLOURS)
    return [scale(index / max(1, layers - 1)) for index in range(layers)]


def layer_label(index: int, layers: int) -> str | None:
    """The legend's words for a layer; of many layers only the first and the last have any."""
    return f"layer {index}" if layers <= _MAX_LEGEND or index in (0, layers - 1) else None
