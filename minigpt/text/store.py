"""Prepared tokens: a corpus is encoded once, into one raw file of ids per split, and used again until it changes.

    data/stdlib-char-1a2b3c4d/{train,val,test}.bin   little-endian uint16 (uint32 above 65,536 ids), nothing else
                              tokenizer.json         enough to rebuild the tokenizer offline
                              manifest.json          what the files are; written last, so without it nothing is prepared

Text is streamed, so memory stays bounded. Nothing is left on disk when the corpus turns out to be unusable.
"""

from __future__ import annotations

import contextlib
import platform
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
from minigpt.base.errors import CheckpointError, DataError, LockedError, StorageError
from minigpt.text.corpora import Corpus
from minigpt.text.splits import SPLITS
from minigpt.text.tokenizers import Tokenizer, build_tokenizer, load_tokenizer, parse_tokenizer_spec

FORMAT_VERSION = 1
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
ALWAYS_VERIFIED = 256 << 20  # bytes of tokens; above this only the files' sizes are checked before they are re-used
READ_INTO_MEMORY = 1 << 30  # bytes; above this a file is mapped, and must not shrink while it is (SIGBUS)
LOCK_PATIENCE = 600.0  # seconds
_LOCK_POLL = 0.2  # seconds
_PROGRESS_DELAY = 2.0  # seconds
_SLUG = 40  # characters of a directory's name that tell the corpus

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class TokenStore:
    """The prepared tokens of one corpus under one tokenizer."""

    directory: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer

    @property
    def sha256(self) -> str:
        """The data hash: it changes whenever a token of any split, or the tokenizer, does."""
        parts = [self.manifest["splits"][split]["sha256"] for split in SPLITS]
        return storage.sha256_bytes("\n".join([*parts, self.manifest["tokenizer"]["sha256"]]).encode("ascii"))

    def size(self, split: str) -> int:
        """Return how many tokens a split has."""
        return int(self.manifest["splits"][split]["tokens"])

    def tokens(self, split: str) -> Tokens:
        """Return the ids of a split, read-only.

        Shapes: (N,).
        Raises:
            DataError: the file is not as long as it was when it was prepared.
        """
        return _read_tokens(_token_file(self.directory, split), _dtype(self.manifest["vocab_size"]), self.size(split))


def prepare(corpus: Corpus, tokenizer_spec: str, data_dir: Path, min_tokens: int) -> TokenStore:
    """Return the tokens of `corpus`, preparing them under `data_dir` unless an earlier preparation still holds.

    Raises:
        DataError: the text cannot be read or encoded, or a split has fewer than `min_tokens` tokens.
        LockedError: another process has been preparing the same corpus for longer than `LOCK_PATIENCE`.
    """
    recipe = _recipe(corpus, parse_tokenizer_spec(tokenizer_spec))
    directory = data_dir / _directory_name(recipe)
    with contextlib.suppress(_UnusableError):  # without the lock, so that a read-only folder will do
        return _sufficient(_reopen(directory, corpus, recipe), corpus, min_tokens)
    with _removed_on_failure(directory), _locked(directory):
        try:
            store = _reopen(directory, corpus, recipe)
        except _UnusableError as reason:
            if str(reason):
                print(f"note: preparing {corpus.spec} again; {reason}", file=sys.stderr)
            store = _build(directory, corpus, recipe, min_tokens)
        return _sufficient(store, corpus, min_tokens)


def encode_split(corpus: Corpus, tokenizer: Tokenizer, split: str, limit: int) -> npt.NDArray[np.int64]:
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


class _UnusableError(Exception):
    """Why the tokens on disk cannot be used; without a message if there are none."""


def _recipe(corpus: Corpus, tokenizer_spec: str) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "corpus": corpus.spec,
        "val_fraction": corpus.fractions.val,
        "test_fraction": corpus.fractions.test,
        "tokenizer_spec": tokenizer_spec,
    }


def _directory_name(recipe: dict[str, Any]) -> str:
    """Name the directory after the corpus and the tokenizer, in characters that every file system takes."""
    corpus = re.split(r"[/\\]", recipe["corpus"].rstrip("/\\"))[-1].removeprefix("hf:")
    words = [re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") for word in (corpus, recipe["tokenizer_spec"])]
    digest = storage.sha256_bytes(storage.to_json(recipe).encode("utf-8", "surrogatepass"))
    return f"{words[0][:_SLUG] or 'corpus'}-{words[1]}-{digest[:8]}"


def _token_file(directory: Path, split: str) -> Path:
    return directory / f"{split}.bin"


def _dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as reason:
        raise DataError(f"cannot read {path}; {reason.strerror or reason}; start again to rebuild it") from reason
    if size != expected:
        raise DataError(f"{path} is damaged; it has {size:,} bytes of {expected:,}; start again to rebuild it")


def _read_tokens(path: Path, dtype: np.dtype[Any], expected: int) -> Tokens:
    _check_size(path, expected * dtype.itemsize)
    try:
        if expected * dtype.itemsize > READ_INTO_MEMORY:
            return np.memmap(path, dtype=dtype, mode="r")
        ids: Tokens = np.fromfile(path, dtype=dtype)
    except OSError as reason:
        raise DataError(f"cannot read {path}; {reason.strerror or reason}; start again to rebuild it") from reason
    ids.flags.writeable = False
    return ids


def _sufficient(store: TokenStore, corpus: Corpus, min_tokens: int) -> TokenStore:
    _require_tokens({split: store.size(split) for split in SPLITS}, corpus, min_tokens)
    return store


def _require_tokens(sizes: dict[str, int], corpus: Corpus, min_tokens: int) -> None:
    for split, remedy in (("train", "a smaller --block-size"), ("val", "a larger --val-fraction (0 switches it off)")):
        if corpus.fractions.of(split) > 0 and sizes[split] < min_tokens:
            raise DataError(
                f"{corpus.spec}: {split} has {sizes[split]:,} tokens; the context needs {min_tokens:,}; "
                f"give more text or {remedy}"
            )


# ---------------------------------------------------------------------------------------------- using tokens again


def _reopen(directory: Path, corpus: Corpus, recipe: dict[str, Any]) -> TokenStore:
    """Open tokens that were prepared earlier, after checking them.

    Raises:
        _UnusableError: there are none, the corpus changed since, or the files are damaged.
    """
    if not (directory / MANIFEST).exists():
        raise _UnusableError
    try:
        manifest = storage.read_json(directory / MANIFEST, DataError)
        if {name: manifest[name] for name in recipe} != recipe:
            raise _UnusableError("its manifest is of another recipe")
        manifest = _with_present_fingerprint(directory, manifest, corpus)
        _verify_tokens(directory, manifest)
        return TokenStore(directory, manifest, _stored_tokenizer(directory, manifest))
    except (DataError, CheckpointError) as reason:
        raise _UnusableError(str(reason)) from reason
    except (KeyError, TypeError, ValueError, AttributeError) as reason:
        raise _UnusableError(f"{directory / MANIFEST} was altered") from reason


def _with_present_fingerprint(directory: Path, manifest: dict[str, Any], corpus: Corpus) -> dict[str, Any]:
    """Return the manifest, renewed on disk where only the files' times differ: large files are not hashed twice."""
    known = manifest["fingerprint"]
    present = corpus.fingerprint(known)
    if present["content"] != known["content"]:
        raise _UnusableError("the text changed since it was prepared")
    if present == known:
        return manifest
    renewed = {**manifest, "fingerprint": present}
    with contextlib.suppress(StorageError):  # a read-only folder will do
        storage.write_json(directory / MANIFEST, renewed)
    return renewed


def _verify_tokens(directory: Path, manifest: dict[str, Any]) -> None:
    dtype = _dtype(manifest["vocab_size"])
    thorough = sum(manifest["splits"][split]["tokens"] for split in SPLITS) * dtype.itemsize < ALWAYS_VERIFIED
    for split in SPLITS:
        path, record = _token_file(directory, split), manifest["splits"][split]
        _check_size(path, record["tokens"] * dtype.itemsize)
        if not thorough:
            continue
        ids = _read_tokens(path, dtype, record["tokens"])
        if storage.sha256_file(path, DataError) != record["sha256"]:
            raise _UnusableError(f"{path} is damaged, its hash differs")
        if len(ids) and int(ids.max()) >= manifest["vocab_size"]:
            raise _UnusableError(f"{path} holds an id outside the vocabulary")


def _stored_tokenizer(directory: Path, manifest: dict[str, Any]) -> Tokenizer:
    path = directory / TOKENIZER
    data = storage.read_bytes(path, DataError)
    if storage.sha256_bytes(data) != manifest["tokenizer"]["sha256"]:
        raise _UnusableError(f"{path} is damaged, its hash differs")
    return load_tokenizer(storage.parse_json(data.decode("utf-8"), str(path), DataError), str(path))


# ---------------------------------------------------------------------------------------------- preparing tokens


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


def _build(directory: Path, corpus: Corpus, recipe: dict[str, Any], min_tokens: int) -> TokenStore:
    storage.remove_stale_temporaries(directory)
    fingerprint = corpus.fingerprint(None)  # before reading: a change while reading is then noticed next time
    if next(corpus.texts(), "") == "":
        raise DataError(f"{corpus.spec} is empty; no document in it has text; give one that has")
    tokenizer = build_tokenizer(recipe["tokenizer_spec"], corpus.texts, lambda: corpus.texts({"train"}))
    lengths = tokenizer.byte_lengths()
    with contextlib.ExitStack() as stack:
        writers = {
            split: _SplitWriter(
                stack.enter_context(storage.atomic_file(_token_file(directory, split))),
                tokenizer,
                _dtype(tokenizer.vocab_size),
                lengths,
            )
            for split in SPLITS
        }
        _encode(corpus, writers)
        _require_tokens({split: writer.tokens for split, writer in writers.items()}, corpus, min_tokens)
        exact = {split: {"exact_nats": corpus.exact_nats(split)} if corpus.exact_nats else {} for split in SPLITS}
        # From here to the manifest a crash leaves "not prepared", never old and new files side by side.
        storage.remove_tree(directory / MANIFEST)
        splits = {split: writers[split].record(writers[split].file.commit()) | exact[split] for split in SPLITS}
    manifest = {
        **recipe,
        "fingerprint": fingerprint,
        "python": platform.python_version(),
        "vocab_size": tokenizer.vocab_size,
        "dtype": str(_dtype(tokenizer.vocab_size)),
        "tokenizer": {"file": TOKENIZER, "sha256": storage.write_json(directory / TOKENIZER, tokenizer.to_json())},
        "splits": splits,
    }
    storage.write_json(directory / MANIFEST, manifest)
    return TokenStore(directory, manifest, tokenizer)


def _encode(corpus: Corpus, writers: dict[str, _SplitWriter]) -> None:
    from tqdm import tqdm

    label = f"encoding {corpus.spec}"
    with tqdm(desc=label, unit="B", unit_scale=True, disable=None, delay=_PROGRESS_DELAY, file=sys.stderr) as progress:
        for split, document in corpus.read(SPLITS):
            writers[split].begin_document()
            for chunk in document:
                progress.update(writers[split].add(chunk))


@contextlib.contextmanager
def _removed_on_failure(directory: Path) -> Iterator[None]:
    """Leave no directory behind that was not there before, should the corpus turn out to be unusable."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        yield
    except LockedError:
        raise
    except BaseException:
        if missing:
            storage.remove_tree(directory / storage.LOCK_NAME)
            with contextlib.suppress(OSError):  # somebody else uses it by now
                for path in missing:
                    path.rmdir()
        raise


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
