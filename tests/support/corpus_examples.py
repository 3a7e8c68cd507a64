"""What tests of corpora need: the text of each split, as a list of documents."""

from __future__ import annotations

from minigpt.text.corpora import Corpus
from minigpt.text.splits import SPLITS


def documents(corpus: Corpus, split: str) -> list[str]:
    return ["".join(document) for document in corpus.documents(split)]


def everything(corpus: Corpus) -> dict[str, list[str]]:
    return {split: documents(corpus, split) for split in SPLITS}
