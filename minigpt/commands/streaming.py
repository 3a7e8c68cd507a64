"""Text of a model on its way to the terminal: whole characters and line ends only, and none that commands it."""

from __future__ import annotations

import codecs
import sys

from minigpt.base.formats import visible


class TextStream:
    """Writes bytes of UTF-8 text to stdout as they come; a character or line end that arrives in parts waits."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._escape = sys.stdout.isatty()
        self._held = ""

    def write(self, data: bytes, final: bool = False) -> None:
        """Show what is complete; on a terminal, control characters are made visible."""
        text = self._held + self._decoder.decode(data, final)
        # The next token may begin with the line feed that makes this a line end.
        self._held = "\r" if self._escape and text.endswith("\r") and not final else ""
        text = text.removesuffix(self._held)
        sys.stdout.write(visible(text) if self._escape else text)
        sys.stdout.flush()
