"""A text and a way to build a tokenizer from it, for the tests of tokenizers."""

from __future__ import annotations

from minigpt.text.tokenizers import Tokenizer, build_tokenizer

PROSE = (
    "The quick brown fox doesn't jump over 1234 lazy dogs.\n\nThe dogs don't mind; the fox is 27 years old!\n"
    "  Naïve café — 東京 и Москва.\r\nthe the the there then\n"
) * 3


def build(spec: str, text: str = PROSE) -> Tokenizer:
    return build_tokenizer(spec, lambda: [text], lambda: [text])
