"""The claims on text: rows that are whole, arms that differ, and measurements with known answers."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from minigpt.claims.arms import Planner
from minigpt.claims.claim import MOST_QUOTED_WORDS, Claim
from minigpt.claims.evidence import Evidence
from minigpt.claims.measurement import MEASUREMENTS
from minigpt.claims.measurements import domains, ngrams, swaps
from minigpt.claims.options import LedgerOptions, Scale
from minigpt.claims.rows import language, unmeasured
from minigpt.model import GPT, GPTConfig
from minigpt.text.corpora import open_corpus
from minigpt.text.store import TokenStore, prepare
from minigpt.training.config import RunConfig
from minigpt.training.evaluation import evaluate

ROWS = {claim.id: claim for claim in (*language.CLAIMS, *unmeasured.CLAIMS)}
TINY = GPTConfig(vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=12)


def evidence(losses: Mapping[str, float], figures: Mapping[tuple[str, str], Mapping[str, float]] = {}) -> Evidence:
    """Made-up results of one seed: losses by arm, infinite if it diverged, and figures by (arm, measurement)."""
    results = {
        (arm, 0): {"status": "finished" if math.isfinite(loss) else "diverged", "val": {"loss": loss}}
        for arm, loss in losses.items()
    }
    return Evidence(results, {(arm, 0, name): found for (arm, name), found in figures.items()})


def effects(claim: Claim, found: Evidence) -> list[float]:
    return [condition.effect(found, 0) for condition in claim.conditions]


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


# ---------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("claim", ROWS.values(), ids=ROWS)
def test_every_row_is_either_measured_or_says_why_not(claim: Claim) -> None:
    """A row without conditions and without an obstacle would look as if somebody had forgotten to run it."""
    assert claim.quote
    assert len(claim.quote.split()) <= MOST_QUOTED_WORDS
    assert bool(claim.conditions) is not bool(claim.obstacle)
    assert claim.tag != "not measurable" or not claim.conditions
    assert bool(claim.arms) is bool(claim.conditions)


@pytest.mark.parametrize("claim", language.CLAIMS, ids=[claim.id for claim in language.CLAIMS])
def test_whatever_a_row_names_exists(claim: Claim) -> None:
    """A misspelt arm or measurement would be noticed only after hours of training."""
    assert set(claim.measurements) <= set(claim.arms)
    assert {name for names in claim.measurements.values() for name in names} <= set(MEASUREMENTS)
    assert {arm.start for arm in claim.arms.values()} <= {"", *claim.arms}
    drawn = {arm for series in claim.series for line in series.lines.values() for arm, _ in line}
    assert drawn | {arm for table in claim.tables for arm in table.arms} <= set(claim.arms)


@pytest.fixture(scope="module")
def configurations() -> dict[tuple[str, str], RunConfig]:
    """How every arm is trained at a tiny scale."""
    scale = Scale({"n_layer": 1, "n_embd": 24, "steps": 8, "device": "cpu"}, LedgerOptions())
    planner = Planner(scale, threads=1)
    return {
        (claim.id, arm): planner.configuration(claim, arm, seed=1) for claim in language.CLAIMS for arm in claim.arms
    }


@pytest.mark.parametrize("claim", language.CLAIMS, ids=[claim.id for claim in language.CLAIMS])
def test_arms_of_a_claim_are_different_trainings(
    claim: Claim, configurations: dict[tuple[str, str], RunConfig]
) -> None:
    """Two arms that are one would show no effect of anything."""
    trainings = [(configurations[claim.id, name], arm.start) for name, arm in claim.arms.items()]
    assert all(one != other for one, other in itertools.combinations(trainings, 2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("C29", "prose"), ("C35", "first on prose")),
        (("C31", "all tokens"), ("C41", "ReLU")),
        (("C31", "all tokens"), ("C32", "ReLU")),
        (("C34", "no noise"), ("C39", "prose, relu")),
        (("C37", "ReLU"), ("C38", "90 : 10")),
        (("C37", "GELU"), ("C39", "professions, gelu")),
    ],
)
def test_what_claims_share_is_one_training(
    one: tuple[str, str], other: tuple[str, str], configurations: dict[tuple[str, str], RunConfig]
) -> None:
    """Computing time is limited; a setting written in two ways would be trained twice."""
    assert configurations[one] == configurations[other]


def test_transfer_and_scratch_differ_in_their_start_alone(configurations: dict[tuple[str, str], RunConfig]) -> None:
    assert configurations["C35", "then code"] == configurations["C35", "code from scratch"]
    assert ROWS["C35"].arms["then code"].start == "first on prose"
    assert configurations["C35", "first on prose"].tokenizer == configurations["C35", "then code"].tokenizer == "byte"


# ------------------------------------------------------------------------------------------------------------- effects


def test_the_cheapest_strange_text_decides() -> None:
    """The mean of six pairs would hide that two kinds of text are alike."""
    table = {
        "prose": {"stdlib": 1.0, "stdlib-code": 2.5, "grammar:1": 4.0},
        "code": {"stdlib": 1.2, "stdlib-code": 1.5, "grammar:1": 3.0},
        "toy language": {"stdlib": 9.0, "stdlib-code": 9.0, "grammar:1": 0.5},
    }
    found = evidence(dict.fromkeys(table, 1.0), {(arm, "domain_losses"): row for arm, row in table.items()})
    assert effects(ROWS["C29"], found) == pytest.approx([0.2])


def test_domains_are_those_that_are_measured() -> None:
    assert set(language.DOMAINS.values()) == set(domains.DOMAINS)


@pytest.mark.parametrize("steepness", [0.8, 1.0, 1.3])
def test_amplification_is_the_slope_of_log_odds_beyond_one(steepness: float) -> None:
    figures = {
        (arm, "pronouns"): {"log_odds": 0.1 + steepness * math.log(percent / (100 - percent))}
        for arm, percent in language.RATIOS.items()
    }
    found = evidence(dict.fromkeys(language.RATIOS, 1.0), figures)
    assert effects(ROWS["C38"], found) == pytest.approx([steepness - 1])


def test_bias_counts_towards_the_usual_pronoun() -> None:
    figures = {
        ("ReLU", "pronouns"): {"share": 0.90, "share_killed": 0.80},
        ("GELU", "pronouns"): {"share": 0.85, "share_killed": 0.99},
    }
    assert effects(ROWS["C37"], evidence({"ReLU": 1, "GELU": 1}, figures)) == pytest.approx([0.05, -0.10])


def test_attack_counts_beyond_chance() -> None:
    figures = {
        ("ReLU", "swaps"): {"greedy": 0.9, "random": 0.2},
        ("GELU", "swaps"): {"greedy": 0.6, "random": 0.1},
    }
    found = evidence({"ReLU": 1, "GELU": 1}, figures)
    assert effects(ROWS["C32"], found) == pytest.approx([0.7])
    difference = ROWS["C32"].tables[0].columns["the same, less GELU's"]
    assert difference(found, "ReLU", 0) == pytest.approx(0.2)


def test_counting_is_compared_with_the_loss_itself() -> None:
    figures = {("ReLU", "ngrams"): {"bigram": 2.5, "fivegram": 1.4}}
    found = evidence({"ReLU": 1.5, "identity": 1.6}, figures)
    assert effects(ROWS["C41"], found) == pytest.approx([1.0, -0.1, 0.1])


def _task_losses(rows: Mapping[str, tuple[float, ...]]) -> Evidence:
    specs = ("relu", *language.RIVALS)
    return evidence(
        {f"{task}, {spec}": loss for task, row in rows.items() for spec, loss in zip(specs, row, strict=True)}
    )


def test_relu_is_compared_with_the_best_rival_of_each_task() -> None:
    found = _task_losses(
        {
            "prose": (2, 1.9, 3, 3),
            "toy language": (1, 2, 3, 4),
            "code": (2, 5, 5, math.inf),
            "professions": (2, 2, 2, 1),
        }
    )
    assert effects(ROWS["C39"], found) == pytest.approx([0.1, -1, -3, 1])


def test_agreement_of_tasks_is_kendalls_w() -> None:
    """W is Friedman's statistic over its largest value; scipy knows the latter."""
    rows = {"prose": (1, 2, 3, 4), "toy language": (1, 3, 2, 4), "code": (2, 1, 3, 4), "professions": (4, 1, 2, 3)}
    agreement = ROWS["C39"].tables[1].columns["Kendall's W of all tasks"]
    friedman = stats.friedmanchisquare(*np.array(list(rows.values())).T).statistic
    assert agreement(_task_losses(rows), "prose, relu", 0) == pytest.approx(friedman / (4 * 3))
    assert agreement(_task_losses(dict.fromkeys(rows, (4, 1, 2, 3))), "prose, relu", 0) == pytest.approx(1)


# ------------------------------------------------------------------------------------------------------------- n-grams

LETTERS = 3
COUNTED = np.random.default_rng(7).integers(0, LETTERS, 40)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_ngram_probabilities_sum_to_one(order: int) -> None:
    """After every context, seen or not; otherwise counting could look better than any model."""
    for context in itertools.product(range(LETTERS), repeat=order - 1):
        chances = [
            ngrams.probabilities(COUNTED, [*context, letter], LETTERS, order)[-1][-1] for letter in range(LETTERS)
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
    for order, found in enumerate(ngrams.probabilities(counted, predicted, vocabulary, 5), start=1):
        for place, chance in enumerate(found, start=len(counted)):
            context = tuple(text[place - order + 1 : place])
            assert chance == pytest.approx(_witten_bell(counted, context, text[place], vocabulary))


def test_a_text_that_repeats_itself_is_predicted_by_its_past(tmp_path: Path) -> None:
    """`abcabc…`: hardly any loss after the first token, and no better than 1/3 without a context."""
    (tmp_path / "text.txt").write_text("abc" * 2000, encoding="utf-8")
    store = prepare(open_corpus(str(tmp_path / "text.txt")), "char", tmp_path / "data", 10)
    found = ngrams.ngrams(opened(GPT(TINY), store, RunConfig()), store)
    assert 0 < found["fivegram"] < found["bigram"] < 0.01
    unigram = ngrams.probabilities(store.tokens("train"), store.tokens("val"), 3, 1)[0]
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
    torch.testing.assert_close(swaps.late_losses(model, inputs, targets), -chances[:, 12:].mean(1))


def test_promised_rises_are_derivatives(windows: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Moving an embedding a little towards another token's changes the loss at the promised rate."""
    model, step, place, token = random_model().double(), 1e-6, 3, 7
    inputs, targets = windows
    promised = swaps.estimated_rises(model, inputs, targets)
    assert promised.shape == (6, 12, TINY.vocab_size)
    before = swaps.late_losses(model, inputs, targets)

    def moved(module: Any, ids: Any, output: torch.Tensor) -> torch.Tensor:
        towards = model.wte.weight[token] - output[:, place]
        return output.index_add(1, torch.tensor([place]), step * towards[:, None])

    handle = model.wte.register_forward_hook(moved)
    rate = (swaps.late_losses(model, inputs, targets) - before) / step
    handle.remove()
    other = inputs[:, place] != token
    torch.testing.assert_close(promised[other, place, token].float(), rate[other].float(), rtol=1e-3, atol=1e-6)
    assert (promised[~other, place, token] == -torch.inf).all()


def test_one_substitution_is_the_worst_there_is(
    windows: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all candidates tried, one greedy step finds what trying every place and token finds."""
    model, (inputs, targets) = random_model(), windows
    monkeypatch.setattr(swaps, "TRIED", 10_000)
    monkeypatch.setattr(swaps, "SUBSTITUTIONS", 1)
    found = swaps.late_losses(model, swaps.attacked(model, inputs, targets), targets)
    tried = []
    for place, token in itertools.product(range(12), range(TINY.vocab_size)):
        changed = inputs.clone()
        changed[:, place] = token
        tried.append(swaps.late_losses(model, changed, targets))
    torch.testing.assert_close(found, torch.stack(tried).max(0).values)


def test_an_attack_replaces_few_tokens_and_none_that_is_judged(windows: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (inputs, targets) = random_model(), windows
    attacked = swaps.attacked(model, inputs, targets)
    replaced = attacked != inputs
    assert replaced.any()
    assert (replaced.sum(1) <= swaps.SUBSTITUTIONS).all()
    assert not replaced[:, 12:].any()
    assert (swaps.late_losses(model, attacked, targets) >= swaps.late_losses(model, inputs, targets)).all()


def test_chance_replaces_as_many_tokens_as_an_attack_may(windows: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, _ = windows
    draws = [swaps.replaced_at_random(random_model(), inputs, draw) for draw in range(2)]
    for drawn in draws:
        assert ((drawn != inputs).sum(1) == swaps.SUBSTITUTIONS).all()
        assert not (drawn != inputs)[:, 12:].any()
        assert 0 <= drawn.min() <= drawn.max() < TINY.vocab_size
    assert (draws[0] != draws[1]).any()


# ------------------------------------------------------------------------------------------------- other kinds of text


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Three small texts that take the place of the domains."""
    paths = tuple(str(tmp_path / f"{name}.txt") for name in ("one", "two", "three"))
    for number, path in enumerate(paths):
        Path(path).write_text(f"{number} more words of kind {number}\n" * 400, encoding="utf-8")
    monkeypatch.setattr(domains, "DOMAINS", paths)
    return paths


def test_each_domain_is_predicted_as_an_evaluation_would(texts: tuple[str, ...], tmp_path: Path) -> None:
    config = RunConfig(
        tokenizer="byte", corpus=texts[0], data_dir=str(tmp_path / "data"), block_size=16, dtype="float32"
    )
    model = random_model(GPTConfig(vocab_size=256, block_size=16, n_layer=1, n_head=2, n_embd=12))
    stores = [prepare(open_corpus(text), "byte", tmp_path / "data", 17) for text in texts]
    found = domains.domain_losses(opened(model, stores[0], config), stores[0])
    for text, store in zip(texts, stores, strict=True):
        expected = evaluate(
            model,
            store.tokens("val"),
            store.tokenizer.byte_lengths(),
            split="val",
            dtype="float32",
            limit=domains.TOKENS,
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
    found = domains.domain_losses(opened(model, stores[0], config), stores[0])
    assert [found[text] is None for text in texts] == [False, True, True]
