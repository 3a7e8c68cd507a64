"""How well text is predicted: one by one, in answers counted, on other texts, and by n-grams in a list."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from claim_examples import (
    evidence,
    lively_model,
    opened,
    store,
)
from torch.nn import functional as F

from minigpt.claims.measurements import prediction
from minigpt.claims.measurements.batches_and_losses import Figures
from minigpt.claims.rows import selection
from minigpt.model import GPT, GPTConfig
from minigpt.text.corpora import open_corpus
from minigpt.text.store import TokenStore, prepare
from minigpt.training.evaluation import evaluate

# -------------------------------------------------------------------------------------------------- losses of the model


def losses_one_by_one(model: torch.nn.Module, ids: np.ndarray, block: int) -> np.ndarray:
    """Loss of each token after the first, windows side by side, without any of the project's batching."""
    found = []
    with torch.no_grad():
        for begin in range(0, len(ids) - 1, block):
            window = torch.tensor(ids[begin : begin + block + 1].astype(int))
            logits = model(window[None, :-1])[0].double()
            found += [-float(F.log_softmax(row, dim=0)[target]) for row, target in zip(logits, window[1:], strict=True)]
    return np.array(found)


def test_the_gap_is_between_the_tokens_trained_on_and_new_ones() -> None:
    """Of the training part only what was trained on, and without dropout."""
    model, text = lively_model(dropout=0.5), store()
    figures = prediction.gap(opened(model, train_tokens=500), text)
    train, val = (
        losses_one_by_one(model, text.tokens(part)[:n], 16).mean() for part, n in (("train", 500), ("val", 3000))
    )
    assert figures["train"] == pytest.approx(train, abs=1e-5)
    assert figures["val"] == pytest.approx(val, abs=1e-5)
    assert figures["gap"] == pytest.approx(val - train, abs=1e-5)


def test_losses_of_chunks_and_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "SIZES", {"1k": 1024})
    model, text = lively_model(), store()
    figures = prediction.split_losses(opened(model), text)
    losses = losses_one_by_one(model, text.tokens("val"), 16)
    assert figures["tokens"] == len(losses) == 2999
    assert set(figures) == {"all", "tokens", "1k/0", "1k/1"}
    found = evidence(figures={("a", 0, "split_losses"): figures})
    on_chunk, on_rest = selection.chunks(found, ("a",), 0, "1k")
    expected = [
        (losses[:1024].mean(), losses[1024:].mean()),
        (losses[1024:2048].mean(), np.delete(losses, slice(1024, 2048)).mean()),
    ]
    assert np.stack([on_chunk[0], on_rest[0]], axis=1) == pytest.approx(np.array(expected), abs=1e-5)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Three small texts that take the place of the prediction."""
    paths = tuple(str(tmp_path / f"{name}.txt") for name in ("one", "two", "three"))
    for number, path in enumerate(paths):
        Path(path).write_text(f"{number} more words of kind {number}\n" * 400, encoding="utf-8")
    monkeypatch.setattr(prediction, "DOMAINS", paths)
    return paths


def in_domains(texts: tuple[str, ...], tokenizer: str, place: Path) -> tuple[GPT, list[TokenStore], Figures]:
    """A model of the first text, all texts prepared, and the losses measured on them."""
    stores = [prepare(open_corpus(text), tokenizer, place, 17) for text in texts]
    own = stores[0].tokenizer
    model = lively_model(20.0, vocab_size=own.vocab_size, n_layer=1)
    run = opened(model, own, tokenizer=tokenizer, corpus=texts[0], data_dir=str(place))
    return model, stores, prediction.domain_losses(run, stores[0])


def test_each_domain_is_predicted_as_an_evaluation_would(texts: tuple[str, ...], tmp_path: Path) -> None:
    model, stores, found = in_domains(texts, "byte", tmp_path / "data")
    for name, text in zip(texts, stores, strict=True):
        lengths, limit = text.tokenizer.byte_lengths(), prediction.DOMAIN_TOKENS
        expected = evaluate(model, text.tokens("val"), lengths, split="val", dtype="float32", limit=limit)
        assert found[name] == pytest.approx(expected.loss)
    assert len({round(loss, 6) for loss in found.values() if loss is not None}) == 3


def test_a_domain_with_another_vocabulary_has_no_loss(texts: tuple[str, ...], tmp_path: Path) -> None:
    """Ids of one vocabulary mean nothing in another; a loss of them would be a number without a meaning."""
    _, _, found = in_domains(texts, "char", tmp_path / "data")
    assert [found[text] is None for text in texts] == [False, True, True]


# -------------------------------------------------------------------------------------------------------- right answers


class Oracle(torch.nn.Module):
    """Says 1 after whatever it reads, as sure as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.config = GPTConfig(vocab_size=11, block_size=16)
        self.device = torch.device("cpu")

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.one_hot(torch.full_like(ids, 2), 11).float()


def test_answers_are_found_and_counted() -> None:
    """The model always says 1, so it is right where a line ends with it. Windows of 16 cut lines of five."""
    random = np.random.default_rng(2)
    lines = ["".join(random.choice(list("01"), 2)) + "=" + str(random.integers(2)) for _ in range(101)]
    run = opened(Oracle())  # type: ignore[arg-type]
    # Line n has its answer at 5n + 3 and the break before it at 5n − 1, both of which one window must hold.
    seen = [n for n in range(1, 101) if 5 * n - 1 >= (5 * n + 2) // 16 * 16]
    figures = prediction.accuracy(run, store(val=run.tokenizer.encode("\n".join(lines) + "\n")))
    assert figures["answers"] == len(seen) > 70
    assert figures["accuracy"] == pytest.approx(np.mean([lines[n].endswith("1") for n in seen]))
    assert prediction.accuracy(run, store(val=np.ones(40)))["accuracy"] is None


# ------------------------------------------------------------------------------------------------------------- counting


LETTERS = 3


COUNTED = np.random.default_rng(7).integers(0, LETTERS, 40)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_ngram_probabilities_sum_to_one(order: int) -> None:
    """After every context, seen or not; otherwise counting could look better than any model."""
    for context in itertools.product(range(LETTERS), repeat=order - 1):
        chances = [
            prediction.probabilities(COUNTED, [*context, letter], LETTERS, order)[-1][-1] for letter in range(LETTERS)
        ]
        assert math.fsum(chances) == pytest.approx(1)
        assert min(chances) > 0


def _witten_bell(text: list[int], context: tuple[int, ...], letter: int, vocabulary: int) -> float:
    """The recursion as the literature has it, by counting in a list."""
    shorter = _witten_bell(text, context[1:], letter, vocabulary) if context else 1 / vocabulary
    size = len(context)
    followed = Counter(text[i + size] for i in range(len(text) - size) if tuple(text[i : i + size]) == context)
    if not followed:
        return shorter
    return (followed[letter] + len(followed) * shorter) / (followed.total() + len(followed))


@pytest.mark.parametrize("vocabulary", [LETTERS, 50_000])
def test_ngrams_agree_with_counting_in_a_list(vocabulary: int) -> None:
    """In a large vocabulary too, where the number of possible contexts fits into no integer."""
    counted = (COUNTED * (vocabulary // LETTERS)).tolist()
    predicted = (np.random.default_rng(8).integers(0, LETTERS, 25) * (vocabulary // LETTERS)).tolist()
    text = [*counted, *predicted]
    for order, found in enumerate(prediction.probabilities(counted, predicted, vocabulary, 5), start=1):
        for place, chance in enumerate(found, start=len(counted)):
            context = tuple(text[place - order + 1 : place])
            assert chance == pytest.approx(_witten_bell(counted, context, text[place], vocabulary))


def test_a_text_that_repeats_itself_is_predicted_by_its_past(tmp_path: Path) -> None:
    """`abcabc…`: almost no loss after the first token, and no better than 1/3 without a context."""
    (tmp_path / "text.txt").write_text("abc" * 2000, encoding="utf-8")
    text = prepare(open_corpus(str(tmp_path / "text.txt")), "char", tmp_path / "data", 10)
    found = prediction.ngrams(opened(lively_model(), text.tokenizer), text)
    assert 0 < found["fivegram"] < found["bigram"] < 0.01
    unigram = prediction.probabilities(text.tokens("train"), text.tokens("val"), 3, 1)[0]
    assert -np.log(unigram).mean() == pytest.approx(math.log(3), abs=1e-3)
