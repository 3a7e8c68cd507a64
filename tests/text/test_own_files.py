"""Text of the user's own: what is read, what is passed over and said, and what is refused with what to do."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from corpus_examples import documents, everything
from store_examples import tree

from minigpt.base.errors import DataError
from minigpt.text import files, plain
from minigpt.text.corpora import open_corpus
from minigpt.text.store import prepare

PROSE = "The cat sat on the mat and looked at it. " * 30


def write(path: Path, text: str = PROSE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> list[str]:
    return documents(open_corpus(str(path), 0, 0), "train")


# ------------------------------------------------------------------------------------------------- folders


def test_linked_folders_and_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of links was once read as if they were not there: the text was trained on in part, without a word."""
    write(tmp_path / "other/b.txt", "b")
    write(tmp_path / "other/deep/c.txt", "c")
    write(tmp_path / "texts/a.txt", "a")
    (tmp_path / "texts/more").symlink_to("../other")
    (tmp_path / "texts/z.txt").symlink_to("../other/b.txt")
    assert read(tmp_path / "texts") == ["a", "b", "c", "b"]
    assert "read 4 files" in capsys.readouterr().err
    (tmp_path / "only").mkdir()
    (tmp_path / "only/x").symlink_to("../other")
    assert read(tmp_path / "only") == ["b", "c"]


def test_linked_files_have_a_fingerprint(tmp_path: Path) -> None:
    """Kind 3: they were found and then refused as links when hashed; the hash is that of what they lead to."""
    write(tmp_path / "real.txt")
    (tmp_path / "link.txt").symlink_to("real.txt")
    first, second = (open_corpus(str(tmp_path / name)).fingerprint([])["content"] for name in ("real.txt", "link.txt"))
    assert first == second


def test_loops_of_links_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link to a folder above, to itself or to a neighbour reads no text twice."""
    write(tmp_path / "a/a.txt", "a")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "self").symlink_to("self")
    assert read(tmp_path) == ["a"]
    assert "2 links to a folder already read" in capsys.readouterr().err


def test_what_is_passed_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which endings were ignored, and how often, is one line; .md and .rst are text."""
    for name in (
        "a.txt",
        "b.MD",
        "c.rst",
        "d.markdown",
        *(f"{number}.pdf" for number in range(50)),
        ".hidden",
        "LICENSE",
    ):
        write(tmp_path / name, name)
    assert read(tmp_path) == ["a.txt", "b.MD", "c.rst", "d.markdown"]
    note = capsys.readouterr().err
    assert "read 4 files, ignored 52 (50 .pdf, " in note
    assert "1 hidden" in note
    assert "1 without an ending" in note
    assert note.count("\n") == 1


def test_an_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the text that cannot be read is never left out silently."""
    write(tmp_path / "a.txt")
    write(tmp_path / "locked/b.txt")
    listdir = os.listdir

    def forbidden(path: Path) -> list[str]:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", forbidden)
    with pytest.raises(DataError, match=r"cannot read folder .*locked; Permission denied"):
        open_corpus(str(tmp_path))


def test_a_broken_link_to_text_is_an_error(tmp_path: Path) -> None:
    """Text that is promised and missing is missed; a broken link to anything else is not."""
    write(tmp_path / "a.txt")
    (tmp_path / "gone.bin").symlink_to("nowhere")
    open_corpus(str(tmp_path))
    (tmp_path / "gone.txt").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"cannot read .*gone\.txt"):
        open_corpus(str(tmp_path))


# ------------------------------------------------------------------------------------------------- packed and foreign


@pytest.mark.parametrize("fractions", [(0.0, 0.0), (0.3, 0.2)])
def test_packed_text_is_what_was_packed(tmp_path: Path, fractions: tuple[float, float]) -> None:
    """`.txt.gz` gives the parts of the same text unpacked, cut inside no character."""
    text = "naïve 日本語 🙂 end\n" * 50
    write(tmp_path / "a.txt", text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    plain_text, packed = (everything(open_corpus(str(tmp_path / n), *fractions, 64)) for n in ("a.txt", "b.txt.gz"))
    assert plain_text == packed
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"text": "hello"}\n'))
    assert read(tmp_path / "rows.jsonl.gz") == ["hello"]


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte that unpacks to a gigabyte is not unpacked to its end."""
    monkeypatch.setattr(plain, "UNPACKED_FREELY", 1 << 20)
    for name in ("a.txt.gz", "b.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b" " * (5 << 20)))
        with pytest.raises(DataError, match=rf"{name} unpacks to suspiciously much"):
            read(tmp_path / name)


FOREIGN: dict[str, tuple[bytes, str]] = {
    "a.zip": (b"PK\x03\x04" + b"x" * 50, "zip archive.*unpack it"),
    "a.txt": (b"PK\x03\x04" + b"x" * 50, "zip archive"),
    "a.gz": (gzip.compress(b"hello"), r"gzip data; name it NAME\.txt\.gz"),
    "b.txt": (gzip.compress(b"hello"), "gzip data"),
    "cut.txt.gz": (gzip.compress(os.urandom(500))[:300], r"cut\.txt\.gz; .*whole file"),
    "false.txt.gz": (b"no gzip at all", r"false\.txt\.gz"),
    "a.pdf": (b"%PDF-1.7 ...", "PDF; convert it"),
    "a.parquet.txt": (b"PAR1....PAR1", "Parquet"),
    "mark.txt": ("text".encode("utf-16"), "UTF-16 text; convert it"),
    "le.txt": (PROSE.encode("utf-16-le"), "looks like UTF-16.*iconv"),
    "be.md": (PROSE.encode("utf-16-be"), "looks like UTF-16"),
    "utf32.txt": (PROSE.encode("utf-32-le"), "looks like UTF-16 or binary"),
    "late.txt": (PROSE.encode() * 20 + PROSE.encode("utf-16-le"), "looks like UTF-16"),
    "le.jsonl": ('{"text": "a"}\n'.encode("utf-16-le"), "line 1 looks like UTF-16"),
    "le.json": ('["text"]'.encode("utf-16-le"), r"le\.json looks like UTF-16"),
    "object.json": (b'{"data": ["a"]}', "holds no array; it is a dict with 'data'; give an array"),
    "number.json": (b"[1]", "item 1 is not a JSON object; it is of type int"),
    "bad.json": (b"plain words", r"bad\.json is not JSON"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_text_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    """Archives, documents and other encodings were once trained on as they are, or refused without advice."""
    content, message = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_of_holes_is_refused_at_once(tmp_path: Path) -> None:
    """A terabyte of NULs that takes no place on disk was read to its end."""
    for name in ("a.txt", "b.jsonl"):
        with (tmp_path / name).open("wb") as file:
            file.write(PROSE.encode())
            file.truncate(1 << 40)
        begun = time.monotonic()
        with pytest.raises(DataError, match="bytes are NUL in holes"):
            open_corpus(str(tmp_path / name))
        assert time.monotonic() - begun < 1


def test_written_nuls_are_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can tell the holes, the first blocks are enough."""
    (tmp_path / "a.txt").write_bytes(bytes(1 << 20))
    corpus = open_corpus(str(tmp_path / "a.txt"), 0, 0, block=1 << 16)
    with pytest.raises(DataError, match="65,536 of 65,536 characters are NUL"):
        list(corpus.texts())


def test_a_few_nuls_are_text(tmp_path: Path) -> None:
    """Up to one character of a hundred may be NUL."""
    text = ("x" * 99 + "\0") * 20
    assert read(write(tmp_path / "a.txt", text)) == [text]
    with pytest.raises(DataError, match="21 of 2,001 characters are NUL"):
        read(write(tmp_path / "a.txt", text + "\0"))


# ------------------------------------------------------------------------------------------------- documents


ROWS = ["old cat", "a song", "rain falls", "the end"]


def as_lines(folder: Path) -> Path:
    return write(folder / "a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in ROWS))


def as_files(folder: Path) -> Path:
    for number, text in enumerate(ROWS):
        write(folder / f"texts/{number}.txt", text)
    return folder / "texts"


@pytest.mark.parametrize("make", [as_lines, as_files])
@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe:300"])
def test_documents_are_kept_apart(tmp_path: Path, make: Callable[[Path], Path], tokenizer: str) -> None:
    """In `char`, rows without a line end were once glued: 'old cata song'."""
    store = prepare(open_corpus(str(make(tmp_path)), 0, 0), tokenizer, tmp_path / "data", 2)
    assert store.tokenizer.decode(store.tokens("train").tolist()) == "\n\n".join(ROWS)


def test_a_single_text_gets_no_character_that_it_lacks(tmp_path: Path) -> None:
    """One file is one document in each split: its alphabet and its tokens are its own."""
    store = prepare(open_corpus(str(write(tmp_path / "a.txt", PROSE)), 0.2, 0.1), "char", tmp_path / "data", 2)
    assert store.tokenizer.to_json()["characters"] == "".join(sorted(set(PROSE)))


def test_a_failed_look_leaves_nothing(tmp_path: Path) -> None:
    """A refusal in the middle of reading leaves no folder of tokens behind."""
    write(tmp_path / "texts/a.txt")
    (tmp_path / "texts/b.txt").write_bytes(PROSE.encode("utf-16-le"))
    before = tree(tmp_path)
    with pytest.raises(DataError, match="looks like UTF-16"):
        prepare(open_corpus(str(tmp_path / "texts")), "char", tmp_path / "data", 2)
    assert tree(tmp_path) == before


def test_a_text_that_vanishes_is_named(tmp_path: Path) -> None:
    """A file that goes away between finding and reading is an error of the data."""
    path = write(tmp_path / "a.txt")
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*a\.txt"):
        files.fingerprint([path], [])
