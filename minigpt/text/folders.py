"""Finding the user's text files: one, or all in a folder and its sub-folders, in an order that never varies.

Links are followed, each folder is read once, and what is passed over is counted and said. Nothing that should be text
is skipped because it cannot be read: that is an error.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.base.errors import DataError

PLAIN = frozenset({".txt", ".md", ".markdown", ".rst"})
LINES = frozenset({".jsonl", ".ndjson"})
PARQUET, JSON, PACKED = ".parquet", ".json", ".gz"
ENDINGS = frozenset({*PLAIN, *LINES, PARQUET}) | {f"{name}{PACKED}" for name in (*PLAIN, *LINES)}
MOST_NUL = 0.01
"""Share of NUL above which bytes are not taken for text."""
_NAMED_ENDINGS = 5
_BEGINNINGS = {
    b"\x1f\x8b": ("gzip data", "name it NAME.txt.gz or NAME.jsonl.gz, or unpack it with gunzip"),
    b"PK\x03\x04": ("a zip archive or an office document", "unpack it, or export it as .txt"),
    b"BZh": ("bzip2 data", "unpack it with bunzip2"),
    b"\xfd7zXZ": ("xz data", "unpack it with unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd data", "unpack it with unzstd"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"Rar!": ("a rar archive", "unpack it"),
    b"%PDF-": ("a PDF", "convert it, for example with pdftotext"),
    b"PAR1": ("Parquet", "name it NAME.parquet"),
    b"\xff\xfe": ("UTF-16 text", "convert it, for example with iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "convert it, for example with iconv -f UTF-16 -t UTF-8"),
}
_ARCHIVES = (".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", PACKED)


@dataclass(frozen=True)
class Found:
    """The files of a corpus, and by ending how many others were passed over."""

    files: list[Path]
    ignored: Counter[str] = field(default_factory=Counter)

    def remark(self, place: str) -> str:
        """One line that says how many were read and what was not; nothing for a single file."""
        if not self.ignored and len(self.files) == 1:
            return ""
        read = f"note: {place}: read {len(self.files):,} file{'s' * (len(self.files) != 1)}"
        return f"{read}, ignored {self.counted()}" if self.ignored else read

    def counted(self) -> str:
        """`53 (50 .pdf, 2 hidden, 1 .zip)`."""
        kinds = self.ignored.most_common()
        more = [f"{sum(count for _, count in kinds[_NAMED_ENDINGS:]):,} others"] if kinds[_NAMED_ENDINGS:] else []
        listed = [f"{count:,} {kind}" for kind, count in kinds[:_NAMED_ENDINGS]] + more
        advice = "; unpack archives first" if any(kind.endswith(_ARCHIVES) for kind in self.ignored) else ""
        if len(kinds) == 1:
            return f"{kinds[0][1]:,} ({kinds[0][0]}{advice})"
        return f"{self.ignored.total():,} ({', '.join(listed)}{advice})"


def ending(path: Path) -> str:
    """The ending in lower case; with the one before it where a file is packed, as in `.txt.gz`."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == PACKED else last


def find_files(path: Path) -> Found:
    """Return the file itself, or the text files in a folder and its sub-folders.

    Raises:
        DataError: there is nothing to read, or something that cannot be read or is no text.
    """
    if not path.is_dir():
        _check_single(path)
        return Found([path])
    found = Found([])
    for file in _walk(path, found.ignored):
        if ending(file) in ENDINGS:
            found.files.append(file)
        else:
            found.ignored[ending(file)[:20] or "without an ending"] += 1
    if not found.files:
        passed = f"it holds {found.counted()} and " if found.ignored else "it holds "
        raise DataError(f"no text in folder {path}; {passed}no {', '.join(sorted(ENDINGS))} file; put one there")
    if not sum(map(_checked_size, found.files)):
        raise DataError(f"every text file in {path} is empty; {len(found.files)} were found; put text into them")
    return found


def _walk(root: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Yield the regular files below a folder, by name; count what is hidden, no file, or a folder come to again."""
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        if path.name.startswith(".") and path != root:
            ignored["hidden"] += 1
        elif path.is_dir():
            names = _names_in(path, seen)
            if names is None:
                ignored["links to a folder already read"] += 1
            waiting += [path / name for name in reversed(names or [])]
        elif path.is_file() or (ending(path) in ENDINGS and not path.exists()):  # a broken link is an error later
            yield path
        else:
            ignored["neither file nor folder"] += 1


def _names_in(folder: Path, seen: set[tuple[int, int]]) -> list[str] | None:
    """What a folder holds, in order; None if it was seen before."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return None
        seen.add((status.st_dev, status.st_ino))
        return sorted(os.listdir(folder))
    except OSError as reason:
        raise DataError(f"cannot read folder {folder}; {reason.strerror or reason}; make it readable") from reason


def _check_single(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as reason:
        raise DataError(f"cannot read {path}; {reason.strerror or reason}; give an existing text file") from reason
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"cannot read {path}; it is neither a file nor a folder; give a text file")
    if status.st_size == 0:
        raise DataError(f"{path} is empty; it has 0 bytes; give a file with text in it")
    _checked_size(path)


def _checked_size(path: Path) -> int:
    """Return a file's size after a look at its beginning and its holes.

    Raises:
        DataError: it cannot be read, or what it holds is no text.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            beginning = file.read(8)
            holes = _hole_bytes(file.fileno(), size)
    except OSError as reason:
        raise DataError(f"cannot read {path}; {reason.strerror or reason}; make it readable") from reason
    if holes > MOST_NUL * size:
        raise DataError(f"{path} is no text; {holes:,} of its {size:,} bytes are NUL in holes; give a whole file")
    if ending(path) not in ENDINGS - PLAIN - LINES:
        for start, (what, advice) in _BEGINNINGS.items():
            if beginning.startswith(start):
                raise DataError(f"{path} is no plain text; it looks like {what}; {advice}")
    return size


def _hole_bytes(descriptor: int, size: int) -> int:
    """How much of a sparse file was never written; 0 where the system cannot tell."""
    holes = position = 0
    with contextlib.suppress(OSError, AttributeError):
        while position < size:
            hole = os.lseek(descriptor, position, os.SEEK_HOLE)
            if hole >= size:
                break
            try:
                position = os.lseek(descriptor, hole, os.SEEK_DATA)
            except OSError:  # no data behind it
                position = size
            holes += position - hole
    return holes
