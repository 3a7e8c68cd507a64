"""From text to files of ids: the documents of each split one after the other, with the tokenizer's separator between.

The manifest is written last: without it nothing is prepared. Text is streamed, so memory stays bounded.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from minigpt.base import storage
from minigpt.base.errors import DataError
from minigpt.text.corpora import Corpus
from minigpt.text.progress import Progress, progress_of
from minigpt.text.splits import SPLITS
from minigpt.text.tokenizers import Tokenizer, build_tokenizer

MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
BORDER = "\n\n"
"""What is between two documents for the tokenizers that write it in characters."""


def token_file(directory: Path, split: str) -> Path:
    """Where the ids of a split are."""
    return directory / f"{split}.bin"


def token_dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """How an id is stored."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class Encoder(Protocol):
    """What turns text into ids, as far as counting on it needs: our tokenizers, and those of other libraries."""

    @property
    def separator(self) -> tuple[int, ...]: ...
    def encode(self, text: str) -> npt.NDArray[np.int64]: ...


def encode_split(corpus: Corpus, tokenizer: Encoder, split: str, limit: int) -> npt.NDArray[np.int64]:
    """Return the first `limit` ids of a split under a tokenizer that was built from another text; nothing is kept.

    Shapes: (N,).
    Raises:
        DataError: the text has characters that the tokenizer lacks; it names them.
    """
    pieces: list[npt.NDArray[np.int64]] = []
    missing = limit
    for document in corpus.documents(split):
        if pieces:
            pieces.append(np.array(tokenizer.separator, dtype=np.int64))
            missing -= len(pieces[-1])
        for chunk in document:
            pieces.append(tokenizer.encode(chunk))
            missing -= len(pieces[-1])
            if missing <= 0:
                return np.concatenate(pieces)[:limit]
    return np.concatenate([*pieces, np.empty(0, dtype=np.int64)])


@dataclass
class _SplitWriter:
    """Encodes the documents of one split into its file, and counts."""

    file: storage.AtomicFile
    tokenizer: Tokenizer
    dtype: np.dtype[Any]
    lengths: npt.NDArray[np.int64] = field(repr=False)
    tokens: int = 0
    bytes: int = 0
    documents: int = 0

    def begin_document(self) -> None:
        if self.documents:
            self._append(np.array(self.tokenizer.separator, dtype=np.int64))
        self.documents += 1

    def add(self, chunk: str) -> int:
        """Append a chunk of the present document and return its length in bytes."""
        return self._append(self.tokenizer.encode(chunk))

    def record(self, sha256: str) -> dict[str, Any]:
        counts = {"tokens": self.tokens, "bytes": self.bytes, "documents": self.documents}
        return {"file": self.file.path.name, **counts, "sha256": sha256}

    def _append(self, ids: npt.NDArray[np.int64]) -> int:
        size = int(self.lengths[ids].sum())
        self.file.write(ids.astype(self.dtype).tobytes())
        self.tokens += len(ids)
        self.bytes += size
        return size


def build(
    directory: Path, corpus: Corpus, head: dict[str, Any], tokenizer: Tokenizer | None, min_tokens: int
) -> tuple[dict[str, Any], Tokenizer]:
    """Encode a corpus into `directory`, under a tokenizer that is built from it unless one is given.

    `head` is what the manifest says besides the figures: the recipe, and the fingerprint of the text.

    Raises:
        DataError: the text is empty, cannot be read or encoded, is too short, or changed while it was read.
    """
    storage.remove_stale_temporaries(directory)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(progress_of(corpus.spec))
        if next(corpus.texts(), "") == "":
            raise DataError(f"{corpus.spec} is empty; no document in it has text; give one that has")
        if tokenizer is None:
            progress.begin("learning the vocabulary of")
            tokenizer = _built(corpus, head["tokenizer_spec"], progress)
        lengths, dtype = tokenizer.byte_lengths(), token_dtype(tokenizer.vocab_size)
        files = {split: stack.enter_context(storage.atomic_file(token_file(directory, split))) for split in SPLITS}
        writers = {split: _SplitWriter(files[split], tokenizer, dtype, lengths) for split in SPLITS}
        progress.begin("encoding")
        for split, document in corpus.read(SPLITS):
            writers[split].begin_document()
            for chunk in document:
                progress.add(writers[split].add(chunk))
        require_tokens({split: writer.tokens for split, writer in writers.items()}, corpus, min_tokens)
        exact = {split: {"exact_nats": corpus.exact_nats(split)} if corpus.exact_nats else {} for split in SPLITS}
        if corpus.fingerprint([head["fingerprint"]])["content"] != head["fingerprint"]["content"]:
            raise DataError(f"{corpus.spec} changed while it was read; leave it alone and start again")
        # From here to the manifest a crash leaves "not prepared", never old and new files side by side.
        storage.remove_tree(directory / MANIFEST)
        splits = {split: writers[split].record(files[split].commit()) | exact[split] for split in SPLITS}
    manifest = {
        **head,
        "python": platform.python_version(),
        "vocab_size": tokenizer.vocab_size,
        "dtype": str(dtype),
        "tokenizer": {"file": TOKENIZER, "sha256": storage.write_json(directory / TOKENIZER, tokenizer.to_json())},
        "splits": splits,
    }
    storage.write_json(directory / MANIFEST, manifest)
    return manifest, tokenizer


def _built(corpus: Corpus, spec: str, progress: Progress) -> Tokenizer:
    def counted(texts: Iterator[str]) -> Iterator[str]:
        for text in texts:
            yield text
            progress.add(len(text))

    return build_tokenizer(spec, lambda: counted(_as_encoded(corpus)), lambda: counted(corpus.texts({"train"})))


def _as_encoded(corpus: Corpus) -> Iterator[str]:
    """All text, with what will be between two documents of a split: an alphabet must have that too."""
    begun: set[str] = set()
    for split, document in corpus.read(SPLITS):
        if split in begun:
            yield BORDER
        begun.add(split)
        yield from document


def require_tokens(sizes: dict[str, int], corpus: Corpus, min_tokens: int) -> None:
    """Raise `DataError` if a split that is wanted is too short."""
    for split, remedy in (("train", "a smaller --block-size"), ("val", "a larger --val-fraction (0 switches it off)")):
        if corpus.fractions.of(split) > 0 and sizes[split] < min_tokens:
            raise DataError(
                f"{corpus.spec}: {split} has {sizes[split]:,} tokens; the context needs {min_tokens:,}; "
                f"give more text or {remedy}"
            )
