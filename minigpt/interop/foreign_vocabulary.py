"""The tokenizer of a model from elsewhere: found beside its weights, or named by whoever imports it.

Our own file comes first, then GPT-2's vocabulary, which is recognised by its merges. Nothing is guessed from sizes but
GPT-2's, whose padded size nanoGPT has made a habit. A pickle (nanoGPT's `meta.pkl`) is never opened: the alphabet that
it holds follows from the text.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, UsageError
from minigpt.base.flags import expanded
from minigpt.interop.export_hf import TOKENIZER_FILE
from minigpt.interop.hf_folder import read_json
from minigpt.interop.hf_tokenizer import END_OF_TEXT, bytes_of
from minigpt.interop.nanogpt_file import GPT2_SIZES
from minigpt.text.corpora import open_corpus
from minigpt.text.gpt2 import GPT2_RANKS
from minigpt.text.tokenizers import FORMAT_VERSION, KNOWN_SPECS, Tokenizer, build_tokenizer, load_tokenizer

MOST_PADDING = 256
"""A vocabulary is padded to a multiple of 64 or 128 for speed; more unused ids than this are another vocabulary."""
_ADVICE = "name it by --tokenizer byte, char, gpt2 or FILE (a tokenizer.json of minigpt)"


def tokenizer_of(place: Path, asked: str | None, vocab_size: int, corpus: str, text_field: str | None) -> Tokenizer:
    """The tokenizer that a model in `place` (a folder, or a checkpoint's file) is used with.

    Raises:
        UsageError: there is none that is known, or it has not the ids of the model.
        DataError: the corpus whose alphabet is asked for cannot be read, or GPT-2's vocabulary cannot be had.
        CheckpointError: a file is damaged.
    """
    found = _beside(place, vocab_size) if asked is None else _named(asked, corpus, text_field)
    _check_size(found, vocab_size, corpus)
    return found


def _named(asked: str, corpus: str, text_field: str | None) -> Tokenizer:
    if asked == "char":
        whole = open_corpus(expanded(corpus), 0.0, 0.0, text_field=text_field)
        return build_tokenizer(asked, whole.texts, whole.texts)
    if asked in ("byte", "gpt2"):
        return build_tokenizer(asked, list, list)
    path = Path(expanded(asked))
    if not path.is_file():
        raise UsageError(f"no tokenizer {asked!r}; it is no file either; {_ADVICE}")
    return load_tokenizer(read_json(path), str(path))


def _beside(place: Path, vocab_size: int) -> Tokenizer:
    if place.is_file():
        if vocab_size in GPT2_SIZES:
            return build_tokenizer("gpt2", list, list)
        raise UsageError(f"{place} has no tokenizer; it has {vocab_size:,} ids; {_ADVICE}; for char give --corpus TEXT")
    if (place / TOKENIZER_FILE).is_file():
        return load_tokenizer(read_json(place / TOKENIZER_FILE), str(place / TOKENIZER_FILE))
    for vocabulary, merges in _byte_level(place):
        if (ranks := _gpt2_ranks(vocabulary, merges)) is not None:
            written = [base64.b64encode(token).decode() for token in ranks]
            return load_tokenizer({"version": FORMAT_VERSION, "spec": "gpt2", "ranks": written}, str(place))
    there = "its tokenizer is none of ours" if (place / "tokenizer.json").is_file() else "there is no tokenizer"
    raise UsageError(f"{place} cannot be used with a tokenizer; {there}; {_ADVICE}")


def _byte_level(folder: Path) -> Iterator[tuple[Any, Any]]:
    """(vocabulary, merges) in either of the forms in which folders hold them."""
    if (folder / "tokenizer.json").is_file():
        content = read_json(folder / "tokenizer.json")
        model = content.get("model") if isinstance(content, dict) else None
        if isinstance(model, dict):
            yield model.get("vocab"), model.get("merges")
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        text = storage.read_bytes((folder / "merges.txt").resolve(), CheckpointError).decode("utf-8", "replace")
        yield read_json(folder / "vocab.json"), [line for line in text.splitlines() if line[:8] != "#version"]


def _gpt2_ranks(vocabulary: Any, merges: Any) -> list[bytes] | None:
    """The tokens in the order of their ids, if they are 256 bytes and then what the merges make, one after the other.

    Only such a vocabulary, of GPT-2's size and with its end of text behind, is encoded alike by ranks.
    """
    if not isinstance(vocabulary, dict) or not isinstance(merges, list) or len(merges) != GPT2_RANKS - 256:
        return None
    by_id = {number: text for text, number in vocabulary.items() if type(number) is int}
    if by_id.get(GPT2_RANKS, END_OF_TEXT) != END_OF_TEXT:
        return None
    tokens = [bytes_of(by_id.get(number, " ")) for number in range(GPT2_RANKS)]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    made = [bytes_of("".join(pair)) if isinstance(pair, list) else None for pair in pairs]
    ranks = [token for token in tokens if token is not None]
    whole = len(ranks) == GPT2_RANKS and ranks[256:] == made and all(len(token) == 1 for token in ranks[:256])
    return ranks if whole else None


def _check_size(found: Tokenizer, vocab_size: int, corpus: str) -> None:
    """Refuse a tokenizer with ids that the model lacks, or far fewer; an alphabet must fit exactly."""
    missing = vocab_size - found.vocab_size
    if found.spec == "char" and missing:
        raise UsageError(
            f"the alphabet has {found.vocab_size:,} characters, the model {vocab_size:,} ids; the text of {corpus} is "
            "not the one that it was trained on; give that by --corpus"
        )
    if not 0 <= missing < MOST_PADDING:
        raise UsageError(
            f"tokenizer {found.spec} has {found.vocab_size:,} ids, the model {vocab_size:,}; they are not of each "
            f"other; {_ADVICE}; known are {', '.join(KNOWN_SPECS)}"
        )
