"""The vocabulary of GPT-2: an intact cache needs no network, and without either the advice comes at once."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from tokenizer_examples import PROSE, build

from minigpt.base.errors import DataError
from minigpt.text import gpt2
from minigpt.text.tokenizers import load_tokenizer


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Refuse every connection, and note what was tried."""
    tried: list[tuple] = []

    def refuse(address: tuple, timeout: float | None = None) -> None:
        tried.append((address, timeout))
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(gpt2.socket, "create_connection", refuse)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    return tried


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two files, whose hashes stand in for those of the real ones."""
    contents = {"a" * 40: b"merges", "b" * 40: b"ids"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(gpt2, "_CACHED_SHA256", hashes)
    return tmp_path


class FakeEncoding:
    """What `tiktoken.get_encoding` returns, as far as it is used."""

    def __init__(self, ranks: list[bytes]) -> None:
        self.decode_single_token_bytes = ranks.__getitem__


def test_gpt2_without_cache_and_network_fails_at_once_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[tuple]
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(DataError) as caught:
        build("gpt2")
    message = str(caught.value)
    assert all(part in message for part in ("TIKTOKEN_CACHE_DIR", str(tmp_path), "bpe:N", "byte", "6d1cbeee"))
    assert "\n" not in message
    assert caught.value.exit_code == 3
    assert no_network == [((gpt2._HOST, 443), 3.0)]
    assert list(tmp_path.iterdir()) == []


def test_gpt2_does_not_wait_for_a_name_lookup_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[tuple]
) -> None:
    release = threading.Event()

    def hang(address: tuple, timeout: float) -> None:
        release.wait(30)
        raise TimeoutError

    monkeypatch.setattr(gpt2.socket, "create_connection", hang)
    monkeypatch.setattr(gpt2, "_PROBE_SECONDS", 0.05)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    before = time.monotonic()
    with pytest.raises(DataError):
        build("gpt2")
    assert time.monotonic() - before < 10
    release.set()


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", None])
def test_gpt2_with_an_intact_cache_needs_no_network(
    variable: str | None,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[tuple],
    fake_gpt2_ranks: list[bytes],
) -> None:
    import tiktoken

    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    if variable:
        monkeypatch.setenv(variable, str(cache))
    else:
        (cache / "data-gym-cache").mkdir()
        for file in [path for path in cache.iterdir() if path.is_file()]:
            file.rename(cache / "data-gym-cache" / file.name)
        monkeypatch.setattr(gpt2.tempfile, "gettempdir", lambda: str(cache))
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: FakeEncoding(fake_gpt2_ranks))
    tokenizer = build("gpt2")
    assert no_network == []
    assert tokenizer.vocab_size == 50257
    assert tokenizer.decode(tokenizer.encode("<|endoftext|> ok")) == "<|endoftext|> ok"
    assert 50256 not in tokenizer.encode("<|endoftext|>")
    assert tokenizer.byte_lengths()[50256] == 0
    assert tokenizer.decode_bytes([50256]) == b""
    stored = json.loads(json.dumps(tokenizer.to_json()))
    assert load_tokenizer(stored, "x").encode(PROSE).tolist() == tokenizer.encode(PROSE).tolist()


@pytest.mark.parametrize("fault", ["damaged", "missing", "empty variable wins over the other"])
def test_gpt2_trusts_only_an_intact_cache(
    fault: str, cache: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[tuple]
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "" if fault.startswith("empty") else str(cache))
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(cache))
    if fault == "damaged":
        (cache / ("a" * 40)).write_bytes(b"merges!")
    if fault == "missing":
        (cache / ("b" * 40)).unlink()
    with pytest.raises(DataError):
        build("gpt2")
    assert len(no_network) == 1


@pytest.mark.parametrize("error", [ConnectionError("no\nroute"), ValueError("Hash mismatch"), PermissionError("cache")])
def test_gpt2_behind_a_proxy_is_tried_without_a_probe(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[tuple]
) -> None:
    import tiktoken

    def fail(name: str) -> None:
        raise error

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        build("gpt2")
    assert "\n" not in str(caught.value)
    assert no_network == []
