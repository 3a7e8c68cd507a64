"""Our tokenizers as files that `AutoTokenizer` reads.

The vocabulary keeps its ids. A byte is written as the character that GPT-2 gives it, and a merge of tiktoken's ranks as
every pair of tokens that makes one, since tiktoken joins whatever pair makes the lowest rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigpt.text.bpe import SPLIT_PATTERN
from minigpt.text.gpt2 import GPT2_SPLIT_PATTERN
from minigpt.text.tokenizers import CharTokenizer, RankTokenizer, Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def hf_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers that gives the same ids; a character that `char` lacks is an error there too."""
    from transformers import PreTrainedTokenizerFast

    special: dict[str, Any] = {}
    if tokenizer.spec == "gpt2":
        special = {"eos_token": END_OF_TEXT, "bos_token": END_OF_TEXT}
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(tokenizer_object=_backend(tokenizer), **special)
    return made


def _backend(tokenizer: Tokenizer) -> Any:
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    if isinstance(tokenizer, CharTokenizer):
        backend = Backend(models.WordLevel({character: k for k, character in enumerate(tokenizer.characters)}))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        backend.decoder = decoders.Fuse()
        return backend
    ranks = tokenizer.ranks if isinstance(tokenizer, RankTokenizer) else tuple(bytes([value]) for value in range(256))
    written = {token: _written(token) for token in ranks}
    merges = [(written[left], written[right]) for token in ranks for left, right in _splits(token, written)]
    vocabulary = {text: number for number, text in enumerate(written.values())}
    backend = Backend(models.BPE(vocabulary, merges, ignore_merges=True))
    pieces: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    pattern = {"byte": None, "gpt2": GPT2_SPLIT_PATTERN}.get(tokenizer.spec, SPLIT_PATTERN)
    if pattern is not None:
        pieces.insert(0, pre_tokenizers.Split(Regex(pattern), "isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    backend.decoder = decoders.ByteLevel()
    if tokenizer.spec == "gpt2":
        backend.add_special_tokens([END_OF_TEXT])
    return backend


def _splits(token: bytes, known: dict[bytes, str]) -> list[tuple[bytes, bytes]]:
    halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
    return [(left, right) for left, right in halves if left in known and right in known]


def _written(token: bytes) -> str:
    return "".join(_CHARACTERS[value] for value in token)


def bytes_of(written: str) -> bytes | None:
    """The bytes that a token of a byte-level vocabulary is written for; None if it is written otherwise."""
    values = [_BYTES.get(character) for character in written]
    return None if None in values else bytes(value for value in values if value is not None)


def _byte_characters() -> list[str]:
    """A visible character for each byte: itself where it is one, else the next free one from U+0100 on.

    Source: Radford et al. 2019 (GPT-2), section 2.2 and its released encoder.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    replaced = [value for value in range(256) if value not in visible]
    return [chr(value) if value in visible else chr(0x100 + replaced.index(value)) for value in range(256)]


_CHARACTERS = _byte_characters()
_BYTES = {character: value for value, character in enumerate(_CHARACTERS)}
