"""Text from the user's own files: which there are, which field of their rows is the text, and what is said of it.

A plain file is dealt to the splits by position, the rows of the others by hash.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import DataError, UsageError
from minigpt.text import rows
from minigpt.text.columns import remark
from minigpt.text.folders import Found, ending
from minigpt.text.plain import parts_by_position
from minigpt.text.splits import CHUNK, Document, Fractions, in_chunks

ALWAYS_HASHED = 64 << 20  # bytes; larger sources are hashed again only when a file's size or times changed

Fields = dict[Path, str]
"""The field of the text, for each file of rows."""


def fingerprint(files: Sequence[Path], known: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `content`, which tells whether two states of the files are equal, and `stat`, which hints at it.

    `known` are earlier answers. One is trusted for large files of which neither size nor times have changed since.
    """
    try:
        statuses = [file.stat() for file in files]
    except OSError as reason:
        raise DataError(f"cannot read {reason.filename}; {reason.strerror}; leave the text alone") from reason
    seen = [[status.st_size, status.st_mtime_ns, status.st_ctime_ns] for status in statuses]
    if sum(status.st_size for status in statuses) >= ALWAYS_HASHED:
        for earlier in known:
            if earlier.get("stat") == seen:
                return dict(earlier)
    content = [[ending(file), storage.sha256_file(file.resolve(), DataError)] for file in files]
    return {"content": content, "stat": seen}


def choose_fields(place: str, found: Found, text_field: str | None) -> Fields:
    """Look at all rows, choose the field of the text in each file, and say which.

    Raises:
        UsageError: a field is named, and there are no rows.
        DataError: a field cannot be chosen, or too many rows lack it.
    """
    tables = [file for file in found.files if ending(file) in rows.ROWS]
    if text_field is not None and not tables:
        raise UsageError(f"--text-field {text_field!r:.60} is of no use; {place} has no rows; leave it out")
    fields: Fields = {}
    for file in tables:
        columns = rows.survey(file)
        fields[file] = columns.choose(text_field)
        if line := remark(columns, fields[file]):
            print(line, file=sys.stderr)
    return fields


def read(
    files: Sequence[Path], fields: Fields, fractions: Fractions, wanted: Collection[str], block: int = CHUNK
) -> Iterator[tuple[str, Document]]:
    """Yield each document of the wanted splits with the name of its split.

    Raises:
        DataError: a file is not UTF-8, or its rows hold no text; the message names the file and the place.
    """
    for file in files:
        if file not in fields:
            yield from parts_by_position(file, fractions, wanted, block)
            continue
        for text in rows.texts(file, fields[file]):
            split = fractions.split_of(text)
            if split in wanted:
                yield split, in_chunks([text], block)
