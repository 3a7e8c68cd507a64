"""Preparing tokens when it goes wrong: bad corpora, crashes, and others at work in the same folder."""

from __future__ import annotations

import dataclasses
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from store_examples import TEXT, prepared, text_file, tree

from minigpt.base import storage
from minigpt.base.errors import DataError, LockedError, MinigptError, UsageError
from minigpt.text import store as store_module
from minigpt.text.corpora import open_corpus
from minigpt.text.splits import SPLITS
from minigpt.text.store import TokenStore, prepare

# ------------------------------------------------------------------------------------------------- bad corpora


@pytest.mark.parametrize("older", [False, True], ids=["first time", "over an older preparation"])
@pytest.mark.parametrize(
    ("text", "tokenizer", "min_tokens", "kind", "message"),
    [
        (b"abc\xff" * 50, "byte", 2, DataError, r"own.txt is not UTF-8 text; bad byte 0xff at offset 3"),
        (b"a" * 900 + b"\xff" + b"a" * 99, "byte", 2, DataError, "offset 900"),
        (b"a" * 100, "byte", 86, DataError, "train has 85 tokens; the context needs 86; .*--block-size"),
        (b"a" * 100, "char", 11, DataError, "val has 10 tokens; the context needs 11; .*--val-fraction"),
        (b"a" * 5000, "byte", 1025, DataError, "val has 500 tokens; the context needs 1,025"),
        (b"a" * 100, "bpe", 2, UsageError, "bpe:N"),
    ],
)
def test_bad_corpus_changes_nothing_on_disk(
    tmp_path: Path, text: bytes, tokenizer: str, min_tokens: int, kind: type[MinigptError], message: str, older: bool
) -> None:
    """An unusable text leaves no folder, no temporary file, and an older preparation as it was."""
    path = text_file(tmp_path)
    if older:
        prepared(path, "byte")
        prepared(path, "char")
    path.write_bytes(text)
    before = tree(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        prepared(path, tokenizer, block=100, min_tokens=min_tokens)
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


def test_rows_without_text_are_an_empty_corpus(tmp_path: Path) -> None:
    """A file that has bytes but no text is refused as empty, for every tokenizer alike."""
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n\n{"text": null}\n', encoding="utf-8")
    for tokenizer in ("byte", "char", "bpe:300"):
        with pytest.raises(DataError, match=r"a\.jsonl is empty"):
            prepared(tmp_path / "a.jsonl", tokenizer)
    assert not (tmp_path / "data").exists()


def test_longer_context_is_checked_on_old_tokens_too(tmp_path: Path) -> None:
    """Tokens that were enough for one context may be too few for the next."""
    path = text_file(tmp_path, "a" * 1000)
    prepared(path, min_tokens=50)
    with pytest.raises(DataError, match="val has 100 tokens; the context needs 101"):
        prepared(path, min_tokens=101)


def test_validation_can_be_switched_off(tmp_path: Path) -> None:
    """With a fraction of 0 the part is empty, and that is no error."""
    store = prepare(open_corpus(str(text_file(tmp_path)), 0, 0), "byte", tmp_path / "data", 10)
    assert store.size("val") == store.size("test") == 0
    assert len(store.tokens("val")) == 0
    assert prepare(open_corpus(str(tmp_path / "own.txt"), 0, 0), "byte", tmp_path / "data", 10).sha256 == store.sha256


# ------------------------------------------------------------------------------------------------- crashes, others


class Killed(BaseException):
    """Simulates the end of the process."""


@pytest.mark.parametrize("survivor", ["train.bin", "val.bin", "test.bin", "tokenizer.json"])
def test_crash_before_the_manifest_leaves_not_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survivor: str
) -> None:
    """Wherever a rebuild dies, no manifest lies beside a mixture of old and new files."""
    path = text_file(tmp_path)
    first = prepared(path, "char")
    directory = first.directory
    fsync = storage._fsync_directory
    (directory / "train.bin").write_bytes(b"damaged")

    def die_after_rename(folder: Path) -> None:
        fsync(folder)
        if folder == directory and (directory / survivor).stat().st_mtime_ns > started:
            raise Killed

    time.sleep(0.01)
    started = time.time_ns() - 5_000_000
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_fsync_directory", die_after_rename)
        with pytest.raises(Killed):
            prepared(path, "char")
    assert not (directory / "manifest.json").exists()
    store = prepared(path, "char")
    assert store.directory == directory
    assert store.sha256 == first.sha256
    assert not list(directory.glob(".*.tmp"))


def test_another_process_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While somebody prepares the same corpus we wait, say so once, and then use what they made."""
    monkeypatch.setattr(store_module, "_LOCK_POLL", 0.01)
    path = text_file(tmp_path)
    directory = prepared(path).directory
    storage.remove_tree(directory / "manifest.json")
    with storage.lock_directory(directory):
        thread = threading.Thread(target=prepared, args=(path,))
        thread.start()
        time.sleep(0.2)
        assert not (directory / "manifest.json").exists()
    thread.join(10)
    assert (directory / "manifest.json").exists()
    assert capsys.readouterr().err.count("another process prepares this corpus") == 1


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is never released ends in the error that names its holder."""
    monkeypatch.setattr(store_module, "_LOCK_POLL", 0.01)
    monkeypatch.setattr(store_module, "LOCK_PATIENCE", 0.05)
    path = text_file(tmp_path)
    directory = prepared(path).directory
    storage.remove_tree(directory / "manifest.json")
    with storage.lock_directory(directory), pytest.raises(LockedError, match="holds it"):
        prepared(path)


def test_two_at_once_prepare_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several workers that start together build the tokens a single time and all get them."""
    monkeypatch.setattr(store_module, "_LOCK_POLL", 0.01)
    path = text_file(tmp_path)
    built: list[int] = []
    build = store_module.build

    def slow_build(*arguments: Any) -> Any:
        built.append(1)
        time.sleep(0.2)
        return build(*arguments)

    monkeypatch.setattr(store_module, "build", slow_build)
    stores: list[TokenStore] = []
    threads = [threading.Thread(target=lambda: stores.append(prepared(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(stores) == 4
    assert len({store.sha256 for store in stores}) == 1
    assert len(built) == 1


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """A text larger than memory must work: 8 MB in blocks of 64 kB need a few MB at the most."""
    path = text_file(tmp_path, "some words in a line\n" * 400_000)
    corpus = open_corpus(str(path), block=1 << 16)
    tracemalloc.start()
    try:
        store = prepare(corpus, "char", tmp_path / "data", 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(store.size(split) for split in SPLITS) == 8_400_000
    assert peak < 4_000_000


def test_text_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """The directory is named by what the text was before reading: tokens of anything else must not get that name."""
    path = text_file(tmp_path)
    corpus = open_corpus(str(path))

    def fingerprint(known: Any) -> dict[str, Any]:
        present = corpus.fingerprint(known)
        text_file(tmp_path, TEXT.upper())
        return present

    with pytest.raises(DataError, match=r"own\.txt changed while it was read"):
        prepare(dataclasses.replace(corpus, fingerprint=fingerprint), "byte", tmp_path / "data", 2)
    assert not (tmp_path / "data").exists()
    assert prepared(path).tokens("train")[0] == ord(TEXT[0])
