"""Tokenizers lose no text, refuse what they cannot encode in one line, and are rebuilt offline from plain JSON."""

from __future__ import annotations

import base64
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_examples import PROSE, build

from minigpt.base.errors import CheckpointError, DataError, UsageError
from minigpt.text import tokenizers
from minigpt.text.bpe import LONGEST_WORD, SINGLE_BYTES, SPLIT_PATTERN, train_bpe
from minigpt.text.tokenizers import (
    Tokenizer,
    build_tokenizer,
    load_tokenizer,
    parse_tokenizer_spec,
    without_open_space,
)

AWKWARD = [
    "",
    "\0",
    "\ufeffBOM",
    "a\r\nb\rc\n",
    "😀👩‍👩‍👧",
    "<|endoftext|>",
    "  \t\n ",
    "e\u0301",
    "\x1c\x85\u2028",
    "ﬁ\u3000x",
]

valid_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(AWKWARD)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return build("bpe:300")


# Encoding and decoding


@settings(max_examples=150, deadline=None)
@given(text=valid_text)
@pytest.mark.parametrize("spec", ["byte", "bpe:300", "char"])
def test_every_text_survives_the_round_trip(spec: str, text: str, bpe: Tokenizer) -> None:
    """Emoji, NUL, CRLF, BOM and special-token spellings come back unchanged, and their bytes are counted exactly."""
    tokenizer = bpe if spec.startswith("bpe") else build(spec, text or "x")
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert ids.ndim == 1
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())
    assert tokenizer.unknown(text) == []
    assert not len(ids) or (ids.min() >= 0 and ids.max() < tokenizer.vocab_size)


def test_char_ids_follow_the_code_points() -> None:
    tokenizer = build("char", "b😀a\n")
    assert tokenizer.encode("\nab😀").tolist() == [0, 1, 2, 3]
    assert tokenizer.byte_lengths().tolist() == [1, 1, 1, 4]
    assert tokenizer.vocab_size == 4


def test_a_single_character_is_a_vocabulary() -> None:
    tokenizer = build("char", "aaaa")
    assert tokenizer.vocab_size == 1
    assert tokenizer.encode("aa").tolist() == [0, 0]


def test_char_names_what_it_cannot_encode() -> None:
    """At most ten characters, each escaped as Python would, in the order of the text."""
    tokenizer = build("char", "abc")
    text = "a\x1bzé" + "".join(chr(code) for code in range(0x4E00, 0x4E10)) + "z"
    assert tokenizer.unknown(text)[:3] == ["\x1b", "z", "é"]
    assert len(tokenizer.unknown(text)) == 19
    with pytest.raises(DataError) as caught:
        tokenizer.encode(text)
    message = str(caught.value)
    assert r"'\x1b', 'z', 'é', '一'" in message
    assert "and 9 more" in message
    assert "3 characters" in message
    assert "\n" not in message
    assert "\x1b" not in message


@pytest.mark.parametrize("character", ["\0", "d", "\U0010ffff", "\ud800"])
def test_char_refuses_every_neighbour_of_its_alphabet(character: str) -> None:
    """Below, between and above the known code points: the lookup table never wraps or clips to a wrong id."""
    with pytest.raises(DataError):
        build("char", "ace").encode(f"a{character}")


@pytest.mark.parametrize("spec", ["byte", "char", "bpe:300"])
def test_lone_surrogates_are_refused(spec: str) -> None:
    tokenizer = build(spec)
    assert tokenizer.unknown("a\ud83d\udfffa\ud83d") == ["\ud83d", "\udfff"]
    with pytest.raises(DataError, match=r"ud83d"):
        tokenizer.encode("a\ud83d")


@pytest.mark.parametrize("spec", ["char", "bpe:300"])
def test_a_corpus_with_lone_surrogates_is_refused(spec: str) -> None:
    with pytest.raises(DataError, match="surrogate"):
        build(spec, "abc\udc80")


@pytest.mark.parametrize("bad", [-1, 256])
def test_ids_outside_the_vocabulary_are_refused(bad: int) -> None:
    with pytest.raises(DataError, match=f"{bad}; allowed is 0 to 255"):
        build("byte").decode([65, bad])


def test_half_a_character_decodes_to_the_replacement_character() -> None:
    assert build("byte").decode("é".encode()[:1]) == "\ufffd"


def test_separator_and_start_are_what_the_interface_says(bpe: Tokenizer, fake_gpt2_ranks: list[bytes]) -> None:
    byte, char, without_newline = build("byte"), build("char", "a\nb"), build("char", "ab")
    assert (byte.separator, byte.start) == ((10, 10), (10,))
    assert (char.separator, char.start) == ((0, 0), (0,))
    assert (without_newline.separator, without_newline.start) == ((), (0,))
    assert bpe.decode(bpe.separator) == "\n\n"
    assert bpe.decode(bpe.start) == "\n"
    document = load_tokenizer(_stored("gpt2", fake_gpt2_ranks), "x")
    assert document.separator == document.start == (50256,)


def test_stretches_without_a_boundary_do_not_hurt(bpe: Tokenizer, fake_gpt2_ranks: list[bytes]) -> None:
    """With the split pattern as GPT-2 released it, a million blanks end the process in a panic of tiktoken."""
    for tokenizer in (bpe, load_tokenizer(_stored("gpt2", fake_gpt2_ranks), "x")):
        for text in (" " * 1_100_000 + "x", "\n" * 1_100_000, "a" * 300_000):
            assert tokenizer.byte_lengths()[tokenizer.encode(text)].sum() == len(text)


# Building


def test_char_reads_all_the_text_and_bpe_only_the_training_text() -> None:
    char = build_tokenizer("char", lambda: iter(["ab", "cd"]), lambda: iter(["ab"]))
    assert char.unknown("abcde") == ["e"]
    learnt = build_tokenizer("bpe:300", lambda: iter(["zzzz" * 9]), lambda: iter(["abab ", "abab"]))
    assert len(learnt.encode("abab")) < 4
    assert len(learnt.encode("zzzz")) == 4


def test_bpe_stops_reading_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of any size is read only as far as it is used."""
    monkeypatch.setattr(tokenizers, "BPE_TRAINING_CHARACTERS", 10)

    def endless():
        yield "abab"
        yield "ababababzzzzzzzzzz"
        pytest.fail("read beyond the limit")

    tokenizer = build_tokenizer("bpe:300", list, endless)
    assert len(tokenizer.encode("zz")) == 2


def test_an_alphabet_of_all_of_unicode_is_refused() -> None:
    """A text of every character there is took 1.6 GB: each is a row of the embedding. Its end need not be read."""

    def texts() -> Iterator[str]:
        yield "".join(map(chr, range(0x20, 0xD800)))
        pytest.fail("read on")

    with pytest.raises(DataError, match=r"too many different characters for tokenizer char; .*bpe:N or byte"):
        build_tokenizer("char", texts, texts)


def test_a_last_space_belongs_to_the_next_word_where_words_begin_with_it(bpe: Tokenizer) -> None:
    """After the id of a lone space a BPE model knows nothing: every prompt that ended in one went on alike."""
    assert without_open_space(bpe, "the ") == "the"
    for prompt in ("the", "", " ", "the\n", "the."):
        assert without_open_space(bpe, prompt) == prompt
    for spec in ("char", "byte"):
        assert without_open_space(build(spec, PROSE + "abcdhilmnoprstw"), "the ") == "the "


def test_an_empty_corpus_has_no_alphabet() -> None:
    with pytest.raises(DataError, match="empty"):
        build("char", "")


def test_little_text_yields_fewer_tokens_than_asked() -> None:
    tokenizer = build("bpe:4096", "abc abd")
    assert tokenizer.spec == "bpe:4096"
    assert tokenizer.vocab_size == 257
    assert build("bpe:512", "").vocab_size == 256


@pytest.mark.parametrize(
    ("spec", "canonical"), [("byte", "byte"), ("char", "char"), ("gpt2", "gpt2"), ("bpe:0512", "bpe:512")]
)
def test_specs_have_one_canonical_form(spec: str, canonical: str) -> None:
    assert parse_tokenizer_spec(spec) == canonical


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bytes", "did you mean 'byte'"),
        ("gpt-2", "did you mean 'gpt2'"),
        ("os.system", "allowed are byte, char, bpe:N, gpt2"),
        ("", "allowed are"),
        ("bpe", "for example bpe:512"),
        ("bpe:256", "257"),
        ("bpe:65537", "65536"),
        ("bpe:-300", "257"),
        ("bpe:3_00", "257"),
        ("bpe:٣٠٠", "257"),
        ("bpe:" + "9" * 5000, "257"),
        ("bpe:N", "257"),
        ("char:3", "takes no size"),
    ],
)
def test_wrong_specs_are_refused_with_advice(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_tokenizer_spec(spec)


# Byte-pair encoding


def naive_bpe(text: str, vocab_size: int) -> list[bytes]:
    """Algorithm 1 of Sennrich et al. 2016 read literally: count everything again for every merge."""
    words = [[bytes([value]) for value in word.encode()] for word in regex.findall(SPLIT_PATTERN, text)]
    tokens = list(SINGLE_BYTES)
    while len(tokens) < vocab_size:
        counts = Counter(pair for word in words for pair in itertools.pairwise(word))
        pair = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if pair is None or counts[pair] < 2:
            return tokens
        words = [naive_merge(word, pair) for word in words]
        tokens.append(b"".join(pair))
    return tokens


def naive_merge(word: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged: list[bytes] = []
    position = 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            merged.append(b"".join(pair))
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged


@settings(max_examples=150, deadline=None)
@given(text=st.text("ab c'1\n", max_size=60) | valid_text, merges=st.integers(0, 25))
def test_the_incremental_trainer_equals_the_naive_one(text: str, merges: int) -> None:
    """A tiny alphabet makes overlaps ('aaa') and ties common; tiktoken needs tokens that are distinct."""
    tokens = train_bpe([text], 256 + merges)
    assert tokens == naive_bpe(text, 256 + merges)
    assert len(set(tokens)) == len(tokens)


def test_the_incremental_trainer_equals_the_naive_one_on_prose() -> None:
    text = (Path(__file__).read_text(encoding="utf-8") + PROSE)[:8000]
    assert train_bpe([text], 456) == naive_bpe(text, 456)


def test_ties_go_to_the_smaller_bytes_whatever_the_order_of_the_text() -> None:
    words = ["zy ", "ab ", "zy ", "ab ", "cd"]
    assert train_bpe(words, 258) == train_bpe(words[::-1], 258) == [*SINGLE_BYTES, b"ab", b"zy"]


def test_training_time_does_not_explode_on_one_endless_word() -> None:
    """Slices bound the longest token, and with it the work that one merge can cause."""
    tokens = train_bpe(["a" * 100_000 + "b" * 100_000], 300)
    assert max(map(len, tokens)) == LONGEST_WORD
    assert len(set(tokens)) == len(tokens)


def test_common_words_become_single_tokens() -> None:
    tokenizer = build("bpe:400")
    assert len(tokenizer.encode(" the")) == 1
    assert len(tokenizer.encode(" the dogs")) == 2


# Storing and loading


@pytest.mark.parametrize("spec", ["byte", "char", "bpe:300"])
def test_a_stored_tokenizer_is_the_same_tokenizer(spec: str) -> None:
    original = build(spec)
    stored = json.loads(json.dumps(original.to_json(), allow_nan=False))
    loaded = load_tokenizer(stored, "tokenizer.json")
    assert loaded.to_json() == original.to_json()
    assert (loaded.spec, loaded.vocab_size) == (original.spec, original.vocab_size)
    assert (loaded.separator, loaded.start) == (original.separator, original.start)
    assert loaded.encode(PROSE).tolist() == original.encode(PROSE).tolist()


def _stored(spec: str, ranks: list[bytes]) -> dict:
    return {"version": 1, "spec": spec, "ranks": [base64.b64encode(token).decode() for token in ranks]}


def _damaged() -> dict[str, object]:
    bpe = build("bpe:260", "aaaa aaaa").to_json()
    ranks = bpe["ranks"]
    char = {"version": 1, "spec": "char", "characters": "ab"}
    return {
        "null": None,
        "list": [],
        "empty": {},
        "future version": {**char, "version": 2},
        "version as text": {**char, "version": "1"},
        "version as truth value": {**char, "version": True},
        "spec missing": {"version": 1},
        "spec as list": {**char, "spec": ["char"]},
        "spec unknown": {**char, "spec": "os.system"},
        "spec not canonical": {**bpe, "spec": "bpe:0260"},
        "field missing": {"version": 1, "spec": "char"},
        "field too many": {**char, "pattern": "(a*)*"},
        "field of another kind": {**char, "spec": "byte"},
        "alphabet as list": {**char, "characters": ["a", "b"]},
        "alphabet empty": {**char, "characters": ""},
        "alphabet unsorted": {**char, "characters": "ba"},
        "alphabet with a duplicate": {**char, "characters": "aa"},
        "alphabet with a surrogate": {**char, "characters": "a\ud800"},
        "ranks as text": {**bpe, "ranks": "YWE="},
        "rank as number": {**bpe, "ranks": [*ranks, 7]},
        "rank not base64": {**bpe, "ranks": [*ranks, "YW!="]},
        "rank not ASCII": {**bpe, "ranks": [*ranks, "é"]},
        "rank empty": {**bpe, "ranks": [*ranks, ""]},
        "rank twice": {**bpe, "ranks": [*ranks, ranks[-1]]},
        "single byte missing": {**bpe, "ranks": ranks[1:]},
        "no ranks": {**bpe, "ranks": []},
        "more ranks than N": {**bpe, "spec": "bpe:257"},
        "gpt2 of another size": {**bpe, "spec": "gpt2"},
    }


@pytest.mark.parametrize("fault", _damaged())
def test_damaged_tokenizers_are_refused_in_one_line(fault: str) -> None:
    """Before tiktoken sees them: a missing single byte makes it panic with something that is no `Exception`."""
    with pytest.raises(CheckpointError, match=r"^run/tokenizer\.json holds no valid tokenizer; ") as caught:
        load_tokenizer(_damaged()[fault], "run/tokenizer.json")
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    data=json_values
    | st.fixed_dictionaries(
        {"version": st.just(1) | json_values, "spec": st.sampled_from(["byte", "char", "bpe:300", "gpt2"])},
        optional={"characters": json_values, "ranks": st.lists(json_values) | json_values},
    )
)
def test_no_stored_value_ends_in_anything_but_a_tokenizer_or_the_one_error(data: object) -> None:
    try:
        tokenizer = load_tokenizer(data, "x")
    except CheckpointError:
        return
    assert tokenizer.vocab_size >= 1
