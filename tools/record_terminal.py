"""Record a command in a terminal of 80 × 24 and write what it showed as a moving SVG of ten seconds.

python tools/record_terminal.py docs/terminal.svg python train.py

Time runs evenly, only faster; the picture says how much. It moves by CSS alone, so it moves in an <img> as well, and it
shows its last frame where motion is not wanted. POSIX only, for the pseudo-terminal.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import shlex
import struct
import sys
import termios
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

COLUMNS, ROWS = 80, 24
SECONDS, HOLD, FRAME = 10.0, 2.5, 0.1  # the whole, the last frame, the least time between two frames
WIDTH, HEIGHT, LEFT, TOP = 7.8, 18, 14, 44
_PART = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|\x1b.|[\s\S]")

Screen = tuple[str, ...]


def recorded(command: list[str]) -> list[tuple[float, str]]:
    """Run a command in a pseudo-terminal; what it wrote, each piece with the seconds since the start."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    decoder, begin, pieces = codecs.getincrementaldecoder("utf-8")("replace"), time.monotonic(), []
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # how Linux ends a terminal whose process has gone
            data = b""
        if not data:
            break
        pieces.append((time.monotonic() - begin, decoder.decode(data)))
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit(f"{shlex.join(command)} failed: {''.join(text for _, text in pieces)[-2000:]}")
    return pieces


class Display:
    """The lines that a terminal shows, as far as programs with a progress bar need one."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0

    def write(self, text: str) -> None:
        """Obey line ends, carriage returns, cursor movements up and down and erasure; ignore other commands."""
        for found in _PART.finditer(text):
            if found[2]:
                self._obey(found[2], int(found[1] or 1) if found[1].isdecimal() or not found[1] else 1)
            elif found[0] == "\n":
                self._down()
            elif found[0] == "\r":
                self.column = 0
            elif found[0].isprintable():
                self._put(found[0])

    def screen(self) -> Screen:
        """The last lines, as many as the window has."""
        return tuple("".join(line).rstrip() for line in self.lines[-ROWS:])

    def _obey(self, letter: str, number: int) -> None:
        if letter == "A":
            self.row = max(0, self.row - number)
        elif letter == "B":
            self.row = min(len(self.lines) - 1, self.row + number)
        elif letter == "K":
            del self.lines[self.row][self.column :]

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append([])

    def _put(self, character: str) -> None:
        if self.column == COLUMNS:
            self.column = 0
            self._down()
        line = self.lines[self.row]
        line += " " * (self.column + 1 - len(line))
        line[self.column] = character
        self.column += 1


def frames(command: list[str], pieces: list[tuple[float, str]]) -> Iterator[tuple[float, Screen]]:
    """The screens of the moving picture, each with its time there."""
    display, speed = Display(), pieces[-1][0] / (SECONDS - HOLD)
    display.write(f"$ {shlex.join(command)}\r\n")
    shown = 0.0
    yield 0.0, display.screen()
    for number, (moment, text) in enumerate(pieces):
        display.write(text)
        following = pieces[number + 1][0] / speed if number + 1 < len(pieces) else SECONDS
        if following - shown >= FRAME:
            shown = max(shown, moment / speed)
            yield shown, display.screen()


def segments(screens: list[tuple[float, Screen]]) -> Iterator[tuple[int, str, float, float]]:
    """Each text that a row of the window shows for a while: row, text, from, to."""
    for row in range(ROWS):
        texts = [(moment, screen[row] if row < len(screen) else "") for moment, screen in screens]
        begin, text = texts[0]
        for moment, following in [*texts[1:], (SECONDS, None)]:
            if following != text:
                if text:
                    yield row, text, begin, moment
                begin, text = moment, following or ""


def drawn(command: list[str], pieces: list[tuple[float, str]]) -> str:
    """The moving picture as SVG."""
    speed = pieces[-1][0] / (SECONDS - HOLD)
    rules: dict[str, str] = {}
    texts = []
    for row, text, begin, end in segments(list(frames(command, pieces))):
        name = f"t{round(1000 * begin)}-{round(1000 * end)}"
        rules.setdefault(name, _rule(name, 100 * begin / SECONDS, 100 * end / SECONDS))
        kept = " last" if end == SECONDS else ""
        texts.append(
            f'<text class="{name}{kept}" x="{LEFT}" y="{TOP + HEIGHT * row}" textLength="{len(text) * WIDTH:.1f}"'
            f' xml:space="preserve">{escape(text)}</text>'
        )
    wide, high = 2 * LEFT + COLUMNS * WIDTH, TOP + HEIGHT * ROWS
    title = f"{shlex.join(command)}, played {speed:.0f} times as fast" if speed > 1.5 else shlex.join(command)
    shape = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high}"'
    return f"""<svg {shape} role="img" aria-label="{escape(title)}">
<title>{escape(title)}</title>
<style>
text {{ font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #e4e7eb; visibility: hidden; }}
text.title {{ fill: #9aa3ad; visibility: visible; }}
text:not(.title) {{ animation-duration: {SECONDS:g}s; animation-iteration-count: infinite; }}
{chr(10).join(rules.values())}
@media (prefers-reduced-motion: reduce) {{
  text:not(.title) {{ animation: none; }}
  text.last {{ visibility: visible; }}
}}
</style>
<rect width="100%" height="100%" rx="8" fill="#14171b"/>
<text class="title" x="{LEFT}" y="20">{escape(title)}</text>
{chr(10).join(texts)}
</svg>
"""


def _rule(name: str, begin: float, end: float) -> str:
    before = f"0%,{begin - 0.001:.3f}%{{visibility:hidden}}" if begin else ""
    after = f"{end:.3f}%,to{{visibility:hidden}}" if end < 100 else ""
    until = f"{end - 0.001:.3f}%" if end < 100 else "to"
    shown = f"{begin:.3f}%,{until}{{visibility:visible}}"
    return f".{name}{{animation-name:{name}}}@keyframes {name}{{{before}{shown}{after}}}"


if __name__ == "__main__":
    out, words = Path(sys.argv[1]), sys.argv[2:]
    out.write_text(drawn(words, recorded(words)), encoding="utf-8")
    print(f"wrote {out}, {out.stat().st_size:,} bytes")
