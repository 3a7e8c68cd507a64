"""The registry of corpora: which text a `--corpus` names, and how it is dealt to train, val and test.

    stdlib          prose from the running Python, the default       stdlib_prose.py
    stdlib-code     Python source from the same place                stdlib_code.py
    grammar[:SEED]  random sentences whose entropy is known          grammar.py
    professions:RATIO[:SEED]  sentences with a planted bias          professions.py
    task:NAME[:SEED]  lines whose last symbol follows from the rest  tasks.py
    hf:NAME         a data set of the Hugging Face Hub, or an alias  hub.py
    PATH            .txt, .jsonl, .parquet, or a folder of them      files.py, plain.py, rows.py

Nothing is read before it is asked for. Turning the text into ids is the work of `store.py`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.base import storage
from minigpt.base.errors import DataError, UsageError, did_you_mean
from minigpt.text import files, folders, hub, professions, stdlib_code, stdlib_prose, tasks
from minigpt.text.grammar import grammar
from minigpt.text.splits import CHUNK, SPLITS, Document, Fractions, in_chunks

GENERATED_CHARACTERS = 2_000_000
_SAMPLE = 10_000  # characters that tell whether two versions of minigpt generate the same text
_JOIN = "\n\n"

Reader = Callable[[Collection[str]], Iterator[tuple[str, Document]]]
Fingerprint = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]


@dataclass(frozen=True)
class Corpus:
    """Text with a name, dealt to the splits, and not yet read.

    `read` yields the documents of the wanted splits, each with its split. `fingerprint` takes the answers that were
    recorded earlier and returns the present one; the text is the same if all but their `stat` is equal.
    `exact_nats` tells how surprising a split is to the process that wrote it, where that is known. `text_field` is the
    field of rows that was asked for.
    """

    spec: str
    fractions: Fractions
    fingerprint: Fingerprint
    read: Reader
    exact_nats: Callable[[str], float] | None = None
    text_field: str | None = None

    def documents(self, split: str) -> Iterator[Document]:
        """Yield the documents of one split; consume each before asking for the next."""
        return (document for _, document in self.read({split}))

    def texts(self, splits: Collection[str] = SPLITS) -> Iterator[str]:
        """Yield the text of the given splits, chunk by chunk."""
        return (chunk for _, document in self.read(splits) for chunk in document)


@dataclass(frozen=True)
class CorpusDescription:
    """One row of the list of corpora."""

    name: str
    description: str
    source: str
    licence: str
    needs_network: bool


def describe_corpora() -> list[CorpusDescription]:
    """Return what can be asked for by name, and how own text is given."""
    own = "your own text"
    return [
        CorpusDescription("stdlib", "English prose about Python, 1.7 MB", "the running Python", "PSF licence", False),
        CorpusDescription("grammar:SEED", "random sentences of known entropy, 2 MB", "generated", "none needed", False),
        CorpusDescription("stdlib-code", "Python source, 2 MB", "the running Python", "PSF licence", False),
        CorpusDescription("professions:RATIO", "pronouns planted at a ratio, 2 MB", "generated", "none needed", False),
        CorpusDescription("task:parity", "strings of bits and their parity, 2 MB", "generated", "none needed", False),
        CorpusDescription("task:twohop", "look-ups in two steps, 2 MB", "generated", "none needed", False),
        CorpusDescription("shakespeare", "plays, 1.1 MB", _source("shakespeare"), "public domain", True),
        CorpusDescription("tinystories", "simple stories, 1.9 GB", _source("tinystories"), "CDLA-Sharing-1.0", True),
        CorpusDescription("wikitext2", "Wikipedia, 13 MB", _source("wikitext2"), "CC-BY-SA-3.0, GFDL", True),
        CorpusDescription("wikitext103", "Wikipedia, 540 MB", _source("wikitext103"), "CC-BY-SA-3.0, GFDL", True),
        CorpusDescription("fineweb-edu", "web pages, 200 MB of them", _source("fineweb-edu"), "ODC-BY", True),
        CorpusDescription("hf:NAME[:CONFIG][@SIZE]", "any data set with text", "Hugging Face Hub", "see there", True),
        CorpusDescription("PATH", ".txt, .md, .jsonl, .parquet, or a folder of them", own, "yours", False),
    ]


def _source(alias: str) -> str:
    return hub.ALIASES[alias].spec


def open_corpus(
    spec: str,
    val_fraction: float = 0.10,
    test_fraction: float = 0.05,
    block: int = CHUNK,
    text_field: str | None = None,
) -> Corpus:
    """Return the corpus that `spec` names; `block` bounds what is read at a time.

    A known name wins over a file of that name, which `./NAME` reaches. `text_field` tells which field of rows is the
    text, where that is not to be found out.

    Raises:
        UsageError: a fraction or the spelling of `spec` is not allowed, or `text_field` has no use.
        DataError: there is no such text.
    """
    fractions = Fractions(val_fraction, test_fraction)
    if spec.startswith("hf:") or spec.split("@")[0] in hub.ALIASES:
        return _hub(hub.parse(spec), fractions, text_field)
    generated = _without_rows(spec, fractions, block)
    if generated is None:
        return _files(spec, fractions, block, text_field)
    if text_field is not None:
        raise UsageError(f"--text-field {text_field!r:.60} is of no use; {spec} has no rows; leave it out")
    return generated


def has_known_entropy(spec: str) -> bool:
    """Whether the process that writes a corpus is known, so that its text has an exact code length."""
    return spec.partition(":")[0] == "grammar"


def _without_rows(spec: str, fractions: Fractions, block: int) -> Corpus | None:
    """A corpus that is read from the running Python or made up; None if `spec` names no such one."""
    if spec == "stdlib":
        return _stdlib(fractions, block)
    if spec == "stdlib-code":
        return _stdlib_code(fractions, block)
    if spec.split(":")[0] == "professions":
        return _professions(spec, fractions, block)
    if spec.split(":")[0] == "task":
        return _task(spec, fractions, block)
    if has_known_entropy(spec):
        return _grammar(_grammar_seed(spec), fractions, block)
    return None


def _stdlib(fractions: Fractions, block: int) -> Corpus:
    if not stdlib_prose.is_available():
        place = stdlib_prose.library()
        print(
            f"warning: this Python ships no sources; none were found in {place}; using --corpus grammar:0 instead, "
            "whose figures do not transfer to real text",
            file=sys.stderr,
        )
        return _grammar(0, fractions, block)

    def read(wanted: Collection[str]) -> Iterator[tuple[str, Document]]:
        homes = [(fractions.split_of(paragraph), paragraph) for paragraph in stdlib_prose.paragraphs()]
        for split in SPLITS:
            text = _JOIN.join(paragraph for home, paragraph in homes if home == split)
            if split in wanted and text:
                yield split, in_chunks([text], block)

    content = {"python": sys.version, "library": str(stdlib_prose.library()), "version": stdlib_prose.VERSION}
    return Corpus("stdlib", fractions, lambda _: {"content": content}, read)


def _stdlib_code(fractions: Fractions, block: int) -> Corpus:
    if not stdlib_prose.is_available():
        place = stdlib_prose.library()
        raise DataError(f"this Python ships no sources; none were found in {place}; use another --corpus")

    def read(wanted: Collection[str]) -> Iterator[tuple[str, Document]]:
        homes = [(fractions.split_of(module), module) for module in stdlib_code.modules()]
        for split in SPLITS:
            text = _JOIN.join(module for home, module in homes if home == split)
            if split in wanted and text:
                yield split, in_chunks([text], block)

    content = {"python": sys.version, "library": str(stdlib_prose.library()), "version": stdlib_code.VERSION}
    return Corpus("stdlib-code", fractions, lambda _: {"content": content}, read)


def _professions(spec: str, fractions: Fractions, block: int) -> Corpus:
    _, ratio, seed = _three_parts(spec)
    if not (_is_number(ratio) and _is_number(seed) and 50 <= int(ratio) <= 100):
        allowed = "write professions:RATIO or professions:RATIO:SEED, RATIO in percent from 50 to 100"
        raise UsageError(f"professions needs whole numbers; got {spec!r:.100}; {allowed}")
    write = functools.partial(professions.text, int(ratio), int(seed))
    return _generated(f"professions:{int(ratio)}:{int(seed)}", write, fractions, block)


def _task(spec: str, fractions: Fractions, block: int) -> Corpus:
    _, task, seed = _three_parts(spec)
    if task not in tasks.ASKS or not _is_number(seed):
        hint = did_you_mean(task, tasks.ASKS) or ";"
        raise UsageError(f"unknown task {spec!r:.100}{hint} allowed: task:parity, task:twohop, and :SEED behind them")
    return _generated(f"task:{task}:{int(seed)}", functools.partial(tasks.text, task, int(seed)), fractions, block)


def _three_parts(spec: str) -> tuple[str, str, str]:
    name, _, rest = spec.partition(":")
    what, _, seed = rest.partition(":")
    return name, what, seed or "0"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _generated(spec: str, write: Callable[[int, int], Iterator[str]], fractions: Fractions, block: int) -> Corpus:
    """A corpus of three streams that `write` yields by number of stream and characters."""

    def read(wanted: Collection[str]) -> Iterator[tuple[str, Document]]:
        for split in SPLITS:
            if split in wanted and fractions.of(split) > 0:
                characters = round(GENERATED_CHARACTERS * fractions.of(split))
                yield split, in_chunks(write(SPLITS.index(split), characters), block)

    def fingerprint(_: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        sample = "".join(write(0, _SAMPLE))
        return {"content": {"spec": spec, "sample": storage.sha256_bytes(sample.encode("utf-8"))}}

    return Corpus(spec, fractions, fingerprint, read)


def _grammar_seed(spec: str) -> int:
    seed = spec.removeprefix("grammar").removeprefix(":") or "0"
    if not (seed.isascii() and seed.isdigit()):
        raise UsageError(f"the grammar's seed is no number; it is {seed!r}; write grammar:SEED, SEED as in 0 or 17")
    return int(seed)


def _grammar(seed: int, fractions: Fractions, block: int) -> Corpus:
    sentences = grammar(seed)

    def text(split: str) -> Iterator[str]:
        return sentences.text(SPLITS.index(split), round(GENERATED_CHARACTERS * fractions.of(split)))

    def read(wanted: Collection[str]) -> Iterator[tuple[str, Document]]:
        for split in SPLITS:
            if split in wanted and fractions.of(split) > 0:
                yield split, in_chunks(text(split), block)

    def fingerprint(_: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        sample = "".join(sentences.text(0, _SAMPLE))
        return {"content": {"seed": seed, "sample": storage.sha256_bytes(sample.encode("utf-8"))}}

    def exact_nats(split: str) -> float:
        return sentences.code_length("".join(text(split))) if fractions.of(split) > 0 else 0.0

    return Corpus(f"grammar:{seed}", fractions, fingerprint, read, exact_nats)


def _hub(dataset: hub.HubDataset, fractions: Fractions, text_field: str | None) -> Corpus:
    parts = functools.cache(functools.partial(hub.load, dataset))
    return Corpus(
        dataset.spec,
        fractions,
        functools.partial(hub.fingerprint, dataset),
        functools.partial(hub.read, dataset, parts, fractions, text_field),
        text_field=text_field,
    )


def _files(spec: str, fractions: Fractions, block: int, text_field: str | None) -> Corpus:
    path = Path(spec)
    try:
        exists = bool(spec) and path.exists()
    except OSError as reason:
        raise DataError(f"cannot read {spec!r}; {reason.strerror or reason}; give an existing text file") from reason
    if not exists:
        known = ("stdlib", "stdlib-code", "grammar", "professions:90", "task:parity", "task:twohop", *hub.ALIASES)
        hint = did_you_mean(spec, known)
        raise DataError(f"no such corpus or file: {spec!r}{hint}; allowed are {', '.join(known)}, hf:NAME, or a path")
    found = folders.find_files(path)
    if remark := found.remark(spec):
        print(remark, file=sys.stderr)
    fields = functools.cache(functools.partial(files.choose_fields, spec, found, text_field))
    return Corpus(
        spec,
        fractions,
        functools.partial(files.fingerprint, found.files),
        lambda wanted: files.read(found.files, fields(), fractions, wanted, block),
        text_field=text_field,
    )
