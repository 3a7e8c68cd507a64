"""Tokenizers: text to ids and back; which they are, how they are built from a corpus, stored and loaded.

`byte` and `char` are done here; `bpe:N` and `gpt2` are lists of byte strings that tiktoken encodes with. All of them
read text as plain text: a spelled-out special token such as `<|endoftext|>` is nothing but its characters.
Text comes as an iterator of pieces, so no corpus is ever held whole.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from minigpt.base.errors import CheckpointError, DataError, UsageError, did_you_mean
from minigpt.text.bpe import SINGLE_BYTES, SPLIT_PATTERN, train_bpe
from minigpt.text.gpt2 import GPT2_RANKS, GPT2_SPLIT_PATTERN, gpt2_ranks

KNOWN_SPECS = ("byte", "char", "bpe:N", "gpt2")
SMALLEST_BPE = len(SINGLE_BYTES) + 1
LARGEST_BPE = 1 << 16
"""Ids up to here fit into the two bytes that a stored token takes."""
LARGEST_ALPHABET = 1 << 15
"""Characters that `char` takes: more than any script in use has, and each is a row of the embedding and a logit."""
BPE_TRAINING_CHARACTERS = 50_000_000
"""`bpe:N` learns from this much of the training text, its beginning; the rest would barely change the merges."""
FORMAT_VERSION = 1
MAX_CHARACTERS_NAMED = 10
_WORD_BEGINNINGS = "abcdhilmnoprstw"

IdArray = npt.NDArray[np.int64]
TextSource = Callable[[], Iterable[str]]


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def spec(self) -> str:
        """The canonical name: `byte`, `char`, `bpe:512`, `gpt2`."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are; fewer than N for a `bpe:N` that learnt from little text."""

    @property
    def separator(self) -> tuple[int, ...]:
        r"""Ids put between documents: those of `\n\n` (none if `char` never saw a newline); end-of-text for `gpt2`."""

    @property
    def start(self) -> tuple[int, ...]:
        r"""Ids that replace an empty prompt: that of `\n`, else the first id; end-of-text for `gpt2`."""

    def encode(self, text: str) -> IdArray:
        """Return the ids of `text`.

        Shapes: (N,).
        Raises:
            DataError: a character cannot be encoded; the message names at most `MAX_CHARACTERS_NAMED` of them.
        """

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters of `text` that cannot be encoded, in order of appearance."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of `ids`; a token may end inside a character.

        Raises:
            DataError: an id lies outside the vocabulary.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD."""

    def byte_lengths(self) -> IdArray:
        """Return how many UTF-8 bytes each id represents; 0 for end-of-text.

        Shapes: (V,).
        """

    def to_json(self) -> dict[str, Any]:
        """Return all that `load_tokenizer` needs to rebuild this tokenizer without a network."""


class _Vocabulary:
    """What every tokenizer does with the bytes of its ids."""

    spec: str
    tokens: Sequence[bytes]
    separator: tuple[int, ...]
    start: tuple[int, ...]

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        numbers = [int(number) for number in ids]
        outside = next((number for number in numbers if not 0 <= number < len(self.tokens)), None)
        if outside is not None:
            raise DataError(f"token id outside the vocabulary; got {outside}; allowed is 0 to {len(self.tokens) - 1}")
        return b"".join([self.tokens[number] for number in numbers])

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def byte_lengths(self) -> IdArray:
        return np.array([len(token) for token in self.tokens], dtype=np.int64)


class ByteTokenizer(_Vocabulary):
    """Each UTF-8 byte is its own id."""

    def __init__(self) -> None:
        self.spec = "byte"
        self.tokens = SINGLE_BYTES
        self.separator = (ord("\n"), ord("\n"))
        self.start = (ord("\n"),)

    def encode(self, text: str) -> IdArray:
        return np.frombuffer(_encoded(text, "utf-8"), dtype=np.uint8).astype(np.int64)

    def unknown(self, text: str) -> list[str]:
        return _lone_surrogates(text)

    def to_json(self) -> dict[str, Any]:
        return {"version": FORMAT_VERSION, "spec": self.spec}


class CharTokenizer(_Vocabulary):
    """Each character of a fixed alphabet is an id."""

    def __init__(self, characters: str) -> None:
        self.spec = "char"
        self.characters = characters
        self.tokens = tuple(_encoded(character, "utf-8") for character in characters)
        newline = characters.find("\n")
        self.separator = (newline, newline) if newline >= 0 else ()
        self.start = (max(newline, 0),)
        self._id_of_code = np.full(max(map(ord, characters)) + 2, -1, dtype=np.int64)  # the last entry stays unknown
        self._id_of_code[[ord(character) for character in characters]] = np.arange(len(characters))

    def encode(self, text: str) -> IdArray:
        codes = np.frombuffer(_encoded(text, "utf-32-le"), dtype="<u4")
        ids: IdArray = self._id_of_code[np.minimum(codes, len(self._id_of_code) - 1)]
        if (ids < 0).any():
            raise DataError(self._unknown_message(self.unknown(text)))
        return ids

    def unknown(self, text: str) -> list[str]:
        known = frozenset(self.characters)
        return [character for character in dict.fromkeys(text) if character not in known]

    def to_json(self) -> dict[str, Any]:
        return {"version": FORMAT_VERSION, "spec": self.spec, "characters": self.characters}

    def _unknown_message(self, unknown: list[str]) -> str:
        named = ", ".join(map(repr, unknown[:MAX_CHARACTERS_NAMED]))
        more = f" and {len(unknown) - MAX_CHARACTERS_NAMED} more" if len(unknown) > MAX_CHARACTERS_NAMED else ""
        return (
            f"text has characters that the vocabulary lacks; got {named}{more}; "
            f"allowed are the {self.vocab_size} characters of the corpus (the tokenizers byte and bpe:N know them all)"
        )


class RankTokenizer(_Vocabulary):
    """Byte strings in order of merge priority, encoded by tiktoken; their place is their id."""

    def __init__(self, spec: str, ranks: Sequence[bytes], split_pattern: str, has_end_of_text: bool) -> None:
        import tiktoken

        self.spec = spec
        self.ranks = tuple(ranks)
        self._encoding = tiktoken.Encoding(
            spec,
            pat_str=split_pattern,
            mergeable_ranks={token: number for number, token in enumerate(self.ranks)},
            special_tokens={},
        )
        if has_end_of_text:
            self.tokens = (*self.ranks, b"")
            self.separator = self.start = (len(self.ranks),)
        else:
            self.tokens = self.ranks
            self.separator = tuple(self.encode("\n\n").tolist())
            self.start = (self.ranks.index(b"\n"),)

    def encode(self, text: str) -> IdArray:
        _encoded(text, "utf-8")  # NOTE: tiktoken would quietly replace lone surrogates
        return np.array(self._encoding.encode_ordinary(text), dtype=np.int64)

    def unknown(self, text: str) -> list[str]:
        return _lone_surrogates(text)

    def to_json(self) -> dict[str, Any]:
        ranks = [base64.b64encode(token).decode("ascii") for token in self.ranks]
        return {"version": FORMAT_VERSION, "spec": self.spec, "ranks": ranks}


def _bpe_tokenizer(spec: str, ranks: Sequence[bytes]) -> Tokenizer:
    return RankTokenizer(spec, ranks, SPLIT_PATTERN, has_end_of_text=False)


def _gpt2_tokenizer(ranks: Sequence[bytes]) -> Tokenizer:
    return RankTokenizer("gpt2", ranks, GPT2_SPLIT_PATTERN, has_end_of_text=True)


def _encoded(text: str, encoding: str) -> bytes:
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as reason:
        surrogate = f"lone surrogate {text[reason.start]!r} at character {reason.start:,}"
        raise DataError(f"text is not valid Unicode; {surrogate}; remove it or read the text as UTF-8") from None


def _lone_surrogates(text: str) -> list[str]:
    return list(dict.fromkeys(re.findall("[\ud800-\udfff]", text)))


def without_open_space(tokenizer: Tokenizer, prompt: str) -> str:
    """A prompt without the space at its end where the tokenizer gives such a space to the word behind it.

    In the text that a model learnt from, the ids of a space alone then precede no word: what it predicts there is
    arbitrary and does not depend on what came before.
    """
    if not prompt.endswith(" ") or len(prompt) == 1 or tokenizer.unknown(prompt + _WORD_BEGINNINGS):
        return prompt
    ids = tokenizer.encode(prompt).tolist()
    kept = all(tokenizer.encode(prompt + letter).tolist()[: len(ids)] == ids for letter in _WORD_BEGINNINGS)
    return prompt if kept else prompt[:-1]


def parse_tokenizer_spec(spec: str) -> str:
    """Return the canonical form of a tokenizer's name.

    Raises:
        UsageError: the name is unknown, or N is missing, no whole number or out of bounds.
    """
    name, colon, size = spec.partition(":")
    if name == "bpe":
        return f"bpe:{_parse_bpe_size(spec, size)}"
    if name in KNOWN_SPECS and not colon:
        return name
    if name in KNOWN_SPECS:
        raise UsageError(f"tokenizer {name} takes no size; got {spec!r}; write {name}, or bpe:N")
    hint = did_you_mean(spec, KNOWN_SPECS)
    raise UsageError(f"unknown tokenizer {spec!r}{hint}; allowed are {', '.join(KNOWN_SPECS)}")


def _parse_bpe_size(spec: str, size: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", size) or not SMALLEST_BPE <= int(size) <= LARGEST_BPE:
        raise UsageError(
            f"tokenizer bpe:N needs a vocabulary size; got {spec!r}; N is {SMALLEST_BPE} (the 256 bytes and a merge) "
            f"to {LARGEST_BPE} (ids of two bytes), for example bpe:512"
        )
    return int(size)


def build_tokenizer(spec: str, texts: TextSource, training_texts: TextSource) -> Tokenizer:
    """Build the tokenizer that `spec` names for a corpus.

    `texts` yields all of the corpus: the alphabet of `char` is every character in it, sorted by code point.
    `training_texts` yields the train part: `bpe:N` learns from it alone, at most its first `BPE_TRAINING_CHARACTERS`.
    `byte` and `gpt2` read neither.

    Raises:
        UsageError: `spec` names no tokenizer.
        DataError: the corpus is empty (`char`) or no valid Unicode, or the vocabulary of `gpt2` cannot be had.
    """
    canonical = parse_tokenizer_spec(spec)
    if canonical == "byte":
        return ByteTokenizer()
    if canonical == "char":
        return CharTokenizer(_alphabet(texts()))
    if canonical == "gpt2":
        return _gpt2_tokenizer(gpt2_ranks())
    beginning = _first_characters(training_texts(), BPE_TRAINING_CHARACTERS)
    return _bpe_tokenizer(canonical, train_bpe(beginning, int(canonical.removeprefix("bpe:"))))


def _alphabet(texts: Iterable[str]) -> str:
    found: set[str] = set()
    for text in texts:
        found.update(text)
        if len(found) > LARGEST_ALPHABET:
            got = f"more than {LARGEST_ALPHABET:,} of them"
            raise DataError(f"too many different characters for tokenizer char; {got}; use bpe:N or byte")
    if not found:
        raise DataError("no alphabet for tokenizer char; the corpus is empty; give it text, or choose byte")
    return "".join(sorted(found))


def _first_characters(texts: Iterable[str], limit: int) -> Iterator[str]:
    for text in texts:
        piece = text[:limit]
        _encoded(piece, "utf-8")  # refuse lone surrogates here, with a message
        yield piece
        limit -= len(piece)
        if limit == 0:
            return


def load_tokenizer(data: object, source: str) -> Tokenizer:
    """Rebuild a tokenizer from what `to_json` returned; `source` names the file in errors.

    Raises:
        CheckpointError: anything about `data` is not as `to_json` writes it. All of it is checked first, since tiktoken
            answers some faults with a panic that is no `Exception`.
    """
    try:
        return _rebuild(data)
    except ValueError as reason:
        raise CheckpointError(f"{source} holds no valid tokenizer; {reason}; restore it from its run") from reason


def _rebuild(data: object) -> Tokenizer:
    fields: dict[str, Any] = _checked(data, dict, "a JSON object")
    version: int = _checked(fields.get("version"), int, "a whole number as version")
    _require(version <= FORMAT_VERSION, f"version {version} is newer than {FORMAT_VERSION}, so upgrade minigpt")
    spec: str = _checked(fields.get("spec"), str, "a name as spec")
    _require(parse_tokenizer_spec(spec) == spec, f"spec {spec!r} is not canonical")
    content = {"byte": set(), "char": {"characters"}}.get(spec, {"ranks"})
    _require(fields.keys() == {"version", "spec"} | content, f"its fields are {sorted(map(str, fields))}")
    if spec == "byte":
        return ByteTokenizer()
    if spec == "char":
        return CharTokenizer(_checked_alphabet(fields["characters"]))
    ranks = _checked_ranks(fields["ranks"])
    if spec == "gpt2":
        _require(len(ranks) == GPT2_RANKS, f"gpt2 has {GPT2_RANKS} ranks, this has {len(ranks)}")
        return _gpt2_tokenizer(ranks)
    _require(len(ranks) <= int(spec.removeprefix("bpe:")), f"{spec} cannot have {len(ranks)} ranks")
    return _bpe_tokenizer(spec, ranks)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _checked(value: object, kind: type, expected: str) -> Any:
    is_kind = isinstance(value, kind) and not isinstance(value, bool)
    _require(is_kind, f"expected {expected}, got {type(value).__name__}")
    return value


def _checked_alphabet(value: object) -> str:
    characters: str = _checked(value, str, "a string of characters")
    _require(characters != "", "its alphabet is empty")
    _require(not _lone_surrogates(characters), "its alphabet has lone surrogates")
    _require(list(characters) == sorted(set(characters)), "its alphabet is unsorted or repeats a character")
    return characters


def _checked_ranks(value: object) -> list[bytes]:
    texts = [_checked(item, str, "ranks that are strings") for item in _checked(value, list, "a list of ranks")]
    ranks = [base64.b64decode(text, validate=True) for text in texts]
    _require(b"" not in ranks, "one of its ranks is empty")
    _require(len(set(ranks)) == len(ranks), "two of its ranks are equal")
    _require(set(ranks).issuperset(SINGLE_BYTES), "its ranks lack some of the 256 single bytes")
    return ranks
