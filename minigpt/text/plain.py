"""Plain text files, packed by gzip or not, read in blocks and never as a whole, byte for byte.

Line ends, a byte-order mark and single NULs come through. A file is dealt to the splits by position.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import gzip
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from minigpt.base.errors import DataError
from minigpt.text.folders import MOST_NUL, PACKED
from minigpt.text.splits import Document, Fractions, in_chunks

UNPACKED_FREELY = 64 << 20
"""Bytes that a packed file may hold, however small it is itself."""
HIGHEST_RATIO = 100
"""Unpacked to packed bytes above that; text has about 3, and a file that is made to fill a disk 1,000."""
_BLOCK = 1 << 20
_CERTAIN = 1 << 16  # characters after which a text of NULs is not read on


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading what it holds, unpacked.

    Raises:
        DataError: it cannot be read, also while it is open.
    """
    try:
        with path.open("rb") as file:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if path.suffix.lower() == PACKED else file
    except (OSError, EOFError, zlib.error) as reason:
        said = getattr(reason, "strerror", None) or reason
        raise DataError(f"cannot read {path}; {said}; give a readable, whole file") from reason


def unpacked_size(path: Path) -> int:
    """Bytes of what a file holds.

    Raises:
        DataError: it is packed, and damaged or suspiciously well packed.
    """
    status = path.stat()
    return _counted(path, status.st_size, status.st_mtime_ns) if path.suffix.lower() == PACKED else status.st_size


@functools.lru_cache(maxsize=10_000)
def _counted(path: Path, packed: int, _changed: int) -> int:
    size, most = 0, max(UNPACKED_FREELY, HIGHEST_RATIO * packed)
    with opened(path) as file:
        while block := file.read(_BLOCK):
            size += len(block)
            if size > most:
                got = f"{packed:,} bytes become more than {most:,}"
                raise DataError(f"{path} unpacks to suspiciously much; {got}; unpack it yourself if that is text")
    return size


def parts_by_position(
    path: Path, fractions: Fractions, wanted: Collection[str], block: int
) -> Iterator[tuple[str, Document]]:
    """Yield the part of a file for each wanted split that has one."""
    size = unpacked_size(path)
    for split, cut in fractions.cuts(size).items():
        if split not in wanted:
            continue
        with opened(path) as file:
            start, end = (_character_boundary(file, position) if position < size else size for position in cut)
        if start < end:
            yield split, in_chunks(_decoded(path, start, end, block), block)


def _character_boundary(file: BinaryIO, position: int) -> int:
    """Move `position` forward to the first byte of a UTF-8 character; at most three bytes can continue one."""
    file.seek(position)
    following = file.read(4)
    return position + next((i for i, byte in enumerate(following) if byte & 0xC0 != 0x80), len(following))


@dataclass
class _Nuls:
    """How much of a text is NUL: text in UTF-16 read as UTF-8 is half of it, a file of holes all."""

    path: Path
    found: int = 0
    characters: int = 0

    def add(self, text: str) -> None:
        """Count a block; refuse at once what is mostly NUL, so that nobody waits for the end of a huge file."""
        self.found += text.count("\0")
        self.characters += len(text)
        if self.characters >= _CERTAIN and self.found > self.characters / 10:
            self.check()

    def check(self) -> None:
        if self.found > MOST_NUL * self.characters:
            share = f"{self.found:,} of {self.characters:,} characters are NUL"
            raise DataError(
                f"{self.path} looks like UTF-16 or binary data; {share}; convert it, for example with "
                "iconv -f UTF-16LE (or UTF-16BE) -t UTF-8"
            )


def _decoded(path: Path, start: int, end: int, block: int) -> Iterator[str]:
    """Yield the text of the bytes from `start` to `end`, which are beginnings of characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    position, nuls = start, _Nuls(path)
    with opened(path) as file:
        file.seek(start)
        while position < end:
            data = file.read(min(block, end - position))
            if not data:
                raise DataError(f"{path} shrank while it was read; it ends at byte {position} of {end}; leave it alone")
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=position + len(data) == end)
            except UnicodeDecodeError as reason:
                bad, offset = reason.object[reason.start], position - pending + reason.start
                raise DataError(
                    f"{path} is not UTF-8 text; bad byte 0x{bad:02x} at offset {offset}; convert it to UTF-8"
                ) from reason
            nuls.add(text)
            yield text
            position += len(data)
    nuls.check()
