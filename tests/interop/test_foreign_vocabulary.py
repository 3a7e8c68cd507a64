"""Whose tokenizer an imported model gets: found beside it, recognised, asked for, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from minigpt.base.errors import CheckpointError, UsageError
from minigpt.interop.foreign_vocabulary import tokenizer_of
from minigpt.interop.hf_tokenizer import hf_tokenizer
from minigpt.text.bpe import SINGLE_BYTES
from minigpt.text.gpt2 import GPT2_RANKS
from minigpt.text.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, build_tokenizer

Find = Callable[..., Tokenizer]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """The tokenizer for a model in an otherwise empty folder."""

    def attempt(asked: str | None, vocab_size: int, corpus: str = "grammar:1") -> Tokenizer:
        return tokenizer_of(tmp_path, asked, vocab_size, corpus, None)

    return attempt


def write_gpt2(folder: Path) -> list[bytes]:
    """Files with a vocabulary that is built as GPT-2's is: bytes, then a merge of two tokens for each id."""
    pairs = [left + right for left in SINGLE_BYTES for right in SINGLE_BYTES]
    ranks = [*reversed(SINGLE_BYTES), *pairs[: GPT2_RANKS - 256]]
    byte_level = hf_tokenizer(ByteTokenizer())
    written = {bytes([number]): byte_level.convert_ids_to_tokens(number) for number in range(256)}
    texts = ["".join(written[bytes([value])] for value in token) for token in ranks]
    vocabulary = {text: number for number, text in enumerate(texts)} | {"<|endoftext|>": GPT2_RANKS}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = [f"{written[token[:1]]} {written[token[1:]]}" for token in ranks[256:]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": vocabulary, "merges": [merge.split(" ") for merge in merges]}}), encoding="utf-8"
    )
    return ranks


@pytest.mark.parametrize(("left_out", "vocab_size"), [("tokenizer.json", 50257), ("vocab.json", 50304)])
def test_gpt2s_vocabulary_is_recognised_by_its_merges(
    find: Find, tmp_path: Path, left_out: str, vocab_size: int
) -> None:
    """In either form, without a download, and padded as nanoGPT pads it; each id keeps its bytes."""
    ranks = write_gpt2(tmp_path)
    (tmp_path / left_out).unlink()
    found = find(None, vocab_size)
    assert found.spec == "gpt2"
    ids = (0, 300, GPT2_RANKS - 1)
    assert [found.decode_bytes([number]) for number in ids] == [ranks[number] for number in ids]


def test_a_vocabulary_whose_merges_are_in_another_order_is_none_of_ours(find: Find, tmp_path: Path) -> None:
    """Encoding by ranks would cut words elsewhere."""
    write_gpt2(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UsageError, match="there is no tokenizer; name it by --tokenizer byte"):
        find(None, 50257)


def test_our_own_file_comes_first(find: Find, tmp_path: Path) -> None:
    """An export brings its tokenizer along; a damaged one is not passed over."""
    (tmp_path / "minigpt_tokenizer.json").write_text(json.dumps(CharTokenizer("abc").to_json()))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert find(None, 3).to_json() == CharTokenizer("abc").to_json()
    (tmp_path / "minigpt_tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no valid tokenizer"):
        find(None, 3)


def test_one_that_is_asked_for(find: Find, tmp_path: Path) -> None:
    """By name, by a file of ours, or as the alphabet of a text, in the order in which nanoGPT numbers it."""
    assert find("byte", 256).spec == "byte"
    assert find("byte", 304).spec == "byte"
    own = build_tokenizer("bpe:300", lambda: ["abab" * 9], lambda: ["abab" * 9])
    (tmp_path / "own.json").write_text(json.dumps(own.to_json()))
    assert find(str(tmp_path / "own.json"), own.vocab_size).to_json() == own.to_json()
    text = "So, café? ÄX\n" * 300
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    found = find("char", len(set(text)), str(tmp_path / "text.txt"))
    assert isinstance(found, CharTokenizer)
    assert list(found.characters) == sorted(set(text))


@pytest.mark.parametrize(
    ("asked", "vocab_size", "says"),
    [
        (None, 50257, "there is no tokenizer; name it by --tokenizer byte, char, gpt2 or FILE"),
        ("byte", 255, "tokenizer byte has 256 ids, the model 255"),
        ("byte", 512, "they are not of each other"),
        ("char", 99, "the alphabet has .* the model 99 ids; the text of grammar:1 is not"),
        ("cahr", 99, "no tokenizer 'cahr'"),
        ("bpe:300", 300, "no tokenizer 'bpe:300'"),
    ],
)
def test_what_cannot_be_known_or_does_not_fit_is_refused(
    find: Find, asked: str | None, vocab_size: int, says: str
) -> None:
    """With both sizes, or the flag that helps."""
    with pytest.raises(UsageError, match=says):
        find(asked, vocab_size)


def test_a_checkpoint_brings_no_tokenizer(tmp_path: Path) -> None:
    """nanoGPT's `meta.pkl` is a pickle and is not opened; the message says what to give instead."""
    (tmp_path / "ckpt.pt").touch()
    (tmp_path / "meta.pkl").write_bytes(b"not opened")
    with pytest.raises(UsageError, match=r"65 ids; name it by .*; for char give --corpus TEXT"):
        tokenizer_of(tmp_path / "ckpt.pt", None, 65, "grammar:1", None)
