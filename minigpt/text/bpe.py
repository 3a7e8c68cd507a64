"""Byte-pair encoding: learn a vocabulary of N tokens from text (encoding with it is the tokenizers' job).

Training starts from the 256 single bytes and joins the most frequent neighbouring pair inside words, again and again.
The words are counted once; after a merge only the pair counts around it change, so the cost follows the number of
joined places and not the size of the corpus.

Source: Sennrich, Haddow, Birch 2016, "Neural Machine Translation of Rare Words with Subword Units", algorithm 1;
the byte alphabet is that of Radford et al. 2019 (GPT-2), section 2.2.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

SINGLE_BYTES = tuple(bytes([value]) for value in range(256))

SPLIT_PATTERN = "|".join(
    (
        r"[ ']?[\p{L}\p{M}]+",  # letters, with the space or apostrophe before them
        r" ?\p{N}{1,3}",  # up to three digits
        r" ?[^\s\p{L}\p{M}\p{N}]+",  # punctuation and symbols
        r"\s+",  # other white space
    )
)
"""What no token crosses; read by `regex` in training and by tiktoken in encoding.

NOTE: it looks neither ahead nor behind, so tiktoken's matcher needs no stack. With a look-ahead after `\\s+`, a million
spaces in a row make it panic, and that panic is no `Exception`.
"""

LONGEST_WORD = 64
"""Bytes; longer stretches without a boundary (base64, DNA) are learnt from in slices: so a merge stays cheap."""

Pair = tuple[int, int]
Word = list[int]


def train_bpe(texts: Iterable[str], vocab_size: int) -> list[bytes]:
    """Return the tokens in id order: the 256 single bytes, then one token a merge, most frequent first.

    Among pairs of equal count the smaller pair of byte strings wins, so the result depends on nothing but the words
    and their counts. A pair seen once is never joined: a short text yields fewer than `vocab_size` tokens.
    No token comes twice: wherever a stretch of bytes ends up as one token, the same merges built it.
    """
    words, counts = _count_words(texts)
    table = _PairTable(words, counts)
    tokens = list(SINGLE_BYTES)
    heap = [_heap_entry(pair, count, tokens) for pair, count in table.counts.items()]
    heapq.heapify(heap)
    while len(tokens) < vocab_size and (pair := _pop_best(heap, table.counts, tokens)):
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        for changed in table.merge(pair, len(tokens) - 1):
            heapq.heappush(heap, _heap_entry(changed, table.counts[changed], tokens))
    return tokens


def _count_words(texts: Iterable[str]) -> tuple[list[Word], list[int]]:
    """Return the distinct words as byte values, and how often each occurs."""
    import regex

    split = regex.compile(SPLIT_PATTERN)
    found: Counter[str] = Counter()
    for text in texts:
        found.update(split.findall(text))
    slices: Counter[bytes] = Counter()
    for word, count in found.items():
        for piece in _slices(word.encode("utf-8")):
            slices[piece] += count
    return [list(piece) for piece in slices], list(slices.values())


def _slices(word: bytes) -> Iterator[bytes]:
    return (word[start : start + LONGEST_WORD] for start in range(0, len(word), LONGEST_WORD))


HeapEntry = tuple[int, bytes, bytes, Pair]


def _heap_entry(pair: Pair, count: int, tokens: list[bytes]) -> HeapEntry:
    """Order by higher count, then by the smaller bytes."""
    return (-count, tokens[pair[0]], tokens[pair[1]], pair)


def _pop_best(heap: list[HeapEntry], counts: dict[Pair, int], tokens: list[bytes]) -> Pair | None:
    """Return the most frequent pair, or None if none is left that occurs twice.

    Entries go stale when a count changes. One that says too much is corrected and put back; one that says too little
    is dropped, for the right one was pushed when the count grew.
    """
    while heap:
        negative_count, _, _, pair = heapq.heappop(heap)
        count = counts.get(pair, 0)
        if count == -negative_count:
            return pair if count > 1 else None
        if 0 < count < -negative_count:
            heapq.heappush(heap, _heap_entry(pair, count, tokens))
    return None


class _PairTable:
    """How often each pair of neighbours occurs, and in which words; kept exact while pairs are joined."""

    def __init__(self, words: list[Word], word_counts: list[int]) -> None:
        self.words = words
        self.word_counts = word_counts
        self.counts: dict[Pair, int] = defaultdict(int)
        self._places: dict[Pair, set[int]] = defaultdict(set)
        for index, (word, count) in enumerate(zip(words, word_counts, strict=True)):
            for pair in itertools.pairwise(word):
                self.counts[pair] += count
                self._places[pair].add(index)

    def merge(self, pair: Pair, joined: int) -> set[Pair]:
        """Replace `pair` by the token `joined` in every word; return the pairs that became more frequent."""
        grown: set[Pair] = set()
        for index in self._places.pop(pair):
            for changed, difference in _merge_in_word(self.words[index], pair, joined):
                self.counts[changed] += difference * self.word_counts[index]
                if difference > 0:
                    self._places[changed].add(index)
                    grown.add(changed)
        del self.counts[pair]
        return grown


def _merge_in_word(word: Word, pair: Pair, joined: int) -> list[tuple[Pair, int]]:
    """Join `pair` from left to right inside `word`; return the neighbours lost (-1) and gained (+1)."""
    first, second = pair
    changes: list[tuple[Pair, int]] = []
    position = 0
    while position < len(word) - 1:
        if word[position] == first and word[position + 1] == second:
            if position > 0:
                before = word[position - 1]
                changes += (((before, first), -1), ((before, joined), 1))
            if position + 2 < len(word):
                after = word[position + 2]
                changes += (((second, after), -1), ((joined, after), 1))
            word[position : position + 2] = [joined]
        position += 1
    return changes
