"""The text of an audit: ids of one part of a corpus in the model's own vocabulary, dealt into windows of one context.

Windows lie side by side, as in an evaluation, and are spread over the part if there are more than asked for. A model
whose tokenizer begins every text with a token of its own gets that token at the start of each window. Windows that are
held out, spread evenly too, are not counted on: what is lost without some neurons is measured there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minigpt.base import storage
from minigpt.base.errors import DataError, UsageError
from minigpt.interop.open_model import OpenedModel, TheirTokenizer
from minigpt.text.corpora import open_corpus
from minigpt.text.encoding import encode_split, token_dtype
from minigpt.training.diagnose_run import DEFAULT_TOKENS, Windows

RAW_ENDING = ".bin"
DEFAULT_CORPUS = "stdlib"
LOSS_CONTEXT = 512
"""Tokens of a window that is held out, at most: many short ones sample a text better than few long ones."""


@dataclass(frozen=True)
class AuditOptions:
    """What is counted on, and how; None and 0 leave the choice to the model or the machine.

    position_0   `include`, `exclude` or `both`: whether the first token of a window counts
    slopes       whether slopes are taken too, which takes longer
    expendable   tokens that are predicted to find which neurons could go; 0 for not
    """

    texts: tuple[str, ...] = ()
    split: str | None = None
    text_field: str | None = None
    tokens: int | None = None
    context: int = 0
    dtype: str = "float32"
    position_0: str = "include"
    slopes: bool = False
    expendable: int = 0
    tokenizer: str | None = None
    device: str = "auto"
    batch_tokens: int = 0


@dataclass(frozen=True)
class AuditText:
    """Windows of `context` ids, `start` at the beginning of each, and where they come from.

    Shapes: ids (N,), held_out (windows,T+1).
    """

    corpus: str
    split: str
    ids: np.ndarray
    start: tuple[int, ...]
    context: int
    limit: int
    held_out: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))

    @property
    def sha256(self) -> str:
        """A hash of the ids."""
        return storage.sha256_bytes(self.ids.astype("<u4").tobytes())

    def windows(self, batch_size: int) -> Windows:
        """The windows without their `start`, dealt into batches; how many of them there are is its length."""
        return Windows(self.ids, self.context - len(self.start), batch_size, self.limit)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Yield ids (B,T), always the same ones in the same order; the last window may be short."""
        for inputs, _ in self.windows(batch_size):
            yield self._started(inputs)

    def held_out_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ids (B,T) of windows that were held out, and the ids that follow (B,T) without those of a `start`."""
        for windows in torch.split(torch.from_numpy(self.held_out.astype(np.int64)), batch_size):
            yield self._started(windows[:, :-1]), windows[:, 1:]

    def _started(self, inputs: Tensor) -> Tensor:
        start = torch.tensor(self.start, dtype=torch.int64).expand(len(inputs), len(self.start))
        return torch.cat([start, inputs], dim=1)


def read_text(opened: OpenedModel, options: AuditOptions, context: int, given: Tensor | None = None) -> AuditText:
    """Read what is to be counted on: about `tokens` ids of the texts, one after the other, in windows of `context`.

    Besides, about `expendable` ids are held out; no more than half of a short text. Ids (N,) that are `given` take the
    place of a text.

    No texts mean the run's own, or the default corpus. `split` None is the whole text, since nothing is trained on it;
    for a run of ours val, as `minigpt neurons` does, or train if more `tokens` are asked for than val has.

    Raises:
        DataError: there is no tokenizer, an id is outside the vocabulary, or the text is shorter than one context.
        UsageError: options that do not fit together.
    """
    specs, split, text_field = options.texts, options.split, options.text_field
    wanted, held_out = options.tokens or DEFAULT_TOKENS, options.expendable
    start = opened.tokenizer.window_start if isinstance(opened.tokenizer, TheirTokenizer) else ()
    spare = min(context, LOSS_CONTEXT) - len(start)
    limit = wanted + context + 1 + (held_out + spare if held_out else 0)
    corpus = " + ".join(specs) or (opened.own_text[0] if opened.own_text else DEFAULT_CORPUS)
    if given is not None:
        if specs or split or text_field:
            raise UsageError("ids take the place of a text; got both; leave one of them out")
        corpus, chosen, ids = "ids", "all", given.detach().cpu().reshape(-1).numpy().astype(np.int64)[:limit]
    elif any(spec.endswith(RAW_ENDING) for spec in specs):
        if len(specs) > 1 or split or text_field:
            raise UsageError("raw ids are one file without parts and fields; got more; leave the other options out")
        chosen, ids = "all", _raw_ids(Path(specs[0]), opened.vocab_size)[:limit]
    else:
        chosen, ids = _encoded(opened, specs, _parts(opened, split, options.tokens), text_field, limit)
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < opened.vocab_size:
        wrong = int(ids.max() if ids.max() >= opened.vocab_size else ids.min())
        raise DataError(f"{corpus} has id {wrong}; {opened.name} knows {opened.vocab_size:,}; give its own --tokenizer")
    ids, held = _hold_out(ids, spare, held_out)
    if len(ids) - 1 < context - len(start):
        raise DataError(
            f"{corpus} ({chosen}) has {len(ids):,} tokens; fewer than one context of {context:,}; "
            "give more --text or a shorter --context"
        )
    if held_out and not len(held):
        raise DataError(f"{corpus} ({chosen}) leaves no window to hold out; it is too short; give more --text")
    return AuditText(corpus, chosen, ids, start, context, wanted, held)


def _parts(opened: OpenedModel, split: str | None, tokens: int | None) -> list[str]:
    """The parts of the text to try, in this order, until one has tokens enough."""
    if split:
        return [split]
    if opened.own_text is None:
        return ["all"]
    return ["val"] if tokens is None else ["val", "train"]


def _hold_out(ids: np.ndarray, length: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Take windows of `length` ids, each with the id that follows, evenly out of a text; return the rest, and them."""
    windows = (len(ids) - 1) // length
    number = min(-(-tokens // length), windows // 2)
    starts = np.arange(number) * windows // max(number, 1) * length
    places = starts[:, None] + np.arange(length + 1)
    return np.delete(ids, places[:, :-1]), ids[places]


def _encoded(
    opened: OpenedModel, specs: Sequence[str], parts: Sequence[str], text_field: str | None, limit: int
) -> tuple[str, np.ndarray]:
    """The part that was counted on, and its ids."""
    if opened.tokenizer is None:
        raise DataError(
            f"{opened.name} has no tokenizer; give one with --tokenizer, or raw 16-bit ids with --text FILE.bin"
        )
    own, val, test = opened.own_text or (DEFAULT_CORPUS, 0.10, 0.05)
    for part in parts:
        read, held = ("train" if part == "all" else part), (0.0, 0.0) if part == "all" else (val, test)
        corpora = [open_corpus(spec, *held, text_field=text_field) for spec in specs or [own]]
        pieces: list[np.ndarray] = []
        for corpus in corpora:
            if (missing := limit - sum(map(len, pieces))) <= 0:
                break
            separator = [np.array(opened.tokenizer.separator, dtype=np.int64)] if pieces else []
            pieces += [*separator, encode_split(corpus, opened.tokenizer, read, missing)]
        ids = np.concatenate(pieces)[:limit]
        if len(ids) >= limit:
            break
    return part, ids


def _raw_ids(path: Path, vocab_size: int) -> np.ndarray:
    """The ids of a file as nanoGPT and we write it: little-endian, 16 bits, or 32 if the vocabulary needs them."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a file of raw ids")
    dtype = token_dtype(vocab_size)
    data = storage.read_bytes(path, DataError)
    if len(data) % dtype.itemsize:
        raise DataError(f"{path} has {len(data):,} bytes; no whole number of {8 * dtype.itemsize}-bit ids; check it")
    return np.frombuffer(data, dtype=dtype).astype(np.int64)
