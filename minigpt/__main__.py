"""`python -m minigpt COMMAND`, and the entry point of every script: it hears signals while the command line loads."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import NoReturn


def console(*command: str) -> NoReturn:
    """Entry point of the `minigpt` script, and of scripts that are one command of it."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, _leave)
    from minigpt import cli  # NOTE: a third of a second, in which a signal would end in a traceback

    cli.console(*command)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: nothing has begun that would have to be tidied up."""
    with contextlib.suppress(OSError):  # standard error may be closed
        os.write(2, b"interrupted\n" if number == signal.SIGINT else b"terminated\n")
    os._exit(128 + number)


if __name__ == "__main__":
    console()
