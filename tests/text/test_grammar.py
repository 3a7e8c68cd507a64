"""The procedural corpus is reproducible to the byte, and its stated entropy is the true one."""

from __future__ import annotations

import bz2
import hashlib
import itertools
import lzma
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.base.errors import DataError
from minigpt.text.grammar import CLASS_SIZES, SENTENCE_ENDS, Grammar, grammar

SEEDS = (0, 1, 7, 1337)
END = len(CLASS_SIZES)


def sample(seed: int, characters: int, stream: int = 0) -> str:
    return "".join(grammar(seed).text(stream, characters))


@pytest.fixture(scope="module")
def language() -> Grammar:
    return grammar(1337)


@pytest.fixture(scope="module")
def train() -> str:
    return sample(1337, 600_000)


# Reproducibility


def test_the_same_seed_gives_the_same_bytes_for_ever() -> None:
    """The hashes are those of Python 3.10.13, 3.11.7, 3.12.1 and 3.13.0; a change orphans every recorded figure."""
    digests = {
        (seed, stream): hashlib.sha256(sample(seed, 20_000, stream).encode()).hexdigest()[:16]
        for seed, stream in ((1337, 0), (1337, 1), (0, 0), (-5, 2))
    }
    assert digests == {
        (1337, 0): "dcf3c0c3b9abd5c4",
        (1337, 1): "cc6a4a2d224cec4b",
        (0, 0): "7399b83fcb5be423",
        (-5, 2): "b2d93596704194f8",
    }


def test_nothing_but_random_random_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other methods of `random.Random` may change from one Python to the next; its global state is left alone."""

    class OnlyRandom:
        def __init__(self, seed: int) -> None:
            self.random = random_class(seed).random

    random_class, state = random.Random, random.getstate()
    expected = sample(3, 2000)
    monkeypatch.setattr(random, "Random", OnlyRandom)
    assert sample(3, 2000) == expected
    assert random.getstate() == state


def test_seeds_and_streams_differ() -> None:
    texts = {sample(seed, 3000, stream) for seed in (*SEEDS, -1) for stream in (0, 1, 2)}
    assert len(texts) == 15
    assert len({grammar(seed).lexicon for seed in (*SEEDS, -1)}) == 5
    train_lines, val_lines = (set(sample(1337, 50_000, stream).splitlines()) for stream in (0, 1))
    assert len(train_lines & val_lines) < 0.2 * len(val_lines)


@settings(max_examples=30, deadline=None)
@given(characters=st.integers(0, 200_000), fewer=st.integers(0, 200_000))
def test_a_stream_has_the_length_asked_for_and_begins_like_the_shorter_one(characters: int, fewer: int) -> None:
    text = sample(1, characters)
    assert len(text) >= characters
    assert text == "" or text.endswith("\n")
    last_line = text[text[:-1].rfind("\n") + 1 :]
    assert len(text) - len(last_line) < max(characters, 1)
    assert text.startswith(sample(1, min(characters, fewer)))


def test_pieces_are_whole_lines_and_none_is_large() -> None:
    pieces = list(grammar(1).text(0, 300_000))
    assert len(pieces) > 3
    assert all(piece.endswith("\n") for piece in pieces)
    assert max(map(len, pieces)) < 80_000


# The language


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_a_toy_language(seed: int) -> None:
    """300 pronounceable words in eight classes that share none, plain ASCII, sentences of some words."""
    language = grammar(seed)
    words = list(itertools.chain.from_iterable(language.lexicon))
    assert tuple(map(len, language.lexicon)) == CLASS_SIZES
    assert len(set(words)) == len(words) == 300
    text = sample(seed, 100_000)
    assert text.isascii()
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz .?!\n")
    assert set(text.replace("\n", " ").translate(str.maketrans("", "", ".?!")).split()) <= set(words)
    sentences = sum(text.count(mark) for mark in ".?!")
    assert 4 < len(text.split()) / sentences < 20


@pytest.mark.parametrize("seed", SEEDS)
def test_every_distribution_sums_to_one(seed: int) -> None:
    for successors in grammar(seed).successors:
        assert math.fsum(successors.probabilities) == pytest.approx(1.0, abs=1e-12)
        assert min(successors.probabilities) > 0
        assert len(set(successors.spellings)) == len(successors.spellings)


def test_items_are_drawn_with_their_stated_probabilities(language: Grammar, train: str) -> None:
    """A chi-square test of each state's successors on text that the test cuts up by itself."""
    from scipy.stats import chi2

    observed: dict[int, Counter[str]] = defaultdict(Counter)
    for state, word in zip(*_derivation(language, train), strict=True):
        observed[state][word] += 1
    statistic, degrees = 0.0, 0
    for state, successors in enumerate(language.successors):
        total = observed[state].total()
        for spelling, probability in zip(successors.spellings, successors.probabilities, strict=True):
            if total * probability >= 5:
                statistic += (observed[state][spelling] - total * probability) ** 2 / (total * probability)
                degrees += 1
    assert degrees > 1000
    assert chi2.sf(statistic, degrees) > 1e-4


def _derivation(language: Grammar, text: str) -> tuple[list[int], list[str]]:
    """States and the items that followed them, by splitting at blanks (the project uses a regular expression)."""
    class_of = {word: number for number, words in enumerate(language.lexicon) for word in words}
    states, items = [], []
    state = END
    for chunk in text.replace("\n", "\n ").split(" ")[:-1]:
        word = chunk.rstrip(".?!\n")
        states.append(state)
        items.append(word if state == END else f" {word}")
        state = class_of[word]
        if word != chunk:
            states.append(state)
            items.append(chunk[len(word) :] if chunk.endswith("\n") else chunk[len(word) :] + " ")
            state = END
    return states, items


# The entropy


@pytest.mark.parametrize("seed", range(12))
def test_the_entropy_is_that_of_a_language_worth_learning(seed: int) -> None:
    assert 0.6 < grammar(seed).nats_per_byte() < 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_fresh_text_costs_the_stated_entropy(seed: int) -> None:
    """Lines are independent and alike, so the ratio of their sums has a known standard error; 3 of them are allowed.

    The seeds are fixed, so this passes or fails for good; with chance at work it would fail once in 370 seeds.
    """
    language = grammar(seed)
    lines = sample(seed, 400_000, stream=1).splitlines(keepends=True)
    costs = np.array([language.code_length(line) for line in lines])
    lengths = np.array([len(line) for line in lines])
    rate = costs.sum() / lengths.sum()
    error = np.std(costs - rate * lengths) / lengths.mean() / math.sqrt(len(lines))
    assert error < 0.002
    assert abs(rate - language.nats_per_byte()) < 3 * error


@pytest.mark.parametrize("seed", SEEDS)
def test_the_entropy_agrees_with_a_second_derivation(seed: int) -> None:
    """Class entropy plus word entropy, from the transition matrix, with its stationary law found by iteration."""
    language = grammar(seed)
    transitions = np.zeros((END + 1, END + 1))
    lexical = np.zeros((END + 1, END + 1))
    bytes_of = np.zeros(END + 1)
    for state, successors in enumerate(language.successors):
        groups: dict[int, list[tuple[float, str]]] = defaultdict(list)
        for spelling, next_state, probability in zip(
            successors.spellings, successors.states, successors.probabilities, strict=True
        ):
            groups[next_state].append((probability, spelling.strip()))
        for next_state, items in groups.items():
            share = sum(probability for probability, _ in items)
            transitions[state, next_state] = share
            lexical[state, next_state] = -sum(p / share * math.log(p / share) for p, _ in items)
            bytes_of[next_state] = sum(p / share * len(word) for p, word in items)
    occupancy = np.full(END + 1, 1 / (END + 1))
    for _ in range(2000):
        occupancy = occupancy @ transitions
    joint = occupancy[:, None] * transitions
    class_entropy = -sum(p * math.log(t) for p, t in zip(joint.flat, transitions.flat, strict=True) if t)
    # Each word brings one blank or line break: after itself or, if it is the last of a sentence, after the mark.
    bytes_per_item = occupancy @ bytes_of + 1 - occupancy[END]
    assert (class_entropy + (joint * lexical).sum()) / bytes_per_item == pytest.approx(
        language.nats_per_byte(), rel=1e-10
    )


def test_the_code_length_is_that_of_the_derivation(language: Grammar, train: str) -> None:
    """Cut the text by itself, look each item up, and add."""
    probability_of = [
        dict(zip(successors.spellings, successors.probabilities, strict=True)) for successors in language.successors
    ]
    expected = -math.fsum(
        math.log(probability_of[state][item]) for state, item in zip(*_derivation(language, train), strict=True)
    )
    assert language.code_length(train) == pytest.approx(expected, rel=1e-12)


def test_the_code_length_of_a_text_is_the_sum_over_its_lines(language: Grammar, train: str) -> None:
    lines = train[:50_000].splitlines(keepends=True)[:-1]
    assert language.code_length("".join(lines)) == pytest.approx(math.fsum(map(language.code_length, lines)))
    assert language.code_length("") == 0.0


@pytest.mark.parametrize("seed", [0, 1337])
def test_no_compressor_beats_the_true_model(seed: int) -> None:
    """A code that did would prove that the stated probabilities are wrong: P(saving k nats) <= exp(-k)."""
    text = sample(seed, 120_000, stream=2)
    truth = grammar(seed).code_length(text)
    for compress in (lzma.compress, bz2.compress):
        assert len(compress(text.encode())) * 8 * math.log(2) > truth
    assert _adaptive_code_length(text, order=5) > truth


def _adaptive_code_length(text: str, order: int) -> float:
    """Nats of an adaptive n-gram code: predict each character from the counts so far, interpolating all orders."""
    counts: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(order + 1)]
    total = 0.0
    for position in range(len(text)):
        character = text[position]
        probability = 1 / 128
        for length in range(order + 1):
            seen = counts[length][text[max(0, position - length) : position]]
            occurrences = seen.total()
            if occurrences:
                weight = occurrences / (occurrences + len(seen))
                probability = (1 - weight) * probability + weight * seen[character] / occurrences
            seen[character] += 1
        total -= math.log(probability)
    return total


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_text_of_another_kind_is_refused(language: Grammar, place: str) -> None:
    text = "".join(language.text(0, 500))
    at = {"start": 0, "middle": text.index(" ", 100), "end": len(text)}[place]
    for foreign in (" ", "\n", "Q", "zzzz", " zzzz", "é", ". ", " ."):
        with pytest.raises(DataError, match="not of grammar:1337"):
            language.code_length(text[:at] + foreign + text[at:])


def test_unfinished_and_foreign_text_is_refused(language: Grammar) -> None:
    text = "".join(language.text(0, 500))
    for broken in (text[:-1], text[1:], text.rstrip(".?!\n"), sample(7, 500), "to be or not to be.\n"):
        with pytest.raises(DataError):
            language.code_length(broken)


def test_sentence_ends_are_marks_with_one_blank_or_line_break() -> None:
    assert math.fsum(probability for _, probability in SENTENCE_ENDS) == pytest.approx(1.0)
    assert all(mark[0] in ".?!" and mark[1] in " \n" and len(mark) == 2 for mark, _ in SENTENCE_ENDS)
