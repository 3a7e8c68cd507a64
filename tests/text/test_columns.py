"""The field of rows that is the text: found where there is no doubt, asked for otherwise, and never lost silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpus_examples import documents

from minigpt.base.errors import DataError, UsageError
from minigpt.text.corpora import open_corpus

PROSE = "The cat sat on the mat and looked at it, number"
Rows = list[dict[str, Any]]


def prose(count: int, name: str, **others: Any) -> Rows:
    return [{name: f"{PROSE} {number}.", **others} for number in range(count)]


def numbered(rows: Rows, name: str, pattern: str) -> Rows:
    return [{name: pattern.format(number), **row} for number, row in enumerate(rows)]


def lines(folder: Path, rows: Rows) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def array(folder: Path, rows: Rows) -> Path:
    path = folder / "a.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def parquet(folder: Path, rows: Rows) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = folder / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


FORMATS = [lines, array, parquet]


def read(path: Path, text_field: str | None = None) -> list[str]:
    return documents(open_corpus(str(path), 0, 0, text_field=text_field), "train")


@pytest.mark.parametrize("write", FORMATS)
def test_a_null_in_the_first_row_decides_nothing(tmp_path: Path, write: Any) -> None:
    """The field was once chosen by the first row: a null there, and the ids were trained on."""
    rows = numbered([{"body": None}, *prose(150, "body")], "id", "row-{}")
    with pytest.raises(DataError, match=r"strings in 'id' \(151 of 151 rows\), 'body' \(150 of .*--text-field"):
        read(write(tmp_path, rows))
    assert read(write(tmp_path, rows), "body") == [row["body"] for row in rows[1:]]


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize(
    "pattern", ["row-{}", "https://example.org/{}", "http://example.org/a?b={}", "u{}@example.org"]
)
def test_identifiers_are_not_the_text_for_want_of_another(tmp_path: Path, write: Any, pattern: str) -> None:
    """Where ids or addresses are the only strings, only `--text-field` makes them the text."""
    path = write(tmp_path, numbered([{"stars": 5}] * 9, "key", pattern))
    with pytest.raises(DataError, match=r"look like identifiers; field 'key'.*--text-field key"):
        read(path)
    assert read(path, "key")[8] == pattern.format(8)


def test_two_schemas_in_one_file_are_refused(tmp_path: Path) -> None:
    """Half of the rows name their text otherwise: they were once dropped without a word."""
    with pytest.raises(DataError, match=r"100 of 200 rows have no 'text'; strings are also in 'content' \(100 of 200"):
        read(lines(tmp_path, [*prose(100, "text"), *prose(100, "content")]))
    with pytest.raises(DataError, match=r"'body' .*, 'content' "):
        read(lines(tmp_path, [*prose(2000, "body"), *prose(2000, "content")]))


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("field", ["text", "body"])
def test_few_rows_without_text_are_said_and_more_are_refused(
    tmp_path: Path, write: Any, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of a hundred may lack its text; that is counted on stderr."""
    rows = prose(99, field, stars=1)
    path = write(tmp_path, [*rows, {field: None, "stars": 1}])
    assert len(read(path)) == 99
    assert f"the text is field '{field}' of 100 rows, 1 of them without it" in capsys.readouterr().err
    with pytest.raises(DataError, match=f"2 of 101 rows have no '{field}'"):
        read(write(tmp_path, [*rows, {field: None, "stars": 1}, {field: None, "stars": 1}]))


def test_the_usual_field_needs_no_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`text` in all rows, some of them empty, is what everybody expects."""
    assert len(read(lines(tmp_path, [*prose(9, "text", url="https://a/b"), {"text": "", "url": "x"}]))) == 9
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", [0, False, [], {}, 5.0, ["a"]])
def test_other_types_are_not_taken_for_no_text(tmp_path: Path, value: Any) -> None:
    """0, false and [] were once as good as null; they are no text, and no absence of it either."""
    path = lines(tmp_path, [*prose(300, "text"), {"text": value}])
    with pytest.raises(DataError, match=f"line 301 has no text in field 'text'; it is of type {type(value).__name__}"):
        read(path)


def test_an_unknown_field_is_refused_with_those_there_are(tmp_path: Path) -> None:
    """A slip of the pen gets the names, and a hint."""
    with pytest.raises(DataError, match=r"has no field 'bdoy'; did you mean 'body'.*'title'"):
        read(lines(tmp_path, prose(9, "body", title="A story")), "bdoy")


@pytest.mark.parametrize("spec", ["stdlib", "grammar:3", "a.txt"])
def test_a_field_is_refused_where_there_are_no_rows(tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag that would change nothing is a misunderstanding."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(PROSE)
    with pytest.raises(UsageError, match="--text-field 'body' is of no use"):
        read(Path(spec), "body")


# ------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json"])
def test_one_object_a_line_whatever_the_name(tmp_path: Path, name: str) -> None:
    """`.ndjson` is JSONL, many a `.json` is too, and a byte-order mark at any line is no text."""
    rows = prose(5, "text")
    mark = b"\xef\xbb\xbf"
    (tmp_path / name).write_bytes(b"\r\n".join(mark + json.dumps(row).encode() for row in rows))
    assert read(tmp_path / name) == [row["text"] for row in rows]


def test_strings_are_rows_too(tmp_path: Path) -> None:
    """An array of strings needs no field."""
    assert read(array(tmp_path, ["one text", "another"])) == ["one text", "another"]  # type: ignore[list-item]


def test_parquet_columns_of_categories_and_bytes_count(tmp_path: Path) -> None:
    """They were once overlooked, so that the only column of plain strings, the addresses, was the text."""
    import pyarrow
    import pyarrow.parquet

    texts = [f"{PROSE} {number}." for number in range(40)]
    urls = [f"https://example.org/{number}" for number in range(40)]
    for column in (pyarrow.array(texts).dictionary_encode(), pyarrow.array([text.encode() for text in texts])):
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"content": column}), path)
        assert read(path) == texts
        pyarrow.parquet.write_table(pyarrow.table({"content": column, "url": urls}), path)
        with pytest.raises(DataError, match=r"'content' .*, 'url' .*--text-field"):
            read(path)
        assert read(path, "content") == texts


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """Pictures in a column beside addresses: neither is the text."""
    rows = [{"image": b"\xff\xd8\xff" + bytes([n]), "url": f"https://a/{n}"} for n in range(9)]
    path = parquet(tmp_path, rows)
    with pytest.raises(DataError, match="look like identifiers"):
        read(path)
    with pytest.raises(DataError, match="row 1 has no text in field 'image'; it is of type bytes"):
        read(path, "image")
