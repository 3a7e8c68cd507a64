"""What is measured on models of text, against known answers: n-grams, substitutions, other kinds of text, pronouns."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from minigpt.claims.measurements import prediction, tampered_text
from minigpt.model import GPT, GPTConfig
from minigpt.text.corpora import open_corpus
from minigpt.text.professions import PROFESSIONS, Prompt
from minigpt.text.store import TokenStore, prepare
from minigpt.text.tokenizers import ByteTokenizer
from minigpt.training.config import RunConfig
from minigpt.training.evaluation import evaluate

TINY = GPTConfig(vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=12)


def random_model(config: GPTConfig = TINY, spread: float = 20.0) -> GPT:
    """A model whose weights are large enough for every token to matter."""
    model = GPT(config, seed=5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(spread)
    return model


def opened(model: GPT, store: TokenStore, config: RunConfig) -> Any:
    """As much of an opened run as measurements read."""
    return SimpleNamespace(model=model, config=config, tokenizer=store.tokenizer)


# ------------------------------------------------------------------------------------------------------------- n-grams

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
    """The recursion as it stands in the literature, by counting in a list."""
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
    """`abcabc…`: hardly any loss after the first token, and no better than 1/3 without a context."""
    (tmp_path / "text.txt").write_text("abc" * 2000, encoding="utf-8")
    store = prepare(open_corpus(str(tmp_path / "text.txt")), "char", tmp_path / "data", 10)
    found = prediction.ngrams(opened(GPT(TINY), store, RunConfig()), store)
    assert 0 < found["fivegram"] < found["bigram"] < 0.01
    unigram = prediction.probabilities(store.tokens("train"), store.tokens("val"), 3, 1)[0]
    assert -np.log(unigram).mean() == pytest.approx(math.log(3), abs=1e-3)


# ------------------------------------------------------------------------------------------------------- substitutions


@pytest.fixture(scope="module")
def windows() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(TINY.vocab_size, (6, TINY.block_size + 1), generator=torch.Generator().manual_seed(1))
    return ids[:, :-1], ids[:, 1:]


def test_what_is_judged_comes_after_what_may_be_replaced(windows: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (inputs, targets) = random_model(), windows
    with torch.no_grad():
        chances = model(inputs).log_softmax(-1).gather(2, targets[..., None])[..., 0]  # (B,T)
    torch.testing.assert_close(tampered_text.late_losses(model, inputs, targets), -chances[:, 12:].mean(1))


def test_promised_rises_are_derivatives(windows: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Moving an embedding a little towards another token's changes the loss at the promised rate."""
    model, step, place, token = random_model().double(), 1e-6, 3, 7
    inputs, targets = windows
    promised = tampered_text.estimated_rises(model, inputs, targets)
    assert promised.shape == (6, 12, TINY.vocab_size)
    before = tampered_text.late_losses(model, inputs, targets)

    def moved(module: Any, ids: Any, output: torch.Tensor) -> torch.Tensor:
        towards = model.wte.weight[token] - output[:, place]
        return output.index_add(1, torch.tensor([place]), step * towards[:, None])

    handle = model.wte.register_forward_hook(moved)
    rate = (tampered_text.late_losses(model, inputs, targets) - before) / step
    handle.remove()
    other = inputs[:, place] != token
    torch.testing.assert_close(promised[other, place, token].float(), rate[other].float(), rtol=1e-3, atol=1e-6)
    assert (promised[~other, place, token] == -torch.inf).all()


def test_one_substitution_is_the_worst_there_is(
    windows: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all candidates tried, one greedy step finds what trying every place and token finds."""
    model, (inputs, targets) = random_model(), windows
    monkeypatch.setattr(tampered_text, "TRIED", 10_000)
    monkeypatch.setattr(tampered_text, "SUBSTITUTIONS", 1)
    found = tampered_text.late_losses(model, tampered_text.attacked(model, inputs, targets), targets)
    tried = []
    for place, token in itertools.product(range(12), range(TINY.vocab_size)):
        changed = inputs.clone()
        changed[:, place] = token
        tried.append(tampered_text.late_losses(model, changed, targets))
    torch.testing.assert_close(found, torch.stack(tried).max(0).values)


def test_an_attack_replaces_few_tokens_and_none_that_is_judged(windows: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (inputs, targets) = random_model(), windows
    attacked = tampered_text.attacked(model, inputs, targets)
    replaced = attacked != inputs
    assert replaced.any()
    assert (replaced.sum(1) <= tampered_text.SUBSTITUTIONS).all()
    assert not replaced[:, 12:].any()
    assert (
        tampered_text.late_losses(model, attacked, targets) >= tampered_text.late_losses(model, inputs, targets)
    ).all()


def test_chance_replaces_as_many_tokens_as_an_attack_may(windows: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, _ = windows
    draws = [tampered_text.replaced_at_random(random_model(), inputs, draw) for draw in range(2)]
    for drawn in draws:
        assert ((drawn != inputs).sum(1) == tampered_text.SUBSTITUTIONS).all()
        assert not (drawn != inputs)[:, 12:].any()
        assert 0 <= drawn.min() <= drawn.max() < TINY.vocab_size
    assert (draws[0] != draws[1]).any()


# ------------------------------------------------------------------------------------------------- other kinds of text


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Three small texts that take the place of the prediction."""
    paths = tuple(str(tmp_path / f"{name}.txt") for name in ("one", "two", "three"))
    for number, path in enumerate(paths):
        Path(path).write_text(f"{number} more words of kind {number}\n" * 400, encoding="utf-8")
    monkeypatch.setattr(prediction, "DOMAINS", paths)
    return paths


def test_each_domain_is_predicted_as_an_evaluation_would(texts: tuple[str, ...], tmp_path: Path) -> None:
    config = RunConfig(
        tokenizer="byte", corpus=texts[0], data_dir=str(tmp_path / "data"), block_size=16, dtype="float32"
    )
    model = random_model(GPTConfig(vocab_size=256, block_size=16, n_layer=1, n_head=2, n_embd=12))
    stores = [prepare(open_corpus(text), "byte", tmp_path / "data", 17) for text in texts]
    found = prediction.domain_losses(opened(model, stores[0], config), stores[0])
    for text, store in zip(texts, stores, strict=True):
        expected = evaluate(
            model,
            store.tokens("val"),
            store.tokenizer.byte_lengths(),
            split="val",
            dtype="float32",
            limit=prediction.DOMAIN_TOKENS,
        )
        assert found[text] == pytest.approx(expected.loss)
    assert len({round(loss, 6) for loss in found.values() if loss is not None}) == 3


def test_a_domain_with_another_vocabulary_has_no_loss(texts: tuple[str, ...], tmp_path: Path) -> None:
    """Ids of one vocabulary mean nothing in another; a loss of them would be a number without a meaning."""
    config = RunConfig(
        tokenizer="char", corpus=texts[0], data_dir=str(tmp_path / "data"), block_size=16, dtype="float32"
    )
    stores = [prepare(open_corpus(text), "char", tmp_path / "data", 17) for text in texts]
    own = stores[0].tokenizer
    model = GPT(GPTConfig(vocab_size=own.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=12)).eval()
    found = prediction.domain_losses(opened(model, stores[0], config), stores[0])
    assert [found[text] is None for text in texts] == [False, True, True]


# ------------------------------------------------------------------------------------------------------------ pronouns

BYTES = GPTConfig(vocab_size=256, block_size=64, n_layer=2, n_head=2, n_embd=12)


class Bigram(torch.nn.Module):
    """A model that sees the last byte only."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.randn(256, 256, generator=torch.Generator().manual_seed(2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logits[ids]


def reader(model: torch.nn.Module) -> Any:
    """As much of an opened run as the pronouns need."""
    return SimpleNamespace(model=model, config=RunConfig(dtype="float32"), tokenizer=ByteTokenizer())


def test_log_odds_are_those_of_the_two_pronouns() -> None:
    """`she` against `he` after a blank: what a model of byte pairs says can be worked out by hand."""
    model = Bigram()
    chance = model.logits.log_softmax(1)
    she = chance[ord(" "), ord("s")] + chance[ord("s"), ord("h")] - chance[ord(" "), ord("h")]
    asked = tampered_text.sentences(ByteTokenizer(), 64)
    for question, odds in zip(asked, tampered_text.log_odds(reader(model), asked), strict=True):
        assert float(odds) == pytest.approx(float(she if question.prompt.majority == "she" else -she), abs=1e-5)


def test_each_profession_is_asked_about_in_whole_sentences() -> None:
    asked = tampered_text.sentences(ByteTokenizer(), 64)
    assert {question.prompt.profession for question in asked} == set(PROFESSIONS)
    for question in asked:
        beginning = ByteTokenizer().decode(question.usual[: question.known])
        assert beginning == "\n" + question.prompt.text
        assert ByteTokenizer().decode(question.usual) == f"{beginning} {PROFESSIONS[question.prompt.profession]}"
        assert sorted(ByteTokenizer().decode(ids).split()[-1] for ids in (question.usual, question.other)) == [
            "he",
            "she",
        ]
        assert max(len(question.usual), len(question.other)) <= 65


def test_nothing_is_measured_where_no_sentence_fits() -> None:
    model = GPT(GPTConfig(vocab_size=256, block_size=16, n_layer=1, n_head=2, n_embd=12)).eval()
    assert tampered_text.pronouns(reader(model), None) == {}  # type: ignore[arg-type]


def test_filling_up_changes_nothing() -> None:
    """Sentences of different lengths are read together; each must count as if it had been read alone."""
    model = random_model(BYTES)
    asked = tampered_text.sentences(ByteTokenizer(), 64)[::20]
    together = tampered_text.log_odds(reader(model), asked)
    alone = torch.cat([tampered_text.log_odds(reader(model), [question]) for question in asked])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_means_are_over_professions_and_not_over_sentences() -> None:
    """The template with most words in between would otherwise count seventy times as much as the shortest."""

    def question(profession: str, template: int) -> tampered_text.Sentence:
        return tampered_text.Sentence(Prompt(profession, "she", template, ""), 0, [], [])

    asked = [question("nurse", 0), *[question("nurse", 1)] * 3, question("pilot", 0)]
    assert tampered_text.evenly(asked, torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0])) == pytest.approx(
        ((1 + 3) / 2 + 10) / 2
    )


def test_a_quarter_of_the_neurons_is_zeroed() -> None:
    """The same as cutting the weights by which they write."""
    model = random_model(BYTES)
    cut = copy.deepcopy(model)
    masks = [tampered_text.random_neurons(48, draw=1, layer=layer) for layer in range(2)]
    assert [int(mask.sum()) for mask in masks] == [12, 12]
    assert (masks[0] != masks[1]).any()
    assert (masks[0] != tampered_text.random_neurons(48, draw=2, layer=0)).any()
    with torch.no_grad():
        for block, mask in zip(cut.blocks, masks, strict=True):
            block.mlp.w_out.weight[:, mask] = 0
    asked = tampered_text.sentences(ByteTokenizer(), 64)[:12]
    without = tampered_text._log_odds_without(reader(model), asked, draw=1)
    torch.testing.assert_close(without, tampered_text.log_odds(reader(cut), asked))
    assert (without - tampered_text.log_odds(reader(model), asked)).abs().min() > 1e-4


def test_shares_belong_to_log_odds() -> None:
    """One neuron more or less is nothing to a model that ignores its neurons."""
    model = random_model(BYTES)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.w_out.weight.zero_()
    found = tampered_text.pronouns(reader(model), None)  # type: ignore[arg-type]
    asked = tampered_text.sentences(ByteTokenizer(), 64)
    odds = tampered_text.log_odds(reader(model), asked)
    assert found["log_odds"] == pytest.approx(tampered_text.evenly(asked, odds))
    assert found["share"] == pytest.approx(tampered_text.evenly(asked, 1 / (1 + torch.exp(-odds))))
    assert found["share_killed"] == pytest.approx(found["share"])
