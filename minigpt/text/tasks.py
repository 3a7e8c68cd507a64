"""The corpora `task:parity[:SEED]` and `task:twohop[:SEED]`: lines whose last symbol follows from the others.

    parity   `0110=0`: whether the number of ones, in a string of 3 to 8 bits, is odd
    twohop   `a>c d>b c>f b>e a:f`: where two arrows lead from the letter asked for; a second chain distracts

All else in a line is random, so loss says little and the accuracy of the answers is what counts: one token each with
the tokenizers `char` and `byte`. There are only 504 different lines of parity, so train and val share theirs: it tests
what a model can represent, not what it generalises to. Reproducible to the byte by the means of `grammar.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from minigpt.base.randomness import key

ASKS = {"parity": "=", "twohop": ":"}
"""The symbol of each task that precedes the answer."""
LENGTHS = range(3, 9)
LETTERS = "abcdefghij"
CHANCE = {"parity": 1 / 2, "twohop": 1 / 2}
"""Accuracy without solving it: of two-hop, by naming one of the two letters that no arrow leaves."""
_PIECE_LINES = 1000

Draw = Callable[[], float]


def text(task: str, seed: int, stream: int, characters: int) -> Iterator[str]:
    """Yield pieces of whole lines of stream `stream` (0, 1, 2: train, val, test) until it has `characters` or more."""
    draw = random.Random(key(seed, f"task {task}", stream)).random
    line = _parity if task == "parity" else _twohop
    remaining = characters
    while remaining > 0:
        piece = "".join(line(draw) for _ in range(_PIECE_LINES))
        remaining -= len(piece)
        yield piece


def answer_places(window: str) -> list[int]:
    """Where in a window of any of the tasks' text the answers are whose whole line is in the window.

    What comes before the first line break is skipped, since its beginning may be missing.
    """
    begin = window.find("\n") + 1
    if not begin:
        return []
    asks = ASKS.values()
    return [place for place in range(begin + 1, len(window)) if window[place - 1] in asks]


def _parity(draw: Draw) -> str:
    bits = [int(draw() * 2) for _ in range(LENGTHS[int(draw() * len(LENGTHS))])]
    return f"{''.join(map(str, bits))}={sum(bits) % 2}\n"


def _twohop(draw: Draw) -> str:
    first, middle, last, *other = sorted(LETTERS, key=lambda _: draw())[:6]
    arrows = [(first, middle), (middle, last), (other[0], other[1]), (other[1], other[2])]
    shown = " ".join(f"{start}>{end}" for start, end in sorted(arrows, key=lambda _: draw()))
    return f"{shown} {first}:{last}\n"
