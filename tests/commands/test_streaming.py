"""What a terminal shows of a model's text: line ends as line ends, whole words, and nothing that it would obey."""

from __future__ import annotations

import pytest

from minigpt.base.formats import visible
from minigpt.commands.streaming import TextStream


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",
        "👩\u200d💻",
        "co\u00adoperate",
        "❤\ufe0f",
        "a\u2060b\u200bc",
        "\u0600\u06dd",
        "🏴\U000e0067\U000e007f",
    ],
)
def test_what_belongs_to_words_passes(text: str) -> None:
    """Joiners, soft hyphens, variation selectors and flags used to appear as escapes in the middle of words."""
    assert visible(text) == text


@pytest.mark.parametrize(
    "code", [0x61C, 0x200E, 0x200F, 0x202A, 0x202E, 0x2066, 0x2069, 0x206F, 0x1B, 0x9B, 0x08, 0x7F]
)
def test_what_commands_or_reorders_is_escaped(code: int) -> None:
    """Whatever moves the cursor, changes colours or turns the direction of what follows."""
    assert visible(f"a{chr(code)}b").startswith("a\\")


def test_a_line_end_of_two_characters_is_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the two come in two tokens; a lone carriage return, which overwrites the line, is shown."""
    assert visible("a\r\nb\rc\r\n") == "a\nb\\rc\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    stream = TextStream()
    for piece in (b"a\r", b"\nb\r", b"c\r"):
        stream.write(piece)
    stream.write(b"", final=True)
    assert capsys.readouterr().out == "a\nb\\rc\\r"
