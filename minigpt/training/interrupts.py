"""Ctrl-C, SIGTERM and a closed terminal ask the run to stop at the next safe point.

While torch compiles, which takes up to a minute, every point is one: nothing is updated then. A second Ctrl-C leaves at
once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from minigpt.base.errors import StopRequestedError
from minigpt.training.ranks import ALONE, Ranks

# What runs while a graph is translated, of the forward pass and of the backward one, and not when it is called.
_COMPILERS = ("torch._dynamo.convert_frame", "torch._inductor.compile_fx")


class StopFlag:
    """Remembers that a signal asked for a stop; safe points ask `check`, all ranks at the same ones."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.signal_number = 0
        self.ranks = ranks

    def check(self) -> None:
        """Raise `StopRequestedError` if a signal has arrived, at whichever rank."""
        number = self.ranks.largest(self.signal_number)
        if number:
            raise StopRequestedError(number)

    def handle(self, signal_number: int, frame: FrameType | None) -> None:
        """Note the first signal; on a second Ctrl-C leave without cleaning up: files are consistent at any moment."""
        if self.signal_number and signal_number == signal.SIGINT:
            os._exit(128 + signal.SIGINT)
        self.signal_number = self.signal_number or signal_number
        if self.ranks.leads:
            line = f"\n{signal.Signals(signal_number).name}: stopping at the next safe point\n"
            with contextlib.suppress(OSError):  # a terminal that was closed takes no words
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())
        if self.ranks.size == 1 and _is_compiling(frame):  # several ranks must stop at the same point
            raise StoppedWhileCompiling(self.signal_number)


class StoppedWhileCompiling(BaseException):
    """Passes through torch's compiler, which makes an error of its own of every `Exception`."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number


def _is_compiling(frame: FrameType | None) -> bool:
    """Whether torch's compiler is what a signal interrupted, and not code that it has made."""
    while frame is not None:
        if frame.f_globals.get("__name__") in _COMPILERS:
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def stop_on_signals(ranks: Ranks = ALONE) -> Iterator[StopFlag]:
    """Turn SIGINT, SIGTERM and SIGHUP into a flag inside this block; outside the main thread nothing is installed.

    A hang-up that is ignored, as under `nohup`, stays so.
    """
    flag = StopFlag(ranks)
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, flag.handle) for number in numbers}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
