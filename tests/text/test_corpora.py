"""Corpora: which text a name means, how it is split and streamed, and how bad sources are refused."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import regex
from corpus_examples import documents, everything
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.base.errors import DataError, MinigptError, UsageError
from minigpt.text import stdlib_prose
from minigpt.text.bpe import SPLIT_PATTERN
from minigpt.text.corpora import open_corpus
from minigpt.text.gpt2 import GPT2_SPLIT_PATTERN
from minigpt.text.splits import SPLITS, Fractions, in_chunks


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------- splits and chunks


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(st.text(alphabet="ab \n\t🙂", max_size=30)), size=st.integers(1, 20))
def test_chunks_are_the_text(pieces: list[str], size: int) -> None:
    """Re-cutting loses nothing, invents nothing, and hands on no more than was asked for."""
    chunks = list(in_chunks(pieces, size))
    assert "".join(chunks) == "".join(pieces)
    assert all(0 < len(chunk) <= size for chunk in chunks)


@pytest.mark.parametrize("pattern", [SPLIT_PATTERN, GPT2_SPLIT_PATTERN])
def test_no_cut_crosses_a_token(pattern: str) -> None:
    """Cutting inside or behind a run of blanks would change the tokens: the patterns join blanks, each its own way."""
    source = random.Random(1)
    words = ["it's", "x", "42", "'quoted'", "end.", "naïve", "(a)"]
    runs = [" ", "\n", "  ", "\n\n", "\r\n", " \n", "\n  ", "\t"]
    text = "".join(f"{source.choice(words)} {source.choice(words)}{source.choice(runs)}" for _ in range(2000))
    split = regex.compile(pattern)
    whole = split.findall(text)
    for size in (40, 41, 97, 1000):
        assert [token for chunk in in_chunks([text], size) for token in split.findall(chunk)] == whole


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab \n\t\x1c\u00a0", max_size=700), size=st.integers(1, 600))
def test_each_cut_is_the_last_one_possible(text: str, size: int) -> None:
    """The search from behind finds what trying every place finds, however long the white space is."""
    chunk = next(in_chunks([text], size), "")
    if len(text) > size:
        places = [end for end in range(1, size) if text[end] in " \n" and not text[end - 1].isspace()]
        assert len(chunk) == (places[-1] if places else size)


@pytest.mark.parametrize("white", [" ", "\n", "\t", " \n", "\r\n", "\u00a0", "x"])
def test_long_stretches_take_linear_time(white: str) -> None:
    """Three million spaces took minutes: the last line end was looked for from each of them."""
    text = "The cat runs. " * 3000 + white * (3_000_000 // len(white)) + "The cat runs. " * 3000
    begun = time.process_time()
    assert "".join(in_chunks([text])) == text
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0), (0, 1.0), (0.5, 0.5), (float("nan"), 0), (0, float("inf"))])
def test_fractions_out_of_range_are_refused(val: float, test: float) -> None:
    """Every split has a share from 0 up, and something is left to train on."""
    with pytest.raises(UsageError, match="fraction"):
        open_corpus("stdlib", val, test)


def test_hash_decides_the_split() -> None:
    """A document's split is its SHA-1 read as a fraction, so anyone can recompute it."""
    fractions = Fractions(0.2, 0.1)
    for number in range(500):
        position = int(hashlib.sha1(str(number).encode()).hexdigest(), 16) / 2**160
        expected = "val" if position < 0.2 else "test" if position < 0.3 else "train"
        assert fractions.split_of(str(number)) == expected


# ------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("size", [1, 9, 10, 11, 997, 1000, 1001])
def test_text_file_is_cut_as_nanogpt_does(tmp_path: Path, size: int) -> None:
    """With no test part, train is the first int(0.9 n) characters of an ASCII text and val is the rest."""
    text = "".join(random.Random(size).choices("abc \n", k=size))
    (tmp_path / "input.txt").write_bytes(text.encode())
    found = everything(open_corpus(str(tmp_path / "input.txt"), 0.1, 0.0))
    assert "".join(found["train"]) == text[: int(0.9 * size)]
    assert "".join(found["val"]) == text[int(0.9 * size) :]
    assert found["test"] == []


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet="aé日🙂 \n\r\x01\ufeff", min_size=1, max_size=60),
    val=st.sampled_from([0.0, 0.1, 0.33]),
    test=st.sampled_from([0.0, 0.05, 0.4]),
    block=st.integers(1, 9),
)
def test_text_file_splits_partition_the_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, val: float, test: float, block: int
) -> None:
    """Whatever the characters, the cuts and the block size, train + val + test is the file, byte for byte."""
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    found = everything(open_corpus(str(path), val, test, block))
    assert "".join("".join(found[split]) for split in SPLITS) == text


def test_any_other_ending_is_read_as_text(tmp_path: Path) -> None:
    """A README.md or a file without an ending is as good a text as a .txt."""
    (tmp_path / "README.md").write_text("hello", encoding="utf-8")
    assert documents(open_corpus(str(tmp_path / "README.md"), 0, 0), "train") == ["hello"]


def test_jsonl_documents_are_split_by_hash(tmp_path: Path) -> None:
    """Each row is a document; a duplicate stays with its twin, so val holds no text of train."""
    texts = [f"document {number % 150}" for number in range(300)]
    rows = [{"id": str(number), "text": text} for number, text in enumerate([*texts, ""])]
    found = everything(open_corpus(str(write_rows(tmp_path / "a.jsonl", rows)), 0.3, 0.2))
    assert sorted(text for split in found.values() for text in split) == sorted(texts)
    assert not set(found["train"]) & set(found["val"])
    assert all(found[split] for split in SPLITS)


def test_the_only_string_is_the_text(tmp_path: Path) -> None:
    """A field of another name will do if there is no choice; otherwise the error names the fields."""
    good = write_rows(tmp_path / "good.jsonl", [{"body": "hello", "stars": 5}])
    assert documents(open_corpus(str(good), 0, 0), "train") == ["hello"]
    bad = write_rows(tmp_path / "bad.jsonl", [{"title": "a", "body": "b"}])
    with pytest.raises(DataError, match=r"bad.jsonl does not tell its text; .*'title' .*, 'body' .*--text-field"):
        documents(open_corpus(str(bad), 0, 0), "train")


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    """Parquet follows the rules of .jsonl, and a damaged file is named."""
    import pyarrow
    import pyarrow.parquet

    texts = [f"row {number}" for number in range(300)]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [*texts, None], "url": [*texts, None]}), path)
    found = everything(open_corpus(str(path), 0.2, 0.1))
    assert sorted(text for split in found.values() for text in split) == sorted(texts)
    pyarrow.parquet.write_table(pyarrow.table({"stars": [1]}), path)
    with pytest.raises(DataError, match=r"a\.parquet .*'stars'"):
        everything(open_corpus(str(path)))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"a\.parquet is not a Parquet file"):
        everything(open_corpus(str(path)))


def test_folder_is_read_in_order_and_cut_file_by_file(tmp_path: Path) -> None:
    """Sub-folders count, other endings and hidden files do not, and the order is that of the names."""
    for name in ("b.txt", "a/z.TXT", "a/.hidden.txt", ".git/c.txt", "c.bin", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name * 10 if name != "d.txt" else "", encoding="utf-8")
    write_rows(tmp_path / "e.jsonl", [{"text": "last"}])
    corpus = open_corpus(str(tmp_path), 0, 0)
    assert documents(corpus, "train") == ["a/z.TXT" * 10, "b.txt" * 10, "last"]
    halves = everything(open_corpus(str(tmp_path), 0.5, 0))
    assert [len(halves["train"][0]), len(halves["val"][0])] == [35, 35]


def test_fingerprint_of_large_files_trusts_sizes_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file is hashed again only if its size or times changed; a small one always is."""
    path = tmp_path / "a.txt"
    path.write_text("hello", encoding="utf-8")
    corpus = open_corpus(str(path))
    first = corpus.fingerprint([])
    hashed: list[Path] = []
    monkeypatch.setattr("minigpt.base.storage.sha256_file", lambda file, error: hashed.append(file) or "hash")
    corpus.fingerprint([first])
    assert len(hashed) == 1
    monkeypatch.setattr("minigpt.text.files.ALWAYS_HASHED", 1)
    assert corpus.fingerprint([first]) == first
    assert len(hashed) == 1
    os.utime(path, ns=(1, 1))
    corpus.fingerprint([first])
    assert len(hashed) == 2


def make_fifo(path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no FIFOs here")
    os.mkfifo(path)


BAD_SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.txt": (lambda path: None, "no such corpus or file.*missing.txt"),
    "empty.txt": (lambda path: path.write_bytes(b""), "empty.txt is empty; it has 0 bytes"),
    "fifo.txt": (make_fifo, "fifo.txt; it is neither a file nor a folder"),
    "folder": (lambda path: path.mkdir(), r"no text in folder .*folder.*\.jsonl"),
    "folder-of-nothing": (lambda path: (path.mkdir(), (path / "a.txt").touch()), "every text file in .* is empty"),
    "latin1.txt": (lambda path: path.write_bytes(b"caf\xe9 au lait"), "latin1.txt is not UTF-8.*0xe9 at offset 3"),
    "surrogate.txt": (lambda path: path.write_bytes(b"ab\xed\xa0\x80cd"), "0xed at offset 2"),
    "cut.txt": (lambda path: path.write_bytes("abc🙂".encode()[:-1]), "0xf0 at offset 3"),
    "block.txt": (lambda path: path.write_bytes(b"a" * 63 + b"\xc3(" + b"a" * 200), "0xc3 at offset 63"),
    "program.bin": (lambda path: path.write_bytes(b"\x7fELF" + bytes(range(256))), "offset 132"),
    "late.txt": (lambda path: path.write_bytes(b"a" * 4000 + b"\xff"), "0xff at offset 4000"),
    "half.jsonl": (lambda path: path.write_bytes(b'{"text": "a"}\n{"te'), "half.jsonl, line 2 is not JSON"),
    "list.jsonl": (lambda path: path.write_bytes(b'["a"]'), "line 1 is not a JSON object; it is of type list"),
    "bytes.jsonl": (lambda path: path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}'), "line 2 .* offset 24"),
    "lone.jsonl": (lambda path: path.write_bytes(b'{"text": "a\\ud800"}'), "line 1, character 1 is half of a surr"),
    "number.jsonl": (lambda path: path.write_bytes(b'{"text": "a"}\n{"text": 5}'), "line 2 has no text .* type int"),
    "deep.jsonl": (lambda path: path.write_bytes(b"[" * 100_000), "deep.jsonl, line 1 is not JSON"),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_bad_sources_are_named(tmp_path: Path, name: str) -> None:
    """Every unusable file ends in a one-line DataError that names the file and the place."""
    create, message = BAD_SOURCES[name]
    create(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        everything(open_corpus(str(tmp_path / name), block=64))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("shakespear", DataError, "'shakespear'; did you mean 'shakespeare'"),
        ("", DataError, "no such corpus"),
        ("x" * 5000, DataError, "x"),
        ("a\0b", DataError, "no such corpus"),
        ("grammar:abc", UsageError, "'abc'"),
        ("grammar:-1", UsageError, "'-1'"),
        ("hf:", UsageError, "hf:NAME"),
        ("hf:../../etc/passwd", UsageError, "hf:NAME"),
        ("tinystories@0MB", UsageError, "size"),
        ("tinystories@lots", UsageError, "hf:NAME"),
    ],
)
def test_bad_names_are_refused(spec: str, kind: type[MinigptError], message: str) -> None:
    """A name that means nothing is refused at once, with what is allowed."""
    with pytest.raises(kind, match=message):
        open_corpus(spec)


# ------------------------------------------------------------------------------------------------- stdlib


def test_stdlib_is_a_text_worth_training_on() -> None:
    """The default corpus is prose, large enough for a trustworthy validation, and dealt without overlap."""
    found = {split: "".join(text).split("\n\n") for split, text in everything(open_corpus("stdlib")).items()}
    assert sorted(p for part in found.values() for p in part) == sorted(stdlib_prose.paragraphs())
    assert not set(found["train"]) & set(found["val"]) | set(found["val"]) & set(found["test"])
    sizes = {split: sum(map(len, part)) for split, part in found.items()}
    assert sum(sizes.values()) > 1_000_000
    assert sizes["val"] > 65_536
    text = "\n\n".join(found["train"])
    assert ">>>" not in text
    assert len(set(text)) < 150


def test_stdlib_takes_docstrings_and_comments_and_no_other_strings() -> None:
    """Strings that look like comments, and comments that hold quotes, do not confuse the scan."""
    source = '''"""Module # docstring."""
x = "# no comment"  # a trailing comment
# first line's "quote
#
# second
def f():
    r\'\'\'Docstring \\d of "f".\'\'\'
    y = """# an ordinary
# string"""
    # indented
'''
    found = [text for text in stdlib_prose._docstrings_and_comments(source) if text]
    wanted = ["Module # docstring.", "first line's \"quote\n\nsecond", 'Docstring \\d of "f".', "indented"]
    assert sorted(found) == sorted(wanted)


def test_python_without_sources_falls_back_loudly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Embeddable builds ship no sources: the corpus is then another one, and says so."""
    monkeypatch.setattr(stdlib_prose, "library", lambda: tmp_path)
    assert open_corpus("stdlib").spec == "grammar:0"
    assert "warning: this Python ships no sources" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- grammar


def test_grammar_is_sized_by_the_fractions_and_repeats() -> None:
    """Two million characters, dealt to the splits; the seed decides which."""
    first, again, other = open_corpus("grammar:3"), open_corpus("grammar:3"), open_corpus("grammar:4", 0.5, 0)
    assert open_corpus("grammar").spec == "grammar:0"
    val = documents(first, "val")
    assert val == documents(again, "val")
    assert len(val) == 1
    assert len(val[0]) == pytest.approx(200_000, rel=0.01)
    assert documents(other, "test") == []
    assert first.fingerprint([]) == again.fingerprint([]) != other.fingerprint([])
    assert first.exact_nats is not None
    assert 0.3 < first.exact_nats("val") / len(val[0]) < 1.5
