"""What is seen of a preparation that takes long."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from store_examples import prepared, text_file

from minigpt.text import encoding, progress
from minigpt.text.tokenizers import ByteTokenizer


def test_a_long_step_is_told_of_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes passed without a word in a log file; a single step that does not come back is told of too."""
    monkeypatch.setattr(progress, "EVERY", 0.05)
    build = encoding.build_tokenizer
    monkeypatch.setattr(encoding, "build_tokenizer", lambda *arguments: time.sleep(0.2) or build(*arguments))
    encode = ByteTokenizer.encode
    monkeypatch.setattr(ByteTokenizer, "encode", lambda self, text: time.sleep(0.1) or encode(self, text))
    prepared(text_file(tmp_path), "byte")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2
    assert any("note: learning the vocabulary of" in line and "own.txt for" in line for line in lines)
    assert any("note: encoding" in line for line in lines)
    assert threading.active_count() == 1 or not any("lines_until" in t.name for t in threading.enumerate())


def test_a_quick_preparation_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under ten seconds nobody waits for news, and the thread that would bring them is gone at once."""
    threads = threading.active_count()
    prepared(text_file(tmp_path), "char")
    assert capsys.readouterr().err == ""
    assert threading.active_count() == threads


def test_an_error_ends_the_news(tmp_path: Path) -> None:
    """A refusal leaves no thread behind."""
    threads = threading.active_count()
    with pytest.raises(ValueError, match="train has"):
        prepared(text_file(tmp_path), min_tokens=10**6)
    assert threading.active_count() == threads
