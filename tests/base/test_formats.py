"""How numbers are written, and that no text can command a terminal or reorder a page."""

from __future__ import annotations

import pytest

from minigpt.base import formats
from minigpt.base.formats import visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.percent(0.0), "0.0 %"),
        (formats.percent(0.0001), "<0.1 %"),
        (formats.percent(None), "–"),
        (formats.percents([0.0, None, 0.125]), "0.0 – 12.5 %"),
        (formats.percents([None]), "–"),
        (formats.fixed(-1234.5, 1), "−1,234.5"),
        (formats.signed(-0.00214), "−0.0021"),
        (formats.interval(None, None), "–"),
        (formats.value_range(1.0, 2.0, 1), "1.0 to 2.0"),
        (formats.p_value(0.00004), "<0.001"),
        (formats.p_value(1.0), "1.000"),
        (formats.perplexity(4.7), "4.700"),
        (formats.perplexity(109.25, digits=3), "109"),
        (formats.perplexity(12345.6), "12,346"),
        (formats.perplexity(1e12), "1.000e+12"),
        (formats.perplexity_change(0.01), "+1.0 %"),
        (formats.perplexity_change(-0.0003), "−0.03 %"),
        (formats.perplexity_change(1e9), formats.perplexity_change(50.0)),
        (formats.rate(5.7e-5), "5.7e-5"),
        (formats.rate(2.9e-12), "2.9e-12"),
        (formats.count(0.5), "0.5"),
        (formats.count(1234.0), "1,234"),
        (formats.scaled(824_064), "824 k"),
        (formats.scaled(1.5e9, "B"), "1.5 GB"),
        (formats.mebibytes(3 * 2**20), "3 MiB"),
        (formats.seconds(0.012345), "0.0123 s"),
        (formats.milliseconds(0.00152, 2), "1.52 ms"),
        (formats.duration(9.04), "9.0 s"),
        (formats.duration(5400), "1 h 30 min"),
        (formats.elapsed(63.4), "1 min 03 s"),
        (formats.joined(["a", "b", "c"]), "a, b and c"),
        (formats.joined([]), ""),
        (formats.counted(1, "cell"), "1 cell"),
        (formats.counted(2000, "cell"), "2,000 cells"),
        (formats.ranges([0, 1, 2, 5, 7, 8]), "0–2, 5, 7–8"),
        (formats.setting(True), "true"),
    ],
)
def test_numbers_are_written_as_people_read_them(text: str, expected: str) -> None:
    """A dash for what is missing, and nothing that exists looks like nothing."""
    assert text == expected


def test_what_could_command_a_terminal_is_shown_as_an_escape() -> None:
    """Control, direction, private and separator characters; text of every script passes."""
    assert visible("a\x1b[2Jb\x07\x9b\r") == "a\\x1b[2Jb\\x07\\x9b\\r"
    assert visible("\u202egnp\u2066\ufeff\u2028\ue000\ud800") == "\\u202egnp\\u2066\\ufeff\\u2028\\ue000\\ud800"
    assert visible("naïve 漢字 עברית 🙂\n\ttab") == "naïve 漢字 עברית 🙂\n\ttab"


def test_ordinary_text_is_no_escape() -> None:
    """Line ends of two characters are line ends; joiners, soft hyphens and variation selectors belong to words."""
    assert visible("one\r\ntwo") == "one\ntwo"
    ordinary = "می\u200cخواهم 👩\u200d🚀 hy\u00adphen ❤\ufe0f"
    assert visible(ordinary) == ordinary


def test_one_line_is_one_line() -> None:
    """A cell cannot break the row that it is in."""
    assert formats.on_one_line(" a\r\n b\t\tc\x1b") == "a b c\\x1b"
