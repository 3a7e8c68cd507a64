"""Standard output and error that may be closed, full, or left by their reader.

A result that cannot be shown is an error of its command. A training is worth more than its words: inside `lasting` they
are dropped from the first failure on, and it goes on.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from minigpt.base.errors import StorageError


class ReaderLeftError(BrokenPipeError):
    """Whoever read our output has gone: no failure, and nothing is left to say."""


class Output:
    """A text stream in place of `sys.stdout` or `sys.stderr`."""

    def __init__(self, stream: TextIO, name: str, lasting: bool) -> None:
        self.lasting = lasting
        self._stream = stream
        self._name = name
        self._pending = False

    def write(self, text: str) -> int:
        """Write text, or drop it if nobody can get it."""
        self._pending = True
        with self._failures():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written since the last time."""
        if not self._pending:
            return
        self._pending = False
        with self._failures():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._drop()
            if self.lasting:
                return
            if error.errno == errno.EPIPE:
                raise ReaderLeftError(errno.EPIPE, "the reader left") from error
            reason = error.strerror or str(error)
            raise StorageError(f"cannot write to {self._name}; {reason}; give it another place") from error

    def _drop(self) -> None:
        """Let the rest go nowhere, so that neither the next word nor the interpreter's end fails again."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def mended() -> Iterator[None]:
    """Use standard streams that exist, take any character and fail in one way, inside this block."""
    _open_missing()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # `?` for a character that the terminal's encoding lacks
    sys.stdout = cast(TextIO, Output(sys.stdout, "standard output", lasting=False))
    sys.stderr = cast(TextIO, Output(sys.stderr, "standard error", lasting=True))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Let a reader that leaves, a full disk or a closed terminal end only what is shown, not the work."""
    stream = sys.stdout
    if not isinstance(stream, Output) or stream.lasting:
        yield
        return
    stream.lasting = True
    try:
        yield
        stream.flush()
    finally:
        stream.lasting = False


def _open_missing() -> None:
    """Fill the places of closed streams: else the next file opened would get one, and be written into by prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
