"""What is seen of a preparation that takes long: a bar on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from tqdm import tqdm

EVERY = 10.0  # seconds between two lines
_DELAY = 2.0  # seconds before a bar appears


class Progress:
    """What is being done to which text, and how many bytes of it are done."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = time.monotonic()
        self._bytes = 0
        self._stage = "reading"
        self._bar = tqdm(
            desc=self._label(), unit="B", unit_scale=True, disable=None, delay=_DELAY, leave=False, file=sys.stderr
        )

    def begin(self, stage: str) -> None:
        """Say what is done from now on, as in `encoding`."""
        self._stage = stage
        self._bytes = 0
        self._bar.reset()
        self._bar.set_description(self._label(), refresh=False)

    def add(self, size: int) -> None:
        """Count bytes that are done."""
        self._bytes += size
        self._bar.update(size)

    def lines_until(self, end: threading.Event) -> None:
        """Print where it is every so often; a thread's work, since a single step may take long."""
        while not end.wait(EVERY):
            seconds = time.monotonic() - self._begun
            done = f", {self._bytes / 1e6:,.0f} MB" if self._bytes else ""
            print(f"note: {self._label()} for {seconds:.0f} s{done}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    @property
    def is_seen(self) -> bool:
        """Whether there is a terminal that shows the bar."""
        return not self._bar.disable

    def _label(self) -> str:
        return f"{self._stage} {self._name}"


@contextlib.contextmanager
def progress_of(name: str) -> Iterator[Progress]:
    """Show the progress of what happens meanwhile."""
    progress, end = Progress(name), threading.Event()
    thread = threading.Thread(target=progress.lines_until, args=(end,), daemon=True)
    if not progress.is_seen:
        thread.start()
    try:
        yield progress
    finally:
        end.set()
        if thread.ident is not None:
            thread.join()
        progress.close()
