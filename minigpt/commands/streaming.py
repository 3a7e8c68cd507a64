"""Text of a model on its way to the terminal: whole characters only, and none that command the terminal."""

from __future__ import annotations

import codecs
import sys
import unicodedata

# Cc: control; Cf: format, with the marks that turn the direction of text; Co, Cs, Zl, Zp: private, surrogates, breaks.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
_SAFE = frozenset("\n\t")


def printable(text: str) -> str:
    """Write characters that a terminal could obey as escapes such as `\\x1b`; newline and tab stay."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in _SAFE or unicodedata.category(character) not in _UNSAFE_CATEGORIES:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class TextStream:
    """Writes bytes of UTF-8 text to stdout as they come; a character that arrives in parts waits for its end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._escape = sys.stdout.isatty()

    def write(self, data: bytes, final: bool = False) -> None:
        """Show what is complete; on a terminal, control characters are made visible."""
        text = self._decoder.decode(data, final)
        sys.stdout.write(printable(text) if self._escape else text)
        sys.stdout.flush()
