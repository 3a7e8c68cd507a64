"""Corpora from the Hugging Face Hub through the `datasets` library: `hf:NAME[:CONFIG][@SIZE]` and a few aliases.

A data set's own train, validation and test parts are used where it has them; a missing part is taken out of train by
the hash of each document. Large sets are streamed. Nothing here runs code that comes with a data set.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minigpt.base.errors import DataError, MinigptError, UsageError, did_you_mean
from minigpt.text.columns import Columns, checked_text, remark
from minigpt.text.splits import Document, Fractions, in_chunks

_HOST = "huggingface.co"
_PROBE_SECONDS = 3.0
_MAX_DETAIL = 200  # characters of a library's message
_INSTEAD = (
    "use --corpus stdlib or a file, or download it on a connected machine and set HF_HOME and HF_HUB_OFFLINE=1 here"
)
_SAMPLE_ROWS = 1000
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}
_SPEC = re.compile(
    r"(?:hf:)?(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?:@(?P<amount>\d+)(?P<unit>kB|MB|GB))?"
)
_NATIVE_NAMES = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class HubDataset:
    """One data set of the Hub and how to read it."""

    name: str
    config: str | None = None
    streamed: bool = False  # too large to be downloaded as a whole
    joined: bool = False  # a row is a line of one long text, not a document
    limit: int | None = None  # bytes of text taken from the train part, at most about

    @property
    def spec(self) -> str:
        """The canonical spelling, which `parse` reads back."""
        config = f":{self.config}" if self.config else ""
        return f"hf:{self.name}{config}{_size_suffix(self.limit)}"


ALIASES = {
    "shakespeare": HubDataset("karpathy/tiny_shakespeare"),
    "tinystories": HubDataset("roneneldan/TinyStories", streamed=True),
    "wikitext2": HubDataset("Salesforce/wikitext", "wikitext-2-raw-v1", joined=True),
    "wikitext103": HubDataset("Salesforce/wikitext", "wikitext-103-raw-v1", streamed=True, joined=True),
    "fineweb-edu": HubDataset("HuggingFaceFW/fineweb-edu", "sample-10BT", streamed=True, limit=200 * _UNITS["MB"]),
}


def _size_suffix(size: int | None) -> str:
    if size is None:
        return ""
    unit = next(unit for unit in ("GB", "MB", "kB") if size % _UNITS[unit] == 0)
    return f"@{size // _UNITS[unit]}{unit}"


def parse(spec: str) -> HubDataset:
    """Read `hf:NAME[:CONFIG][@SIZE]` or an alias, with or without `hf:`.

    Raises:
        UsageError: it is spelled otherwise.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(f"not a data set of the Hub; it is {spec!r}; write hf:NAME[:CONFIG][@SIZE], SIZE as in 200MB")
    dataset = _known(match["name"], match["config"])
    if match["amount"] is None:
        return dataset
    limit = int(match["amount"]) * _UNITS[match["unit"]]
    if limit == 0:
        raise UsageError(f"no text would be left; the size in {spec!r} is 0; give one such as @200MB")
    return replace(dataset, limit=limit, streamed=True)


def _known(name: str, config: str | None) -> HubDataset:
    if name in ALIASES and config is None:
        return ALIASES[name]
    same = (entry for entry in ALIASES.values() if (entry.name, entry.config) == (name, config))
    return next(same, HubDataset(name, config))


def fingerprint(dataset: HubDataset, known: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what identifies the data set, and the revision that the Hub served.

    `known` are earlier answers, which are trusted: prepared tokens are used again without asking the Hub.
    """
    content = {"dataset": dataset.name, "config": dataset.config, "limit": dataset.limit}
    for earlier in known:
        if earlier.get("content") == content:
            return dict(earlier)
    _require_hub(dataset)
    return {"content": content, "revision": _revision(dataset)}


def load(dataset: HubDataset) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    """Return the parts of the data set by their own names.

    Raises:
        DataError: the Hub cannot be reached, or it does not have the data set in a form that can be read.
    """
    from datasets import load_dataset

    _require_hub(dataset)
    with _hub_errors(dataset):
        parts: Mapping[str, Iterable[Mapping[str, Any]]] = load_dataset(
            dataset.name, dataset.config, streaming=dataset.streamed and not _is_offline()
        )
    return parts


def read(
    dataset: HubDataset,
    parts: Callable[[], Mapping[str, Iterable[Mapping[str, Any]]]],
    fractions: Fractions,
    text_field: str | None,
    wanted: Collection[str],
) -> Iterator[tuple[str, Document]]:
    """Yield each document of the wanted splits with the name of its split; a fraction of 0 leaves a split empty."""
    available = parts()
    native = {split: next((n for n in names if n in available), None) for split, names in _NATIVE_NAMES.items()}
    if native["train"] is None:
        given = ", ".join(available) or "none"
        raise DataError(f"{dataset.spec} has no train part; its parts are {given}; choose another data set")
    carved = Fractions(0 if native["val"] else fractions.val, 0 if native["test"] else fractions.test)
    for split, part in native.items():
        carving = split == "train" and any(carved.of(other) > 0 for other in wanted)
        if part is None or fractions.of(split) <= 0 or not (split in wanted or carving):
            continue
        limit = dataset.limit if split == "train" else None
        texts = _texts(f"{dataset.spec}, {part}", dataset, available[part], text_field, limit)
        if dataset.joined:
            yield split, in_chunks(texts)
            continue
        for text in texts:
            home = carved.split_of(text) if split == "train" else split
            if home in wanted:
                yield home, in_chunks([text])


def _texts(
    source: str, dataset: HubDataset, rows: Iterable[Mapping[str, Any]], text_field: str | None, limit: int | None
) -> Iterator[str]:
    """Yield the text of each row; its field is chosen by the first rows, and those that lack it are counted."""
    columns, size = Columns(source), 0
    with _hub_errors(dataset):
        stream = iter(rows)
        sample = list(itertools.islice(stream, _SAMPLE_ROWS))
        for row in sample:
            columns.add(row)
        field = columns.choose(text_field)
        for number, row in enumerate(itertools.chain(sample, stream)):
            if number >= _SAMPLE_ROWS:
                columns.add(row)
            for text in checked_text(row, field, f"{source} row {number}"):
                size += len(text.encode("utf-8"))
                yield text
            if limit is not None and size >= limit:
                break
        _say(remark(columns, field))


@functools.cache
def _say(line: str) -> None:
    """Say something once, however often the data set is read."""
    if line:
        print(line, file=sys.stderr)


@contextlib.contextmanager
def _hub_errors(dataset: HubDataset) -> Iterator[None]:
    """Turn any error of the `datasets` library into one line that says what to do."""
    try:
        yield
    except (MinigptError, MemoryError):
        raise
    except Exception as error:
        raise DataError(_explanation(dataset, error)) from error


def _explanation(dataset: HubDataset, error: Exception) -> str:
    detail = " ".join(str(error).split())[:_MAX_DETAIL] or type(error).__name__
    if isinstance(error, FileNotFoundError):  # DatasetNotFoundError is one, for gated data sets as well
        hint = did_you_mean(dataset.name, ALIASES)
        return f"{dataset.spec} does not exist or asks for a login; {detail}{hint}; check it on {_HOST}"
    if isinstance(error, RuntimeError) and "script" in detail:
        return f"{dataset.spec} needs code from the Hub; {detail}; such code is never run, choose another data set"
    if isinstance(error, OSError):  # ConnectionError among them
        return f"cannot download {dataset.spec}; {detail}; {_INSTEAD}"
    return f"cannot read {dataset.spec}; {detail}; check its name and configuration on {_HOST}"


def _require_hub(dataset: HubDataset) -> None:
    """Raise `DataError` within seconds where `datasets` would retry for long without a network."""
    if _is_offline() or os.environ.get("HF_ENDPOINT") or {"http", "https", "all"} & set(urllib.request.getproxies()):
        return
    answers: list[bool] = []
    # NOTE: a thread, because the time limit of a connection does not cover the look-up of the host's address.
    prober = threading.Thread(target=lambda: answers.append(_can_connect()), daemon=True)
    prober.start()
    prober.join(_PROBE_SECONDS)
    if answers != [True]:
        raise DataError(f"cannot reach {_HOST} for {dataset.spec}; no answer on port 443; {_INSTEAD}")


def _can_connect() -> bool:
    try:
        socket.create_connection((_HOST, 443), timeout=_PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _is_offline() -> bool:
    switches = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    return any(value.upper() in {"1", "ON", "YES", "TRUE"} for value in switches)


def _revision(dataset: HubDataset) -> str | None:
    """Return the commit of the data set that the Hub serves now, or None where nobody can say."""
    if _is_offline():
        return None
    from huggingface_hub import dataset_info
    from huggingface_hub.errors import HfHubHTTPError

    try:
        revision: str | None = dataset_info(dataset.name, timeout=_PROBE_SECONDS).sha
    except (OSError, HfHubHTTPError):
        return None
    return revision
