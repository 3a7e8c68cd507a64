"""The text of a training: which corpus, how much of it is needed, in whose vocabulary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from minigpt.base import storage
from minigpt.base.errors import DataError
from minigpt.base.flags import expanded
from minigpt.text import hub
from minigpt.text.corpora import Corpus, open_corpus
from minigpt.text.store import TokenStore, prepare
from minigpt.text.tokenizers import MAX_CHARACTERS_NAMED, Tokenizer

DATA_DIR = "data"
_KNOWN_TEXTS = frozenset({"stdlib", "stdlib-code", "grammar", "professions", "task", "hf", *hub.ALIASES})


class TextSettings(Protocol):
    """What of a configuration says which text is read."""

    @property
    def corpus(self) -> str: ...
    @property
    def text_field(self) -> str | None: ...
    @property
    def tokenizer(self) -> str: ...
    @property
    def val_fraction(self) -> float: ...
    @property
    def test_fraction(self) -> float: ...
    @property
    def data_dir(self) -> str: ...
    @property
    def train_tokens(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def eval_every(self) -> int: ...
    @property
    def eval_part(self) -> str: ...


def is_path(spec: str) -> bool:
    """Whether a corpus is a file or folder of the user's, and none that minigpt knows by name."""
    return spec.partition(":")[0].partition("@")[0] not in _KNOWN_TEXTS


def absolute_corpus(spec: str) -> str:
    """A corpus that is a file or folder, by its absolute path; the name of a known one as it is, since it wins."""
    place = Path(expanded(spec))
    return os.path.abspath(place) if spec and is_path(spec) and os.path.lexists(place) else spec


def check_there(corpus: str, run: Path) -> None:
    """Raise `DataError` if the file or folder that a run was trained on is no longer where it was."""
    if is_path(corpus) and not os.path.lexists(Path(expanded(corpus))):
        raise DataError(
            f"the text of {run} is not at {corpus}; it was moved or deleted; say where it is: --corpus PATH"
        )


def prepare_text(settings: TextSettings, vocabulary: Tokenizer | None = None) -> TokenStore:
    """Open the corpus and make sure that its tokens are prepared.

    With a `vocabulary`, that of a run that goes on with a text which grew or of a model from elsewhere, a tokenizer
    learnt from the present text gives way to it.

    Raises:
        DataError: the corpus cannot be used, has fewer training tokens than asked for, characters that the given
            vocabulary lacks, or no validation text although the run evaluates.
    """
    if settings.eval_every and not settings.val_fraction:
        raise DataError("the validation part is empty; val-fraction is 0; raise it, or switch off with --eval-every 0")
    place, field = expanded(settings.corpus), settings.text_field
    corpus = open_corpus(place, settings.val_fraction, settings.test_fraction, text_field=field)
    if vocabulary is not None and vocabulary.spec == "gpt2":  # the same for every text, and perhaps not to be had here
        return _prepared(settings, corpus, vocabulary)
    store = _prepared(settings, corpus, None)
    if vocabulary is not None and vocabulary.to_json() != store.tokenizer.to_json():
        _check_known(settings, store.tokenizer, vocabulary)
        store = _prepared(settings, corpus, vocabulary)
    if settings.train_tokens > store.size("train"):
        size = store.size("train")
        raise DataError(
            f"train-tokens {settings.train_tokens:,} is more than there are; {size:,} are; lower it, or 0: all"
        )
    return store


def _prepared(settings: TextSettings, corpus: Corpus, tokenizer: Tokenizer | None) -> TokenStore:
    windows = 1 if settings.eval_part == "all" else 2
    least = windows * settings.block_size + 1
    data_dir = Path(expanded(settings.data_dir))
    if data_dir.is_absolute() and not data_dir.parent.exists():  # the run was moved to another machine
        data_dir = Path(DATA_DIR)
    with storage.placed_by("--data-dir"):
        return prepare(corpus, settings.tokenizer, data_dir, least, tokenizer)


def _check_known(settings: TextSettings, present: Tokenizer, vocabulary: Tokenizer) -> None:
    """Raise `DataError` if the text has characters that a vocabulary lacks."""
    unknown = vocabulary.unknown(present.decode(range(present.vocab_size)))
    if unknown:
        named = ", ".join(map(repr, unknown[:MAX_CHARACTERS_NAMED]))
        more = f" and {len(unknown) - MAX_CHARACTERS_NAMED} more" if len(unknown) > MAX_CHARACTERS_NAMED else ""
        raise DataError(
            f"{settings.corpus} has characters that the run has never seen; {named}{more}; a run keeps its "
            "vocabulary; give another --corpus, or begin a new run from its weights with --init-from RUN"
        )
