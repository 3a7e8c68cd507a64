"""How text is dealt to train, val and test, and how it is streamed.

A document is an iterator of chunks of text, so that no corpus has to fit into memory. Consume a document before
asking for the next one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from minigpt.base.errors import UsageError

SPLITS = ("train", "val", "test")
CHUNK = 1 << 20  # bytes read, and characters handed on, at a time
_FIRST_REACH = 256  # characters
_WORD_END = re.compile(r"\S(?=[ \n])")

Document = Iterator[str]


@dataclass(frozen=True)
class Fractions:
    """The shares of a corpus that are kept for validation and for the final test; the rest is for training.

    Raises:
        UsageError: a share is negative or not a number, or nothing would be left to train on.
    """

    val: float = 0.10
    test: float = 0.05

    def __post_init__(self) -> None:
        for split, share in (("val", self.val), ("test", self.test)):
            if not 0 <= share < 1:
                raise UsageError(f"--{split}-fraction is out of range; it is {share}; allowed are 0 up to, not with, 1")
        if self.val + self.test >= 1:
            given = f"--val-fraction {self.val} and --test-fraction {self.test}"
            raise UsageError(f"no text is left to train on; {given} add up to {self.val + self.test}; stay below 1")

    def of(self, split: str) -> float:
        """Return the share of one split."""
        return {"train": 1 - self.val - self.test, "val": self.val, "test": self.test}[split]

    def split_of(self, text: str) -> str:
        """Return the split that `text` belongs to, wherever and however often it occurs.

        The text's SHA-1, read as a fraction, decides: duplicates stay together, so none leaks from train to val.
        """
        digest = hashlib.sha1(text.encode("utf-8"), usedforsecurity=False).digest()
        position = int.from_bytes(digest[:6], "big") / 2**48
        if position < self.val:
            return "val"
        return "test" if position < self.val + self.test else "train"

    def cuts(self, size: int) -> dict[str, tuple[int, int]]:
        """Return where each split of a text of `size` bytes begins and ends: train first, test last."""
        train_end, val_end = int(size * (1 - self.val - self.test)), int(size * (1 - self.test))
        return {"train": (0, train_end), "val": (train_end, val_end), "test": (val_end, size)}


def in_chunks(pieces: Iterable[str], size: int = CHUNK) -> Document:
    """Re-cut a stream of text into chunks of at most about `size` characters, none of them ending inside a word.

    NOTE: each cut is between a visible character and a space or newline. The split patterns of GPT-2 and of
    `bpe.py` cut there too, so encoding the chunks gives the same tokens as encoding the whole. Text without such a
    place is cut anywhere.
    """
    buffer = ""
    for piece in pieces:
        buffer += piece
        begin = 0
        while len(buffer) - begin > size:
            cut = _last_word_boundary(buffer, begin, begin + size) or begin + size
            yield buffer[begin:cut]
            begin = cut
        buffer = buffer[begin:]
    if buffer:
        yield buffer


def _last_word_boundary(text: str, begin: int, end: int) -> int:
    """Return the last position between `begin` and `end` of a space or newline behind a visible character, or 0.

    It looks at the last characters first and doubles their number: linear also where everything is white.
    """
    reach = _FIRST_REACH
    while True:
        start = max(begin, end - reach)
        found = [match.end() for match in _WORD_END.finditer(text, start, end)]
        if found:
            return found[-1]
        if start == begin:
            return 0
        reach *= 2
