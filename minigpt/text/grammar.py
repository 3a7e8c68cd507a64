"""The procedural corpus `grammar:SEED`: a toy language whose entropy is known exactly, for tests and calibration.

Eight word classes follow one another as a Markov chain; a ninth state ends a sentence. Each class draws its words from
a Zipf law. Lexicon and chain grow from the seed. A text looks like `rosa mi tegun balo. temi sa nole.` and its ends
of sentence are followed by a blank or a line break. Results on so simple a language do not transfer to real text.

The entropy. Let i be the state after the last item (word or end of sentence). From i the next item is x with
probability p(x | i); x is spelt s_i(x): a word with a blank before it, but bare where a sentence begins; an end of
sentence as its mark and one blank or line break. A word belongs to one class, so x fixes the next state, and the
states form a Markov chain T(j | i) = sum of p(x | i) over the items x of state j. Every s_i(x) differs and none is the
beginning of another with what may follow it (letters end at a blank or a mark), so a text has one
derivation only, and the probability of a text is the product of p(x | i) along it. With pi the stationary
distribution (pi T = pi; all states communicate), the ergodic theorem gives

    nats per item   H = sum_i pi_i sum_x -p(x | i) ln p(x | i)
    bytes per item  L = sum_i pi_i sum_x p(x | i) len(s_i(x))

and the entropy rate is H / L nats per byte (Shannon 1948, section 7; Cover and Thomas 2006, theorem 4.2.4; dividing by
the mean length is the renewal-reward theorem). Characters are ASCII, so bytes and characters are the same.

Reproducible to the byte: the only source of chance is `random.Random(n).random()`, whose sequence Python keeps across
versions, and probabilities are made by +, * and / alone, which IEEE 754 rounds alike everywhere.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minigpt.base.errors import DataError
from minigpt.base.randomness import key

CLASS_SIZES = (6, 10, 16, 24, 36, 48, 64, 96)
"""Words of each class: the small ones play the part of articles and prepositions, the large ones of nouns and verbs."""
SYLLABLES = (1, 1, 2, 2, 2, 3, 3, 3)
END_PROBABILITY = (0.0, 0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3)
"""How likely each class is to be the last of a sentence: never after an article."""
SENTENCE_ENDS = ((". ", 0.6), ("? ", 0.1), ("! ", 0.05), (".\n", 0.2), ("?\n", 0.05))

_END = len(CLASS_SIZES)
_CONSONANTS = "bdfgjklmnprstvz"
_VOWELS = "aeiou"
_CODA_PROBABILITY = 0.2
_PIECE_CHARACTERS = 1 << 16
_ITEM = re.compile(r" ?[a-z]+|[.?!][ \n]")

Draw = Callable[[], float]


@dataclass(frozen=True)
class Successors:
    """What may follow one state: spellings, the states they lead to, and their probabilities."""

    spellings: tuple[str, ...]
    states: tuple[int, ...]
    probabilities: tuple[float, ...]

    @cached_property
    def cumulative(self) -> tuple[float, ...]:
        """Upper ends of the intervals of [0, 1) that select the spellings; the last one is open."""
        return (*itertools.accumulate(self.probabilities[:-1]), math.inf)

    @cached_property
    def codes(self) -> dict[str, tuple[float, int]]:
        """Code length in nats, and the next state, of each spelling."""
        costs = [-math.log(probability) for probability in self.probabilities]
        return dict(zip(self.spellings, zip(costs, self.states, strict=True), strict=True))


@dataclass(frozen=True)
class Grammar:
    """A toy language; built by `grammar`."""

    seed: int
    lexicon: tuple[tuple[str, ...], ...]
    """The words of each class, most frequent first."""
    successors: tuple[Successors, ...]
    """One entry for each class, and the last one for the beginning of a sentence."""

    def text(self, stream: int, characters: int) -> Iterator[str]:
        """Yield pieces of stream `stream` (0, 1, 2: train, val, test), whole lines, until it has `characters` or more.

        Streams are independent of each other, and a longer stream begins with the shorter one.
        """
        draw = random.Random(key(self.seed, "grammar text", stream)).random
        remaining = characters
        while remaining > 0:
            piece = self._lines(draw, min(remaining, _PIECE_CHARACTERS))
            remaining -= len(piece)
            yield piece

    def _lines(self, draw: Draw, characters: int) -> str:
        """Return whole lines, just enough for `characters`."""
        tables = [(entry.cumulative, entry.spellings, entry.states) for entry in self.successors]
        lines: list[str] = []
        while characters > 0:
            line: list[str] = []
            state, spelling = _END, ""
            while state != _END or not spelling.endswith("\n"):
                cumulative, spellings, states = tables[state]
                choice = bisect_right(cumulative, draw())
                spelling, state = spellings[choice], states[choice]
                line.append(spelling)
            lines.append("".join(line))
            characters -= len(lines[-1])
        return "".join(lines)

    def nats_per_byte(self) -> float:
        """Return the entropy rate H / L of the module docstring.

        Units: nats per byte (and per character).
        """
        occupancy = _stationary(self._transitions())
        nats = [math.fsum(-p * math.log(p) for p in entry.probabilities) for entry in self.successors]
        lengths = [
            math.fsum(p * len(spelling) for p, spelling in zip(entry.probabilities, entry.spellings, strict=True))
            for entry in self.successors
        ]
        return float(occupancy @ nats) / float(occupancy @ lengths)

    def code_length(self, text: str) -> float:
        """Return -ln of the probability of `text`, which begins with a sentence and ends with one.

        No model can expect to need less on fresh text; one that does has seen it.

        Units: nats.
        Raises:
            DataError: `text` is not of this grammar.
        """
        costs: list[float] = []
        state, position = _END, 0
        for item in _ITEM.finditer(text):
            cost, next_state = self.successors[state].codes.get(item[0], (math.inf, _END))
            if item.start() != position or cost == math.inf:
                break
            costs.append(cost)
            state, position = next_state, item.end()
        if position != len(text) or state != _END:
            excerpt = text[position : position + 20]
            raise DataError(
                f"text is not of grammar:{self.seed}; it stops being so at character {position:,}: {excerpt!r}; "
                "give whole sentences of the same seed"
            )
        return math.fsum(costs)

    def _transitions(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        matrix = np.zeros((_END + 1, _END + 1))
        for row, entry in zip(matrix, self.successors, strict=True):
            np.add.at(row, list(entry.states), entry.probabilities)
        return matrix


def _stationary(
    transitions: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Solve pi T = pi together with sum(pi) = 1."""
    states = len(transitions)
    equations = np.vstack([transitions.T - np.eye(states), np.ones(states)])
    solution: np.ndarray[tuple[int], np.dtype[np.float64]]
    solution = np.linalg.lstsq(equations, np.array([*[0.0] * states, 1.0]), rcond=None)[0]
    return solution


def grammar(seed: int) -> Grammar:
    """Grow the language of `seed`: its words first, then which class follows which."""
    draw = random.Random(key(seed, "grammar language")).random
    lexicon = _grow_lexicon(draw)
    orders = [_shuffled(len(CLASS_SIZES), draw) for _ in range(_END + 1)]
    successors = tuple(_successors(state, order, lexicon) for state, order in enumerate(orders))
    return Grammar(seed, lexicon, successors)


def _grow_lexicon(draw: Draw) -> tuple[tuple[str, ...], ...]:
    """Invent the words of each class; no word belongs to two classes."""
    taken: set[str] = set()
    classes = []
    for size, syllables in zip(CLASS_SIZES, SYLLABLES, strict=True):
        words: list[str] = []
        while len(words) < size:
            word = "".join(_syllable(draw) for _ in range(syllables))
            if word not in taken:
                taken.add(word)
                words.append(word)
        classes.append(tuple(words))
    return tuple(classes)


def _syllable(draw: Draw) -> str:
    coda = _pick("nrsl", draw) if draw() < _CODA_PROBABILITY else ""
    return _pick(_CONSONANTS, draw) + _pick(_VOWELS, draw) + coda


def _pick(letters: str, draw: Draw) -> str:
    return letters[int(draw() * len(letters))]


def _shuffled(count: int, draw: Draw) -> list[int]:
    """Return 0 to count-1 in a random order (Fisher-Yates); `random.shuffle` is not fixed across Python versions."""
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = int(draw() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


def _successors(state: int, order: list[int], lexicon: tuple[tuple[str, ...], ...]) -> Successors:
    """Return what follows `state`, whose likeliest next classes come first in `order`."""
    end_probability = 0.0 if state == _END else END_PROBABILITY[state]
    blank = "" if state == _END else " "
    items: list[tuple[str, int, float]] = []
    for next_class, share in zip(order, _zipf(len(order), 2), strict=True):
        words = lexicon[next_class]
        for word, probability in zip(words, _zipf(len(words), 1), strict=True):
            items.append((blank + word, next_class, (1.0 - end_probability) * share * probability))
    if end_probability:
        items += [(mark, _END, end_probability * probability) for mark, probability in SENTENCE_ENDS]
    spellings, states, probabilities = zip(*items, strict=True)
    return Successors(spellings, states, probabilities)


def _zipf(count: int, exponent: int) -> list[float]:
    """Return the probabilities of ranks 1 to `count`, proportional to rank ** -exponent."""
    weights = [1.0 / rank**exponent for rank in range(1, count + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
