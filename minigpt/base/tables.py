"""One table for every reader: typed columns over records, as terminal text, Markdown or CSV; pages draw its cells.

A row is what the columns make of a record, so headings and cells cannot part. What a table says is the business of
whoever makes it.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Literal

from minigpt.base import formats

_GAP = "  "
_NARROWEST_HEADING, _NARROWEST_WORDS = 7, 20
"""The least widths in characters to which a heading and a column of words are wrapped."""


@dataclass(frozen=True)
class Column:
    """What a table shows of each record: under which title, found where, written how.

    value      a path into nested records, such as `chao1/never`, or a function of the record
    kind       `name` says which record it is and is repeated wherever the table is split; names and words begin
               together at the left, figures end together at the right
    markdown   the cell is Markdown already
    """

    title: str
    value: str | Callable[[Any], Any]
    show: Callable[[Any], str] = formats.setting
    kind: Literal["name", "words", "figure"] = "figure"
    markdown: bool = False

    @classmethod
    def name(
        cls, title: str, value: str | Callable[[Any], Any], show: Callable[[Any], str] = formats.setting
    ) -> Column:
        """A column that says which record it is."""
        return cls(title, value, show, "name")

    @classmethod
    def words(
        cls, title: str, value: str | Callable[[Any], Any], show: Callable[[Any], str] = formats.setting
    ) -> Column:
        """A column of text."""
        return cls(title, value, show, "words")

    def of(self, record: Any) -> Any:
        """The value that a record has here; None if it has none."""
        return self.value(record) if callable(self.value) else lookup(record, self.value)

    def cell(self, record: Any) -> str:
        """That value in writing, on one line, with nothing in it that commands a terminal."""
        return formats.on_one_line(self.show(self.of(record)))


@dataclass(frozen=True)
class Table:
    """Records under the titles of columns.

    notes     sentences below the table
    link      where the first cell of a record leads
    reason    a sentence below each row; in Markdown the last column
    command   a command line below each row; in Markdown a block of code below the table
    folded    a page shows it only when asked
    """

    title: str
    columns: tuple[Column, ...]
    records: Sequence[Any]
    notes: tuple[str, ...] = ()
    link: Callable[[Any], str | None] | None = None
    reason: Column | None = None
    command: Column | None = None
    folded: bool = False

    @property
    def headings(self) -> list[str]:
        """The titles of the columns."""
        return [column.title for column in self.columns]

    @property
    def rows(self) -> list[list[str]]:
        """The cells of every record."""
        return [self.cells(record) for record in self.records]

    @property
    def commands(self) -> list[str]:
        """The command line of every record, as it is typed."""
        return [str(self.command.of(record)) for record in self.records] if self.command else []

    def cells(self, record: Any) -> list[str]:
        """What the columns show of one record."""
        return [column.cell(record) for column in self.columns]

    def terminal(self, width: int | None = None) -> str:
        """Return title, rows and notes within the terminal's width, or within `width` characters.

        What is too wide gets headings of several lines, then wrapped words, then blocks of columns below each other.
        """
        room = width or terminal_width()
        lines = [self.title] if self.title else []
        for block in _blocks([_Strip.of(column, self.records) for column in self.columns], room):
            lines += _drawn(block)
        return "\n".join([*lines, *(wrapped(note, room) for note in self.notes)])

    def markdown(self) -> str:
        """Return the rows in GitHub's form, without title and notes."""
        columns = (*self.columns, replace(self.reason, kind="words")) if self.reason else self.columns
        marks = ["--:" if column.kind == "figure" else ":--" for column in columns]
        rows = [[_markdown_cell(column, record) for column in columns] for record in self.records]
        if self.link:
            for row, address in zip(rows, map(self.link, self.records), strict=True):
                row[0] = f"[{row[0]}]({address})" if address else row[0]
        lines = [[plain(column.title) for column in columns], marks, *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def csv(self, line_end: str = "\n") -> str:
        """Return the values with all their digits, under the titles."""
        lines = [[column.of(record) for column in self.columns] for record in self.records]
        return _csv_text([self.headings, *lines], line_end)


def listing(title: str, pairs: Iterable[tuple[str, Any]]) -> Table:
    """A table of names and what is said of each."""
    return Table(title, (Column.name("", itemgetter(0)), Column.words("", itemgetter(1))), tuple(pairs))


def lookup(record: Any, path: str) -> Any:
    """The value at a path such as `chao1/never` in a record; None if any part of it is missing or null."""
    value = record
    for part in path.split("/"):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


# Terminal


def terminal_width() -> int:
    """Characters in a line of the terminal; 80 where there is none."""
    return shutil.get_terminal_size(fallback=(80, 24)).columns


def wrapped(text: str, width: int, indent: str = "") -> str:
    """A paragraph in lines of at most `width` characters that break at spaces only."""
    return "\n".join(_wrapped_lines(text, width, indent))


def _wrapped_lines(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False) or [""]


@dataclass(frozen=True)
class _Strip:
    """A column as lines of text: its heading, and a cell for each record."""

    kind: str
    heading: list[str]
    cells: list[list[str]]

    @classmethod
    def of(cls, column: Column, records: Sequence[Any]) -> _Strip:
        return cls(column.kind, [formats.on_one_line(column.title)], [[column.cell(record)] for record in records])

    @property
    def width(self) -> int:
        return max(map(len, [*self.heading, *(line for cell in self.cells for line in cell)]))

    def with_wrapped_heading(self) -> _Strip:
        cells = max((len(line) for cell in self.cells for line in cell), default=0)
        [heading] = self.heading
        width = max([cells, _NARROWEST_HEADING, *map(len, heading.split())])
        return replace(self, heading=_wrapped_lines(heading, width))

    def wrapped_to(self, width: int) -> _Strip:
        return replace(self, cells=[_wrapped_lines(" ".join(cell), width) for cell in self.cells])

    def padded(self, lines: Sequence[str], height: int, at_top: bool) -> list[str]:
        empty = [""] * (height - len(lines))
        filled = [*lines, *empty] if at_top else [*empty, *lines]
        return [line.rjust(self.width) if self.kind == "figure" else line.ljust(self.width) for line in filled]


def _blocks(strips: list[_Strip], room: int) -> list[list[_Strip]]:
    """The columns in as few blocks as fit, each with the names at its left."""
    if _width(strips) <= room:
        return [strips]
    strips = [_with_narrow_name(strip, room) for strip in strips]
    narrow = _with_wrapped_words(strips, room)
    if _width(narrow) <= room:
        return [narrow]
    names = [strip for strip in strips if strip.kind == "name"]
    blocks = [names]
    for strip in strips:
        if strip.kind == "name":
            continue
        if len(blocks[-1]) > len(names) and _width([*blocks[-1], strip]) > room:
            blocks.append(names)
        blocks[-1] = [*blocks[-1], strip]
    return [_with_wrapped_words(block, room) for block in blocks]


def _with_narrow_name(strip: _Strip, room: int) -> _Strip:
    """A column with its heading wrapped; names that are sentences take half of the room at most."""
    narrow = strip.with_wrapped_heading()
    return narrow.wrapped_to(room // 2) if strip.kind == "name" and strip.width > room // 2 else narrow


def _with_wrapped_words(strips: list[_Strip], room: int) -> list[_Strip]:
    """Columns of words, always the widest of them, made narrower until all fit or none can be."""
    done, limits = list(strips), {k: strip.width for k, strip in enumerate(strips) if strip.kind == "words"}
    while _width(done) > room and any(limit > _NARROWEST_WORDS for limit in limits.values()):
        widest = max(limits, key=limits.__getitem__)
        limits[widest] -= 1
        done[widest] = strips[widest].wrapped_to(limits[widest])
    return done


def _width(strips: Sequence[_Strip]) -> int:
    return sum(strip.width for strip in strips) + len(_GAP) * (len(strips) - 1)


def _drawn(strips: Sequence[_Strip]) -> list[str]:
    """The lines of one block, headings at the bottom of theirs and cells at the top of theirs."""
    lines: list[str] = []
    if any(line for strip in strips for line in strip.heading):
        lines += _beside([(strip, strip.heading) for strip in strips], at_top=False)
    for row in zip(*(strip.cells for strip in strips), strict=True):
        lines += _beside(list(zip(strips, row, strict=True)), at_top=True)
    return lines


def _beside(cells: Sequence[tuple[_Strip, Sequence[str]]], at_top: bool) -> list[str]:
    height = max(len(lines) for _, lines in cells)
    padded = [strip.padded(lines, height, at_top) for strip, lines in cells]
    return [_GAP.join(line).rstrip() for line in zip(*padded, strict=True)]


# Markdown


def plain(text: str) -> str:
    """Text that Markdown shows as its characters: no markup, no cell border, no new line."""
    escaped = re.sub(r"([\\`*\[\]<>|#~$]|(?<!\w)_|_(?!\w))", r"\\\1", formats.on_one_line(text))
    return escaped.replace("&", "&amp;")


def fenced(lines: Sequence[str]) -> str:
    """Command lines as a block of code that none of them can close."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}sh", *lines, fence])


def _markdown_cell(column: Column, record: Any) -> str:
    return column.cell(record).replace("|", "\\|") if column.markdown else plain(column.cell(record))


# CSV


def ragged_csv(lines: Iterable[Mapping[str, Any]], line_end: str = "\n") -> str:
    """Records of different keys as CSV under all of their keys; what a record lacks is an empty field."""
    lines = list(lines)
    headings = list(dict.fromkeys(key for line in lines for key in line))
    return _csv_text([headings, *([line.get(key) for key in headings] for line in lines)], line_end)


def _csv_text(lines: Iterable[Sequence[Any]], line_end: str) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerows([str(value).lower() if isinstance(value, bool) else value for value in line] for line in lines)
    return text.getvalue()
