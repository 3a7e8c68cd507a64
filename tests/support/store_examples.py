"""What tests of prepared tokens need: a text that is hard to get wrong by luck, and looks at what is on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from minigpt.text.corpora import open_corpus
from minigpt.text.store import TokenStore, prepare

TEXT = "It was the best of times, it was the worst of times.\r\nNaïve: 日本語 🙂.\n" * 20


def text_file(folder: Path, text: str = TEXT) -> Path:
    path = folder / "own.txt"
    path.write_bytes(text.encode())
    return path


def prepared(path: Path, tokenizer: str = "byte", block: int = 1 << 20, min_tokens: int = 2) -> TokenStore:
    """Prepare `path` with the default fractions into the folder `data` beside it."""
    return prepare(open_corpus(str(path), block=block), tokenizer, path.parent / "data", min_tokens)


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder with the hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def times(store: TokenStore) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in store.directory.glob("*.*") if path.name[0] != "."}
