"""Sampling: the cache changes nothing, samples do not influence each other, and draws follow the distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor

from minigpt.base import randomness
from minigpt.base.errors import UsageError
from minigpt.model import GPT, GPTConfig
from minigpt.sampling.decoding import Decoder
from minigpt.sampling.generate import UNIFORMS_AHEAD, _uniforms, check_sampling, generate
from minigpt.sampling.token_choice import TokenChoice

VOCAB = 23
CONTEXT = 8
CHOICES = {"temperature", "top_k", "top_p"}


def lively_model(**changes: object) -> GPT:
    sizes: dict[str, object] = {"vocab_size": VOCAB, "block_size": CONTEXT, "n_layer": 2, "n_head": 2, "n_embd": 16}
    model = GPT(GPTConfig(**(sizes | changes)), seed=0)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return model.eval()


def tokens_of(steps: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(steps), dim=1)  # (num_samples, max_new_tokens)


def text(model: GPT, prompt: list[int] | None = None, length: int = 40, **settings: object) -> Tensor:
    ids = torch.tensor([1, 2, 3] if prompt is None else prompt)
    choice = TokenChoice(**{key: settings.pop(key) for key in CHOICES & settings.keys()})  # type: ignore[arg-type]
    return tokens_of(generate(model, ids, choice, max_new_tokens=length, **settings))  # type: ignore[arg-type]


def draws(logits: Tensor, count: int, **settings: float) -> Tensor:
    """Draw `count` tokens from one row of logits."""
    uniforms = torch.rand(count, 1, generator=randomness.generator(0, "test"), dtype=torch.float64)
    return TokenChoice(**settings)(logits.expand(count, -1), uniforms)  # type: ignore[arg-type]


# The cache


@pytest.mark.parametrize("position", ["learned", "rope"])
@pytest.mark.parametrize("attention", ["fused", "written"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("prompt", [[5], [1, 2, 3], list(range(CONTEXT)), list(range(20))], ids=len)
def test_cached_text_equals_uncached_text(position: str, attention: str, temperature: float, prompt: list[int]):
    """Far past the context too, where the window slides and positions start again."""
    model = lively_model(position=position, attention=attention)
    for seed in (1, 2):
        settings = {"temperature": temperature, "seed": seed, "num_samples": 2}
        assert torch.equal(text(model, prompt, **settings), text(model, prompt, cached=False, **settings))


@pytest.mark.parametrize("context", [1, 2, 3])
def test_smallest_contexts_go_on_for_ever(context: int):
    """Half of a context of one token is still one token."""
    model = lively_model(block_size=context)
    assert torch.equal(text(model), text(model, cached=False))


def test_only_the_end_of_a_long_prompt_is_read():
    """What lies before the context cannot matter."""
    model = lively_model()
    long = [*range(20), 4, 5, 6, 7, 8, 9, 10, 11]
    assert torch.equal(text(model, long), text(model, long[-CONTEXT:]))


# Independence


def test_a_sample_does_not_depend_on_how_many_there_are():
    """Sample i of one is sample i of five, and samples differ from each other."""
    model = lively_model()
    five = text(model, num_samples=5)
    for count in (1, 2, 3):
        assert torch.equal(text(model, num_samples=count), five[:count])
    assert len({tuple(sample.tolist()) for sample in five}) == 5


def test_text_is_a_function_of_its_seed_and_grows_at_its_end():
    """The same seed gives the same text whatever was drawn before; more tokens continue it."""
    model = lively_model()
    first = text(model, seed=3)
    torch.manual_seed(99)
    assert torch.equal(text(model, seed=3), first)
    assert torch.equal(text(model, seed=3, length=60)[:, :40], first)
    assert not torch.equal(text(model, seed=4), first)


@pytest.mark.parametrize("training", [True, False])
def test_leaves_mode_and_random_state_alone(training: bool):
    """Sampling in the middle of training must not change it, even when the reader stops early."""
    model = lively_model(dropout=0.5).train(training)
    state = torch.get_rng_state()
    first = text(model)
    assert torch.equal(text(model), first)  # dropout does not act
    assert model.training is training
    stream = generate(model, torch.tensor([1]), TokenChoice(), max_new_tokens=10)
    next(stream)
    stream.close()
    assert all(module.training is training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


# Which token


def test_greedy_takes_the_most_probable_token():
    """Temperature 0 is argmax at every step, checked against the model itself."""
    model = lively_model()
    ids = [1, 2, 3]
    with torch.no_grad():
        for token in text(model, length=CONTEXT - 3, temperature=0.0)[0].tolist():
            assert token == model(torch.tensor([ids]))[0, -1].argmax().item()
            ids.append(token)


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}, {"top_k": 1, "top_p": 0.5}])
def test_the_narrowest_settings_are_greedy(settings: dict[str, float]):
    """One token left, or a temperature near 0, leaves nothing to chance."""
    model = lively_model()
    assert torch.equal(text(model, **settings), text(model, temperature=0.0))


def test_top_k_beyond_the_vocabulary_is_off():
    """Asking for more tokens than there are means all of them."""
    model = lively_model()
    assert torch.equal(text(model, top_k=VOCAB + 1000), text(model))
    assert torch.equal(text(model, top_k=VOCAB), text(model))


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.05, 1), (0.499, 1), (0.501, 2), (0.749, 2), (0.751, 3), (0.937, 3), (0.938, 4), (1.0, 4)],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: int):
    """Of probabilities 8/16, 4/16, 3/16, 1/16 the token that crosses the line stays, the next one goes."""
    logits = torch.tensor([4 / 16, 1 / 16, 8 / 16, 3 / 16]).log()
    assert set(draws(logits, 2000, top_p=top_p).tolist()) == set([2, 0, 3, 1][:kept])


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 9])
def test_top_k_keeps_the_k_most_probable(top_k: int):
    """No more and, given 2000 draws, no fewer."""
    logits = torch.tensor([4 / 16, 1 / 16, 8 / 16, 3 / 16]).log()
    assert set(draws(logits, 2000, top_k=top_k).tolist()) == set([2, 0, 3, 1][:top_k])


def test_equal_tokens_leave_exactly_k():
    """Ties must not let more than k tokens through."""
    assert len(set(draws(torch.zeros(10), 2000, top_k=3).tolist())) == 3


@pytest.mark.parametrize(
    ("settings", "power", "kept"),
    [
        ({}, 1, 8),
        ({"temperature": 0.5}, 2, 8),
        ({"temperature": 2.0}, 0.5, 8),
        ({"top_k": 3}, 1, 3),
        ({"top_p": 0.6}, 1, 0),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(settings: dict[str, float], power: float, kept: int):
    """Frequencies of 20,000 draws against probability^(1/temperature), renormalised over what is kept (chi-square)."""
    from scipy import stats

    logits = torch.tensor([0.1, 2.0, -1.0, 0.5, 1.9, -0.3, 1.0, 0.0], dtype=torch.float64)
    probabilities = logits.softmax(0)
    order = probabilities.argsort(descending=True)
    if not kept:
        kept = int((probabilities[order].cumsum(0) < settings["top_p"]).sum()) + 1
    allowed = order[:kept]
    expected = probabilities[allowed] ** power
    counts = torch.bincount(draws(logits.float(), 20_000, **settings), minlength=8)
    assert counts.sum() == counts[allowed].sum() == 20_000
    assert 1 < kept <= 8
    assert stats.chisquare(counts[allowed], (expected / expected.sum() * 20_000)).pvalue > 1e-4


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 7), (0.5 - 2**-54, 7), (0.5, 30), (1 - 2**-53, 30)])
def test_extreme_random_numbers_draw_possible_tokens(uniform: float, token: int):
    """A uniform number of 0, just below 1, or on the border of two tokens must not land on one of probability 0."""
    logits = torch.full((50,), -math.inf)
    logits[[7, 30]] = 0.0  # a half each; the lower index comes first
    for choice in (TokenChoice(), TokenChoice(top_k=49), TokenChoice(top_p=0.9999)):
        chosen = choice(logits[None], torch.tensor([[uniform]], dtype=torch.float64))
        assert chosen.item() == token


def test_random_numbers_drawn_ahead_are_those_drawn_singly():
    """How many are drawn at once must not show in the text; nor how many samples there are."""
    several = list(islice(_uniforms(5, 3, torch.device("cpu")), 2 * UNIFORMS_AHEAD + 1))
    for sample in range(3):
        random = randomness.generator(5, "sample", sample)
        singly = [torch.rand(1, generator=random, dtype=torch.float64).item() for _ in several]
        assert singly == [numbers[sample].item() for numbers in several]


@pytest.mark.parametrize("settings", [{"top_p": 1 - 1e-7}, {"top_k": VOCAB - 1}], ids=str)
def test_leaving_out_next_to_nothing_leaves_the_text(settings: dict[str, float]):
    """Draws are made in the order of the vocabulary, with or without a narrower choice."""
    model = lively_model()
    assert torch.equal(text(model, **settings), text(model))


# Settings


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": math.nan},
        {"max_new_tokens": -1},
        {"num_samples": 0},
    ],
    ids=str,
)
def test_refuses_settings_outside_their_range(bad: dict[str, float]):
    """One line that says what is allowed, before anything is computed."""
    names = {"max_new_tokens": "length"}
    check = check_sampling if bad.keys() & {"max_new_tokens", "num_samples"} else TokenChoice
    with pytest.raises(UsageError, match="got"):
        check(**(bad if check is TokenChoice else {"max_new_tokens": 1, "num_samples": 1} | bad))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="got"):
        text(lively_model(), **({"length": 1} | {names.get(key, key): value for key, value in bad.items()}))  # type: ignore[arg-type]


def test_refuses_an_empty_prompt():
    """A model predicts from something."""
    with pytest.raises(UsageError, match="no token"):
        next(generate(lively_model(), torch.tensor([], dtype=torch.int64), TokenChoice(), max_new_tokens=1))


def test_a_decoder_is_used_again_for_what_it_was_built_for_only():
    """The same text as with a new one; in another model's place or with another choice it would answer for itself."""
    model, prompt, choice = lively_model(), torch.tensor([1, 2]), TokenChoice(0.8)
    decoder = Decoder(model, 2, choice)

    def continued(model: GPT, choice: TokenChoice, samples: int, decoder: Decoder | None) -> Tensor:
        return tokens_of(
            generate(model, prompt, choice, max_new_tokens=30, num_samples=samples, decoder=decoder),
        )

    expected = continued(model, choice, 2, None)
    assert all(torch.equal(continued(model, TokenChoice(0.8), 2, decoder), expected) for _ in range(2))
    for other in ((lively_model(), choice, 2), (model, TokenChoice(0.7), 2), (model, choice, 3)):
        with pytest.raises(UsageError, match="the decoder was built for another"):
            continued(*other, decoder)


def test_no_new_token_is_a_valid_wish():
    """Zero tokens give an empty text, not an error."""
    assert list(generate(lively_model(), torch.tensor([1]), TokenChoice(), max_new_tokens=0)) == []
