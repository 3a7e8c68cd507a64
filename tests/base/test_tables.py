"""One table in all its forms: nothing is lost on the way, and nothing in a cell breaks out of it."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest

from minigpt.base import formats
from minigpt.base.tables import Column, Table, fenced, listing, lookup, plain, ragged_csv, wrapped

Record = dict[str, Any]
COLUMNS = (
    Column.name("arm", "arm"),
    Column("mean loss, nats", "loss/mean", formats.fixed),
    Column("dead", "dead", formats.percent),
    Column.words("what was found", "said"),
)
RECORDS: list[Record] = [
    {"arm": "relu", "loss": {"mean": 1.5}, "dead": 0.125, "said": "one in eight neurons never fired on any token"},
    {"arm": "gelu", "loss": None, "dead": 0.0, "said": ""},
]


def table(**changes: Any) -> Table:
    return Table(**{"title": "", "columns": COLUMNS, "records": RECORDS, **changes})


def test_a_terminal_gets_names_at_the_left_and_figures_at_the_right() -> None:
    """Columns part by two spaces, headings go with their cells, a missing figure is a dash."""
    assert table(title="Arms", columns=COLUMNS[:3], notes=("A note.",)).terminal(80) == (
        "Arms\narm   mean loss, nats    dead\nrelu           1.5000  12.5 %\ngelu                –   0.0 %\nA note."
    )


@pytest.mark.parametrize("width", range(28, 100, 4))
def test_whatever_the_width_every_word_is_shown_within_it(width: int) -> None:
    """Headings and words wrap at spaces, columns move into further blocks, and each block repeats the names."""
    shown = table().terminal(width)
    assert max(map(len, shown.splitlines())) <= width
    words = [word for row in (table().headings, *table().rows) for text in row for word in text.split()]
    assert set(shown.split()) == set(words)
    assert shown.split().count("relu") == shown.split().count("arm") == shown.split().count("gelu")


def test_a_table_wider_than_wrapping_can_make_it_is_split() -> None:
    """Two blocks of figures, both with the names; a word that is wider than the terminal stays whole."""
    columns = [Column(f"figure{k}", lambda record, k=k: k * 111_111_111) for k in range(6)]
    lines = table(columns=(COLUMNS[0], *columns)).terminal(40).splitlines()
    assert [line.split()[0] for line in lines] == ["arm", "relu", "gelu"] * 2
    assert "incomprehensibilities" in table(columns=(Column.words("", lambda _: "incomprehensibilities"),)).terminal(9)


def test_no_cell_commands_a_terminal_or_breaks_its_row() -> None:
    """Names come from users and settings."""
    shown = table(records=[{"arm": "a\x1b[2J\nb"}], columns=COLUMNS[:1]).terminal(80)
    assert shown == "arm\na\\x1b[2J b"


def test_markdown_has_whole_rows_and_no_markup_but_its_own() -> None:
    """Links, reasons as a last column, borders escaped; a column of Markdown keeps its backticks."""
    hostile = {"arm": "a|b*`<script>", "why": "x\ny | z", "said": "`code|d`"}
    columns = (COLUMNS[0], Column("said", "said", kind="words", markdown=True))
    made = table(
        records=[hostile], columns=columns, link=lambda record: "../cells/1/", reason=Column("why", "why")
    ).markdown()
    assert made.splitlines() == [
        "| arm | said | why |",
        "| :-- | :-- | :-- |",
        r"| [a\|b\*\`\<script\>](../cells/1/) | `code\|d` | x y \| z |",
    ]


def test_csv_has_every_digit_and_empty_fields() -> None:
    """What a parser reads back are the values, not what the table shows of them."""
    [header, first, second] = csv.reader(io.StringIO(table().csv()))
    assert header == table().headings
    assert [float(first[1]), float(first[2]), second[1]] == [1.5, 0.125, ""]
    lines = ragged_csv([{"a": 0.1 + 0.2, "b": True}, {"c": 'x "y"\n'}], "\r\n")
    assert lines == 'a,b,c\r\n0.30000000000000004,true,\r\n,,"x ""y""\n"\r\n'


def test_the_commands_of_rows_are_as_they_are_typed() -> None:
    """Two spaces in a file name are two spaces."""
    made = table(
        records=[{"arm": "a", "command": "python train.py --corpus 'my  text'"}], command=Column("", "command")
    )
    assert made.commands == ["python train.py --corpus 'my  text'"]
    assert fenced(["echo '```'"]).splitlines() == ["````sh", "echo '```'", "````"]


def test_pairs_are_a_table_without_headings() -> None:
    """The heading's line is left out where it says nothing."""
    assert listing("Machine", [("threads", 2), ("accelerator", None)]).terminal(80).splitlines() == [
        "Machine",
        "threads      2",
        "accelerator  –",
    ]


def test_paths_lead_into_records_and_objects() -> None:
    """A part that is missing or null anywhere is None."""
    assert lookup({"a": {"b": 1}}, "a/b") == 1
    assert lookup({"a": None}, "a/b") is None
    assert lookup(Column("t", "v"), "title") == "t"
    assert lookup({}, "a") is None


def test_plain_text_stays_text_in_markdown() -> None:
    """Every character that Markdown could take for markup is escaped."""
    assert plain("_a_ snake_case\n# $x$ & [l](u) ~~s~~ <b>") == (
        r"\_a\_ snake_case \# \$x\$ &amp; \[l\](u) \~\~s\~\~ \<b\>"
    )


def test_paragraphs_break_at_spaces_only() -> None:
    """Addresses and hyphenated words stay whole."""
    assert re.split(r"\n\s*", wrapped("see well-known https://example.org/a-b-c", 12, "  ")) == [
        "see",
        "well-known",
        "https://example.org/a-b-c",
    ]
