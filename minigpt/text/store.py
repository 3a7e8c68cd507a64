"""Prepared tokens: a corpus is encoded once, into one raw file of ids per split, and never again while it is the same.

    data/stdlib-char-1a2b3c4d5e6f/{train,val,test}.bin   little-endian uint16 (uint32 above 65,536 ids), nothing else
                                  tokenizer.json         enough to rebuild the tokenizer offline
                                  manifest.json          what the files are

The directory is named by a hash of the text and of how it was encoded, so another text has another directory and what
a running training reads is never replaced. Nothing is left on disk when a corpus turns out to be unusable.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, DataError, LockedError
from minigpt.text.corpora import Corpus
from minigpt.text.encoding import MANIFEST, TOKENIZER, build, require_tokens, token_dtype, token_file
from minigpt.text.splits import SPLITS
from minigpt.text.tokenizers import Tokenizer, load_tokenizer, parse_tokenizer_spec

FORMAT_VERSION = 2
READ_INTO_MEMORY = 1 << 30  # bytes; a larger file is mapped, not hashed, and must not shrink while it is (SIGBUS)
LOCK_PATIENCE = 600.0  # seconds
_LOCK_POLL = 0.2  # seconds
_SLUG = 40  # characters of a directory's name that tell the corpus
_DIGEST = 12  # characters of it that tell the content

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
FileState = tuple[int, int, int]


@dataclass(frozen=True)
class TokenStore:
    """The prepared tokens of one corpus under one tokenizer; what was read once is held as long as this lives."""

    directory: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    _held: dict[str, tuple[Tokens, FileState]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def sha256(self) -> str:
        """The data hash: it changes whenever a token of any split, or the tokenizer, does."""
        parts = [self.manifest["splits"][split]["sha256"] for split in SPLITS]
        return storage.sha256_bytes("\n".join([*parts, self.manifest["tokenizer"]["sha256"]]).encode("ascii"))

    def size(self, split: str) -> int:
        """Return how many tokens a split has."""
        return int(self.manifest["splits"][split]["tokens"])

    def tokens(self, split: str) -> Tokens:
        """Return the ids of a split, read-only: those that the data hash is of, whatever the file holds by now.

        Shapes: (N,).
        Raises:
            DataError: the file is not the one that was prepared, or is mapped and was changed since.
        """
        path = token_file(self.directory, split)
        if split not in self._held:
            self._held[split] = _read_tokens(path, self.manifest)
        ids, state = self._held[split]
        if isinstance(ids, np.memmap) and _state(path) != state:
            raise DataError(f"{path} was changed while it was in use; its size or time differs; start again")
        return ids


def prepare(
    corpus: Corpus, tokenizer_spec: str, data_dir: Path, min_tokens: int, tokenizer: Tokenizer | None = None
) -> TokenStore:
    """Return the tokens of `corpus`, preparing them under `data_dir` unless that was done.

    A `tokenizer` is used as it is instead of one that is built from the text.

    Raises:
        DataError: the text cannot be read or encoded, or a split has fewer than `min_tokens` tokens.
        LockedError: another process has been preparing the same corpus for longer than `LOCK_PATIENCE`.
    """
    head = _head(corpus, parse_tokenizer_spec(tokenizer_spec), tokenizer, data_dir)
    directory = data_dir / _directory_name(head)
    with contextlib.suppress(_UnusableError):  # without the lock, so that a read-only folder will do
        return _sufficient(_reopen(directory, head), corpus, min_tokens)
    with _locked(directory):
        try:
            store = _reopen(directory, head)
        except _UnusableError as reason:
            if str(reason):
                print(f"note: preparing {corpus.spec} again; {reason}", file=sys.stderr)
            store = TokenStore(directory, *build(directory, corpus, head, tokenizer, min_tokens))
        return _sufficient(store, corpus, min_tokens)


class _UnusableError(Exception):
    """Why the tokens on disk cannot be used; without a message if there are none."""


def _head(corpus: Corpus, tokenizer_spec: str, tokenizer: Tokenizer | None, data_dir: Path) -> dict[str, Any]:
    """What tokens are made of, as the manifest says it: the recipe, and the text's fingerprint as `fingerprint`."""
    recipe = {
        "format": FORMAT_VERSION,
        "corpus": corpus.spec,
        "text_field": corpus.text_field,
        "val_fraction": corpus.fractions.val,
        "test_fraction": corpus.fractions.test,
        "tokenizer_spec": tokenizer_spec,
        "given_tokenizer": tokenizer and storage.json_hash(tokenizer.to_json()),
    }
    return {**recipe, "fingerprint": corpus.fingerprint(_known_fingerprints(data_dir, recipe))}


def _known_fingerprints(data_dir: Path, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Fingerprints of the same corpus, as earlier preparations recorded them."""
    found = []
    for path in sorted(data_dir.glob(f"{_slug(recipe)}-*/{MANIFEST}")):
        with contextlib.suppress(DataError, KeyError, TypeError, AttributeError):
            manifest = storage.read_json(path, DataError)
            if {name: manifest[name] for name in recipe} == recipe and isinstance(manifest["fingerprint"], dict):
                found.append(manifest["fingerprint"])
    return found


def _identity(head: dict[str, Any]) -> dict[str, Any]:
    """What tells two preparations apart: all but the times of files."""
    fingerprint = {name: value for name, value in head["fingerprint"].items() if name != "stat"}
    return {**head, "fingerprint": fingerprint}


def _directory_name(head: dict[str, Any]) -> str:
    """Name the directory after corpus, tokenizer and content, in characters that every file system takes."""
    digest = storage.sha256_bytes(storage.to_json(_identity(head)).encode("utf-8", "surrogatepass"))
    return f"{_slug(head)}-{digest[:_DIGEST]}"


def _slug(head: dict[str, Any]) -> str:
    corpus = re.split(r"[/\\]", head["corpus"].rstrip("/\\"))[-1].removeprefix("hf:")
    words = [re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") for word in (corpus, head["tokenizer_spec"])]
    return f"{words[0][:_SLUG] or 'corpus'}-{words[1]}"


def _sufficient(store: TokenStore, corpus: Corpus, min_tokens: int) -> TokenStore:
    require_tokens({split: store.size(split) for split in SPLITS}, corpus, min_tokens)
    return store


# ---------------------------------------------------------------------------------------------- using tokens again


def _reopen(directory: Path, head: dict[str, Any]) -> TokenStore:
    """Open tokens that were prepared earlier, after checking them.

    Raises:
        _UnusableError: there are none, or the files are damaged.
    """
    if not (directory / MANIFEST).exists():
        raise _UnusableError
    try:
        manifest = storage.read_json(directory / MANIFEST, DataError)
        if _identity({name: manifest[name] for name in head}) != _identity(head):
            raise _UnusableError(f"{directory / MANIFEST} is of another text")
        store = TokenStore(directory, manifest, _stored_tokenizer(directory, manifest))
        for split in SPLITS:
            store.tokens(split)
        return store
    except (DataError, CheckpointError) as reason:
        raise _UnusableError(str(reason)) from reason
    except (KeyError, TypeError, ValueError, AttributeError) as reason:
        raise _UnusableError(f"{directory / MANIFEST} was altered") from reason


def _read_tokens(path: Path, manifest: dict[str, Any]) -> tuple[Tokens, FileState]:
    """Read a split and check it, or map it if it is huge; with the state that the file is in."""
    record = manifest["splits"][path.stem]
    dtype: np.dtype[Any] = token_dtype(manifest["vocab_size"])
    expected = record["tokens"] * dtype.itemsize
    state = _state(path)
    if state[1] != expected:
        raise DataError(f"{path} is damaged; it has {state[1]:,} bytes of {expected:,}; start again to rebuild it")
    ids: Tokens
    try:
        if expected > READ_INTO_MEMORY:
            ids = np.memmap(path, dtype=dtype, mode="r")
            return ids, state
        ids = np.fromfile(path, dtype=dtype)
    except OSError as reason:
        raise DataError(f"cannot read {path}; {reason.strerror or reason}; start again to rebuild it") from reason
    if hashlib.sha256(ids.data).hexdigest() != record["sha256"]:
        raise DataError(f"{path} is damaged, its hash differs; start again to rebuild it")
    if len(ids) and int(ids.max()) >= manifest["vocab_size"]:
        raise DataError(f"{path} holds an id outside the vocabulary; start again to rebuild it")
    ids.flags.writeable = False
    return ids, state


def _state(path: Path) -> FileState:
    try:
        status = os.stat(path)
    except OSError as reason:
        raise DataError(f"cannot read {path}; {reason.strerror or reason}; start again to rebuild it") from reason
    return status.st_ino, status.st_size, status.st_mtime_ns


def _stored_tokenizer(directory: Path, manifest: dict[str, Any]) -> Tokenizer:
    path = directory / TOKENIZER
    data = storage.read_bytes(path, DataError)
    if storage.sha256_bytes(data) != manifest["tokenizer"]["sha256"]:
        raise _UnusableError(f"{path} is damaged, its hash differs")
    return load_tokenizer(storage.parse_json(data.decode("utf-8"), str(path), DataError), str(path))


# ---------------------------------------------------------------------------------------------- working beside others


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory, waiting for whoever prepares the same corpus at this moment."""
    deadline = time.monotonic() + LOCK_PATIENCE
    with contextlib.ExitStack() as stack:
        waiting = False
        while True:
            try:
                stack.enter_context(storage.lock_directory(directory))
                break
            except LockedError as reason:
                if time.monotonic() > deadline:
                    raise
                if not waiting:
                    print(f"note: another process prepares this corpus; waiting for it; {reason}", file=sys.stderr)
                waiting = True
                time.sleep(_LOCK_POLL)
        yield
