"""The one list of what a page may consist of, and a reader of pages that checks against it."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser
from urllib.parse import unquote

TAGS = frozenset({
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "section", "nav", "main", "a",
    "figure", "figcaption", "details", "summary", "div", "table", "colgroup", "col", "thead", "tbody", "tr", "th", "td",
    "b", "span", "code", "pre", "ul", "li", "dl", "dt", "dd", "q", "br", "svg", "defs", "g", "path", "text", "tspan",
    "use", "clippath", "rect", "desc",
})  # fmt: skip
ATTRIBUTES = frozenset({
    "lang", "charset", "name", "content", "http-equiv", "scope", "class", "href", "colspan", "id", "aria-label", "role",
    "tabindex", "style", "xmlns", "xmlns:xlink", "width", "height", "viewbox", "version", "d", "transform", "x", "y",
    "xlink:href", "clip-path", "data-label", "download", "fill", "stroke", "stroke-width", "stroke-linecap",
    "stroke-opacity", "text-anchor", "font-size", "font-family", "font-weight", "rx", "aria-labelledby", "aria-hidden",
})  # fmt: skip
# A page with a sky or a neuron explorer: scripts and their data, and the controls that they fill.
EXPLORER_TAGS = TAGS | {"script", "noscript", "label", "select", "option", "button", "input", "output"}
EXPLORER_ATTRIBUTES = ATTRIBUTES | {"type", "hidden", "value", "aria-live", "min", "max", "step"}


class Page(HTMLParser):
    """Collects tags, attributes, the text that a reader sees, rows by their id, and scripts by their type."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.rows: dict[str, str] = {}
        self.scripts: list[tuple[str | None, str]] = []
        self._row = ""
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append((dict(attrs).get("type"), ""))
        if tag == "tr":
            self._row = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
            return
        self.text += data
        if self._row:
            self.rows[self._row] = self.rows.get(self._row, "") + data

    def values(self, *names: str) -> list[str]:
        """All values of attributes with these names."""
        return [value or "" for key, value in self.attributes if key in names]

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV that the page offers under this file name."""
        attributes = [(key, value or "") for key, value in self.attributes]
        place = attributes.index(("download", name))
        address = next(value for key, value in reversed(attributes[:place]) if key == "href")
        assert address.startswith("data:text/csv;charset=utf-8,")
        return list(csv.DictReader(io.StringIO(unquote(address.partition(",")[2]))))

    def assert_whitelisted(self, explorer: bool = False) -> None:
        """Nothing but what our templates and drawings consist of, and no id twice."""
        assert self.tags <= (EXPLORER_TAGS if explorer else TAGS)
        assert {name for name, _ in self.attributes} <= (EXPLORER_ATTRIBUTES if explorer else ATTRIBUTES)
        ids = self.values("id")
        assert len(ids) == len(set(ids))
