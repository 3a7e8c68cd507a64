"""Where the text to continue comes from, and the strings at which a continuation ends."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from minigpt.base.errors import StorageError, UsageError
from minigpt.base.flags import Parser, user_path

MOST_PROMPT_BYTES = 1 << 26


def add_prompt_flags(parser: Parser) -> None:
    """The prompt in its three forms, and what ends a sample early."""
    parser.add_argument("--prompt", metavar="TEXT", help="text to continue; empty: a new line; -: standard input")
    parser.add_argument(
        "--prompt-file", type=user_path, metavar="FILE", help="read the prompt from a file, without its last line end"
    )
    parser.add_argument(
        "--interactive", action="store_true", help="ask for prompts, one a line, until the input ends (Ctrl-D)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end a sample before this text; may be repeated"
    )


def prompt_of(values: argparse.Namespace) -> str:
    """The text to continue.

    Raises:
        UsageError: two prompts are given, or the text is no UTF-8 or far too long.
        StorageError: the file cannot be read.
    """
    if values.prompt is not None and values.prompt_file is not None:
        raise UsageError("--prompt and --prompt-file name two texts to continue; got both; give one")
    if values.prompt_file is not None:
        return _read(values.prompt_file)
    if values.prompt == "-":
        return _decoded(sys.stdin.buffer, "standard input")
    return values.prompt or ""


def asked_prompts(values: argparse.Namespace) -> Iterator[str]:
    """Each line of standard input as a prompt; a person is asked for it.

    Raises:
        UsageError: a prompt was given as well.
    """
    if values.prompt is not None or values.prompt_file is not None:
        raise UsageError("--interactive asks for prompts; got one as well; leave out --prompt and --prompt-file")
    by_hand = sys.stdin.isatty()
    if by_hand:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 -- lets a person edit the line and fetch earlier ones
    while True:
        try:
            yield input("> " if by_hand else "")
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise UsageError(f"a prompt is not UTF-8; bad byte at offset {error.start}; convert the input") from error


def _read(path: Path) -> str:
    """The content of a file; a FIFO will do, as a shell makes one for `<(command)`."""
    try:
        with path.open("rb") as file:
            return _decoded(file, str(path))
    except OSError as error:
        raise StorageError(f"cannot read {path}; {error.strerror or error}; give --prompt-file a text file") from error


def _decoded(file: BinaryIO, source: str) -> str:
    data = file.read(MOST_PROMPT_BYTES + 1)
    if len(data) > MOST_PROMPT_BYTES:
        raise UsageError(f"the prompt in {source} is too long; over {MOST_PROMPT_BYTES:,} bytes; give its last part")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the prompt in {source} is not UTF-8; bad byte at offset {error.start}; convert it"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


class StopStrings:
    """Lets text of one sample pass until one of some strings appears; what may be its beginning waits."""

    def __init__(self, strings: list[str]) -> None:
        if "" in strings:
            raise UsageError("--stop needs a text to end at; got an empty one; leave it out")
        self.found = False
        self._strings = [text.encode("utf-8", "surrogateescape") for text in strings]
        self._waiting = b""

    def passed(self, data: bytes) -> bytes:
        """What may be shown now that `data` follows."""
        if self.found:
            return b""
        text = self._waiting + data
        ends = [index for index in (text.find(string) for string in self._strings) if index >= 0]
        if ends:
            self.found, self._waiting = True, b""
            return text[: min(ends)]
        held = max((_overlap(text, string) for string in self._strings), default=0)
        self._waiting = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> bytes:
        """What waited in vain, at the end of the sample."""
        rest, self._waiting = self._waiting, b""
        return rest


def _overlap(text: bytes, string: bytes) -> int:
    """How many bytes at the end of a text are the beginning of a string."""
    longest = min(len(text), len(string) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(string[:length])), 0)
