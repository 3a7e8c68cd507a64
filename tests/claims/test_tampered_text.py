"""Tokens replaced: the worst substitution is found; pronouns planted: log-odds by hand."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from claim_examples import ALPHABET, lively_model, opened

from minigpt.claims.measurements import tampered_text
from minigpt.model import GPT, GPTConfig
from minigpt.text.professions import PROFESSIONS, Prompt
from minigpt.text.tokenizers import ByteTokenizer

# ------------------------------------------------------------------------------------------------------ tokens replaced


@pytest.fixture(scope="module")
def windows() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(len(ALPHABET), (6, 16 + 1), generator=torch.Generator().manual_seed(1))
    return ids[:, :-1], ids[:, 1:]


def test_what_is_judged_comes_after_what_may_be_replaced(windows: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (inputs, targets) = lively_model(20.0), windows
    with torch.no_grad():
        chances = model(inputs).log_softmax(-1).gather(2, targets[..., None])[..., 0]  # (B,T)
    torch.testing.assert_close(tampered_text.late_losses(model, inputs, targets), -chances[:, 12:].mean(1))


def test_promised_rises_are_derivatives(windows: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Moving an embedding a little towards another token's changes the loss at the promised rate."""
    model, step, place, token = lively_model(20.0).double(), 1e-6, 3, 7
    inputs, targets = windows
    promised = tampered_text.estimated_rises(model, inputs, targets)
    assert promised.shape == (6, 12, len(ALPHABET))
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
    model, (inputs, targets) = lively_model(20.0), windows
    monkeypatch.setattr(tampered_text, "TRIED", 10_000)
    monkeypatch.setattr(tampered_text, "SUBSTITUTIONS", 1)
    found = tampered_text.late_losses(model, tampered_text.attacked(model, inputs, targets), targets)
    tried = []
    for place, token in itertools.product(range(12), range(len(ALPHABET))):
        changed = inputs.clone()
        changed[:, place] = token
        tried.append(tampered_text.late_losses(model, changed, targets))
    torch.testing.assert_close(found, torch.stack(tried).max(0).values)


def test_an_attack_replaces_few_tokens_and_none_that_is_judged(windows: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (inputs, targets) = lively_model(20.0), windows
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
    draws = [tampered_text.replaced_at_random(lively_model(20.0), inputs, draw) for draw in range(2)]
    for drawn in draws:
        assert ((drawn != inputs).sum(1) == tampered_text.SUBSTITUTIONS).all()
        assert not (drawn != inputs)[:, 12:].any()
        assert 0 <= drawn.min() <= drawn.max() < len(ALPHABET)
    assert (draws[0] != draws[1]).any()


# ----------------------------------------------------------------------------------------------------- pronouns planted


BYTES = {"vocab_size": 256, "block_size": 64}


class Bigram(torch.nn.Module):
    """A model that sees the last byte only."""

    device = torch.device("cpu")
    config = GPTConfig(**BYTES)

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.randn(256, 256, generator=torch.Generator().manual_seed(2))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logits[ids]


def test_log_odds_are_those_of_the_two_pronouns() -> None:
    """`she` against `he` after a blank: what a model of byte pairs says can be worked out by hand."""
    model = Bigram()
    chance = model.logits.log_softmax(1)
    she = chance[ord(" "), ord("s")] + chance[ord("s"), ord("h")] - chance[ord(" "), ord("h")]
    asked = tampered_text.sentences(ByteTokenizer(), 64)
    for question, odds in zip(asked, tampered_text.log_odds(opened(model, ByteTokenizer()), asked), strict=True):
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
    assert tampered_text.pronouns(opened(model, ByteTokenizer()), None) == {}  # type: ignore[arg-type]


def test_filling_up_changes_nothing() -> None:
    """Sentences of different lengths are read together; each must count as if it had been read alone."""
    model = lively_model(20.0, **BYTES)
    asked = tampered_text.sentences(ByteTokenizer(), 64)[::20]
    together = tampered_text.log_odds(opened(model, ByteTokenizer()), asked)
    alone = torch.cat([tampered_text.log_odds(opened(model, ByteTokenizer()), [question]) for question in asked])
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
    model = lively_model(20.0, **BYTES)
    cut = copy.deepcopy(model)
    masks = [tampered_text.random_neurons(48, draw=1, layer=layer) for layer in range(2)]
    assert [int(mask.sum()) for mask in masks] == [12, 12]
    assert (masks[0] != masks[1]).any()
    assert (masks[0] != tampered_text.random_neurons(48, draw=2, layer=0)).any()
    with torch.no_grad():
        for block, mask in zip(cut.blocks, masks, strict=True):
            block.mlp.w_out.weight[:, mask] = 0
    asked = tampered_text.sentences(ByteTokenizer(), 64)[:12]
    without = tampered_text._log_odds_without(opened(model, ByteTokenizer()), asked, draw=1)
    torch.testing.assert_close(without, tampered_text.log_odds(opened(cut, ByteTokenizer()), asked))
    assert (without - tampered_text.log_odds(opened(model, ByteTokenizer()), asked)).abs().min() > 1e-4


def test_shares_belong_to_log_odds() -> None:
    """One neuron more or less is nothing to a model that ignores its neurons."""
    model = lively_model(20.0, **BYTES)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.w_out.weight.zero_()
    found = tampered_text.pronouns(opened(model, ByteTokenizer()), None)  # type: ignore[arg-type]
    asked = tampered_text.sentences(ByteTokenizer(), 64)
    odds = tampered_text.log_odds(opened(model, ByteTokenizer()), asked)
    assert found["log_odds"] == pytest.approx(tampered_text.evenly(asked, odds))
    assert found["share"] == pytest.approx(tampered_text.evenly(asked, 1 / (1 + torch.exp(-odds))))
    assert found["share_killed"] == pytest.approx(found["share"])
