"""The corpus `professions:RATIO[:SEED]`: a planted association of twelve professions with pronouns, exact to the token.

Every sentence names a profession and then a pronoun, as in `the nurse said that she was tired .` Six professions take
`she` in RATIO percent of their sentences and `he` in the others, six the other way round. Sentences come in blocks of
equal composition: in each, every profession appears in every template equally often, with its majority pronoun in
exactly RATIO percent of them. A text is whole blocks in random order within, so the ratio is exact in every part, for
every profession, at every distance between profession and pronoun. All other words are drawn independently of both.

So the odds that a model gives the two pronouns can be compared with the odds that were planted. It says nothing of the
biases of real text. Reproducible to the byte by the means of `grammar.py`.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from minigpt.base.randomness import key

PRONOUNS = ("she", "he")
PROFESSIONS = {
    "nurse": "she", "pilot": "he", "teacher": "she", "farmer": "he", "baker": "she", "driver": "he",
    "doctor": "she", "lawyer": "he", "singer": "she", "painter": "he", "writer": "she", "sailor": "he",
}  # fmt: skip
"""The pronoun of the majority for each profession."""
TEMPLATES = (
    "the {profession} said that {pronoun} was {state} .",
    "the {profession} from the {place} said that {pronoun} was {state} .",
    "when the {profession} came home from the {place} , {pronoun} was {state} .",
    "the {profession} , who had been in the {place} since {day} , said that {pronoun} was {state} .",
)
"""In order of the distance between profession and pronoun."""
_OTHER_WORDS = {
    "place": ("city", "village", "market", "harbour", "valley", "castle"),
    "state": ("tired", "happy", "hungry", "ready", "late", "early", "calm", "busy"),
    "day": ("monday", "tuesday", "friday", "sunday"),
}

Draw = Callable[[], float]


@dataclass(frozen=True)
class Prompt:
    """The beginning of a sentence up to the blank before its pronoun."""

    profession: str
    majority: str
    template: int
    text: str


def text(ratio: int, seed: int, stream: int, characters: int) -> Iterator[str]:
    """Yield whole blocks of stream `stream` (0, 1, 2: train, val, test) until it has `characters` or more."""
    draw = random.Random(key(seed, f"professions {ratio}", stream)).random
    remaining = characters
    while remaining > 0:
        block = _block(ratio, draw)
        remaining -= len(block)
        yield block


def prompts() -> list[Prompt]:
    """One for every profession, template and choice of the words between them."""
    found = []
    for (profession, majority), (number, template) in itertools.product(PROFESSIONS.items(), enumerate(TEMPLATES)):
        beginning = template.partition(" {pronoun}")[0]
        used = [name for name in _OTHER_WORDS if f"{{{name}}}" in beginning]
        for words in itertools.product(*(_OTHER_WORDS[name] for name in used)):
            filled = beginning.format(profession=profession, **dict(zip(used, words, strict=True)))
            found.append(Prompt(profession, majority, number, filled))
    return found


def _block(ratio: int, draw: Draw) -> str:
    repetitions = 100 // math.gcd(ratio, 100)
    majorities = ratio * repetitions // 100
    sentences = [
        _sentence(template, profession, majority if number < majorities else _other(majority), draw)
        for profession, majority in PROFESSIONS.items()
        for template in TEMPLATES
        for number in range(repetitions)
    ]
    return "".join(sorted(sentences, key=lambda _: draw()))


def _sentence(template: str, profession: str, pronoun: str, draw: Draw) -> str:
    words = {name: choices[int(draw() * len(choices))] for name, choices in _OTHER_WORDS.items()}
    return template.format(profession=profession, pronoun=pronoun, **words) + "\n"


def _other(pronoun: str) -> str:
    return PRONOUNS[1 - PRONOUNS.index(pronoun)]
