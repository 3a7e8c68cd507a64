"""The diagnosis of a run: on which texts, in which precision, and which files it leaves in the run directory.

A split is counted on; what neurons are worth is measured on two more texts of the same corpus: the means that take
their place come from the training part, the losses from the validation part.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minigpt.base import storage
from minigpt.base.errors import CheckpointError, DataError
from minigpt.neurons.census import as_csv
from minigpt.neurons.diagnosis import Diagnosis, Item, Texts, diagnose
from minigpt.neurons.knockout import Batch
from minigpt.text.batches import evaluation_batches
from minigpt.text.corpora import open_corpus
from minigpt.text.encoding import encode_split
from minigpt.text.preparation import absolute_corpus, is_path
from minigpt.training import run_directory, runtime
from minigpt.training.evaluation import batch_size
from minigpt.training.inference import OpenedRun, open_text

FORMAT_VERSION = 1
DEFAULT_TOKENS = 1_048_576
MEANS_TOKENS = 65_536
LOSS_TOKENS = 8_192


@dataclass(frozen=True)
class Windows:
    """The windows of some ids, dealt into batches each time it is iterated over."""

    ids: np.ndarray
    block_size: int
    batch_size: int
    limit: int

    def __iter__(self) -> Iterator[Batch]:
        return evaluation_batches(self.ids, self.block_size, self.batch_size, self.limit)

    def __len__(self) -> int:
        complete = (len(self.ids) - 1) // self.block_size
        wanted = -(-self.limit // self.block_size)
        rest = len(self.ids) - 1 > complete * self.block_size and wanted >= complete
        return -(-min(wanted, complete) // self.batch_size) + rest


@dataclass(frozen=True)
class ExaminedText:
    """The text of a diagnosis: where it comes from, and its ids by split.

    Shapes: of each split (N,).
    """

    corpus: str
    sha256: str
    splits: dict[str, np.ndarray]


def diagnose_run(
    run: OpenedRun, corpus: str | None, split: str | None, tokens: int
) -> tuple[dict[str, Any], Diagnosis]:
    """Diagnose a run's neurons on at most `tokens` tokens; return what `neurons.json` holds, and all that was found.

    `corpus` None is the run's own. `split` None is val, for comparison with evaluations, or train if val is too small
    for a number of tokens that was asked for; `tokens` 0 means `DEFAULT_TOKENS`.

    Raises:
        DivergedError: hidden values are not finite.
        DataError: the split is empty, or the text has characters that the run's tokenizer lacks.
    """
    begun = time.perf_counter()
    text = _own_text(run) if corpus is None else _text_at(run, corpus, tokens)
    split = split or _default_split(text, tokens)
    if len(text.splits[split]) < 2:
        raise DataError(f"the {split} part of {text.corpus} is empty; choose another --split or a larger corpus")
    block_size = run.model.config.block_size

    def windows(part: str, limit: int) -> Windows:
        return Windows(text.splits[part], block_size, batch_size(run.model), limit)

    texts = Texts(
        probed=windows(split, tokens or DEFAULT_TOKENS),
        means=list(windows("train", MEANS_TOKENS)),
        losses=list(windows("val", LOSS_TOKENS)),
    )
    found = diagnose(
        run.model,
        texts,
        run.config.dtype,
        token_text=lambda token: run.tokenizer.decode([token]),
        autocast=partial(runtime.autocast, run.model.device, run.config.dtype),
        track=_track,
    )
    first = found.layers[0]
    head = {
        "format": FORMAT_VERSION,
        "step": run.checkpoint.step,
        "split": split,
        "corpus": text.corpus,
        "corpus_sha256": text.sha256,
        "tokens": first["tokens"],
        "sequences": first["sequences"],
        "block_size": block_size,
    }
    body = {"layers": found.layers, "model": found.model, "seconds": time.perf_counter() - begun}
    return {**head, **body}, found


def write(run: OpenedRun, record: dict[str, Any], found: Diagnosis) -> list[Path]:
    """Leave what was found in the run directory and return the paths of the files."""
    explorer = {"format": FORMAT_VERSION, "layers": found.explored}
    names = (run_directory.NEURONS, run_directory.NEURON_TABLE, run_directory.EXPLORER)
    figures, table, explored = (run.directory / name for name in names)
    files = {
        table.name: storage.write_text(table, as_csv(found.tables)),
        # NOTE: unindented, else it is three times as large.
        explored.name: storage.write_text(explored, storage.to_json(explorer) + "\n"),
    }
    storage.write_sealed(figures, {**record, "files": files})
    return [figures, table, explored]


def _text_at(run: OpenedRun, corpus: str, tokens: int) -> ExaminedText:
    """The run's own text, also at another place than it was trained at, or another text."""
    place = absolute_corpus(corpus)
    if run.config.corpus in (corpus, place):
        return _own_text(run)
    if is_path(place) and is_path(run.config.corpus) and not os.path.lexists(run.config.corpus):
        with contextlib.suppress(CheckpointError, DataError):
            return _own_text(replace(run, config=replace(run.config, corpus=place)))
    return _other_text(run, corpus, tokens)


def _own_text(run: OpenedRun) -> ExaminedText:
    store = open_text(run)
    return ExaminedText(run.config.corpus, store.sha256, {split: store.tokens(split) for split in ("train", "val")})


def _other_text(run: OpenedRun, spec: str, tokens: int) -> ExaminedText:
    """Encode another corpus with the run's tokenizer, no more of each split than is needed."""
    corpus = open_corpus(spec, run.config.val_fraction, run.config.test_fraction)
    limit = max(tokens or DEFAULT_TOKENS, MEANS_TOKENS) + 1
    splits = {split: encode_split(corpus, run.tokenizer, split, limit) for split in ("train", "val")}
    digest = storage.sha256_bytes(b"".join(ids.astype("<u4").tobytes() for ids in splits.values()))
    return ExaminedText(corpus.spec, digest, splits)


def _default_split(text: ExaminedText, tokens: int) -> str:
    return "val" if len(text.splits["val"]) > max(tokens, 1) else "train"


def _track(items: Iterable[Item], label: str) -> Iterable[Item]:
    """Show a bar on stderr, unless that is no terminal."""
    bar: Iterable[Item] = tqdm(items, desc=label, disable=None, file=sys.stderr, leave=False, dynamic_ncols=True)
    return bar
