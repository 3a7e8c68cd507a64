"""Tables of text, and how Markdown and a terminal show them. What stands in them is the business of others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first `words` columns, and those named in `prose`, are words and not figures."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    prose: frozenset[int] = frozenset()
    links: tuple[str | None, ...] = ()
    """Where the first word of each row leads."""
    reasons: tuple[str, ...] = ()
    """A sentence below each row."""
    commands: tuple[str, ...] = ()
    """A command line below each row."""
    folded: bool = False


def markdown_table(table: Table) -> str:
    """The rows in GitHub's form, every line with the cells of the heading."""
    headings, left = (
        list(map(plain, table.headings)),
        [k < table.words or k in table.prose for k in range(len(table.headings))],
    )
    rows = [[*map(plain, row)] for row in table.rows]
    for row, link in zip(rows, table.links, strict=False):
        row[0] = f"[{row[0]}]({link})" if link else row[0]
    if table.reasons:
        headings, left = [*headings, "why"], [*left, True]
        rows = [[*row, plain(reason)] for row, reason in zip(rows, table.reasons, strict=True)]
    lines = [headings, [":--" if words else "--:" for words in left], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Text that Markdown shows as its characters: no markup, no cell border, no new line."""
    escaped = re.sub(r"([\\`*\[\]<>|#~$]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;")


def fenced(lines: Sequence[str]) -> str:
    """Command lines as a block of code that none of them can close."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}sh", *lines, fence])


def aligned(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Rows for a terminal: the first `words` columns begin together, the others end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [
            cell.ljust(width) if k < words else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)
