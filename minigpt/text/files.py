"""Text from the user's own files: .txt, .jsonl, .parquet, or a folder of them.

Files are read in blocks and never as a whole, byte for byte: line ends, a byte-order mark and NUL come through.
A .txt file is dealt to the splits by position, the documents of the other two kinds by hash.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from minigpt.base import storage
from minigpt.base.errors import DataError
from minigpt.text.splits import CHUNK, Document, Fractions, in_chunks

ALWAYS_HASHED = 64 << 20  # bytes; larger sources are hashed anew only when a file's size or times changed

_ROWS = {".jsonl", ".parquet"}
_ENDINGS = {".txt", *_ROWS}
_PARQUET_BATCH = 256  # rows
_PARQUET_STRINGS = {"string", "large_string", "string_view"}


def find_files(path: Path) -> list[Path]:
    """Return the file itself, or the text files in a folder and its sub-folders, in an order that never varies.

    Raises:
        DataError: there is nothing to read.
    """
    if not path.is_dir():
        _check_readable(path)
        return [path]
    found = {file.relative_to(path).parts: file for file in path.rglob("*") if file.suffix.lower() in _ENDINGS}
    visible = [parts for parts in sorted(found) if not any(part.startswith(".") for part in parts)]
    files = [found[parts] for parts in visible if found[parts].is_file()]
    if not files:
        raise DataError(f"no text in folder {path}; it holds no {', '.join(sorted(_ENDINGS))} file; put one there")
    if not any(file.stat().st_size for file in files):
        raise DataError(f"every text file in {path} is empty; {len(files)} were found; put text into them")
    return files


def _check_readable(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as reason:
        raise DataError(f"cannot read {path}; {reason.strerror or reason}; give an existing text file") from reason
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"cannot read {path}; it is neither a file nor a folder; give a text file")
    if status.st_size == 0:
        raise DataError(f"{path} is empty; it has 0 bytes; give a file with text in it")


def fingerprint(files: list[Path], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `content`, which tells whether two states of the files are equal, and `stat`, which hints at it.

    `known` is an earlier answer. It is trusted for large files of which neither size nor times have changed.
    """
    statuses = [file.stat() for file in files]
    seen = [[status.st_size, status.st_mtime_ns, status.st_ctime_ns] for status in statuses]
    size = sum(status.st_size for status in statuses)
    if known and size >= ALWAYS_HASHED and known.get("stat") == seen:
        return dict(known)
    content = [[file.suffix.lower(), storage.sha256_file(file, DataError)] for file in files]
    return {"content": content, "stat": seen}


def read(
    files: list[Path], fractions: Fractions, wanted: Collection[str], block: int = CHUNK
) -> Iterator[tuple[str, Document]]:
    """Yield each document of the wanted splits with the name of its split.

    Raises:
        DataError: a file is not UTF-8, or its rows hold no text; the message names the file and the place.
    """
    for file in files:
        if file.suffix.lower() in _ROWS:
            for text in _rows(file):
                split = fractions.split_of(text)
                if split in wanted:
                    yield split, in_chunks([text], block)
        else:
            yield from _parts_by_position(file, fractions, wanted, block)


def _parts_by_position(
    path: Path, fractions: Fractions, wanted: Collection[str], block: int
) -> Iterator[tuple[str, Document]]:
    for split, cut in fractions.cuts(path.stat().st_size).items():
        with _opened(path) as file:
            start, end = (_character_boundary(file, position) for position in cut)
        if split in wanted and start < end:
            yield split, in_chunks(_decoded(path, start, end, block), block)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as reason:
        raise DataError(f"cannot read {path}; {reason.strerror or reason}; give a readable file") from reason


def _character_boundary(file: BinaryIO, position: int) -> int:
    """Move `position` forward to the first byte of a UTF-8 character; at most three bytes can continue one."""
    file.seek(position)
    following = file.read(4)
    return position + next((i for i, byte in enumerate(following) if byte & 0xC0 != 0x80), len(following))


def _decoded(path: Path, start: int, end: int, block: int) -> Iterator[str]:
    """Yield the text of the bytes from `start` to `end`, which are beginnings of characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    position = start
    with _opened(path) as file:
        file.seek(start)
        while position < end:
            data = file.read(min(block, end - position))
            if not data:
                raise DataError(f"{path} shrank while it was read; it ends at byte {position} of {end}; leave it alone")
            pending = len(decoder.getstate()[0])
            try:
                yield decoder.decode(data, final=position + len(data) == end)
            except UnicodeDecodeError as reason:
                bad, offset = reason.object[reason.start], position - pending + reason.start
                raise DataError(
                    f"{path} is not UTF-8 text; bad byte 0x{bad:02x} at offset {offset}; convert it to UTF-8"
                ) from reason
            position += len(data)


def _rows(path: Path) -> Iterator[str]:
    """Yield the text of each row that has any."""
    return _parquet_rows(path) if path.suffix.lower() == ".parquet" else _json_rows(path)


def text_field(fields: Collection[str], strings: Collection[str], source: str) -> str:
    """Return which of `fields` holds the text: `text`, else the only one of `strings`.

    Raises:
        DataError: there is no such field or more than one; the message names them.
    """
    if "text" in fields:
        return "text"
    if len(strings) != 1:
        given = ", ".join(map(repr, fields)) or "no field"
        raise DataError(f"{source} does not tell its text; it has {given}; name one field 'text', or keep one string")
    return next(iter(strings))


def checked_text(row: Mapping[str, Any], field: str, source: str) -> Iterator[str]:
    """Yield the text of one row, or nothing where it is empty or null.

    Raises:
        DataError: it is something else than text that UTF-8 can represent.
    """
    text = row.get(field) or ""
    if not isinstance(text, str):
        raise DataError(f"{source} has no text in field {field!r}; it is of type {type(text).__name__}; give a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as reason:
        place = f"{source}, character {reason.start}"
        raise DataError(f"{place} is half of a surrogate pair; UTF-8 cannot represent it; repair the text") from reason
    if text:
        yield text


def _json_rows(path: Path) -> Iterator[str]:
    field, offset = None, 0
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            source = f"{path}, line {number}"
            if line.strip():
                row = _json_object(line, source, offset)
                field = field or text_field(row, [name for name in row if isinstance(row[name], str)], source)
                yield from checked_text(row, field, source)
            offset += len(line)


def _json_object(line: bytes, source: str, offset: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as reason:
        raise DataError(f"{source} is not UTF-8; bad byte at offset {offset + reason.start}; convert it") from reason
    except (ValueError, RecursionError) as reason:
        raise DataError(f"{source} is not JSON; {reason}; write one object a line") from reason
    if not isinstance(row, dict):
        raise DataError(f"{source} is not a JSON object; it is of type {type(row).__name__}; write one object a line")
    return row


def _parquet_rows(path: Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            strings = [field.name for field in schema if str(field.type) in _PARQUET_STRINGS]
            field = text_field(schema.names, strings, str(path))
            rows = (row for batch in file.iter_batches(_PARQUET_BATCH, columns=[field]) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield from checked_text(row, field, f"{path}, row {number}")
    except (OSError, pyarrow.ArrowException) as reason:
        raise DataError(f"{path} is not a Parquet file; {' '.join(str(reason).split())}; give a whole one") from reason
