"""The moving picture of a terminal: what it shows when, and that a browser may show it in an <img>."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("pty", reason="pseudo-terminals are POSIX")

import record_terminal
from record_terminal import SECONDS, Display, drawn, frames, recorded, segments

PICTURE = Path(__file__).parents[1] / "docs/terminal.svg"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a\r\nb", ("a", "b")),
        ("10 %\r20 %", ("20 %",)),
        ("long\rab\x1b[K", ("ab",)),
        ("one\r\ntwo\x1b[A\rONE", ("ONE", "two")),
        ("\x1b[31mred\x1b[0m", ("red",)),
        ("x" * 81, ("x" * 80, "x")),
        ("\n".join(map(str, range(30))), tuple(map(str, range(6, 30)))),
    ],
)
def test_what_a_terminal_shows(written: str, shown: tuple[str, ...]) -> None:
    """Bars go back to the start of their line, and up; colours are not shown; what is too long wraps; lines scroll."""
    display = Display()
    display.write(written.replace("\n", "\r\n") if "\r" not in written else written)
    assert display.screen() == shown


def test_every_moment_shows_what_was_written_by_then() -> None:
    """The rows of the picture at a time are those of the frame before it, and the last frame stays to the end."""
    pieces = [(1.0, "one\r\n"), (2.0, "10 %\r"), (3.0, "20 %\r"), (60.0, "done\r\n")]
    screens = list(frames(["x"], pieces))
    rows = list(segments(screens))
    for moment, screen in screens:
        now = {row: text for row, text, begin, end in rows if begin <= moment < end}
        assert [now.get(row, "") for row in range(len(screen))] == list(screen)
    assert {text for _, text, _, end in rows if end == SECONDS} == {"$ x", "one", "done"}


def test_a_command_is_recorded_in_a_window_of_80_columns() -> None:
    """It runs in a terminal, and its time is measured."""
    program = "import os, sys; print(os.get_terminal_size().columns, sys.stdout.isatty())"
    pieces = recorded([sys.executable, "-c", f"import time; time.sleep(0.2); {program}"])
    assert "".join(text for _, text in pieces) == "80 True\r\n"
    assert pieces[0][0] >= 0.2
    with pytest.raises(SystemExit):
        recorded([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize("source", ["drawn now", *(["docs/terminal.svg"] if PICTURE.exists() else [])])
def test_the_picture_is_self_contained(source: str) -> None:
    """One XML file below 100 kB without scripts or addresses, which says how much faster it runs."""
    pieces = [(0.5, "<b>&\r\n"), (30.0, "done")]
    svg = drawn(["python", "train.py"], pieces) if source == "drawn now" else PICTURE.read_text(encoding="utf-8")
    root = ElementTree.fromstring(svg)
    assert {element.tag.partition("}")[2] for element in root.iter()} == {"svg", "title", "style", "rect", "text"}
    assert "times as fast" in root.attrib["aria-label"]
    assert "url(" not in svg
    assert "prefers-reduced-motion" in svg
    assert len(svg.encode()) < 100_000
    assert record_terminal.COLUMNS == 80
