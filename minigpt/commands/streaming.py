"""Text of a model on its way to the terminal: whole characters only, and none that command the terminal."""

from __future__ import annotations

import codecs
import sys
import unicodedata

# Cc: control; Co, Cs, Zl, Zp: private, surrogates, breaks.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Co", "Cs", "Zl", "Zp"})
# Of the invisible format characters (Cf) those that turn or mark the direction of text, or annotate it. Joiners, soft
# hyphens, number signs and the tags of flags belong to ordinary words and pass.
_REORDERING = frozenset(
    map(chr, [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x2070), 0xFEFF, 0xFFF9, 0xFFFA, 0xFFFB])
)
_SAFE = frozenset("\n\t")


def printable(text: str) -> str:
    """Write characters that a terminal could obey as escapes such as `\\x1b`; line ends and tabs stay what they are."""
    return "".join(_visible(character) for character in text.replace("\r\n", "\n"))


def _visible(character: str) -> str:
    unsafe = unicodedata.category(character) in _UNSAFE_CATEGORIES or character in _REORDERING
    if character in _SAFE or not unsafe:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class TextStream:
    """Writes bytes of UTF-8 text to stdout as they come; a character that arrives in parts waits for its end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._escape = sys.stdout.isatty()
        self._held = ""

    def write(self, data: bytes, final: bool = False) -> None:
        """Show what is complete; on a terminal, control characters are made visible."""
        text = self._held + self._decoder.decode(data, final)
        # The next token may begin with the line feed that makes this a line end.
        self._held = "\r" if self._escape and text.endswith("\r") and not final else ""
        text = text[: len(text) - len(self._held)]
        sys.stdout.write(printable(text) if self._escape else text)
        sys.stdout.flush()
