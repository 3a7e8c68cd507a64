"""Prepared tokens: lossless, and used again exactly while they hold."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_examples import TEXT, prepared, text_file, times, tree

from minigpt.base.errors import DataError
from minigpt.text import store as store_module
from minigpt.text.corpora import open_corpus
from minigpt.text.encoding import token_dtype
from minigpt.text.splits import SPLITS
from minigpt.text.store import prepare
from minigpt.text.tokenizers import load_tokenizer

# ------------------------------------------------------------------------------------------------- what is stored


@settings(max_examples=25, deadline=None)
@given(
    text=st.text(alphabet="aé日🙂 \n\r\x01\ufeffz", min_size=1, max_size=80),
    tokenizer=st.sampled_from(["byte", "char"]),
    block=st.integers(1, 100),
)
def test_round_trip_is_lossless(
    tmp_path_factory: pytest.TempPathFactory, text: str, tokenizer: str, block: int
) -> None:
    """Byte-order mark, CRLF, NUL and emoji come back as they were, whatever the block size."""
    text += "x\0" + "y" * 1000  # a single NUL is text
    path = text_file(tmp_path_factory.mktemp("text"), text)
    store = prepare(open_corpus(str(path), 0.0, 0.1, block), tokenizer, path.parent / "data", 0)
    parts = b"".join(store.tokenizer.decode_bytes(store.tokens(split).tolist()) for split in SPLITS)
    assert parts == text.encode()
    for split in SPLITS:
        ids = store.tokens(split)
        record = store.manifest["splits"][split]
        assert len(ids) == store.size(split) == record["tokens"]
        assert store.tokenizer.byte_lengths()[ids].sum() == record["bytes"]


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe:300"])
def test_tokens_do_not_depend_on_the_block_size(tmp_path: Path, tokenizer: str) -> None:
    """Streaming in small chunks gives the ids of encoding each split as a whole."""
    path = text_file(tmp_path)
    store = prepared(path, tokenizer, block=64)
    for split in SPLITS:
        (document,) = open_corpus(str(path)).documents(split)
        assert np.array_equal(store.tokens(split), store.tokenizer.encode("".join(document)))


def test_separator_stands_between_documents_only(tmp_path: Path) -> None:
    """Two documents have one separator between them, however many chunks each has."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_text(name * 40, encoding="utf-8")
    store = prepare(open_corpus(str(folder), 0.1, 0, block=7), "byte", tmp_path / "data", 2)
    assert store.tokenizer.decode(store.tokens("train").tolist()) == "\n\n".join(name * 36 for name in "abc")
    assert store.manifest["splits"]["train"]["documents"] == 3
    assert store.manifest["splits"]["train"]["bytes"] == 3 * 36 + 2 * 2


def test_files_are_raw_little_endian_and_described(tmp_path: Path) -> None:
    """Other programs can read the tokens with numpy alone; the manifest says what they are."""
    store = prepared(text_file(tmp_path), "char")
    manifest = json.loads((store.directory / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == store.manifest
    assert (manifest["corpus"], manifest["val_fraction"], manifest["dtype"]) == (
        store.manifest["corpus"],
        0.1,
        "uint16",
    )
    for split in SPLITS:
        path = store.directory / manifest["splits"][split]["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["splits"][split]["sha256"]
        assert np.array_equal(np.frombuffer(path.read_bytes(), "<u2"), store.tokens(split))
        assert not store.tokens(split).flags.writeable
    stored = json.loads((store.directory / "tokenizer.json").read_text(encoding="utf-8"))
    assert load_tokenizer(stored, "x").to_json() == store.tokenizer.to_json()


def test_width_follows_the_vocabulary() -> None:
    """65,536 ids fit into two bytes, one more does not."""
    assert token_dtype(1 << 16) == np.dtype("<u2")
    assert token_dtype((1 << 16) + 1) == np.dtype("<u4")


def test_large_token_files_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into memory is mapped read-only, with the same content."""
    in_memory = prepared(text_file(tmp_path)).tokens("train")
    monkeypatch.setattr(store_module, "READ_INTO_MEMORY", 10)
    mapped = prepared(tmp_path / "own.txt").tokens("train")
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    assert np.array_equal(in_memory, mapped)


def test_truncated_token_file_is_an_error_not_a_crash(tmp_path: Path) -> None:
    """A file that lost its end is named instead of read; mapping it would end in SIGBUS."""
    store = prepared(text_file(tmp_path))
    path = store.directory / "val.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"val\.bin is damaged; it has"):
        store.tokens("val")


def test_data_hash_tells_tokens_and_tokenizers_apart(tmp_path: Path) -> None:
    """Equal data has an equal hash wherever it lies; one more character anywhere changes it."""
    first = prepared(text_file(tmp_path), "char")
    (tmp_path / "b").mkdir()
    assert prepared(text_file(tmp_path / "b"), "char").sha256 == first.sha256
    assert prepared(text_file(tmp_path / "b"), "byte").sha256 != first.sha256
    assert prepared(text_file(tmp_path / "b", TEXT + "!"), "char").sha256 != first.sha256


def test_directory_names_are_safe(tmp_path: Path) -> None:
    """Whatever a corpus is called, its directory's name is short and made of letters, digits and dashes."""
    name = tmp_path / ("Ünï code (b) & c" + "x" * 100 + ".TXT")
    name.write_text(TEXT, encoding="utf-8")
    directory = prepare(open_corpus(str(name)), "bpe:300", tmp_path / "data", 2).directory.name
    assert len(directory) < 64
    assert set(directory) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_grammar_records_how_surprising_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact code length of the validation text is in the manifest: no honest model can beat it."""
    monkeypatch.setattr("minigpt.text.corpora.GENERATED_CHARACTERS", 20_000)
    store = prepare(open_corpus("grammar:1"), "byte", tmp_path, 257)
    record = store.manifest["splits"]["val"]
    corpus = open_corpus("grammar:1")
    assert corpus.exact_nats is not None
    assert record["exact_nats"] == corpus.exact_nats("val")
    assert 0.3 < record["exact_nats"] / record["bytes"] < 1.5


# ------------------------------------------------------------------------------------------------- used again


def test_unchanged_text_is_not_prepared_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second call writes nothing and says nothing, and gives the same tokens."""
    path = text_file(tmp_path)
    first = prepared(path, "char")
    before = times(first)
    again = prepared(path, "char")
    assert times(again) == before
    assert len(before) == 5
    assert again.manifest == first.manifest
    assert np.array_equal(again.tokens("train"), first.tokens("train"))
    assert capsys.readouterr().err == ""


def test_touched_text_is_not_prepared_again(tmp_path: Path) -> None:
    """A new time of change alone rewrites no token."""
    path = text_file(tmp_path)
    before = times(prepared(path))
    time.sleep(0.01)
    path.touch()
    after = times(prepared(path))
    assert {**after, "manifest.json": 0} == {**before, "manifest.json": 0}


def test_changed_text_is_prepared_beside_the_old_one(tmp_path: Path) -> None:
    """One changed character gives another directory, and no byte of the first one changes: somebody may train on it.

    The directory was once named by the corpus alone, so a second training replaced the text of the first.
    """
    path = text_file(tmp_path)
    first = prepared(path)
    before = tree(first.directory)
    second = prepared(text_file(tmp_path, "X" + TEXT[1:]))
    assert first.directory != second.directory
    assert second.tokens("train")[0] == ord("X")
    assert tree(first.directory) == before
    assert prepared(text_file(tmp_path)).directory == first.directory


def test_tokens_once_read_are_held(tmp_path: Path) -> None:
    """A training reads its validation text many times: it is the same whatever becomes of the file meanwhile."""
    store = prepared(text_file(tmp_path))
    wanted = store.tokens("val").copy()
    path = store.directory / "val.bin"
    for damage in (bytes(len(path.read_bytes())), path.read_bytes()[:10]):
        path.write_bytes(damage)
        assert np.array_equal(store.tokens("val"), wanted)
    path.unlink()
    assert np.array_equal(store.tokens("val"), wanted)


def test_another_file_is_never_taken_for_the_prepared_one(tmp_path: Path) -> None:
    """Tokens of the same length that somebody else put there do not have the hash that the run is named by."""
    store = prepared(text_file(tmp_path))
    flip_byte(store.directory / "val.bin", 4)
    with pytest.raises(DataError, match=r"val\.bin is damaged, its hash differs"):
        store.tokens("val")


def test_a_mapped_file_that_changes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large to be held is looked at before each use: shrunk, it would end the process by SIGBUS."""
    monkeypatch.setattr(store_module, "READ_INTO_MEMORY", 10)
    store = prepared(text_file(tmp_path))
    store.tokens("val")
    path = store.directory / "val.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"val\.bin was changed while it was in use"):
        store.tokens("val")


def flip_byte(path: Path, position: int = 40) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def respell(path: Path) -> None:
    """Change the bytes of a JSON file but not what they say."""
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def forge_id(directory: Path) -> None:
    """Put an id outside the vocabulary into a file and correct its hash, as an attacker would."""
    ids = np.fromfile(directory / "train.bin", "<u2")
    ids[3] = 60_000
    ids.tofile(directory / "train.bin")
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    manifest["splits"]["train"]["sha256"] = hashlib.sha256(ids.tobytes()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def edit_manifest(**changes: Any) -> Callable[[Path], object]:
    def edit(directory: Path) -> None:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        (directory / "manifest.json").write_text(json.dumps({**manifest, **changes}), encoding="utf-8")

    return edit


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit in the tokens": lambda directory: flip_byte(directory / "train.bin"),
    "odd length": lambda directory: (directory / "val.bin").write_bytes((directory / "val.bin").read_bytes()[:-1]),
    "missing tokens": lambda directory: (directory / "test.bin").unlink(),
    "id outside the vocabulary": forge_id,
    "flipped bit in the tokenizer": lambda directory: flip_byte(directory / "tokenizer.json", 30),
    "other bytes of the same tokenizer": lambda directory: respell(directory / "tokenizer.json"),
    "missing tokenizer": lambda directory: (directory / "tokenizer.json").unlink(),
    "cut manifest": lambda directory: (directory / "manifest.json").write_bytes(b'{"format": 1'),
    "other JSON": lambda directory: (directory / "manifest.json").write_bytes(b"[]"),
    "no splits": edit_manifest(splits=None),
    "no fingerprint": edit_manifest(fingerprint="x"),
    "vocabulary of words": edit_manifest(vocab_size="many"),
    "future format": edit_manifest(format=99),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_rebuilt_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    """Prepared tokens are a cache: whatever happened to them, one line says so and they are made again."""
    path = text_file(tmp_path)
    first = prepared(path, "char")
    before = tree(tmp_path)
    DAMAGES[damage](first.directory)
    assert tree(tmp_path) != before
    capsys.readouterr()
    assert prepared(path, "char").sha256 == first.sha256
    assert tree(tmp_path) == before
    notice = capsys.readouterr().err
    assert notice.startswith("note: preparing")
    assert notice.count("\n") == 1


def test_hashes_of_huge_token_files_are_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above `READ_INTO_MEMORY` only sizes are compared, so that starting stays quick."""
    store = prepared(text_file(tmp_path))
    flip_byte(store.directory / "train.bin")
    monkeypatch.setattr(store_module, "READ_INTO_MEMORY", 0)
    before = times(store)
    assert times(prepared(tmp_path / "own.txt")) == before
