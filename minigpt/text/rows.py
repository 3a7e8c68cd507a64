"""Rows of text: a document each, from .jsonl and .ndjson (one a line), .json (an array) and .parquet."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minigpt.base.errors import DataError
from minigpt.text.columns import DEFAULT_FIELD, Columns, checked_text
from minigpt.text.folders import JSON, LINES, PACKED, PARQUET, ending
from minigpt.text.plain import opened, unpacked_size

LONGEST_LINE = 64 << 20
LARGEST_JSON = 256 << 20
"""Bytes; an array is parsed as a whole, which takes several times its size."""
ROWS = frozenset({*LINES, JSON, PARQUET}) | {name + PACKED for name in LINES}
_PARQUET_BATCH = 256  # rows
_STRINGS = ("string", "large_string", "string_view")
_BYTES = ("binary", "large_binary", "binary_view")

Row = tuple[str, Mapping[str, Any]]
"""Where it is, for messages, and what it holds."""


def survey(path: Path) -> Columns:
    """Look at every row of a file.

    Raises:
        DataError: it cannot be read as rows; the message names the place.
    """
    columns = Columns(str(path))
    for _, row in _rows(path):
        columns.add(row)
    return columns


def texts(path: Path, field: str) -> Iterator[str]:
    """Yield the text of each row that has any."""
    for place, row in _rows(path):
        yield from checked_text(row, field, place)


def _rows(path: Path) -> Iterator[Row]:
    if ending(path) == PARQUET:
        return _parquet_rows(path)
    return _json_array(path) if ending(path) == JSON else _json_lines(path)


def _json_lines(path: Path) -> Iterator[Row]:
    unpacked_size(path)  # refuses what would unpack without an end
    number = offset = 0
    with opened(path) as file:
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            place = f"{path}, line {number}"
            _refuse_nuls(line, place)
            if len(line) > LONGEST_LINE:
                raise DataError(f"{place} is too long; more than {LONGEST_LINE:,} bytes; write one object a line")
            if line.strip():
                yield place, _as_row(_parsed(line, place, offset), place, "write one object a line")
            offset += len(line)


def _json_array(path: Path) -> Iterator[Row]:
    """The rows of a file that holds one array, or, whatever its name says, one object a line."""
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise DataError(f"{path} is too large for .json; it has {size:,} bytes; write one object a line, as .jsonl")
    with opened(path) as file:
        data = file.read()
    _refuse_nuls(data, str(path))
    try:
        value = json.loads(_decoded(data, str(path), 0))
    except (ValueError, RecursionError) as reason:
        if isinstance(reason, json.JSONDecodeError) and reason.msg == "Extra data":
            yield from _json_lines(path)
            return
        raise DataError(f"{path} is not JSON; {reason}; rename it to .txt if it is plain text") from reason
    advice = "give an array of objects or strings, or one object a line as .jsonl"
    if not isinstance(value, list):
        fields = f" with {', '.join(map(repr, value))}" if isinstance(value, dict) else ""
        raise DataError(f"{path} holds no array; it is a {type(value).__name__}{fields:.200}; {advice}")
    for number, item in enumerate(value, start=1):
        place = f"{path}, item {number}"
        yield place, _as_row(item, place, advice)


def _refuse_nuls(data: bytes, place: str) -> None:
    """JSON has no NUL: one tells of another encoding."""
    if b"\0" in data:
        raise DataError(f"{place} looks like UTF-16 or binary data; it has NULs; convert it to UTF-8")


def _parsed(line: bytes, place: str, offset: int) -> Any:
    try:
        return json.loads(_decoded(line, place, offset))
    except (ValueError, RecursionError) as reason:
        raise DataError(f"{place} is not JSON; {reason}; write one object a line") from reason


def _decoded(data: bytes, place: str, offset: int) -> str:
    """Decode UTF-8, with or without a byte-order mark; joined files may have one at any line."""
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as reason:
        mark = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
        bad = offset + mark + reason.start
        raise DataError(f"{place} is not UTF-8; bad byte at offset {bad}; convert it") from reason


def _as_row(value: Any, place: str, advice: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        return {DEFAULT_FIELD: value}
    if not isinstance(value, dict):
        raise DataError(f"{place} is not a JSON object; it is of type {type(value).__name__}; {advice}")
    return value


def _parquet_rows(path: Path) -> Iterator[Row]:
    """The fields of each row that may hold text; the others by their names, so that messages can list them."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            kinds = {field.name: _kind(field.type) for field in file.schema_arrow}
            names = [name for name, kind in kinds.items() if kind in (*_STRINGS, *_BYTES)]
            others = dict.fromkeys(kinds.keys() - set(names), 0)
            number = 0
            for batch in file.iter_batches(_PARQUET_BATCH, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", others | {name: _text_of(value) for name, value in row.items()}
    except (OSError, pyarrow.ArrowException) as reason:
        raise DataError(f"{path} is not a Parquet file; {' '.join(str(reason).split())}; give a whole one") from reason


def _kind(kind: Any) -> str:
    """The type of a column by name; that of its values where they are numbered, as categories are."""
    return str(getattr(kind, "value_type", kind) if str(kind).startswith("dictionary") else kind)


def _text_of(value: Any) -> Any:
    """Bytes as text if they are UTF-8, so that a column of them counts as one of strings."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value
