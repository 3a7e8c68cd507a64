"""The page of a run: drawn from files alone, self-contained, and inert whatever text it shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import Command

from minigpt.errors import CheckpointError
from minigpt.report.figures import curves
from minigpt.report.run_page import run_page

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_finished_run_has_its_page(tiny_run: Path) -> None:
    """The figures on it are those of the summary."""
    page = Page((tiny_run / "report.html").read_text(encoding="utf-8"))
    val = json.loads((tiny_run / "summary.json").read_text())["val"]
    assert f"{val['loss']:.3f}" in page.text
    assert f"{val['perplexity']:.2f}" in page.text
    assert f"{100 * val['layers'][1]['dead_fraction']:.1f} %" in page.text
    assert "take these figures as hints" in page.text  # 2,029 tokens are few


def test_the_page_needs_nothing_from_outside(tiny_run: Path) -> None:
    """No script, no link, no image but the drawing itself; and the page forbids them to itself."""
    text = run_page(tiny_run)
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    loaded = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(value is not None and value.startswith("#") for value in loaded)
    assert "default-src 'none'" in text


def test_text_is_escaped(tiny_run: Path) -> None:
    """A configuration that holds markup is shown as its characters."""
    clean = Page(run_page(tiny_run)).tags
    config = json.loads((tiny_run / "config.json").read_text())
    (tiny_run / "config.json").write_text(json.dumps({**config, "corpus": HOSTILE}))
    page = Page(run_page(tiny_run))
    assert HOSTILE in page.text
    assert page.tags == clean


def test_the_drawing_is_reproducible(tiny_run: Path) -> None:
    """The same files give the same bytes."""
    assert run_page(tiny_run) == run_page(tiny_run)


def test_a_half_written_log_is_drawn(minigpt: Command, tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is still going, or was cut off in a line, has a page; an empty one says so."""
    log = tiny_run / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    (tiny_run / "summary.json").unlink()
    assert minigpt("report run") == 0
    log.write_bytes(b"")
    assert minigpt("report run") == 4
    assert "nothing to report yet" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        run_page(tiny_run / "elsewhere")


def test_figures_that_are_not_finite_leave_gaps() -> None:
    """null in the log is a gap in the curve, not an error and not a zero."""
    layer = {"dead_fraction": 0.5}
    records = [{"kind": "eval", "step": step, "loss": loss, "layers": [layer]} for step, loss in ((0, 2.0), (1, None))]
    assert curves(records).startswith("<svg")


def test_a_browser_shows_it_without_complaint(tiny_run: Path, tmp_path: Path) -> None:
    """Opened in headless Chromium, where there is one: the heading is in the document and the console is silent."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tiny_run / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "<h1>run</h1>" in done.stdout
    assert not re.findall(r"CONSOLE.*", done.stderr)
