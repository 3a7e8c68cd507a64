"""The page in a real browser: the console is silent, and the neuron explorer shows what was asked for."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import BROWSER, opened
from neuron_files import HOSTILE, add_life, write_neuron_files

from minigpt.report.run_page import read_sky, run_page
from minigpt.report.sky_drawing import layout, points

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


class Shown(HTMLParser):
    """The text that the script put into the neuron's view, and all tags of the document."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self._open = 0
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if self._open or dict(attrs).get("id") == "neuron-view":
            self._open += 1

    def handle_endtag(self, tag: str) -> None:
        self._open -= bool(self._open)

    def handle_data(self, data: str) -> None:
        if self._open:
            self.text += data


@pytest.fixture
def page(haste: None, tiny_run: Path) -> Path:
    """A page with everything on it."""
    write_neuron_files(tiny_run)
    add_life(tiny_run, layers=2, steps=12)
    path = tiny_run / "report.html"
    path.write_text(run_page(tiny_run), encoding="utf-8")
    return path


def shown(page: Path, fragment: str = "") -> Shown:
    """The document after its script has run."""
    document = opened(page, fragment)
    assert "<h1>run</h1>" in document
    return Shown(document)


def test_a_fragment_selects_a_neuron(page: Path) -> None:
    """`#neuron=1/7` shows that neuron of that layer, its tokens and its passages."""
    text = shown(page, "#neuron=1/7").text
    assert "Layer 1, neuron 7" in text
    assert "the file is read by a context manager ; an exception ( see below ) closes it↵ n7p0" in text
    assert "n7p2" in text
    assert "␣the" in text


def test_hostile_tokens_are_characters(page: Path) -> None:
    """Markup in a token is text in the browser too, and nothing of it runs."""
    document = shown(page, "#neuron=0/2")
    assert HOSTILE in document.text
    assert "img" not in document.tags
    assert document.tags.count("script") == 4


def test_other_choices(page: Path) -> None:
    """Without a fragment a dead neuron, explained beside a living one; one that is not there."""
    text = shown(page).text
    assert "Layer 0, neuron 1" in text
    assert "The largest z on 161,316 tokens was −0.4: never above 0, so h was 0 every time." in text
    assert "Its bias is −0.3; what it read added at most −0.100 to that. At every evaluation" in text
    assert "for comparison: neuron" in text
    assert "Passages" not in text
    assert "Neuron 9 of layer 9 is not among those kept" in shown(page, "#neuron=9/9").text


def test_a_page_without_neurons_is_silent(tiny_run: Path) -> None:
    """As training leaves it: the sky's script alone, and nothing on the console."""
    assert shown(tiny_run / "report.html").tags.count("script") == 2


def test_the_sky_is_redrawn_as_it_was(page: Path) -> None:
    """Its script draws the last frame anew at the start: each star where Python put it, to the digit."""
    sky = read_sky(page.parent)
    assert sky is not None
    drawn = set(re.findall(r' d="((?:M[\d.-]+ [\d.-]+h0)+)"', opened(page)))
    assert {"".join(places) for places in points(sky, layout(sky)).values()} <= drawn
    assert f"as measured: {sky.dead} dead" in opened(page)
