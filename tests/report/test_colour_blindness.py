"""Colours that mean something stay apart for people who see no red or no green, or a mark tells them apart."""

from __future__ import annotations

import re
from itertools import combinations, pairwise

import numpy as np
import pytest
from colour_vision import EYES, distance, lab
from matplotlib.colors import to_hex

from minigpt.report import ablation_figures, claims_figures, line_chart, neuron_figures
from minigpt.report.figures import INK, LAYER_MARKERS, TRAINING_COLOUR, VALIDATION_COLOUR, layer_colours
from minigpt.report.pages import resource
from minigpt.report.sky_data import DEAD, UNKNOWN
from minigpt.report.sky_drawing import LEVELS, NIGHT, STYLES

APART, STEP = 15.0, 5.0  # of things, and of neighbours on a scale, whose order and size help
LIGHT_PAGE, DARK_PAGE = (
    dict(re.findall(r"--(\w+): (#\w+)", rule)) for rule in resource("page.css").split("@media")[:2]
)

Drawn = tuple[str, str]  # a colour, and a mark or dash


@pytest.fixture(params=EYES)
def eye(request: pytest.FixtureRequest) -> str:
    """With usual eyes as well: nothing is bought from them."""
    return str(request.param)


def confused(drawn: list[Drawn], eye: str) -> list[tuple[Drawn, Drawn]]:
    """Pairs of one mark whose colours an eye takes for each other."""
    return [
        (one, other)
        for one, other in combinations(drawn, 2)
        if one[1] == other[1] and distance(one[0], other[0], eye) < APART
    ]


def test_the_simulation_is_that_of_the_article() -> None:
    """Greys stay as they are; an orange and an ochre become one without green; red turns dark without red."""
    for blind in EYES:
        assert lab("#808080", blind) == pytest.approx([53.59, 0, 0], abs=0.1)
    assert lab("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.1)
    assert distance("#d0631a", "#a67c00", "usual") > 30
    assert distance("#d0631a", "#a67c00", "deuteranopia") < 3
    assert lab("#ff0000", "protanopia")[0] < 0.9 * lab("#ff0000", "deuteranopia")[0]
    assert confused([("#d0631a", "o"), ("#a67c00", "o")], "deuteranopia")
    assert not confused([("#d0631a", "o"), ("#a67c00", "s")], "deuteranopia")


@pytest.mark.parametrize("layers", [2, 3, 6, 12, 24, 36])
def test_layers(layers: int, eye: str) -> None:
    """Any two layers differ by mark or by colour, and the first from the last by colour."""
    colours = [to_hex(colour) for colour in layer_colours(layers)]
    marks = [LAYER_MARKERS[layer % len(LAYER_MARKERS)] for layer in range(layers)]
    assert confused(list(zip(colours, marks, strict=True)), eye) == []
    assert distance(colours[0], colours[-1], eye) > 2 * APART


def test_verdicts(eye: str) -> None:
    """Verdicts of claims and of comparisons differ by colour alone, though each has its own mark too."""
    claims = [style[0] for style in claims_figures._VERDICT_STYLES.values()]
    comparisons = [style[0] for style in ablation_figures._VERDICT_STYLES.values()]
    for colours in (claims, comparisons):
        assert confused([(colour, "") for colour in colours], eye) == []
    assert len({style[1] for style in claims_figures._VERDICT_STYLES.values()}) == len(claims)
    assert len({style[1:] for style in ablation_figures._VERDICT_STYLES.values()}) == len(comparisons)


@pytest.mark.parametrize("page", [LIGHT_PAGE, DARK_PAGE])
def test_verdicts_in_words(page: dict[str, str], eye: str) -> None:
    """The words of a verdict in a page's text are coloured apart, in the light and in the dark."""
    equivalent = re.findall(r"\.v2 \{ color: (#\w+)", resource("ablation.css"))[page is DARK_PAGE]
    assert confused([(colour, "") for colour in (page["accent"], page["mark"], page["ink"], equivalent)], eye) == []


def test_arms_and_series(eye: str) -> None:
    """As many arms as an ablation is likely to have, and all lines of a claim's figure."""
    arms = [tuple(ablation_figures._style(index)) for index in range(20)]
    assert confused([(str(colour), str(mark)) for colour, mark in arms], eye) == []
    series = list(zip(claims_figures._COLOURS, claims_figures._MARKERS, strict=True))
    assert confused(series, eye) == []


def test_runs(eye: str) -> None:
    """Lines without marks, on the page that compares runs: six colours that suffice alone, then dashes."""
    assert confused([(colour, "") for colour in line_chart.COLOURS], eye) == []
    most = len(line_chart.COLOURS) * len(line_chart.DASHES)
    assert len({line_chart.stroke(number) for number in range(most)}) == most


def test_curves_and_bars(eye: str) -> None:
    """Training from validation, and the bar of neurons that never fired from the others."""
    assert distance(TRAINING_COLOUR, VALIDATION_COLOUR, eye) > APART
    assert distance(neuron_figures._SILENT_COLOUR, VALIDATION_COLOUR, eye) > APART


def test_the_sky(eye: str) -> None:
    """The dead are far from every other star and from the night; brightness rises by steps that are seen."""
    dead, rare = STYLES[DEAD][0], STYLES["rare"][0]
    assert min(distance(dead, other, eye) for other in (NIGHT, rare, STYLES[UNKNOWN][0], *LEVELS)) > 2 * APART
    scale = [NIGHT, rare, *LEVELS]
    assert min(distance(one, other, eye) for one, other in pairwise(scale)) > STEP
    assert (np.diff([lab(colour, eye)[0] for colour in scale]) > 0).all()
    sizes = [STYLES[name][1] for name in ("rare", *map(str, range(len(LEVELS))))]
    assert all(small <= large for small, large in pairwise(sizes))


def test_ink_is_told_from_every_verdict(eye: str) -> None:
    """What is drawn in the page's ink is apart from what has a colour, on both kinds of page."""
    assert INK not in claims_figures._COLOURS
    for page in (LIGHT_PAGE, DARK_PAGE):
        colours = [page["ink"], *(style[0] for style in claims_figures._VERDICT_STYLES.values())]
        assert confused([(colour, "") for colour in colours], eye) == []
