"""Data sets of the Hugging Face Hub: names, splits, sizes, and what happens offline; nothing is ever fetched."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from corpus_examples import documents, everything

from minigpt.base.errors import DataError
from minigpt.text import hub
from minigpt.text.corpora import describe_corpora, open_corpus
from minigpt.text.splits import Fractions

Parts = dict[str, list[dict[str, Any]]]


def rows(*texts: str) -> list[dict[str, Any]]:
    return [{"id": number, "text": text} for number, text in enumerate(texts)]


@pytest.fixture
def mock_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[tuple[Any, ...]]]:
    """Return a function that makes `datasets.load_dataset` answer with parts, or raise; it returns the calls."""
    monkeypatch.setattr(hub, "_can_connect", lambda: True)
    monkeypatch.setattr(hub, "_revision", lambda dataset: "abc123")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)

    def install(answer: object) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def load_dataset(name: str, config: str | None, streaming: bool) -> object:
            calls.append((name, config, streaming))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        return calls

    return install


def test_hub_names_and_aliases() -> None:
    """An alias is short for a name and a configuration, and both spellings are one corpus."""
    assert open_corpus("tinystories").spec == open_corpus("hf:tinystories").spec == "hf:roneneldan/TinyStories"
    assert open_corpus("fineweb-edu").spec == "hf:HuggingFaceFW/fineweb-edu:sample-10BT@200MB"
    assert open_corpus("fineweb-edu@1500kB").spec.endswith("@1500kB")
    assert open_corpus("hf:someone/thing:config").spec == "hf:someone/thing:config"
    for alias, dataset in hub.ALIASES.items():
        assert hub.parse(dataset.spec).spec == hub.parse(alias).spec
        assert hub.parse(dataset.spec).joined == dataset.joined
    assert set(hub.ALIASES) < {row.name for row in describe_corpora()}


def test_hub_parts_are_used_where_they_exist(mock_hub: Callable[[object], list[tuple[Any, ...]]]) -> None:
    """Native splits are kept as they are; a fraction of 0 leaves one out."""
    calls = mock_hub({"train": rows("a", "", "b"), "validation": rows("c"), "test": rows("d")})
    assert everything(open_corpus("shakespeare")) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert everything(open_corpus("shakespeare", 0.1, 0)) == {"train": ["a", "b"], "val": ["c"], "test": []}
    assert set(calls) == {("karpathy/tiny_shakespeare", None, False)}
    assert len(calls) == 2, "a corpus asks the Hub once, however often it is read"


def test_missing_hub_parts_are_taken_out_of_train(mock_hub: Callable[[object], list[tuple[Any, ...]]]) -> None:
    """A data set with a train part alone is dealt by hash; what val gets, train lacks."""
    texts = [f"story {number}" for number in range(200)]
    mock_hub({"train": rows(*texts), "validation": rows("own")})
    found = everything(open_corpus("tinystories", 0.3, 0.2))
    assert found["val"] == ["own"]
    assert sorted(found["train"] + found["test"]) == sorted(texts)
    assert len(found["test"]) == pytest.approx(40, abs=25)
    assert found["test"] == [text for text in texts if Fractions(0, 0.2).split_of(text) == "test"]


def test_wikitext_rows_are_lines_of_one_text(mock_hub: Callable[[object], list[tuple[Any, ...]]]) -> None:
    """Its rows are lines, many of them empty: no separator belongs between them."""
    parts = {"train": rows(" = Title = \n", "", " Text .\n"), "validation": rows("v"), "test": rows("t")}
    mock_hub(parts)
    assert documents(open_corpus("wikitext2"), "train") == [" = Title = \n Text .\n"]


def test_size_limits_the_train_part(mock_hub: Callable[[object], list[tuple[Any, ...]]]) -> None:
    """`@1kB` stops after the document that reaches 1,000 bytes, and streams."""
    calls = mock_hub({"train": rows(*["é" * 100] * 50), "test": rows(*["t" * 100] * 50)})
    found = everything(open_corpus("hf:a/b@1kB", 0, 0.1))
    assert len(found["train"]) == 5
    assert len(found["test"]) == 50
    assert calls == [("a/b", None, True)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ConnectionError("Couldn't reach it\non the Hub"), "cannot download .*--corpus stdlib.*HF_HUB_OFFLINE=1"),
        (FileNotFoundError("Dataset 'tinystorys' doesn't exist"), "does not exist or asks for a login.*'tinystories'"),
        (RuntimeError("Dataset scripts are no longer supported"), "code from the Hub.*never run"),
        (ValueError("BuilderConfig 'x' not found. Available: ['y']"), r"Available: \['y'\]"),
        ({"test": rows("a")}, "no train part; its parts are test"),
        ({"train": [{"a": "x", "b": "y"}]}, "train does not tell its text; .*'a' .*'b'"),
        ({"train": rows("a", "\ud800")}, "train row 1, character 0"),
    ],
)
def test_trouble_on_the_hub_is_one_line(
    mock_hub: Callable[[object], list[tuple[Any, ...]]], answer: object, message: str
) -> None:
    """Whatever the library raises becomes a DataError that says what to do."""
    mock_hub(answer)
    with pytest.raises(DataError, match=message) as caught:
        everything(open_corpus("hf:tinystorys"))
    assert "\n" not in str(caught.value)


def test_trouble_while_streaming_is_one_line(mock_hub: Callable[[object], list[tuple[Any, ...]]]) -> None:
    """A connection that breaks after the first rows is no traceback either."""

    def breaking() -> Any:
        yield {"text": "first"}
        raise ConnectionError("reset by peer")

    mock_hub({"train": breaking()})
    with pytest.raises(DataError, match="cannot download hf:a/b; reset by peer"):
        documents(open_corpus("hf:a/b", 0, 0), "train")


@pytest.mark.parametrize("trouble", ["refused", "silent"])
def test_no_network_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    """The `datasets` library retries for 23 seconds; we ask first, and even a look-up that hangs is cut short."""
    monkeypatch.setattr(hub, "_PROBE_SECONDS", 0.05)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)

    def create_connection(address: tuple[str, int], timeout: float) -> socket.socket:
        time.sleep(0.5 if trouble == "silent" else 0)
        raise OSError("unreachable")

    monkeypatch.setattr(socket, "create_connection", create_connection)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"cannot reach huggingface.co .*--corpus stdlib or a file.*HF_HUB_OFFLINE=1"):
        open_corpus("shakespeare").fingerprint([])
    assert time.monotonic() - started < 0.4


def test_offline_mode_reads_the_cache(
    mock_hub: Callable[[object], list[tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With HF_HUB_OFFLINE=1 nothing is probed, and large sets come from the cache, since streaming needs a network."""
    calls = mock_hub({"train": rows("a")})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "_can_connect", lambda: pytest.fail("probed"))
    assert documents(open_corpus("tinystories", 0, 0), "train") == ["a"]
    assert calls == [("roneneldan/TinyStories", None, False)]


def test_prepared_hub_tokens_need_no_network(mock_hub: Callable[[object], list[tuple[Any, ...]]]) -> None:
    """A fingerprint that was recorded is trusted; the revision it names is the one that was encoded."""
    calls = mock_hub(ConnectionError())
    corpus = open_corpus("tinystories")
    known = corpus.fingerprint([])
    assert known["revision"] == "abc123"
    assert corpus.fingerprint([{**known, "revision": "older"}])["revision"] == "older"
    assert open_corpus("tinystories@1MB").fingerprint([known])["content"] != known["content"]
    assert calls == []


def test_real_datasets_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library's own classes behave as the mock does: mappings of parts, whose rows are mappings."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    parts = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a", "b"], "n": [1, 2]})})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: parts)
    assert documents(open_corpus("hf:a/b", 0, 0), "train") == ["a", "b"]
    streamed = datasets.IterableDatasetDict({"train": parts["train"].to_iterable_dataset()})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: streamed)
    assert documents(open_corpus("hf:a/b@1MB", 0, 0), "train") == ["a", "b"]
